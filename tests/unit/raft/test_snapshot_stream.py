"""Snapshots between real transports: whole, broken, refused, interrupted."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct

import pytest
import uvloop

from raft.codec import encode_message
from raft.core.message import Message, MessageType
from raft.core.types import Snapshot
from raft.framing import FrameType, pack_frame
from raft.handshake import ANSWER_BYTES, Identity, StreamKind, Verdict, pack_hello, unpack_answer
from raft.snapshot_stream import CHUNK_BYTES, stream_snapshot

from .transport_fixture import (
    CLUSTER,
    Member,
    Source,
    StartMember,
    ends,
    eventually,
    message,
    open_raw,
    snapshot_message,
)


async def test_snapshot_arrives_whole_before_its_message(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
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


async def test_empty_snapshot(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
    await one.connected(two)
    one.transport.send_snapshot(snapshot_message(), Source(b""))
    await one.recorder.until(lambda: one.recorder.results)
    assert one.recorder.results == [(2, True)]


@pytest.mark.parametrize("fault", ["no room", "disk full", "source breaks", "size limit", "nobody"])
async def test_failed_snapshots_leave_nothing(start_member: StartMember, fault: str) -> None:
    one = await start_member(1)
    two = await start_member(2, snapshot_bytes_max=10 if fault == "size limit" else 1 << 30)
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
    start_member: StartMember, frames: tuple[bytes, ...], words: bytes
) -> None:
    two = await start_member(2)
    result = await raw_snapshot(two, *frames)
    assert result[:1] == b"\0"
    assert words in result
    assert two.recorder.messages == []
    assert all(sink.ended == "aborted" for sink in two.recorder.sinks)
    assert two.transport.counters[1].snapshot_receive_failures == 1
    assert await raw_snapshot(two, header(4), CHUNK, END) == b"\1"


async def test_one_incoming_snapshot_per_peer(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
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


async def test_stop_ends_a_snapshot_under_way(start_member: StartMember) -> None:
    two = await start_member(2)
    _, writer = await open_raw(two)
    identity = Identity(CLUSTER, 1, lambda member: True, lambda member: False)
    writer.write(pack_hello(identity, StreamKind.SNAPSHOT, 2) + header(4) + CHUNK)
    await eventually(lambda: two.recorder.sinks)
    await two.transport.stop()
    assert two.recorder.sinks[0].ended == "aborted"
    writer.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_receiver_that_dies_meanwhile_is_a_connection_lost(factory) -> None:
    """Not an error of ours, which would end the sender: it may lead the cluster."""

    async def lose() -> None:
        gone = asyncio.Event()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A reset, as from a process that was killed, not a polite end.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            gone.set()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await gone.wait()
        async with asyncio.timeout(5):
            while not writer.transport.is_closing():  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        message = Message(type=MessageType.SNAPSHOT, to=2, sender=1, snapshot=Snapshot(7, 2))
        with pytest.raises(OSError):
            await stream_snapshot(reader, writer, message, Source(b"ab"), None)
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(lose())
