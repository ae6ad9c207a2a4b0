"""Watch streams as a client has them: one connection each, read by a thread or not at all."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from tests.cluster.client import KeyValue, b64, key_value, prefix_end
from tests.cluster.harness import wait_until


def create(key: bytes, range_end: bytes = b"", **fields: Any) -> dict[str, Any]:
    return {"create_request": {"key": b64(key), "range_end": b64(range_end), **fields}}


def create_prefix(prefix: bytes, **fields: Any) -> dict[str, Any]:
    return create(prefix, prefix_end(prefix), **fields)


class WatchEvent(NamedTuple):
    watch_id: int
    kind: str
    kv: KeyValue


class Watching:
    """One stream that asked for `requests`; a context manager.

    `results` grows as answers come, `error` is what the stream ended with; `closed` is set when the
    server ends the connection or the stream. `read()` starts reading; until then the client is a
    slow one. `headers` are more lines of the request.
    """

    def __init__(
        self,
        url: str,
        requests: Iterable[Mapping[str, Any]],
        *,
        read: bool = True,
        headers: Iterable[str] = (),
    ) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port, url
        self.results: list[dict[str, Any]] = []
        self.error: dict[str, Any] = {}
        self.closed = threading.Event()
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        body = "\n".join(map(json.dumps, requests)).encode()
        head = ["POST /v3/watch HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
        self._socket.sendall("\r\n".join([*head, *headers]).encode() + b"\r\n\r\n" + body)
        self._thread = threading.Thread(target=self._read, daemon=True)
        if read:
            self.read()

    def read(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError, ValueError), self._socket.makefile("rb") as file:
            self._socket.settimeout(None)
            while file.readline().strip():
                pass
            while size := int(file.readline(), 16):
                message = json.loads(file.read(size))
                if "error" in message:
                    self.error = message["error"]
                else:
                    self.results.append(message["result"])
                file.readline()
        self.closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Leave without a word: the server's next packet is answered by a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread.ident is not None:
            self._thread.join(10)

    def events(self) -> list[WatchEvent]:
        """Every event so far, in the order they came."""
        found = []
        for result in list(self.results):
            watch_id = int(result.get("watch_id", 0))
            for event in result.get("events", []):
                kv = key_value(event["kv"])
                found.append(WatchEvent(watch_id, event.get("type", "PUT"), kv))
        return found

    def revisions(self, watch_id: int = 0) -> list[int]:
        return [event.kv.mod_revision for event in self.events() if event.watch_id == watch_id]

    def canceled(self) -> list[dict[str, Any]]:
        return [result for result in list(self.results) if result.get("canceled")]

    def wait_created(self, count: int = 1) -> None:
        wait_until(
            f"{count} watchers are created",
            lambda: sum(bool(result.get("created")) for result in list(self.results)) >= count,
        )

    def wait_events(self, count: int) -> None:
        wait_until(f"{count} events", lambda: len(self.events()) >= count)
