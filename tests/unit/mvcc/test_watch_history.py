"""Watchers that are behind: history, compaction, other stores. Names carry etcd's numbers."""

from __future__ import annotations

import pytest

from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.watchable_store import Limits, WatchOptions, WatchResponse
from tests.unit.mvcc.watch_rig import TIGHT, A, Rig, brief, revisions


@pytest.fixture
def rig() -> Rig:
    return Rig()


# Catching up


def test_the_nearly_there_are_not_held_up_by_one_far_behind() -> None:
    rig = Rig(Limits(slice_rows=10))
    rig.puts(1000)
    far = rig.watch(b"a", start_rev=1)
    near = rig.watch(b"a", start_rev=995)
    for _ in range(2):
        rig.watches.catch_up()
    heard = rig.stream.take()
    assert [r.watch_id for r in heard].count(far) == 1
    assert revisions([r for r in heard if r.watch_id == near])[-1] == 1001
    assert revisions([r for r in heard + rig.settle() if r.watch_id == far])[-1] == 1001


def test_one_far_behind_is_not_starved_by_many_nearly_there() -> None:
    rig = Rig(Limits(slice_rows=10))
    rig.puts(200)
    far = rig.watch(b"a", start_rev=1)
    heard: list[WatchResponse] = []
    for _ in range(40):
        rig.stream.watch(A._replace(start_rev=rig.store.current_rev))
        rig.watches.catch_up()
        heard += rig.stream.take()
    assert revisions([r for r in heard if r.watch_id == far])[-1] >= 190


def test_many_watchers_behind_are_served_in_batches() -> None:
    rig = Rig(Limits(batch_watchers=7))
    rig.puts(3)
    for _ in range(50):
        rig.stream.watch(A._replace(start_rev=2))
    rig.stream.take()
    heard = rig.settle()
    assert sorted(r.watch_id for r in heard) == list(range(50))
    assert all(revisions([r]) == [2, 3, 4] for r in heard)


# Compaction


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("revision", range(1, 15))
def test_18089_a_watch_from_the_compacted_revision_misses_nothing(
    revision: int, limit: int
) -> None:
    """puts 2,4 delete 6 puts 8,9 delete 11 put 14, as in the tables; others fill the gaps."""
    rig = Rig()
    for at in range(2, 15):
        if at in (6, 11):
            rig.delete(b"a")
        else:
            rig.put(b"a" if at in (2, 4, 8, 9, 14) else b"other")
    job = rig.store.compact(revision)
    while not job.step(limit):
        pass
    rig.watch(b"a", start_rev=revision)
    expected = [at for at in (2, 4, 6, 8, 9, 11, 14) if at >= revision]
    assert revisions(rig.settle()) == expected
    rig.watch(b"a", start_rev=revision)
    rig.restart()
    assert revisions(rig.settle()) == expected


@pytest.mark.parametrize("steps", range(6))
def test_19179_nor_after_a_crash_in_the_middle_of_that_compaction(steps: int) -> None:
    rig = Rig()
    rig.puts(3)
    rig.delete(b"a")
    rig.puts(3)
    job = rig.store.compact(5)
    rig.backend.end_entries(1, 1)
    for _ in range(steps):
        if job.finished or job.step(1):
            break
    rig.backend.end_entries(2, 1)
    rig.backend.commit()
    rig.backend = rig.backend.crash()
    rig.restart()
    pending = rig.store.pending_compaction()
    while pending is not None and not pending.step(1):
        pass
    rig.watch(b"a", start_rev=5)
    assert brief(rig.settle())[0] == ("DELETE", b"a", 5)


def test_a_start_below_the_compacted_revision_is_created_then_canceled(rig: Rig) -> None:
    rig.puts(5)
    rig.compact(4)
    rig.stream.watch(WatchOptions(b"a", start_rev=3))
    assert rig.settle() == [
        WatchResponse(0, 6, created=True),
        WatchResponse(0, 0, canceled=True, compact_revision=4),
    ]
    assert rig.watches.status().watchers == 0


def test_a_synced_watcher_does_not_care_about_compactions(rig: Rig) -> None:
    rig.watch(b"a")
    rig.puts(5, b"other")
    rig.compact(6)
    rig.put(b"a")
    assert revisions(rig.settle()) == [7]


def test_17529_a_cancel_without_room_waits_and_skips_nothing() -> None:
    rig = Rig(TIGHT)
    rig.watch(b"a")
    heard: list[WatchResponse] = []
    for _ in range(20):
        rig.puts(5)
        rig.compact(rig.store.current_rev)
        for _ in range(3):
            rig.watches.catch_up()
            rig.watches.check_invariants()
    heard += rig.settle()
    assert revisions(heard) == [2, 3], "what had room; min_rev is 4 from here on"
    assert heard[-1] == WatchResponse(0, 0, canceled=True, compact_revision=101)
    assert sum(r.canceled for r in heard) == 1


def test_22294_each_stale_watcher_gets_one_cancel_and_is_freed() -> None:
    rig = Rig(Limits(queue_responses=100))
    rig.puts(10)
    for _ in range(2000):
        rig.stream.watch(A._replace(start_rev=2))
        rig.stream.take()
    rig.compact(8)
    heard: list[WatchResponse] = []
    for _ in range(200):
        rig.watches.catch_up()
        heard += rig.stream.take()
    assert sorted(r.watch_id for r in heard) == list(range(2000))
    assert all(r.canceled and r.compact_revision == 8 for r in heard)
    assert rig.watches.status()[:3] == (1, 0, 0) and not rig.watches.behind


# Future starts, other stores


def test_20286_a_future_start_gets_nothing_older_whatever_happens() -> None:
    rig = Rig(TIGHT)
    rig.put(b"a")
    rig.watch(b"a", start_rev=52)
    heard: list[WatchResponse] = []
    for i in range(60):
        rig.put(b"a")
        if i % 7 == 0:
            rig.restart()
        if i % 3 == 0:
            rig.watches.catch_up()
        if i % 11 == 0:
            heard += rig.stream.take()
    assert revisions(heard + rig.settle()) == list(range(52, 63))


def test_15515_revisions_only_rise_over_a_change_of_stores() -> None:
    rig = Rig()
    log: list[bytes] = []
    rig.watch(b"a", b"c")
    rig.watch(b"a", start_rev=1)
    rig.watch(b"a", start_rev=40)
    heard: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for position in (5, 20, 10, 19, 30, 30, 45):
        store = Store(MemoryBackend())
        log += [b"a"] * (position - len(log))
        for key in log[:position]:
            txn = store.write()
            txn.put(key, b"v")
            txn.end()
        rig.restart(store)
        for response in rig.settle():
            heard[response.watch_id] += revisions([response])
    everything = list(range(2, 47))
    assert heard == {0: everything, 1: everything, 2: everything[38:]}


def test_a_store_that_compacted_what_is_missing_cancels() -> None:
    rig = Rig(TIGHT)
    rig.watch(b"a")
    rig.watch(b"b", start_rev=500)
    rig.puts(10)
    newer = Rig()
    newer.puts(30)
    newer.compact(20)
    rig.restart(newer.store)
    first, second, canceled = rig.settle()
    assert revisions([first, second]) == [2, 3]
    assert canceled == WatchResponse(0, 0, canceled=True, compact_revision=20)
    assert len(rig.stream) == 1 and rig.watches.status().slow_watchers == 0
