"""Transports on the loopback, with receivers that remember."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raft.core.errors import RaftError
from raft.core.message import Message, MessageType
from raft.core.types import Entry, Snapshot
from raft.handshake import ANSWER_BYTES, Identity, StreamKind, Verdict, pack_hello, unpack_answer
from raft.peer_stream import CALL_BYTES_MAX
from raft.tcp_transport import TcpTransport
from raft.transport import CallFailed

CLUSTER = 0xC


class Refusing(RaftError):
    """What a receiver raises that has no room."""


class Sink:
    """Keeps what it is given in memory."""

    def __init__(self, owner: Recorder) -> None:
        self.owner = owner
        self.data = b""
        self.ended = ""

    def write(self, chunk: bytes) -> None:
        if self.owner.disk_full:
            raise OSError(28, "No space left on device")
        self.data += chunk

    def finish(self) -> None:
        self.ended = "finished"

    def abort(self) -> None:
        self.ended = "aborted"


class Source:
    """A SnapshotSource of some bytes that can break off or lie about its size."""

    def __init__(self, data: bytes, *, breaks_at: int | None = None) -> None:
        self.snapshot = Snapshot(7, 2)
        self.size = len(data)
        self.closed = 0
        self._data = data
        self._at = 0
        self._breaks_at = breaks_at

    def read(self, limit: int) -> bytes:
        if self._breaks_at is not None and self._at >= self._breaks_at:
            raise OSError(5, "Input/output error")
        chunk = self._data[self._at : self._at + limit]
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """A Receiver that keeps everything, and wakes whoever waits for a condition."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.lost: list[int] = []
        self.dead: list[int] = []
        self.results: list[tuple[int, bool]] = []
        self.sinks: list[Sink] = []
        self.errors: list[BaseException] = []
        self.round_trips: list[tuple[int, float]] = []
        self.no_room = False
        self.disk_full = False
        self.changed = asyncio.Event()

    def receive(self, message: Message) -> None:
        self.messages.append(message)
        self.changed.set()

    def unreachable(self, member: int) -> None:
        self.lost.append(member)
        self.changed.set()

    def gone(self, member: int) -> None:
        self.dead.append(member)
        self.changed.set()

    def snapshot_sent(self, member: int, ok: bool) -> None:
        self.results.append((member, ok))
        self.changed.set()

    def begin_snapshot(self, message: Message, size: int) -> Sink:
        if self.no_room:
            raise Refusing("no room")
        self.sinks.append(Sink(self))
        return self.sinks[-1]

    async def serve(self, sender: int, kind: int, body: bytes) -> bytes:
        if kind == 1:
            return b"%x:" % sender + body
        if kind == 2:
            await asyncio.get_running_loop().create_future()
        if kind == 3:
            return bytes(CALL_BYTES_MAX + 1)
        raise CallFailed("no such question")

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)
        self.changed.set()

    def observe(self, member: int, seconds: float) -> None:
        self.round_trips.append((member, seconds))
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Member:
    """A transport, its recorder, and where it listens."""

    def __init__(
        self, number: int, known: set[int], *, scheme: str = "http", **options: object
    ) -> None:
        self.number = number
        self.scheme = scheme
        self.known = known
        self.gone: set[int] = set()
        self.recorder = Recorder()
        self.transport = TcpTransport(
            cluster=options.pop("cluster", CLUSTER),
            member=number,
            listen_urls=[f"{scheme}://127.0.0.1:0"],
            knows=self.known.__contains__,
            removed=self.gone.__contains__,
            observe=self.recorder.observe,
            **options,
        )

    @property
    def url(self) -> str:
        host, port = self.transport.addresses[0]
        return f"{self.scheme}://{host}:{port}"

    def dial(self, other: Member) -> None:
        self.transport.add_peer(other.number, [other.url])

    async def connected(self, other: Member) -> None:
        self.dial(other)
        await self.recorder.until(
            lambda: (
                self.transport.active_since(other.number) is not None and self.recorder.round_trips
            )
        )


StartMember = Callable[..., "asyncio.Future[Member]"]
"""The fixture `start_member`: (number, **options of TcpTransport)."""


def message(to: int, sender: int = 1, index: int = 0, data: bytes = b"") -> Message:
    entries = [Entry(1, index + 1, 0, data)] if data else []
    return Message(
        type=MessageType.APPEND, to=to, sender=sender, term=1, index=index, entries=entries
    )


def hello(sender: int = 1, to: int = 2, cluster: int = CLUSTER) -> bytes:
    identity = Identity(cluster, sender, lambda member: True, lambda member: False)
    return pack_hello(identity, StreamKind.MESSAGES, to)


async def open_raw(member: Member) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = member.transport.addresses[0]
    return await asyncio.open_connection(host, port)


async def greeted(member: Member) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await open_raw(member)
    writer.write(hello())
    answer = unpack_answer(await reader.readexactly(ANSWER_BYTES))
    assert answer.verdict == Verdict.ACCEPTED
    return reader, writer


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other side closes."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def eventually(condition: Callable[[], object]) -> None:
    """For conditions that no recorder sees change."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def snapshot_message(to: int = 2) -> Message:
    return Message(type=MessageType.SNAPSHOT, to=to, sender=1, term=3, snapshot=Snapshot(7, 2))
