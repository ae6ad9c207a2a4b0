"""Somebody who speaks the peer protocol over a plain socket, and need not keep to its rules.

Without TLS whoever knows the ids can say hello as a member, so what comes then must not be trusted.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from node.apply.requests import KINDS
from raft.codec import encode_message
from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType, encode_conf_change
from raft.core.message import Message, MessageType
from raft.core.types import ConfState, Entry, EntryType, Snapshot
from raft.framing import HEAD_BYTES, FrameType, pack_frame, unpack_head
from raft.handshake import (
    ANSWER_BYTES,
    HELLO_BYTES,
    Answer,
    Identity,
    StreamKind,
    Verdict,
    pack_hello,
    unpack_answer,
)

__all__ = [
    "GRANT",
    "HELLO_BYTES",
    "PUT",
    "TXN",
    "Answer",
    "ConfChange",
    "ConfChangeSingle",
    "ConfChangeType",
    "Entry",
    "EntryType",
    "FrameType",
    "Impostor",
    "MessageType",
    "StreamKind",
    "Verdict",
    "conf_change",
    "connect",
    "hello",
    "pack_frame",
    "request",
    "silent",
    "snapshot_message",
]

TIMEOUT_SECONDS = 8.0
"""Above the time that a member gives a stranger to say hello."""
PUT, TXN, GRANT = 1, 3, 5


def connect(url: str, context: ssl.SSLContext | None = None) -> socket.socket:
    """A connection to the host and port of a URL, in TLS with `context`."""
    parts = urlsplit(url)
    plain = socket.create_connection((parts.hostname, parts.port), TIMEOUT_SECONDS)
    if context is None:
        return plain
    return context.wrap_socket(plain, server_hostname=parts.hostname)


def hello(*, cluster: int, sender: int, receiver: int, kind: int = StreamKind.MESSAGES) -> bytes:
    identity = Identity(cluster, sender, lambda member: True, lambda member: False)
    return pack_hello(identity, StreamKind(kind), receiver)


def silent(connection: socket.socket) -> bytes:
    """What the other side still says until it hangs up, which it must."""
    said = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
        while data := connection.recv(65536):
            said += data
    return said


def request(kind: int, request_id: int, body: Any) -> bytes:
    """A log entry's data of a kind, with any body at all."""
    return struct.pack(">BQ", kind, request_id) + msgspec.msgpack.encode(body)


def conf_change(*changes: tuple[ConfChangeType, int], context: bytes = b"") -> Entry:
    """A membership change as a proposal."""
    singles = [ConfChangeSingle(kind, member) for kind, member in changes]
    return Entry(
        0, 0, EntryType.CONF_CHANGE, encode_conf_change(ConfChange(singles, context=context))
    )


def snapshot_message(
    *, sender: int, receiver: int, term: int, index: int, voters: tuple[int, ...]
) -> bytes:
    """What opens the stream of a snapshot."""
    snapshot = Snapshot(index, term, ConfState(voters=voters))
    kind = MessageType.SNAPSHOT
    message = Message(type=kind, to=receiver, sender=sender, term=term, snapshot=snapshot)
    return encode_message(message)


class Impostor:
    """An accepted message stream to `receiver` under the name of `sender`."""

    def __init__(
        self,
        url: str,
        *,
        cluster: int,
        sender: int,
        receiver: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.sender, self.receiver = sender, receiver
        self.connection = connect(url, context)
        self.connection.sendall(hello(cluster=cluster, sender=sender, receiver=receiver))
        self.answer = unpack_answer(self._read(ANSWER_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, kind: int, **fields: Any) -> None:
        """One message of ours."""
        given = {"sender": self.sender, "to": self.receiver, **fields}
        body = encode_message(Message(type=kind, **given))
        self.connection.sendall(pack_frame(FrameType.MESSAGE, body))

    def propose(self, entries: Sequence[Entry]) -> None:
        self.send(MessageType.PROPOSE, entries=list(entries))

    def propose_data(self, *data: bytes) -> None:
        self.propose([Entry(0, 0, EntryType.NORMAL, each) for each in data])

    def settle(self) -> None:
        """Everything sent so far has been looked at, and the stream is still open."""
        self.connection.sendall(pack_frame(FrameType.PING, b"12345678"))
        kind, length = unpack_head(self._read(HEAD_BYTES), 1 << 20)
        assert (kind, self._read(length)) == (FrameType.PONG, b"12345678")

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.connection.recv(size - len(data))
            assert piece, f"the member hung up after {data!r}"
            data += piece
        return data


assert {PUT, TXN, GRANT} <= KINDS.keys()
