"""WalQueue: the driver's end of the WAL; knows what is being written and since when."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from raft.core.types import HardState
from raft.state_machine import WalWriter
from raft.wal import WalJob

log = logging.getLogger("esker.raft")

FLUSH_SECONDS = 10.0


class WalQueue:
    """Jobs under way, in the order of their submission.

    `_started` holds for each of them when it was submitted, oldest first. `_owed` is a hard state
    whose commit alone has moved: it need not be durable, so it waits for the next job and costs
    none of its own.
    """

    def __init__(self, wal: WalWriter, fail: Callable[[BaseException], None]) -> None:
        """`fail` gets what a job's callback raises."""
        self._wal = wal
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._started: deque[float] = deque()
        self._owed: HardState | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> bool:
        """Whether anything is not yet written."""
        return bool(self._started)

    def waiting_seconds(self) -> float:
        """The age of the oldest job under way; 0 when there is none."""
        return self._loop.time() - self._started[0] if self._started else 0.0

    def owe(self, hard_state: HardState) -> None:
        """To be written with whatever comes next."""
        self._owed = hard_state

    def submit(self, job: WalJob, on_done: Callable[[], None], *, sync: bool) -> None:
        """Write after all earlier jobs; `on_done` when this and they are as durable as asked."""
        if job.hard_state is None and self._owed is not None:
            job = job._replace(hard_state=self._owed)
        self._owed = None
        self._started.append(self._loop.time())
        self._idle.clear()

        def written() -> None:
            self._started.popleft()
            if not self._started:
                self._idle.set()
            try:
                on_done()
            except Exception as error:
                self._fail(error)

        self._wal.submit(job, written, sync=sync)

    def release(self, index: int) -> None:
        """Nothing before `index` is needed any more."""
        self._wal.release(index)

    async def flush(self) -> None:
        """Write what is owed, and wait for everything under way, but not for a disk that is dead:
        nothing was promised about what it still has to write."""
        if self._owed is not None:
            self.submit(WalJob(self._owed), lambda: None, sync=True)
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            log.error("the WAL has not answered for %.0f s, not waiting for it", FLUSH_SECONDS)

    def abandon(self) -> None:
        """The WAL has failed: nobody waits for it any longer."""
        self._idle.set()
