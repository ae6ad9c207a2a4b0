"""Drivers among themselves: real WALs, a network in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType
from raft.core.types import Role

from .driver_fixture import Machine, StartNode, eventually


async def test_three_members_elect_and_replicate(start_node: StartNode, tmp_path: Path) -> None:
    nodes = [await start_node(member, path=tmp_path / str(member)) for member in (1, 2, 3)]
    await eventually(lambda: any(node.leads for node in nodes))
    await eventually(lambda: all(node.driver.leader for node in nodes))
    leader = next(node for node in nodes if node.leads)
    follower = next(node for node in nodes if not node.leads)
    await leader.propose(b"one", b"two")
    await follower.propose(b"three")
    await eventually(lambda: all(len(node.machine.lines) == 3 for node in nodes))
    assert all(node.machine.lines == [b"one", b"two", b"three"] for node in nodes)
    assert leader.machine.roles[-1][0] == (leader.member, Role.LEADER)
    follower.driver.read_index(5)
    await eventually(lambda: follower.machine.reads)
    assert follower.machine.reads[0][0] == 5


async def test_restart_from_the_log(start_node: StartNode, tmp_path: Path) -> None:
    node = await start_node(1, (1,), path=tmp_path / "1", snapshot_count=10, catch_up_entries=5)
    await eventually(lambda: node.leads)
    await node.propose(*[b"line %d" % i for i in range(30)])
    node.driver.checkpoint(20)
    term = node.driver.term
    # The machine restarts from what it had on disk: the first 20 entries.
    machine = Machine()
    machine.lines, machine.index = node.machine.lines[:19], 20
    expected, node.machine = list(node.machine.lines), machine
    await node.restart()
    await eventually(lambda: node.leads and node.machine.lines == expected)
    assert machine.batches[0][0] == 21
    assert node.driver.term > term
    assert node.driver._storage.first_index() == 21


async def test_group_commit(start_node: StartNode, tmp_path: Path) -> None:
    node = await start_node(1, (1,), path=tmp_path / "1")
    await eventually(lambda: node.leads)
    await node.propose(b"first")
    syncs = node.syncs
    await node.propose(*[b"line %d" % i for i in range(500)])
    assert node.syncs == syncs + 1


async def test_lagging_member_gets_a_snapshot(start_node: StartNode, tmp_path: Path) -> None:
    # Slow ticks: a busy machine must not cost the leader its office in the middle of the story.
    options = {"snapshot_count": 10, "catch_up_entries": 2, "tick_seconds": 0.05}
    nodes = [await start_node(m, path=tmp_path / str(m), **options) for m in (1, 2, 3)]
    await eventually(lambda: any(node.leads for node in nodes))
    leader = next(node for node in nodes if node.leads)
    lagging = next(node for node in nodes if not node.leads)
    await leader.propose(b"first")
    await eventually(lambda: lagging.machine.lines)
    network = leader.network
    network.cut.add(lagging.member)
    await leader.propose(*[b"line %d" % i for i in range(40)])
    for node in nodes:
        if node is not lagging:
            await eventually(lambda node=node: node.machine.index == leader.machine.index)
            node.driver.checkpoint(node.machine.index)
    assert leader.driver._storage.first_index() > lagging.machine.index + 1
    lagging.machine.install_gate = asyncio.Event()
    network.cut.clear()
    await eventually(lambda: network.snapshots)
    await leader.propose(b"after")
    assert lagging.machine.installed == []
    assert lagging.machine.lines == [b"first"]
    lagging.machine.install_gate.set()
    await eventually(lambda: lagging.machine.lines == leader.machine.lines)
    assert lagging.machine.installed != []
    assert lagging.driver.counters.snapshots_installed == len(lagging.machine.installed)
    # While one is on its way and a while after, the entries behind it stay.
    first = leader.driver._storage.first_index()
    await leader.propose(*[b"more %d" % i for i in range(30)])
    leader.driver.checkpoint(leader.machine.index)
    assert leader.driver._storage.first_index() == first
    # What it was given survives a restart, and so does what followed.
    await eventually(lambda: lagging.machine.lines == leader.machine.lines)
    lagging.machine.install_gate = None
    await lagging.restart()
    await leader.propose(b"last")
    await eventually(lambda: lagging.machine.lines == leader.machine.lines)


async def test_snapshot_that_cannot_be_opened_is_tried_again(
    start_node: StartNode, tmp_path: Path
) -> None:
    options = {"snapshot_count": 5, "catch_up_entries": 0, "tick_seconds": 0.05}
    nodes = [await start_node(m, path=tmp_path / str(m), **options) for m in (1, 2, 3)]
    await eventually(lambda: any(node.leads for node in nodes))
    leader = next(node for node in nodes if node.leads)
    lagging = next(node for node in nodes if not node.leads)
    leader.network.cut.add(lagging.member)
    await leader.propose(*[b"line %d" % i for i in range(20)])
    leader.driver.checkpoint(leader.machine.index)
    leader.machine.no_snapshot = True
    leader.network.cut.clear()
    await eventually(lambda: leader.driver._checkpoints._paused_until)
    leader.machine.no_snapshot = False
    await eventually(lambda: lagging.machine.lines == leader.machine.lines)


async def test_leadership_can_be_handed_over(start_node: StartNode, tmp_path: Path) -> None:
    nodes = [await start_node(member, path=tmp_path / str(member)) for member in (1, 2, 3)]
    await eventually(lambda: any(node.leads for node in nodes))
    leader = next(node for node in nodes if node.leads)
    target = next(node for node in nodes if not node.leads)
    await leader.propose(b"line")
    leader.driver.transfer_leader(target.member)
    await eventually(lambda: target.leads)


async def test_a_leader_that_is_gone_is_replaced_within_ticks(
    start_node: StartNode, tmp_path: Path
) -> None:
    ticks = 0.02
    nodes = [await start_node(m, path=tmp_path / str(m), tick_seconds=ticks) for m in (1, 2, 3)]
    await eventually(lambda: all(node.driver.leader for node in nodes))
    leader = next(node for node in nodes if node.leads)
    others = [node for node in nodes if node is not leader]
    leader.network.cut.add(leader.member)
    started = asyncio.get_running_loop().time()
    term = leader.driver.term
    for node in others:
        for member in (1, 2, 3):
            node.driver.gone(member)
        assert node.machine.leaders_gone == [term]
    await eventually(lambda: any(node.leads for node in others))
    # An election timeout is 10 to 20 ticks; what is measured here is two, and the disk.
    assert asyncio.get_running_loop().time() - started < 9 * ticks


async def test_member_is_added_and_catches_up(start_node: StartNode, tmp_path: Path) -> None:
    one = await start_node(1, (1,), path=tmp_path / "1")
    await eventually(lambda: one.leads)
    await one.propose(b"line")
    two = await start_node(2, (1,), path=tmp_path / "2")
    one.driver.propose_conf_change(ConfChange([ConfChangeSingle(ConfChangeType.ADD_VOTER, 2)]))
    await eventually(lambda: two.machine.lines == [b"line"])
    await eventually(lambda: two.driver.conf_state.voters == (1, 2))
    await two.propose(b"by two")
    assert one.driver.conf_state.voters == (1, 2)
