"""Leases in their shell: who may revoke and renew, and what happens when the leader changes in the
middle of it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.apply import errors
from node.apply.requests import (
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
)
from node.leases import BATCH_MAX, Renewal, Renewed, TimeLeft, TimeLeftOf
from node.peer_calls import PeerCall
from raft.transport import CallFailed, PeerUnavailable
from tests.unit.node.lease_fixture import OTHER, OWN, FakeServer, turns


@pytest.fixture
async def server() -> FakeServer:
    return FakeServer()


# -- expiry


async def test_a_lease_is_revoked_once_leadership_is_proved_after_it_expired(
    server: FakeServer,
) -> None:
    server.lead(term=5)
    server.lessor.grant(7, 2)
    server.pass_time(1.9)
    assert (server.reads, server.proposed) == ([], [])
    server.pass_time(0.7)
    assert len(server.reads) == 1
    assert server.proposed == []
    server.confirm()
    assert server.apply() == LeaseExpireRequest(7, 5)
    assert not server.lessor.exists(7)
    assert server.leases.expired_total == 1


async def test_without_proof_nothing_is_revoked(server: FakeServer) -> None:
    server.lead()
    server.lessor.grant(7, 2)
    server.pass_time(2.6)
    server.confirm(errors.RequestTimedOut())
    assert server.proposed == []
    server.pass_time(7.5)
    server.confirm()
    assert [request.ID for request, _ in server.proposed] == [7]


async def test_a_proof_of_another_term_proves_nothing(server: FakeServer) -> None:
    """A paused leader wakes up, is deposed, and its read is confirmed by the next leader."""
    server.lead()
    server.lessor.grant(7, 2)
    server.pass_time(2.6)
    server.follow()
    server.confirm()
    assert server.proposed == []
    server.pass_time(2.6)
    server.lead(term=3)
    server.confirm()
    assert server.proposed == []
    assert server.leases.time_left_now(7) == TimeLeft(3, 2)


async def test_at_most_sixteen_revokes_are_under_way(server: FakeServer) -> None:
    server.lead()
    for number in range(1, 41):
        server.lessor.grant(number, 2)
    server.pass_time(2.6)
    server.confirm()
    revoked = []
    while server.proposed:
        assert len(server.proposed) <= 16
        revoked.append(server.apply().ID)
    assert revoked == list(range(1, 41))


async def test_five_hundred_leases_per_scan(server: FakeServer) -> None:
    server.lead()
    for number in range(1, 1202):
        server.lessor.grant(number, 2)
    server.pass_time(1.9)
    while len(server.lessor.leases()):
        before = len(server.lessor.leases())
        server.pass_time(0.5)
        server.confirm()
        while server.proposed:
            server.apply()
        assert before - len(server.lessor.leases()) <= 500


async def test_refusals_at_once_do_not_pile_up_and_are_tried_again(server: FakeServer) -> None:
    def refuse(request: Any, done: Any, asker: Any) -> None:
        done(errors.TooManyRequests())

    server.lead()
    for number in range(1, 501):
        server.lessor.grant(number, 2)
    server.pass_time(2.6)
    kept, server.propose = server.propose, refuse  # type: ignore[method-assign]
    server.confirm()
    assert server.leases.expired_total == 0
    server.propose = kept  # type: ignore[method-assign]
    server.pass_time(7.5)
    server.confirm()
    assert len(server.proposed) == 16


async def test_a_leader_counts_only_when_its_term_is_applied(server: FakeServer) -> None:
    server.lessor.grant(7, 10)
    server.leases.term_applied(1)
    server.leader = OWN
    server.leases.role_changed(True, 2)
    server.leases.term_applied(1)
    assert server.leases.renew_now(7) is None
    server.leases.term_applied(2)
    assert server.leases.renew_now(7) == 10


# -- pauses


async def test_after_a_pause_leases_live_and_leadership_is_proved_before_a_renewal(
    server: FakeServer,
) -> None:
    server.lead()
    server.lessor.grant(7, 5)
    server.pass_time(1.0)
    server.now += 60
    assert server.leases.renew_now(7) is None
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    assert len(server.reads) == 1
    assert not renewal.done()
    server.confirm()
    assert await renewal == [5]
    server.pass_time(4.0)
    assert (server.reads, server.proposed) == ([], [])


async def test_a_paused_leader_that_was_replaced_renews_nothing(server: FakeServer) -> None:
    server.lead()
    server.lessor.grant(7, 5)
    server.pass_time(1.0)
    server.now += 60
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    server.peer_calls.answers = [Renewed([5])]
    server.follow()
    server.confirm()
    assert await renewal == [5]
    assert server.peer_calls.asked == [(OTHER, PeerCall.LEASE_RENEW, Renewal([7]))]
    assert server.leases.renewed_total == 0


# -- renewals


async def test_renewing_what_has_expired_waits_for_its_end(server: FakeServer) -> None:
    server.lead()
    server.lessor.grant(7, 2)
    server.pass_time(2.6)
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    server.confirm()
    await turns()
    assert not renewal.done()
    server.apply()
    await turns()
    server.confirm()
    assert await renewal == [0]


async def test_an_unknown_lease_is_looked_for_in_what_is_committed(server: FakeServer) -> None:
    server.lead()
    renewal = asyncio.create_task(server.leases.renew([7, 8]))
    await turns()
    server.lessor.grant(7, 30)
    server.confirm()
    await turns()
    server.confirm()
    assert await renewal == [30, 0]


async def test_whoever_waits_when_the_leader_is_deposed_asks_the_next_one(
    server: FakeServer,
) -> None:
    server.lead()
    server.lessor.grant(7, 2)
    server.pass_time(2.6)
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    server.peer_calls.answers = [Renewed([2])]
    server.follow()
    assert await renewal == [2]
    assert server.lessor.exists(7)


async def test_a_follower_asks_again_until_a_leader_answers(server: FakeServer) -> None:
    server.follow()
    server.peer_calls.answers = [PeerUnavailable("gone"), CallFailed("NotLeader()"), Renewed([9])]
    renewal = asyncio.create_task(server.leases.renew([7]))
    for _ in range(3):
        await turns()
        server.follow(OTHER)
    assert await renewal == [9]
    assert len(server.peer_calls.asked) == 3


async def test_without_a_leader_the_wait_has_an_end(server: FakeServer) -> None:
    server.leases._timeout = 0.02
    server.follow(leader=0)
    with pytest.raises(errors.NoLeader):
        await server.leases.renew([7])
    server.leader = OTHER
    server.peer_calls.answers = [PeerUnavailable("gone")]
    with pytest.raises(errors.RequestTimedOut):
        await server.leases.time_left(7)


async def test_a_new_leader_is_waited_for_until_it_counts(server: FakeServer) -> None:
    server.lessor.grant(7, 10)
    server.leader = OWN
    server.leases.role_changed(True, 2)
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    assert not renewal.done()
    server.leases.term_applied(2)
    assert await renewal == [10]


# -- checkpoints


async def test_a_checkpointed_lease_is_renewed_through_the_log(server: FakeServer) -> None:
    server.lead(term=4)
    server.lessor.grant(7, 60)
    server.pass_time(10.6)
    assert server.apply() == LeaseCheckpointRequest([LeaseCheckpoint(7, 50)], 4)
    assert server.leases.renew_now(7) is None
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    assert not renewal.done()
    assert server.apply() == LeaseCheckpointRequest([LeaseCheckpoint(7)], 4)
    assert await renewal == [60]
    assert server.lessor.time_to_live(7).TTL == 60


async def test_a_checkpoint_under_way_is_taken_back_too(server: FakeServer) -> None:
    """The log has them in this order: the rest, then nothing. Unknown, it would shorten the lease
    under the next leader.
    """
    server.lead()
    server.lessor.grant(7, 60)
    server.pass_time(10.6)
    renewal = asyncio.create_task(server.leases.renew([7]))
    await turns()
    kinds = [request.checkpoints[0].remaining_ttl for request, _ in server.proposed]
    assert kinds == [50, 0]
    server.apply()
    server.apply()
    assert await renewal == [60]


# -- what peers ask


async def test_a_leader_answers_its_peers_and_others_refuse(server: FakeServer) -> None:
    renew = server.peer_calls.handlers[PeerCall.LEASE_RENEW]
    left = server.peer_calls.handlers[PeerCall.LEASE_TIME_TO_LIVE]
    with pytest.raises(CallFailed, match="NotLeader"):
        await renew(OTHER, Renewal([7]))
    with pytest.raises(CallFailed):
        await left(OTHER, TimeLeftOf(7))
    server.lead()
    server.lessor.grant(7, 10)
    assert await renew(OTHER, Renewal([7, 7])) == Renewed([10, 10])
    asked = asyncio.create_task(left(OTHER, TimeLeftOf(7)))
    await turns()
    server.confirm()
    assert await asked == TimeLeft(10, 10)
    with pytest.raises(CallFailed):
        await renew(OTHER, Renewal([7] * (BATCH_MAX + 1)))


async def test_time_left_here(server: FakeServer) -> None:
    assert server.leases.time_left_now(7) is None
    server.lead()
    assert server.leases.time_left_now(7) == TimeLeft(-1)
    server.lessor.grant(7, 10)
    server.lessor.grant(8, 5)
    server.pass_time(2.0)
    assert server.leases.time_left_now(7) == TimeLeft(8, 10)
    assert server.leases.soonest_first() == [8, 7]
    server.pass_time(8.1)
    assert server.leases.time_left_now(7) == TimeLeft(0, 10)
    server.follow()
    assert server.leases.soonest_first() == [8, 7]
