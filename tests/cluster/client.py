"""A small synchronous client of the v3 HTTP/JSON API, on the standard library alone.

Keys and values are bytes here and base64 on the wire; 64-bit numbers are ints here, strings there.
A call that gets an error answer raises ApiError. One that gets no answer raises OSError or
http.client.HTTPException, and a write may then have happened or not: nothing is retried.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

NO_ANSWER = (OSError, http.client.HTTPException)
"""What a call raises when the member is down, dies meanwhile, or takes too long."""

OPEN_END = b"\0"


class ApiError(Exception):
    """An answer that is an error: HTTP status, gRPC code, etcd's message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status}, code {code})")
        self.status = status
        self.code = code
        self.message = message


class KeyValue(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class RangeAnswer(NamedTuple):
    kvs: list[KeyValue]
    count: int
    more: bool
    revision: int
    """The store's current revision, also for a read of the past."""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else OPEN_END


def key_value(row: Mapping[str, Any]) -> KeyValue:
    numbers = (int(row.get(name, 0)) for name in KeyValue._fields[2:])
    return KeyValue(
        base64.b64decode(row.get("key", "")), base64.b64decode(row.get("value", "")), *numbers
    )


class Client:
    """One connection to one member, kept open between calls; not to be shared between threads."""

    def __init__(self, url: str, timeout_seconds: float = 10.0, token: str = "") -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port, url
        self.url = url
        self.token = token
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=timeout_seconds
        )

    def close(self) -> None:
        self._connection.close()

    # The wire

    def send(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(HTTP status, body) of any request; the connection is dropped when there is no answer."""
        try:
            headers = {"Authorization": self.token} if self.token else {}
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except NO_ANSWER:
            self._connection.close()
            raise

    def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A v3 call, such as `kv/range`."""
        status, answer = self.send("POST", f"/v3/{path}", json.dumps(body).encode())
        return _checked(status, answer)

    # Keys

    def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        revision: int = 0,
        limit: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> RangeAnswer:
        body = {
            "key": b64(key),
            "range_end": b64(range_end),
            "revision": revision,
            "limit": limit,
            "serializable": serializable,
            "keys_only": keys_only,
            "count_only": count_only,
        }
        answer = self.call("kv/range", body)
        return RangeAnswer(
            [key_value(row) for row in answer.get("kvs", [])],
            int(answer.get("count", 0)),
            answer.get("more", False),
            int(answer["header"]["revision"]),
        )

    def prefix(self, prefix: bytes, **options: Any) -> RangeAnswer:
        return self.range(prefix, prefix_end(prefix), **options)

    def everything(self, page: int = 1000, **options: Any) -> Iterator[KeyValue]:
        """Every key, in pages at the revision of the first one."""
        start = OPEN_END
        while True:
            answer = self.range(start, OPEN_END, limit=page, **options)
            options.setdefault("revision", answer.revision)
            yield from answer.kvs
            if not answer.more:
                return
            start = answer.kvs[-1].key + b"\0"

    def get(self, key: bytes, **options: Any) -> KeyValue | None:
        rows = self.range(key, **options).kvs
        return rows[0] if rows else None

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """The revision of the write."""
        answer = self.call("kv/put", {"key": b64(key), "value": b64(value), "lease": lease})
        return int(answer["header"]["revision"])

    def delete(self, key: bytes, range_end: bytes = b"") -> int:
        """How many keys are gone."""
        body = {"key": b64(key), "range_end": b64(range_end)}
        return int(self.call("kv/deleterange", body).get("deleted", 0))

    def txn(
        self,
        compare: Sequence[Mapping[str, Any]] = (),
        success: Sequence[Mapping[str, Any]] = (),
        failure: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        body = {"compare": list(compare), "success": list(success), "failure": list(failure)}
        return self.call("kv/txn", body)

    def compact(self, revision: int, *, physical: bool = False) -> None:
        self.call("kv/compaction", {"revision": revision, "physical": physical})

    # Maintenance

    def status(self) -> dict[str, Any]:
        return self.call("maintenance/status", {})

    def revision(self) -> int:
        return int(self.status()["header"]["revision"])

    def hash_kv(self, revision: int = 0) -> tuple[int, int, int]:
        """(hash, compact revision, revision the hash was taken at) of this member."""
        answer = self.call("maintenance/hashkv", {"revision": revision})
        return (
            answer.get("hash", 0),
            int(answer.get("compact_revision", 0)),
            int(answer["header"]["revision"]),
        )

    def alarms(self) -> list[dict[str, Any]]:
        return self.call("maintenance/alarm", {"action": "GET"}).get("alarms", [])

    def disarm(self) -> None:
        """Lift every alarm."""
        for alarm in self.alarms():
            self.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})

    def defragment(self) -> None:
        self.call("maintenance/defragment", {})

    def move_leader(self, target: int) -> None:
        self.call("maintenance/transfer-leadership", {"targetID": target})

    def members(self) -> list[dict[str, Any]]:
        return self.call("cluster/member/list", {}).get("members", [])

    def snapshot(self) -> Iterator[bytes]:
        """The pieces of a snapshot; the connection is of no further use if not read to the end."""
        self._connection.request("POST", "/v3/maintenance/snapshot", b"{}")
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            _checked(response.status, response.read())
        for line in response:
            message = json.loads(line)
            if "error" in message:
                error = message["error"]
                raise ApiError(response.status, error.get("code", 2), error.get("message", ""))
            yield base64.b64decode(message["result"].get("blob", ""))

    def healthy(self) -> bool:
        """Whether /health says so; False also without an answer."""
        try:
            return self.send("GET", "/health")[0] == http.client.OK
        except NO_ANSWER:
            return False

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels, as it is printed."""
        _, page = self.send("GET", "/metrics")
        rows = (row.rpartition(" ") for row in page.decode().splitlines() if row[:1] != "#")
        return {name: float(number) for name, _, number in rows if name}


def _checked(status: int, answer: bytes) -> dict[str, Any]:
    try:
        body = json.loads(answer)
    except ValueError as error:
        raise ApiError(status, 2, answer[:200].decode(errors="replace")) from error
    if status != http.client.OK:
        raise ApiError(status, body.get("code", 2), body.get("message", ""))
    return body
