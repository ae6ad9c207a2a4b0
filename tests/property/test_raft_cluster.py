"""Safety under every fault a seed brings, then liveness once the faults are over."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.raft_cluster import World

ROUNDS_MAX = 60
"""Election timeouts are below 10 ticks: several elections, and a snapshot for whoever needs it."""


def run(seed: int, steps: int) -> World:
    world = World(seed)
    for step in range(steps):
        world.step()
        if step % 100 == 0:
            world.check_logs()
    world.check_logs()
    return world


def converge(world: World) -> None:
    """A leader, and everybody in the configuration applies what is proposed to it."""
    world.heal()
    for _ in range(ROUNDS_MAX):
        world.round()
        leader = world.leader()
        if leader is None:
            continue
        status = leader.core.status()
        if status.conf_state.voters_outgoing and not status.conf_state.auto_leave:
            continue
        members = (*status.conf_state.voters, *status.conf_state.learners)
        applied = [world.members[member].applied for member in members]
        if min(applied) == status.last_index and not status.lead_transferee:
            break
    leader = world.leader()
    assert leader is not None, "no leader after the faults are over"
    leader.core.propose([b"at last"])
    for _ in range(ROUNDS_MAX):
        world.round()
    status = leader.core.status()
    assert world.judge.committed[status.commit].index == status.last_index
    assert b"at last" in [entry.data for entry in world.judge.committed.values()]
    for member in (*status.conf_state.voters, *status.conf_state.learners):
        assert world.members[member].applied == status.commit, f"{member} is behind"
    world.check_logs()


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_safety_and_liveness(seed: int) -> None:
    converge(run(seed, 2000))


@pytest.mark.slow
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=300, deadline=None)
def test_safety_and_liveness_at_length(seed: int) -> None:
    converge(run(seed, 6000))


def test_the_faults_leave_something_to_check() -> None:
    """A world in which nothing is ever committed, read or elected would pass everything."""
    world = run(7, 6000)
    assert len(world.judge.committed) > 20
    assert world.judge.reads_confirmed > 5
    assert len(world.judge.leaders) > 1
