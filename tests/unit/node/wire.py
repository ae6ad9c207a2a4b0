"""Requests as a client writes them, byte for byte."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

HEADER = {"cluster_id": "17", "member_id": str(2**63 + 5), "raft_term": "3"}
"""What FakeServer puts into every header besides the revision."""


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def post(path: str, body: dict[str, Any] | bytes, *headers: str) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: here:2379", f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def put(key: bytes, value: bytes = b"v") -> bytes:
    return post("/v3/kv/put", {"key": b64(key), "value": b64(value)})


def get(key: bytes) -> bytes:
    return post("/v3/kv/range", {"key": b64(key)})
