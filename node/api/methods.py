"""What a path leads to: unary calls, server streams and duplex streams, and who may ask for each.

A unary call is decode, one call with a `done` callback, encode. A server stream is an async
iterator that aiohttp drains. A duplex stream (watch, lease keep-alive) is plain calls both ways and
knows nothing of what carries it: a connection of the fast path, aiohttp, or a WebSocket.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from node.api.errors import OK, Refusal, refusal

if TYPE_CHECKING:
    from node.apply.requests import Asker
    from node.proposals import Done

GiveUp = Callable[[], object]
"""Ends what a call waits for; its `done` is not called any more."""


class Access(Enum):
    """Who may ask while authentication is on. Whoever adds a method says it."""

    PUBLIC = auto()
    """Anybody, without a token: only what it takes to get one."""
    USER = auto()
    """Whoever shows a valid token; what they may do with which keys is judged where it is done."""
    ROOT = auto()
    """Users with the role root."""


class Credentials(NamedTuple):
    """What a connection says of its client: the Authorization header without `Bearer`, and the
    common name of a verified certificate. Empty: nothing. `needs_leader`: it asked not to be served
    by a member that knows no leader.
    """

    token: str = ""
    common_name: str = ""
    needs_leader: bool = False


ANONYMOUS = Credentials()


class Unary:
    """One unary method.

    `decode(body)` raises MalformedMessage; `serve(request, asker, done)` raises a RequestError or
    calls `done` once, and may return how to give up when the client leaves before that;
    `encode(response)` is the body. `slices(response)` is the body in steps when it is too long for
    one, else None. `refusal(error)` is what the client hears of an error. The counters are what
    /metrics reports.
    """

    __slots__ = (
        "access",
        "decode",
        "encode",
        "handled",
        "name",
        "refusal",
        "serve",
        "slices",
        "started",
    )

    def __init__(
        self,
        name: str,
        access: Access,
        decode: Callable[[bytes], Any],
        serve: Callable[[Any, Asker, Done], GiveUp | None],
        encode: Callable[[Any], bytes],
        *,
        slices: Callable[[Any], Iterator[bytes] | None] | None = None,
        refusal: Callable[[BaseException], Refusal] = refusal,
    ) -> None:
        self.name = name
        self.access = access
        self.decode = decode
        self.serve = serve
        self.encode = encode
        self.slices = slices
        self.refusal = refusal
        self.started = 0
        self.handled: dict[int, int] = {OK: 0}


class Stream:
    """One server stream: `serve(request, asker)` yields messages, `encode(message)` is a chunk."""

    __slots__ = ("access", "decode", "encode", "handled", "name", "refusal", "serve", "started")

    def __init__(
        self,
        name: str,
        access: Access,
        decode: Callable[[bytes], Any],
        serve: Callable[[Any, Asker], AsyncIterator[Any]],
        encode: Callable[[Any], bytes],
        *,
        refusal: Callable[[BaseException], Refusal] = refusal,
    ) -> None:
        self.name = name
        self.refusal = refusal
        self.access = access
        self.decode = decode
        self.serve = serve
        self.encode = encode
        self.started = 0
        self.handled: dict[int, int] = {OK: 0}


class Sink(Protocol):
    """Where a duplex stream's messages go. All calls on the loop's thread; after `finish`, or when
    the client has left, they do nothing.
    """

    @property
    def full(self) -> bool:
        """The client does not keep up: `Session.resume` follows when it does. What is sent
        meanwhile is kept in memory, so whoever can wait should.
        """

    def send(self, messages: Sequence[bytes]) -> None:
        """Write whole JSON messages, each with its newline: one chunk (or text frame) per message,
        one write for all. The first ones bring the HTTP head.
        """

    def finish(self, told: Refusal | None = None) -> None:
        """The stream ends, with an error as its last message if there is one; as an HTTP error when
        nothing was sent before.
        """


class Session(Protocol):
    """The serving side of one duplex stream. All calls on the loop's thread."""

    def receive(self, message: Any) -> None:
        """The client's next message, decoded. What it raises ends the stream with that error."""

    def end_of_input(self) -> None:
        """The client will send no more; it still listens."""

    def resume(self) -> None:
        """The sink has room again."""

    def close(self) -> None:
        """The client has left, or the member stops: free everything. Called exactly once, also
        after `Sink.finish`.
        """


class Duplex:
    """One duplex method: `open(sink, credentials)` begins a stream, `decode(text)` reads one of its
    messages (MalformedMessage). Who may do what is the session's to check, message by message.
    """

    __slots__ = ("decode", "handled", "name", "open", "refusal", "started")

    def __init__(
        self,
        name: str,
        decode: Callable[[bytes], Any],
        open_session: Callable[[Sink, Credentials], Session],
    ) -> None:
        self.name = name
        self.decode = decode
        self.open = open_session
        self.refusal = refusal
        self.started = 0
        self.handled: dict[int, int] = {OK: 0}
