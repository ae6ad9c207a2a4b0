"""Ticker: counts time for the core, and tells a late loop from a silent leader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Ticker:
    """Calls `tick(count)` once per interval: 1, or 2 when the loop was late by another interval.

    Never a burst: what the other members sent meanwhile still waits in the sockets, and a member
    that was merely busy must not campaign because of it.
    """

    def __init__(self, interval: float, tick: Callable[[int], None]) -> None:
        self._interval = interval
        self._tick = tick
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The first tick comes after one interval."""
        self._due = self._loop.time() + self._interval
        self._handle = self._loop.call_at(self._due, self._fire)

    def stop(self) -> None:
        """No tick comes any more. Idempotent."""
        if self._handle is not None:
            self._handle.cancel()

    def _fire(self) -> None:
        now = self._loop.time()
        late = now - self._due > self._interval
        self._due = now + self._interval if late else self._due + self._interval
        self._handle = self._loop.call_at(self._due, self._fire)
        self._tick(2 if late else 1)
