"""Duplex streams on a connection of the fast path: bytes in, chunks out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from node.api import carriers
from node.api.door import PIPELINE_BYTES_MAX
from node.api.errors import (
    CANCELED,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    Refusal,
)
from node.api.methods import ANONYMOUS, Credentials
from node.apply.errors import NoLeader
from node.apply.requests import PutRequest
from tests.unit.node.duplex_fixture import EchoMethod
from tests.unit.node.test_door import Bench
from tests.unit.node.wire import get, post, put

PATH = "/v3/echo"


class StreamBench(Bench):
    def __init__(self) -> None:
        super().__init__()
        self.echo = EchoMethod()
        self.lobby.routes = {**self.lobby.routes, PATH.encode(): self.echo}

    def open(self, *messages: Any, raw: bytes = b"") -> None:
        body = b"".join(json.dumps(message).encode() for message in messages) + raw
        self.send(post(PATH, body, "Authorization: Bearer token"))

    def chunks(self) -> list[bytes]:
        """Of the one answer so far; the last is empty if it is complete."""
        head, _, rest = self.transport.written.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        found = []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            assert rest[length : length + 2] == b"\r\n"
            found.append(rest[:length])
            rest = rest[length + 2 :]
        return found


def line(message: Any) -> bytes:
    return b'{"result":%b}\n' % json.dumps(message).encode()


def test_messages_come_as_they_are_sent_one_chunk_each() -> None:
    bench = StreamBench()
    bench.open({"n": 1}, {"n": 2}, raw=b'\n {"n": 3} \n')
    assert bench.echo.happened == [{"n": 1}, {"n": 2}, {"n": 3}, "end"]
    assert bench.chunks() == [line({"n": n}) for n in (1, 2, 3)]
    (session,) = bench.echo.sessions
    assert session.credentials == Credentials("token")
    before = bench.transport.writes
    session.sink.send([line({"n": n}) for n in range(100)])
    assert bench.transport.writes == before + 1
    assert bench.chunks()[3:] == [line({"n": n}) for n in range(100)]


def test_the_head_goes_out_with_the_first_message() -> None:
    bench = StreamBench()
    bench.open()
    assert bench.transport.written == b""
    assert bench.echo.happened == ["end"]
    bench.echo.sessions[0].sink.send([line({})])
    head = bench.transport.written.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[0] == b"HTTP/1.1 200 OK"
    assert {
        b"Content-Type: application/json",
        b"Grpc-Metadata-Content-Type: application/grpc",
        b"Access-Control-Allow-Origin: *",
        b"Transfer-Encoding: chunked",
    } <= set(head[1:])


def test_however_the_request_is_cut() -> None:
    raw = post(PATH, b'{"n":1}{"n":2}')
    for cut in range(1, len(raw)):
        bench = StreamBench()
        bench.send(raw[:cut], raw[cut:])
        assert bench.chunks() == [line({"n": 1}), line({"n": 2})], cut


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"n":1', b"\xff", b'{"n":1,}', b"nonsense", b"1"])
def test_a_first_message_that_cannot_be_read(raw: bytes) -> None:
    bench = StreamBench()
    bench.send(post(PATH, raw) + get(b"a"))
    (status, body), (next_status, _) = bench.answers()
    assert (status, body["code"], next_status) == (400, INVALID_ARGUMENT, 200)
    assert body["error"] == body["message"]
    assert bench.echo.happened == ["close"]
    assert bench.echo.handled == {OK: 0, INVALID_ARGUMENT: 1}


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff", b'{"n":"\xff"}', b"junk"])
def test_a_later_message_that_cannot_be_read_is_the_last_one_looked_at(raw: bytes) -> None:
    bench = StreamBench()
    bench.open({"n": 1}, raw=raw + b'{"n":2}')
    assert bench.echo.happened == [{"n": 1}, "end"]
    assert bench.chunks() == [line({"n": 1})]
    assert bench.transport.closed == ""


def test_a_session_may_end_the_stream() -> None:
    bench = StreamBench()
    bench.open({"n": 1}, {"n": "finish"}, {"n": 3})
    assert bench.chunks() == [line({"n": 1}), b""]
    assert bench.echo.happened == [{"n": 1}, {"finish": None}, "close"]
    assert bench.echo.handled == {OK: 1}
    bench.echo.sessions[0].sink.send([line({})])
    bench.echo.sessions[0].sink.finish()
    assert bench.chunks()[2:] == []


def test_after_a_stream_the_connection_goes_on() -> None:
    bench = StreamBench()
    bench.send(
        post(PATH, b'{"n":"finish"}') + put(b"a") + post(PATH, b'{"n":"finish"}') + get(b"a")
    )
    assert [request.key for request in bench.server.asked] == [b"a", b"a"]
    assert bench.transport.written.count(b"HTTP/1.1 200 OK") == 4
    assert [session.happened[-1] for session in bench.echo.sessions] == ["close", "close"]


def test_an_error_before_the_first_answer_is_an_http_error() -> None:
    bench = StreamBench()
    bench.echo.raises = NoLeader()
    bench.open({"n": "raise"})
    ((status, body),) = bench.answers()
    told = Refusal(UNAVAILABLE, "etcdserver: no leader")
    assert (status, body) == (503, json.loads(told.chunk()))
    assert bench.echo.happened[1:] == ["close"]


def test_an_error_after_it_is_the_last_chunk() -> None:
    bench = StreamBench()
    bench.echo.raises = NoLeader()
    bench.open({"n": 1}, {"n": "raise"}, {"n": 3})
    told = Refusal(UNAVAILABLE, "etcdserver: no leader")
    assert bench.chunks() == [line({"n": 1}), told.chunk(), b""]
    assert bench.echo.handled == {OK: 0, UNAVAILABLE: 1}


def test_a_stream_refused_at_its_door() -> None:
    bench = StreamBench()
    bench.echo.refuses = NoLeader()
    bench.open({"n": 1})
    ((status, body),) = bench.answers()
    assert (status, body["error"]["grpc_code"]) == (503, UNAVAILABLE)
    bench.send(get(b"a"))
    assert len(bench.answers()) == 2


def test_a_message_too_large() -> None:
    bench = StreamBench()
    bench.echo.decode = lambda body: PutRequest(b"a", body)
    bench.open(raw=b'{"n":"%b"}' % (b"x" * (2 << 20)))
    ((status, body),) = bench.answers()
    assert (status, body["error"]["code"]) == (429, RESOURCE_EXHAUSTED)
    assert bench.echo.happened == ["close"]


def test_a_fault_in_reading_ends_the_stream_and_not_the_connection() -> None:
    bench = StreamBench()
    bench.echo.decode = lambda body: 1 // 0
    bench.open({"n": 1})
    bench.send(get(b"a"))
    assert [status for status, _ in bench.answers()] == [500, 200]
    assert bench.echo.happened == ["close"]


def test_a_lost_connection_closes_once() -> None:
    bench = StreamBench()
    bench.open({"n": 1})
    bench.transport.abort()
    (session,) = bench.echo.sessions
    session.sink.send([line({})])
    bench.door.connection_lost(None)
    assert bench.echo.happened == [{"n": 1}, "end", "close"]
    session.sink.send([line({})])
    session.sink.finish()
    bench.loop.run()
    assert bench.echo.happened[-2:] == ["end", "close"]
    assert bench.echo.handled == {OK: 0, CANCELED: 1}
    assert bench.lobby.doors == set()


def test_lost_between_its_end_and_its_close() -> None:
    bench = StreamBench()
    bench.door.data_received(post(PATH, b'{"n":"finish"}'))
    bench.door.connection_lost(None)
    bench.loop.run()
    assert bench.echo.happened == [{"finish": None}, "close"]
    assert bench.echo.handled == {OK: 1}


def test_a_slow_reader_is_told_of_and_still_heard() -> None:
    bench = StreamBench()
    bench.open({"n": 1})
    (session,) = bench.echo.sessions
    bench.door.pause_writing()
    assert session.sink.full
    assert bench.transport.reading
    bench.door.resume_writing()
    bench.loop.run()
    assert not session.sink.full
    assert bench.echo.happened == [{"n": 1}, "end", "resume"]


def test_a_long_list_of_requests_is_heard_in_parts_and_waits_for_room() -> None:
    bench = StreamBench()
    count = 2 * carriers.MESSAGES_PER_TURN + 10
    bench.door.data_received(post(PATH, b'{"n":1}' * count))
    assert len(bench.echo.happened) == carriers.MESSAGES_PER_TURN
    bench.door.pause_writing()
    bench.loop.run()
    assert len(bench.echo.happened) == carriers.MESSAGES_PER_TURN
    bench.door.resume_writing()
    bench.loop.run()
    assert bench.echo.happened.count({"n": 1}) == count
    assert bench.echo.happened.count("end") == 1
    assert bench.echo.happened[-1] == "end"


def test_idle_and_slow_streams_have_no_deadline() -> None:
    bench = StreamBench()
    bench.open({"n": 1})
    bench.lobby.sweep(1e6)
    bench.door.pause_writing()
    bench.lobby.sweep(2e6)
    assert bench.transport.closed == ""


@pytest.mark.parametrize(("slow", "how"), [(False, "close"), (True, "abort")])
def test_a_stop_ends_a_stream_without_its_last_chunk(slow: bool, how: str) -> None:
    bench = StreamBench()
    bench.open({"n": 1})
    if slow:
        bench.door.pause_writing()
    bench.lobby.closing = True
    bench.lobby.sweep(1.0)
    assert bench.transport.closed == how
    assert bench.chunks() == [line({"n": 1})]


def test_what_is_sent_behind_an_endless_stream_is_bounded() -> None:
    bench = StreamBench()
    bench.open({"n": 1})
    bench.send(get(b"a"))
    assert bench.server.asked == []
    assert bench.transport.closed == ""
    bench.send(b"x" * PIPELINE_BYTES_MAX)
    assert bench.transport.closed == "abort"


@pytest.mark.parametrize(
    "raw",
    [
        post(PATH, b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post(PATH, b"{}", "Connection: close"),
        post(PATH, b"", "Transfer-Encoding: chunked"),
        b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_what_is_not_simple_is_left_to_aiohttp(raw: bytes) -> None:
    bench = StreamBench()
    bench.send(raw)
    assert bench.successor.data == raw
    assert bench.echo.sessions == []


async def test_who_reads_no_answers_is_not_heard_frame_by_frame_either() -> None:
    """On a WebSocket each message comes alone: none may pile up its answer behind the others."""
    echo = EchoMethod()
    outbox = carriers.Outbox(echo, ANONYMOUS, 1 << 20)
    frame = json.dumps({"text": "x" * carriers.OUTBOX_BYTES}).encode()
    await outbox.hear(frame)
    assert outbox.full
    hearing = asyncio.create_task(outbox.hear(b'{"n": 2}'))
    await asyncio.sleep(0)
    assert len(echo.happened) == 1
    answers = aiter(outbox)
    assert len(await anext(answers)) == 1
    reading = asyncio.create_task(anext(answers))
    await hearing
    assert echo.happened[1:] == ["resume", {"n": 2}]
    assert await reading == [line({"n": 2})]
    outbox.close()
