"""The replicated log, usable without `mvcc` and `node`.

`raft.core` is a deterministic state machine: messages and ticks go in, a `Ready` comes out; it has
no clock, disk, socket, thread or chance of its own. `raft.driver` gives it those.

What a caller owes a Ready
--------------------------
A `RawNode` hands out each fact once. Readies are taken whenever `has_ready()`; several may be under
way at a time (the log is written while the next one is collected), but their order is kept:

1. `ready.messages` go to the transport at once. Only a leader's appends and heartbeats, and
   messages that promise nothing about this member's disk (heartbeat responses, read index,
   forwarded proposals) are ever in it: a leader may send while its own disk still syncs (thesis
   10.2.1).
2. `ready.snapshot`, then `ready.entries` and `ready.hard_state` are written to the WAL in this
   order, in one batch, and synced when `ready.must_sync` (entries, a snapshot, or a changed term or
   vote). A changed commit alone need not be synced, but the next synced batch must carry it: with
   an entry on disk, a restarted member knows of every configuration change committed before it.
3. After that batch *and every earlier one* is durable: `ready.messages_after_append` go out (votes,
   vote requests, append responses), then `raw_node.appended(ready.mark)` tells the core. A mark of
   an older term does not make entries stable that were overwritten meanwhile.
4. `ready.committed` (durable here, committed by a quorum, ascending, without gaps, each once) are
   applied in order, off the same turn or later; then `raw_node.applied(index)`. Configuration
   changes among them go through `raw_node.apply_conf_change()` when they are applied, before later
   entries. A Ready with `snapshot` has no `committed`; the snapshot is applied before anything
   after it. `applied(snapshot.index)` is owed for it, too: then its configuration takes effect.
   Entries from before it that still wait may be applied or skipped.
5. `ready.read_states` are answered when `index` is applied. `ready.soft_state` is information.

Where this leaves the thesis: pre-vote and check-quorum are always on, configuration changes take
effect when applied (not when appended), reads confirm positions instead of requests (a leader
numbers its pending reads and puts the latest number into its heartbeats), a removed or demoted
leader hands over once a quorum of the others knows its log committed (they could not elect without
it sooner), and who refuses a vote tells what it knows committed.
"""
