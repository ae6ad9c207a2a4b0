"""Annex: aiohttp's side of the listeners, and what aiohttp does not limit: how long a head may take
to come, and how long an answer may wait to be read.

Bodies have their own deadline (`http.BODY_READ_SECONDS`); that heads have a size, and that a
pipeline is read only so far ahead, is aiohttp's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from node.api.door import HALF_REQUEST_SECONDS, HEAD_BYTES_MAX, IDLE_SECONDS, STALLED_SECONDS

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """False for what aiohttp reports of malformed requests: those are the client's affair."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


aiohttp_log = logging.getLogger("esker.aiohttp")
aiohttp_log.addFilter(_is_ours)


class Guest(web.RequestHandler):
    """One connection.

    `serving`: a request's handler runs. `patient`: it may wait for its client as long as it likes.
    `_half_since`: when bytes came that no handler has begun to serve; `_full_since`: when the
    client stopped reading.
    """

    __slots__ = ("_full_since", "_half_since", "patient", "serving")

    def __init__(self, annex: Annex, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            annex,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            logger=aiohttp_log,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
            auto_decompress=False,
        )
        self.serving = self.patient = False
        self._half_since: float | None = None
        self._full_since: float | None = None

    def data_received(self, data: bytes) -> None:
        if data and not self.serving and self._half_since is None:
            self._half_since = self._loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._full_since = self._loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._full_since = None
        if self._half_since is not None:
            self._half_since = self._loop.time()

    def served(self) -> None:
        """The handler has ended; its answer may still be on its way."""
        self.serving = self.patient = False
        self._half_since = None

    def sweep(self, now: float) -> None:
        """End the connection when its state lasts too long."""
        if self.transport is None or self.patient:
            return
        if self._full_since is not None:
            if now - self._full_since > STALLED_SECONDS:
                self.transport.abort()
            return
        half = self._half_since
        if half is not None and not self.serving and now - half > HALF_REQUEST_SECONDS:
            self.transport.close()


class Annex(web.Server):
    """Makes a Guest of each connection, and has `handler` serve its requests."""

    def __init__(self, handler: Handler) -> None:
        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            guest = request.protocol
            assert isinstance(guest, Guest)
            guest.serving = True
            try:
                return await handler(request)
            finally:
                guest.served()

        super().__init__(serve, handler_cancellation=True)

    def __call__(self) -> Guest:
        return Guest(self, self._loop)

    def sweep(self, now: float) -> None:
        """Call it about once a second."""
        for guest in self.connections:
            assert isinstance(guest, Guest)
            guest.sweep(now)
