"""The WAL against a list in memory, on a disk that forgets, tears, flips bits and loses power."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from raft.core.types import ConfState, Entry, HardState, Snapshot
from raft.wal import CorruptWal, Wal, WalJob, WalState, verify
from tests.faulty_disk import FaultyDisk, PowerCut

PATH = "/member/wal"
SEGMENT_BYTES = 4096
METADATA = b"member 1 of cluster 2"
QUIET = logging.getLogger("test.wal.quiet")
QUIET.setLevel(logging.ERROR)


def new_disk() -> FaultyDisk:
    disk = FaultyDisk()
    disk.make_dir("/member")
    disk.sync_dir("/")
    return disk


def create(disk: FaultyDisk) -> Wal:
    return Wal.create(disk, PATH, METADATA, segment_bytes=SEGMENT_BYTES, reserve_bytes=512)


def reopen(disk: FaultyDisk) -> tuple[Wal, WalState]:
    return Wal.open(disk, PATH, segment_bytes=SEGMENT_BYTES, reserve_bytes=512, logger=QUIET)


class Twin:
    """What a log should say, kept the dumb way. Values: every change makes new ones."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.snapshot = Snapshot()
        self.entries: list[Entry] = []

    @property
    def last(self) -> int:
        return self.entries[-1].index if self.entries else self.snapshot.index

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.snapshot.term

    def after(self, jobs: Sequence[WalJob]) -> list[Twin]:
        """The states a log may be left in while `jobs` are written at once; the last has them all.

        Their last hard state is at the end: a snapshot that needs it counts only then, and so does
        what follows the snapshot.
        """
        twin = copy(self)
        states = []
        held = False
        for job in jobs:
            if job.snapshot is not None:
                twin._take_snapshot(job.snapshot)
                held = held or job.snapshot.index > self.hard_state.commit
                states += [] if held else [copy(twin)]
            if job.entries:
                first = job.entries[0].index
                kept = [entry for entry in twin.entries if entry.index < first]
                twin.entries = kept + list(job.entries)
                states += [] if held else [copy(twin)]
        hard_states = [job.hard_state for job in jobs if job.hard_state is not None]
        if hard_states:
            twin.hard_state = hard_states[-1]
        return [*states, twin]

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        terms = {entry.index: entry.term for entry in self.entries}
        same = terms.get(snapshot.index) == snapshot.term
        kept = [entry for entry in self.entries if same and entry.index > snapshot.index]
        if snapshot.index > self.snapshot.index:
            self.entries, self.snapshot = kept, snapshot

    def state(self) -> WalState:
        hard_state = self.hard_state
        if self.last_term > hard_state.term:
            hard_state = HardState(self.last_term, 0, hard_state.commit)
        return WalState(METADATA, hard_state, self.snapshot, self.entries)


def run(wal: Wal, twin: Twin, job: WalJob, *, sync: bool) -> Twin:
    wal.append(*job, sync=sync)
    return twin.after([job])[-1]


def value(random: Random, size_max: int) -> bytes:
    """Bytes with long runs of zeros in them, which look like sectors never written."""
    size = random.randrange(size_max + 1)
    return random.choice((bytes(size), random.randbytes(size), b"\0" * 30 + b"x" * size))


def random_job(random: Random, twin: Twin, size_max: int = 1500) -> WalJob:
    """What a follower might be told next: more entries, others, a commit, a vote, a snapshot."""
    term, vote, commit = twin.hard_state
    term = max(term, twin.last_term)
    kind = random.choice(
        ("append", "append", "append", "overwrite", "commit", "vote", "checkpoint", "install")
    )
    snapshot = None
    entries: list[Entry] = []
    first = twin.last + 1
    if kind == "overwrite":
        term += 1
        first = random.randint(commit + 1, twin.last + 1)
    if kind in ("append", "overwrite"):
        entries = [
            Entry(term, index, random.randrange(2), value(random, size_max))
            for index in range(first, first + random.randint(1, 4))
        ]
    elif kind == "commit":
        commit = random.randint(commit, twin.last)
    elif kind == "vote":
        term, vote = term + 1, random.randrange(1, 4)
    elif kind == "checkpoint" and commit > twin.snapshot.index:
        index = random.randint(twin.snapshot.index + 1, commit)
        terms = {entry.index: entry.term for entry in twin.entries}
        snapshot = Snapshot(index, terms[index], ConfState((1, 2, 3)))
    elif kind == "install":
        term += 1
        commit += random.randint(1, 9)
        snapshot = Snapshot(commit, term, ConfState((1, 2), (3,)))
        entries = [Entry(term, commit + 1, 0, b"behind")] if random.random() < 0.5 else []
    hard_state = HardState(term, vote, commit)
    return WalJob(hard_state if random.random() < 0.7 or snapshot else None, entries, snapshot)


class WalMachine(RuleBasedStateMachine):
    """Appends, reopenings and power cuts; `possible` are the states a power cut may leave."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.random = Random(seed)
        self.size_max = self.random.choice((50, 700, 1500))
        self.disk = new_disk()
        self.wal = create(self.disk)
        self.twin = Twin()
        self.possible = [self.twin]

    @rule(sync=st.booleans(), count=st.integers(1, 3))
    def append(self, sync: bool, count: int) -> None:
        jobs: list[WalJob] = []
        latest = self.twin
        for _ in range(count):
            jobs.append(random_job(self.random, latest, self.size_max))
            latest = self.twin.after(jobs)[-1]
        self.wal.append_jobs(jobs, sync=sync)
        self.possible = [latest] if sync else self.possible + self.twin.after(jobs)
        self.twin = latest

    @rule()
    def prepare(self) -> None:
        self.wal.prepare()

    @rule(back=st.integers(0, 3))
    def release(self, back: int) -> None:
        self.wal.release(max(0, self.twin.snapshot.index - back))

    @rule()
    def close_and_reopen(self) -> None:
        self.wal.close()
        assert verify(self.disk, PATH) == []
        self.wal, state = reopen(self.disk)
        assert state == self.twin.state()
        self.possible = [self.twin]

    @rule()
    def lose_power(self) -> None:
        self.disk.crash(self.random)
        self.wal, state = reopen(self.disk)
        matching = [twin for twin in self.possible if twin.state() == state]
        assert matching, state
        # Two logs may read the same with a raised term and without; what is on disk is the former.
        self.twin = matching[0]
        self.possible = [self.twin]

    @rule()
    def open_twice(self) -> None:
        self.wal.close()
        self.wal, first = reopen(self.disk)
        self.wal.close()
        self.wal, second = reopen(self.disk)
        assert first == second
        self.possible = [self.twin]


TestWalMachine = WalMachine.TestCase
TestWalMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


SMALL_LOG = (
    WalJob(HardState(1, 1, 0), [Entry(1, 1, 0, b"one"), Entry(1, 2, 0, bytes(600))]),
    WalJob(HardState(1, 1, 2)),
    WalJob(None, [Entry(1, 3, 0, b"three" * 100)], Snapshot(2, 1, ConfState((1,)))),
    WalJob(HardState(2, 3, 3), [Entry(2, 4, 0, b"")]),
)


def small_log() -> tuple[FaultyDisk, str, list[tuple[int, Twin]]]:
    """A log of one segment; its file; where each synced append ends in it, and the state then."""
    disk = new_disk()
    wal = create(disk)
    twin = Twin()
    path = f"{PATH}/{next(name for name in disk.list(PATH) if name.endswith('.wal'))}"
    states = [(used(disk, path), twin)]
    for job in SMALL_LOG:
        twin = run(wal, twin, job, sync=True)
        states.append((used(disk, path), twin))
    wal.close()
    return disk, path, states


def used(disk: FaultyDisk, path: str) -> int:
    return len(disk.read(path).rstrip(b"\0"))


@pytest.mark.parametrize("how", ["cut", "zeroed"])
def test_tail_lost_from_any_byte_on_leaves_what_was_written_before(how: str) -> None:
    disk, path, states = small_log()
    data = disk.read(path)
    for size in range(states[0][0], states[-1][0]):
        rest = bytes(len(data) - size) if how == "zeroed" else b""
        disk.replace(path, data[:size] + rest)
        wal, state = reopen(disk)
        wal.close()
        whole = max(number for number, (end, _) in enumerate(states) if end <= size)
        before = states[whole][1]
        possible = [before, *before.after([SMALL_LOG[whole]])]
        assert state in [twin.state() for twin in possible], f"from byte {size} on"
        assert disk.size(path) == SEGMENT_BYTES
        assert verify(disk, PATH) == [], "the tail is gone for good"


def test_any_flipped_bit_is_refused_by_file_and_offset_or_cuts_what_is_last() -> None:
    disk, path, states = small_log()
    data = disk.read(path)
    last_append = states[-2][0]
    for offset in range(states[-1][0]):
        disk.replace(path, data)
        disk.flip(path, offset, offset % 8)
        try:
            wal, state = reopen(disk)
        except CorruptWal as error:
            assert error.file == path
            assert 0 <= error.offset <= offset
            assert verify(disk, PATH) == [str(error)]
            continue
        wal.close()
        # A torn write of the last append looks like this; anything before it was witnessed.
        assert offset >= last_append, f"offset {offset} was read as {state}"
        assert state.entries[:1] == states[-2][1].entries


@given(offset=st.integers(0, SEGMENT_BYTES // 8 - 1), word=st.binary(min_size=8, max_size=8))
@settings(max_examples=150, deadline=None)
def test_no_length_is_believed(offset: int, word: bytes) -> None:
    disk, path, states = small_log()
    data = disk.read(path)
    at = offset * 8
    disk.replace(path, data[:at] + word + data[at + 8 :])
    try:
        wal, state = reopen(disk)
    except CorruptWal as error:
        assert error.file == path
        return
    wal.close()
    # Entries 1 and 2 are behind a marker once there is one; what is left is always a good prefix.
    final = states[-1][1].entries
    assert all(entry in final or entry.index <= 2 for entry in state.entries)


def life(disk: FaultyDisk, acknowledged: list[Twin], possible: list[Twin]) -> None:
    """A member's days, recorded as they pass: cuts, a release, a reopening, an overwrite."""
    wal = create(disk)
    random = Random(7)
    for number in range(24):
        twin = possible[-1]
        job = random_job(random, twin)
        possible.extend(twin.after([job]))
        wal.append(*job, sync=number % 3 > 0)
        if number % 3:
            acknowledged[:] = [possible[-1]]
            possible[:] = [possible[-1]]
        if number % 5 == 0:
            wal.prepare()
        if number % 7 == 0:
            wal.release(possible[-1].snapshot.index)
        if number == 15:
            wal.close()
            wal, _ = reopen(disk)


def operations_of_a_life() -> int:
    disk = new_disk()
    life(disk, [], [Twin()])
    return disk.operations


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_power_cut_at_every_operation_keeps_what_was_acknowledged(seed: int | None) -> None:
    total = operations_of_a_life()
    for cut_at in range(new_disk().operations, total):
        disk = new_disk()
        disk.cut_at = cut_at
        acknowledged: list[Twin] = []
        possible = [Twin()]
        with pytest.raises(PowerCut):
            life(disk, acknowledged, possible)
        disk.crash(Random(seed + 10 * cut_at) if seed is not None else None)
        if not Wal.exists(disk, PATH):
            assert not acknowledged
            create(disk).close()
            continue
        wal, state = reopen(disk)
        wal.close()
        assert state in [twin.state() for twin in possible], f"power cut at {cut_at}"
        assert reopen(disk)[1] == state
