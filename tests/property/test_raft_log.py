"""RaftLog over Unstable and MemoryStorage against one list that never forgets."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raft.core.errors import Compacted, Unavailable
from raft.core.log import RaftLog
from raft.core.storage import MemoryStorage, entries_bytes, payload_bytes
from raft.core.types import ConfState, Entry, HardState, Snapshot

NO_LIMIT = 1 << 30


class LogMachine(RuleBasedStateMachine):
    """The twin: `entries[i]` is the entry at index i + 1; `writes` the last index of each write."""

    @initialize()
    def begin(self) -> None:
        self.storage = MemoryStorage()
        self.log = RaftLog(self.storage, HardState(), 0, NO_LIMIT)
        self.entries: list[Entry] = []
        self.writes: list[tuple[int, int]] = []
        self.stable = 0
        self.handed: list[Entry] = []
        self.base = 0
        self.term = 1

    @rule(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        first = len(self.entries) + 1
        new = [Entry(self.term, first + at, 0, b"x" * size) for at, size in enumerate(sizes)]
        self.log.append(list(new))
        self.entries += new

    @rule(back=st.integers(0, 5), overlap=st.integers(0, 3), count=st.integers(0, 3))
    def maybe_append(self, back: int, overlap: int, count: int) -> None:
        """A new leader's append: some entries known here, then others of a higher term."""
        keep = max(len(self.entries) - back, self.log.committed)
        previous = max(keep - overlap, self.log.committed)
        self.term += 1
        new = [Entry(self.term, keep + 1 + at) for at in range(count)]
        sent = self.entries[previous:keep] + new
        term = self.entries[previous - 1].term if previous else 0
        assert self.log.maybe_append(previous, term, sent, 0) == previous + len(sent)
        if new:
            self.entries[keep:] = new
            self.stable = min(self.stable, keep)
        # Without a conflict nothing is cut off.

    @rule()
    def mismatch(self) -> None:
        last = len(self.entries)
        assert self.log.maybe_append(last, self.term + 1, [], 0) is None
        assert self.log.maybe_append(last + 1, self.term, [], 0) is None

    @rule()
    def take(self) -> None:
        _, taken = self.log.unstable.take()
        self.storage.append(taken)
        if self.entries:
            self.writes.append((len(self.entries), self.entries[-1].term))

    @precondition(lambda self: self.writes)
    @rule()
    def write(self) -> None:
        """Only a write whose last entry still stands makes anything durable."""
        index, term = self.writes.pop(0)
        self.log.stable_to(index, term)
        if index <= len(self.entries) and self.entries[index - 1].term == term:
            self.stable = max(self.stable, index)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.log.commit_to(data.draw(st.integers(0, len(self.entries))))

    @rule()
    def apply(self) -> None:
        taken = self.log.take_committed()
        self.handed += taken
        if taken:
            self.log.applied_to(taken[-1].index)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        if self.log.applied > self.base:
            self.base = data.draw(st.integers(self.base + 1, self.log.applied))
            self.storage.compact(self.base)

    @invariant()
    def same_as_the_list(self) -> None:
        log = self.log
        log.check_invariants()
        assert log.first_index() == self.base + 1
        assert log.last_index() == len(self.entries)
        assert log.stable_index() == self.stable
        assert (
            log.entries(self.base + 1, len(self.entries) + 1, NO_LIMIT)
            == (self.entries[self.base :])
        )
        for index in range(max(self.base, 1), len(self.entries) + 1):
            assert log.term(index) == self.entries[index - 1].term
        assert self.handed == self.entries[: log.applied]
        assert log.applied <= self.stable

    @invariant()
    def refuses_what_is_not_there(self) -> None:
        for index, error in ((self.base - 1, Compacted), (len(self.entries) + 1, Unavailable)):
            try:
                self.log.term(index)
            except error:
                continue
            raise AssertionError(f"a term for {index}")

    @rule(data=st.data(), term=st.integers(0, 9))
    def conflict_hint(self, data: st.DataObject, term: int) -> None:
        """Counted down one by one, as the paper does it."""
        index = data.draw(st.integers(self.base, len(self.entries)))
        expected = index
        while expected > self.base and self.entries[expected - 1].term > term:
            expected -= 1
        known = self.entries[expected - 1].term if expected else 0
        if known > term:
            assert self.log.find_conflict_by_term(index, term) == (self.base - 1, 0)
        else:
            assert self.log.find_conflict_by_term(index, term) == (expected, known)

    @rule(data=st.data(), limit=st.integers(0, 120))
    def limited(self, data: st.DataObject, limit: int) -> None:
        """The longest piece within the limit, at least one entry."""
        if len(self.entries) == self.base:
            return
        lo = data.draw(st.integers(self.base + 1, len(self.entries)))
        piece = self.log.entries(lo, len(self.entries) + 1, limit)
        assert piece == self.entries[lo - 1 : lo - 1 + len(piece)]
        assert len(piece) == 1 or entries_bytes(piece) <= limit
        longer = self.entries[lo - 1 : lo + len(piece)]
        assert len(longer) == len(piece) or entries_bytes(longer) > limit


LogMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_log = LogMachine.TestCase


class StorageMachine(RuleBasedStateMachine):
    """MemoryStorage alone, with its snapshots and its count of bytes."""

    @initialize()
    def begin(self) -> None:
        self.storage = MemoryStorage()
        self.base = (0, 0)
        self.entries: list[Entry] = []

    @rule(back=st.integers(0, 4), sizes=st.lists(st.integers(0, 9), max_size=5), term=st.just(1))
    def append(self, back: int, sizes: list[int], term: int) -> None:
        keep = max(len(self.entries) - back, 0)
        first = self.base[0] + keep + 1
        new = [Entry(term, first + at, 0, b"y" * size) for at, size in enumerate(sizes)]
        self.storage.append(new)
        if new:
            self.entries[keep:] = new

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.entries)))
        self.base = (self.base[0] + count, self.entries[count - 1].term)
        self.storage.compact(self.base[0])
        del self.entries[:count]

    @precondition(lambda self: self.entries)
    @rule()
    def restore(self) -> None:
        index = self.base[0] + len(self.entries) + 3
        self.storage.apply_snapshot(Snapshot(index, 2, ConfState((1,))))
        self.base, self.entries = (index, 2), []
        assert self.storage.snapshot().index == index

    @invariant()
    def same_as_the_list(self) -> None:
        storage = self.storage
        assert storage.first_index() == self.base[0] + 1
        assert storage.last_index() == self.base[0] + len(self.entries)
        assert storage.term(self.base[0]) == self.base[1]
        assert storage.size_bytes == entries_bytes(self.entries)
        assert payload_bytes(self.entries) <= storage.size_bytes
        first = self.base[0] + 1
        if self.entries:
            assert storage.entries(first, first + len(self.entries), NO_LIMIT) == self.entries


StorageMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_storage = StorageMachine.TestCase
