"""The WAL's thread: groups, order, failure, the end."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable

import pytest

from raft.core.types import Entry, HardState, Snapshot
from raft.wal import Wal, WalFailed, WalJob
from raft.wal_thread import WalThread
from tests.faulty_disk import FaultyDisk

PATH = "/wal"


class SlowWal(Wal):
    """Stops in each write until `go` is set; `groups` are the sizes of what was written at once."""

    go: threading.Event
    groups: list[int]

    def append_jobs(self, jobs: list[WalJob], *, sync: bool) -> None:  # type: ignore[override]
        self.go.wait()
        self.groups.append(len(jobs))
        super().append_jobs(jobs, sync=sync)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


def slow_wal(disk: FaultyDisk) -> SlowWal:
    wal = Wal.create(disk, PATH, b"", segment_bytes=4096, reserve_bytes=0)
    wal.__class__ = SlowWal
    assert isinstance(wal, SlowWal)
    wal.go = threading.Event()
    wal.groups = []
    return wal


def reopened(disk: FaultyDisk) -> list[Entry]:
    wal, state = Wal.open(disk, PATH, segment_bytes=4096, reserve_bytes=0)
    wal.close()
    return state.entries


def job(index: int) -> WalJob:
    return WalJob(HardState(1, 1, index), [Entry(1, index, 0, b"v")])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the other side is a thread, which sets no event
        await asyncio.sleep(0)


def thread_of(
    wal: Wal,
    failed: Callable[[Exception], None] | None = None,
    observe: Callable[[float], None] | None = None,
) -> WalThread:
    def unexpected(error: Exception) -> None:
        raise error

    thread = WalThread(
        wal, asyncio.get_running_loop(), failed=failed or unexpected, observe=observe
    )
    thread.start()
    return thread


async def test_what_waits_is_one_group_and_done_in_order(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    observed: list[float] = []
    thread = thread_of(wal, observe=observed.append)
    done: list[int] = []
    syncs = disk.syncs
    thread.submit(job(1), lambda: done.append(1), sync=True)
    await until(lambda: thread.busy_seconds() > 0.0)
    for index in range(2, 7):
        thread.submit(job(index), lambda index=index: done.append(index), sync=index % 2 == 0)
    assert done == []
    wal.go.set()
    await thread.stop()
    assert done == [1, 2, 3, 4, 5, 6]
    assert wal.groups == [1, 5]
    assert disk.syncs - syncs >= 2
    assert len(observed) == 2
    assert observed[-1] == thread.last_seconds
    assert thread.busy_seconds() == 0.0
    assert [entry.index for entry in reopened(disk)] == [1, 2, 3, 4, 5, 6]


async def test_callbacks_run_on_the_loop(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    wal.go.set()
    thread = thread_of(wal)
    ran: asyncio.Future[threading.Thread] = asyncio.get_running_loop().create_future()
    thread.submit(job(1), lambda: ran.set_result(threading.current_thread()), sync=True)
    assert await ran is threading.current_thread()
    disk.crash()
    assert len(reopened(disk)) == 1, "durable when told"
    await thread.stop()


async def test_a_job_without_sync_is_written_and_told_but_not_synced(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    wal.go.set()
    while wal.prepare():
        pass
    thread = thread_of(wal)
    syncs = disk.syncs
    told = asyncio.Event()
    thread.submit(job(1), told.set, sync=False)
    await told.wait()
    assert disk.syncs == syncs
    await thread.stop()
    assert len(reopened(disk)) == 1


async def test_a_failure_is_told_once_and_nothing_is_done_after_it(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    failures: list[Exception] = []
    thread = thread_of(wal, failures.append)
    done: list[int] = []
    thread.submit(job(1), lambda: done.append(1), sync=True)
    await until(lambda: thread.busy_seconds() > 0.0)
    disk.sync_error = errno.EIO
    thread.submit(job(2), lambda: done.append(2), sync=True)
    wal.go.set()
    await until(lambda: bool(failures))
    thread.submit(job(3), lambda: done.append(3), sync=True)
    await thread.stop()
    await thread.stop()
    assert [type(failure) for failure in failures] == [WalFailed]
    assert done == []


async def test_a_slow_disk_is_said(
    disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raft.wal_thread.SLOW_SECONDS", -1.0)
    wal = slow_wal(disk)
    wal.go.set()
    thread = thread_of(wal)
    thread.submit(job(1), sync=True)
    await thread.stop()
    assert "slow disk" in caplog.text


async def test_stop_writes_what_was_submitted(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    wal.go.set()
    thread = thread_of(wal)
    for index in range(1, 6):
        thread.submit(job(index), sync=True)
    await thread.stop()
    disk.crash()
    assert len(reopened(disk)) == 5


async def test_release_follows_its_marker(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    wal.go.set()
    thread = thread_of(wal)
    for index in range(1, 9):
        entry = Entry(1, index, 0, bytes([index]) * 3000)
        written = asyncio.Event()
        thread.submit(WalJob(HardState(1, 1, index), [entry]), written.set, sync=True)
        await written.wait()
    thread.submit(WalJob(None, (), Snapshot(7, 1)), sync=True)
    thread.release(8)
    await thread.stop()
    firsts = [int(name[17:33], 16) for name in disk.list(PATH) if name.endswith(".wal")]
    assert firsts == [7, 8]
    assert [entry.index for entry in reopened(disk)] == [8]


async def test_idle_moments_prepare_the_segment(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    wal.go.set()
    thread = thread_of(wal)
    thread.submit(WalJob(HardState(1, 1, 0), [Entry(1, 1, 0, b"x" * 3000)]), sync=True)
    await until(lambda: "next.tmp" in disk.list(PATH))
    await thread.stop()


async def test_a_thread_that_never_started_just_closes(disk: FaultyDisk) -> None:
    wal = slow_wal(disk)
    loop = asyncio.get_running_loop()
    await WalThread(wal, loop, failed=pytest.fail).stop()
    assert reopened(disk) == []
