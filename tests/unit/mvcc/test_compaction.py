"""Compaction: acceptance, steps, and a crash at every place in between."""

from __future__ import annotations

import pytest

from mvcc.backend import KEY, META
from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import EventType, RangeOptions
from mvcc.memory_backend import MemoryBackend
from mvcc.revision import decode_row_key, is_tombstone
from mvcc.schema import FINISHED_COMPACTED_REV, SCHEDULED_COMPACTED_REV, decode_int
from mvcc.store import Store


class Crash(Exception):
    pass


def put(store: Store, *names: bytes) -> int:
    txn = store.write()
    for name in names:
        txn.put(name, b"value")
    return txn.end()


def delete(store: Store, name: bytes, end: bytes = b"") -> int:
    txn = store.write()
    txn.delete_range(name, end)
    return txn.end()


def restored(backend: MemoryBackend) -> Store:
    store = Store(backend)
    for _ in store.restore():
        pass
    store.check_invariants()
    return store


def rows(backend: MemoryBackend) -> list[str]:
    return [
        f"{decode_row_key(key).main}{'t' if is_tombstone(key) else ''}"
        for key, _ in backend.range(KEY, b"\0", b"\xff", 0)
    ]


def drive(job, limit: int = 1000) -> int:
    steps = 1
    while not job.step(limit):
        steps += 1
    return steps


def example_a(store: Store) -> None:
    """One key: puts 2,4; delete 6; puts 8,9; delete 11; put 14. Another key fills the rest."""
    for main in range(2, 15):
        if main in (6, 11):
            delete(store, b"k")
        else:
            put(store, b"k" if main in (2, 4, 8, 9, 14) else b"other%d" % main)


K_ROWS = ["2", "4", "6t", "8", "9", "11t", "14"]
OTHERS = ["3", "5", "7", "10", "12", "13"]
LEFT_OF_A = {
    1: 0,
    2: 0,
    3: 0,
    4: 1,
    5: 1,
    6: 2,
    7: 3,
    8: 3,
    9: 4,
    10: 4,
    11: 5,
    12: 6,
    13: 6,
    14: 6,
}


def in_order(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: int(name.rstrip("t")))


@pytest.mark.parametrize("revision", LEFT_OF_A)
@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_rows_left_for_every_revision(revision, limit):
    store = Store(MemoryBackend())
    example_a(store)
    reads = [store.range(b"\0", b"\0", RangeOptions(revision=r)).kvs for r in range(revision, 15)]
    job = store.compact(revision)
    drive(job, limit)
    assert rows(store.backend) == in_order(OTHERS + K_ROWS[LEFT_OF_A[revision] :])
    assert job.deleted == LEFT_OF_A[revision]
    assert reads == [
        store.range(b"\0", b"\0", RangeOptions(revision=r)).kvs for r in range(revision, 15)
    ]
    store.check_invariants()


@pytest.mark.parametrize("first", range(1, 14))
def test_two_compactions_leave_what_the_last_alone_leaves(first):
    twice, once = Store(MemoryBackend()), Store(MemoryBackend())
    for store in (twice, once):
        example_a(store)
    drive(twice.compact(first))
    for second in range(first + 1, 15):
        drive(twice.compact(second))
    drive(once.compact(14))
    assert rows(twice.backend) == rows(once.backend)


@pytest.mark.parametrize("revision", range(2, 15))
def test_a_watch_may_start_at_the_compacted_revision(revision):
    store = Store(MemoryBackend())
    example_a(store)
    before = store.events(revision, 15, 0)
    drive(store.compact(revision))
    assert store.events(revision, 15, 0) == before


def test_acceptance():
    store = Store(MemoryBackend())
    put(store, b"k")
    with pytest.raises(Compacted):
        store.compact(-1)
    drive(store.compact(0))
    with pytest.raises(Compacted) as again:
        store.compact(0)
    assert (again.value.revision, again.value.compact_revision) == (0, 0)
    with pytest.raises(FutureRevision) as future:
        store.compact(3)
    assert (future.value.revision, future.value.current_revision) == (3, 2)
    assert store.compact_rev == 0
    drive(store.compact(2))
    assert (store.compact_rev, store.finished_compact_rev, store.current_rev) == (2, 2, 2)


def test_reads_below_are_refused_from_acceptance_on():
    store = Store(MemoryBackend())
    put(store, b"k")
    put(store, b"k")
    job = store.compact(3)
    with pytest.raises(Compacted):
        store.range(b"k", b"", RangeOptions(revision=2))
    assert rows(store.backend) == ["2", "3"]
    assert decode_int(store.backend.get(META, SCHEDULED_COMPACTED_REV)) == 3
    assert store.backend.get(META, FINISHED_COMPACTED_REV) is None
    drive(job)
    assert rows(store.backend) == ["3"]
    assert decode_int(store.backend.get(META, FINISHED_COMPACTED_REV)) == 3


def test_a_step_deletes_at_most_its_limit_and_the_last_one_something():
    store = Store(MemoryBackend())
    for _ in range(10):
        put(store, b"a", b"b")
    job = store.compact(store.current_rev)
    left = [len(rows(store.backend))]
    while not job.step(4):
        left.append(len(rows(store.backend)))
    assert left == [20, 16, 12, 8, 4]
    assert len(rows(store.backend)) == 2
    assert job.deleted == 18


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("changes", [(1,) * 7, (1, 9), (9, 9, 1)])
def test_the_last_dead_row_goes_together_with_the_finished_mark(changes, limit):
    """One batch holds both, also when the last visits of the journal find nothing more to do."""
    store = Store(MemoryBackend())
    for count in changes:
        put(store, *[b"k"] * count)
    job = store.compact(store.current_rev)
    while not job.step(limit):
        assert len(rows(store.backend)) > 1
        assert store.backend.get(META, FINISHED_COMPACTED_REV) is None
    assert rows(store.backend) == [str(store.current_rev)]


def test_a_key_written_and_deleted_in_one_txn():
    store = Store(MemoryBackend())
    put(store, b"k")
    txn = store.write()
    txn.put(b"k", b"")
    txn.delete_range(b"k")
    txn.end()
    put(store, b"other")
    drive(store.compact(4))
    assert rows(store.backend) == ["4"]
    put(store, b"k")
    store.check_invariants()


def test_a_compaction_visits_what_changed_not_what_there_is():
    store = Store(MemoryBackend())
    put(store, *(b"%04d" % i for i in range(500)))
    put(store, b"0000")
    put(store, b"0001")
    assert store.status().journal == 2
    assert store.index.compact(3, 100) == [
        next(iter(store.backend.range(KEY, b"\0", b"\xff", 1)))[0]
    ]
    assert store.index.compact(3, 100) is None


def test_writes_between_steps():
    store = Store(MemoryBackend())
    for _ in range(4):
        put(store, b"a", b"b")
    delete(store, b"b")
    job = store.compact(6)
    assert not job.step(2)
    put(store, b"b")
    delete(store, b"a")
    put(store, b"a", b"c")
    drive(job, 2)
    assert rows(store.backend) == ["5", "6t", "7", "8t", "9", "9"]
    store.check_invariants()
    assert [kv.key for kv in store.range(b"\0", b"\0").kvs] == [b"a", b"b", b"c"]


def test_queued_jobs_run_in_order():
    store = Store(MemoryBackend())
    for _ in range(3):
        put(store, b"k")
    first, second = store.compact(2), store.compact(4)
    drive(first)
    drive(second)
    assert store.finished_compact_rev == 4
    assert rows(store.backend) == ["4"]
    with pytest.raises(AssertionError):
        second.step(1)


def test_a_job_does_not_outlive_a_restore():
    store = Store(MemoryBackend())
    put(store, b"k")
    job = store.compact(2)
    for _ in store.restore():
        pass
    with pytest.raises(AssertionError):
        job.step(1)
    assert drive(store.pending_compaction()) == 1


# Crashes


NAMES = [
    "compaction.before_scheduled",
    "compaction.after_scheduled",
    "compaction.between_batches",
    "compaction.before_finished",
    "compaction.after_finished",
]


def history_ending_in_a_tombstone(store: Store) -> int:
    put(store, b"a", b"b")
    put(store, b"a")
    put(store, b"a")
    delete(store, b"b")
    put(store, b"a")
    return delete(store, b"a")


def crashing_store(name: str, hits: int) -> tuple[Store, MemoryBackend]:
    """Dies when `name` is hit for the `hits`-th time."""
    seen = []

    def hit(place: str) -> None:
        seen.append(place)
        if seen.count(name) == hits and place == name:
            raise Crash(place)

    backend = MemoryBackend()
    return Store(backend, hit), backend


@pytest.mark.parametrize("committed", [False, True], ids=["batch lost", "batch kept"])
@pytest.mark.parametrize("back", [0, 1, 2])
@pytest.mark.parametrize(
    ("name", "hits"), [(name, 1) for name in NAMES] + [("compaction.between_batches", 2)]
)
def test_a_crash_anywhere_changes_nothing_in_the_end(name, hits, back, committed):
    """Also with the newest revision a tombstone: the revision must not fall."""
    straight = Store(MemoryBackend())
    top = history_ending_in_a_tombstone(straight)
    drive(straight.compact(top - back))

    store, backend = crashing_store(name, hits)
    history_ending_in_a_tombstone(store)
    backend.end_entries(1, 1)
    backend.commit()
    with pytest.raises(Crash):
        job = store.compact(top - back)
        backend.end_entries(2, 1)
        backend.commit()
        while not job.step(1):
            if committed:
                backend.end_entries(2, 1)
                backend.commit()
    if committed:
        backend.end_entries(*backend.applied())
        backend.commit()

    again = restored(backend.crash())
    assert again.current_rev == top
    if again.compact_rev < top - back:
        drive(again.compact(top - back))
    elif again.finished_compact_rev < top - back:
        drive(again.pending_compaction(), 2)
    assert again.pending_compaction() is None
    assert rows(again.backend) == rows(straight.backend)
    assert again.status() == straight.status()
    assert again.range(b"\0", b"\0") == straight.range(b"\0", b"\0")
    at = top - back
    assert again.events(at, top + 1, 0) == straight.events(at, top + 1, 0)
    assert again.events(top, top + 1, 0)[0].type == EventType.DELETE
    put(again, b"z")
    drive(again.compact(top + 1))
    assert rows(again.backend) == [str(top + 1)]


def test_the_revision_does_not_fall_below_the_compacted_one():
    """A file whose last row, a tombstone, an older rule took: the meta rows still know."""
    backend = MemoryBackend()
    store = Store(backend)
    put(store, b"k")
    put(store, b"k")
    delete(store, b"k")
    store.compact(4)
    backend.delete_many(KEY, [key for key, _ in backend.range(KEY, b"\0", b"\xff", 0)])
    again = restored(backend)
    assert (again.current_rev, again.compact_rev, again.finished_compact_rev) == (4, 4, -1)
    assert put(again, b"k") == 5


def test_names_are_hit_in_order():
    seen: list[str] = []
    store = Store(MemoryBackend(), seen.append)
    for _ in range(3):
        put(store, b"k")
    drive(store.compact(4), 1)
    assert seen == NAMES
