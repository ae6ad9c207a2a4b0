"""Members of one simulated cluster: the real `node.member.Member` on simulated seams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, Protocol

from mvcc.watchable_store import Limits
from node.bootstrap import BootstrapError, Identity
from node.config import NodeConfig, load
from node.member import Member
from node.seams import Seams
from node.server import Server
from raft.wal import Wal
from tests.simulation.journal import Journal
from tests.simulation.sim_backend import Platter, SimBackend, SimStateCopy, faults_in
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_loop import Killed, Life, SimLoop
from tests.simulation.sim_network import Network, SimTransport
from tests.simulation.sim_wal import SimWal

TOKEN = "simulated"
SEGMENT_BYTES = 16 << 10
RESERVE_BYTES = 4 << 10
"""Of the log: small, so that segments are cut and released in every run."""

_SMALL_LIMITS = Limits(
    queue_bytes=1000, queue_responses=4, batch_watchers=2, slice_rows=5, slice_matches=8
)
"""Of watches: so that queues are full, and history is read in many slices."""

_JOINING_TRIES = 60
_JOINING_PAUSE_SECONDS = 0.5
_WALL_SECONDS = 1.7e9
_STALL_SECONDS_MAX = 4.0
"""A write that is under way outlives the fault that made it slow."""


class Observer(Protocol):
    """Who wants to know what happens inside the members."""

    def opened(self, member: SimMember, server: Server) -> None:
        """A process has read its disk and is about to take part."""

    def ended(self, member: SimMember, left: list[str]) -> None:
        """A process has ended by itself, as `member.failure` says, and left these tasks."""


class _Face:
    """Where clients would connect: they call the server while it listens."""

    def __init__(self, member: SimMember, server: Server, _metrics: Any) -> None:
        self._member = member
        member.opened(server)

    async def start(self, *_: Any, **__: Any) -> None:
        self._member.listening = True

    async def stop(self, grace: float = 0.0) -> None:
        self._member.listening = False
        tasks = list(self._member.calls)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SimMember:
    """One member over its lives: its disk and its platter stay, the rest is new after a crash.

    `kill_at` is (a failpoint's name, how many hits until then): the process dies there, with the
    power if `kill_with_power`. `slowness` multiplies what its disk takes.
    """

    def __init__(self, cluster: SimCluster, name: str, settings: list[str]) -> None:
        self.cluster = cluster
        self.name = name
        self.settings = settings
        self.disk = SimDisk()
        self.disk.on_change = lambda number: cluster.journal.note("disk", name, number) and None
        self.disk.on_cut = lambda: self._die(power=True)
        self.platter = Platter()
        self.life = Life(name)
        self.life.alive = False
        self.down = True
        self.listening = False
        self.member: Member | None = None
        self.failure: BaseException | None = None
        self.number = 0
        self.calls: dict[asyncio.Task[None], None] = {}
        """Of clients, who wait for an answer that takes more than a call."""
        self.hits: dict[str, int] = {}
        self.kill_at: tuple[str, int] | None = None
        self.kill_with_power = False
        self.slowness = 1.0
        self.wall_offset = 0.0
        self.lives = 0

    @property
    def alive(self) -> bool:
        return self.life.alive

    @property
    def server(self) -> Server:
        """Of a process that has come as far as raft."""
        assert self.member is not None
        return self.member.server

    @property
    def serving(self) -> bool:
        """Whether the process has come as far as raft."""
        return self.alive and hasattr(self.member, "driver")

    def start(self) -> None:
        """Start a process on what is on the disk."""
        assert self.down, f"{self.name} runs"
        self.down = False
        self.life = Life(self.name)
        self.lives += 1
        self.member = self.failure = self.kill_at = None
        self.calls = {}
        loop = self.cluster.loop
        self.cluster.journal.note("start", self.name, self.lives)
        loop.create_task(self._run(), context=self.life.context())

    async def _run(self) -> None:
        life = self.life
        try:
            self.member = Member(self._config(), self._seams())
            await self.member.run()
        except Exception as error:
            self.failure = error
        if not life.alive:
            return
        life.alive = False
        self.listening = False
        cluster = self.cluster
        # This very task is the one that is not a leak.
        left = [str(task.get_coro()) for task in life.unfinished()[1:]]
        cluster.observer.ended(self, left)
        cluster.journal.note("end", self.name, type(self.failure).__name__)
        cluster.network.ended(self.number, told=True)
        cluster.later(self._buried, life, False)

    def crash(self, *, power: bool) -> None:
        """kill -9, or a power cut, which also takes from the disk what was not synced."""
        if self.alive:
            self._die(power=power)

    def _die(self, *, power: bool) -> None:
        self.cluster.journal.note("power cut" if power else "kill", self.name)
        life = self.life
        life.alive = False
        self.listening = False
        self.disk.off = True
        if self.member is not None:
            # Nobody is left who could close anything.
            self.member._close = _nothing  # type: ignore[method-assign]
        backend = getattr(self.member, "backend", None)
        if backend is not None:
            backend.abandon()
        self.cluster.network.ended(self.number, told=not power)
        self.cluster.later(self._buried, life, power)

    def _buried(self, life: Life, power: bool) -> None:
        """Whatever was running has stopped: what is left is the disk."""
        self.disk.off = True
        life.bury()
        self.disk.off = False
        random = self.cluster.random
        if power:
            self.disk.crash(random)
            self.platter.power_cut(random.randrange(len(self.platter.unsynced) + 1))
        else:
            self.disk.unlock()
        self.disk.cut_at = None
        self.down = True

    def call(self, method: Callable[..., Any], *args: Any) -> None:
        """As if a client's bytes had arrived: within the member's life, when that goes on."""
        self.cluster.loop.call_soon(method, *args, context=self.life.context())

    def spawn(self, coroutine: Callable[[], Coroutine[Any, Any, Any]], done: Any) -> None:
        """Run it within the member's life; `done` gets its result or its error."""
        loop = self.cluster.loop

        async def run() -> None:
            try:
                result = await coroutine()
            except Exception as error:
                result = error
            done(result)

        def begin() -> None:
            if not self.listening:
                return  # It was paused meanwhile, and stopped before it heard.
            task = loop.create_task(run())
            self.calls[task] = None
            task.add_done_callback(lambda task: self.calls.pop(task, None))

        self.call(begin)

    def opened(self, server: Server) -> None:
        self.number = server.member_id
        server.watches.store.limits = self.cluster.watch_limits
        self.cluster.observer.opened(self, server)

    # -- what it is built on

    def _config(self) -> NodeConfig:
        return load([f"--name={self.name}", f"--data-dir=/{self.name}", *self.settings], {})

    def _seams(self) -> Seams:
        cluster = self.cluster
        random, loop, disk = cluster.random, cluster.loop, self.disk

        def backend(path: str, **options: Any) -> SimBackend:
            return SimBackend(
                self.platter,
                disk,
                seconds=lambda: self._slowed(cluster.commit_seconds()),
                batch_seconds=options["batch_seconds"],
                on_commit=options["on_commit"],
                on_drained=options["on_drained"],
                hit=self._hit,
            )

        def wal_thread(wal: Any, _loop: Any, *, failed: Any, observe: Any) -> SimWal:
            return SimWal(wal, seconds=lambda: self._slowed(cluster.sync_seconds()), failed=failed)

        def transport(*, member: int, **_options: Any) -> SimTransport:
            return SimTransport(cluster.network, member, self.name)

        return Seams(
            hit=self._hit,
            disk=disk,
            wal=cluster.wal_files,
            jitter=random.randrange,
            wall_seconds=lambda: _WALL_SECONDS + self.wall_offset + loop.time(),
            backend=backend,
            wal_thread=wal_thread,
            transport=transport,
            copy_state=SimStateCopy,
            faults=faults_in(disk),
            find_place=self._find_place,
            members_known_to=self._members_known_to,
            face=partial(_Face, self),
            settle=lambda: None,
        )

    def _slowed(self, seconds: float) -> float:
        """What the disk takes."""
        return min(seconds * self.slowness, _STALL_SECONDS_MAX)

    def _hit(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1
        if self.kill_at is None or self.kill_at[0] != name:
            return
        left = self.kill_at[1] - 1
        self.kill_at = (name, left)
        if left <= 0 and self.alive:
            self.kill_at = None
            self.cluster.journal.note("kill at", self.name, name)
            self._die(power=self.kill_with_power)
            raise Killed(name)

    async def _find_place(self, config: NodeConfig, _tls: Any) -> Identity | None:
        """As `node.joining`, asking the members by hand."""
        if config.initial_cluster_state != "existing" or self.disk.exists(f"/{self.name}/member"):
            return None
        own = sorted(config.initial_cluster[config.name])
        for _ in range(_JOINING_TRIES):
            for other in self.cluster.members.values():
                known = other.server.members.list() if other is not self and other.serving else []
                for each in known:
                    if sorted(each.peerURLs) == own:
                        peers = [(m.ID, m.peerURLs) for m in known if m.ID != each.ID]
                        return Identity(each.ID, other.server.cluster_id, TOKEN, peers)
            await asyncio.sleep(_JOINING_PAUSE_SECONDS)
        raise BootstrapError("no member of the cluster knows this one")

    async def _members_known_to(self, urls: list[str], _tls: Any, _cluster: int) -> list[Any]:
        """As `node.joining` does it, of members that can be reached."""
        network, found = self.cluster.network, []
        await asyncio.sleep(network.latency(self.number, self.number))
        for other in self.cluster.living():
            both = (
                network.reaches(self.number, other.number),
                network.reaches(other.number, self.number),
            )
            if peer_url(other.name) in urls and all(both):
                found += other.server.members.list()
        return found


class SimCluster:
    """Members, their network, and what takes how long."""

    def __init__(
        self,
        loop: SimLoop,
        random: Random,
        journal: Journal,
        observer: Observer,
        *,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.loop = loop
        self.random = random
        self.journal = journal
        self.observer = observer
        self.network = Network(random, journal)
        sizes = {"segment_bytes": segment_bytes, "reserve_bytes": RESERVE_BYTES}
        self.wal_files = SimpleNamespace(
            create=partial(Wal.create, **sizes), open=partial(Wal.open, **sizes)
        )
        self.sync_seconds: Callable[[], float] = lambda: 0.002
        self.commit_seconds: Callable[[], float] = lambda: 0.005
        self.watch_limits: Limits = random.choice((Limits(), _SMALL_LIMITS, _SMALL_LIMITS))
        self.members: dict[str, SimMember] = {}

    def found(self, size: int, settings: list[str]) -> None:
        """The first members, not started yet."""
        names = [f"m{number}" for number in range(1, size + 1)]
        first = ",".join(f"{name}={peer_url(name)}" for name in names)
        for name in names:
            own = [*_own(name), f"--initial-cluster={first}", *settings]
            self.members[name] = SimMember(self, name, own)

    def joining(self, name: str, settings: list[str]) -> SimMember:
        """A member that was added under its peer URL, not started yet."""
        others = [member.name for member in self.members.values()]
        known = ",".join(f"{each}={peer_url(each)}" for each in (*others, name))
        place = [f"--initial-cluster={known}", "--initial-cluster-state=existing"]
        member = self.members[name] = SimMember(self, name, [*_own(name), *place, *settings])
        return member

    def later(self, method: Callable[..., Any], *args: Any) -> None:
        """When this turn is over, in no member's life."""
        self.loop.call_soon(method, *args, context=self.network.context)

    def living(self) -> list[SimMember]:
        """Who has come as far as raft."""
        return [member for member in self.members.values() if member.serving]

    @property
    def leader(self) -> SimMember | None:
        """Who believes to lead, of the highest term."""
        leaders = [member for member in self.living() if member.server.is_leader]
        return max(leaders, key=lambda member: member.server.raft_term, default=None)


async def _nothing() -> None:
    pass


def peer_url(name: str) -> str:
    return f"http://{name}:2380"


def _own(name: str) -> list[str]:
    return [
        f"--initial-advertise-peer-urls={peer_url(name)}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        f"--advertise-client-urls=http://{name}:2379",
        f"--initial-cluster-token={TOKEN}",
    ]
