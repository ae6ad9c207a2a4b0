"""The fast path alone: a byte stream in, writes out, a successor that gets what is not simple."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvcc.kv import KeyValue
from node.api import door as door_module
from node.api.door import Door, Lobby, parse_head
from node.api.gate import Gate
from node.api.routes import Routes
from node.apply.errors import NoLeader
from node.apply.requests import PutRequest, RangeRequest
from node.metrics import Metrics
from tests.unit.node.fake_server import FakeServer
from tests.unit.node.wire import HEADER, b64, get, post, put


class FakeTransport:
    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.reading = True
        self.closed = ""
        self.protocol: Any = None

    def get_extra_info(self, _name: str) -> Any:
        return None

    def write(self, data: bytes) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")  # as uvloop does
        self.written += data
        self.writes += 1

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def close(self) -> None:
        self.closed = self.closed or "close"

    def abort(self) -> None:
        self.closed = "abort"

    def is_closing(self) -> bool:
        return bool(self.closed)


class FakeLoop:
    """Runs what was deferred when told."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def call_soon(self, work: Callable[..., Any], *arguments: Any) -> None:
        self.soon.append((work, arguments))

    def run(self) -> int:
        turns = 0
        while self.soon:
            work, arguments = self.soon.pop(0)
            work(*arguments)
            turns += 1
        return turns


class Successor:
    def __init__(self) -> None:
        self.transport: Any = None
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data


class Bench:
    """One door with everything around it faked."""

    def __init__(self, **server: Any) -> None:
        self.server = FakeServer(**server)
        self.loop = FakeLoop()
        self.successor = Successor()
        routes = Routes(self.server, lambda work, done: work.close(), Metrics())  # type: ignore[arg-type]
        self.routes = routes
        self.lobby = Lobby(
            routes.unary,
            Gate(self.server),  # type: ignore[arg-type]
            message_bytes_max=2 << 20,
            host_allowed=lambda host: host != "evil",
            hand_over=lambda: self.successor,  # type: ignore[arg-type,return-value]
            others=lambda: 0,
            connections_max=100,
            cors=True,
            now=0.0,
        )
        self.transport = FakeTransport()
        self.door = Door(self.lobby, self.loop)  # type: ignore[arg-type]
        self.door.connection_made(self.transport)  # type: ignore[arg-type]

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.door.data_received(piece)
        self.loop.run()

    def answers(self) -> list[tuple[int, Any]]:
        """(status, body) of every answer written so far."""
        rest, found = self.transport.written, []
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            length = int(head.rpartition(b"Content-Length: ")[2])
            found.append((int(head[9:12]), json.loads(rest[:length])))
            rest = rest[length:]
        return found


def test_one_request_one_write() -> None:
    bench = Bench()
    bench.send(put(b"a", b"1"))
    assert bench.answers() == [(200, {"header": HEADER | {"revision": "2"}})]
    assert bench.transport.writes == 1
    assert bench.server.asked == [PutRequest(b"a", b"1")]
    assert bench.loop.soon == []


@pytest.mark.parametrize("error", [None, NoLeader()])
def test_an_answer_to_a_connection_that_just_ended_is_dropped(error: Exception | None) -> None:
    """It comes from within apply: an error here would end the member."""
    bench = Bench(hold=True)
    bench.send(put(b"a", b"1"))
    bench.transport.abort()
    if error is None:
        bench.server.release()
    else:
        bench.door._done(error)
    assert bench.transport.written == b""


def test_the_head_of_an_answer() -> None:
    bench = Bench()
    bench.lobby.set_date("Fri, 20 Nov 2026 13:00:00 GMT")
    bench.send(put(b"a"))
    head = bench.transport.written.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert head[0] == "HTTP/1.1 200 OK"
    assert set(head[1:]) == {
        "Content-Type: application/json",
        "Grpc-Metadata-Content-Type: application/grpc",
        "Access-Control-Allow-Headers: accept, content-type, authorization",
        "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE",
        "Access-Control-Allow-Origin: *",
        "Date: Fri, 20 Nov 2026 13:00:00 GMT",
        "Content-Length: " + str(len(bench.transport.written.partition(b"\r\n\r\n")[2])),
    }


def test_however_the_stream_is_cut_the_answers_are_the_same() -> None:
    stream = put(b"a") + get(b"a") + post("/v3beta/kv/deleterange", {"key": b64(b"a")})
    whole = Bench()
    whole.send(stream)
    assert [status for status, _ in whole.answers()] == [200, 200, 200]
    for cut in range(1, len(stream)):
        bench = Bench()
        bench.send(stream[:cut], stream[cut:])
        assert bench.transport.written == whole.transport.written, cut
    bench = Bench()
    bench.send(*(stream[i : i + 1] for i in range(len(stream))))
    assert bench.transport.written == whole.transport.written


def test_pipelined_requests_are_served_one_after_the_other() -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a") + put(b"b"), get(b"a")[:10])
    assert [r.key for r in bench.server.asked] == [b"a"]
    bench.server.release()
    # Not from inside the answer: whoever gives it must not be entered again.
    assert [r.key for r in bench.server.asked] == [b"a"]
    bench.loop.run()
    assert [r.key for r in bench.server.asked] == [b"a", b"b"]
    bench.server.release()
    bench.loop.run()
    bench.send(get(b"a")[10:])
    assert [type(r) for r in bench.server.asked] == [PutRequest, PutRequest, RangeRequest]
    bench.server.release()
    assert [body["header"]["revision"] for _, body in bench.answers()] == ["2", "3", "3"]


def test_an_empty_body_needs_no_length() -> None:
    bench = Bench()
    bench.send(b"POST /v3/lease/leases HTTP/1.1\r\nHost: x\r\n\r\n")
    assert bench.answers() == [(200, {"header": HEADER | {"revision": "1"}})]


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (get(b""), 400, 3),
        (post("/v3/kv/range", b"{"), 400, 3),
        (post("/v3/lease/revoke", {"ID": 9}), 404, 5),
        (post("/v3/kv/compaction", {"revision": 99}), 400, 11),
    ],
)
def test_a_refused_request_leaves_the_connection_working(
    request_bytes: bytes, status: int, code: int
) -> None:
    bench = Bench()
    bench.send(request_bytes + get(b"a"))
    (first, second) = bench.answers()
    assert (first[0], first[1]["code"], second[0]) == (status, code, 200)
    assert first[1]["error"] == first[1]["message"]


def test_errors_are_counted_by_code() -> None:
    bench = Bench(failure=NoLeader())
    bench.send(put(b"a") + get(b"") + get(b"a"))
    assert bench.routes.unary[b"/v3/kv/put"].handled == {0: 0, 14: 1}
    assert bench.routes.unary[b"/v3/kv/range"].handled == {0: 0, 3: 1, 14: 1}
    assert bench.routes.unary[b"/v3/kv/range"].started == 2


def test_a_fault_in_a_handler_is_answered_and_the_door_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()

    def broken(request: Any, done: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.server, "propose", broken)
    bench.send(put(b"a") + get(b"a"))
    assert [(status, body.get("code", 0)) for status, body in bench.answers()] == [
        (500, 13),
        (200, 0),
    ]
    assert caplog.records[0].levelname == "ERROR"


def test_an_answer_that_cannot_be_encoded_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a"))
    bench.server.held.pop()[2](object())
    assert bench.answers()[0][0] == 500
    assert caplog.records


def test_a_late_answer_to_a_lost_connection_is_dropped() -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a"), put(b"b"))
    bench.door.connection_lost(None)
    bench.server.release()
    bench.loop.run()
    assert bench.transport.written == b""
    assert len(bench.server.asked) == 1
    assert bench.lobby.doors == set()


def test_answering_twice_is_our_error() -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a"))
    done = bench.server.held[0][2]
    bench.server.release()
    with pytest.raises(AssertionError, match="twice"):
        done(NoLeader())


NOT_SIMPLE = [
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    post("/v3/kv/nothing", {}),
    post("/v3/kv/range/", {}),
    post("/v3/kv/range?x=1", {}),
    post("http://here/v3/kv/range", {}),
    post("/v3/maintenance/snapshot", {}),
    post("/v3/kv/range", {}).replace(b"HTTP/1.1", b"HTTP/1.0"),
    post("/v3/kv/range", {}).replace(b"POST", b"post"),
    post("/v3/kv/range", {}).replace(b"Host: here:2379\r\n", b""),
    post("/v3/kv/range", {}).replace(b"here:2379", b"evil"),
    post("/v3/kv/range", {}).replace(b"\r\nHost", b"\nHost"),
    post("/v3/kv/range", {}, "Content-Length: 2"),
    post("/v3/kv/range", {}, "Content-Length: 3"),
    post("/v3/kv/range", {}, "Transfer-Encoding: chunked"),
    post("/v3/kv/range", {}, "transfer-encoding : chunked"),
    post("/v3/kv/range", {}, "Host: other"),
    post("/v3/kv/range", {}, "Expect: 100-continue"),
    post("/v3/kv/range", {}, "Upgrade: websocket", "Connection: Upgrade"),
    post("/v3/kv/range", {}, "Connection: close"),
    post("/v3/kv/range", {}, "Content-Encoding: gzip"),
    post("/v3/kv/range", {}, "Origin: http://a"),
    post("/v3/kv/range", {}, " folded: x"),
    post("/v3/kv/range", {}, "no colon"),
    post("/v3/kv/range", {}, "X-Null: a\0b"),
    post("/v3/kv/range", {}, "X-Feed: a\nTransfer-Encoding: chunked"),
    post("/v3/kv/range", {}, "X-Return: a\rb"),
    post("/v3/kv/range", {}).replace(b"Length: 2", b"Length: +2"),
    post("/v3/kv/range", {}).replace(b"Length: 2", b"Length: 0x2"),
    post("/v3/kv/range", {}).replace(b"Length: 2", b"Length: 2, 2"),
    post("/v3/kv/range", {}).replace(b"Length: 2", b"Length: 999999999"),
    post("/v3/kv/range", {}).replace(b"Length: 2", b"Length:"),
    post("/v3/kv/range", {}, "X-Long: " + "a" * door_module.HEAD_BYTES_MAX),
]


def test_tls_on_a_port_without_it_is_closed_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(3):
        bench = Bench()
        bench.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert bench.transport.is_closing()
        assert bench.answers() == []
        bench.lobby.met_tls(bench.transport)
    assert caplog.text.count("speaks TLS to a port without it") == 3, "one for each lobby"


@pytest.mark.parametrize("unusual", NOT_SIMPLE, ids=[repr(raw[:60]) for raw in NOT_SIMPLE])
def test_what_is_not_simple_takes_the_connection_to_aiohttp(unusual: bytes) -> None:
    bench = Bench()
    bench.send(put(b"a") + unusual + put(b"b"))
    assert len(bench.answers()) == 1
    assert bench.transport.protocol is bench.successor
    assert bench.successor.transport is bench.transport
    assert bench.successor.data == unusual + put(b"b")
    assert bench.lobby.doors == set()
    assert [r.key for r in bench.server.asked] == [b"a"]


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([put(b"a"), get(b"a")]), max_size=8))
def test_garbage_is_never_lost_nor_an_error_here(pieces: list[bytes]) -> None:
    """Every byte is served, kept, or handed over."""
    bench = Bench()
    for piece in pieces:
        target: Any = bench.successor if bench.transport.protocol else bench.door
        target.data_received(piece)
        bench.loop.run()
    served = sum(len(put(b"a") if type(r) is PutRequest else get(b"a")) for r in bench.server.asked)
    stream = b"".join(pieces)
    if bench.transport.protocol:
        assert bench.successor.data == stream[served:]
    else:
        assert len(bench.answers()) == len(bench.server.asked)
        assert b"POST /v3".startswith(stream[served : served + 8])


def test_an_endless_head_is_handed_over_and_not_kept() -> None:
    bench = Bench()
    start = b"POST /v3/kv/put HTTP/1.1\r\nX: "
    bench.send(start)
    assert bench.transport.protocol is None
    for _ in range(9):
        if bench.transport.protocol is None:
            bench.send(b"a" * 1000)
    assert bench.transport.protocol is bench.successor
    assert len(bench.successor.data) < door_module.HEAD_BYTES_MAX + 1000


def test_heads_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "HEADS_MAX", 3)
    bench = Bench()
    bench.send(get(b"a") + get(b"b") + post("/v3/kv/range", {}, "Authorization: token"))
    assert [head.token for head in bench.lobby.heads.values()] == ["", "token"]
    for length in range(9):
        bench.send(get(b"a" * 3 * length))
        assert len(bench.lobby.heads) <= 3


def test_a_client_that_does_not_read_is_not_read() -> None:
    bench = Bench()
    bench.door.pause_writing()
    bench.send(put(b"a") + put(b"b"))
    assert not bench.transport.reading
    assert bench.server.asked == []
    bench.door.resume_writing()
    bench.loop.run()
    assert len(bench.answers()) == 2
    assert bench.transport.reading


def test_writing_may_stop_in_the_middle_of_a_pipeline() -> None:
    bench = Bench()
    write = bench.transport.write

    def full(data: bytes) -> None:
        write(data)
        bench.door.pause_writing()

    bench.transport.write = full  # type: ignore[method-assign]
    bench.send(put(b"a") + put(b"b") + put(b"c"))
    for count in (1, 2, 3):
        assert len(bench.answers()) == count
        bench.door.resume_writing()
        bench.loop.run()
    assert [r.key for r in bench.server.asked] == [b"a", b"b", b"c"]


def test_too_much_waiting_behind_a_request_stops_reading() -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a"), *[put(b"b", b"x" * 60_000)] * 4)
    assert not bench.transport.reading
    for _ in range(5):
        bench.server.release()
        bench.loop.run()
    assert bench.transport.reading
    assert len(bench.answers()) == 5


def test_a_large_body_arrives_in_pieces() -> None:
    bench = Bench()
    raw = put(b"a", b"x" * 1_000_000)
    bench.send(*(raw[i : i + 65_536] for i in range(0, len(raw), 65_536)))
    assert len(bench.server.asked[0].value) == 1_000_000
    assert bench.transport.reading


def test_a_message_beyond_the_transports_limit() -> None:
    bench = Bench()
    bench.send(put(b"a", b"x" * (2 << 20)) + get(b"a"))
    first, second = bench.answers()
    size = 3 + 5 + (2 << 20)
    assert (first[0], first[1]["code"], second[0]) == (429, 8, 200)
    assert first[1]["message"] == (f"grpc: received message larger than max ({size} vs. {2 << 20})")


def test_a_long_body_of_a_small_message_is_fine() -> None:
    bench = Bench()
    bench.send(post("/v3/kv/range", b'{"key":"YQ=="}' + b" " * (3 << 20)))
    assert bench.answers()[0][0] == 200


def test_a_large_range_is_written_in_steps() -> None:
    bench = Bench()
    for number in range(3500):
        key = b"k%05d" % number
        bench.server.store.keys[key] = KeyValue(key, b"v", 2, 2, 1)
    bench.door.data_received(
        post("/v3/kv/range", {"key": b64(b"k"), "range_end": b64(b"l")}) + get(b"k00000")
    )
    assert bench.transport.written == b""
    assert bench.loop.run() >= 4
    first, second = bench.answers()
    assert [kv["key"] for kv in first[1]["kvs"]] == [b64(b"k%05d" % n) for n in range(3500)]
    assert (first[1]["count"], second[1]["count"]) == ("3500", "1")


def test_a_connection_lost_while_a_large_range_is_written() -> None:
    bench = Bench()
    for number in range(3500):
        key = b"k%05d" % number
        bench.server.store.keys[key] = KeyValue(key, b"v", 2, 2, 1)
    bench.door.data_received(post("/v3/kv/range", {"key": b64(b"k"), "range_end": b64(b"l")}))
    bench.door.connection_lost(ConnectionResetError())
    bench.loop.run()
    assert bench.transport.written == b""


def test_half_a_request_has_a_deadline() -> None:
    bench = Bench()
    bench.lobby.sweep(100.0)
    raw = put(b"a", b"x" * 100)
    bench.send(raw[:20])
    bench.lobby.sweep(105.0)
    bench.send(raw[20:40])
    bench.lobby.sweep(109.0)
    assert bench.transport.closed == ""
    bench.lobby.sweep(111.0)
    assert bench.transport.closed == "close"


def test_a_large_body_has_a_later_deadline() -> None:
    bench = Bench()
    bench.send(put(b"a", b"x" * 1_500_000)[:1000])
    bench.lobby.sweep(30.0)
    assert bench.transport.closed == ""
    bench.lobby.sweep(42.0)
    assert bench.transport.closed == "close"


def test_a_served_request_has_no_deadline_here() -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a"))
    bench.lobby.sweep(1e6)
    assert bench.transport.closed == ""


def test_idle_and_stalled_connections_are_closed() -> None:
    bench = Bench()
    bench.send(get(b"a"))
    bench.lobby.sweep(3600.0)
    assert bench.transport.closed == ""
    bench.lobby.sweep(3700.0)
    assert bench.transport.closed == "close"
    bench = Bench()
    bench.door.pause_writing()
    bench.lobby.sweep(61.0)
    assert bench.transport.closed == "abort"


def test_closing_lets_the_running_request_finish() -> None:
    bench = Bench(hold=True)
    bench.send(put(b"a"))
    bench.lobby.closing = True
    bench.lobby.sweep(1.0)
    assert bench.transport.closed == ""
    bench.server.release()
    assert len(bench.answers()) == 1
    assert bench.transport.closed == "close"


def test_parse_head_takes_what_clients_send() -> None:
    bench = Bench()
    head = (
        b"POST /v3/kv/range HTTP/1.1\r\nHost: 127.0.0.1:2379\r\nUser-Agent: curl/8\r\n"
        b"Accept: */*\r\nContent-Length:14\r\nConnection: Keep-Alive\r\nX-Empty:\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nX-Text: \xfc\t b\r\n\r\n"
    )
    parsed = parse_head(head, bench.routes.unary, lambda host: host == "127.0.0.1:2379", 100)
    assert parsed is not None
    assert (parsed.method.name, parsed.length, parsed.token) == ("KV/Range", 14, "")
    assert parse_head(head, bench.routes.unary, lambda host: True, 13) is None
