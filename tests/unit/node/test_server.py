"""Server: what waits for a rebuild or reads in slices hears of every end exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from mvcc.errors import BackendFailed
from node.server import Server


async def test_installation_that_was_stopped_hears_no_more() -> None:
    """The driver cancels it on stop; the backend's report may still come."""
    parts: Any = SimpleNamespace(_loop=asyncio.get_running_loop())
    reports: list[Any] = []
    waiting = asyncio.create_task(Server._rebuilt(parts, reports.append))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    reports[0](None)
    assert waiting.cancelled()


def test_range_over_a_damaged_page_is_answered_and_ends_the_member() -> None:
    """The loop calls the later slices: nobody else would hear of the error."""
    damage = BackendFailed("db", "a damaged page")

    def steps() -> Iterator[None]:
        raise damage
        yield

    failed: list[Exception] = []
    answers: list[object] = []
    store = object()
    parts: Any = SimpleNamespace(
        store=store, _installing=False, driver=SimpleNamespace(fail=failed.append)
    )
    Server._range_step(parts, store, steps(), answers.append)  # type: ignore[arg-type]
    assert answers == failed == [damage]
