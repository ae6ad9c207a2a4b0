"""Peer streams: the connections over which messages go, one per peer and direction.

Who dials sends messages, pings and calls, and gets pongs and replies; who accepts, the reverse.
Everything on the hot path is a plain call: received bytes are cut, decoded and handed to the
receiver in the turn in which they came, and what a turn has to send to a peer is one write.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from raft.codec import decode_message, encode_message
from raft.core.errors import StepRefused
from raft.core.message import Message, MessageType
from raft.framing import FrameError, FrameParser, FrameType, pack_frame
from raft.handshake import (
    ANSWER_BYTES,
    HELLO_BYTES,
    MAGIC,
    Answer,
    Identity,
    NotAPeer,
    StreamKind,
    Verdict,
    explain_refusal,
    explain_stranger,
    judge,
    pack_answer,
    pack_hello,
    unpack_answer,
    unpack_hello,
)
from raft.tls_port import TLS_HANDSHAKE, Tls, certificate_of
from raft.transport import CallFailed, PeerUnavailable, Receiver

log = logging.getLogger("esker.peer")

HANDSHAKE_SECONDS = 5.0
"""For TCP, TLS and the hello together: several round trips around the world."""
BACKOFF_SECONDS = (0.1, 2.0)
"""Between attempts, doubling from the first to the second; a connection that lasted longer than the
second is dialled again at once."""
PING_SECONDS = 30.0
REPORT_SECONDS = 0.1
"""At most one unreachable report per peer in this time: one of them already stops optimistic
sending."""
COMPLAIN_SECONDS = 30.0
"""The same complaint about the same peer is logged again only after this time."""
CALL_BYTES_MAX = 1024 * 1024
CALLS_MAX = 32
"""Calls that one peer may have under way here."""
UNACKNOWLEDGED_MS = 5000
"""After a healed partition the kernel would wait up to two minutes for its next retransmission:
rather dial anew."""

_CALL = struct.Struct(">IH")
_REPLY = struct.Struct(">IB")


class Refused(Exception):
    """The other side answered our hello with a refusal; the text says which."""

    def __init__(self, text: str, verdict: int = Verdict.ACCEPTED) -> None:
        super().__init__(text)
        self.verdict = verdict


class PeerCounters(msgspec.Struct):
    """Totals since the start, for the metrics; about one peer, both directions."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_messages: int = 0
    received_messages: int = 0
    dropped_messages: int = 0
    connections_lost: int = 0
    connect_failures: int = 0
    snapshots_sent: int = 0
    snapshot_send_failures: int = 0
    snapshots_received: int = 0
    snapshot_receive_failures: int = 0


class PeerUrl(msgspec.Struct, frozen=True):
    """Where a member listens for its peers."""

    host: str
    port: int
    tls: bool

    @staticmethod
    def parse(url: str) -> PeerUrl:
        """ValueError unless `url` is http://host:port or https://host:port."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port is None:
            raise ValueError(f"a peer URL must be http(s)://host:port, not {url!r}")
        return PeerUrl(parts.hostname, parts.port, parts.scheme == "https")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Complaints:
    """Lets a line through once, and again after COMPLAIN_SECONDS or when it has changed."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._text = ""
        self._again_at = 0.0

    def warn(self, text: str) -> None:
        """Log `text` as a warning unless it was just said."""
        now = self._now()
        if text != self._text or now >= self._again_at:
            self._text, self._again_at = text, now + COMPLAIN_SECONDS
            log.warning(text)

    def clear(self) -> None:
        """The cause is gone: the next complaint is news."""
        self._text = ""


def tune_socket(transport: asyncio.BaseTransport) -> None:
    """Small messages leave at once, and a peer that vanished is noticed within seconds."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Host of the other side, for the log. Its port says nothing, and would make every line new."""
    address = transport.get_extra_info("peername")
    return str(address[0]) if address else "unknown address"


def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """ConnectionResetError when the other side has gone: uvloop's transports raise an error that
    looks like ours, the standard library's say nothing."""
    if writer.transport.is_closing():
        raise ConnectionResetError("the connection is closed")
    writer.write(data)


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The other side's verdict on a connection of our own. NotAPeer when it speaks something
    else."""
    try:
        return unpack_answer(await reader.readexactly(ANSWER_BYTES))
    except asyncio.IncompleteReadError as error:
        raise NotAPeer from error


def context_for(url: PeerUrl, tls: Tls | None) -> ssl.SSLContext | None:
    """What to dial `url` with. Refused for TLS without certificates."""
    if not url.tls:
        return None
    if tls is None:
        raise Refused(f"peer {url} wants TLS, which this member has no certificates for")
    return tls.context()


def refuse(transport: asyncio.BaseTransport, url: PeerUrl, tls: Tls | None) -> None:
    """Refused when whom we have dialled shows a certificate that is not for a member."""
    if url.tls and tls is not None and (why := tls.refusal(certificate_of(transport))):
        raise Refused(f"peer {url}: {why}")


class DialedStream(asyncio.Protocol):
    """A connection of our own. `opened` ends with the peer's verdict, `closed` with the
    connection."""

    def __init__(
        self, identity: Identity, member: int, url: PeerUrl, peer: Peer, tls: Tls | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None
        self._identity = identity
        self._member = member
        self._url = url
        self._peer = peer
        self._tls = tls
        self._answer = b""
        self._parser = FrameParser(CALL_BYTES_MAX + 64)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        try:
            refuse(transport, self._url, self._tls)
        except Refused as refusal:
            self.opened.set_exception(refusal)
            self.transport.abort()
            return
        tune_socket(transport)
        self.transport.write(pack_hello(self._identity, StreamKind.MESSAGES, self._member))

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self._answer += data
            if len(self._answer) < ANSWER_BYTES and self._answer[:4] == MAGIC[: len(self._answer)]:
                return
            self._open(self._answer[:ANSWER_BYTES])
            data = self._answer[ANSWER_BYTES:]
            if not data or self.opened.exception():
                return
        try:
            for kind, body in self._parser.feed(data):
                self._peer.answered(kind, body)
        except FrameError as error:
            log.warning("peer %s: %s", self._url, error)
            self.transport.abort()

    def _open(self, data: bytes) -> None:
        try:
            answer = unpack_answer(data) if len(data) == ANSWER_BYTES else None
        except NotAPeer:
            answer = None
        if answer is None:
            hint = ": it speaks HTTP, or wants TLS" if self._answer.startswith(b"HTTP/") else ""
            told = f"peer {self._url} does not speak our protocol{hint}"
            self.opened.set_exception(Refused(told))
        elif answer.verdict != Verdict.ACCEPTED:
            words = explain_refusal(self._identity, answer, str(self._url), self._member)
            self.opened.set_exception(Refused(words, answer.verdict))
        else:
            self.opened.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionResetError("closed during the handshake"))
            self.opened.exception()
        if not self.closed.done():
            self.closed.set_result(None)


class Peer:
    """The way to one member: dials, dials again, and writes when the stream is open.

    `_stream` is set exactly while messages can be written. `_calls` are the waiting ones by their
    number on this stream.
    """

    def __init__(
        self,
        member: int,
        urls: Sequence[str],
        *,
        identity: Identity,
        receiver: Receiver,
        tls: Tls | None,
        frame_bytes_max: int,
        buffer_bytes_max: int,
        counters: PeerCounters,
        observe: Callable[[int, float], None],
        told_removed: Callable[[int], None],
        gone: Callable[[int], None],
    ) -> None:
        self.member = member
        self.urls = [PeerUrl.parse(url) for url in urls]
        self.counters = counters
        self.active_since: float | None = None
        self._identity = identity
        self._receiver = receiver
        self._tls = tls
        self._frame_bytes_max = frame_bytes_max
        self._buffer_bytes_max = buffer_bytes_max
        self._observe = observe
        self._told_removed = told_removed
        self._gone = gone
        self._refusals = 0
        self._loop = asyncio.get_running_loop()
        self._complaints = Complaints(self._loop.time)
        self._stream: DialedStream | None = None
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._call_number = 0
        self._report_at = 0.0
        self._ping: asyncio.TimerHandle | None = None
        self._attempts = 0
        self._hastened = asyncio.Event()

    # -- sending

    def send(self, messages: Sequence[Message]) -> None:
        """Write the frames of all messages at once, or drop them all and report."""
        stream = self._stream
        if (
            stream is None
            or stream.transport.is_closing()
            or stream.transport.get_write_buffer_size() > self._buffer_bytes_max
        ):
            self._drop(len(messages))
            return
        frames = []
        for message in messages:
            body = encode_message(message)
            if len(body) >= self._frame_bytes_max:
                log.error("a message of %d bytes is too long for a peer stream", len(body))
                self._drop(1)
            else:
                frames.append(pack_frame(FrameType.MESSAGE, body))
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        stream.transport.write(data)
        self.counters.sent_bytes += len(data)
        self.counters.sent_messages += len(frames)

    def _drop(self, count: int) -> None:
        self.counters.dropped_messages += count
        now = self._loop.time()
        if now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            # Not in the caller's turn: it is in the middle of a Ready.
            self._loop.call_soon(self._receiver.unreachable, self.member)

    async def call(self, kind: int, body: bytes, seconds: float) -> bytes:
        """Ask the member and wait for its answer: PeerUnavailable, CallFailed."""
        stream = self._stream
        if stream is None or stream.transport.is_closing():
            raise PeerUnavailable(f"member {self.member:x} is not connected")
        if len(body) > CALL_BYTES_MAX:
            raise ValueError(f"a call of {len(body)} bytes, at most {CALL_BYTES_MAX} are allowed")
        self._call_number = (self._call_number + 1) & 0xFFFFFFFF
        number = self._call_number
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[number] = answer
        stream.transport.write(pack_frame(FrameType.CALL, _CALL.pack(number, kind) + body))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise PeerUnavailable(f"member {self.member:x} did not answer in time") from None
        finally:
            self._calls.pop(number, None)

    def answered(self, kind: int, body: bytes) -> None:
        """A frame came back on our stream."""
        self.counters.received_bytes += len(body)
        if kind == FrameType.PONG and len(body) == 8:
            sent = struct.unpack(">d", body)[0]
            self._observe(self.member, self._loop.time() - sent)
        elif kind == FrameType.REPLY and len(body) >= _REPLY.size:
            number, ok = _REPLY.unpack_from(body)
            answer = self._calls.get(number)
            if answer is None or answer.done():
                return
            if ok:
                answer.set_result(body[_REPLY.size :])
            else:
                answer.set_exception(CallFailed(body[_REPLY.size :].decode(errors="replace")))
        else:
            raise FrameError(f"an unexpected frame of type {kind}")

    # -- the connection

    @property
    def refused(self) -> bool:
        """Nobody listened at any of the member's URLs when they were last tried."""
        return self._refusals >= len(self.urls)

    @property
    def url(self) -> PeerUrl:
        """The address in use, or the one to be tried next."""
        return self.urls[self._attempts % len(self.urls)]

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        delay, longest = BACKOFF_SECONDS
        while True:
            opened = None
            try:
                stream = await self._dial(self.url)
                opened = self._loop.time()
                await self._use(stream)
            except (OSError, Refused) as error:
                self._failed_to_connect(error)
            if opened is not None and self._loop.time() - opened >= longest:
                # It was a good one. One that broke at once may do so again: two processes with
                # the same member id take each other's place for ever.
                delay = BACKOFF_SECONDS[0]
                continue
            await self._pause(delay)
            delay = min(2 * delay, longest)

    def hasten(self) -> None:
        """The member has just dialled us, so it is there: if we are pausing, dial it now."""
        self._hastened.set()

    async def _pause(self, seconds: float) -> None:
        self._hastened.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hastened.wait()

    async def _use(self, stream: DialedStream) -> None:
        self._stream = stream
        self._refusals = 0
        self.active_since = self._loop.time()
        self._complaints.clear()
        log.info("peer %s (%x): connected", self.url, self.member)
        self._send_ping()
        try:
            await stream.closed
        finally:
            self._disconnected(stream)
        log.warning("peer %s (%x): connection lost", self.url, self.member)

    def _failed_to_connect(self, error: OSError | Refused) -> None:
        self.counters.connect_failures += 1
        self._refusals = self._refusals + 1 if isinstance(error, ConnectionRefusedError) else 0
        if self.refused:
            self._gone(self.member)
        text = str(error) or type(error).__name__
        if not isinstance(error, Refused):
            text = f"peer {self.url} ({self.member:x}) cannot be reached: {text}"
        elif error.verdict == Verdict.REMOVED_SENDER:
            self._told_removed(self.member)
        self._complaints.warn(text)
        self._attempts += 1

    async def _dial(self, url: PeerUrl) -> DialedStream:
        """An open stream. OSError (with TimeoutError and TLS errors among them) or Refused."""
        context = context_for(url, self._tls)
        stream = DialedStream(self._identity, self.member, url, self, self._tls)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._loop.create_connection(
                    lambda: stream,
                    url.host,
                    url.port,
                    ssl=context,
                    server_hostname=url.host if url.tls else None,
                )
                await stream.opened
        except BaseException:
            if stream.transport is not None:
                stream.transport.abort()
            raise
        return stream

    def _disconnected(self, stream: DialedStream) -> None:
        stream.transport.abort()
        self._stream = None
        self.active_since = None
        self.counters.connections_lost += 1
        if self._ping is not None:
            self._ping.cancel()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(PeerUnavailable(f"member {self.member:x}: connection lost"))
        # What was written last may be lost: optimistic sending must stop.
        self._drop(0)

    def _send_ping(self) -> None:
        if self._stream is not None and not self._stream.transport.is_closing():
            now = self._loop.time()
            self._stream.transport.write(pack_frame(FrameType.PING, struct.pack(">d", now)))
            self._ping = self._loop.call_later(PING_SECONDS, self._send_ping)


class Acceptor(Protocol):
    """What an accepted stream needs of the transport it belongs to."""

    identity: Identity
    receiver: Receiver
    frame_bytes_max: int

    def admit(self, stream: AcceptedStream) -> bool:
        """Count a connection in that has not said hello; False when nobody is let in any more."""

    def verdict(self, stream: AcceptedStream, kind: int, member: int) -> Verdict:
        """ACCEPTED, or BUSY; takes the stream over as the member's only one of its kind."""

    def hand_over_snapshot(self, stream: AcceptedStream, rest: bytes) -> None:
        """The connection is for a snapshot, `rest` came after the hello."""

    def closed(self, stream: AcceptedStream) -> None:
        """The connection is gone."""

    def counters_of(self, member: int) -> PeerCounters: ...

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine as a task that the transport owns."""

    def describe(self) -> bytes:
        """What a stranger who asks who we are is told."""

    def complain(self, text: str) -> None:
        """Log about a stranger, not more often than is useful."""


class AcceptedStream(asyncio.Protocol):
    """A connection that a peer, or a stranger, has made to us. `member` is 0 until its hello is
    accepted."""

    def __init__(self, acceptor: Acceptor) -> None:
        self.member = 0
        self.kind = 0
        self.transport: Any = None
        self._acceptor = acceptor
        self._address = ""
        self._hello = b""
        self._parser = FrameParser(acceptor.frame_bytes_max)
        self._calls = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._address = peer_address(transport)
        if not self._acceptor.admit(self):
            self._end("refused: this member stops")
            return
        tune_socket(transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_SECONDS, self._end, "no hello in time")

    def connection_lost(self, error: Exception | None) -> None:
        self._settled()
        self._acceptor.closed(self)

    def _settled(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self, why: str) -> None:
        """Close without another word; a refusal's answer is still flushed."""
        self._acceptor.complain(f"peer {self._address}: {why}")
        self.transport.close()

    def push_out(self) -> None:
        """Make room for another: this one has had the longest time to say hello."""
        if not self.transport.is_closing():
            self._acceptor.complain(f"peer {self._address}: too many connections without a hello")
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self.member:
            rest = self._greet(data)
            if not rest:
                return
            data = rest
        self._acceptor.counters_of(self.member).received_bytes += len(data)
        try:
            for kind, body in self._parser.feed(data):
                self._take(kind, body)
                if self.transport.is_closing():
                    return
        except (FrameError, StepRefused) as error:
            self._end(f"member {self.member:x} broke the protocol: {error}")

    def _greet(self, data: bytes) -> bytes:
        """Look at the hello as far as it has come. Returns what follows it on an accepted message
        stream."""
        self._hello += data
        head = self._hello[: len(MAGIC)]
        if head != MAGIC[: len(head)]:
            tls = head.startswith(TLS_HANDSHAKE)
            self._end("speaks TLS to a port without it" if tls else "does not speak our protocol")
            return b""
        if len(self._hello) < HELLO_BYTES:
            return b""
        self._settled()
        hello, rest = unpack_hello(self._hello[:HELLO_BYTES]), self._hello[HELLO_BYTES:]
        self._hello = b""
        identity = self._acceptor.identity
        verdict = judge(identity, hello)
        if verdict == Verdict.ACCEPTED and hello.kind == StreamKind.DISCOVER:
            answer = pack_answer(identity, verdict)
            description = pack_frame(FrameType.DESCRIPTION, self._acceptor.describe())
            self.transport.write(answer + description)
            self.transport.close()
            return b""
        if verdict == Verdict.ACCEPTED:
            verdict = self._acceptor.verdict(self, hello.kind, hello.sender)
        self.transport.write(pack_answer(identity, verdict))
        if verdict != Verdict.ACCEPTED:
            self._acceptor.complain(explain_stranger(identity, hello, verdict, self._address))
            self.transport.close()
            return b""
        self.member, self.kind = hello.sender, hello.kind
        if self.kind == StreamKind.SNAPSHOT:
            self._acceptor.hand_over_snapshot(self, rest)
            return b""
        return rest

    def _take(self, kind: int, body: bytes) -> None:
        """One frame of an authenticated peer. FrameError or StepRefused when it should not have
        sent it."""
        if kind == FrameType.MESSAGE:
            message = decode_message(body)
            if message.sender != self.member:
                raise FrameError(f"a message of member {message.sender:x}")
            if message.to != self._acceptor.identity.member:
                raise FrameError(f"a message for member {message.to:x}")
            if message.type == MessageType.SNAPSHOT:
                raise FrameError("a snapshot outside of its stream")
            self._acceptor.counters_of(self.member).received_messages += 1
            self._acceptor.receiver.receive(message)
        elif kind == FrameType.PING and len(body) == 8:
            self._write(pack_frame(FrameType.PONG, body))
        elif kind == FrameType.CALL and _CALL.size <= len(body) <= _CALL.size + CALL_BYTES_MAX:
            number, what = _CALL.unpack_from(body)
            if self._calls >= CALLS_MAX:
                self._reply(number, False, b"too many calls")
            else:
                self._calls += 1
                self._acceptor.spawn(self._serve(number, what, body[_CALL.size :]))
        else:
            raise FrameError(f"an unexpected frame of type {kind}")

    async def _serve(self, number: int, kind: int, body: bytes) -> None:
        try:
            answer = await self._acceptor.receiver.serve(self.member, kind, body)
            if len(answer) > CALL_BYTES_MAX:
                raise CallFailed(f"the answer has {len(answer)} bytes, more than fit")
            self._reply(number, True, answer)
        except CallFailed as refusal:
            self._reply(number, False, str(refusal).encode())
        finally:
            self._calls -= 1

    def _reply(self, number: int, ok: bool, body: bytes) -> None:
        self._write(pack_frame(FrameType.REPLY, _REPLY.pack(number, ok) + body))

    def _write(self, frame: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() > CALLS_MAX * CALL_BYTES_MAX:
            self._end(f"member {self.member:x} does not read its answers")
        else:
            self.transport.write(frame)
