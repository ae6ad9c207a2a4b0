"""answer_of: who waits for a report hears of every end exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

from node.waiting import answer_of


async def test_installation_that_was_stopped_hears_no_more() -> None:
    """The driver cancels it on stop; the backend's report may still come."""
    reports: list[Any] = []
    waiting = asyncio.create_task(answer_of(reports.append))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    reports[0](None)
    assert waiting.cancelled()
