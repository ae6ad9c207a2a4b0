"""Waiting for what reports by a callback: a proposal, a linearizable read, a rebuilt database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from node.proposals import Done


async def answer_of(start: Callable[[Done], object]) -> Any:
    """`start(done)` begins; what `done` is given is returned, or raised if it is an error."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(result: object) -> None:
        if future.done():
            return  # the member stops or the caller left, and has cancelled this
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    start(done)
    return await future


async def end_of(start: Callable[[Callable[[], None]], object]) -> None:
    """`start(done)` begins something that can only end; returns when it has."""
    await answer_of(lambda done: start(lambda: done(None)))
