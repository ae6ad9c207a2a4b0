"""The store against a model that keeps every state it ever had."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mvcc.backend import KEY
from mvcc.compaction import Compaction
from mvcc.errors import Compacted
from mvcc.kv import KeyValue, RangeOptions, RangeResult
from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.txn import WriteTxn

KEYS = st.sampled_from([b"a", b"a\x00", b"b", b"c"])
ENDS = st.one_of(st.sampled_from([b"", b"\x00", b"d"]), KEYS)
VALUES = st.sampled_from([b"", b"1", b"22"])
LEASES = st.sampled_from([0, 0, 7, 8])
OPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES, LEASES),
        st.tuples(st.just("delete"), KEYS, ENDS),
    ),
    min_size=1,
    max_size=3,
)

State = dict[bytes, KeyValue]


def inside(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key and (end == b"\x00" or key < end)


class Model:
    """states[revision] is the whole store then; revision 1 is the empty store."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {0: {}, 1: {}}
        self.revision = 1
        self.compacted = -1

    def apply(self, ops: list[tuple]) -> list[list[tuple[bytes, int]]]:
        """The states change; each delete's (key, mod revision before)."""
        now = dict(self.states[self.revision])
        main, changed, deleted = self.revision + 1, False, []
        for kind, key, *rest in ops:
            if kind == "put":
                old = now.get(key)
                create = old.create_revision if old else main
                now[key] = KeyValue(
                    key, rest[0], create, main, old.version + 1 if old else 1, rest[1]
                )
                changed = True
            else:
                hit = sorted(k for k in now if inside(k, key, rest[0]))
                deleted.append([(k, now.pop(k).mod_revision) for k in hit])
                changed = changed or bool(hit)
        if changed:
            self.revision = main
            self.states[main] = now
        return deleted


def run(txn: WriteTxn, ops: list[tuple]) -> list[list[tuple[bytes, int]]]:
    deleted = []
    for kind, key, *rest in ops:
        if kind == "put":
            txn.put(key, *rest)
        else:
            hit = txn.delete_range(key, rest[0])
            deleted.append([(k, revision.main) for k, revision in hit])
    return deleted


def restored(backend: MemoryBackend) -> Store:
    store = Store(backend)
    for _ in store.restore():
        pass
    return store


def all_rows(backend: MemoryBackend) -> list[tuple[bytes, bytes]]:
    return backend.range(KEY, b"\x00", b"\xff", 0)


class StoreMachine(RuleBasedStateMachine):
    """Two stores get the same entries; only `store` crashes and is compacted in small steps.

    What is not durable after a crash is replayed from `log`, as the write-ahead log would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backend = MemoryBackend(hold=True)
        self.store = Store(self.backend)
        self.model = Model()
        self.jobs: list[Compaction] = []
        self.log: list[list[tuple] | int] = []
        self.twin_backend = MemoryBackend()
        self.twin = Store(self.twin_backend)
        self.reading: tuple[Iterator[RangeResult | None], int, RangeResult] | None = None

    def _apply(self, entry: list[tuple] | int) -> list[list[tuple[bytes, int]]]:
        """One entry, as apply does it: its effects, then its index."""
        deleted = []
        if isinstance(entry, int):
            self.jobs.append(self.store.compact(entry))
            self.backend.force_commit()
        else:
            txn = self.store.write()
            deleted = run(txn, entry)
            txn.end()
        self.backend.end_entries(self.backend.applied()[0] + 1, 1)
        return deleted

    @rule(ops=OPS)
    def write(self, ops: list[tuple]) -> None:
        self.log.append(ops)
        expected = self.model.apply(ops)
        assert self._apply(ops) == expected
        txn = self.twin.write()
        run(txn, ops)
        events = txn.changes()
        main = txn.end()
        assert self.twin.current_rev == self.model.revision
        assert self.twin.events(main, main + 1, 0) == events or not events

    @rule(back=st.integers(0, 3))
    def compact(self, back: int) -> None:
        revision = self.model.revision - back
        if revision <= self.model.compacted:
            return
        self.log.append(revision)
        self.model.compacted = revision
        self._apply(revision)
        job = self.twin.compact(revision)
        while not job.step(1000):
            pass

    @precondition(lambda self: self.jobs)
    @rule(limit=st.integers(1, 3))
    def step(self, limit: int) -> None:
        if self.jobs[0].step(limit):
            del self.jobs[0]
        self.backend.end_entries(*self.backend.applied())

    @rule()
    def finish(self) -> None:
        """All compaction jobs; no entry comes between."""
        while self.jobs:
            self.step(2)

    @rule()
    def commit(self) -> None:
        self.backend.commit()

    @rule(lost=st.booleans())
    def crash(self, lost: bool) -> None:
        if not lost:
            self.backend.commit()
        self.reading = None
        self.backend = self.backend.crash()
        self.store = restored(self.backend)
        self.store.check_invariants()
        pending = self.store.pending_compaction()
        self.jobs = [pending] if pending else []
        for entry in self.log[self.backend.applied()[0] :]:
            self._apply(entry)

    @rule(
        key=KEYS, end=ENDS, back=st.integers(-1, 5), limit=st.integers(0, 3), size=st.integers(1, 3)
    )
    def begin_read(self, key: bytes, end: bytes, back: int, limit: int, size: int) -> None:
        """Writes, compactions and crashes come between its steps."""
        revision = 0 if back < 0 else max(1, self.model.revision - back)
        options = RangeOptions(revision=revision, limit=limit)
        steps = self.store.range_steps(key, end, options, slice_keys=size)
        at = revision or self.model.revision
        state = self.model.states[at]
        hit = [state[k] for k in sorted(state) if inside(k, key, end)]
        expected = RangeResult(
            hit[:limit] if limit else hit, len(hit), 0 < limit < len(hit), self.model.revision
        )
        self.reading = (steps, at, expected)
        self.continue_read()

    @precondition(lambda self: self.reading)
    @rule()
    def continue_read(self) -> None:
        steps, at, expected = self.reading
        refused = at < self.model.compacted
        try:
            result = next(steps)
        except Compacted as error:
            assert refused
            assert (error.revision, error.compact_revision) == (at, self.model.compacted)
            self.reading = None
            return
        assert not refused
        if result is not None:
            assert result == expected
            self.reading = None

    @rule(back=st.integers(0, 2))
    def hashes_agree(self, back: int) -> None:
        """Also in the midst of a compaction, which the twin has behind it."""
        revision = max(self.model.compacted, self.model.revision - back, 1)
        self.backend.commit()
        self.twin_backend.end_entries(1, 1)
        self.twin_backend.commit()
        mine = list(self.store.hash_kv(self.backend.snapshot(), revision, slice_rows=2))[-1]
        twins = list(self.twin.hash_kv(self.twin_backend.snapshot(), revision))[-1]
        assert mine == twins

    @invariant()
    def agrees(self) -> None:
        store, model = self.store, self.model
        store.check_invariants()
        assert store.current_rev == model.revision
        assert store.compact_rev == model.compacted
        now = model.states[model.revision]
        assert store.leases == {k: kv.lease for k, kv in now.items() if kv.lease}
        assert store.range(b"\x00", b"\x00").kvs == [now[k] for k in sorted(now)]
        if not self.jobs:
            assert store.finished_compact_rev == model.compacted
            assert all_rows(self.backend) == all_rows(self.twin_backend)


StoreMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestStore = StoreMachine.TestCase
