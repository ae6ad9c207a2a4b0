"""Both backends against a dict per table, with commits, kills and new generations in between.

The twin remembers its state at every index. What a restart finds must be the state of exactly one
of them: the one whose index is stored beside the rows, and no older than what was called durable.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mvcc.backend import KEY, ReadSnapshot
from tests.unit.mvcc.backends import END, LmdbRig, MemoryRig, Rig, quick_folder

LEASE = "lease"
Tables = dict[str, dict[bytes, bytes]]

small_keys = st.integers(0, 15).map(lambda number: bytes([65 + number]))
values = st.binary(max_size=6)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("revise"), values),
        st.tuples(st.just("put"), small_keys, values),
        st.tuples(st.just("delete"), small_keys),
        st.tuples(st.just("forget"), st.integers(0, 40), st.integers(1, 6)),
    ),
    min_size=0,
    max_size=8,
)


class BackendMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = self.make()
        self.tables: Tables = {KEY: {}, LEASE: {}}
        self.index = 0
        self.revision = 0
        self.history = {0: copy.deepcopy(self.tables)}
        self.views: list[tuple[ReadSnapshot, Tables]] = []

    def make(self) -> Rig:
        return MemoryRig()

    def teardown(self) -> None:
        self.rig.close()

    @rule(changes=changes)
    def entry(self, changes: list[tuple]) -> None:
        backend, rows = self.rig.backend, self.tables[KEY]
        for what, *arguments in changes:
            if what == "revise":
                self.revision += 1
                key = self.revision.to_bytes(17, "big") + b"t" * (self.revision % 5 == 0)
                backend.put(KEY, key, arguments[0])
                rows[key] = arguments[0]
            elif what == "put":
                backend.put(LEASE, *arguments)
                self.tables[LEASE][arguments[0]] = arguments[1]
            elif what == "delete":
                backend.delete(LEASE, arguments[0])
                self.tables[LEASE].pop(arguments[0], None)
            else:
                start, count = arguments
                keys = sorted(rows)[start : start + count]
                backend.delete_many(KEY, keys)
                for key in keys:
                    del rows[key]
        self.index += 1
        backend.end_entries(self.index, 1 + self.index // 7)
        self.history[self.index] = copy.deepcopy(self.tables)

    @rule()
    def flush(self) -> None:
        self.rig.flush()
        assert self.rig.backend.durable_index == self.index

    @rule()
    def settle(self) -> None:
        self.rig.settle()

    @rule(seconds=st.sampled_from([0.01, 0.1, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.now += seconds

    @precondition(lambda self: len(self.views) < 3)
    @rule()
    def look(self) -> None:
        self.rig.flush()
        self.views.append((self.rig.backend.snapshot(), copy.deepcopy(self.tables)))

    @precondition(lambda self: self.views)
    @rule()
    def look_again(self) -> None:
        view, frozen = self.views.pop(0)
        for table, rows in frozen.items():
            assert view.range(table, b"", END, 0) == sorted(rows.items())
        view.close()

    @rule(point=st.sampled_from(["backend.before_commit", "backend.after_commit"]))
    def kill(self, point: str) -> None:
        durable = self.rig.backend.durable_index
        self.views.clear()
        self.rig.kill(point)
        index, term = self.rig.backend.applied()
        assert durable <= index <= self.index
        assert term == (1 + index // 7 if index else 0)
        self.tables = copy.deepcopy(self.history[index])
        self.history = {at: rows for at, rows in self.history.items() if at <= index}
        self.index = index
        self.everything()
        self.revision = max(
            (int.from_bytes(key[:17], "big") for key in self.tables[KEY]), default=0
        )

    @rule()
    def reopen(self) -> None:
        self.views.clear()
        self.rig.reopen()
        assert self.rig.backend.applied()[0] == self.index
        self.everything()

    @rule(start=st.integers(0, 60), width=st.integers(0, 30), limit=st.integers(0, 9))
    def slice(self, start: int, width: int, limit: int) -> None:
        for table, encode in (
            (KEY, lambda n: n.to_bytes(17, "big")),
            (LEASE, lambda n: bytes([n])),
        ):
            low, high = encode(start), encode(start + width)
            wanted = [row for row in sorted(self.tables[table].items()) if low <= row[0] < high]
            got = self.rig.backend.range(table, low, high, limit)
            assert got == (wanted[:limit] if limit else wanted)

    @rule()
    def everything(self) -> None:
        for table, rows in self.tables.items():
            assert self.rig.backend.range(table, b"", END, 0) == sorted(rows.items())

    @invariant()
    def rows_are_as_written(self) -> None:
        keys = [bytes([65 + number]) for number in range(16)]
        wanted = [self.tables[LEASE].get(key) for key in keys]
        assert self.rig.backend.get_many(LEASE, keys) == wanted
        recent = self.revision.to_bytes(17, "big") + b"t" * (self.revision % 5 == 0)
        assert self.rig.backend.get(KEY, recent) == self.tables[KEY].get(recent)
        assert self.rig.backend.durable_index <= self.index


class LmdbMachine(BackendMachine):
    """Tiny limits, so that batches close, wait and merge all the time."""

    def make(self) -> LmdbRig:
        self.folder = ExitStack()
        return LmdbRig(self.folder.enter_context(quick_folder()), batch_ops=12)

    def teardown(self) -> None:
        super().teardown()
        self.folder.close()

    @rule()
    def poll(self) -> None:
        self.rig.backend.poll()

    @rule()
    def defragment(self) -> None:
        number = self.rig.backend.info().generation
        assert self.rig.rebuild(self.rig.backend.defragment) is None
        assert self.rig.backend.info().generation == number + 1

    @precondition(lambda self: self.index)
    @rule()
    def install(self) -> None:
        """A member gets an older state of its own back; the later entries come again."""
        self.rig.flush()
        received = self.rig.backend.open_copy()
        self.entry([("put", b"A", b"later"), ("revise", b"later")])
        backend = self.rig.backend
        assert self.rig.rebuild(lambda done: backend.install(received.path, done)) is None
        self.index -= 1
        assert backend.applied()[0] == received.index == self.index
        assert backend.durable_index == self.index
        self.tables = copy.deepcopy(self.history[self.index])
        self.revision -= 1
        self.everything()


MemoryMachine = BackendMachine.TestCase
MemoryMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
LmdbMachineCase = LmdbMachine.TestCase
LmdbMachineCase.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
