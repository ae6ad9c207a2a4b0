"""RaftLog: a member's whole log, durable part and unstable tail.

first          applied   applying   committed   last
  ├───────────────┼──────────┼──────────┼────────┤
    applied, kept   handed out  next out   may still be replaced
"""

from __future__ import annotations

from collections import deque

from raft.core.errors import Compacted, Unavailable
from raft.core.storage import Storage, entries_bytes, limit_bytes
from raft.core.types import Entry, HardState, Snapshot
from raft.core.unstable import Unstable


class RaftLog:
    """Always applied <= applying <= committed <= last, and applying only where it is durable.

    committed  known to be on a quorum; ascending
    applying   handed out to be applied; ascending
    applied    reported as applied; ascending
    """

    def __init__(
        self, storage: Storage, hard_state: HardState, applied: int, max_apply: int
    ) -> None:
        first, last = storage.first_index(), storage.last_index()
        # What the state machine holds durably was committed, even if the log's own word of it,
        # which needs no sync, was lost with the power.
        self.committed = max(hard_state.commit, applied, first - 1)
        assert self.committed <= last, f"committed {self.committed} is past the last index {last}"
        self.applied = self.applying = max(applied, first - 1)
        self.storage = storage
        self.unstable = Unstable(last + 1)
        self._max_apply_bytes = max_apply
        self._batches: deque[tuple[int, int]] = deque()  # handed out: (last index, bytes)
        self._applying_bytes = 0

    # --- reading

    def first_index(self) -> int:
        if self.unstable.snapshot is not None:
            return self.unstable.snapshot.index + 1
        return self.storage.first_index()

    def last_index(self) -> int:
        return self.unstable.offset + len(self.unstable.entries) - 1

    def stable_index(self) -> int:
        """The last index that is durable here."""
        return self.unstable.offset - 1

    def last_term(self) -> int:
        return self.term(self.last_index())

    def term(self, index: int) -> int:
        """Of `first_index() - 1 <= index <= last_index()`. Compacted, Unavailable."""
        unstable = self.unstable
        position = index - unstable.offset
        if position >= 0:
            if position >= len(unstable.entries):
                raise Unavailable(f"term of {index}, last index is {self.last_index()}")
            return unstable.entries[position].term
        snapshot = unstable.snapshot
        if snapshot is not None:
            if index == snapshot.index:
                return snapshot.term
            raise Compacted(f"term of {index}, a snapshot of {snapshot.index} is on its way")
        return self.storage.term(index)

    def match_term(self, index: int, term: int) -> bool:
        """Is there an entry at `index`, and of `term`?"""
        if index > self.last_index():
            return False
        try:
            return self.term(index) == term
        except Compacted:
            return False

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries of `[lo, hi)`, cut after `max_bytes` but never empty. Compacted, Unavailable."""
        if lo >= hi:
            return []
        if lo < self.first_index():
            raise Compacted(f"entries from {lo}, first index is {self.first_index()}")
        if hi > self.last_index() + 1:
            raise Unavailable(f"entries up to {hi}, last index is {self.last_index()}")
        offset = self.unstable.offset
        if lo >= offset:
            return limit_bytes(self.unstable.entries[lo - offset : hi - offset], max_bytes)
        stable = self.storage.entries(lo, min(hi, offset), max_bytes)
        if hi <= offset or lo + len(stable) < offset:
            return stable
        return limit_bytes(stable + self.unstable.entries[: hi - offset], max_bytes)

    def snapshot(self) -> Snapshot:
        """The newest that reaches this log. SnapshotTemporarilyUnavailable."""
        return self.unstable.snapshot or self.storage.snapshot()

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Is a log that ends with (`index`, `term`) at least as complete as this one? (§5.4.1)"""
        own = self.last_term()
        return term > own or (term == own and index >= self.last_index())

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The greatest (index, its term) at or below `index` whose term is at most `term`.

        Terms ascend along a log, so it is a binary search. Where the answer was compacted away, the
        index before the first known one, with term 0 for unknown.
        """
        low = self.first_index() - 1
        high = min(index, self.last_index())
        if high < low:
            return high, 0
        if self.term(low) > term:
            return low - 1, 0
        while low < high:
            middle = (low + high + 1) // 2
            if self.term(middle) <= term:
                low = middle
            else:
                high = middle - 1
        return low, self.term(low)

    # --- writing

    def append(self, entries: list[Entry]) -> None:
        """Contiguous; replaces everything from the first of them, which must not be committed."""
        if not entries:
            return
        first = entries[0].index
        assert first > self.committed, f"append at {first}, committed is {self.committed}"
        self.unstable.append(entries)

    def maybe_append(
        self, previous: int, previous_term: int, entries: list[Entry], commit: int
    ) -> int | None:
        """A leader's append: the last index that now matches it, or None where the logs differ."""
        if not self.match_term(previous, previous_term):
            return None
        last_new = previous + len(entries)
        if previous == self.last_index():
            self.append(entries)
        else:
            known = self._count_known(entries)
            # Only a conflict truncates: an old append must not cut off what a later one brought.
            self.append(entries[known:])
        self.commit_to(min(commit, last_new))
        return last_new

    def _count_known(self, entries: list[Entry]) -> int:
        """How many of the first `entries` stand in this log already."""
        for count, entry in enumerate(entries):
            if not self.match_term(entry.index, entry.term):
                return count
        return len(entries)

    def restore(self, snapshot: Snapshot) -> None:
        """Everything is replaced by `snapshot`, which is newer than what is committed here."""
        assert snapshot.index > self.committed, f"{snapshot.index} <= {self.committed}"
        self.committed = self.applying = snapshot.index
        self.unstable.restore(snapshot)

    # --- commit and apply

    def commit_to(self, index: int) -> None:
        """Never moves back. Past the last index it would mean that this member lost entries."""
        if index <= self.committed:
            return
        last = self.last_index()
        assert index <= last, (
            f"commit {index} is past the last index {last}: "
            "entries that this member had acknowledged are gone from its log"
        )
        self.committed = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Only an entry of the leader's own term is committed by counting (§5.4.2, figure 8)."""
        if index <= self.committed or self.term(index) != term:
            return False
        self.commit_to(index)
        return True

    def has_next_committed(self) -> bool:
        return (
            self.applying < min(self.committed, self.stable_index())
            and self.unstable.snapshot is None
            and self._applying_bytes < self._max_apply_bytes
        )

    def take_committed(self) -> list[Entry]:
        """The next entries to apply: committed, durable here, in bounds; may be empty."""
        if not self.has_next_committed():
            return []
        hi = min(self.committed, self.stable_index()) + 1
        room = self._max_apply_bytes - self._applying_bytes
        entries = self.entries(self.applying + 1, hi, room)
        size = entries_bytes(entries)
        self.applying = entries[-1].index
        self._applying_bytes += size
        self._batches.append((self.applying, size))
        return entries

    def applied_to(self, index: int) -> None:
        if index <= self.applied:
            return
        assert index <= self.applying, f"applied {index}, handed out up to {self.applying}"
        self.applied = index
        batches = self._batches
        while batches and batches[0][0] <= index:
            self._applying_bytes -= batches.popleft()[1]

    # --- durability

    def stable_to(self, index: int, term: int) -> None:
        self.unstable.stable_to(index, term)

    def stable_snapshot(self, index: int) -> None:
        self.unstable.stable_snapshot(index)

    def check_invariants(self) -> None:
        assert self.applied <= self.applying <= self.committed <= self.last_index()
        self.unstable.check_invariants()
        assert self.applying <= self.stable_index() or self.unstable.snapshot is not None
