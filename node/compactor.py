"""Carrying out compactions: one at a time, in the order applied, in paced batches that let
requests through.

The store has refused reads below the revision since the entry was applied; here the rows go. The
scheduled mark is forced to disk first, so a member that dies on the way finishes the same
compaction on its next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from mvcc.backend import Backend
from node.waiting import end_of

log = logging.getLogger("esker.compaction")

SLICE_ROWS = 1000
"""Rows deleted in one turn of the loop, about 2 ms, however large a batch may be."""
_PAUSE_MAX_SECONDS = 0.2


class _Item(NamedTuple):
    job: Any  # mvcc.compaction.Compaction, or None for a barrier
    done: Callable[[], None] | None


class Compactor:
    """Runs jobs until cancelled. `busy()` tells that requests wait, so the pause between batches
    is stretched.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        batch_rows: int,
        pause_seconds: float,
        busy: Callable[[], bool],
        observe: Callable[[float, int], None],
        hit: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._batch_rows = batch_rows
        self._pause = pause_seconds
        self._busy = busy
        self._observe = observe
        self._hit = hit
        self._queue: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._running: _Item | None = None
        self._generation = 0
        self.rows_deleted = 0
        """Since the start."""
        self.observe_whole: Callable[[float], None] = lambda milliseconds: None
        """Told how long each compaction took."""
        self.finished: Callable[[int], None] = lambda revision: None
        """Told the revision of each compaction whose end is on disk."""

    @property
    def idle(self) -> bool:
        """No job is running or queued: every row at or below the compacted revision is one that is
        kept. Who waits at a barrier does no work.
        """
        running = self._running
        return (running is None or running.job is None) and all(
            item.job is None for item in self._queue
        )

    def submit(self, job: Any) -> None:
        """Queue the job of a compaction that was just applied."""
        self._queue.append(_Item(job, None))
        self._wake.set()

    def barrier(self, done: Callable[[], None]) -> None:
        """`done()` once every job submitted so far is finished and that is on disk."""
        self._queue.append(_Item(None, done))
        self._wake.set()

    def reset(self) -> None:
        """The store was replaced: drop its jobs; their waiters are answered, nobody waits for
        ever.
        """
        self._generation += 1
        items, self._queue = list(self._queue), deque()
        for item in items:
            if item.done is not None:
                item.done()

    async def run(self) -> None:
        """The task: ends only by cancellation."""
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            self._running = item = self._queue.popleft()
            if item.job is not None:
                await self._compact(item.job, self._generation)
            else:
                await self._flush()
            self._running = None
            if item.done is not None:
                item.done()

    async def _compact(self, job: Any, generation: int) -> None:
        loop = asyncio.get_running_loop()
        await self._flush()
        self._hit("compaction.scheduled_durable")
        started = loop.time()
        pause = self._pause
        while generation == self._generation:
            if await self._batch(job, generation):
                break
            pause = min(pause * 2, _PAUSE_MAX_SECONDS) if self._busy() else self._pause
            await asyncio.sleep(pause)
        if generation == self._generation:
            await self._flush()
            self._hit("compaction.finished_durable")
            took_ms = (loop.time() - started) * 1e3
            self.observe_whole(took_ms)
            self.finished(job.revision)
            log.info("finished compaction", extra={"rev": job.revision, "took_ms": round(took_ms)})

    async def _batch(self, job: Any, generation: int) -> bool:
        """Delete `batch_rows` rows, a slice per turn of the loop; True when these were the last."""
        loop = asyncio.get_running_loop()
        left = self._batch_rows
        while generation == self._generation:
            rows = min(left, SLICE_ROWS)
            before = loop.time()
            had_deleted = job.deleted
            finished: bool = job.step(rows)
            self._observe(loop.time() - before, rows)
            self.rows_deleted += job.deleted - had_deleted
            left -= rows
            if finished or not left:
                return finished
            await asyncio.sleep(0)
        return False

    async def _flush(self) -> None:
        await end_of(self._backend.force_commit)
