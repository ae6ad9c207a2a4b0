"""The nemesis: what goes wrong, when, and for how long; and the keeper, who starts what died.

Faults keep to what the members promise to survive: a member whose disk is damaged is one of a
minority, and is removed and replaced when it refuses to start.
"""

from __future__ import annotations

import asyncio
import errno
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import Any

from node.apply.errors import NotNow, RequestError
from node.apply.requests import CLUSTER, AlarmAction, AlarmRequest, AlarmType, RangeRequest
from node.bootstrap import BootstrapError
from node.failpoint import FAILPOINTS
from node.server import Server
from raft.wal import WalError
from tests.simulation.history import History, Violation
from tests.simulation.sim_cluster import SimCluster, SimMember, peer_url
from tests.simulation.sim_network import LinkFaults
from tests.simulation.swarm import Options
from tests.simulation.workload import LOST, Client, KvClient, Lessee

_KEEPER_SECONDS = 0.1
_MEMBERS_MAX = 9
_ROOM = 1 << 40


class Nemesis:
    """`done` counts faults by kind. A *broken* member's disk is not what it wrote: it may refuse to
    start for good, and then another takes its place.
    """

    def __init__(
        self, cluster: SimCluster, history: History, random: Random, options: Options
    ) -> None:
        self.cluster = cluster
        self.history = history
        self.random = random
        self.options = options
        self.done: Counter[str] = Counter()
        self.healing = False
        self._client = KvClient(cluster, history, random, "nemesis", options)
        self._lessee = Lessee(cluster, history, random, "nl", options)
        self._admin = Client(cluster, history, random, "admin")
        self._restart_at: dict[str, float] = {}
        self._hurt: dict[str, str] = {}
        self._broken: dict[str, None] = {}
        self._retired: dict[str, None] = {}
        self._to_be_removed: dict[str, None] = {}
        self._asked_to_stop: dict[str, None] = {}
        self._made = options.members
        self._churn_at = 0.0
        self._clients = 0

    async def run(self) -> None:
        """One fault after the other, sometimes two at once, until cancelled."""
        kinds = list(self.options.faults)
        weights = list(self.options.faults.values())
        async with asyncio.TaskGroup() as tasks:
            while kinds:
                await asyncio.sleep(self.options.pause * 2 * self.random.random())
                (kind,) = self.random.choices(kinds, weights)
                tasks.create_task(self._do(kind))

    async def _do(self, kind: str) -> None:
        method: Callable[[], Awaitable[Any]] = getattr(self, "_" + kind.replace(" ", "_"))
        self.history.journal.note("fault", "nemesis", kind)
        if await method() is not False:
            self.done[kind] += 1

    # -- processes

    def _some(self, members: Iterable[SimMember] | None = None) -> SimMember | None:
        """A living member; the leader more often than others."""
        living = list(self.cluster.living() if members is None else members)
        leader = self.cluster.leader
        if leader in living and self.random.random() < 0.3:
            return leader
        return self.random.choice(living) if living else None

    async def _end(self, *, power: bool) -> Any:
        member = self._some()
        if member is None:
            return False
        member.crash(power=power)
        return None

    def _kill(self) -> Awaitable[Any]:
        return self._end(power=False)

    def _power_cut(self) -> Awaitable[Any]:
        return self._end(power=True)

    async def _blackout(self) -> None:
        """All at once, with or without the power."""
        power = self.random.random() < 0.5
        for member in self.cluster.living():
            member.crash(power=power)

    async def _die_at(self) -> Any:
        member = self._some()
        if member is None:
            return False
        met = sorted({name for each in self.cluster.members.values() for name in each.hits})
        rare = [name for name in met if not name.startswith(("apply.", "wal.", "backend."))]
        name = self.random.choice(self.random.choice((met, rare)) or list(FAILPOINTS))
        member.kill_with_power = self.random.random() < 0.5
        member.kill_at = (name, self.random.choice((1, 1, 3, 10)))
        return None

    async def _die_in_a_write(self) -> Any:
        member = self._some()
        if member is None:
            return False
        member.disk.cut_at = member.disk.operations + self.random.randint(0, 40)
        return None

    async def _pause(self) -> Any:
        member = self._some()
        if member is None:
            return False
        member.life.freeze(self.cluster.loop.time() + self.random.choice((0.1, 0.5, 2.0, 6.0)))
        return None

    async def _stop(self) -> Any:
        member = self._some()
        if member is None or member.member is None:
            return False
        self._asked_to_stop[member.name] = None
        member.call(member.member.stop)
        return None

    # -- the network

    def _ids(self) -> list[int]:
        return [member.number for member in self.cluster.members.values()]

    async def _cut(self, links: list[tuple[int, int]], seconds: float) -> None:
        network = self.cluster.network
        for link in links:
            network.cut_link(*link)
        self.history.journal.note("cut", "network", links)
        await asyncio.sleep(seconds)
        for link in links:
            network.cut.discard(link)

    def _seconds(self) -> float:
        return self.random.choice((0.1, 0.5, 1.0, 4.0))

    def _halves(self) -> list[tuple[int, int]]:
        ids = self._ids()
        side = self.random.sample(ids, self.random.randint(1, max(1, len(ids) - 1)))
        leader = self.cluster.leader
        if leader is not None and self.random.random() < 0.4:
            side = [leader.number]
        return [(a, b) for a in ids for b in ids if (a in side) != (b in side)]

    async def _partition(self) -> None:
        await self._cut(self._halves(), self._seconds())

    async def _one_way(self) -> None:
        links = self._halves()
        kept = self.random.sample(links, self.random.randint(0, len(links) // 2))
        await self._cut([link for link in links if link not in kept], self._seconds())

    async def _flapping(self) -> None:
        links = self._halves()
        for _ in range(self.random.randint(2, 6)):
            await self._cut(links, 0.3 * self.random.random())
            await asyncio.sleep(0.3 * self.random.random())

    async def _clog(self) -> None:
        network, link = self.cluster.network, self.random.choice(self._halves() or [(0, 0)])
        network.clogged[link] = self.random.choice((0.05, 0.3, 1.0))
        await asyncio.sleep(self._seconds())
        network.clogged.pop(link, None)

    def _a_client(self, timeout: float) -> KvClient:
        """Who writes what nobody else writes."""
        self._clients += 1
        name = f"nemesis-{self._clients}"
        client = KvClient(self.cluster, self.history, self.random, name, self.options)
        client.timeout = timeout
        return client

    def _around(self, member: SimMember) -> list[tuple[int, int]]:
        """All links to and from it."""
        own = member.number
        return [link for n in self._ids() if n != own for link in ((own, n), (n, own))]

    async def _depose(self) -> Any:
        """Another leads, and the old leader cannot know: it is cut off, or was paused as well. What
        it still says to clients must not be older than what others were told meanwhile.
        """
        leader = self.cluster.leader
        others = [each for each in self.cluster.living() if each is not leader]
        if leader is None or len(others) < 2:
            return False
        paused = self.random.choice((0.0, 0.0, 0.5, 2.0, 3.0))
        lease = await self._lessee.grant(leader, 2)
        number = getattr(lease, "ID", 0)
        async with asyncio.TaskGroup() as tasks:
            cut = tasks.create_task(self._cut(self._around(leader), paused + 2.0))
            if paused:
                leader.life.freeze(self.cluster.loop.time() + paused)
            # Who asks a member that still waits for the old leader shall not wait with it.
            writer = self._a_client(0.1)
            while not cut.done():
                written = await writer._put(self.random.choice(others))
                if hasattr(written, "revision"):
                    reader = self._a_client(paused + 0.3)
                    tasks.create_task(reader._read(leader, RangeRequest(b"k00")))
                    tasks.create_task(self._lessee.renew(leader, number))
                await asyncio.sleep(0.1)
        return None

    async def _leave_behind(self) -> Any:
        """A follower that lives, and is cut off until the log that it lacks may be gone."""
        leader = self.cluster.leader
        member = self._some(each for each in self.cluster.living() if each is not leader)
        if leader is None or member is None:
            return False
        async with asyncio.TaskGroup() as tasks:
            cut = tasks.create_task(self._cut(self._around(member), 4.0))
            writer = self._a_client(1.0)
            while not cut.done():
                await writer._put(leader)
                await asyncio.sleep(0.04)
        return None

    # -- disks

    async def _slow_disk(self) -> Any:
        member = self._some()
        if member is None:
            return False
        member.slowness = self.random.choice((5.0, 50.0, 500.0))
        await asyncio.sleep(self._seconds())
        member.slowness = 1.0
        return None

    def _hurt_disk(self, what: str) -> SimMember | None:
        member = self._some()
        if member is not None:
            self._hurt[member.name] = what
        return member

    async def _sync_error(self) -> Any:
        member = self._hurt_disk("sync error")
        if member is None:
            return False
        member.disk.sync_error = errno.EIO
        return None

    async def _write_error(self) -> Any:
        member = self._hurt_disk("write error")
        if member is None:
            return False
        member.disk.write_error = errno.EIO
        await asyncio.sleep(self._seconds())
        member.disk.write_error = None
        return None

    async def _no_space(self) -> Any:
        member = self._hurt_disk("no space")
        if member is None:
            return False
        member.disk.free = self.random.choice((0, 100, 20_000))
        await asyncio.sleep(self._seconds())
        member.disk.free = _ROOM
        return None

    async def _damage(self) -> Any:
        """Flip bits of the log or of received snapshots of a member that is down, one of a
        minority.
        """
        listed = self.cluster.leader.server.members.list() if self.cluster.leader else []
        voters = [each.ID for each in listed if not each.isLearner]
        followers = [
            each
            for each in self.cluster.living()
            if each.number in voters and not each.server.is_leader
        ]
        member = self._some(followers)
        if self._broken or member is None or len(voters) < 3 or len(followers) < len(voters) - 1:
            return False
        if any(name in self.cluster.members for name in self._to_be_removed):
            return False  # One may go yet, and with it the majority.
        self._broken[member.name] = None
        member.crash(power=self.random.random() < 0.5)
        await asyncio.sleep(0.01)
        if not member.down:
            return False
        disk = member.disk
        files = [f for f in disk.files_below(f"/{member.name}/member") if disk.size(f)]
        for _ in range(self.random.choice((1, 1, 3))):
            path = self.random.choice(files)
            offset = self.random.randrange(disk.size(path))
            self.history.journal.note("flip", member.name, path, offset)
            disk.flip(path, offset, self.random.randrange(8))
        return None

    # -- operators

    def _at(
        self, member: SimMember, name: str, call: Callable[[Server], Awaitable[Any]]
    ) -> Awaitable[Any]:
        """An operator's call at one member."""

        async def asked() -> Any:
            result = await self._admin.call(
                member,
                lambda server, done: member.spawn(lambda: call(server), done),  # type: ignore[arg-type, return-value]
            )
            told = "lost" if result is LOST else f"{type(result).__name__} {result}"
            self.history.journal.note("operator", member.name, name, told)
            return result

        return asked()

    async def _transfer(self) -> Any:
        leader = self.cluster.leader
        if leader is None:
            return False
        voters = [m.ID for m in leader.server.members.list() if not m.isLearner]
        target = self.random.choice(voters or [0])
        return await self._at(
            leader, "transfer", lambda server: server.maintenance.transfer_leadership(target)
        )

    async def _defragment(self) -> Any:
        member = self._some()
        if member is None:
            return False
        await self._at(member, "defragment", lambda server: server.maintenance.defragment())
        return None

    async def _compact(self) -> Any:
        """Now and then right at a deletion, which must not be forgotten then."""
        member = self._some()
        if member is None:
            return False
        if self.random.random() < 0.3:
            await self._client._delete(member)
        self._client._revision = member.server.store.current_rev
        await self._client.compact(member, physical=self.random.random() < 0.3)
        return None

    async def _grow(self) -> Any:
        """Add a member, or remove one when there are many."""
        if self._broken:
            return False
        members = list(self.cluster.members)
        if len(members) >= min(_MEMBERS_MAX, self.options.members + 2):
            return await self._remove(self.random.choice(members))
        await self._add()
        return None

    async def _replace(self) -> Any:
        """Remove one and add another."""
        if self._broken or len(self.cluster.members) < 3:
            return False
        if await self._remove(self.random.choice(list(self.cluster.members))) is False:
            return False
        await self._add()
        return None

    async def _add(self) -> None:
        member = self._some()
        if member is None:
            return
        self._made += 1
        url = peer_url(f"m{self._made}")
        learner = self.random.random() < 0.7
        await self._at(
            member, "add", lambda server: server.membership.add([url], is_learner=learner)
        )

    async def _remove(self, name: str) -> Any:
        member, victim = self._some(), self.cluster.members[name]
        if member is None or not victim.number:
            return False
        self._to_be_removed[name] = None
        result = await self._at(
            member, "remove", lambda server: server.membership.remove(victim.number)
        )
        if isinstance(result, RequestError | NotNow):
            self._to_be_removed.pop(name, None)
        return not isinstance(result, Exception) and result is not LOST

    # -- the keeper

    async def keep(self) -> None:
        """Start again what has ended, start who was added, promote who has caught up."""
        while True:
            await asyncio.sleep(_KEEPER_SECONDS)
            now = self.cluster.loop.time()
            for member in list(self.cluster.members.values()):
                if member.down and member.name not in self._retired:
                    self._keep_one(member, now)
            if now >= self._churn_at:
                self._churn_at = now + 0.5
                await self._follow_membership()

    def _keep_one(self, member: SimMember, now: float) -> None:
        if isinstance(member.failure, WalError | BootstrapError) and member.name in self._broken:
            # It refuses to start, as it must: the next look at the membership replaces it.
            return
        due = self._restart_at.setdefault(member.name, now + self._downtime())
        if now >= due or self.healing:
            del self._restart_at[member.name]
            self._repair(member)
            member.wall_offset = self.random.choice((0.0, -3.0, 5.0))
            member.start()

    def _downtime(self) -> float:
        return self.random.choice((0.0, 0.1, 0.5, 3.0))

    def _repair(self, member: SimMember) -> None:
        disk = member.disk
        disk.sync_error = disk.write_error = None
        disk.free = _ROOM
        member.slowness = 1.0
        self._hurt.pop(member.name, None)
        self._asked_to_stop.pop(member.name, None)

    async def _follow_membership(self) -> None:
        """Start who was added; retire who was removed; promote; replace who is broken."""
        # Without the one that was added there may be no leader: whoever knows most will do.
        living = self.cluster.living()
        leader = self.cluster.leader or max(
            living, key=lambda member: member.server.applied_index, default=None
        )
        if leader is None:
            return
        present = leader.server.members.list()
        urls = {each.peerURLs[0] for each in present}
        for each in present:
            name = each.peerURLs[0].removeprefix("http://").removesuffix(":2380")
            if name not in self.cluster.members and name not in self._retired:
                self.cluster.joining(name, self.options.settings).start()
        for member in list(self.cluster.members.values()):
            if leader.server.members.is_removed(member.number) or (
                member.lives and not member.number and peer_url(member.name) not in urls
            ):
                self._retire(member)
        for name in list(self._broken):
            broken = self.cluster.members.get(name)
            if broken is None:
                del self._broken[name]
                await self._add()
            elif broken.down and isinstance(broken.failure, WalError | BootstrapError):
                self.done["refused to start"] += 1
                await self._remove(name)
            elif broken.serving and self.healing:
                del self._broken[name]
        learners = [each for each in present if each.isLearner]
        if learners and self.random.random() < 0.5:
            number = learners[0].ID
            await self._at(leader, "promote", lambda server: server.membership.promote(number))

    def _retire(self, member: SimMember) -> None:
        """Removed for good. Its process may not know yet."""
        self.history.journal.note("retire", member.name)
        self._retired[member.name] = None
        member.crash(power=False)
        del self.cluster.members[member.name]

    def explains(self, member: SimMember) -> None:
        """A process has ended by itself: Violation unless something was done to it."""
        failure, name = member.failure, member.name
        if failure is None:
            number = member.number
            removed = any(
                each.server.members.is_removed(number) for each in self.cluster.living()
            ) or (member.member is not None and member.server.members.is_removed(number))
            if name not in self._asked_to_stop and not removed:
                raise Violation(f"{name} ended by itself")
            return
        hurt = name in self._hurt and isinstance(failure, WalError | OSError)
        damaged = name in self._broken and isinstance(failure, WalError | BootstrapError)
        left_out = "no member of the cluster" in str(failure)
        if not (hurt or damaged or left_out):
            where = "".join(traceback.format_exception(failure))
            raise Violation(f"{name} ended: {failure!r}\n{where}")

    # -- healing

    def heal(self) -> None:
        """Nothing goes wrong from here on."""
        self.healing = True
        network = self.cluster.network
        network.heal()
        network.faults = LinkFaults()
        for member in self.cluster.members.values():
            member.kill_at = None
            if not member.down:
                member.disk.cut_at = None
            member.slowness = 1.0
            member.disk.sync_error = member.disk.write_error = None
            member.disk.free = _ROOM

    def ask_to_stop(self, member: SimMember) -> None:
        """For good."""
        self._asked_to_stop[member.name] = None
        self._retired[member.name] = None
        assert member.member is not None
        member.call(member.member.stop)

    async def clear_alarms(self) -> None:
        """Free space, then lift the alarm, as an operator would."""
        leader = self.cluster.leader
        if leader is None:
            return
        for each in leader.server.alarms.get(AlarmType.NOSPACE):
            await asyncio.gather(
                *(
                    self._at(member, "defragment", lambda s: s.maintenance.defragment())
                    for member in self.cluster.living()
                )
            )
            request = AlarmRequest(AlarmAction.DEACTIVATE, each.memberID, each.alarm)
            await self._at(leader, "disarm", lambda s, r=request: s.call(s.propose, r, CLUSTER))
