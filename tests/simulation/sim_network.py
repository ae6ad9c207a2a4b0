"""The network between simulated members: bytes of messages that are late, lost, doubled, out of
order, or cut off in one direction.

A link is ordered as a TCP connection is, unless `reorder` says otherwise: what would overtake
waits. Messages cross as bytes, so members share nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from raft.codec import decode_message, encode_message
from raft.core.errors import RaftError
from raft.core.message import Message, MessageType
from raft.transport import (
    CallFailed,
    PeerUnavailable,
    Receiver,
    SnapshotSink,
    SnapshotSource,
)
from tests.faulty_disk import PowerCut
from tests.simulation.journal import Journal
from tests.simulation.sim_loop import Killed, life_of

SNAPSHOT_CHUNK = 4096
_FROZEN_POLL_SECONDS = 0.05
_RESEND_SECONDS = 0.2
_BROKEN_SECONDS = 0.5
"""Until who asked something notices that the connection is broken."""


@dataclass
class LinkFaults:
    """Chances per message, and seconds. Drawn once per run, or changed by a nemesis."""

    delay: float = 0.001
    jitter: float = 0.002
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    slow: float = 0.0
    """A chance of being a hundred times as late."""


@dataclass
class Network:
    """Who reaches whom."""

    random: Random
    journal: Journal
    faults: LinkFaults = field(default_factory=LinkFaults)
    cut: set[tuple[int, int]] = field(default_factory=set)
    clogged: dict[tuple[int, int], float] = field(default_factory=dict)
    endpoints: dict[int, SimTransport] = field(default_factory=dict)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """Of no life: what is on its way arrives although its sender died."""

    def cut_link(self, sender: int, receiver: int) -> None:
        """One direction; both for a whole partition."""
        self.cut.add((sender, receiver))

    def heal(self) -> None:
        self.cut.clear()
        self.clogged.clear()

    def ended(self, member: int, *, told: bool) -> None:
        """The process of `member` has ended. `told`: its machine runs on, and refuses."""
        endpoint = self.endpoints.pop(member, None)
        if endpoint is None or not told:
            return
        for peer in self.endpoints.values():
            peer.refused(member)

    def reaches(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) not in self.cut and receiver in self.endpoints

    def latency(self, sender: int, receiver: int) -> float:
        faults, random = self.faults, self.random
        seconds = faults.delay + faults.jitter * random.random()
        if random.random() < faults.slow:
            seconds *= 100
        return seconds + self.clogged.get((sender, receiver), 0.0)


class SimTransport:
    """Implements `raft.transport.Transport` for one life of one member."""

    def __init__(self, network: Network, member: int, name: str) -> None:
        self.name = name
        self._network = network
        self._member = member
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver
        self._peers: dict[int, float] = {}
        self._arrival: dict[int, float] = {}
        self._told_unreachable: dict[int, float] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._context = contextvars.copy_context()

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._network.endpoints[self._member] = self

    async def stop(self) -> None:
        if self._network.endpoints.get(self._member) is self:
            del self._network.endpoints[self._member]
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add_peer(self, member: int, urls: Sequence[str]) -> None:
        self._peers.setdefault(member, self._loop.time())

    def update_peer(self, member: int, urls: Sequence[str]) -> None:
        """Addresses mean nothing here: members are found by their ids."""

    def remove_peer(self, member: int) -> None:
        self._peers.pop(member, None)

    def active_since(self, member: int) -> float | None:
        return self._peers.get(member) if self._connected(member) else None

    # -- messages

    def send(self, messages: Sequence[Message]) -> None:
        assert all(message.type != MessageType.SNAPSHOT for message in messages)
        for message in messages:
            self._send(message.to, message.type, encode_message(message))

    def _send(self, to: int, kind: int, data: bytes) -> None:
        network, random = self._network, self._network.random
        if to not in self._peers:
            return
        if not network.reaches(self._member, to) or random.random() < network.faults.loss:
            network.journal.note("lost", self.name, to, data)
            self._loop.call_later(network.latency(self._member, to), self._lost, to)
            return
        due = self._loop.time() + network.latency(self._member, to)
        if random.random() < network.faults.reorder:
            network.journal.note("reordered", self.name, to)
        else:
            due = self._arrival[to] = max(due, self._arrival.get(to, 0.0) + 1e-9)
        self._on_the_way(due, to, data)
        # A forwarded proposal that comes twice is proposed twice: streams of bytes do not do that.
        if kind != MessageType.PROPOSE and random.random() < network.faults.duplicate:
            network.journal.note("duplicated", self.name, to)
            late = network.latency(self._member, to) * random.choice((1, 1, 10, 100))
            self._on_the_way(due + late, to, data)

    def _on_the_way(self, due: float, to: int, data: bytes) -> None:
        self._loop.call_at(due, self._arrive, to, data, context=self._network.context)

    def _arrive(self, to: int, data: bytes) -> None:
        network = self._network
        if not network.reaches(self._member, to):
            network.journal.note("lost", self.name, to)
            self._loop.call_soon(self._lost, to, context=self._context)
            return
        network.journal.note("message", self.name, network.endpoints[to].name, data)
        network.endpoints[to].take(self._member, data)

    def take(self, sender: int, data: bytes) -> None:
        """Bytes for this member, from the network: handed in within this member's life."""
        if sender in self._peers:
            self._loop.call_soon(self._receive, data, context=self._context)

    def _receive(self, data: bytes) -> None:
        self._receiver.receive(decode_message(data))

    def _lost(self, to: int) -> None:
        now = self._loop.time()
        if now - self._told_unreachable.get(to, -1.0) >= 0.1:
            self._told_unreachable[to] = now
            self._receiver.unreachable(to)

    def refused(self, member: int) -> None:
        """Nobody listens at `member` any more."""
        if member in self._peers:
            network = self._network
            seconds = network.latency(member, self._member)
            self._loop.call_later(seconds, self._receiver.gone, member, context=self._context)

    # -- snapshots

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        self._spawn(self._stream(message, source))

    async def _stream(self, message: Message, source: SnapshotSource) -> None:
        """Chunk by chunk, each subject to the network; what is lost ends the stream."""
        to, ok = message.to, False
        try:
            ok = await self._send_chunks(message, source)
        finally:
            source.close()
        self._network.journal.note("snapshot", self.name, to, "sent" if ok else "lost")
        self._receiver.snapshot_sent(to, ok)

    async def _send_chunks(self, message: Message, source: SnapshotSource) -> bool:
        to, network = message.to, self._network
        data = encode_message(message)
        sink: SnapshotSink | None = None
        while True:
            await asyncio.sleep(network.latency(self._member, to))
            peer = network.endpoints.get(to)
            lost = network.random.random() < network.faults.loss
            if peer is None or lost or not network.reaches(self._member, to):
                if sink is not None:
                    sink.abort()
                return False
            if peer.frozen:
                await asyncio.sleep(_FROZEN_POLL_SECONDS)
                continue
            try:
                sink = sink or peer.inside(peer.begin_snapshot, decode_message(data), source.size)
                chunk = source.read(SNAPSHOT_CHUNK)
                if not chunk:
                    peer.inside(sink.finish)
                    peer.take(self._member, data)
                    return True
                peer.inside(sink.write, chunk)
            except (OSError, RaftError, Killed, PowerCut):
                if sink is not None and network.endpoints.get(to) is peer:
                    sink.abort()
                return False

    @property
    def frozen(self) -> bool:
        life = life_of(self._context)
        return life is not None and life.frozen_until > self._loop.time()

    def inside(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call it as if this member did it by itself."""
        return self._context.copy().run(method, *args)

    def begin_snapshot(self, message: Message, size: int) -> SnapshotSink:
        return self._receiver.begin_snapshot(message, size)

    # -- calls

    async def call(self, member: int, kind: int, body: bytes, seconds: float = 5.0) -> bytes:
        network = self._network
        network.journal.note("question", self.name, member, kind, body)
        peer = network.endpoints.get(member)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._loop.call_later(
            network.latency(self._member, member),
            self._ask,
            member,
            kind,
            body,
            answer,
            context=network.context,
        )
        deadline = self._loop.time() + seconds
        while not answer.done():
            left = deadline - self._loop.time()
            broken = network.endpoints.get(member) is not peer or not self._connected(member)
            if left <= 0 or broken:
                answer.cancel()
                raise PeerUnavailable(f"no answer from {member:x}")
            await asyncio.wait([answer], timeout=min(left, _BROKEN_SECONDS))
        return answer.result()

    def _connected(self, member: int) -> bool:
        network = self._network
        return network.reaches(self._member, member) and network.reaches(member, self._member)

    def _ask(self, member: int, kind: int, body: bytes, answer: asyncio.Future[bytes]) -> None:
        network = self._network
        peer, sender = network.endpoints.get(member), self._member
        if peer is None or answer.done():
            return
        if not network.reaches(sender, member):
            # Sent again, as TCP does, until who asked gives up the connection.
            self._loop.call_later(_RESEND_SECONDS, self._ask, member, kind, body, answer)
            return

        async def served() -> None:
            try:
                result: bytes | CallFailed = await peer._receiver.serve(sender, kind, body)
            except CallFailed as error:
                result = error
            peer._reply(self, answer, result)

        # A process that is stopped hears it when it goes on.
        self._loop.call_soon(lambda: peer._spawn(served()), context=peer._context)

    def _reply(
        self, asker: SimTransport, answer: asyncio.Future[bytes], result: bytes | CallFailed
    ) -> None:
        network, sender = self._network, asker._member
        if answer.done():
            return
        if not network.reaches(self._member, sender):
            self._loop.call_later(_RESEND_SECONDS, self._reply, asker, answer, result)
            return
        seconds = network.latency(self._member, sender)
        self._loop.call_later(seconds, self._answered, answer, result, context=asker._context)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    @staticmethod
    def _answered(answer: asyncio.Future[bytes], result: bytes | CallFailed) -> None:
        if answer.done():
            return
        if isinstance(result, CallFailed):
            answer.set_exception(result)
            answer.exception()  # Who asked may have died meanwhile.
        else:
            answer.set_result(result)
