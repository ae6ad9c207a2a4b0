"""Duplex streams over real sockets: chunked requests, old HTTP, WebSockets, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from node.api.carriers import OUTBOX_BYTES
from node.api.errors import CANCELED, OK, UNAVAILABLE
from node.api.http import HttpFace
from node.api.methods import Credentials
from node.apply.errors import NoLeader
from node.metrics import Metrics
from tests.unit.node.duplex_fixture import EchoMethod
from tests.unit.node.fake_server import FakeServer
from tests.unit.node.wire import post

PATH = "/v3/echo"


class Streams:
    """A face with an echo on one path; connections are closed at the end of a test."""

    def __init__(self, face: HttpFace, address: tuple[str, int], server: FakeServer) -> None:
        self.face = face
        self.address = address
        self.server = server
        self.echo = EchoMethod()
        # Both tables: the fast path has its own, made of the other one when the face was.
        face.routes.duplexes[PATH.encode()] = self.echo
        face.lobby.routes = {**face.lobby.routes, PATH.encode(): self.echo}
        self.client = aiohttp.ClientSession(f"http://{address[0]}:{address[1]}")
        self.writers: list[asyncio.StreamWriter] = []

    async def send(self, raw: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(raw)
        self.writers.append(writer)
        return reader

    async def opened(self, count: int = 1) -> Any:
        """The newest session, once there are so many."""
        await until(lambda: len(self.echo.sessions) >= count)
        return self.echo.sessions[-1]

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
        await self.client.close()
        await self.face.stop(0.1)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (many kinds of conditions)
            await asyncio.sleep(0.001)


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, 5)


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    server = FakeServer()
    face = HttpFace(server, Metrics())  # type: ignore[arg-type]
    (address,) = await face.start(["http://127.0.0.1:0"])
    streams = Streams(face, address, server)
    yield streams
    await streams.close()


def chunked(*pieces: bytes, version: str = "1.1") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = f"POST {PATH} HTTP/{version}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + body + b"0\r\n\r\n"


ODD = [
    chunked(b'{"n":1}{', b'"n":2}'),
    post(PATH, b'{"n":1}{"n":2}', "Origin: http://browser"),
    post(PATH, b'{"n":1}\n{"n":2}\n', "Expect: 100-continue"),
]
PLAIN = post(PATH, b'{"n":1}{"n":2}')


@pytest.mark.parametrize("raw", [PLAIN, *ODD])
async def test_either_way_a_stream_looks_the_same(streams: Streams, raw: bytes) -> None:
    reader = await streams.send(raw)
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    if b"100 Continue" in head:
        head = await soon(reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    for line in (
        b"Content-Type: application/json",
        b"Grpc-Metadata-Content-Type: application/grpc",
        b"Access-Control-Allow-Origin: *",
        b"Transfer-Encoding: chunked",
    ):
        assert line in head
    for n in (1, 2):
        message = b'{"result":{"n": %d}}\n' % n
        assert await soon(reader.readexactly(6 + len(message))) == b"14\r\n%b\r\n" % message
    session = await streams.opened()
    session.sink.send([b"{}\n", b"[]\n"])
    assert await soon(reader.readexactly(16)) == b"3\r\n{}\n\r\n3\r\n[]\n\r\n"
    session.sink.finish()
    assert await soon(reader.readexactly(5)) == b"0\r\n\r\n"
    await until(lambda: session.happened == [{"n": 1}, {"n": 2}, "end", "close"])
    assert streams.echo.handled == {OK: 1}


async def test_old_http_has_no_chunks(streams: Streams) -> None:
    reader = await streams.send(PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"))
    session = await streams.opened()
    session.sink.finish()
    answer = await soon(reader.read())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b'{"result":{"n": 1}}\n{"result":{"n": 2}}\n'


@pytest.mark.parametrize("piece", [b"[]", b'{"n":', b"\xff"])
async def test_malformed_requests(streams: Streams, piece: bytes) -> None:
    reader = await streams.send(chunked(piece))
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 400")
    assert (await soon(reader.readuntil(b"}"))).count(b'"code":3') == 1
    assert streams.echo.happened == ["close"]


async def test_errors_of_a_session(streams: Streams) -> None:
    streams.echo.raises = NoLeader()
    reader = await streams.send(chunked(b'{"n":"raise"}'))
    assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 503")
    assert b'"grpc_code":14' in await soon(reader.readuntil(b"}}\n"))
    reader = await streams.send(chunked(b'{"n":1}{"n":"raise"}'))
    assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 200")
    assert b'"grpc_code":14' in await soon(reader.readuntil(b"\r\n0\r\n\r\n"))
    assert streams.echo.handled == {OK: 0, UNAVAILABLE: 2}


@pytest.mark.parametrize("raw", [PLAIN, ODD[0]])
async def test_a_client_that_leaves(streams: Streams, raw: bytes) -> None:
    await streams.send(raw)
    session = await streams.opened()
    await until(lambda: "end" in session.happened)
    streams.writers[0].close()
    await until(lambda: session.happened[-1] == "close")
    assert session.happened.count("close") == 1
    assert streams.echo.handled == {OK: 0, CANCELED: 1}


@pytest.mark.parametrize("raw", [PLAIN, ODD[0]])
async def test_a_client_that_does_not_read(streams: Streams, raw: bytes) -> None:
    """It costs what its socket holds and what was sent at once, and is told when it reads on."""
    reader = await streams.send(raw)
    session = await streams.opened()
    sent, message = 0, b"x" * OUTBOX_BYTES
    async with asyncio.timeout(10):
        while not session.sink.full or sent < 5 << 20:
            if session.sink.full and streams.writers[0].transport.is_reading():
                streams.writers[0].transport.pause_reading()
            session.sink.send([message])
            sent += len(message)
            await asyncio.sleep(0)
    await until(lambda: session.sink.full)
    streams.writers[0].transport.resume_reading()
    body = 0
    async with asyncio.timeout(10):
        while body < sent:
            body += (await reader.read(1 << 20)).count(b"x")
    await until(lambda: not session.sink.full)
    assert session.happened[-1] == "resume"


@pytest.mark.parametrize("raw", [PLAIN, ODD[0]])
async def test_stopping_ends_streams_without_their_last_chunk(streams: Streams, raw: bytes) -> None:
    reader = await streams.send(raw)
    session = await streams.opened()
    before = asyncio.get_running_loop().time()
    await streams.face.stop(4.0)
    assert asyncio.get_running_loop().time() - before < 2
    answer = await soon(reader.read())
    assert answer.endswith(b'{"result":{"n": 2}}\n\r\n')
    assert session.happened[-1] == "close"


async def test_a_websocket_is_a_conversation(streams: Streams) -> None:
    async with streams.client.ws_connect(PATH) as socket:
        for n in range(3):
            await socket.send_str(json.dumps({"n": n}))
            assert await soon(socket.receive_str()) == f'{{"result":{{"n": {n}}}}}'
        await socket.send_bytes(b'{"n":3}{"n":4}')
        assert [await soon(socket.receive_json()) for _ in range(2)] == [
            {"result": {"n": 3}},
            {"result": {"n": 4}},
        ]
        session = await streams.opened()
        assert session.credentials == Credentials()
    await until(lambda: session.happened[-1] == "close")
    assert "end" not in session.happened
    assert streams.echo.handled == {OK: 0, CANCELED: 1}
    assert streams.face.lobby.sent_bytes == 5 * len('{"result":{"n": 0}}\n')


async def test_the_end_of_a_websocket(streams: Streams) -> None:
    streams.echo.raises = NoLeader()
    async with streams.client.ws_connect(PATH) as socket:
        await socket.send_str('{"n":"raise"}')
        assert (await soon(socket.receive_json()))["error"]["grpc_code"] == UNAVAILABLE
        assert (await soon(socket.receive())).type == aiohttp.WSMsgType.CLOSE
    async with streams.client.ws_connect(PATH) as socket:
        await socket.send_str('{"n":"finish"}')
        assert (await soon(socket.receive())).type == aiohttp.WSMsgType.CLOSE
    assert streams.echo.handled == {OK: 1, UNAVAILABLE: 1}


async def test_malformed_frames(streams: Streams) -> None:
    async with streams.client.ws_connect(PATH) as socket:
        await socket.send_str("nonsense")
        assert (await soon(socket.receive_json()))["code"] == 3
        assert (await soon(socket.receive())).type == aiohttp.WSMsgType.CLOSE
    async with streams.client.ws_connect(PATH) as socket:
        await socket.send_str('{"n":1}')
        await soon(socket.receive_json())
        await socket.send_str("nonsense")
        await socket.send_str('{"n":2}')
        session = await streams.opened(2)
        session.sink.send([b'{"late":1}\n'])
        assert await soon(socket.receive_json()) == {"late": 1}
        assert session.happened == [{"n": 1}]


@pytest.mark.parametrize(
    ("headers", "protocols", "token", "answered"),
    [
        ({"Authorization": "Bearer one"}, (), "one", None),
        ({}, ("Bearer", "two"), "two", "Bearer"),
        ({"Authorization": "three"}, ("Bearer", "two"), "three", "Bearer"),
        ({}, ("other", "two"), "", None),
        ({}, ("Bearer",), "", "Bearer"),
    ],
)
async def test_the_token_of_a_websocket(
    streams: Streams,
    headers: dict[str, str],
    protocols: tuple[str, ...],
    token: str,
    answered: str | None,
) -> None:
    async with streams.client.ws_connect(PATH, headers=headers, protocols=protocols) as socket:
        session = await streams.opened()
        assert session.credentials.token == token
        assert socket.protocol == answered


async def test_a_frame_beyond_the_limit(streams: Streams) -> None:
    async with streams.client.ws_connect(PATH) as socket:
        session = await streams.opened()
        with contextlib.suppress(ConnectionError):
            await socket.send_str(" " * (streams.face.lobby.body_bytes_max + 1))
    await until(lambda: session.happened == ["close"])


async def test_stopping_ends_websockets(streams: Streams) -> None:
    async with streams.client.ws_connect(PATH) as socket:
        session = await streams.opened()
        before = asyncio.get_running_loop().time()
        await streams.face.stop(4.0)
        assert asyncio.get_running_loop().time() - before < 2
        ended = await soon(socket.receive())
        assert ended.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
    assert session.happened == ["close"]


async def test_server_streams_take_a_websocket(streams: Streams) -> None:
    async def blocks(_request: Any, _asker: Any) -> AsyncIterator[Any]:
        for number in range(3):
            yield SimpleNamespace(number=number)

    snapshot = streams.face.routes.streams[b"/v3/maintenance/snapshot"]
    snapshot.serve = blocks
    snapshot.encode = lambda message: b'{"result":%d}\n' % message.number
    async with streams.client.ws_connect("/v3/maintenance/snapshot") as socket:
        await socket.send_str("{}")
        heard = [await soon(socket.receive_json()) for _ in range(3)]
        assert heard == [{"result": 0}, {"result": 1}, {"result": 2}]
        assert (await soon(socket.receive())).type == aiohttp.WSMsgType.CLOSE
    async with streams.client.ws_connect("/v3/maintenance/snapshot") as socket:
        await socket.send_str("[]")
        assert (await soon(socket.receive_json()))["code"] == 3
    assert snapshot.handled == {OK: 1, 3: 1}


async def test_a_client_that_leaves_a_silent_server_stream(streams: Streams) -> None:
    ended = asyncio.Event()

    async def silence(_request: Any, _asker: Any) -> AsyncIterator[Any]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            ended.set()

    snapshot = streams.face.routes.streams[b"/v3/maintenance/snapshot"]
    snapshot.serve = silence
    async with streams.client.ws_connect("/v3/maintenance/snapshot") as socket:
        await socket.send_str("{}")
        await until(lambda: snapshot.started == 1)
    await soon(ended.wait())
    await until(lambda: snapshot.handled == {OK: 0, CANCELED: 1})


@pytest.mark.parametrize(
    ("path", "status"), [("/v3/kv/range", 501), ("/v3/nothing", 404), (PATH, 101)]
)
async def test_only_streams_take_websockets(streams: Streams, path: str, status: int) -> None:
    raw = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader = await streams.send(raw.encode())
    assert (await soon(reader.readline())).startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize("missing", ["Connection: Upgrade", "Sec-WebSocket-Version: 13"])
async def test_half_a_handshake(streams: Streams, missing: str) -> None:
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines.remove(missing)
    raw = f"GET {PATH} HTTP/1.1\r\nHost: x\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    reader = await streams.send(raw.encode())
    assert (await soon(reader.readline())).startswith(b"HTTP/1.1 400")
    assert streams.echo.sessions == []
