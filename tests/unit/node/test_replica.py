"""Replica: who waits for a rebuild hears of every end exactly once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from node.replica import Replica


async def test_installation_that_was_stopped_hears_no_more() -> None:
    """The driver cancels it on stop; the backend's report may still come."""
    parts: Any = SimpleNamespace(_loop=asyncio.get_running_loop())
    reports: list[Any] = []
    waiting = asyncio.create_task(Replica._rebuilt(parts, reports.append))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    reports[0](None)
    assert waiting.cancelled()
