"""Lessor: both sides of an attachment, rows, restore."""

from __future__ import annotations

import pytest

from mvcc.memory_backend import MemoryBackend
from mvcc.txn import LeaseChange
from node.apply import errors
from node.apply.lessor import TTL_MAX, LeaseStatus, Lessor

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
