"""Real transports on the loopback: handshakes, streams, calls, snapshots, and strangers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from raft.codec import encode_message
from raft.core.errors import RaftError
from raft.core.message import Message, MessageType
from raft.core.types import Entry, Snapshot
from raft.framing import FrameType, pack_frame
from raft.handshake import (
    ANSWER_BYTES,
    MAGIC,
    Identity,
    StreamKind,
    Verdict,
    pack_hello,
    unpack_answer,
)
from raft.peer_stream import CALL_BYTES_MAX, PeerUrl
from raft.snapshot_stream import CHUNK_BYTES
from raft.tcp_transport import STRANGERS_MAX, TcpTransport
from raft.transport import CallFailed, PeerUnavailable

CLUSTER = 0xC


class Refusing(RaftError):
    """What a receiver raises that has no room."""


class Sink:
    """Keeps what it is given in memory."""

    def __init__(self, owner: Recorder) -> None:
        self.owner = owner
        self.data = b""
        self.ended = ""

    def write(self, chunk: bytes) -> None:
        if self.owner.disk_full:
            raise OSError(28, "No space left on device")
        self.data += chunk

    def finish(self) -> None:
        self.ended = "finished"

    def abort(self) -> None:
        self.ended = "aborted"


class Source:
    """A SnapshotSource of some bytes that can break off or lie about its size."""

    def __init__(self, data: bytes, *, breaks_at: int | None = None) -> None:
        self.snapshot = Snapshot(7, 2)
        self.size = len(data)
        self.closed = 0
        self._data = data
        self._at = 0
        self._breaks_at = breaks_at

    def read(self, limit: int) -> bytes:
        if self._breaks_at is not None and self._at >= self._breaks_at:
            raise OSError(5, "Input/output error")
        chunk = self._data[self._at : self._at + limit]
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """A Receiver that keeps everything, and wakes whoever waits for a condition."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.lost: list[int] = []
        self.results: list[tuple[int, bool]] = []
        self.sinks: list[Sink] = []
        self.errors: list[BaseException] = []
        self.round_trips: list[tuple[int, float]] = []
        self.no_room = False
        self.disk_full = False
        self.changed = asyncio.Event()

    def receive(self, message: Message) -> None:
        self.messages.append(message)
        self.changed.set()

    def unreachable(self, member: int) -> None:
        self.lost.append(member)
        self.changed.set()

    def snapshot_sent(self, member: int, ok: bool) -> None:
        self.results.append((member, ok))
        self.changed.set()

    def begin_snapshot(self, message: Message, size: int) -> Sink:
        if self.no_room:
            raise Refusing("no room")
        self.sinks.append(Sink(self))
        return self.sinks[-1]

    async def serve(self, sender: int, kind: int, body: bytes) -> bytes:
        if kind == 1:
            return b"%x:" % sender + body
        if kind == 2:
            await asyncio.get_running_loop().create_future()
        if kind == 3:
            return bytes(CALL_BYTES_MAX + 1)
        raise CallFailed("no such question")

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)
        self.changed.set()

    def observe(self, member: int, seconds: float) -> None:
        self.round_trips.append((member, seconds))
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Member:
    """A transport, its recorder, and where it listens."""

    def __init__(self, number: int, known: set[int], **options: object) -> None:
        self.number = number
        self.known = known
        self.gone: set[int] = set()
        self.recorder = Recorder()
        self.transport = TcpTransport(
            cluster=options.pop("cluster", CLUSTER),
            member=number,
            listen_urls=["http://127.0.0.1:0"],
            knows=self.known.__contains__,
            removed=self.gone.__contains__,
            observe=self.recorder.observe,
            **options,
        )

    @property
    def url(self) -> str:
        host, port = self.transport.addresses[0]
        return f"http://{host}:{port}"

    def dial(self, other: Member) -> None:
        self.transport.add_peer(other.number, [other.url])

    async def connected(self, other: Member) -> None:
        self.dial(other)
        await self.recorder.until(
            lambda: (
                self.transport.active_since(other.number) is not None and self.recorder.round_trips
            )
        )


Start = Callable[..., "asyncio.Future[Member]"]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Starts members; stops them all afterwards and checks that none of their tasks broke."""
    members: list[Member] = []

    async def start(number: int, **options: object) -> Member:
        member = Member(number, {1, 2, 3}, **options)
        members.append(member)
        await member.transport.start(member.recorder)
        return member

    yield start
    for member in members:
        await member.transport.stop()
    assert [member.recorder.errors for member in members] == [[] for _ in members]


def message(to: int, sender: int = 1, index: int = 0, data: bytes = b"") -> Message:
    entries = [Entry(1, index + 1, 0, data)] if data else []
    return Message(
        type=MessageType.APPEND, to=to, sender=sender, term=1, index=index, entries=entries
    )


def hello(sender: int = 1, to: int = 2, cluster: int = CLUSTER) -> bytes:
    identity = Identity(cluster, sender, lambda member: True, lambda member: False)
    return pack_hello(identity, StreamKind.MESSAGES, to)


async def open_raw(member: Member) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = member.transport.addresses[0]
    return await asyncio.open_connection(host, port)


async def greeted(member: Member) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await open_raw(member)
    writer.write(hello())
    answer = unpack_answer(await reader.readexactly(ANSWER_BYTES))
    assert answer.verdict == Verdict.ACCEPTED
    return reader, writer


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other side closes."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def eventually(condition: Callable[[], object]) -> None:
    """For conditions that no recorder sees change."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


# -- messages


async def test_messages_arrive_in_order_and_are_counted(start: Start) -> None:
    one, two, three = await start(1), await start(2), await start(3)
    await one.connected(two)
    await one.connected(three)
    await one.recorder.until(lambda: {m for m, _ in one.recorder.round_trips} == {2, 3})
    big = bytes(100_000)
    for index in range(50):
        one.transport.send([message(2, index=index, data=big), message(3), message(2, index=index)])
    await two.recorder.until(lambda: len(two.recorder.messages) == 100)
    await three.recorder.until(lambda: len(three.recorder.messages) == 50)
    assert [m.index for m in two.recorder.messages] == [i for i in range(50) for _ in range(2)]
    assert two.recorder.messages[0].entries == [Entry(1, 1, 0, big)]
    counters = one.transport.counters[2]
    assert counters.sent_messages == 100
    assert counters.dropped_messages == 0
    assert two.transport.counters[1].received_messages == 100
    assert counters.sent_bytes == two.transport.counters[1].received_bytes - 5 - 8  # the ping


async def test_send_without_a_connection_drops_and_reports_once(start: Start) -> None:
    one, two = await start(1), await start(2)
    url = two.url
    await two.transport.stop()
    one.transport.add_peer(2, [url])
    one.transport.send([message(2)])
    one.transport.send([message(2), message(2), message(99)])
    await one.recorder.until(lambda: one.recorder.lost)
    assert one.recorder.lost == [2]
    assert one.transport.counters[2].dropped_messages == 3


async def test_slow_peer_is_dropped_for_and_reported(start: Start) -> None:
    one = await start(1, buffer_bytes_max=1_000_000)
    accepted: list[asyncio.StreamWriter] = []

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        identity = Identity(CLUSTER, 2, lambda member: True, lambda member: False)
        await reader.readexactly(32)
        answer = MAGIC + b"\0\1\0\0" + identity.cluster.to_bytes(8, "big") + bytes(7) + b"\2"
        writer.write(answer)
        writer.transport.pause_reading()
        one.recorder.changed.set()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    one.transport.add_peer(2, [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    await one.recorder.until(lambda: accepted)
    await eventually(lambda: one.transport.active_since(2))
    big = message(2, data=bytes(500_000))
    for _ in range(100):
        one.transport.send([big])
    await one.recorder.until(lambda: one.recorder.lost)
    counters = one.transport.counters[2]
    assert counters.dropped_messages > 0
    assert counters.sent_messages + counters.dropped_messages == 100
    assert one.recorder.lost == [2]
    server.close()
    accepted[0].transport.abort()


async def test_reconnects_and_reports_what_was_lost(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    since = one.transport.active_since(2)
    for stream in list(two.transport._connections):
        stream.transport.abort()
    await one.recorder.until(lambda: len(one.recorder.round_trips) == 2)
    assert one.recorder.lost == [2]
    assert one.transport.active_since(2) > since
    assert one.transport.counters[2].connections_lost == 1
    one.transport.send([message(2)])
    await two.recorder.until(lambda: two.recorder.messages)


async def test_second_url_is_tried_when_the_first_is_dead(start: Start) -> None:
    one, two, three = await start(1), await start(2), await start(3)
    dead = three.url
    await three.transport.stop()
    one.transport.add_peer(2, [dead, two.url])
    await one.recorder.until(lambda: one.recorder.round_trips)
    assert one.transport.counters[2].connect_failures == 1


async def test_update_peer_moves_the_stream(start: Start) -> None:
    one, two, three = await start(1), await start(2), await start(3)
    one.transport.add_peer(2, [three.url])
    await eventually(lambda: one.transport.counters[2].connect_failures)
    one.transport.update_peer(2, [two.url])
    await one.recorder.until(lambda: one.recorder.round_trips)
    since = one.transport.active_since(2)
    one.transport.update_peer(2, [two.url])
    assert one.transport.active_since(2) == since


async def test_removed_peer_is_closed_both_ways(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    await two.connected(one)
    two.known.discard(1)
    two.transport.remove_peer(1)
    await one.recorder.until(lambda: one.recorder.lost)
    assert two.transport.active_since(1) is None
    await eventually(lambda: one.transport.counters[2].connect_failures)
    assert one.transport.active_since(2) is None
    two.transport.remove_peer(1)


async def test_too_long_a_message_is_dropped_here(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await start(1, frame_bytes_max=10_000), await start(2)
    await one.connected(two)
    one.transport.send([message(2, data=bytes(10_000)), message(2, index=5)])
    await two.recorder.until(lambda: two.recorder.messages)
    assert [m.index for m in two.recorder.messages] == [5]
    assert one.transport.counters[2].dropped_messages == 1
    assert "too long for a peer stream" in caplog.text


@pytest.mark.parametrize(
    "url", ["127.0.0.1:2380", "unix:///x", "http://host", "http://:2380", "http://h:99999"]
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ValueError):
        PeerUrl.parse(url)


async def test_peers_are_added_once_and_never_oneself(start: Start) -> None:
    one, two = await start(1), await start(2)
    one.dial(two)
    for member, urls in ((2, [two.url]), (1, [one.url]), (3, [])):
        with pytest.raises(ValueError):
            one.transport.add_peer(member, urls)
    with pytest.raises(ValueError):
        one.transport.update_peer(3, [two.url])


# -- handshake


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("cluster", "belongs to cluster d, ours is c"),
        ("member", "is member 3, we look for 2"),
        ("unknown", "does not know this member (1)"),
        ("removed", "says that this member (1) was removed"),
    ],
)
async def test_refusals_are_told_to_the_dialling_side(
    start: Start, caplog: pytest.LogCaptureFixture, change: str, line: str
) -> None:
    caplog.set_level(logging.WARNING)
    told: list[int] = []
    one = await start(1, told_removed=told.append)
    two = await start(
        3 if change == "member" else 2, cluster=0xD if change == "cluster" else CLUSTER
    )
    if change == "unknown":
        two.known.discard(1)
    if change == "removed":
        two.gone.add(1)
    one.transport.add_peer(2, [two.url])
    await eventually(lambda: one.transport.counters[2].connect_failures)
    assert any(f"peer {two.url[7:]} {line}" in record.message for record in caplog.records)
    assert two.transport.strangers_refused == 1
    assert told == ([2] if change == "removed" else [])
    one.transport.send([message(2)])
    await one.recorder.until(lambda: one.recorder.lost)
    assert two.recorder.messages == []


async def test_peer_that_is_no_peer(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    one = await start(1)
    one.transport.add_peer(2, [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    await eventually(lambda: "does not speak our protocol" in caplog.text)
    server.close()


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"ESKX", bytes(1000)]
)
async def test_garbage_is_closed_with_one_line(
    start: Start, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    two = await start(2)
    reader, writer = await open_raw(two)
    writer.write(garbage)
    assert await ends(reader) == b""
    lines = [record.message for record in caplog.records if "protocol" in record.message]
    assert len(lines) == 1
    assert lines[0].endswith("does not speak our protocol")
    writer.close()


async def test_hello_may_come_in_pieces_and_with_the_first_frame(start: Start) -> None:
    two = await start(2)
    reader, writer = await open_raw(two)
    data = hello() + pack_frame(FrameType.MESSAGE, encode_message(message(2)))
    for piece in (data[:3], data[3:20], data[20:]):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    await two.recorder.until(lambda: two.recorder.messages)
    assert unpack_answer(await reader.readexactly(ANSWER_BYTES)).member == 2
    writer.close()


async def test_silent_connections_are_bounded(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    two = await start(2)
    streams = [await open_raw(two) for _ in range(STRANGERS_MAX + 1)]
    assert await ends(streams[-1][0]) == b""
    assert "too many connections without a hello" in caplog.text
    streams[0][1].transport.abort()
    await eventually(lambda: len(two.transport._connections) < STRANGERS_MAX)
    streams.append(await greeted(two))
    for _, writer in streams:
        writer.transport.abort()


async def test_late_hello(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raft.peer_stream.HANDSHAKE_SECONDS", 0.02)
    two = await start(2)
    reader, writer = await open_raw(two)
    writer.write(hello()[:10])
    assert await ends(reader) == b""
    writer.close()


async def test_newer_stream_replaces_the_older(start: Start) -> None:
    two = await start(2)
    old_reader, old = await greeted(two)
    _, new = await greeted(two)
    assert await ends(old_reader) == b""
    new.write(pack_frame(FrameType.MESSAGE, encode_message(message(2))))
    await two.recorder.until(lambda: two.recorder.messages)
    old.close()
    new.close()


# -- what an authenticated peer may not do


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pack_frame(FrameType.MESSAGE, encode_message(message(2, sender=3))), "of member 3"),
        (pack_frame(FrameType.MESSAGE, encode_message(message(3))), "for member 3"),
        (pack_frame(FrameType.MESSAGE, b"\xc1"), "malformed message"),
        (
            pack_frame(
                FrameType.MESSAGE,
                encode_message(Message(type=MessageType.SNAPSHOT, to=2, sender=1, term=1)),
            ),
            "outside of its stream",
        ),
        (b"\xff\xff\xff\xff\x01", "at most"),
        (pack_frame(FrameType.PONG, bytes(8)), "unexpected frame of type 2"),
        (pack_frame(FrameType.PING, bytes(9)), "unexpected frame of type 3"),
        (pack_frame(FrameType.CALL, b"abc"), "unexpected frame of type 5"),
        (pack_frame(FrameType.CALL, bytes(CALL_BYTES_MAX + 7)), "unexpected frame of type 5"),
    ],
)
async def test_broken_rules_close_the_stream(
    start: Start, caplog: pytest.LogCaptureFixture, frame: bytes, words: str
) -> None:
    two = await start(2)
    reader, writer = await greeted(two)
    good = pack_frame(FrameType.MESSAGE, encode_message(message(2, index=4)))
    writer.write(good + frame + good)
    assert await ends(reader) == b""
    assert [m.index for m in two.recorder.messages] == [4]
    assert words in caplog.text
    writer.close()


# -- calls


async def test_calls(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    answers = await asyncio.gather(*[one.transport.call(2, 1, b"%d" % i) for i in range(20)])
    assert answers == [b"1:%d" % i for i in range(20)]
    with pytest.raises(CallFailed, match="no such question"):
        await one.transport.call(2, 7, b"")
    with pytest.raises(CallFailed, match="more than fit"):
        await one.transport.call(2, 3, b"")
    with pytest.raises(ValueError):
        await one.transport.call(2, 1, bytes(CALL_BYTES_MAX + 1))
    with pytest.raises(PeerUnavailable):
        await one.transport.call(3, 1, b"")


async def test_call_without_an_answer(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    with pytest.raises(PeerUnavailable, match="in time"):
        await one.transport.call(2, 2, b"", 0.01)
    waiting = asyncio.ensure_future(one.transport.call(2, 2, b""))
    await asyncio.sleep(0)
    for stream in list(two.transport._connections):
        stream.transport.abort()
    with pytest.raises(PeerUnavailable, match="connection lost"):
        await waiting


async def test_calls_under_way_are_bounded(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    waiting = [asyncio.ensure_future(one.transport.call(2, 2, b"", 20)) for _ in range(33)]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [str(task.exception()) for task in done] == ["too many calls"]
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


# -- snapshots


def snapshot_message(to: int = 2) -> Message:
    return Message(type=MessageType.SNAPSHOT, to=to, sender=1, term=3, snapshot=Snapshot(7, 2))


async def test_snapshot_arrives_whole_before_its_message(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    source = Source(bytes(range(256)) * 4096 + b"tail")
    one.transport.send_snapshot(snapshot_message(), source)
    await one.recorder.until(lambda: one.recorder.results)
    assert one.recorder.results == [(2, True)]
    assert source.closed == 1
    assert two.recorder.sinks[0].data == source._data
    assert two.recorder.sinks[0].ended == "finished"
    assert two.recorder.messages == [snapshot_message()]
    assert one.transport.counters[2].snapshots_sent == 1
    assert two.transport.counters[1].snapshots_received == 1


async def test_empty_snapshot(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    one.transport.send_snapshot(snapshot_message(), Source(b""))
    await one.recorder.until(lambda: one.recorder.results)
    assert one.recorder.results == [(2, True)]


@pytest.mark.parametrize("fault", ["no room", "disk full", "source breaks", "size limit", "nobody"])
async def test_failed_snapshots_leave_nothing(start: Start, fault: str) -> None:
    one = await start(1)
    two = await start(2, snapshot_bytes_max=10 if fault == "size limit" else 1 << 30)
    await one.connected(two)
    two.recorder.no_room = fault == "no room"
    two.recorder.disk_full = fault == "disk full"
    breaks_at = CHUNK_BYTES if fault == "source breaks" else None
    source = Source(bytes(3 * CHUNK_BYTES), breaks_at=breaks_at)
    to = 3 if fault == "nobody" else 2
    one.transport.send_snapshot(snapshot_message(to), source)
    await one.recorder.until(lambda: one.recorder.results)
    assert one.recorder.results == [(to, False)]
    assert source.closed == 1
    assert one.transport.counters[to].snapshot_send_failures == 1
    if fault in ("disk full", "source breaks"):
        await eventually(lambda: two.recorder.sinks[0].ended == "aborted")
    else:
        assert two.recorder.sinks == []
    assert two.recorder.messages == []


async def raw_snapshot(member: Member, *frames: bytes) -> bytes:
    """Dial as member 1 would, send these frames, and return the body of the result."""
    reader, writer = await open_raw(member)
    identity = Identity(CLUSTER, 1, lambda member: True, lambda member: False)
    writer.write(pack_hello(identity, StreamKind.SNAPSHOT, 2) + b"".join(frames))
    rest = await ends(reader)
    writer.close()
    assert unpack_answer(rest[:ANSWER_BYTES]).verdict == Verdict.ACCEPTED
    return rest[ANSWER_BYTES + 5 :]


def header(size: int, message: Message | None = None) -> bytes:
    body = size.to_bytes(8, "big") + encode_message(message or snapshot_message())
    return pack_frame(FrameType.SNAPSHOT_HEADER, body)


CHUNK = pack_frame(FrameType.SNAPSHOT_CHUNK, b"data")
END = pack_frame(FrameType.SNAPSHOT_END, hashlib.sha256(b"data").digest())


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ((header(4), CHUNK, pack_frame(FrameType.SNAPSHOT_END, bytes(32))), b"checksum"),
        ((header(4), CHUNK, CHUNK, END), b"more than the 4 bytes"),
        ((header(9), CHUNK, END), b"4 bytes came, 9 were announced"),
        ((header(4), pack_frame(FrameType.MESSAGE, b"")), b"unexpected frame"),
        ((header(4), b"\x7f\xff\xff\xff\x09"), b"at most"),
        ((CHUNK,), b"where the header should be"),
        ((header(4, message(2)),), b"no snapshot message"),
        (
            (header(4, Message(type=MessageType.SNAPSHOT, to=2, sender=3, snapshot=Snapshot())),),
            b"from 3 to 2",
        ),
        ((pack_frame(FrameType.SNAPSHOT_HEADER, bytes(8) + b"\xc1"),), b"malformed"),
    ],
)
async def test_broken_snapshot_streams(
    start: Start, frames: tuple[bytes, ...], words: bytes
) -> None:
    two = await start(2)
    result = await raw_snapshot(two, *frames)
    assert result[:1] == b"\0"
    assert words in result
    assert two.recorder.messages == []
    assert all(sink.ended == "aborted" for sink in two.recorder.sinks)
    assert two.transport.counters[1].snapshot_receive_failures == 1
    assert await raw_snapshot(two, header(4), CHUNK, END) == b"\1"


async def test_one_incoming_snapshot_per_peer(start: Start) -> None:
    one, two = await start(1), await start(2)
    await one.connected(two)
    _, writer = await open_raw(two)
    identity = Identity(CLUSTER, 1, lambda member: True, lambda member: False)
    writer.write(pack_hello(identity, StreamKind.SNAPSHOT, 2) + header(4))
    await eventually(lambda: two.recorder.sinks)
    one.transport.send_snapshot(snapshot_message(), Source(b"data"))
    await one.recorder.until(lambda: one.recorder.results)
    assert one.recorder.results == [(2, False)]
    writer.transport.abort()
    await eventually(lambda: two.recorder.sinks[0].ended == "aborted")
    await eventually(lambda: two.transport.counters[1].snapshot_receive_failures)
    one.transport.send_snapshot(snapshot_message(), Source(b"data"))
    await one.recorder.until(lambda: len(one.recorder.results) == 2)
    assert one.recorder.results[1] == (2, True)


async def test_stop_ends_a_snapshot_under_way(start: Start) -> None:
    two = await start(2)
    _, writer = await open_raw(two)
    identity = Identity(CLUSTER, 1, lambda member: True, lambda member: False)
    writer.write(pack_hello(identity, StreamKind.SNAPSHOT, 2) + header(4) + CHUNK)
    await eventually(lambda: two.recorder.sinks)
    await two.transport.stop()
    assert two.recorder.sinks[0].ended == "aborted"
    writer.close()
