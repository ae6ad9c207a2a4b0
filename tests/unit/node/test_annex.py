"""How long a client may take on aiohttp's side of the listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from node.api.door import HALF_REQUEST_SECONDS, STALLED_SECONDS
from node.apply.requests import PutRequest
from tests.unit.node.lone_member import LoneMember
from tests.unit.node.wire import post

ODD = "Origin: http://browser"


@pytest.fixture
async def member() -> AsyncIterator[LoneMember]:
    member = LoneMember()
    await member.start()
    yield member
    await member.stop()


def later(member: LoneMember, seconds: float) -> None:
    """The sweep, as it will be by then."""
    member.face._aiohttp.sweep(asyncio.get_running_loop().time() + seconds)


async def opened(
    member: LoneMember, raw: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has said this, which is taken to be read."""
    reader, writer = await asyncio.open_connection(*member.address)
    writer.write(raw)
    await until(lambda: member.face._aiohttp.connections)
    return reader, writer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (many kinds of conditions)
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("head", [b"GET /", b"GET /health HTTP/1.1\r\nHost: x\r\nX: "])
async def test_a_head_that_does_not_end(member: LoneMember, head: bytes) -> None:
    reader, writer = await opened(member, head)
    later(member, HALF_REQUEST_SECONDS / 2)
    writer.write(b"a")
    await asyncio.sleep(0.01)
    assert not reader.at_eof()
    later(member, HALF_REQUEST_SECONDS + 1)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_idle_is_not_slow(member: LoneMember) -> None:
    reader, writer = await opened(member, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(2):
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"}"), 5)
        later(member, 100 * HALF_REQUEST_SECONDS)
        writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"}"), 5)
    writer.write(b"GET /ver")
    await asyncio.sleep(0.01)
    later(member, HALF_REQUEST_SECONDS + 1)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_an_answer_that_is_not_read(member: LoneMember) -> None:
    await member.change(*(PutRequest(b"%d" % n, bytes(1 << 20)) for n in range(12)))
    everything = post("/v3/kv/range", b'{"key":"AA==","range_end":"AA=="}', ODD)
    reader, writer = await opened(member, everything)
    writer.transport.pause_reading()
    (guest,) = member.face._aiohttp.connections
    await until(lambda: guest.writing_paused)
    later(member, STALLED_SECONDS - 1)
    assert not guest.transport.is_closing()
    later(member, STALLED_SECONDS + 1)
    writer.transport.resume_reading()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await asyncio.wait_for(reader.readexactly(14 << 20), 5)
    assert (await member.ask("/kv/range", {"key": "MQ=="}))[0] == 200
    writer.close()


async def test_streams_may_take_their_time(member: LoneMember) -> None:
    url = f"http://{member.address[0]}:{member.address[1]}/v3/watch"
    async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
        await socket.send_str('{"create_request":{"key":"YQ=="}}')
        assert "created" in await socket.receive_str()
        later(member, 100 * STALLED_SECONDS)
        await member.change(PutRequest(b"a", b"1"))
        assert "events" in await asyncio.wait_for(socket.receive_str(), 5)


async def test_a_websocket_that_breaks_the_protocol(
    member: LoneMember, caplog: pytest.LogCaptureFixture
) -> None:
    head = (
        b"GET /v3/watch HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(*member.address)
    writer.write(head + b"\xff\xff\xff\xff")
    assert b"101 Switching" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert await asyncio.wait_for(reader.readexactly(4), 5) == b"\x88\x02\x03\xea"
    writer.write(b"\x88\x80\0\0\0\0")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    assert "Traceback" not in caplog.text
    writer.close()
