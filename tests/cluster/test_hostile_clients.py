"""Clients and strangers that want a member's memory, descriptors or time: others are served
meanwhile, and what was taken comes back when they leave.

Bounds are stated, not measured: GROWTH_BYTES is what one attack may leave in the memory of a
process whose allocator keeps what it once had; a put meanwhile may take PATIENCE_SECONDS.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.certificates import Authority
from tests.cluster.client import NO_ANSWER, ApiError, b64
from tests.cluster.harness import Cluster, Member, wait_until
from tests.cluster.peer import hello, pack_frame
from tests.cluster.watching import create

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NewCluster = Callable[..., Cluster]

PATIENCE_SECONDS = 20.0
GROWTH_BYTES = 200 << 20
FILES_LEFT = 20
"""More open files than before, once the attackers are gone: peers that dialled anew, the log."""


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    """Attackers need descriptors, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("hostile")) as cluster:
        yield cluster.start()


# What is measured


def memory(member: Member) -> int:
    assert member.process is not None
    pages = int(Path(f"/proc/{member.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def files(member: Member) -> int:
    assert member.process is not None
    return len(os.listdir(f"/proc/{member.process.pid}/fd"))


class Bystander(threading.Thread):
    """Puts and gets its own key over one connection for as long as it may; `failures` are all."""

    def __init__(self, member: Member) -> None:
        super().__init__(daemon=True)
        self.rounds = 0
        self.failures: list[str] = []
        self._client = member.connect(PATIENCE_SECONDS)
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.wait(0.02):
            value = b"%d" % self.rounds
            try:
                self._client.put(b"bystander", value)
                found = self._client.get(b"bystander")
                assert found is not None and found.value == value, found
            except (*NO_ANSWER, ApiError, AssertionError) as error:
                self.failures.append(repr(error))
            self.rounds += 1

    def stop(self) -> None:
        self._enough.set()
        self.join(2 * PATIENCE_SECONDS)
        assert not self.is_alive()
        self._client.close()


@contextmanager
def attacked(member: Member) -> Iterator[ExitStack]:
    """Somebody else is served during the block. After it, when the stack has closed what the
    attackers hold, memory, files and logs are as they were.
    """
    member.wait_healthy()
    held, open_before, printed = memory(member), files(member), len(member.log())
    bystander = Bystander(member)
    bystander.start()
    try:
        with ExitStack() as stack:
            yield stack
            before = bystander.rounds
            wait_until("somebody else is served", lambda: bystander.rounds > before + 3)
    finally:
        bystander.stop()
    assert member.running, member.log()[-3000:]
    assert bystander.failures == [] and bystander.rounds > 3
    wait_until("the descriptors are back", lambda: files(member) <= open_before + FILES_LEFT, 60)
    grown = memory(member) - held
    print(f"{grown >> 20} MiB more, {bystander.rounds} rounds")
    assert grown < GROWTH_BYTES
    said = member.log()[printed:]
    assert "Traceback" not in said and "level=error" not in said, said[-4000:]


def dial(member: Member, stack: ExitStack, *, buffer: int = 0) -> socket.socket:
    """A connection that ends with the stack, with a small receive buffer if it will not read."""
    url = urlsplit(member.client_url)
    assert url.port is not None
    connection = socket.socket()
    stack.callback(connection.close)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect((url.hostname, url.port))
    return connection


def post(path: str, body: Any, *more: str) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST /v3/{path} HTTP/1.1", "Host: x", f"Content-Length: {len(raw)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def pour(connection: socket.socket, data: bytes, limit: int) -> int:
    """Write until the other side takes no more for a second, hangs up, or `limit` is reached."""
    connection.settimeout(1.0)
    written = 0
    with suppress(OSError):
        while written < limit:
            written += connection.send(data)
    return written


def status_of(connection: socket.socket) -> int:
    """The status of the next answer; 0 when the connection ends instead."""
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(65536)
            if not piece:
                return 0
            head += piece
    except ConnectionResetError:
        return 0
    return int(head.split(b" ", 2)[1])


# Connections


def test_idle_connections(cluster: Cluster) -> None:
    member = cluster[0]
    with attacked(member) as stack:
        for _ in range(2000):
            dial(member, stack)
        wait_until("all are accepted", lambda: files(member) > 2000)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nX: ",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
    ],
    ids=["nothing", "fast head", "slow head", "body"],
)
def test_slow_speakers(cluster: Cluster, beginning: bytes) -> None:
    """A byte now and then does not keep a request alive."""
    member = cluster[0]
    with attacked(member) as stack:
        speakers = [dial(member, stack) for _ in range(200)]
        for connection in speakers:
            connection.sendall(beginning)
        if not beginning:
            return
        deadline = time.monotonic() + 30
        while speakers and time.monotonic() < deadline:
            for connection in list(speakers):
                try:
                    connection.sendall(b"a")
                except OSError:
                    speakers.remove(connection)
            time.sleep(0.5)
        assert speakers == []


def test_endless_heads(cluster: Cluster) -> None:
    member = cluster[0]
    with attacked(member) as stack:
        for line in (
            b"GET / HTTP/1.1\r\n",
            b"POST /v3/kv/put HTTP/1.1\r\n",
            b"",
            b"POST /v3/kv/put",
        ):
            for field in (b"X-%d: y\r\n", b"a" * 60_000 + b"%d"):
                connection = dial(member, stack)
                with suppress(OSError):
                    connection.sendall(line)
                    for number in range(5000):
                        connection.sendall(field % number)
                assert status_of(connection) in (0, 400, 431)


def test_pipelines_that_nobody_reads(cluster: Cluster) -> None:
    """Neither side of the listener reads further ahead than it serves."""
    member = cluster[0]
    member.client.put(b"some", bytes(1000))
    with attacked(member) as stack:
        for request in (
            post("kv/range", {"key": b64(b"some")}),
            post("kv/range", {"key": b64(b"some")}, "Origin: x"),
            b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            for _ in range(8):
                connection = dial(member, stack, buffer=4096)
                assert pour(connection, request * 500, 64 << 20) < 64 << 20


def test_answers_that_nobody_reads(cluster: Cluster) -> None:
    member = cluster[0]
    for number in range(10):
        member.client.put(b"big/%d" % number, bytes(100_000))
    everything = {"key": b64(b"big/"), "range_end": b64(b"big0")}
    with attacked(member) as stack:
        for more in ((), ("Origin: x",)):
            for _ in range(40):
                dial(member, stack, buffer=4096).sendall(post("kv/range", everything, *more))


def test_watchers_that_nobody_reads(cluster: Cluster) -> None:
    member = cluster[0]
    with attacked(member) as stack:
        for _ in range(100):
            asked = json.dumps(create(b"loud")).encode()
            dial(member, stack, buffer=4096).sendall(post("watch", asked))
        wait_until("all watch", lambda: gauge(member, "etcd_debugging_mvcc_watcher_total") >= 100)
        loud = member.connect(PATIENCE_SECONDS)
        for _ in range(300):
            loud.put(b"loud", bytes(20_000))
        loud.close()
    wait_until("nobody watches", lambda: gauge(member, "etcd_debugging_mvcc_watcher_total") == 0)


def gauge(member: Member, name: str) -> float:
    return sum(value for key, value in member.client.metrics().items() if key.split("{")[0] == name)


def test_half_open_websockets(cluster: Cluster) -> None:
    member = cluster[0]
    head = (
        b"GET /v3/%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with attacked(member) as stack:
        for path in (b"watch", b"lease/keepalive", b"election/observe", b"maintenance/snapshot"):
            for rest in (
                b"",
                b"\x81",
                b"\x01\x81\0\0\0\0{",
                b"\x81\xff" + b"\x7f" * 8,
                b"\xff" * 9,
            ):
                for _ in range(20):
                    connection = dial(member, stack)
                    connection.sendall(head % path + rest)
                    assert status_of(connection) == 101


# Requests


def test_huge_and_compressed_bodies(cluster: Cluster) -> None:
    member = cluster[0]
    bomb = zlib.compress(b'{"key":"' + b"A" * (256 << 20))
    with attacked(member) as stack:
        for more in ("Content-Encoding: deflate", "Content-Encoding: gzip", "Content-Encoding: br"):
            connection = dial(member, stack)
            connection.sendall(post("kv/put", bomb, more))
            assert status_of(connection) == 400
        endless = b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(4):
            connection = dial(member, stack)
            connection.sendall(endless)
            pour(connection, b"10000\r\n" + b" " * 65536 + b"\r\n", 64 << 20)
            assert status_of(connection) in (0, 429)
        for length in (1 << 31, 1 << 62, 10**30):
            connection = dial(member, stack)
            connection.sendall(post("kv/put", b"{}").replace(b": 2", b": %d" % length))
            assert status_of(connection) in (400, 413, 429)


def test_watch_creates_by_the_thousand(cluster: Cluster) -> None:
    member = cluster[0]
    with attacked(member) as stack:
        body = b"".join(json.dumps(create(b"%d" % n)).encode() for n in range(10_000))
        connection = dial(member, stack)
        connection.sendall(post("watch", body))
        connection.settimeout(PATIENCE_SECONDS)
        answered, tail = 0, b""
        while answered < 10_000:
            data = tail + connection.recv(1 << 20)
            answered += data.count(b'"created":true')
            tail = data[-13:]
        assert answered == 10_000
    wait_until("nobody watches", lambda: gauge(member, "etcd_debugging_mvcc_watcher_total") == 0)


@pytest.mark.timeout(600)
def test_leases_by_the_thousand(cluster: Cluster) -> None:
    """They all end, a bounded number at a time, and nobody is left out meanwhile."""
    member = cluster.wait_leader()
    count, at_once = 100_000, 500
    request = post("lease/grant", {"TTL": 1})
    with attacked(member) as stack:
        connection = dial(member, stack)
        for _ in range(count // at_once):
            connection.sendall(request * at_once)
            answered = 0
            while answered < at_once:
                data = connection.recv(1 << 20)
                assert data
                answered += data.count(b"HTTP/1.1 ")
        wait_until(
            "all leases have ended",
            lambda: member.client.call("lease/leases", {}).get("leases", []) == [],
            500,
        )


def test_hashes_and_copies_of_the_database(cluster: Cluster) -> None:
    """Hashes wait for each other; a copy nobody reads takes disk, so there are few."""
    member = cluster[0]
    for number in range(200):
        member.client.put(b"bulk/%d" % number, bytes(100_000))
    with attacked(member) as stack:
        for path in ("maintenance/hash", "maintenance/hashkv"):
            asking = [dial(member, stack) for _ in range(150)]
            for connection in asking:
                connection.sendall(post(path, {}))
            assert {status_of(connection) for connection in asking} == {200}
        asking = [dial(member, stack, buffer=4096) for _ in range(50)]
        for connection in asking:
            connection.sendall(post("maintenance/snapshot", {}))
        answers = [status_of(connection) for connection in asking]
        assert answers.count(200) == 4 and answers.count(500) == 46
    wait_until("copies are removed", lambda: len(list(member.client.snapshot())) > 1)


def test_waiters_for_one_lock(cluster: Cluster) -> None:
    member = cluster[0]
    holder = member.client.call("lock/lock", {"name": b64(b"wanted")})
    with attacked(member) as stack:
        for _ in range(300):
            dial(member, stack).sendall(post("lock/lock", {"name": b64(b"wanted")}))
        wait_until("all stand in the queue", lambda: len(queue(member)) >= 300, 60)
    wait_until("the queue is gone", lambda: len(queue(member)) == 1, 60)
    member.client.call("lock/unlock", {"key": holder["key"]})


def queue(member: Member) -> list[Any]:
    return member.client.prefix(b"wanted/", keys_only=True).kvs


# The peer port


def knock(url: str, data: bytes, stack: ExitStack) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), PATIENCE_SECONDS)
    stack.callback(connection.close)
    connection.sendall(data)
    return connection


def test_strangers_at_a_full_door(new_cluster: NewCluster) -> None:
    """Members find their way in past any number of strangers that say nothing."""
    cluster = new_cluster().start()
    member = cluster.wait_leader()
    other = next(each for each in cluster if each is not member)
    enough = threading.Event()

    def crowd() -> None:
        while not enough.is_set():
            with ExitStack() as stack, suppress(OSError):
                for _ in range(150):
                    knock(member.peer_url, b"ES", stack)
                enough.wait(0.5)

    crowds = [threading.Thread(target=crowd, daemon=True) for _ in range(3)]
    for thread in crowds:
        thread.start()
    try:
        other.kill()
        other.start()
        other.wait_healthy()
        wait_until("it follows", lambda: other.client.put(b"through", b"the crowd") > 0)
    finally:
        enough.set()
        for thread in crowds:
            thread.join(PATIENCE_SECONDS)
    cluster.wait_same_history()


def test_a_flood_at_the_peer_port(cluster: Cluster) -> None:
    member, other = cluster[0], cluster[1]
    number = int(member.client.status()["header"]["cluster_id"])
    greeting = hello(cluster=number, sender=other.id, receiver=member.id)
    stranger = hello(cluster=number, sender=7, receiver=member.id)
    claims = struct.pack(">IB", (1 << 24) - 1, 1)
    with attacked(member) as stack:
        for data in (os.urandom(5000), greeting[:31], stranger + claims * 9, b"ESKR" * 999):
            for _ in range(100):
                with suppress(OSError):
                    knock(member.peer_url, data, stack)
        for _ in range(20):
            # Under a member's name, and again with the same bytes: each takes the other's place.
            with suppress(OSError):
                frames = claims + bytes(100_000)
                knock(member.peer_url, greeting + pack_frame(3, b"12345678") + frames, stack)
    cluster.wait_same_history()


# TLS


def test_handshakes_that_do_not_end(new_cluster: NewCluster, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "ca").issue("member")
    cluster = new_cluster(1, cert_file=certificate, key_file=key)
    member = cluster[0]
    plain = member.client_url
    second = Member("second", tmp_path / "second")
    secure = second.client_url.replace("http:", "https:")
    member.flags["listen-client-urls"] = f"{plain},{secure}"
    cluster.start()
    with attacked(member) as stack:
        slow = []
        for data in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16" + os.urandom(50)):
            slow += [knock(secure, data, stack) for _ in range(200)]
        for connection in slow:
            with suppress(OSError):
                while connection.recv(4096):
                    pass
