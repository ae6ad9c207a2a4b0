"""Whatever bytes a peer or a stranger sends: it is understood, or its connection ends."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.codec import encode_message
from raft.core.message import Message, MessageType
from raft.core.types import Entry
from raft.framing import FrameType, pack_frame
from raft.handshake import HELLO_BYTES, Identity, StreamKind, Verdict, pack_hello
from raft.peer_stream import AcceptedStream, PeerCounters


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Every example would write a line; other modules read these lines."""
    log = logging.getLogger("esker.peer")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


ONE = Identity(0xC, 1, lambda member: member in (1, 2), lambda member: False)
TWO = ONE._replace(member=2)
HELLO = pack_hello(ONE, StreamKind.MESSAGES, 2)
GOOD = Message(
    type=MessageType.APPEND, to=2, sender=1, term=1, index=4, entries=[Entry(1, 5, 0, b"x" * 300)]
)
GOOD_FRAME = pack_frame(FrameType.MESSAGE, encode_message(GOOD))


class FakeTransport:
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0


class FakeAcceptor:
    """Takes everybody; is the receiver, too."""

    identity = TWO
    frame_bytes_max = 1000

    def __init__(self) -> None:
        self.receiver = self
        self.messages: list[Message] = []
        self.complaints = 0
        self.descriptions = 0
        self.counters = PeerCounters()

    def admit(self, stream: AcceptedStream) -> bool:
        return True

    def verdict(self, stream: AcceptedStream, kind: int, member: int) -> Verdict:
        return Verdict.ACCEPTED

    def hand_over_snapshot(self, stream: AcceptedStream, rest: bytes) -> None:
        stream.transport.close()
        self.complaints += 1

    def closed(self, stream: AcceptedStream) -> None: ...

    def counters_of(self, member: int) -> PeerCounters:
        return self.counters

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        coroutine.close()

    def describe(self) -> bytes:
        self.descriptions += 1
        return b"a cluster"

    def complain(self, text: str) -> None:
        self.complaints += 1

    def receive(self, message: Message) -> None:
        self.messages.append(message)

    async def serve(self, sender: int, kind: int, body: bytes) -> bytes:
        return b""


async def feed(pieces: list[bytes]) -> tuple[FakeAcceptor, FakeTransport]:
    acceptor, transport = FakeAcceptor(), FakeTransport()
    stream = AcceptedStream(acceptor)
    stream.connection_made(transport)
    for piece in pieces:
        stream.data_received(piece)
    stream.connection_lost(None)
    return acceptor, transport


def cut(data: bytes, edges: list[int]) -> list[bytes]:
    at = [0, *sorted(edge % (len(data) + 1) for edge in edges), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(at) if start < end]


frames = st.one_of(
    st.just(GOOD_FRAME),
    st.builds(pack_frame, st.sampled_from(FrameType), st.binary(max_size=40)),
    st.binary(max_size=40),
)


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 5000), max_size=6))
def test_any_frames_after_a_hello(sent: list[bytes], edges: list[int]) -> None:
    data = HELLO + b"".join(sent)
    acceptor, transport = asyncio.run(feed(cut(data, edges)))
    assert transport.closed == bool(acceptor.complaints + acceptor.descriptions)
    expected = 0
    for frame in sent:
        if frame != GOOD_FRAME:
            break
        expected += 1
    assert acceptor.messages[:expected] == [GOOD] * expected
    assert all(message == GOOD for message in acceptor.messages)


@given(
    st.binary(min_size=1, max_size=80), st.integers(0, HELLO_BYTES), st.lists(st.integers(0, 99))
)
def test_any_bytes_instead_of_a_hello(noise: bytes, kept: int, edges: list[int]) -> None:
    data = HELLO[:kept] + noise
    acceptor, transport = asyncio.run(feed(cut(data, edges)))
    assert transport.closed == bool(acceptor.complaints + acceptor.descriptions)
    if kept < 4 and not data.startswith(HELLO[:4]) and not HELLO.startswith(data):
        assert transport.closed
        assert transport.written == b""
