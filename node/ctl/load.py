"""Many writers at once, each on a connection that stays open: what `check` measures with.

One thread cannot wait for hundreds of answers with `http.client`, so this speaks HTTP itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import pstdev
from typing import NamedTuple

import uvloop

from node.ctl.client import Address, Client

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)


class Plan(NamedTuple):
    """What to write. `moments` yields when each request is due, in seconds after the start."""

    bodies: Iterator[bytes]
    moments: Iterator[float]
    clients: int
    limit_seconds: float
    """After so long, requests that have no answer are given up."""


@dataclass
class Measured:
    """What came of it. `seconds` holds how long each successful request took."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    took: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.took

    @property
    def slowest(self) -> float:
        return max(self.seconds, default=0.0)

    @property
    def deviation(self) -> float:
        return pstdev(self.seconds) if self.seconds else 0.0


def put_all(client: Client, plan: Plan, advance: Callable[[], None]) -> Measured:
    """Send the plan's puts to all endpoints in turn; `advance` is called after each."""
    addresses = [client.address(endpoint) for endpoint in client.settings.endpoints]
    return uvloop.run(_put_all(addresses, plan, advance))


async def _put_all(addresses: list[Address], plan: Plan, advance: Callable[[], None]) -> Measured:
    measured = Measured()
    start = time.monotonic()
    writers = [
        asyncio.create_task(
            _writer(addresses[number % len(addresses)], plan, start, measured, advance)
        )
        for number in range(plan.clients)
    ]
    _, late = await asyncio.wait(writers, timeout=plan.limit_seconds)
    measured.took = time.monotonic() - start
    for writer in late:
        writer.cancel()
        measured.errors["no answer in time"] += 1
    for outcome in await asyncio.gather(*writers, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return measured


async def _writer(
    address: Address, plan: Plan, start: float, measured: Measured, advance: Callable[[], None]
) -> None:
    """Send one request after the other, each when it is due, while there are some."""
    connection = _Connection(address)
    try:
        for moment, body in zip(plan.moments, plan.bodies, strict=False):
            await asyncio.sleep(max(0.0, start + moment - time.monotonic()))
            began = time.monotonic()
            problem = await connection.put(body)
            if problem:
                measured.errors[problem] += 1
            else:
                measured.seconds.append(time.monotonic() - began)
            advance()
    finally:
        connection.close()


class _Connection:
    """A connection that is made when it is needed, and made again after it broke."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        headers = {**address.headers, "Host": f"{address.host}:{address.port}"}
        lines = (f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST /v3/kv/put HTTP/1.1\r\n{''.join(lines)}Content-Length: ".encode()

    async def put(self, body: bytes) -> str:
        """What went wrong; empty after a success."""
        try:
            status, answer = await self._ask(body)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self.close()
            await asyncio.sleep(0.05)
            return str(error) or type(error).__name__
        if status == 200:
            return ""
        try:
            return str(json.loads(answer)["message"])
        except (ValueError, LookupError):
            return f"HTTP status {status}"

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        if self._reader is None or self._writer is None:
            at = self._address
            self._reader, self._writer = await asyncio.open_connection(
                at.host, at.port, ssl=at.tls, limit=1 << 20
            )
        self._writer.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head[9:12]), await _body(head, self._reader)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body that belongs to the head of an answer."""
    if not _CHUNKED.search(head):
        length = _LENGTH.search(head)
        return await reader.readexactly(int(length[1])) if length else b""
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    while (await reader.readline()).strip():  # trailers
        continue
    return b"".join(parts)
