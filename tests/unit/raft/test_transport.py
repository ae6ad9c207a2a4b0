"""Real transports on the loopback: handshakes, streams, calls, snapshots, and strangers."""

from __future__ import annotations

import asyncio
import logging

import pytest

from raft.codec import encode_message
from raft.core.message import Message, MessageType
from raft.core.types import Entry
from raft.framing import FrameType, pack_frame
from raft.handshake import (
    ANSWER_BYTES,
    MAGIC,
    Identity,
    unpack_answer,
)
from raft.peer_stream import CALL_BYTES_MAX, PeerUrl
from raft.tcp_transport import STRANGERS_MAX
from raft.transport import CallFailed, PeerUnavailable

from .transport_fixture import (
    CLUSTER,
    StartMember,
    ends,
    eventually,
    greeted,
    hello,
    message,
    open_raw,
)

# -- messages


async def test_messages_arrive_in_order_and_are_counted(start_member: StartMember) -> None:
    one, two, three = await start_member(1), await start_member(2), await start_member(3)
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


async def test_send_without_a_connection_drops_and_reports_once(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
    url = two.url
    await two.transport.stop()
    one.transport.add_peer(2, [url])
    one.transport.send([message(2)])
    one.transport.send([message(2), message(2), message(99)])
    await one.recorder.until(lambda: one.recorder.lost)
    assert one.recorder.lost == [2]
    assert one.transport.counters[2].dropped_messages == 3


async def test_slow_peer_is_dropped_for_and_reported(start_member: StartMember) -> None:
    one = await start_member(1, buffer_bytes_max=1_000_000)
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


async def test_reconnects_and_reports_what_was_lost(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
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


async def test_second_url_is_tried_when_the_first_is_dead(start_member: StartMember) -> None:
    one, two, three = await start_member(1), await start_member(2), await start_member(3)
    dead = three.url
    await three.transport.stop()
    one.transport.add_peer(2, [dead, two.url])
    await one.recorder.until(lambda: one.recorder.round_trips)
    assert one.transport.counters[2].connect_failures == 1


async def test_returned_member_is_dialled_as_soon_as_it_dials(
    start_member: StartMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raft.peer_stream.BACKOFF_SECONDS", (3600.0, 3600.0))
    one, two = await start_member(1), await start_member(2)
    two.known.discard(1)
    one.dial(two)
    await eventually(lambda: one.transport.counters[2].connect_failures)
    two.known.add(1)
    two.dial(one)
    await one.recorder.until(lambda: one.recorder.round_trips)
    assert one.transport.active_since(2) is not None


async def test_peer_that_hangs_up_at_once_is_not_dialled_in_a_loop(
    start_member: StartMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raft.peer_stream.BACKOFF_SECONDS", (3600.0, 3600.0))
    one, two = await start_member(1), await start_member(2)
    await one.connected(two)
    for stream in list(two.transport._connections):
        stream.transport.abort()
    await one.recorder.until(lambda: one.recorder.lost)
    for _ in range(20):
        await asyncio.sleep(0)
    assert one.transport.active_since(2) is None
    assert one.transport.counters[2].connections_lost == 1


async def test_member_that_ended_is_gone(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
    await one.connected(two)
    await two.connected(one)
    await two.transport.stop()
    await one.recorder.until(lambda: one.recorder.dead)
    assert set(one.recorder.dead) == {2}


async def test_member_is_not_gone_while_its_stream_to_us_is_open(
    start_member: StartMember,
) -> None:
    """A listener that closed, or a firewall in one direction, is not the end of a process."""
    one, two = await start_member(1), await start_member(2)
    await one.connected(two)
    await two.connected(one)
    for server in two.transport._servers:
        server.close()
    (accepted,) = two.transport._connections
    accepted.transport.abort()
    await eventually(lambda: one.transport._peers[2].refused)
    two.transport.send([message(1, sender=2)])
    await one.recorder.until(lambda: one.recorder.messages)
    assert one.recorder.dead == []
    for stream in list(one.transport._connections):
        stream.transport.abort()
    await one.recorder.until(lambda: one.recorder.dead)
    assert set(one.recorder.dead) == {2}


async def test_member_that_answers_at_one_of_its_urls_is_not_gone(
    start_member: StartMember,
) -> None:
    one, two, three = await start_member(1), await start_member(2), await start_member(3)
    dead = three.url
    await three.transport.stop()
    one.transport.add_peer(2, [dead, two.url])
    await one.recorder.until(lambda: one.recorder.round_trips)
    assert one.recorder.dead == []


async def test_update_peer_moves_the_stream(start_member: StartMember) -> None:
    one, two, three = await start_member(1), await start_member(2), await start_member(3)
    one.transport.add_peer(2, [three.url])
    await eventually(lambda: one.transport.counters[2].connect_failures)
    one.transport.update_peer(2, [two.url])
    await one.recorder.until(lambda: one.recorder.round_trips)
    since = one.transport.active_since(2)
    one.transport.update_peer(2, [two.url])
    assert one.transport.active_since(2) == since


async def test_removed_peer_is_closed_both_ways(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
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
    start_member: StartMember, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await start_member(1, frame_bytes_max=10_000), await start_member(2)
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


async def test_peers_are_added_once_and_never_oneself(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
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
    start_member: StartMember, caplog: pytest.LogCaptureFixture, change: str, line: str
) -> None:
    caplog.set_level(logging.WARNING)
    told: list[int] = []
    one = await start_member(1, told_removed=told.append)
    two = await start_member(
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


async def test_peer_that_is_no_peer(
    start_member: StartMember, caplog: pytest.LogCaptureFixture
) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    one = await start_member(1)
    one.transport.add_peer(2, [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
    await eventually(lambda: "does not speak our protocol" in caplog.text)
    server.close()


@pytest.mark.parametrize(
    ("garbage", "what"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not speak our protocol"),
        (b"\x16\x03\x01\x02\x00", "speaks TLS to a port without it"),
        (b"ESKX", "does not speak our protocol"),
        (bytes(1000), "does not speak our protocol"),
    ],
)
async def test_garbage_is_closed_with_one_line(
    start_member: StartMember, caplog: pytest.LogCaptureFixture, garbage: bytes, what: str
) -> None:
    two = await start_member(2)
    reader, writer = await open_raw(two)
    writer.write(garbage)
    assert await ends(reader) == b""
    lines = [record.message for record in caplog.records if "speak" in record.message]
    assert len(lines) == 1
    assert lines[0].endswith(what)
    writer.close()


async def test_hello_may_come_in_pieces_and_with_the_first_frame(start_member: StartMember) -> None:
    two = await start_member(2)
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
    start_member: StartMember, caplog: pytest.LogCaptureFixture
) -> None:
    two = await start_member(2)
    streams = [await open_raw(two) for _ in range(STRANGERS_MAX)]
    await eventually(lambda: len(two.transport._connections) == STRANGERS_MAX)
    # The door is full, and a member gets in all the same: whoever came first makes room.
    streams.append(await greeted(two))
    assert await ends(streams[0][0]) == b""
    assert "too many connections without a hello" in caplog.text
    assert not streams[1][0].at_eof()
    await eventually(lambda: len(two.transport._connections) == STRANGERS_MAX)
    for _, writer in streams:
        writer.transport.abort()


async def test_late_hello(start_member: StartMember, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raft.peer_stream.HANDSHAKE_SECONDS", 0.02)
    two = await start_member(2)
    reader, writer = await open_raw(two)
    writer.write(hello()[:10])
    assert await ends(reader) == b""
    writer.close()


async def test_newer_stream_replaces_the_older(start_member: StartMember) -> None:
    two = await start_member(2)
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
    start_member: StartMember, caplog: pytest.LogCaptureFixture, frame: bytes, words: str
) -> None:
    two = await start_member(2)
    reader, writer = await greeted(two)
    good = pack_frame(FrameType.MESSAGE, encode_message(message(2, index=4)))
    writer.write(good + frame + good)
    assert await ends(reader) == b""
    assert [m.index for m in two.recorder.messages] == [4]
    assert words in caplog.text
    writer.close()


# -- calls


async def test_calls(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
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


async def test_call_without_an_answer(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
    await one.connected(two)
    with pytest.raises(PeerUnavailable, match="in time"):
        await one.transport.call(2, 2, b"", 0.01)
    waiting = asyncio.ensure_future(one.transport.call(2, 2, b""))
    await asyncio.sleep(0)
    for stream in list(two.transport._connections):
        stream.transport.abort()
    with pytest.raises(PeerUnavailable, match="connection lost"):
        await waiting


async def test_calls_under_way_are_bounded(start_member: StartMember) -> None:
    one, two = await start_member(1), await start_member(2)
    await one.connected(two)
    waiting = [asyncio.ensure_future(one.transport.call(2, 2, b"", 20)) for _ in range(33)]
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [str(task.exception()) for task in done] == ["too many calls"]
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
