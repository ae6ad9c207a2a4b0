"""Transport: what carries messages between members, and what it asks of both sides.

Messages may be lost, and are then reported; they never overtake each other on their way to one
member, and never block the sender. `raft.tcp_transport` is the real one, tests and the simulation
bring their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raft.core.errors import RaftError
from raft.core.message import Message
from raft.core.types import Snapshot


class PeerUnavailable(RaftError):
    """No answer from the peer: not connected, or not in time. Whether it acted is unknown."""


class CallFailed(RaftError):
    """The peer answered a call with a refusal; its words are in `args[0]`."""


class SnapshotSource(Protocol):
    """An open, frozen copy of the state machine. Read in a pool thread, by one caller."""

    @property
    def snapshot(self) -> Snapshot:
        """What the copy holds: all entries up to its index, none after."""

    @property
    def size(self) -> int:
        """Bytes that read() will give in all."""

    def read(self, limit: int) -> bytes:
        """The next bytes, at least one and at most `limit` of them; empty at the end. Blocking."""

    def close(self) -> None:
        """Let go of the copy. Blocking; called exactly once."""


class SnapshotSink(Protocol):
    """A file being received. Written in a pool thread, by one caller; finish or abort ends it."""

    def write(self, chunk: bytes) -> None:
        """Append to the temporary file. Blocking."""

    def finish(self) -> None:
        """The bytes are whole. Blocking; the file is durable under its name on return."""

    def abort(self) -> None:
        """Remove what write() left, if it is still there. Blocking; also after a failed write or
        finish."""


class Receiver(Protocol):
    """Where a transport hands things in: the driver. All plain calls on the loop's thread but
    `serve`."""

    def receive(self, message: Message) -> None:
        """A message whose sender was authenticated. A SNAPSHOT comes after its sink has
        finished."""

    def unreachable(self, member: int) -> None:
        """Messages to `member` were lost; not called more often than every 100 ms for each
        member."""

    def gone(self, member: int) -> None:
        """The process of `member` seems to have ended: its streams are closed, and its host refuses
        new ones. May be told again."""

    def snapshot_sent(self, member: int, ok: bool) -> None:
        """The stream begun by send_snapshot has ended; `ok` when the peer has it durably and took
        the message."""

    def begin_snapshot(self, message: Message, size: int) -> SnapshotSink:
        """Where to put `size` bytes that belong to this SNAPSHOT message. OSError or RaftError
        refuse it."""

    async def serve(self, sender: int, kind: int, body: bytes) -> bytes:
        """Answer a peer's call(). CallFailed refuses it in words that the peer may read."""

    def fail(self, error: BaseException) -> None:
        """A task of the transport died of an error that is ours: the member must stop."""


class Transport(Protocol):
    """All calls on the loop's thread."""

    async def start(self, receiver: Receiver) -> None:
        """Listen, and dial the peers that were added."""

    async def stop(self) -> None:
        """Close everything; nothing is handed to the receiver afterwards."""

    def send(self, messages: Sequence[Message]) -> None:
        """Put messages on their way, all frames for one peer in one write. No SNAPSHOT among
        them."""

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        """Stream `source` with its SNAPSHOT message in the background; closes the source, then
        snapshot_sent()."""

    async def call(self, member: int, kind: int, body: bytes, seconds: float = 5.0) -> bytes:
        """Ask a peer's serve(). PeerUnavailable or CallFailed."""

    def add_peer(self, member: int, urls: Sequence[str]) -> None:
        """Begin to dial a member. ValueError for a URL that is not http(s)://host:port."""

    def update_peer(self, member: int, urls: Sequence[str]) -> None:
        """Dial a member elsewhere from now on. Nothing happens when the URLs are the same."""

    def remove_peer(self, member: int) -> None:
        """Close what is open to and from a member. Unknown ones are ignored."""

    def active_since(self, member: int) -> float | None:
        """Loop time since which the stream to `member` is open; None while it is not."""
