"""The one thread that writes the WAL, and the loop's end of it.

    loop:   submit(job, on_done) ---- SimpleQueue ---->  thread: everything that waits = one group
            on_done(), ... <------- one call_soon ---          one write, one fdatasync at most

While one group syncs, the next one gathers: the slower the disk, the larger the groups.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from raft.wal import Wal, WalJob

SLOW_SECONDS = 1.0
"""A write that takes longer is worth a line in the log: elections are that near."""
_STOP = None
_log = logging.getLogger("raft.wal")


class _Write(NamedTuple):
    job: WalJob
    sync: bool
    on_done: Callable[[], None] | None


class _Release(NamedTuple):
    before: int


class WalThread:
    """Owns `wal` from `start` to the end of `stop`; all methods are for the loop's thread.

    Jobs are written in the order of `submit`, and their `on_done` run on the loop in that order,
    when the job and all before it are durable; for a job without `sync`, when it is written.
    `failed` is called on the loop, once, with the first error; no `on_done` runs after it.

    `observe(seconds)` is called in the thread for each write with its sync. `last_seconds` is the
    latest of these; `busy_seconds()` is how long the one under way has taken: a watchdog's food.
    """

    def __init__(
        self,
        wal: Wal,
        loop: asyncio.AbstractEventLoop,
        *,
        failed: Callable[[Exception], None],
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self._wal = wal
        self._loop = loop
        self._failed = failed
        self._observe = observe
        self._queue: SimpleQueue[_Write | _Release | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._busy_since: float | None = None
        self.last_seconds = 0.0

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, job: WalJob, on_done: Callable[[], None] | None = None, *, sync: bool) -> None:
        """Hands a Ready's writes over; never blocks. Its entries must not change until done."""
        self._queue.put(_Write(job, sync, on_done))

    def release(self, index: int) -> None:
        """`Wal.release`, after everything submitted before."""
        self._queue.put(_Release(index))

    def busy_seconds(self) -> float:
        """The age of the write under way, 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def stop(self) -> None:
        """Writes what was submitted, ends the thread, closes the log. Idempotent."""
        if self._thread.is_alive():
            self._queue.put(_STOP)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._wal.close()

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # the edge of the thread: the loop's owner ends the node
            self._loop.call_soon_threadsafe(self._failed, error)

    def _turn(self) -> bool:
        """Waits for work, meanwhile preparing, and does all there is; False when told to stop."""
        queue = self._queue
        while queue.empty() and self._wal.prepare():
            pass
        items = [queue.get()]
        while queue.qsize():  # this thread is the only taker
            items.append(queue.get())
        going_on = _STOP not in items
        writes = [item for item in items if isinstance(item, _Write)]
        if writes:
            self._write(writes)
        # Later than asked is as good: a release only ever follows a marker that is written.
        released = max((item.before for item in items if isinstance(item, _Release)), default=0)
        if released:
            self._wal.release(released)
        return going_on

    def _write(self, writes: list[_Write]) -> None:
        started = self._busy_since = time.monotonic()
        sync = any(write.sync for write in writes)
        self._wal.append_jobs([write.job for write in writes], sync=sync)
        self.last_seconds = time.monotonic() - started
        self._busy_since = None
        if self.last_seconds > SLOW_SECONDS:
            _log.warning("wal: slow disk: a write took %.3f s", self.last_seconds)
        callbacks = [write.on_done for write in writes if write.on_done is not None]
        if callbacks:
            self._loop.call_soon_threadsafe(_call_all, callbacks)
        if self._observe is not None and sync:
            self._observe(self.last_seconds)


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()
