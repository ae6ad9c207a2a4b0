"""Clients that vanish while their request is under way harm nobody but themselves."""

from __future__ import annotations

import json
import socket
import struct
from urllib.parse import urlsplit

import pytest

from tests.cluster.client import b64
from tests.cluster.harness import Member

ROUNDS = 60
AT_ONCE = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def rude_put(member: Member, key: bytes) -> socket.socket:
    """A connection with a put under way; closing it resets it, as a killed process would."""
    url = urlsplit(member.client_url)
    connection = socket.create_connection((url.hostname, url.port), timeout=5)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    body = json.dumps({"key": b64(key), "value": b64(b"x" * 2000)}).encode()
    head = f"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_connections_reset_before_their_answer(new_cluster) -> None:
    cluster = new_cluster(3).start()
    for round_ in range(ROUNDS):
        open_ = [
            rude_put(cluster[number % 3], b"%d/%d" % (round_, number)) for number in range(AT_ONCE)
        ]
        for connection in open_:
            connection.close()
    for member in cluster:
        assert member.running, member.log()[-2000:]
        assert member.client.put(b"polite", b"1") > 0
    cluster.wait_same_history()
