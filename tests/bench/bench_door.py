"""What a request costs before and after the server: the fast path against aiohttp's, with a server
that answers at once.

    python -m tests.bench.bench_door [seconds per row]

Back of the envelope: per request two system calls (about 10 us together on loopback), a wake-up of
the loop (6 us), and for a put 3 us of ours: some 20 us, so 50,000 requests/s for one core. aiohttp
adds a parser, a request and a response object, header dicts, a future: at least five times that.
The server's own CPU time per request is printed, which other work on the machine disturbs little.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import resource
import sys
from base64 import b64encode
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from node.api.http import HttpFace
from node.metrics import Metrics
from tests.unit.node.fake_server import FakeServer

CONNECTIONS = 64


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def bodies() -> dict[str, tuple[str, dict[str, Any]]]:
    key, value = b64(b"put/000123"), b64(bytes(range(256)))
    compare = [
        {"key": key, "target": "MOD", "result": "GREATER", "mod_revision": "1"},
        {"key": key, "target": "VERSION", "result": "GREATER", "version": "0"},
    ]
    txn = {
        "compare": compare,
        "success": [{"request_put": {"key": key, "value": value}}],
        "failure": [{"request_range": {"key": key}}],
    }
    return {
        "put": ("/v3/kv/put", {"key": key, "value": value}),
        "range": ("/v3/kv/range", {"key": key}),
        "txn": ("/v3/kv/txn", txn),
    }


def serve(pipe: Connection) -> None:
    """The server process: says its port, and on every message the CPU seconds it has used."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server: Any = FakeServer()
        metrics = Metrics()
        metrics.watch_server(server)
        face = HttpFace(server, metrics)
        ((_, port),) = await face.start(["http://127.0.0.1:0"])
        pipe.send(port)

        def asked() -> None:
            server.asked.clear()
            try:
                pipe.recv()
            except EOFError:
                loop.remove_reader(pipe.fileno())
                ended.set()
                return
            used = resource.getrusage(resource.RUSAGE_SELF)
            pipe.send(used.ru_utime + used.ru_stime)

        ended = asyncio.Event()
        loop.add_reader(pipe.fileno(), asked)
        await ended.wait()
        await face.stop(0.1)

    uvloop.run(run())


class Client(asyncio.Protocol):
    """Closed loop: the next request when the answer is there."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.answers = 0
        self.left = -1
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.raw)

    def data_received(self, data: bytes) -> None:
        if self.left < 0:
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            start = head.lower().index(b"content-length: ") + 16
            self.left = int(head[start:].split(b"\r")[0])
            data = body
        self.left -= len(data)
        if self.left == 0:
            self.left = -1
            self.answers += 1
            self.transport.write(self.raw)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def row(port: int, pipe: Connection, raw: bytes, seconds: float) -> tuple[float, float]:
    """(requests per second, server CPU microseconds per request)."""
    loop = asyncio.get_running_loop()
    clients = [Client(raw) for _ in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
    await asyncio.sleep(seconds / 4)
    before = sum(client.answers for client in clients)
    pipe.send("cpu")
    cpu, start = pipe.recv(), loop.time()
    await asyncio.sleep(seconds)
    pipe.send("cpu")
    answers = sum(client.answers for client in clients) - before
    cpu, took = pipe.recv() - cpu, loop.time() - start
    for client in clients:
        client.transport.abort()
    await asyncio.gather(*(client.ended for client in clients))
    return answers / took, 1e6 * cpu / answers


async def run(port: int, pipe: Connection, seconds: float) -> None:
    print(f"{'row':<8}{'fast req/s':>12}{'us CPU':>8}{'aiohttp req/s':>15}{'us CPU':>8}{'gain':>7}")
    for name, (path, body) in bodies().items():
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        costs = []
        for extra in ("", "Origin: http://slow\r\n"):
            whole = f"{head}{extra}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
            costs.append(await row(port, pipe, whole, seconds))
        (fast, fast_cpu), (slow, slow_cpu) = costs
        gain = slow_cpu / fast_cpu
        print(f"{name:<8}{fast:>12.0f}{fast_cpu:>8.1f}{slow:>15.0f}{slow_cpu:>8.1f}{gain:>7.1f}")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    near, far = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(far,))
    process.start()
    far.close()
    uvloop.run(run(near.recv(), near, seconds))
    near.close()
    process.join()


if __name__ == "__main__":
    main()
