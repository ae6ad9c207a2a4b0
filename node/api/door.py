"""The fast path in front of aiohttp: simple calls without a task, a future or a request object.

A connection starts here. As long as it sends plain requests,

    POST /v3/kv/put HTTP/1.1 | Host | Content-Length | ... | body

each is cut out of the byte stream, decoded, handed to its service with a callback, and answered by
one write; pipelined requests are served one after the other, in order. Clients repeat their heads
byte for byte, so a head is parsed once and then found in a dict. A duplex stream whose messages are
all in such a body is served here too, as a `Channel`; nothing else is on its connection meanwhile.

The first request that is anything else (another method or path, chunked, Expect, Upgrade,
Connection: close, two lengths, a bare line feed, ...) takes the connection to aiohttp for good,
together with every byte not yet served. Nothing is refused here for its HTTP: what is not plainly
simple is aiohttp's to judge, so there is one opinion on what is malformed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from node.api.carriers import Channel, check_size
from node.api.errors import OK, REASONS, Refusal
from node.api.gate import Gate
from node.api.methods import Credentials, Duplex, GiveUp, Unary

log = logging.getLogger("esker.http")

HEAD_BYTES_MAX = 8190
"""Above it aiohttp decides (its own limit is per line)."""

HEADS_MAX = 4096
HEAD_REMEMBERED_BYTES_MAX = 1024
"""A client has a few heads per Content-Length, usually of some 200 bytes: 4 MiB at most."""

PIPELINE_BYTES_MAX = 1 << 18
"""Bytes kept of requests that wait behind the one being served; then the socket is not read."""

HALF_REQUEST_SECONDS = 10.0
BODY_BYTES_PER_SECOND_MIN = 1 << 16
"""A request must be complete 10 s after its first byte, and 1 s later per 64 KiB of it."""

STALLED_SECONDS = 60.0
"""How long a client may leave our answers in our buffer."""

IDLE_SECONDS = 3630.0
"""Longer than proxies keep an idle connection, so that it is they who close it."""

CORS = {
    "Access-Control-Allow-Headers": "accept, content-type, authorization",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE",
    "Access-Control-Allow-Origin": "*",
}

NEEDS_LEADER = "grpc-metadata-hasleader"
"""A header by which clients ask to be refused, with "true", while the member knows no leader."""

TLS_LOGGED_SECONDS = 10.0

_BEGINNING = b"POST /v3"
_TLS_HELLO = b"\x16\x03"
_REQUEST_LINE = re.compile(rb"POST (/v3[!->@-~]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_NOT_SIMPLE = {
    b"transfer-encoding",
    b"content-encoding",
    b"expect",
    b"upgrade",
    b"trailer",
    b"te",
    b"origin",
}


class Head(NamedTuple):
    """A request as far as its head tells."""

    method: Unary | Duplex
    length: int
    token: str
    needs_leader: bool


def parse_head(
    head: bytes,
    routes: Mapping[bytes, Unary | Duplex],
    host_allowed: Callable[[str], bool],
    body_max: int,
) -> Head | None:
    """The simple request that `head` (blank line included) announces, or None: not simple."""
    if len(head) > HEAD_BYTES_MAX:
        return None
    line, *lines = head[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    method = routes.get(match[1]) if match else None
    if method is None:
        return None
    seen: dict[bytes, bytes] = {}
    for item in lines:
        header = _HEADER.fullmatch(item)
        if header is None:
            return None
        name = header[1].lower()
        if name in _NOT_SIMPLE or name in seen:
            return None
        seen[name] = header[2].strip(b" \t")
    if seen.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    length = seen.get(b"content-length", b"0")
    if not _LENGTH.fullmatch(length) or int(length) > body_max:
        return None
    if b"host" not in seen or not host_allowed(seen[b"host"].decode("latin-1")):
        return None
    token = token_of(seen.get(b"authorization", b"").decode("latin-1"))
    return Head(method, int(length), token, seen.get(NEEDS_LEADER.encode()) == b"true")


def token_of(header: str) -> str:
    """The token in an Authorization header's value."""
    return header.removeprefix("Bearer ").strip()


class Lobby:
    """What all doors of a server share: routes, limits, remembered heads, the wording of answers,
    the clock of the sweep.
    """

    def __init__(
        self,
        routes: Mapping[bytes, Unary | Duplex],
        gate: Gate,
        *,
        message_bytes_max: int,
        host_allowed: Callable[[str], bool],
        hand_over: Callable[[], asyncio.Protocol],
        others: Callable[[], int],
        connections_max: int,
        cors: bool,
        now: float,
    ) -> None:
        self.routes = routes
        self.gate = gate
        self.message_bytes_max = message_bytes_max
        # The limit is on the message; its JSON is a third longer for base64, and more with blanks
        # and escapes.
        self.body_bytes_max = 2 * message_bytes_max + (1 << 16)
        self.host_allowed = host_allowed
        self.hand_over = hand_over
        self.others = others
        self.connections_max = connections_max
        self.doors: set[Door] = set()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self.heads: dict[bytes, Head] = {}
        self.now = now
        self.closing = False
        self.received_bytes = 0
        self.sent_bytes = 0
        self._cors = "".join(f"{k}: {v}\r\n" for k, v in CORS.items()) if cors else ""
        self.ok = b""
        self.stream_head = b""
        self.user_of: Callable[[asyncio.BaseTransport], str] = lambda transport: ""
        self._tls_logged_at = -TLS_LOGGED_SECONDS
        self._date = ""
        self.set_date("")

    @property
    def full(self) -> bool:
        """Whether there is no room; `others` counts the connections that have no door, be it that
        they were handed over or that their handshake is under way.
        """
        return len(self.doors) + self.others() >= self.connections_max

    def enter(self, door: Door) -> bool:
        """False when there is no room."""
        if self.full:
            return False
        self.doors.add(door)
        self.emptied.clear()
        return True

    def leave(self, door: Door) -> None:
        """`emptied` is set as long as no door is open."""
        self.doors.discard(door)
        if not self.doors:
            self.emptied.set()

    def set_date(self, date: str) -> None:
        """The Date of the answers from now on; the one who sweeps keeps it current."""
        self._date = f"Date: {date}\r\n" if date else ""
        more = "Grpc-Metadata-Content-Type: application/grpc\r\n"
        self.ok = self._head(200, more)
        self.stream_head = self._head(200, more, "Transfer-Encoding: chunked\r\n\r\n")

    def _head(self, status: int, more: str = "", last: str = "Content-Length: ") -> bytes:
        text = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"{more}{self._cors}{self._date}{last}"
        )
        return text.encode()

    def error(self, told: Refusal, body: bytes = b"") -> bytes:
        """A whole answer, the body being that of a unary call unless given."""
        body = body or told.body()
        more = f"WWW-Authenticate: {told.text}\r\n" if told.status == 401 else ""
        return self._head(told.status, more) + b"%d\r\n\r\n%b" % (len(body), body)

    def find(self, head: bytes) -> Head | None:
        """`parse_head`, remembered."""
        parsed = parse_head(head, self.routes, self.host_allowed, self.body_bytes_max)
        if parsed and len(head) <= HEAD_REMEMBERED_BYTES_MAX:
            if len(self.heads) >= HEADS_MAX:
                self.heads.clear()
            self.heads[head] = parsed
        return parsed

    def met_tls(self, transport: asyncio.BaseTransport) -> None:
        """Somebody speaks TLS to a port without it: a line in the log, not too often."""
        if self.now >= self._tls_logged_at + TLS_LOGGED_SECONDS:
            self._tls_logged_at = self.now
            address = transport.get_extra_info("peername") or ("a client",)
            log.warning("%s speaks TLS to a port without it", address[0])

    def sweep(self, now: float) -> None:
        """Close what is too slow or too long idle; call it about once a second."""
        self.now = now
        for door in list(self.doors):
            door.sweep(now)


class Door(asyncio.Protocol):
    """One client connection, as long as it is simple.

    `_busy`: a request is being served; its answer is written before the next one is looked at.
    `_channel`: that request is a stream.
    `_rest`: bytes not yet looked at, beginning with a request; `_need`: how many it takes to go on.
    `_give_up`: ends what the request waits for; only some requests have one.
    `_since`: when (by the sweep's clock) the present state began.
    """

    __slots__ = (
        "_busy",
        "_channel",
        "_common_name",
        "_full",
        "_give_up",
        "_lobby",
        "_loop",
        "_method",
        "_need",
        "_not_reading",
        "_rest",
        "_serving",
        "_since",
        "_transport",
    )

    def __init__(self, lobby: Lobby, loop: asyncio.AbstractEventLoop) -> None:
        self._lobby = lobby
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._rest = bytearray()
        self._need = 0
        self._busy = False
        self._channel: Channel | None = None
        self._common_name = ""
        self._give_up: GiveUp | None = None
        self._serving = False
        self._full = False
        self._not_reading = False
        self._since = lobby.now
        self._method: Unary | Duplex

    # -- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._common_name = self._lobby.user_of(transport)
        if not self._lobby.enter(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The answer under way is dropped when it comes; what was asked may still happen."""
        self._transport = None
        if self._give_up is not None:
            give_up, self._give_up = self._give_up, None
            give_up()
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.close()
        self._rest.clear()
        self._lobby.leave(self)

    def data_received(self, data: bytes) -> None:
        rest = self._rest
        if not rest and not self._busy and not self._full:
            self._since = self._lobby.now
            self._serve(data)
            return
        rest += data
        if self._busy or self._full:
            if len(rest) > PIPELINE_BYTES_MAX and not self._not_reading:
                self._too_much_waits()
        elif len(rest) >= self._need:
            self._go_on()

    def pause_writing(self) -> None:
        """The client does not read its answers: serve no more until it does."""
        self._full = True
        self._since = self._lobby.now
        if self._channel is not None:
            # It may take its time; that it has left, only reading tells.
            self._channel.full = True
        else:
            self._stop_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._loop.call_soon(self._go_on)
        if self._channel is not None:
            self._loop.call_soon(self._channel.resume)

    def _too_much_waits(self) -> None:
        if self._channel is None:
            self._stop_reading()
        else:
            # A stream may never end: nobody will ever serve what is sent behind it.
            self.abort()

    def _stop_reading(self) -> None:
        if not self._not_reading and self._transport is not None:
            self._not_reading = True
            self._transport.pause_reading()

    # -- one request after the other

    def _go_on(self) -> None:
        if self._busy or self._full or self._transport is None:
            return
        if self._rest:
            data = bytes(self._rest)
            self._rest.clear()
            self._serve(data)
        if self._not_reading and not self._full and len(self._rest) <= PIPELINE_BYTES_MAX:
            self._not_reading = False
            if self._transport is not None:
                self._transport.resume_reading()
        elif self._channel is not None and len(self._rest) > PIPELINE_BYTES_MAX:
            self.abort()

    def _serve(self, data: bytes) -> None:
        """Serve the requests in `data` until one has to wait, for more bytes or for its answer."""
        lobby = self._lobby
        self._serving = True
        start = 0
        while not self._full and self._transport is not None:
            end = data.find(b"\r\n\r\n", start) + 4
            if end < 4:
                begins = data[start : start + len(_BEGINNING)]
                if len(data) - start > HEAD_BYTES_MAX or not _BEGINNING.startswith(begins):
                    self._hand_over(data[start:])
                    return
                self._need = 0
                break
            head = data[start:end]
            found = lobby.heads.get(head) or lobby.find(head)
            if found is None:
                self._hand_over(data[start:])
                return
            stop = end + found.length
            if len(data) < stop:
                self._need = stop - start
                break
            self._begin(found, data[end:stop])
            start = stop
            if self._busy or start == len(data):
                break
        self._serving = False
        if start < len(data) and self._transport is not None:
            self._rest += data[start:] if start else data

    def _begin(self, head: Head, body: bytes) -> None:
        lobby = self._lobby
        self._busy = True
        self._method = head.method
        head.method.started += 1
        lobby.received_bytes += len(body)
        credentials = Credentials(head.token, self._common_name, head.needs_leader)
        if lobby.gate.behind(credentials):
            # Not at once: whoever reports is in the middle of a batch.
            lobby.gate.catch_up(lambda _: self._loop.call_soon(self._call, credentials, body))
        else:
            self._call(credentials, body)

    def _call(self, credentials: Credentials, body: bytes) -> None:
        lobby, method = self._lobby, self._method
        if self._transport is None:
            self._busy = False
            return
        try:
            if isinstance(method, Duplex):
                self._open_channel(method, credentials, body)
                return
            request = method.decode(body)
            if len(body) > lobby.message_bytes_max:
                check_size(request, body, lobby.message_bytes_max)
            asker = lobby.gate.admit(method.access, credentials)
            give_up = method.serve(request, asker, self._done)
            if self._busy:
                self._give_up = give_up
        except Exception as error:
            if not self._busy:
                raise  # Answered already: it is not the request's fault.
            self._done(error)

    def _open_channel(self, method: Duplex, credentials: Credentials, body: bytes) -> None:
        assert self._transport is not None
        channel = Channel(
            method,
            credentials,
            self._lobby,
            self._loop,
            self._transport,
            over=self._channel_over,
        )
        self._channel = channel
        channel.start(body)

    def _channel_over(self) -> None:
        self._channel = None
        self._answered()

    def _done(self, response: object) -> None:
        """The answer of the request under way, or the error it met."""
        assert self._busy, "a request was answered twice"
        self._give_up = None
        transport = self._transport
        method = self._method
        if transport is None or transport.is_closing():
            # Between the end of a connection and connection_lost a write would raise, here in the
            # middle of an applied batch.
            self._busy = False
            return
        if isinstance(response, Exception):
            self._refuse(response)
            return
        try:
            slices = None if method.slices is None else method.slices(response)
            if slices is not None:
                self._write_slice(slices, [])
                return
            body = method.encode(response)
        except Exception as error:
            self._refuse(error)
            return
        method.handled[OK] += 1
        lobby = self._lobby
        lobby.sent_bytes += len(body)
        transport.write(b"%b%d\r\n\r\n%b" % (lobby.ok, len(body), body))
        self._answered()

    def _refuse(self, error: Exception) -> None:
        told = self._method.refusal(error)
        handled = self._method.handled
        handled[told.code] = handled.get(told.code, 0) + 1
        assert self._transport is not None
        self._transport.write(self._lobby.error(told))
        self._answered()

    def _write_slice(self, slices: Iterator[bytes], written: list[bytes]) -> None:
        """Encode one slice and come back for the next; write when the length is known."""
        if self._transport is None or self._transport.is_closing():
            self._busy = False
            return
        part = next(slices, None)
        if part is not None:
            written.append(part)
            self._loop.call_soon(self._write_slice, slices, written)
            return
        size = sum(map(len, written))
        self._method.handled[OK] += 1
        self._lobby.sent_bytes += size
        self._transport.write(self._lobby.ok + b"%d\r\n\r\n" % size)
        for part in written:
            self._transport.write(part)
        self._answered()

    def _answered(self) -> None:
        self._busy = False
        self._since = self._lobby.now
        if self._lobby.closing and not self._rest:
            self.close()
        elif not self._serving and (self._rest or self._not_reading):
            # Not at once: whoever answers (apply, in the middle of its batch) must not be entered
            # again by the next request.
            self._loop.call_soon(self._go_on)

    def _hand_over(self, data: bytes) -> None:
        """From here on the connection is aiohttp's."""
        transport = self._transport
        assert transport is not None
        self._serving = False
        if data.startswith(_TLS_HELLO):
            self._lobby.met_tls(transport)
            transport.close()
            return
        self._transport = None
        self._lobby.leave(self)
        if self._not_reading:
            transport.resume_reading()
        successor = self._lobby.hand_over()
        transport.set_protocol(successor)
        successor.connection_made(transport)
        successor.data_received(data)

    # -- limits

    def sweep(self, now: float) -> None:
        """Close the connection when its state lasts too long."""
        waited = now - self._since
        if self._busy:
            if self._channel is not None and self._lobby.closing:
                self._break_off()
            return
        if self._full:
            if waited > STALLED_SECONDS:
                self.abort()
        elif self._rest:
            size = max(len(self._rest), self._need)
            if waited > HALF_REQUEST_SECONDS + size / BODY_BYTES_PER_SECOND_MIN:
                self.close()
        elif waited > IDLE_SECONDS or self._lobby.closing:
            self.close()

    def _break_off(self) -> None:
        """End a stream without its last chunk: it is not complete."""
        if self._full:
            self.abort()
        else:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
