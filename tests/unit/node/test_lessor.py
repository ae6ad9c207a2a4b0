"""Lessor: both sides of an attachment, rows, restore; what leaders write of their clocks."""

from __future__ import annotations

import pytest

from mvcc.memory_backend import MemoryBackend
from mvcc.txn import LeaseChange
from node.apply import errors
from node.apply.lessor import TTL_MAX, Lease, LeaseStatus, Lessor
from node.apply.requests import (
    AlarmAction,
    AlarmRequest,
    AlarmType,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    Request,
)
from node.apply.responses import LeaseCheckpointResponse, LeaseRevokeResponse
from tests.unit.node.apply_fixture import Machine, refused

INT64_MAX = 2**63 - 1


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def lessor(backend: MemoryBackend) -> Lessor:
    return Lessor(backend)


def test_grant_limits(lessor: Lessor) -> None:
    lessor.grant(1, TTL_MAX)
    with pytest.raises(errors.LeaseExists):
        lessor.grant(1, 5)
    with pytest.raises(errors.LeaseNotFound):
        lessor.grant(0, 5)
    with pytest.raises(errors.LeaseTtlTooLarge):
        lessor.grant(2, TTL_MAX + 1)
    assert lessor.leases() == [1]


@pytest.mark.parametrize("number", [1, -1, INT64_MAX, -INT64_MAX - 1])
def test_every_id_but_zero_survives_a_restart(backend: MemoryBackend, number: int) -> None:
    """Members once disagreed about negative ids."""
    Lessor(backend).grant(number, 30)
    again = Lessor(backend)
    again.restore([(b"a", number)])
    assert again.leases() == [number]
    assert again.time_to_live(number, keys=True) == LeaseStatus(number, 30, 30, (b"a",))


def test_keys_follow_the_stores_changes(lessor: Lessor) -> None:
    lessor.grant(7, 10)
    lessor.grant(8, 10)
    lessor.follow([LeaseChange(b"b", 0, 7), LeaseChange(b"a", 0, 7)])
    assert lessor.keys_of(7) == [b"a", b"b"]
    lessor.follow([LeaseChange(b"a", 7, 8), LeaseChange(b"b", 7, 0)])
    assert (lessor.keys_of(7), lessor.keys_of(8)) == ([], [b"a"])
    lessor.check_invariants({b"a": 8})
    with pytest.raises(AssertionError):
        lessor.check_invariants({b"a": 7})


def test_time_to_live(lessor: Lessor) -> None:
    lessor.grant(7, 10)
    lessor.follow([LeaseChange(b"a", 0, 7)])
    assert lessor.time_to_live(7) == LeaseStatus(7, 10, 10, ())
    with pytest.raises(errors.LeaseNotFound):
        lessor.time_to_live(8)
    with pytest.raises(errors.LeaseNotFound):
        lessor.keys_of(8)


def test_leases_soonest_first(lessor: Lessor) -> None:
    for number, ttl in ((3, 10), (1, 20), (2, 10), (-4, 5)):
        lessor.grant(number, ttl)
    assert lessor.leases() == [-4, 2, 3, 1]


def test_revoke_wants_its_keys_gone(backend: MemoryBackend, lessor: Lessor) -> None:
    lessor.grant(7, 10)
    lessor.follow([LeaseChange(b"a", 0, 7)])
    with pytest.raises(AssertionError):
        lessor.revoke(7)
    lessor.grant(8, 10)
    lessor.revoke(8)
    assert not lessor.exists(8)
    again = Lessor(backend)
    again.restore([(b"a", 8)])
    assert not again.exists(8)


def test_restore_forgets_what_was_in_memory(lessor: Lessor) -> None:
    lessor.grant(7, 10)
    lessor.follow([LeaseChange(b"a", 0, 7)])
    lessor.restore([])
    assert lessor.keys_of(7) == []


def test_who_counts_the_time_hears_of_every_lease(lessor: Lessor) -> None:
    granted: list[Lease] = []
    revoked: list[int] = []
    lessor.on_grant, lessor.on_revoke = granted.append, revoked.append
    lease = lessor.grant(7, 10)
    lessor.revoke(7)
    assert (granted, revoked) == ([lease], [7])


# -- what leaders write of their clocks; the machine's term is 1


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.apply(LeaseGrantRequest(3600, 7))
    machine.put(b"b", lease=7)
    machine.put(b"a", lease=7)
    return machine


def test_an_expired_lease_goes_like_a_revoked_one(machine: Machine) -> None:
    assert machine.apply(LeaseExpireRequest(7, 1)) == LeaseRevokeResponse(4)
    events = machine.store.events(4, 5, 0)
    assert [event.kv.key for event in events] == [b"a", b"b"], "one revision, ascending keys"
    assert refused(machine.apply(LeaseExpireRequest(7, 1))) is errors.LeaseNotFound
    machine.check()


@pytest.mark.parametrize("term", [0, 2])
def test_what_was_said_in_another_term_is_void(machine: Machine, term: int) -> None:
    said: list[Request] = [
        LeaseExpireRequest(7, term),
        LeaseCheckpointRequest([LeaseCheckpoint(7, 5)], term),
    ]
    for request in said:
        for decoded in (True, False):
            assert refused(machine.apply(request, decoded=decoded)) is errors.NotLeader
    assert machine.lessor.time_to_live(7) == LeaseStatus(7, 3600, 3600)
    assert machine.keys() == [b"a", b"b"]


def test_a_checkpoint_outlives_a_restart_and_a_renewal_takes_it_back(machine: Machine) -> None:
    rest = [LeaseCheckpoint(7, 40), LeaseCheckpoint(8, 1)]
    assert machine.apply(LeaseCheckpointRequest(rest, 1)) == LeaseCheckpointResponse(3)
    machine.backend.force_commit()
    again = Machine(machine.backend.crash())
    assert again.lessor.time_to_live(7) == LeaseStatus(7, 40, 3600)
    assert not again.lessor.exists(8), "one that is gone is passed over"
    again.apply(LeaseCheckpointRequest([LeaseCheckpoint(7)], 1))
    assert again.lessor.time_to_live(7).TTL == 3600
    again.apply(LeaseCheckpointRequest([LeaseCheckpoint(7, 4000)], 1))
    assert again.lessor.time_to_live(7).TTL == 3600, "never more than was granted"


def test_no_lease_ends_while_the_store_may_be_corrupt(machine: Machine) -> None:
    machine.apply(AlarmRequest(AlarmAction.ACTIVATE, 1, AlarmType.CORRUPT))
    assert refused(machine.apply(LeaseExpireRequest(7, 1))) is errors.Corrupt
    assert machine.keys() == [b"a", b"b"]
