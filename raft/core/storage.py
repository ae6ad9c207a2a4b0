"""Storage: the log that the core reads back; MemoryStorage keeps it in a list.

list      [ dead │ first ............ last ]
index       start  first              last      dead entries go when they are the greater half
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raft.core.errors import Compacted, SnapshotTemporarilyUnavailable, Unavailable
from raft.core.types import ConfState, Entry, HardState, Snapshot

ENTRY_OVERHEAD = 16
"""Bytes that an entry costs beside its data, on the wire and on disk, roughly."""


def entries_bytes(entries: Sequence[Entry]) -> int:
    """What `entries` cost on the wire: their data and an overhead for each."""
    return sum([len(entry.data) for entry in entries]) + ENTRY_OVERHEAD * len(entries)


def payload_bytes(entries: Sequence[Entry]) -> int:
    """The data alone, so that empty entries cost nothing."""
    return sum([len(entry.data) for entry in entries])


def limit_bytes(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix that costs at most `max_bytes`, but never less than one entry."""
    if len(entries) < 2 or entries_bytes(entries) <= max_bytes:
        return entries
    total = 0
    for count, entry in enumerate(entries):
        total += len(entry.data) + ENTRY_OVERHEAD
        if total > max_bytes and count:
            return entries[:count]
    return entries


class Storage(Protocol):
    """The log as far as it left the core. `first_index() - 1` still has a term, but no entry."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was saved before the start; the configuration is that of the newest snapshot."""

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of `[lo, hi)`, cut after `max_bytes` but never empty. Compacted, Unavailable."""

    def term(self, index: int) -> int:
        """Of `first_index() - 1 <= index <= last_index()`. Compacted, Unavailable."""

    def first_index(self) -> int: ...

    def last_index(self) -> int: ...

    def snapshot(self) -> Snapshot:
        """One that reaches the log kept here. SnapshotTemporarilyUnavailable."""


class MemoryStorage:
    """A log in memory: what a Ready hands out is appended when it is taken."""

    def __init__(self) -> None:
        self._hard_state = HardState()
        self._snapshot = Snapshot()
        self._entries: list[Entry] = []
        self._start = 1  # index of _entries[0]
        self._first = 1  # first index kept; _start <= _first <= last + 1
        self._previous_term = 0  # term of the entry before _first
        self._bytes = 0

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._snapshot.conf_state

    def first_index(self) -> int:
        return self._first

    def last_index(self) -> int:
        return self._start + len(self._entries) - 1

    @property
    def size_bytes(self) -> int:
        """Of the entries kept, each with its overhead."""
        return self._bytes

    def term(self, index: int) -> int:
        if index < self._first - 1:
            raise Compacted(f"term of {index}, first index is {self._first}")
        if index == self._first - 1:
            return self._previous_term
        if index > self.last_index():
            raise Unavailable(f"term of {index}, last index is {self.last_index()}")
        return self._entries[index - self._start].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        if lo < self._first:
            raise Compacted(f"entries from {lo}, first index is {self._first}")
        if hi > self.last_index() + 1:
            raise Unavailable(f"entries up to {hi}, last index is {self.last_index()}")
        return limit_bytes(self._entries[lo - self._start : hi - self._start], max_bytes)

    def snapshot(self) -> Snapshot:
        if self._snapshot.index == 0 or self._snapshot.index < self._first - 1:
            raise SnapshotTemporarilyUnavailable(
                f"newest snapshot {self._snapshot.index}, first index is {self._first}"
            )
        return self._snapshot

    def set_hard_state(self, hard_state: HardState) -> None:
        self._hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Contiguous entries that begin at or before the end; they replace what stood there."""
        if entries and entries[0].index < self._first:
            entries = entries[self._first - entries[0].index :]
        if not entries:
            return
        cut = entries[0].index - self._start
        assert cut <= len(self._entries), f"hole before {entries[0].index}"
        if cut < len(self._entries):
            self._bytes -= entries_bytes(self._entries[cut:])
            del self._entries[cut:]
        self._entries.extend(entries)
        self._bytes += entries_bytes(entries)

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """The log is replaced by `snapshot`; one with index 0 only brings a first configuration."""
        assert snapshot.index >= self._snapshot.index, f"snapshot {snapshot.index} is too old"
        self._snapshot = snapshot
        self._entries = []
        self._start = self._first = snapshot.index + 1
        self._previous_term = snapshot.term
        self._bytes = 0

    def create_snapshot(self, index: int, conf_state: ConfState) -> Snapshot:
        """Names the state at `index`, applied here with `conf_state`; keeps the log as it is."""
        if index > self._snapshot.index or conf_state != self._snapshot.conf_state:
            assert index >= self._snapshot.index, f"snapshot {index} is older than the newest"
            self._snapshot = Snapshot(index, self.term(index), conf_state)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drops entries up to and with `index`, which stays the log's previous entry."""
        if index < self._first:
            raise Compacted(f"compact {index}, first index is {self._first}")
        self._previous_term = self.term(index)
        dropped = self._entries[self._first - self._start : index + 1 - self._start]
        self._bytes -= entries_bytes(dropped)
        self._first = index + 1
        dead = self._first - self._start
        if dead * 2 >= len(self._entries):
            del self._entries[:dead]
            self._start = self._first
