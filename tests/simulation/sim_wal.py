"""The WAL's thread, without a thread: what waits is written with one sync, some time later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raft.wal import Wal, WalJob


class SimWal:
    """Implements `raft.state_machine.WalWriter`. `seconds()` is how long the next write takes."""

    def __init__(
        self,
        wal: Wal,
        *,
        seconds: Callable[[], float],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._wal = wal
        self._seconds = seconds
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[WalJob, Callable[[], None] | None, bool]] = []
        self._release = 0
        self._busy = False

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, job: WalJob, on_done: Callable[[], None] | None = None, *, sync: bool) -> None:
        self._waiting.append((job, on_done, sync))
        self._begin()

    def release(self, index: int) -> None:
        self._release = max(self._release, index)
        self._begin()

    def _begin(self) -> None:
        if not self._busy:
            self._busy = True
            self._loop.call_later(self._seconds(), self._write)

    def _write(self) -> None:
        writes, self._waiting = self._waiting, []
        released, self._release = self._release, 0
        try:
            self._wal.prepare()
            if writes:
                jobs = [job for job, _, _ in writes]
                self._wal.append_jobs(jobs, sync=any(sync for _, _, sync in writes))
            if released:
                self._wal.release(released)
        except Exception as error:
            self._failed(error)
            return
        self._busy = False
        for _, on_done, _ in writes:
            if on_done is not None:
                on_done()
        if self._waiting or self._release:
            self._begin()

    async def stop(self) -> None:
        """Write what waits, at once."""
        if self._waiting:
            self._write()
        self._wal.close()
