"""Ticks: one per interval, at most one more after a loop that was late."""

from __future__ import annotations

import asyncio

from raft.ticker import Ticker

INTERVAL = 3600.0


async def test_late_loop_catches_up_by_one_tick() -> None:
    counts: list[int] = []
    ticker = Ticker(INTERVAL, counts.append)
    ticker.start()
    now = asyncio.get_running_loop().time()
    for due in (now, now - INTERVAL / 2, now - 100 * INTERVAL, now):
        ticker._handle.cancel()
        ticker._due = due
        ticker._fire()
    assert counts == [1, 1, 2, 1]
    # A little late keeps the beat, very late begins a new one.
    assert abs(ticker._due - now - INTERVAL) < INTERVAL / 10
    ticker.stop()
    ticker.stop()


async def test_ticks_come_by_themselves_until_stopped() -> None:
    ticked = asyncio.Event()
    ticker = Ticker(0.001, lambda count: ticked.set())
    ticker.start()
    await ticked.wait()
    ticker.stop()
    ticked.clear()
    assert ticker._handle.cancelled()
