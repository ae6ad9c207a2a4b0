"""The durable backend: when batches close, what is durable when, and what readers see meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvcc import lmdb_backend
from mvcc.backend import KEY, META
from mvcc.errors import BackendFailed, CorruptionError, SnapshotExpired
from mvcc.lmdb_backend import LmdbBackend
from mvcc.lmdb_view import VIEWS_MAX
from mvcc.lmdb_writer import Batch
from tests.unit.mvcc.backends import END, LmdbRig, quick_folder

LEASE = "lease"
BEFORE_COMMIT = "backend.before_commit"


def row(number: int) -> bytes:
    return number.to_bytes(17, "big")


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as path:
        yield path


@pytest.fixture
def rig(folder: Path) -> Iterator[LmdbRig]:
    rig = LmdbRig(folder)
    yield rig
    rig.close()


def put_entries(backend: LmdbBackend, first: int, last: int, value: bytes = b"v") -> None:
    """Entries first..last, each of one revision of the same number."""
    for index in range(first, last + 1):
        backend.put(KEY, row(index), value)
        backend.end_entries(index, 1)


# ---- when a batch closes


def test_batch_closes_by_age_at_the_end_of_an_entry(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.now = 0.09
    put_entries(rig.backend, 2, 2)
    assert not rig.backend._closed
    rig.now = 0.1
    rig.backend.put(KEY, row(3), b"v")
    assert not rig.backend._closed
    rig.backend.end_entries(3, 1)
    rig.settle()
    assert rig.backend.info().pending_batches == 0
    assert rig.backend.size().in_use > 0


def test_batch_closes_by_age_in_poll_without_traffic(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.now = 0.2
    rig.backend.poll()
    assert len(rig.backend._closed) == 1


def test_entries_without_rows_advance_the_stored_index(rig: LmdbRig) -> None:
    rig.backend.end_entries(7, 3)
    rig.now = 0.2
    rig.backend.poll()
    rig.settle()
    rig.kill(BEFORE_COMMIT)
    assert rig.backend.applied() == (7, 3)


@pytest.mark.parametrize("limit", [{"batch_ops": 3}, {"batch_bytes": 54}])
def test_batch_closes_when_it_is_full(folder: Path, limit: dict[str, int]) -> None:
    rig = LmdbRig(folder, **limit)
    put_entries(rig.backend, 1, 2)
    assert not rig.backend._closed
    put_entries(rig.backend, 3, 3)
    assert [batch.ops for batch in rig.backend._closed] == [3]
    rig.close()


def test_forced_commit_waits_for_the_end_of_the_entry(rig: LmdbRig) -> None:
    told: list[int] = []
    rig.backend.put(LEASE, b"a", b"1")
    rig.backend.force_commit(lambda: told.append(1))
    assert not rig.backend._closed
    rig.backend.put(LEASE, b"b", b"2")
    rig.backend.end_entries(1, 1)
    rig.run_until(lambda: told)
    rig.kill(BEFORE_COMMIT)
    assert rig.backend.range(LEASE, b"", END, 0) == [(b"a", b"1"), (b"b", b"2")]


def test_forced_commit_of_nothing_is_answered(rig: LmdbRig) -> None:
    told: list[int] = []
    rig.backend.force_commit(lambda: told.append(1))
    rig.backend.force_commit(lambda: told.append(2))
    rig.run_until(lambda: len(told) == 2)
    assert told == [1, 2]


def test_close_leaves_out_half_an_entry(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.flush()
    rig.backend.put(KEY, row(2), b"half")
    rig.reopen()
    assert rig.backend.applied() == (1, 1)
    assert rig.backend.get(KEY, row(2)) is None


def test_close_writes_what_is_complete(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 5)
    rig.reopen()
    assert rig.backend.applied() == (5, 1)
    assert rig.backend.durable_index == 5
    assert rig.backend.get_many(KEY, [row(1), row(5), row(6)]) == [b"v", b"v", None]


def test_nothing_is_written_after_abandon(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.backend.put(KEY, row(2), b"half")
    rig.backend.abandon()
    rig.now = 9.0
    rig.backend.poll()
    assert rig.backend.blocked()
    rig.reopen()
    assert rig.backend.applied() == (0, 0)


# ---- what is durable


def test_durable_index_trails_by_one_commit(rig: LmdbRig) -> None:
    """Without metasync the meta page of a commit reaches the disk with the next one's sync."""
    for index in (1, 2, 3):
        put_entries(rig.backend, index, index)
        rig.now += 0.1
        rig.backend.poll()
        rig.settle()
        assert rig.backend.durable_index == index - 1


def test_idle_backend_syncs_its_last_commit(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.now = 0.2
    rig.backend.poll()
    rig.settle()
    rig.now = 1.1
    rig.backend.poll()
    rig.settle()
    assert rig.backend.durable_index == 0
    rig.now = 1.2
    rig.backend.poll()
    rig.settle()
    assert rig.backend.durable_index == 1
    rig.now = 9.0
    rig.backend.poll()
    assert not rig.backend._closed, "there is nothing left to sync"


def test_forced_commit_is_durable_when_told(rig: LmdbRig) -> None:
    seen: list[int] = []
    put_entries(rig.backend, 1, 4)
    rig.backend.force_commit(lambda: seen.append(rig.backend.durable_index))
    rig.run_until(lambda: seen)
    assert seen == [4]


def test_commit_is_reported_with_its_numbers(folder: Path) -> None:
    reports: list = []
    rig = LmdbRig(folder, on_commit=reports.append)
    put_entries(rig.backend, 1, 3, b"x" * 5000)
    rig.flush()
    (stats,) = reports
    assert (stats.applied_index, stats.durable_index, stats.batches, stats.ops) == (3, 3, 1, 3)
    assert rig.backend.size() == (stats.size, stats.in_use)
    assert 3 * 5000 < stats.in_use <= stats.size
    rig.close()


# ---- reads while a batch is on its way


def test_rows_are_seen_at_every_stage_of_a_batch(rig: LmdbRig) -> None:
    def everything() -> list:
        rows = rig.backend.range(KEY, b"", END, 0)
        keys = [row(number) for number in range(6)]
        found = zip(keys, rig.backend.get_many(KEY, keys), strict=True)
        assert [pair for pair in found if pair[1] is not None] == rows
        assert all(rig.backend.get(KEY, key) == value for key, value in rows)
        return [int.from_bytes(key, "big") for key, _ in rows]

    gate = rig.gate("backend.after_commit")
    put_entries(rig.backend, 1, 3)
    assert everything() == [1, 2, 3]
    rig.now = 0.1
    rig.backend.poll()
    gate.wait_reached()
    rig.backend.delete(KEY, row(2))
    put_entries(rig.backend, 4, 4)
    assert everything() == [1, 3, 4]
    gate.open.set()
    rig.settle()
    assert everything() == [1, 3, 4]
    rig.flush()
    assert everything() == [1, 3, 4]


def test_deleted_row_is_not_read_before_the_flush(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 3)
    rig.backend.put(LEASE, b"a", b"1")
    rig.flush()
    rig.backend.delete_many(KEY, [row(1), row(2)])
    rig.backend.delete(LEASE, b"a")
    rig.backend.delete(LEASE, b"never there")
    assert rig.backend.get(KEY, row(1)) is None
    assert rig.backend.get(LEASE, b"a") is None
    assert rig.backend.range(KEY, b"", END, 1) == [(row(3), b"v")]
    assert rig.backend.get_many(KEY, [row(1), row(3)]) == [None, b"v"]
    rig.backend.put(LEASE, b"a", b"2")
    assert rig.backend.get(LEASE, b"a") == b"2"
    rig.flush()
    assert rig.backend.range(LEASE, b"", END, 0) == [(b"a", b"2")]


def test_row_put_and_deleted_in_one_batch_leaves_nothing(rig: LmdbRig) -> None:
    rig.backend.put(KEY, row(1), b"v")
    rig.backend.put(KEY, row(2), b"v")
    rig.backend.delete(KEY, row(1))
    rig.backend.end_entries(1, 1)
    rig.flush()
    assert rig.backend.range(KEY, b"", END, 0) == [(row(2), b"v")]


def test_the_newest_of_several_waiting_batches_counts(folder: Path) -> None:
    rig = LmdbRig(folder, batch_ops=1)
    gate = rig.gate(BEFORE_COMMIT)
    for index in (1, 2, 3):
        rig.backend.put(LEASE, b"a", b"%d" % index)
        rig.backend.end_entries(index, 1)
        gate.wait_reached()
        assert rig.backend.get(LEASE, b"a") == b"%d" % index
        assert rig.backend.get_many(LEASE, [b"a"]) == [b"%d" % index]
    assert len(rig.backend._closed) == 3
    gate.open.set()
    rig.settle()
    assert rig.backend.get(LEASE, b"a") == b"3"
    rig.kill(BEFORE_COMMIT)
    assert rig.backend.applied() == (3, 1)
    assert rig.backend.get(LEASE, b"a") == b"3"
    rig.close()


def test_batches_that_waited_share_a_transaction(folder: Path) -> None:
    reports: list = []
    rig = LmdbRig(folder, batch_ops=1, on_commit=reports.append)
    gate = rig.gate(BEFORE_COMMIT)
    put_entries(rig.backend, 1, 1)
    gate.wait_reached()
    put_entries(rig.backend, 2, 3)
    gate.open.set()
    rig.settle()
    assert [(report.batches, report.applied_index) for report in reports] == [(1, 1), (2, 3)]
    rig.close()


# ---- back-pressure


def test_apply_waits_while_too_many_batches_do(folder: Path) -> None:
    drained: list[int] = []
    rig = LmdbRig(folder, batch_ops=1, on_drained=lambda: drained.append(1))
    gate = rig.gate(BEFORE_COMMIT)
    put_entries(rig.backend, 1, 2)
    assert not rig.backend.blocked()
    put_entries(rig.backend, 3, 3)
    assert rig.backend.blocked()
    gate.open.set()
    rig.run_until(lambda: drained)
    rig.settle()
    assert not rig.backend.blocked()
    assert drained == [1]
    rig.close()


def test_apply_waits_when_memory_is_full(rig: LmdbRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_backend, "OVERLAY_BYTES_MAX", 1000)
    gate = rig.gate(BEFORE_COMMIT)
    rig.backend.put(LEASE, b"a", b"x" * 500)
    rig.backend.put(LEASE, b"b", b"x" * 498)
    assert not rig.backend.blocked()
    rig.backend.put(LEASE, b"c", b"")
    assert rig.backend.blocked()
    gate.open.set()


def test_aged_batch_grows_while_two_wait(rig: LmdbRig) -> None:
    gate = rig.gate(BEFORE_COMMIT)
    for index in range(1, 6):
        rig.now += 1.0
        put_entries(rig.backend, index, index)
        rig.now += 1.0
        rig.backend.poll()
    assert len(rig.backend._closed) == 2
    assert not rig.backend.blocked()
    gate.open.set()
    rig.flush()
    assert rig.backend.durable_index == 5


def test_large_batch_is_freed_in_slices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_backend, "SWEEP_ROWS", 100)
    rig = LmdbRig(folder)
    put_entries(rig.backend, 1, 250)
    rig.backend.put(LEASE, b"a", b"1")
    rig.backend.end_entries(251, 1)
    rows = rig.backend._open.tables[KEY]
    rig.flush()
    assert len(rows) == 150
    rig.posts.get()()
    assert len(rows) == 50
    rig.posts.get()()
    assert len(rows) == 0 and rig.posts.empty()
    assert len(rig.backend.range(KEY, b"", END, 0)) == 250
    rig.close()


# ---- errors of the writer


def test_full_map_is_fatal_and_names_the_file(folder: Path) -> None:
    rig = LmdbRig(folder, map_size=1 << 20)
    told: list[int] = []
    put_entries(rig.backend, 1, 1, b"x" * (2 << 20))
    rig.backend.force_commit(lambda: told.append(1))
    rig.run_until(lambda: rig.errors)
    (error,) = rig.errors
    assert isinstance(error, BackendFailed)
    assert str(rig.path) in str(error) and "MAP_FULL" in str(error)
    assert rig.backend.blocked()
    put_entries(rig.backend, 2, 2)
    rig.backend.force_commit(lambda: told.append(2))
    while not rig.posts.empty():
        rig.posts.get()()
    assert told == [] and len(rig.errors) == 1
    rig.reopen()
    assert rig.backend.applied() == (0, 0)
    rig.close()


def test_close_says_what_it_could_not_write(folder: Path) -> None:
    """Nobody is called back any more, and who builds on what was written has to know."""
    rig = LmdbRig(folder, map_size=1 << 20)
    put_entries(rig.backend, 1, 1, b"x" * (2 << 20))
    with pytest.raises(BackendFailed, match="MAP_FULL"):
        rig.backend.close()
    rig.backend.close()
    rig.open()
    assert rig.backend.applied() == (0, 0)
    rig.close()


def test_revisions_out_of_order_are_fatal(rig: LmdbRig) -> None:
    put_entries(rig.backend, 5, 5)
    rig.flush()
    rig.backend.put(KEY, row(4), b"v")
    rig.backend.end_entries(6, 1)
    rig.backend.force_commit()
    rig.run_until(lambda: rig.errors)
    assert isinstance(rig.errors[0], CorruptionError)
    rig.reopen()
    assert rig.backend.applied() == (5, 1)


# ---- views


def test_view_is_frozen_and_may_be_read_elsewhere(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 2500)
    rig.flush()
    view = rig.backend.snapshot("test")
    put_entries(rig.backend, 2501, 2502)
    rig.backend.delete(KEY, row(1))
    rig.flush()
    seen: list = []
    thread = threading.Thread(target=lambda: seen.extend(view.range(KEY, b"", END, 0)))
    thread.start()
    thread.join()
    assert [key for key, _ in seen] == [row(number) for number in range(1, 2501)]
    assert view.range(KEY, row(7), row(9), 0) == [(row(7), b"v"), (row(8), b"v")]
    assert len(view.range(KEY, b"", END, 1001)) == 1001
    view.close()
    view.close()
    assert rig.backend.info().readers == []


def test_view_beyond_its_budget_is_cancelled_with_an_error(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.flush()
    view = rig.backend.snapshot("hash")
    rig.now += 60.0
    rig.backend.poll()
    assert view.range(KEY, b"", END, 0) == [(row(1), b"v")]
    assert [(reader.owner, reader.age) for reader in rig.backend.info().readers] == [("hash", 60.0)]
    rig.now += 1.0
    rig.backend.poll()
    assert rig.backend.info().readers == []
    with pytest.raises(SnapshotExpired, match="hash"):
        view.range(KEY, b"", END, 0)
    view.close()


def test_view_cancelled_while_it_is_read_ends_with_that_read(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.flush()
    view = rig.backend.snapshot("hash")
    with view._lock:
        view.cancel(61.0)
        assert len(rig.backend.info().readers) == 1
    with pytest.raises(SnapshotExpired):
        view.range(KEY, b"", END, 0)
    assert rig.backend.info().readers == []


def test_long_reader_stops_nobody(rig: LmdbRig) -> None:
    put_entries(rig.backend, 1, 1)
    rig.flush()
    view = rig.backend.snapshot()
    for index in range(2, 12):
        put_entries(rig.backend, index, index)
        rig.flush()
    assert rig.backend.get(KEY, row(11)) == b"v"
    assert view.range(KEY, b"", END, 0) == [(row(1), b"v")]
    view.close()


def test_number_of_views_is_limited(rig: LmdbRig) -> None:
    views = [rig.backend.snapshot() for _ in range(VIEWS_MAX)]
    with pytest.raises(BackendFailed, match=f"{VIEWS_MAX} read views"):
        rig.backend.snapshot()
    views[0].close()
    rig.backend.snapshot().close()
    put_entries(rig.backend, 1, 1)
    rig.flush()


def test_views_end_with_the_backend(rig: LmdbRig) -> None:
    view = rig.backend.snapshot()
    rig.backend.close()
    rig.backend.close()
    with pytest.raises(AssertionError, match="closed"):
        view.range(META, b"", END, 0)
    with pytest.raises(BackendFailed, match="closed"):
        rig.backend.snapshot()


# ---- reports


def test_report_that_cannot_be_taken_in_is_fatal(folder: Path) -> None:
    """It comes from the writer's thread: on the loop nobody else would hear of the error."""

    def refuse(stats: object) -> None:
        raise ValueError("no checkpoint")

    rig = LmdbRig(folder, on_commit=refuse)
    put_entries(rig.backend, 1, 1)
    rig.backend.force_commit()
    rig.run_until(lambda: rig.errors)
    rig.backend._writer.submit(Batch())
    rig.posts.get(timeout=10)()
    assert [str(error) for error in rig.errors] == ["no checkpoint"]
    assert rig.backend.blocked()
    rig.close()
