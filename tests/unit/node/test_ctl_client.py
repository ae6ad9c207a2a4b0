"""The client of eskerctl against a small server: tokens, streams, endpoints in turn."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from node.ctl.client import AuthenticationFailed, CallError, Client, Settings
from node.ctl.load import Measured, Plan, _body, put_all

TOKENS = ("first", "second")


class Handler(BaseHTTPRequestHandler):
    """Knows the newest token only; streams three messages, the last cut off in the middle."""

    protocol_version = "HTTP/1.1"
    server: Served

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        if self.path == "/v3/auth/authenticate":
            self._authenticate(json.loads(body))
        elif self.headers.get("Authorization") != self.server.token:
            message = {"message": "etcdserver: invalid auth token", "code": 16}
            streams = self.path == "/v3/watch"
            self._answer(401, {"error": {"grpc_code": 16, **message}} if streams else message)
        elif self.path == "/v3/watch":
            self._stream()
        else:
            self._answer(200, {"asked": json.loads(body)})

    def _authenticate(self, body: dict[str, Any]) -> None:
        if body["password"] != "secret":
            self._answer(400, {"message": "etcdserver: authentication failed", "code": 3})
            return
        self.server.token = TOKENS[sum(path.endswith("authenticate") for path, _ in self.asked) - 1]
        self._answer(200, {"token": self.server.token})

    @property
    def asked(self) -> list[tuple[str, str]]:
        return self.server.asked

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for text in (b'{"result":{"number":1}}\n', b'{"result":{"number":2}}\n', b'{"result":'):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""


class Served(ThreadingHTTPServer):
    asked: list[tuple[str, str]]
    token = ""
    daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Served]:
    with Served(("127.0.0.1", 0), Handler) as served:
        served.asked = []
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def client_of(server: Served, password: str = "secret") -> Client:
    return Client(Settings(endpoints=(server.endpoint,), user="root", password=password))


def test_a_token_is_kept_and_fetched_again_when_it_is_refused(server: Served) -> None:
    client = client_of(server)
    assert client.call("kv/range", {"a": 1}) == {"asked": {"a": 1}}
    assert client.call("kv/range", {"a": 2}) == {"asked": {"a": 2}}
    server.token = TOKENS[1]
    assert client.call("kv/range", {"a": 3}) == {"asked": {"a": 3}}
    assert [token for path, token in server.asked if path == "/v3/kv/range"] == [
        *("first", "first"),
        *("first", "second"),
    ]


def test_a_stream_too_is_opened_with_a_new_token(server: Served) -> None:
    client = client_of(server)
    client.call("kv/range", {})
    server.token = TOKENS[1]
    messages = client.open("watch", [{}, {}], None, 5.0)
    with messages:
        answers = iter(messages)
        assert [next(answers), next(answers)] == [{"number": 1}, {"number": 2}]
        with pytest.raises(CallError, match="context deadline exceeded"):
            next(answers)


def test_a_wrong_password_is_its_own_error(server: Served) -> None:
    with pytest.raises(AuthenticationFailed, match="authentication failed"):
        client_of(server, "guess").call("kv/range", {})
    assert [path for path, _ in server.asked] == ["/v3/auth/authenticate"]


def test_many_writers_share_a_plan(server: Served) -> None:
    bodies = iter(b'{"key":"%d"}' % number for number in range(100))
    moments = iter([0.0] * 20)
    seen: list[int] = []
    measured = put_all(
        client_of(server), Plan(bodies, moments, 4, 5.0), lambda: seen.append(len(seen))
    )
    assert (len(measured.seconds), len(seen), measured.errors) == (20, 20, {})
    assert measured.rate == 20 / measured.took
    assert {token for path, token in server.asked if path == "/v3/kv/put"} == {"first"}


def test_errors_are_counted_by_their_text(server: Served) -> None:
    client = client_of(server)
    client.call("kv/range", {})
    server.token = "another"
    plan = Plan(iter([b"{}"] * 3), iter([0.0] * 3), 2, 5.0)
    measured = put_all(client, plan, lambda: None)
    assert measured.errors == {"etcdserver: invalid auth token": 3}
    assert measured.slowest == measured.deviation == 0.0


def test_what_was_measured() -> None:
    measured = Measured([0.1, 0.3], took=4.0)
    assert (measured.rate, measured.slowest) == (0.5, 0.3)
    assert measured.deviation == pytest.approx(0.1)


BODIES = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"abcNEXT", b"abc"),
    (b"HTTP/1.1 204 No\r\nServer: x\r\n\r\n", b"NEXT", b""),
    (
        b"HTTP/1.1 400 Bad\r\ntransfer-encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\nNEXT",
        b"abcde",
    ),
]


@pytest.mark.parametrize(("head", "sent", "body"), BODIES)
def test_bodies_end_where_they_end(head: bytes, sent: bytes, body: bytes) -> None:
    async def read() -> tuple[bytes, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(sent)
        reader.feed_eof()
        return await _body(head, reader), await reader.read()

    found, rest = asyncio.run(read())
    assert found == body
    assert rest == (b"NEXT" if b"NEXT" in sent else b"")
