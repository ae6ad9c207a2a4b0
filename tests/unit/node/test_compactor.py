"""Compactor: order, durability before the first row, barriers, replacement of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from node.compactor import Compactor


class FakeBackend:
    """Commits when told; keeps the order of what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.waiting: list[Callable[[], None]] = []
        self.automatic = True

    def force_commit(self, done: Callable[[], None]) -> None:
        if self.automatic:
            self.events.append("commit")
            done()
        else:
            self.waiting.append(done)

    def commit(self) -> None:
        self.events.append("commit")
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done()


class FakeJob:
    def __init__(self, backend: FakeBackend, revision: int, steps: int) -> None:
        self.backend, self.revision, self.steps = backend, revision, steps
        self.deleted = 0

    def step(self, limit: int) -> bool:
        self.steps -= 1
        self.deleted += 3
        self.backend.events.append(f"step {self.revision}")
        return self.steps <= 0


@pytest.fixture
async def running() -> AsyncIterator[tuple[Compactor, FakeBackend]]:
    backend = FakeBackend()
    compactor = Compactor(
        backend,  # type: ignore[arg-type]
        batch_rows=10,
        pause_seconds=0.0,
        busy=lambda: False,
        observe=lambda seconds, rows: None,
        hit=lambda name: None,
    )
    task = asyncio.create_task(compactor.run())
    yield compactor, backend
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def reached(compactor: Compactor) -> None:
    event = asyncio.Event()
    compactor.barrier(event.set)
    await asyncio.wait_for(event.wait(), 5)


async def test_jobs_run_one_after_the_other_in_order(running) -> None:
    compactor, backend = running
    took: list[float] = []
    compactor.observe_whole = took.append
    compactor.submit(FakeJob(backend, 5, 2))
    compactor.submit(FakeJob(backend, 9, 1))
    await reached(compactor)
    assert (len(took), compactor.rows_deleted) == (2, 9)
    steps = [event for event in backend.events if event.startswith("step")]
    assert steps == ["step 5", "step 5", "step 9"]


async def test_the_scheduled_mark_is_durable_before_the_first_row_goes(running) -> None:
    compactor, backend = running
    backend.automatic = False
    compactor.submit(FakeJob(backend, 5, 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert backend.events == []
    backend.automatic = True
    backend.commit()
    await reached(compactor)
    assert backend.events[:2] == ["commit", "step 5"]


async def test_a_barrier_is_answered_after_the_finished_mark_is_durable(running) -> None:
    compactor, backend = running
    compactor.submit(FakeJob(backend, 5, 1))
    await reached(compactor)
    assert backend.events.index("step 5") < len(backend.events) - 1
    assert backend.events[-1] == "commit"


async def test_reset_answers_queued_waiters_and_ends_the_running_job(running) -> None:
    compactor, backend = running
    answered = []
    compactor.submit(FakeJob(backend, 5, 1_000_000))
    compactor.submit(FakeJob(backend, 6, 1))
    compactor.barrier(lambda: answered.append("barrier"))
    while "step 5" not in backend.events:  # noqa: ASYNC110 - the job has no event to wait for
        await asyncio.sleep(0)
    compactor.reset()
    assert answered == ["barrier"]
    await reached(compactor)
    assert "step 6" not in backend.events
    assert compactor.idle


async def test_a_large_batch_lets_the_loop_turn_between_slices() -> None:
    backend = FakeBackend()
    turns: list[str] = []

    class LargeJob(FakeJob):
        def step(self, limit: int) -> bool:
            turns.append(str(limit))
            asyncio.get_running_loop().call_soon(turns.append, "turn")
            return super().step(limit)

    compactor = Compactor(
        backend,  # type: ignore[arg-type]
        batch_rows=2500,
        pause_seconds=0.0,
        busy=lambda: False,
        observe=lambda seconds, rows: None,
        hit=lambda name: None,
    )
    task = asyncio.create_task(compactor.run())
    finished = asyncio.Event()
    compactor.submit(LargeJob(backend, 5, 5))
    compactor.barrier(finished.set)
    await finished.wait()
    assert turns[:-1] == ["1000", "turn", "1000", "turn", "500", "turn", "1000", "turn", "1000"]
    task.cancel()


async def test_who_waits_does_not_look_like_work_to_another(
    running: tuple[Compactor, FakeBackend],
) -> None:
    """Two hashes at once once waited for each other for ever."""
    compactor, backend = running
    backend.automatic = False
    seen: list[bool] = []
    compactor.submit(FakeJob(backend, 5, 1))
    for _ in range(2):
        compactor.barrier(lambda: seen.append(compactor.idle))
    assert not compactor.idle
    for _ in range(20):
        await asyncio.sleep(0)
        backend.commit()
    assert seen == [True, True]


async def test_the_end_of_each_job_is_told_when_it_is_durable(
    running: tuple[Compactor, FakeBackend],
) -> None:
    compactor, backend = running
    told: list[tuple[int, str]] = []
    compactor.finished = lambda revision: told.append((revision, backend.events[-1]))
    done = asyncio.Event()
    compactor.submit(FakeJob(backend, 5, 2))
    compactor.submit(FakeJob(backend, 9, 1))
    compactor.barrier(done.set)
    await done.wait()
    assert told == [(5, "commit"), (9, "commit")]
