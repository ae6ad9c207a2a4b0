"""Members that come and go: one that was away while others came, and is led by one of them when it
is back; and a leader that is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random

import pytest

from node.server import Server
from tests.simulation.journal import Journal
from tests.simulation.sim_cluster import SimCluster, SimMember, peer_url
from tests.simulation.sim_loop import SimLoop

SETTINGS = ["--heartbeat-interval=20", "--election-timeout=200", "--strict-reconfig-check=false"]


class Nobody:
    """Is told what happens, and does not care."""

    def opened(self, member: SimMember, server: Server) -> None:
        pass

    def ended(self, member: SimMember, left: list[str]) -> None:
        pass


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


async def added(cluster: SimCluster, name: str) -> SimMember:
    leader = cluster.leader
    assert leader is not None
    future: asyncio.Future[object] = cluster.loop.create_future()
    urls = [peer_url(name)]
    leader.spawn(lambda: leader.server.membership.add(urls, is_learner=False), future.set_result)
    result = await future
    assert not isinstance(result, Exception), result
    member = cluster.joining(name, SETTINGS)
    member.start()
    await until(lambda: member.serving and member.server.applied_index > 1)
    return member


async def leading(cluster: SimCluster, member: SimMember) -> None:
    leader = cluster.leader
    assert leader is not None
    leader.call(leader.server.driver.transfer_leader, member.number)
    await until(lambda: member.server.is_leader)


async def story(cluster: SimCluster) -> None:
    cluster.found(3, SETTINGS)
    for each in cluster.members.values():
        each.start()
    await until(lambda: cluster.leader and all(m.listening for m in cluster.members.values()))
    away = next(each for each in cluster.members.values() if each is not cluster.leader)
    away.crash(power=False)
    await until(lambda: away.down)
    newcomer = await added(cluster, "m4")
    await leading(cluster, newcomer)
    away.start()
    await until(lambda: away.serving and away.server.leader == newcomer.number)
    await until(lambda: away.server.applied_index == newcomer.server.applied_index)
    for each in cluster.members.values():
        each.crash(power=False)
    await asyncio.sleep(0)


async def farewell(cluster: SimCluster) -> None:
    """It is gone for good as soon as it leads no more."""
    cluster.found(2, SETTINGS)
    for each in cluster.members.values():
        each.start()
    await until(lambda: cluster.leader and all(m.listening for m in cluster.members.values()))
    leader = cluster.leader
    assert leader is not None
    (other,) = (each for each in cluster.members.values() if each is not leader)
    other.slowness = 20.0
    leader.spawn(lambda: leader.server.membership.remove(leader.number), lambda _: None)
    while leader.alive and leader.server.is_leader:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.0001)
    leader.crash(power=True)
    await until(lambda: other.server.is_leader)
    assert [each.ID for each in other.server.members.list()] == [other.number]
    other.crash(power=False)
    await asyncio.sleep(0)


@pytest.mark.parametrize("tell", [story, farewell])
def test_it_ends_well(tell: Callable[[SimCluster], Coroutine[None, None, None]]) -> None:
    loop = SimLoop()
    cluster = SimCluster(loop, Random(1), Journal(loop.time), Nobody())
    try:
        loop.run_until_complete(tell(cluster))
    finally:
        loop.close()
    assert not loop.errors
