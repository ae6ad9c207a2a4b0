"""Requests that are none: each is answered with the error etcd clients expect, and changes nothing.

What is wrong with a body is generated from a table of every call's fields, so that a new field has
its wrong types tried too.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.client import Client, b64
from tests.cluster.harness import Cluster, Member

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]

BYTES, NUMBER, UNSIGNED, BOOL, ENUM, TEXTS = "bytes", "number", "unsigned", "bool", "enum", "texts"
TEXT, OBJECT, ENUMS = "text", "object", "enums"
RANGE = {"key": BYTES, "range_end": BYTES, "limit": NUMBER, "revision": NUMBER, "sort_order": ENUM}
RANGE |= {"sort_target": ENUM, "serializable": BOOL, "keys_only": BOOL, "count_only": BOOL}
RANGE |= {f"{edge}_{of}_revision": NUMBER for edge in ("min", "max") for of in ("mod", "create")}
PUT = {"key": BYTES, "value": BYTES, "lease": NUMBER}
PUT |= {"prev_kv": BOOL, "ignore_value": BOOL, "ignore_lease": BOOL}
DELETE = {"key": BYTES, "range_end": BYTES, "prev_kv": BOOL}
COMPARE = {"key": BYTES, "range_end": BYTES, "value": BYTES, "result": ENUM, "target": ENUM}
COMPARE |= {"version": NUMBER, "create_revision": NUMBER, "mod_revision": NUMBER, "lease": NUMBER}
ID = {"ID": NUMBER}
CALLS: dict[str, dict[str, str]] = {
    "kv/range": RANGE,
    "kv/put": PUT,
    "kv/deleterange": DELETE,
    "kv/txn": {},
    "kv/compaction": {"revision": NUMBER, "physical": BOOL},
    "lease/grant": {"TTL": NUMBER, "ID": NUMBER},
    "lease/revoke": ID,
    "lease/timetolive": {"ID": NUMBER, "keys": BOOL},
    "lease/leases": {},
    "cluster/member/list": {"linearizable": BOOL},
    "cluster/member/add": {"peerURLs": TEXTS, "isLearner": BOOL},
    "cluster/member/remove": {"ID": UNSIGNED},
    "cluster/member/update": {"ID": UNSIGNED, "peerURLs": TEXTS},
    "cluster/member/promote": {"ID": UNSIGNED},
    "maintenance/alarm": {"action": ENUM, "memberID": UNSIGNED, "alarm": ENUM},
    "maintenance/status": {},
    "maintenance/defragment": {},
    "maintenance/hash": {},
    "maintenance/hashkv": {"revision": NUMBER},
    "maintenance/transfer-leadership": {"targetID": UNSIGNED},
    "maintenance/downgrade": {"action": ENUM, "version": TEXT},
    "maintenance/snapshot": {},
    "watch": {"create_request": OBJECT, "cancel_request": OBJECT, "progress_request": OBJECT},
    "lease/keepalive": ID,
    "lock/lock": {"name": BYTES, "lease": NUMBER},
    "lock/unlock": {"key": BYTES},
    "election/campaign": {"name": BYTES, "lease": NUMBER, "value": BYTES},
    "election/proclaim": {"leader": OBJECT, "value": BYTES},
    "election/leader": {"name": BYTES},
    "election/observe": {"name": BYTES},
    "election/resign": {"leader": OBJECT},
    "auth/enable": {},
    "auth/disable": {},
    "auth/status": {},
    "auth/authenticate": {"name": TEXT, "password": TEXT},
    "auth/user/add": {"name": TEXT, "password": TEXT, "options": OBJECT, "hashedPassword": TEXT},
    "auth/user/get": {"name": TEXT},
    "auth/user/list": {},
    "auth/user/delete": {"name": TEXT},
    "auth/user/changepw": {"name": TEXT, "password": TEXT, "hashedPassword": TEXT},
    "auth/user/grant": {"user": TEXT, "role": TEXT},
    "auth/user/revoke": {"name": TEXT, "role": TEXT},
    "auth/role/add": {"name": TEXT},
    "auth/role/get": {"role": TEXT},
    "auth/role/list": {},
    "auth/role/delete": {"role": TEXT},
    "auth/role/grant": {"name": TEXT, "perm": OBJECT},
    "auth/role/revoke": {"role": TEXT, "key": BYTES, "range_end": BYTES},
}
PARTS: dict[tuple[str, str], dict[str, str]] = {
    ("watch", "create_request"): {
        **{"key": BYTES, "range_end": BYTES, "start_revision": NUMBER, "watch_id": NUMBER},
        **{"progress_notify": BOOL, "prev_kv": BOOL, "fragment": BOOL, "filters": ENUMS},
    },
    ("watch", "cancel_request"): {"watch_id": NUMBER},
    ("election/resign", "leader"): {"name": BYTES, "key": BYTES, "rev": NUMBER, "lease": NUMBER},
    ("auth/user/add", "options"): {"no_password": BOOL},
    ("auth/role/grant", "perm"): {"permType": ENUM, "key": BYTES, "range_end": BYTES},
}
"""The fields of OBJECT fields."""
NO_NUMBER: list[Any] = [True, [], {}, "", "x", " 1", "1.5", 1.5, "0x10", 1 << 64, "9" * 400, -1e400]
WRONG: dict[str, list[Any]] = {
    BYTES: [1, True, [], {}, "*", "YQ=", "YWE===", "\u00e9", "a"],
    NUMBER: [*NO_NUMBER, 1 << 63, str(-(1 << 63) - 1)],
    UNSIGNED: [*NO_NUMBER, -1, "-1"],
    BOOL: [0, 1, "true", "", [], {}],
    ENUM: [True, [], {}, "NO_SUCH_NAME", "", 1.5, 1 << 31],
    TEXTS: ["x", 1, {}, [1], [None], [[]]],
    TEXT: [1, 1.5, True, [], {}],
    OBJECT: [1, True, "x", [], [{}]],
    ENUMS: ["x", 1, {}, [None], [[]], ["NO_SUCH_NAME"], [1.5]],
}
NO_OBJECTS = [b"[]", b'"text"', b"17", b"true"]
NO_JSON = [
    b"{",
    b"}",
    b'{"key"',
    b'{"key":',
    b"{'key':1}",
    b"\xff\xfe{}",
    b'{"a":nul}',
    b"{,}",
    b"\0",
]
DEPTHS = (200, 10_000, 300_000)


def bad_bodies(path: str) -> Iterator[bytes]:
    """Bodies that a call must refuse with code 3, whatever the state of the cluster."""
    yield from NO_OBJECTS
    yield from NO_JSON
    for name, kind in CALLS[path].items():
        for value in WRONG[kind]:
            yield json.dumps({name: value}).encode()
    for (of, part), fields in PARTS.items():
        for name, kind in fields.items() if of == path else ():
            for value in WRONG[kind]:
                yield json.dumps({part: {name: value}}).encode()
    for depth in DEPTHS:
        yield b'{"unknown":' + b"[" * depth
        yield b'{"unknown":' * depth
    if path == "kv/txn":
        yield from bad_txns()


def bad_txns() -> Iterator[bytes]:
    """Every wrong field one level down, and what only a txn can do wrong."""
    for branch, member, fields in (
        ("success", "request_put", PUT),
        ("failure", "request_range", RANGE),
        ("success", "request_delete_range", DELETE),
    ):
        for name, kind in fields.items():
            for value in WRONG[kind]:
                yield json.dumps({branch: [{member: {name: value}}]}).encode()
    for name, kind in COMPARE.items():
        for value in WRONG[kind]:
            yield json.dumps({"compare": [{name: value}]}).encode()
    for name in ("compare", "success", "failure"):
        for value in (1, "x", {}, [1], [None], ["x"], [[]]):
            yield json.dumps({name: value}).encode()
    put = {"request_put": {"key": b64(b"k")}}
    yield json.dumps({"success": [{}]}).encode()
    yield json.dumps({"success": [put, put]}).encode()
    yield json.dumps({"success": [{**put, "request_range": {"key": b64(b"k")}}]}).encode()
    yield json.dumps({"success": [put] * 129}).encode()
    yield json.dumps({"compare": [{"key": b64(b"k"), "result": 9}]}).encode()
    for depth in (200, 5000, 100_000):
        nested = b'{"success":[{"request_txn":' * depth + b"{}" + b"}]}" * depth
        yield (
            b'{"success":['
            + json.dumps(put).encode()
            + b'],"failure":[{"request_txn":%b}]}' % nested
        )


def error_of(status: int, answer: bytes) -> int:
    """The code of an error answer in etcd's shape."""
    body = json.loads(answer)
    assert body["error"] == body["message"] and body["message"], body
    assert isinstance(body["code"], int)
    assert 400 <= status < 500, (status, body)
    return body["code"]


def state_of(cluster: Cluster) -> tuple[Any, ...]:
    """What no refused request may change; equal on all members."""
    history = cluster.wait_same_history()
    client = cluster[0].client
    members = sorted(member["ID"] for member in client.members())
    leases = client.call("lease/leases", {}).get("leases", [])
    return history, client.revision(), members, client.alarms(), leases


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("bad-input")) as cluster:
        cluster.start()
        for number in range(20):
            cluster[0].client.put(b"key/%d" % number, b"value")
        yield cluster


@pytest.fixture(autouse=True)
def unchanged(cluster: Cluster) -> Iterator[None]:
    """Around each test: the same state, the same processes, no fault of ours in the logs."""
    before = state_of(cluster)
    printed = [len(member.log()) for member in cluster]
    yield
    assert [member.name for member in cluster if not member.running] == []
    cluster.wait_healthy()
    assert state_of(cluster) == before
    said = "".join(m.log()[at:] for m, at in zip(cluster, printed, strict=True))
    assert "Traceback" not in said and "level=error" not in said, said[-4000:]


@pytest.mark.parametrize("path", CALLS)
def test_malformed(path: str, cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    other = next(member for member in cluster if member is not leader)
    for number, body in enumerate(bad_bodies(path)):
        member = (leader, other)[number % 2]
        status, answer = member.client.send("POST", f"/v3/{path}", body)
        assert status != 200, (path, body[:200])
        assert error_of(status, answer) == 3, (path, body[:200], answer)


def test_well_formed_but_refused(cluster: Cluster) -> None:
    """Good JSON of the right types that says something impossible."""
    leader = cluster.wait_leader()
    follower = next(member for member in cluster if member is not leader)
    some = {"key": b64(b"key/1")}
    cases = [
        ("kv/range", {**some, "sort_target": 9, "sort_order": 1}, 3),
        ("kv/range", {}, 3),
        ("kv/range", {"KEY": b64(b"key/1")}, 3),
        ("kv/range", {**some, "revision": 1 << 60}, 11),
        ("kv/put", {**some, "lease": 12345}, 5),
        ("kv/put", {}, 3),
        ("kv/deleterange", {}, 3),
        ("kv/compaction", {"revision": 1 << 60}, 11),
        ("lease/grant", {"TTL": 9_000_000_001}, 11),
        ("lease/revoke", {"ID": 99}, 5),
        ("maintenance/alarm", {"action": 7}, 3),
        ("maintenance/alarm", {"action": 1, "alarm": 9}, 3),
        ("maintenance/hashkv", {"revision": 1 << 60}, 11),
        ("maintenance/transfer-leadership", {"targetID": 7}, 9),
        ("cluster/member/add", {"peerURLs": []}, 3),
        ("cluster/member/add", {"peerURLs": ["ftp://x:1"]}, 3),
        ("cluster/member/add", {"peerURLs": ["http://127.0.0.1"]}, 3),
        ("cluster/member/add", {"peerURLs": ["http://127.0.0.1:1/path"]}, 3),
        ("cluster/member/add", {"peerURLs": [leader.peer_url]}, 9),
        ("cluster/member/remove", {"ID": 7}, 5),
        ("cluster/member/update", {"ID": 7, "peerURLs": ["http://127.0.0.1:1"]}, 5),
        ("cluster/member/update", {"ID": leader.id, "peerURLs": [follower.peer_url]}, 9),
        ("cluster/member/promote", {"ID": leader.id}, 9),
        ("maintenance/downgrade", {"action": 9}, 3),
        ("maintenance/downgrade", {"action": "ENABLE", "version": "x.y"}, 3),
        ("maintenance/downgrade", {"action": "ENABLE", "version": "9.9.9"}, 3),
        ("maintenance/downgrade", {"action": "CANCEL"}, 9),
        ("auth/enable", {}, 9),
        ("auth/authenticate", {"name": "root", "password": "root"}, 9),
        ("auth/user/add", {}, 3),
        ("auth/user/add", {"name": "x" * 256, "password": "y"}, 3),
        ("auth/user/get", {"name": "nobody"}, 9),
        ("auth/user/grant", {"user": "nobody", "role": "none"}, 9),
        ("auth/role/add", {}, 3),
        ("auth/role/get", {"role": "none"}, 9),
        ("auth/role/grant", {"name": "none"}, 3),
        ("auth/role/grant", {"name": "none", "perm": {"permType": 9, "key": b64(b"k")}}, 3),
    ]
    for path, request, code in cases:
        for member in (leader, follower):
            status, answer = member.client.send("POST", f"/v3/{path}", json.dumps(request).encode())
            assert error_of(status, answer) == code, (path, request, answer)


def test_refusals_of_locks_and_elections(cluster: Cluster) -> None:
    """They are served by a client within the member: every refusal is 500, in the text of what was
    refused, and comes at once also from a follower.
    """
    leader = cluster.wait_leader()
    follower = next(member for member in cluster if member is not leader)
    gone = {"leader": {"name": b64(b"e"), "key": b64(b"e/7"), "rev": "2", "lease": "7"}}
    for path, request, text in (
        ("lock/lock", {"name": b64(b"l"), "lease": 99}, "etcdserver: requested lease not found"),
        ("lock/lock", {"name": b64(b"l"), "lease": -1}, "etcdserver: requested lease not found"),
        ("lock/unlock", {}, "etcdserver: key is not provided"),
        ("election/leader", {"name": b64(b"e")}, "election: no leader"),
        ("election/proclaim", {}, '"leader" field must be provided'),
        ("election/resign", {}, '"leader" field must be provided'),
        ("election/proclaim", {"leader": {}}, "etcdserver: key is not provided"),
        ("election/resign", {"leader": {}}, "etcdserver: key is not provided"),
        ("election/proclaim", gone, "election: not leader"),
    ):
        for member in (leader, follower):
            begun = time.monotonic()
            status, answer = member.client.send("POST", f"/v3/{path}", json.dumps(request).encode())
            told = json.loads(answer)
            assert (status, told["code"], told["message"]) == (500, 2, text), (path, request, told)
            assert time.monotonic() - begun < 3


@pytest.mark.parametrize("size", [1_600_000, 3_000_000, 9_000_000, 40_000_000])
def test_huge_bodies(size: int, cluster: Cluster) -> None:
    """Above --max-request-bytes it is too large, above the message limit it is not even decoded."""
    for member in cluster:
        value = b64(bytes(size))
        for path, body in (
            ("kv/put", {"key": b64(b"big"), "value": value}),
            ("kv/txn", {"success": [{"request_put": {"key": b64(b"big"), "value": value}}]}),
        ):
            client = member.connect(30)
            try:
                status, answer = client.send("POST", f"/v3/{path}", json.dumps(body).encode())
                code = error_of(status, answer)
                assert (status, code) == ((400, 3) if size < 2_000_000 else (429, 8)), answer
            except (BrokenPipeError, ConnectionResetError):
                assert size >= 9_000_000, "only what cannot fit may be cut off unread"
            finally:
                client.close()


def test_unknown_paths_and_methods(cluster: Cluster) -> None:
    client = cluster[0].client
    for path in ("/v3/", "/v3/kv", "/v3/kv/range/", "/v3/kv/rang", "/v3/../v3/kv/put", "/v3//put"):
        status, answer = client.send("POST", path, b"{}")
        assert (status, error_of(status, answer)) == (404, 5), path
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        status, answer = client.send(method, "/v3/kv/put", b"")
        assert (status, json.loads(answer)["code"]) == (501, 12)


def raw(member: Member, data: bytes) -> bytes:
    """The first line of whatever a member answers to bytes."""
    parts = urlsplit(member.client_url)
    with socket.create_connection((parts.hostname, parts.port), 15) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.partition(b"\r\n")[0]


def test_bytes_that_are_no_http(cluster: Cluster) -> None:
    put = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n"
    for data in (
        b"\0" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v3/kv/put\r\n\r\n",
        b"POST /v3/kv/put HTTP/9.9\r\n\r\n",
        put + b"Content-Length: -1\r\n\r\n",
        put + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        put + b"Content-Length: 999999999999999999999\r\n\r\n{}",
        put + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        put + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        put + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        put + b"Content-Length: 100\r\n\r\n{}",
        put + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ):
        for member in cluster:
            line = raw(member, data)
            assert line == b"" or line.split()[1][:1] == b"4", (data[:100], line)


def test_others_are_served_meanwhile(cluster: Cluster) -> None:
    """Half a request holds up nobody."""
    parts = urlsplit(cluster[0].client_url)
    half = (
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"{" * 500_000
    )
    waiting = [socket.create_connection((parts.hostname, parts.port), 15) for _ in range(20)]
    try:
        for connection in waiting:
            connection.sendall(half)
        client = Client(cluster[0].client_url)
        for number in range(20):
            assert client.get(b"key/%d" % number) is not None
        client.close()
    finally:
        for connection in waiting:
            connection.close()
