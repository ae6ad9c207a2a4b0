"""Waiting for the backend to go over to a new generation: after an installation, a
defragmentation, or an installation that an earlier life began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def rebuilt(start: Callable[[Callable[[Exception | None], None]], None]) -> None:
    """`start(done)` begins; returns at `done(None)`, raises what `done` was given otherwise."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: Exception | None) -> None:
        if future.done():
            return  # the member stops or the caller left, and has cancelled this
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    start(done)
    await future
