"""The apply module: what a committed entry does to keys, leases, alarms and members.

A deterministic function of the log, on every member alike: no clock, no chance, no local size or
setting decides anything here. A request passes `checks` at the door, becomes an entry, and is
executed by `Applier`, which answers with a response (`responses`) or returns the refusal
(`errors`). What it changes goes through one backend, in one batch with the entry's index.
"""
