"""Both ways in over real sockets: the same answers, and nothing smuggled between them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
import socket
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvcc.errors import Compacted
from mvcc.kv import KeyValue
from node.api.http import HttpFace
from node.apply.errors import MemberUrlsInvalid, NotLeader, RequestTimedOut
from node.apply.responses import Member, MembersResponse
from node.config import NodeConfig
from node.metrics import Metrics
from node.tls import Tls, client_listener
from tests.unit.node.fake_server import FakeConfig, FakeServer
from tests.unit.node.wire import HEADER, b64, get, post, put


class Answer:
    """One HTTP answer, as parsed from the bytes."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:-2])
    if headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Answer(int(head[0].split()[1]), headers, body)


class Client:
    def __init__(self, face: HttpFace, server: FakeServer, address: tuple[str, int]) -> None:
        self.face = face
        self.server = server
        self.address = address

    async def ask(self, *pieces: bytes, answers: int = 1) -> list[Answer]:
        """Send on a new connection, read so many answers, close."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            for piece in pieces:
                writer.write(piece)
                if len(pieces) > 1:
                    await asyncio.sleep(0)
            return [await asyncio.wait_for(read_answer(reader), 5) for _ in range(answers)]
        finally:
            writer.close()

    async def get(self, target: str, method: str = "GET", host: str = "x") -> Answer:
        raw = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        return (await self.ask(raw))[0]

    async def until_closed(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(raw)
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()


async def started(server: FakeServer, **listener: Any) -> Client:
    metrics = Metrics()
    metrics.watch_server(server)  # type: ignore[arg-type]
    face = HttpFace(server, metrics)  # type: ignore[arg-type]
    (address,) = await face.start(["http://127.0.0.1:0"], **listener)
    return Client(face, server, address)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = await started(FakeServer())
    yield client
    await client.face.stop(0.1)


SLOW_WAY = "Origin: http://browser"
"""A header that only aiohttp's side looks at."""

CALLS: list[tuple[str, Any]] = [
    ("/v3/kv/put", {"key": "YQ==", "value": "Yg==", "prev_kv": True}),
    ("/v3beta/kv/put", {"key": "YQ==", "prevKv": True}),
    ("/v3/kv/range", {"key": "YQ=="}),
    ("/v3/kv/range", {"key": ""}),
    ("/v3/kv/range", b""),
    ("/v3/kv/range", b"[]"),
    ("/v3/kv/range", {"key": "YQ==", "sort_order": 9}),
    ("/v3/kv/txn", {"success": [{"request_put": {"key": "YQ=="}}, {"request_txn": {}}]}),
    ("/v3/kv/txn", {"success": [{}]}),
    ("/v3/kv/deleterange", {"key": "YQ==", "prev_kv": True}),
    ("/v3/kv/compaction", {"revision": "2", "physical": True}),
    ("/v3/kv/compaction", {"revision": 99}),
    ("/v3/lease/grant", {"TTL": 60, "ID": 7}),
    ("/v3/lease/grant", {"TTL": 60, "ID": 7}),
    ("/v3/lease/grant", {"TTL": 9000000001, "ID": 8}),
    ("/v3/lease/timetolive", {"ID": 7, "keys": True}),
    ("/v3/kv/lease/timetolive", {"ID": 9}),
    ("/v3/lease/leases", b""),
    ("/v3/kv/lease/revoke", {"ID": 7}),
    ("/v3/cluster/member/list", {}),
    ("/v3/maintenance/status", {}),
    ("/v3/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE", "memberID": 5}),
    ("/v3/maintenance/alarm", {}),
    ("/v3/maintenance/alarm", {"action": 7}),
]


async def test_both_ways_answer_alike(client: Client) -> None:
    other = await started(FakeServer())
    for path, body in CALLS:
        (fast,) = await client.ask(post(path, body))
        (slow,) = await other.ask(post(path, body, SLOW_WAY))
        assert (fast.status, fast.json()) == (slow.status, slow.json()), path
        assert "Server" not in fast.headers, "this was not the fast way"
        assert "Server" in slow.headers, "this was not the slow way"
        for name in ("Content-Type", "Grpc-Metadata-Content-Type", "Access-Control-Allow-Origin"):
            assert fast.headers.get(name) == slow.headers.get(name), (path, name)
    counted = [
        {method.name: (method.started, method.handled) for method in one.face.routes.methods()}
        for one in (client, other)
    ]
    assert counted[0] == counted[1]
    await other.face.stop(0.1)


async def test_a_connection_may_change_its_ways(client: Client) -> None:
    pieces = put(b"a") + post("/v3/kv/range", {"key": "YQ=="}, SLOW_WAY) + get(b"a")
    first, second, third = await client.ask(pieces, answers=3)
    assert ("Server" in first.headers, "Server" in second.headers) == (False, True)
    assert second.json() == third.json()


SMUGGLED = [
    post("/v3/kv/put", {"key": "YQ=="}, "Content-Length: 3"),
    post("/v3/kv/put", {"key": "YQ=="}, "Content-Length: 15"),
    post("/v3/kv/put", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    post("/v3/kv/put", {"key": "YQ=="}, "Transfer-Encoding : chunked"),
    post("/v3/kv/put", {"key": "YQ=="}, "X-Feed: a\nTransfer-Encoding: chunked"),
    post("/v3/kv/put", {"key": "YQ=="}, "X-Null: a\0b"),
    post("/v3/kv/put", {"key": "YQ=="}).replace(b"Length: ", b"Length: +"),
    post("/v3/kv/put", {"key": "YQ=="}).replace(b"Length: 15", b"Length: 1_5"),
    post("/v3/kv/put", {"key": "YQ=="}).replace(b"\r\n", b"\n"),
    b"\0\1\2\3 nonsense\r\n\r\n",
]


@pytest.mark.parametrize("raw", SMUGGLED, ids=[repr(raw[60:110]) for raw in SMUGGLED])
async def test_what_two_parsers_might_read_differently_is_refused(
    client: Client, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.until_closed(raw + put(b"b"))).startswith(b"HTTP/1.0 400")
    assert client.server.asked == []
    assert not caplog.records, "nobody can fill the log from outside"


async def test_chunked_and_expect_are_served(client: Client) -> None:
    body = b'e\r\n{"key":"YQ==",\r\n10\r\n"value":"Yg==" }\r\n0\r\n\r\n'
    head = "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n"
    (answer,) = await client.ask(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + body)
    assert answer.status == 200
    assert client.server.store.keys[b"a"].value == b"b"
    expecting = f"{head}Content-Length: 14\r\nExpect: 100-continue\r\n\r\n".encode()
    ready, answer = await client.ask(expecting + b'{"key":"YQ=="}', answers=2)
    assert (ready.status, answer.status) == (100, 200)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(st.tuples(st.sampled_from(CALLS), st.booleans()), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 2000), max_size=5),
)
def test_any_pipeline_cut_anywhere_is_answered_as_one_by_one(
    calls: list[tuple[tuple[str, Any], bool]], cuts: list[int]
) -> None:
    """Fast ones first or not: from the first slow one on, aiohttp has the connection."""

    async def run() -> None:
        piped, single = await started(FakeServer()), await started(FakeServer())
        raws = [post(*call, *([SLOW_WAY] if slow else [])) for call, slow in calls]
        stream = b"".join(raws)
        edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
        pieces = [stream[a:b] for a, b in pairwise(edges)]
        got = await piped.ask(*pieces, answers=len(raws))
        expected = [(await single.ask(raw))[0] for raw in raws]
        assert [(a.status, a.body) for a in got] == [(a.status, a.body) for a in expected]
        await piped.face.stop(0.1)
        await single.face.stop(0.1)

    asyncio.run(run())


ODD = [bytes([byte]) for byte in b"\r\n\t :,;+-/?%0aZ\0\x7f\x80\xff"]


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 200), odd=st.sampled_from(ODD), insert=st.booleans())
def test_nothing_is_served_fast_that_aiohttp_would_read_differently(
    place: int, odd: bytes, insert: bool
) -> None:
    """A request with an odd byte, then a proper one that closes: through the door, around it."""
    raw = post("/v3/kv/put", {"key": "YQ==", "value": "Yg=="}, "X-More: a b", "Accept: */*")
    place %= raw.index(b"\r\n\r\n") + 4
    mutant = raw[:place] + odd + raw[place + (not insert) :]
    end = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    async def run() -> None:
        seen = []
        for fronted in (True, False):
            client = await started(FakeServer())
            listener = await asyncio.get_running_loop().create_server(
                client.face.lobby.hand_over, "127.0.0.1", 0
            )
            if not fronted:
                client.address = listener.sockets[0].getsockname()[:2]
            reader, writer = await asyncio.open_connection(*client.address)
            writer.write(mutant + end)
            with contextlib.suppress(TimeoutError):
                # Still open: the odd byte made it wait for more, this way and that way.
                await asyncio.wait_for(reader.read(-1), 0.2)
            seen.append(client.server.asked)
            writer.close()
            listener.close()
            await client.face.stop(0.1)
        assert seen[0] == seen[1]

    asyncio.run(run())


@pytest.mark.parametrize(
    "path", ["/v3/nothing", "/v3/kv/range/", "/v3/", "/v3/lock/", "/v3/election/lead"]
)
async def test_unknown_calls(client: Client, path: str) -> None:
    (answer,) = await client.ask(post(path, {}))
    assert (answer.status, answer.json()["code"], answer.json()["message"]) == (404, 5, "Not Found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_calls_are_posts(client: Client, method: str) -> None:
    answer = await client.get("/v3/kv/range", method)
    assert (answer.status, answer.json()["code"]) == (501, 12)
    assert answer.json()["message"] == "Method Not Allowed"


async def test_what_is_around_the_calls(client: Client) -> None:
    options = await client.get("/v3/kv/range", "OPTIONS")
    assert (options.status, options.body) == (200, b"")
    assert options.headers["Access-Control-Allow-Methods"] == "POST, GET, OPTIONS, PUT, DELETE"
    moved = await client.get("/v3")
    assert (moved.status, moved.headers["Location"]) == (301, "/v3/")
    assert (await client.get("/")).status == 404
    assert (await client.get("/v2/keys")).status == 404
    assert (await client.get("/v3alpha/kv/range", "POST")).status == 404
    version = (await client.get("/version")).json()
    assert version["etcdserver"].startswith("3.6.")
    assert version["etcdserver"].replace(".", "").isdigit()
    assert version == version | {"etcdcluster": "3.6.0", "storage": "3.6.0"}
    assert version["esker"].startswith("0."), "and our own, beside what clients look for"
    refused = await client.get("/version", "POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET")
    assert (await client.get("/debug/vars")).json()["mvcc.revision"] == 1


@pytest.mark.parametrize("path", ["/health", "/version", "/debug/vars", "/livez"])
async def test_what_is_asked_with_get_has_no_head(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 200
    answer = await client.until_closed(
        f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 405")
    assert b"Allow: GET\r\n" in answer


async def test_a_content_encoding_is_not_looked_at(client: Client) -> None:
    (answer,) = await client.ask(post("/v3/kv/range", {"key": "YQ=="}, "Content-Encoding: gzip"))
    assert answer.status == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b"1"])
async def test_a_stream_reads_its_message(client: Client, body: bytes) -> None:
    (answer,) = await client.ask(post("/v3/maintenance/snapshot", body))
    assert (answer.status, answer.json()["code"]) == (400, 3)


async def test_the_query_is_ignored(client: Client) -> None:
    (answer,) = await client.ask(post("/v3/kv/range?pretty=true", {"key": "YQ=="}))
    assert answer.status == 200


async def test_host_whitelist() -> None:
    client = await started(FakeServer(FakeConfig(host_whitelist=("good.example",))))
    assert (await client.get("/version", host="evil.example")).status == 421
    assert (await client.get("/version", host="Good.example:2379")).status == 200
    (answer,) = await client.ask(get(b"a"))
    assert answer.status == 421
    (answer,) = await client.ask(get(b"a").replace(b"here", b"good.example"))
    assert answer.status == 200
    for broken in (b"[", b"good.example]", b"[::1", "\u2100".encode()):
        (answer,) = await client.ask(get(b"a").replace(b"here", broken))
        assert answer.status == 421, broken
    await client.face.stop(0.1)


async def test_cors_of_named_origins() -> None:
    client = await started(FakeServer(FakeConfig(cors=("http://browser",))))
    (allowed,) = await client.ask(post("/v3/kv/range", {"key": "YQ=="}, SLOW_WAY))
    assert allowed.headers["Access-Control-Allow-Origin"] == "http://browser"
    for extra in (["Origin: http://other"], []):
        (answer,) = await client.ask(post("/v3/kv/range", {"key": "YQ=="}, *extra))
        assert "Access-Control-Allow-Origin" not in answer.headers
    await client.face.stop(0.1)


async def test_bodies_beyond_the_limit(client: Client) -> None:
    announced = put(b"a").replace(b"Content-Length: ", b"Content-Length: 9999999")
    (answer,) = await client.ask(announced)
    assert (answer.status, answer.json()["code"]) == (429, 8)
    assert answer.json()["message"].startswith("grpc: received message larger than max (9999999")
    chunk = b"186a0\r\n" + b" " * 100_000 + b"\r\n"
    head = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    (answer,) = await client.ask(head, *[chunk] * 45)
    assert answer.status == 429


async def test_large_ranges_either_way(client: Client) -> None:
    for number in range(2500):
        key = b"k%05d" % number
        client.server.store.keys[key] = KeyValue(key, b"v" * 600, 2, 2, 1)
    request = {"key": b64(b"k"), "range_end": b64(b"l")}
    (fast,) = await client.ask(post("/v3/kv/range", request))
    (slow,) = await client.ask(post("/v3/kv/range", request, SLOW_WAY))
    assert fast.body == slow.body
    assert len(fast.json()["kvs"]) == 2500


class FakeMaintenance:
    """Answers like `node.maintenance`, at once or with `failure`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: Exception | None = None
        self.closed = 0
        self.transferred: list[int] = []

    async def _maybe_fail(self) -> None:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure

    async def defragment(self) -> None:
        await self._maybe_fail()

    async def hash(self) -> int:
        await self._maybe_fail()
        return 4294967295

    async def hash_kv(self, revision: int) -> tuple[int, int, int, int]:
        await self._maybe_fail()
        return 99, revision or 8, 3, 8

    async def transfer_leadership(self, target: int) -> None:
        await self._maybe_fail()
        self.transferred.append(target)

    async def open_copy(self) -> Any:
        await self._maybe_fail()
        return SimpleNamespace(
            path=str(self.path), size=self.path.stat().st_size, close=self._close
        )

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def maintenance(client: Client, tmp_path: Path) -> FakeMaintenance:
    path = tmp_path / "copy"
    path.write_bytes(bytes(range(256)) * 300)
    client.server.maintenance = FakeMaintenance(path)
    return client.server.maintenance


async def test_long_work(client: Client, maintenance: FakeMaintenance) -> None:
    path = "/v3/maintenance/"
    for extra in ([], [SLOW_WAY]):
        (answer,) = await client.ask(post(path + "defragment", {}, *extra))
        assert (answer.status, answer.body) == (200, b"{}")
        (answer,) = await client.ask(post(path + "hash", {}, *extra))
        assert answer.json() == {"header": HEADER | {"revision": "1"}, "hash": 4294967295}
        (answer,) = await client.ask(post(path + "hashkv", {"revision": 5}, *extra))
        assert answer.json() == {
            "header": HEADER | {"revision": "8"},
            "hash": 99,
            "compact_revision": "3",
            "hash_revision": "5",
        }
        target = {"targetID": str(2**64 - 1)}
        (answer,) = await client.ask(post(path + "transfer-leadership", target, *extra))
        assert (answer.status, answer.body) == (200, b"{}")
    counts = client.face.metrics.defragment.counts, client.face.metrics.hash_rev.counts
    assert [sum(count) for count in counts] == [2, 2]
    assert maintenance.transferred == [2**64 - 1] * 2


async def test_long_work_that_fails(client: Client, maintenance: FakeMaintenance) -> None:
    for failure, status, code in (
        (NotLeader(), 400, 9),
        (Compacted(1, 2), 400, 11),
        (RequestTimedOut(), 503, 14),
    ):
        maintenance.failure = failure
        for call in ("defragment", "hash", "hashkv", "transfer-leadership"):
            (answer,) = await client.ask(post("/v3/maintenance/" + call, {}))
            assert (answer.status, answer.json()["code"]) == (status, code)
        (answer,) = await client.ask(post("/v3/maintenance/snapshot", {}))
        assert (answer.status, answer.json()["error"]["grpc_code"]) == (status, code)


class FakeMembership:
    """Says what it was asked in the answer's member."""

    async def add(self, peer_urls: list[str], *, is_learner: bool) -> MembersResponse:
        if not peer_urls:
            raise MemberUrlsInvalid
        added = Member(9, peerURLs=peer_urls, isLearner=is_learner)
        return MembersResponse([Member(7), added], added)

    async def remove(self, number: int) -> MembersResponse:
        return MembersResponse([Member(number)])

    promote = remove

    async def update(self, number: int, peer_urls: list[str]) -> MembersResponse:
        return MembersResponse([Member(number, peerURLs=peer_urls)])


async def test_membership(client: Client) -> None:
    client.server.membership = FakeMembership()
    path = "/v3/cluster/member/"
    large = {"ID": str(2**64 - 1)}
    told = {"header": HEADER}
    for call, request, expected in (
        (
            "add",
            {"peerURLs": ["http://c:1"], "is_learner": False, "isLearner": True},
            {
                "member": {"ID": "9", "peerURLs": ["http://c:1"], "isLearner": True},
                "members": [
                    {"ID": "7"},
                    {"ID": "9", "peerURLs": ["http://c:1"], "isLearner": True},
                ],
            },
        ),
        ("remove", large, {"members": [large]}),
        ("promote", large, {"members": [large]}),
        (
            "update",
            {"ID": 7, "peerURLs": ["http://d:1"]},
            {"members": [{"ID": "7", "peerURLs": ["http://d:1"]}]},
        ),
    ):
        (answer,) = await client.ask(post(path + call, request))
        assert (answer.status, answer.json()) == (200, told | expected)
    (answer,) = await client.ask(post(path + "add", {}))
    assert (answer.status, answer.json()["code"]) == (400, 3)


async def test_snapshot_stream(client: Client, maintenance: FakeMaintenance) -> None:
    (answer,) = await client.ask(post("/v3/maintenance/snapshot", {}))
    assert answer.status == 200
    assert answer.body.endswith(b"\n")
    messages = [json.loads(line)["result"] for line in answer.body.splitlines()]
    blobs = [b64decode(message["blob"]) for message in messages]
    data = maintenance.path.read_bytes()
    assert b"".join(blobs[:-1]) == data
    assert blobs[-1] == hashlib.sha256(data).digest()
    assert max(map(len, blobs)) == 32 << 10
    left = len(data)
    for message, blob in zip(messages[:-1], blobs[:-1], strict=True):
        left -= len(blob)
        assert int(message.get("remaining_bytes", 0)) == left
    assert left == 0
    assert maintenance.closed == 1


async def test_stop_answers_what_is_being_served() -> None:
    client = await started(FakeServer(hold=True))
    pending = asyncio.create_task(client.ask(put(b"a")))
    await client.server.asked_times(1)
    stopping = asyncio.create_task(client.face.stop(5))
    await asyncio.sleep(0)
    client.server.release()
    assert (await pending)[0].status == 200
    await stopping
    with pytest.raises(OSError):
        await client.ask(put(b"a"))


async def test_stop_does_not_wait_for_ever() -> None:
    client = await started(FakeServer(hold=True))
    asked = [put(b"a"), post("/v3/kv/put", {"key": "YQ=="}, SLOW_WAY)]
    pending = [asyncio.create_task(client.until_closed(raw)) for raw in asked]
    await client.server.asked_times(2)
    await client.face.stop(0.05)
    assert (await asyncio.gather(*pending, return_exceptions=True))[0] == b""


async def test_connections_are_bounded() -> None:
    client = await started(FakeServer())
    client.face.lobby.connections_max = 2
    opened = [await asyncio.open_connection(*client.address) for _ in range(2)]
    opened[0][1].write(post("/v3/kv/range", {"key": "YQ=="}, SLOW_WAY))
    assert (await read_answer(opened[0][0])).status == 200, "aiohttp's connections count too"
    assert await client.until_closed(get(b"a")) == b""
    opened[0][1].close()
    opened[1][1].close()
    lobby = client.face.lobby
    while len(lobby.doors) + lobby.others():  # noqa: ASYNC110 (closing is the transport's affair)
        await asyncio.sleep(0)
    assert (await client.ask(get(b"a")))[0].status == 200
    await client.face.stop(0.1)


async def test_metrics_only_listener() -> None:
    client = await started(FakeServer(), metrics_only=True)
    assert (await client.get("/health")).json() == {"health": "true", "reason": ""}
    assert b"etcd_server_has_leader 1.0" in (await client.get("/metrics")).body
    assert (await client.get("/version")).status == 404
    (answer,) = await client.ask(get(b"a"))
    assert answer.status == 404
    await client.face.stop(0.1)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tls, ssl.SSLContext]:
    """(listener's side, client's context) around a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("here")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    listener = client_listener(NodeConfig(cert_file=str(path), key_file=str(path)))
    assert listener is not None
    return listener, ssl.create_default_context(cafile=str(path))


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_hand_over_on_every_kind_of_transport(
    loop: Any, secure: bool, tls: tuple[Tls, ssl.SSLContext]
) -> None:
    async def run() -> None:
        server: Any = FakeServer()
        face = HttpFace(server, Metrics())
        url = "https://127.0.0.1:0" if secure else "http://127.0.0.1:0"
        (address,) = await face.start([url], tls[0])
        how: dict[str, Any] = {"ssl": tls[1], "server_hostname": "here"} if secure else {}
        reader, writer = await asyncio.open_connection(*address, **how)
        large = put(b"a", b"x" * 300_000)
        slow = post("/v3/kv/range", {"key": "YQ=="}, SLOW_WAY)
        turns = ((large + get(b"a"), ["fast", "fast"]), (get(b"a") + slow, ["fast", "slow"]))
        for raw, ways in turns:
            writer.write(raw)
            for way in ways:
                answer = await asyncio.wait_for(read_answer(reader), 5)
                assert (answer.status, "Server" in answer.headers) == (200, way == "slow")
        writer.write(get(b"a"))
        answer = await asyncio.wait_for(read_answer(reader), 5)
        assert len(answer.json()["kvs"][0]["value"]) == 400_000
        writer.close()
        await face.stop(0.1)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_handshakes_under_way_count(loop: Any, tls: tuple[Tls, ssl.SSLContext]) -> None:
    """Who says nothing takes no more than its share, and makes room for who speaks."""

    async def run() -> None:
        server: Any = FakeServer()
        face = HttpFace(server, Metrics())
        lobby = face.lobby
        lobby.connections_max = 3
        (address,) = await face.start(["https://127.0.0.1:0"], tls[0])
        how: dict[str, Any] = {"ssl": tls[1], "server_hostname": "here"}
        # They wait in the backlog until the loop has its turn.
        silent = [socket.create_connection(address) for _ in range(30)]
        spoken = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*address, **how)
            writer.write(get(b"a"))
            assert (await read_answer(reader)).status == 200
            assert len(lobby.doors) + lobby.others() <= 3
            spoken.append(writer)
        with pytest.raises(OSError):
            await asyncio.open_connection(*address, **how)
        for writer in spoken:
            writer.close()
        for connection in silent:
            connection.close()
        await face.stop(0.1)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


@LOOPS
def test_a_crowd_does_not_get_past_the_bound_of_handshakes(
    loop: Any, tls: tuple[Tls, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raft.tls_port.PENDING_MAX", 3)

    async def run() -> None:
        port = await tls[0].listen(asyncio.Protocol, "127.0.0.1", 0)
        crowd = [socket.create_connection(port.sockets[0].getsockname()) for _ in range(30)]
        for connection in crowd[:-3]:
            connection.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(connection, 1) == b""
            assert port.pending <= 3
        port.close()
        for connection in crowd:
            connection.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def test_work_that_is_given_up_before_it_begins(client: Client) -> None:
    async def work() -> int:
        return 1

    results: list[object] = []
    given_up, done = work(), work()
    client.face.spawn(given_up, results.append)()
    client.face.spawn(done, results.append)
    await asyncio.sleep(0.01)
    states = [inspect.getcoroutinestate(each) for each in (given_up, done)]
    assert states == [inspect.CORO_CLOSED] * 2
    assert results == [1]
