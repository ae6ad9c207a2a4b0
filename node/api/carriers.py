"""What carries a duplex stream: a connection of the fast path, aiohttp, or a WebSocket.

All three read concatenated JSON messages the same way: the first one that cannot be read refuses
the stream, a later one only ends the reading (etcd ignores it with everything after it).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from node.api import json_codec
from node.api.errors import CANCELED, OK, MalformedMessage, MessageTooLarge, Refusal
from node.api.methods import Credentials, Duplex, Session

if TYPE_CHECKING:
    from node.api.door import Lobby

MESSAGES_PER_TURN = 200
"""Messages of one body that are heard before others have a turn of the loop."""

OUTBOX_BYTES = 1 << 16
"""More waiting to be written: the client does not keep up. As much as a transport buffers."""

LAST_CHUNK = b"0\r\n\r\n"


def check_size(request: object, body: bytes, limit: int) -> None:
    """MessageTooLarge when `request` would not fit into one gRPC message. Only a body that long can
    hold one.
    """
    if len(body) > limit:
        try:
            size = json_codec.wire_size(request)
        except RecursionError:
            raise MalformedMessage("exceeded max depth") from None
        if size > limit:
            raise MessageTooLarge(size, limit)


class _Nobody:
    """The session of a stream that was refused at its door."""

    def receive(self, message: object) -> None: ...

    def end_of_input(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


_NOBODY = _Nobody()


class Carrier(ABC):
    """One duplex stream: feeds its session, and is the Sink of it.

    A kind of carrier says how to `send`, and what `_write_end` and `_write_refusal` write.
    """

    __slots__ = (
        "_closed",
        "_deaf",
        "_finished",
        "_heard",
        "_last",
        "_limit",
        "_method",
        "_position",
        "_session",
        "_text",
        "full",
    )

    def __init__(self, method: Duplex, credentials: Credentials, message_bytes_max: int) -> None:
        self._method = method
        self._limit = message_bytes_max
        self._text = ""
        self._position = 0
        self._heard = self._deaf = self._last = False
        self._finished = self._closed = False
        self.full = False
        self._session: Session = _NOBODY
        try:
            self._session = method.open(self, credentials)
        except Exception as error:
            self.finish(method.refusal(error))

    # -- to the session

    def put(self, body: bytes, *, last: bool) -> None:
        """Messages to hear next, all of those before having been heard. `last`: no more follow."""
        # Bytes that are no UTF-8 spoil only the message that they are in.
        self._text = body.decode(errors="surrogateescape")
        self._position = json_codec.skip_blanks(self._text, 0)
        self._last = last

    def hear_some(self) -> bool:
        """Pass some messages on; True while there are more."""
        for _ in range(MESSAGES_PER_TURN):
            if self._finished or self._closed:
                return False
            if self._deaf or self._position >= len(self._text):
                self._text = ""
                if self._last:
                    self._last = False
                    self._guarded(self._session.end_of_input)
                return False
            self._hear()
        return True

    def _hear(self) -> None:
        try:
            message = self._read()
        except MalformedMessage as error:
            self._deaf = True
            if not self._heard:
                self._refuse(self._method.refusal(error))
            return
        except Exception as error:
            self.finish(self._method.refusal(error))
            return
        self._heard = True
        self._guarded(self._session.receive, message)

    def _guarded(self, call: Callable[..., None], *arguments: object) -> None:
        """What the session raises ends the stream."""
        try:
            call(*arguments)
        except Exception as error:
            self.finish(self._method.refusal(error))

    def _read(self) -> object:
        _, end = json_codec.parse(self._text, self._position)
        body = self._text[self._position : end].encode(errors="surrogateescape")
        message = self._method.decode(body)
        check_size(message, body, self._limit)
        self._position = json_codec.skip_blanks(self._text, end)
        return message

    def resume(self) -> None:
        """There is room again."""
        self.full = False
        if not self._finished and not self._closed:
            self._session.resume()

    def close(self) -> None:
        """The carrier is gone, or the stream over; idempotent."""
        if not self._closed:
            self._closed = True
            self._count(CANCELED)
            self._session.close()

    # -- from the session

    @abstractmethod
    def send(self, messages: Sequence[bytes]) -> None: ...

    def finish(self, told: Refusal | None = None) -> None:
        if not self._finished and not self._closed:
            self._count(told.code if told else OK)
            self._write_end(told)

    def _refuse(self, told: Refusal) -> None:
        self._count(told.code)
        self._write_refusal(told)

    def _count(self, code: int) -> None:
        if not self._finished:
            self._finished = True
            self._method.handled[code] = self._method.handled.get(code, 0) + 1

    @abstractmethod
    def _write_end(self, told: Refusal | None) -> None: ...

    @abstractmethod
    def _write_refusal(self, told: Refusal) -> None:
        """What was said is not of the stream's kind: an answer like that of a unary call."""


class Channel(Carrier):
    """On a connection of the fast path: chunks are written where they come up.

    `over()` is called when the stream has ended and the connection has not.
    """

    __slots__ = ("_begun", "_lobby", "_loop", "_over", "_transport")

    def __init__(
        self,
        method: Duplex,
        credentials: Credentials,
        lobby: Lobby,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        *,
        over: Callable[[], None],
    ) -> None:
        self._lobby = lobby
        self._loop = loop
        self._transport = transport
        self._over = over
        self._begun = False
        super().__init__(method, credentials, lobby.message_bytes_max)

    def start(self, body: bytes) -> None:
        """All that the client says; HTTP/1.1 gives it no way to add to it."""
        self.put(body, last=True)
        self._hear_on()

    def _hear_on(self) -> None:
        # A full sink is waited for: an endless list of requests must not pile up answers.
        if not self.full and self.hear_some():
            self._loop.call_soon(self._hear_on)

    def resume(self) -> None:
        super().resume()
        if self._text:
            self._hear_on()

    def send(self, messages: Sequence[bytes]) -> None:
        if self._finished or self._closed or self._transport.is_closing():
            return
        parts = [] if self._begun else [self._lobby.stream_head]
        self._begun = True
        size = 0
        for message in messages:
            size += len(message)
            parts += (b"%x\r\n" % len(message), message, b"\r\n")
        self._lobby.sent_bytes += size
        self._transport.write(b"".join(parts))

    def _write_end(self, told: Refusal | None) -> None:
        chunk = told.chunk() if told else b""
        if told is not None and not self._begun:
            self._end_with(self._lobby.error(told, chunk))
            return
        head = b"" if self._begun else self._lobby.stream_head
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
        self._end_with(head + framed + LAST_CHUNK)

    def _write_refusal(self, told: Refusal) -> None:
        self._end_with(self._lobby.error(told))

    def _end_with(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)
        # Not at once: the session is in the middle of something.
        self._loop.call_soon(self._after)

    def _after(self) -> None:
        if not self._closed:
            self.close()
            self._over()


class Outbox(Carrier):
    """Messages wait here for a coroutine that writes them: `async for` gives them in batches, and
    ends with the stream. `told`: the error that ended it; `refusal`: the one it was refused with.
    """

    __slots__ = ("_bytes", "_messages", "_news", "_over", "_room", "refusal", "told")

    def __init__(self, method: Duplex, credentials: Credentials, message_bytes_max: int) -> None:
        self._messages: list[bytes] = []
        self._bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._over = False
        self.told: Refusal | None = None
        self.refusal: Refusal | None = None
        super().__init__(method, credentials, message_bytes_max)

    async def hear(self, body: bytes, *, last: bool = False) -> None:
        """Pass all messages on, slower while the client does not read the answers."""
        await self._room.wait()
        self.put(body, last=last)
        while self.hear_some():
            await asyncio.sleep(0)
            await self._room.wait()

    def leave(self) -> None:
        """The client wants no more."""
        self._over = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[list[bytes]]:
        while True:
            await self._news.wait()
            self._news.clear()
            messages, self._messages = self._messages, []
            if messages:
                yield messages
            # Only now they are written.
            self._bytes = sum(map(len, self._messages))
            if self._over and not self._messages:
                return
            if self.full and self._bytes <= OUTBOX_BYTES:
                self._room.set()
                self.resume()

    def send(self, messages: Sequence[bytes]) -> None:
        if self._finished or self._closed:
            return
        self._messages += messages
        self._bytes += sum(map(len, messages))
        if self._bytes > OUTBOX_BYTES:
            self.full = True
            self._room.clear()
        self._news.set()

    def _write_end(self, told: Refusal | None) -> None:
        self.told = told
        self.leave()

    def _write_refusal(self, told: Refusal) -> None:
        self.refusal = told
        self.leave()
