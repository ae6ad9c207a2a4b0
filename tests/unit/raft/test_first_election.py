"""The start: who reaches a quorum and hears no leader does not wait a whole election timeout."""

from __future__ import annotations

from pathlib import Path

import pytest

from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType
from raft.core.errors import ProposalDropped
from raft.core.message import MessageType
from raft.core.types import Role

from .core_fixture import ELECTION_TICKS, Core, of_type
from .driver_fixture import StartNode, eventually


@pytest.mark.parametrize("jitter", [0, 1, ELECTION_TICKS - 1])
def test_only_the_random_part_is_waited_for(jitter: int) -> None:
    core = Core(jitter=jitter)
    core.node.hasten_election()
    assert core.tick(jitter) == []
    assert of_type(core.tick(), MessageType.PRE_VOTE)


def test_a_leader_that_was_heard_is_not_hurried() -> None:
    core = Core(jitter=0)
    core.step(MessageType.HEARTBEAT, 2, 1)
    core.node.hasten_election()
    core.tick(ELECTION_TICKS - 1)
    assert core.role == Role.FOLLOWER


def test_whoever_hastens_deposes_nobody() -> None:
    """A member that comes back to a live leader asks for pre-votes, and those who hear the leader
    refuse; it follows at the leader's next heartbeat, in the same term.
    """
    core, follower = Core(jitter=0, terms=(1,)), Core(jitter=0, terms=(1,))
    core.node.hasten_election()
    (asked, _) = of_type(core.tick(), MessageType.PRE_VOTE)
    follower.step(MessageType.HEARTBEAT, 3, 1)
    follower.step(MessageType.PRE_VOTE, 2, asked.term, index=asked.index, log_term=asked.log_term)
    assert (follower.term, follower.node.status().leader) == (1, 3)
    core.step(MessageType.HEARTBEAT, 3, 1)
    assert (core.role, core.term) == (Role.FOLLOWER, 1)


async def test_nobody_hastens_without_a_quorum(start_node: StartNode, tmp_path: Path) -> None:
    node = await start_node(1, path=tmp_path / "1")
    await eventually(lambda: node.driver.counters.ticks > 3)
    assert node.driver._hastens
    node.transport.since[3] = 0.0
    await eventually(lambda: not node.driver._hastens)


async def test_a_leader_takes_one_change_of_the_configuration_at_a_time(
    start_node: StartNode, tmp_path: Path
) -> None:
    """The second would be an empty entry in the log, and its proposer would wait in vain."""
    node = await start_node(1, (1,), path=tmp_path / "1")
    await eventually(lambda: node.leads and not node.driver._node.conf_change_pending())
    change = ConfChange([ConfChangeSingle(ConfChangeType.ADD_LEARNER, 2)])
    node.driver.propose_conf_change(change)
    with pytest.raises(ProposalDropped, match="not applied yet"):
        node.driver.propose_conf_change(change)
