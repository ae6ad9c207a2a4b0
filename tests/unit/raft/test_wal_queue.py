"""The driver's end of the WAL: order, what is owed, waiting."""

from __future__ import annotations

import asyncio

from raft.core.types import HardState, Snapshot
from raft.wal import WalJob
from raft.wal_queue import WalQueue

from .driver_fixture import RecordingWal


def make() -> tuple[RecordingWal, WalQueue, list[BaseException]]:
    wal, errors = RecordingWal(), []
    return wal, WalQueue(wal, errors.append), errors


async def test_busy_until_the_last_is_written() -> None:
    wal, queue, _ = make()
    assert (queue.busy, queue.waiting_seconds()) == (False, 0.0)
    done: list[int] = []
    for number in range(2):
        queue.submit(WalJob(), lambda number=number: done.append(number), sync=True)
    wal.write(1)
    assert (queue.busy, done) == (True, [0])
    queue._started[0] -= 5
    assert queue.waiting_seconds() >= 5
    wal.write()
    assert (queue.busy, done, queue.waiting_seconds()) == (False, [0, 1], 0.0)


async def test_owed_state_rides_with_the_next_job_unless_that_knows_better() -> None:
    wal, queue, _ = make()
    queue.owe(HardState(1, 0, 5))
    queue.owe(HardState(1, 0, 6))
    assert wal.jobs == []
    queue.submit(WalJob(snapshot=Snapshot(3, 1)), lambda: None, sync=False)
    queue.submit(WalJob(), lambda: None, sync=False)
    queue.owe(HardState(1, 0, 7))
    queue.submit(WalJob(HardState(2, 0, 7)), lambda: None, sync=True)
    queue.submit(WalJob(), lambda: None, sync=False)
    assert [job.hard_state for job, _ in wal.jobs] == [
        HardState(1, 0, 6),
        None,
        HardState(2, 0, 7),
        None,
    ]
    assert wal.jobs[0][0].snapshot == Snapshot(3, 1)


async def test_flush_writes_what_is_owed_and_waits() -> None:
    wal, queue, _ = make()
    await queue.flush()
    queue.owe(HardState(1, 0, 5))
    flushed = asyncio.ensure_future(queue.flush())
    await asyncio.sleep(0)
    assert wal.jobs == [(WalJob(HardState(1, 0, 5)), True)]
    assert not flushed.done()
    wal.write()
    await flushed


async def test_abandoned_queue_keeps_nobody_waiting() -> None:
    _, queue, _ = make()
    queue.submit(WalJob(), lambda: None, sync=True)
    queue.abandon()
    await queue.flush()
    assert queue.busy


async def test_error_of_a_callback_is_handed_on() -> None:
    wal, queue, errors = make()
    done: list[int] = []
    queue.submit(WalJob(), lambda: done.remove(7), sync=True)
    queue.submit(WalJob(), lambda: done.append(1), sync=True)
    wal.write()
    assert [type(error) for error in errors] == [ValueError]
    assert done == [1]
