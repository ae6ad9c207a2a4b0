"""Members of one simulated cluster: the real `node.member.Member` on simulated seams."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

from node.bootstrap import Identity
from node.config import NodeConfig, load
from node.member import Member
from node.seams import Seams
from raft.wal import Wal
from tests.faulty_disk import FaultyDisk
from tests.simulation.sim_backend import Platter, SimBackend, SimStateCopy, faults_in
from tests.simulation.sim_loop import Life, SimLoop
from tests.simulation.sim_network import Network, SimTransport
from tests.simulation.sim_wal import SimWal

TOKEN = "simulated"
SEGMENT_BYTES = 16 << 10
RESERVE_BYTES = 4 << 10
"""Of the log: small, so that segments are cut and released in every run."""


class NoFace:
    """Clients call the server; nobody listens."""

    def __init__(self, server: Any, metrics: Any) -> None:
        pass

    async def start(self, *args: Any, **kwargs: Any) -> None:
        pass

    async def stop(self, grace: float = 0.0) -> None:
        pass


class SimMember:
    """One member over its lives: its disk and its platter stay, the rest is new after a crash."""

    def __init__(self, cluster: SimCluster, name: str, settings: list[str]) -> None:
        self.cluster = cluster
        self.name = name
        self.settings = settings
        self.disk = FaultyDisk()
        self.platter = Platter()
        self.life = Life(name)
        self.life.alive = False
        self.member: Member | None = None
        self.ended: BaseException | None = None
        self.hits: dict[str, int] = {}
        self.on_hit: Callable[[SimMember, str], None] = lambda member, name: None

    @property
    def alive(self) -> bool:
        return self.life.alive

    @property
    def serving(self) -> bool:
        """Whether the process has come as far as raft."""
        return self.alive and hasattr(self.member, "driver")

    def start(self) -> None:
        """Start a process on what is on the disk."""
        assert not self.life.alive, f"{self.name} runs"
        self.life = Life(self.name)
        self.ended = None
        loop = self.cluster.loop
        loop.create_task(self._run(), context=self.life.context())  # type: ignore[call-arg]

    async def _run(self) -> None:
        life = self.life
        try:
            self.member = Member(self._config(), self._seams())
            await self.member.run()
        except Exception as error:
            self.ended = error
        life.alive = False
        self.cluster.member_ended(self)

    def crash(self, random: Random, *, power: bool) -> None:
        """kill -9, or a power cut, which also takes from the disk what was not synced."""
        self.life.alive = False
        endpoints = self.cluster.network.endpoints
        for member, endpoint in list(endpoints.items()):
            if endpoint.name == self.name:
                del endpoints[member]
        if power:
            self.disk.crash(random)
            self.platter.power_cut(random.randrange(len(self.platter.unsynced) + 1))
        else:
            self.platter.sync()
            self.disk.unlock()

    def call(self, method: Callable[..., Any], *args: Any) -> Any:
        """As if a client's bytes had arrived: within the member's life."""
        return self.life.context().run(method, *args)

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
                seconds=cluster.commit_seconds,
                batch_seconds=options["batch_seconds"],
                on_commit=options["on_commit"],
                on_drained=options["on_drained"],
                hit=self._hit,
            )

        def wal_thread(wal: Any, _loop: Any, *, failed: Any, observe: Any) -> SimWal:
            return SimWal(wal, seconds=cluster.sync_seconds, failed=failed)

        def transport(*, member: int, **_options: Any) -> SimTransport:
            return SimTransport(cluster.network, member, self.name)

        return Seams(
            hit=self._hit,
            disk=disk,
            wal=cluster.wal_files,
            jitter=random.randrange,
            wall_seconds=lambda: 1.7e9 + loop.time(),
            backend=backend,
            wal_thread=wal_thread,
            transport=transport,
            copy_state=SimStateCopy,
            faults=faults_in(disk),
            find_place=self._find_place,
            face=NoFace,
            settle=lambda: None,
        )

    def _hit(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1
        self.on_hit(self, name)

    async def _find_place(self, config: NodeConfig, _tls: Any) -> Identity | None:
        """As `node.joining`, asking the members by hand."""
        if config.initial_cluster_state != "existing" or self.disk.exists(f"/{self.name}/member"):
            return None
        own = sorted(config.initial_cluster[config.name])
        for other in self.cluster.members.values():
            if other is self or not other.alive or other.member is None:
                continue
            server = getattr(other.member, "server", None)
            known = server.members.list() if server is not None else []
            for member in known:
                if sorted(member.peerURLs) == own:
                    peers = [(m.ID, m.peerURLs) for m in known if m.ID != member.ID]
                    return Identity(member.ID, server.cluster_id, TOKEN, peers)
        raise OSError("no member of the cluster answers")


class SimCluster:
    """Members, their network, and what takes how long."""

    def __init__(self, loop: SimLoop, random: Random, size: int, settings: list[str]) -> None:
        self.loop = loop
        self.random = random
        self.network = Network(random)
        sizes = {"segment_bytes": SEGMENT_BYTES, "reserve_bytes": RESERVE_BYTES}
        self.wal_files = SimpleNamespace(
            create=partial(Wal.create, **sizes), open=partial(Wal.open, **sizes)
        )
        self.sync_seconds: Callable[[], float] = lambda: 0.002
        self.commit_seconds: Callable[[], float] = lambda: 0.005
        self.ended: list[tuple[str, BaseException | None]] = []
        names = [f"m{number}" for number in range(1, size + 1)]
        first = ",".join(f"{name}=http://{name}:2380" for name in names)
        self.members = {
            name: SimMember(self, name, [*_own(name), f"--initial-cluster={first}", *settings])
            for name in names
        }

    def start(self) -> None:
        for member in self.members.values():
            member.start()

    def member_ended(self, member: SimMember) -> None:
        """A process ended by itself: stopped, removed, or failed."""
        self.ended.append((member.name, member.ended))

    @property
    def leader(self) -> SimMember | None:
        """Who believes to lead, of the highest term."""
        leaders = [
            member
            for member in self.members.values()
            if member.alive and member.serving and member.member.server.is_leader  # type: ignore[union-attr]
        ]
        return max(leaders, key=lambda m: m.member.server.raft_term, default=None)  # type: ignore[union-attr]


def _own(name: str) -> list[str]:
    return [
        f"--initial-advertise-peer-urls=http://{name}:2380",
        "--listen-peer-urls=http://127.0.0.1:2380",
        f"--advertise-client-urls=http://{name}:2379",
        f"--initial-cluster-token={TOKEN}",
    ]
