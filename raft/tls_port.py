"""TlsPort: a listener whose connections prove themselves before a protocol sees them.

    accepted ─► first byte ─┬─► TLS: handshake, certificate ─► the caller's protocol
                            └─► anything else: told in HTTP that this port speaks TLS, and closed

Each connection has a task of its own until it is handed over, so a slow one delays nobody, and
HANDSHAKE_SECONDS for each of the two steps. Every handshake asks for the context anew: certificates
renewed on disk hold from the next connection on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

log = logging.getLogger("esker.tls")

HANDSHAKE_SECONDS = 5.0
PENDING_MAX = 512
"""Connections in their handshake; one more costs the oldest its place, which is the slowest."""
BACKLOG = 1024
ACCEPT_PAUSE_SECONDS = 0.1
"""After an accept that failed, for want of file descriptors mostly."""
COMPLAIN_SECONDS = 10.0
"""Between two lines about the same kind of fault."""
LINGER_SECONDS = 1.0
"""For a plain client to read why it is sent away."""
LINGER_BYTES_MAX = 1 << 20

TLS_HANDSHAKE = b"\x16"
"""The first byte of every TLS connection."""
SPOKEN_TO_PLAINLY = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)

Certificate = Mapping[str, Any]
"""A verified certificate as `SSLSocket.getpeercert` tells of it; empty without one."""


class Tls(Protocol):
    """One side's certificates, and whom it lets in."""

    def context(self) -> ssl.SSLContext:
        """The one to begin the next handshake with."""

    def refusal(self, certificate: Certificate) -> str:
        """Why the holder of a certificate that is in order is refused all the same; or empty."""


def certificate_of(transport: asyncio.BaseTransport) -> Certificate:
    """What the other side has shown and we have verified; empty for anything else."""
    return transport.get_extra_info("peercert") or {}


async def listen_tls(
    tls: Tls,
    factory: Callable[[], asyncio.Protocol],
    host: str | None,
    port: int,
    *,
    full: Callable[[], bool] = lambda: False,
) -> TlsPort:
    """Listen on every address of `host`. OSError.

    While `full()` there is no room for one connection more, `TlsPort.pending` among them.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            listening = socket.create_server(address, family=family, backlog=BACKLOG)
            listening.setblocking(False)
            sockets.append(listening)
    except OSError:
        for listening in sockets:
            listening.close()
        raise
    return TlsPort(tls, factory, sockets, full)


class TlsPort:
    """To its owner like an asyncio.Server: `sockets`, `close()`."""

    def __init__(
        self,
        tls: Tls,
        factory: Callable[[], asyncio.Protocol],
        sockets: list[socket.socket],
        full: Callable[[], bool],
    ) -> None:
        self.sockets = sockets
        self._tls = tls
        self._factory = factory
        self._full = full
        self._loop = asyncio.get_running_loop()
        self._pending: dict[asyncio.Task[None], None] = {}
        self._quiet_until: dict[str, float] = {}
        self._acceptors = [self._loop.create_task(self._accept(each)) for each in sockets]

    @property
    def pending(self) -> int:
        """Connections that were accepted and not yet handed over."""
        return len(self._pending)

    def close(self) -> None:
        """Accept nothing more. Connections that were handed over stay."""
        for task in [*self._acceptors, *self._pending]:
            task.cancel()
        for listening in self.sockets:
            listening.close()
        self.sockets = []

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(listening)
            except OSError as error:
                self._complain("accept", "a connection cannot be accepted: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            connection.setblocking(False)
            if self._has_room():
                task = self._loop.create_task(self._receive(connection, str(address[0])))
                self._pending[task] = None
                task.add_done_callback(self._received)
            else:
                connection.close()
            # `sock_accept` does not suspend while connections wait: a crowd would be let in whole.
            await asyncio.sleep(0)

    def _has_room(self) -> bool:
        """For one more, if need be in the place of the oldest."""
        if self._full() or len(self._pending) >= PENDING_MAX:
            if not self._pending:
                return False
            oldest = next(iter(self._pending))
            del self._pending[oldest]
            oldest.cancel()
        return True

    def _received(self, task: asyncio.Task[None]) -> None:
        self._pending.pop(task, None)
        if not task.cancelled():
            task.result()  # An error nobody foresaw goes to the loop's handler.

    async def _receive(self, connection: socket.socket, host: str) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                first = await _peek(self._loop, connection)
        except (OSError, asyncio.CancelledError) as error:  # TimeoutError is an OSError
            connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        if first == TLS_HANDSHAKE:
            await self._shake_hands(connection, host)
            return
        try:
            if first:
                self._complain("plain", "%s speaks plainly to a port with TLS", host)
                await self._send_away(connection)
        finally:
            connection.close()

    async def _shake_hands(self, connection: socket.socket, host: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._loop.connect_accepted_socket(
                lambda: _Handshaken(self, host, task),
                connection,
                ssl=self._tls.context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:
            self._complain("handshake", "TLS handshake with %s failed: %s", host, explain(error))

    async def _send_away(self, connection: socket.socket) -> None:
        """The rest of the request is read, or the end of the connection would overtake the
        answer."""
        with suppress(OSError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._loop.sock_sendall(connection, SPOKEN_TO_PLAINLY)
                connection.shutdown(socket.SHUT_WR)
                left = LINGER_BYTES_MAX
                while left > 0 and (data := await self._loop.sock_recv(connection, 1 << 16)):
                    left -= len(data)

    def hand_over(self, transport: Any, host: str, task: asyncio.Task[Any]) -> None:
        """The handshake is done: from here on the connection is the protocol's, or it ends."""
        self._pending.pop(task, None)
        why = self._tls.refusal(certificate_of(transport))
        if why:
            self._complain("certificate", "%s is refused: %s", host, why)
            transport.abort()
            return
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _complain(self, kind: str, text: str, *values: object) -> None:
        now = self._loop.time()
        if now >= self._quiet_until.get(kind, now):
            self._quiet_until[kind] = now + COMPLAIN_SECONDS
            log.warning(text, *values)


class _Handshaken(asyncio.Protocol):
    """Stands in until the handshake is done. What comes after a refusal is not read."""

    def __init__(self, port: TlsPort, host: str, task: asyncio.Task[Any]) -> None:
        self._port = port
        self._host = host
        self._task = task

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._port.hand_over(transport, self._host, self._task)


async def _peek(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    """The first byte, which stays where it is; empty at the end of the connection."""
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)


def explain(error: OSError) -> str:
    """A TLS error without OpenSSL's brackets and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__
