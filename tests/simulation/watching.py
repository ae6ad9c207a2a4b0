"""A client that watches, loses its connection, and goes on elsewhere where it was."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mvcc.kv import Event
from mvcc.watchable_store import WatchResponse
from node.server import Server
from node.watches import Subscription
from tests.simulation.history import History
from tests.simulation.sim_cluster import SimCluster, SimMember
from tests.simulation.swarm import Options
from tests.simulation.workload import Client

_WIRE_SECONDS = 0.001


@dataclass(slots=True)
class WatchLog:
    """What one watch was promised and given. `heard` are (what, revision, events) in order:

    resumed (where to), created, events, progress, compacted.
    """

    client: str
    key: bytes
    range_end: bytes
    prev_kv: bool
    no_put: bool
    no_delete: bool
    heard: list[tuple[str, int, tuple[Event, ...]]] = field(default_factory=list)
    due: int = 0
    """The revision to go on from; 0: from now on."""
    last: bool = False
    """Was open when the run ended."""


class _Connection:
    """One stream at one member, which empties its queue as the member asks it to."""

    def __init__(self, client: Watcher, member: SimMember, server: Server) -> None:
        self._client = client
        self._life = member.life
        self._loop = client.cluster.loop
        self._context = client.cluster.network.context
        self._arrival = 0.0
        self.full = client.random.random() < 0.3
        self.subscription: Subscription = server.watches.subscribe(self)

    def flush(self) -> int:
        responses = self.subscription.stream.take()
        self._arrival = max(self._arrival + 1e-9, self._loop.time() + _WIRE_SECONDS)
        if responses:
            self._loop.call_at(
                self._arrival, self._client.receive, self, responses, context=self._context
            )
        return 100 * len(responses)

    @property
    def broken(self) -> bool:
        return not self._life.alive


class Watcher(Client):
    """One watch after the other, each over several connections. `logs` are all of them."""

    def __init__(
        self, cluster: SimCluster, history: History, random: Random, name: str, options: Options
    ) -> None:
        super().__init__(cluster, history, random, name)
        self._keys = [b"k%02d" % number for number in range(options.keys)]
        self.logs: list[WatchLog] = []
        self.running = True
        self.calm = False
        """Stay where you are, and listen."""
        self._connection: _Connection | None = None
        self._listening: object = None
        self._received: deque[WatchResponse] = deque()
        self._ready = asyncio.Event()

    async def run(self) -> None:
        while self.running:
            log = self._begin()
            for _ in range(self.random.randint(1, 6)):
                await self._listen(log)
                if not self.running:
                    break
            log.last = not self.running

    def _begin(self) -> WatchLog:
        random = self.random
        start, end = sorted((random.choice(self._keys), random.choice(self._keys)))
        span = random.choice(((start, b""), (start, end + b"\0"), (b"\0", b"\0")))
        filters = random.choice(((False, False),) * 4 + ((True, False), (False, True)))
        log = WatchLog(self.name, *span, random.random() < 0.5, *filters)
        oldest, newest = max(1, self.history.compacted), self._newest()
        log.due = random.choice((0, 0, 1, 2, oldest, max(1, newest - 10), newest + 3))
        self.logs.append(log)
        return log

    def _newest(self) -> int:
        entries = self.history.entries
        last = entries.get(self.history.last_index)
        return last.revision if last is not None and last.executed else 1

    async def _listen(self, log: WatchLog) -> None:
        """One connection, until it breaks or is given up, or the watch is ended by the member."""
        member = self.pick()
        if not member.listening:
            await self.rest(0.1)
            return
        self._connection, self._received = None, deque()
        log.heard.append(("resumed", log.due, ()))
        self.history.journal.note("watch", self.name, member.name, log.key, log.range_end, log.due)
        self._listening = wish = object()
        member.call(self._open, member, log, wish)
        until = self.cluster.loop.time() + self.random.choice((0.2, 1.0, 4.0, 12.0))
        try:
            await self._hear(log, member, until)
        finally:
            self._listening = None
            connection, self._connection = self._connection, None
            if connection is not None and not connection.broken:
                member.call(connection.subscription.close)

    def _open(self, member: SimMember, log: WatchLog, wish: object) -> None:
        if not member.listening or self._listening is not wish:
            return
        connection = _Connection(self, member, member.server)
        self._connection = connection
        connection.subscription.watch(
            key=log.key,
            range_end=log.range_end,
            start_rev=log.due,
            no_put=log.no_put,
            no_delete=log.no_delete,
            prev_kv=log.prev_kv,
            progress_notify=True,
        )

    def receive(self, connection: _Connection, responses: list[WatchResponse]) -> None:
        """From the network."""
        if connection is self._connection:
            self._received.extend(responses)
            self._ready.set()

    async def _hear(self, log: WatchLog, member: SimMember, until: float) -> None:
        loop = self.cluster.loop
        life = member.life
        while self.running and life.alive and (self.calm or loop.time() < until):
            self._ready.clear()
            try:
                async with asyncio.timeout(0.1):
                    await self._ready.wait()
            except TimeoutError:
                self._fidget(member)
                continue
            while self._received:
                if not self._note(log, self._received.popleft()):
                    return

    def _fidget(self, member: SimMember) -> None:
        """Clients do not always listen, and sometimes ask how far they are."""
        connection = self._connection
        if connection is None or connection.broken:
            return
        if self.random.random() < 0.3:
            member.call(connection.subscription.stream.request_progress)
        if connection.full:
            connection.full = False
            member.call(connection.subscription.resume)
        elif not self.calm and self.random.random() < 0.2:
            connection.full = True

    def _note(self, log: WatchLog, response: WatchResponse) -> bool:
        """Write it down; False when the member has ended the watch: it begins anew where it may."""
        note = self.history.journal.note
        if response.created:
            log.heard.append(("created", response.revision, ()))
            log.due = log.due or response.revision + 1
        elif response.canceled:
            note("compacted", self.name, response.compact_revision, log.due)
            log.heard.append(("compacted", response.compact_revision, ()))
            log.due = response.compact_revision
            return False
        elif response.notice is not None:
            events = response.notice.events
            note("events", self.name, response.notice.revision, [_told(each) for each in events])
            log.heard.append(("events", response.notice.revision, events))
            log.due = max(log.due, events[-1].kv.mod_revision + 1)
        else:
            note("progress", self.name, response.revision)
            log.heard.append(("progress", response.revision, ()))
            log.due = max(log.due, response.revision + 1)
        return True


def _told(event: Event) -> tuple[Any, ...]:
    return int(event.type), event.kv.key, event.kv.mod_revision
