"""Three members on loopback, end to end: requests per second, latency, CPU.

    python -m tests.bench.bench_cluster [seconds per row]

A closed loop: each of c connections sends its next request when the last is answered. The load
generator is this process, the members are three others, and the machine's cores are shared by all
four: with few of them the numbers say how much work a request is rather than what three machines
would do. CPU per request is user and system time of all members from /proc, in steps of one clock
tick (10 ms), so short runs of one connection are coarse.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

from tests.cluster.client import b64
from tests.cluster.harness import Cluster

CONNECTIONS = (1, 64, 256)
KEYS = 10_000
VALUE = bytes(range(256))
WARM_UP = 0.2
"""Of a row's time, not measured."""


class Row(NamedTuple):
    """Latencies in seconds, CPU in seconds over all members."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu: float


class Connection(asyncio.Protocol):
    """One closed loop of `call` requests; `key(number)` picks the key of the next."""

    def __init__(self, call: str, first: int) -> None:
        self._head = f"POST /v3/kv/{call} HTTP/1.1\r\nHost: localhost\r\n".encode()
        self._value = b',"value":"%s"' % b64(VALUE).encode() if call == "put" else b""
        self._number = first
        self._sent = 0.0
        self._left = -1
        self._transport: Any = None
        self.latencies: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._number = (self._number * 21 + 3) % KEYS
        key = b64(b"bench/%08d" % self._number).encode()
        body = b'{"key":"%s"%s}' % (key, self._value)
        self._sent = time.perf_counter()
        self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body))

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            head, _, data = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), (head, data)
            start = head.lower().index(b"content-length: ") + len(b"content-length: ")
            self._left = int(head[start:].split(b"\r")[0])
        self._left -= len(data)
        if self._left == 0:
            self._left = -1
            self.latencies.append(time.perf_counter() - self._sent)
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self) -> None:
        self._transport.abort()


def cpu_seconds(cluster: Cluster) -> float:
    """User and system time of all members."""
    ticks = 0
    for member in cluster:
        assert member.process is not None
        stat = Path(f"/proc/{member.process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def measure(cluster: Cluster, call: str, count: int, seconds: float) -> Row:
    """`count` connections, spread over the members."""
    loop = asyncio.get_running_loop()
    connections = [Connection(call, number * 37) for number in range(count)]
    for number, connection in enumerate(connections):
        url = urlsplit(cluster[number % len(cluster)].client_url)
        await loop.create_connection(lambda c=connection: c, url.hostname, url.port)
    await asyncio.sleep(seconds * WARM_UP)
    for connection in connections:
        connection.latencies = []
    cpu, started = cpu_seconds(cluster), loop.time()
    await asyncio.sleep(seconds)
    took = loop.time() - started
    cpu = cpu_seconds(cluster) - cpu
    latencies = sorted(each for connection in connections for each in connection.latencies)
    for connection in connections:
        connection.abort()
    await asyncio.gather(*(connection.ended for connection in connections))
    assert latencies, f"no {call} was answered"
    middle, late = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    return Row(len(latencies), took, middle, late, cpu)


def environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "value_bytes": len(VALUE),
        "keys": KEYS,
    }


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    print(json.dumps(environment()))
    print(f"{'row':<7}{'c':>4}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/req':>12}")
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory)) as cluster:
        cluster.start()
        for call in ("put", "range"):
            for count in CONNECTIONS:
                row = uvloop.run(measure(cluster, call, count, seconds))
                print(
                    f"{call:<7}{count:>4}{row.requests / row.seconds:>9.0f}"
                    f"{row.p50 * 1e3:>9.2f}{row.p99 * 1e3:>9.2f}"
                    f"{row.cpu / row.requests * 1e6:>12.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
