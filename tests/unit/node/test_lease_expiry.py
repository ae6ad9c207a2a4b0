"""Expiries on a leader's clock: when a lease is due, how an election spreads them, what a pause
gives back, which rests go to the log.
"""

from __future__ import annotations

from bisect import bisect_left

import pytest

from node.apply.lease_expiry import SECOND, LeaseExpiry, Standing
from node.apply.lessor import Lease
from node.apply.requests import LeaseCheckpoint

INTERVAL = 300 * SECOND
RETRY = 7 * SECOND


def leading(*leases: Lease, now: int = 0, extend: int = 0, burst_max: int = 750) -> LeaseExpiry:
    expiry = LeaseExpiry(checkpoint_ms=INTERVAL, burst_max=burst_max)
    expiry.promote(leases, now, extend)
    expiry.check_invariants(lease.ID for lease in leases)
    return expiry


def ends(expiry: LeaseExpiry, step: int = 1) -> list[tuple[int, int]]:
    """(when, id) of each lease as it comes due, on a leader that lives for ever."""
    found = []
    now = 0
    while len(found) < len(expiry):
        found += [(now, number) for number in expiry.expired(now, 10**6, 10**12)]
        now += step
    return found


def test_a_follower_counts_nothing() -> None:
    expiry = LeaseExpiry(checkpoint_ms=INTERVAL)
    for number in range(1000):
        expiry.granted(Lease(number, 10), now=5)
    expiry.revoked(3)
    assert len(expiry) == 0
    assert expiry.standing(1, 10**12) is Standing.UNKNOWN
    assert expiry.expired(10**12, 10, RETRY) == []
    expiry.check_invariants(range(1000))


def test_a_lease_is_due_to_the_millisecond() -> None:
    expiry = leading()
    expiry.granted(Lease(7, 2), now=100)
    assert expiry.expired(2099, 10, RETRY) == []
    assert expiry.standing(7, 2099) is Standing.LIVE
    assert expiry.standing(7, 2100) is Standing.EXPIRED
    assert expiry.expired(2100, 10, RETRY) == [7]


def test_what_is_due_comes_again_until_it_is_revoked() -> None:
    expiry = leading(Lease(7, 2), Lease(8, 2))
    assert expiry.expired(2000, 1, RETRY) == [7]
    assert expiry.expired(2000, 10, RETRY) == [8]
    assert expiry.expired(2000 + RETRY - 1, 10, RETRY) == []
    assert expiry.expired(2000 + RETRY, 10, RETRY) == [7, 8]
    expiry.revoked(7)
    assert expiry.expired(2000 + 2 * RETRY, 10, RETRY) == [8]
    expiry.check_invariants([8])


def test_an_expired_lease_is_not_renewed() -> None:
    expiry = leading(Lease(7, 2))
    assert expiry.renew(7, 1999) == 2
    assert expiry.renew(7, 3999) is None
    assert expiry.expired(3999, 10, RETRY) == [7]
    assert expiry.renew(8, 0) is None
    expiry.check_invariants([7])


def test_a_renewal_may_bring_the_end_nearer() -> None:
    """An election gave it more than its TTL."""
    expiry = leading(Lease(7, 10), extend=5 * SECOND)
    assert expiry.remaining(7, 0) == 15
    assert expiry.renew(7, 1000) == 10
    assert expiry.expired(11_000, 10, RETRY) == [7]


def test_remaining_is_cut_to_whole_seconds_and_never_negative() -> None:
    expiry = leading(Lease(7, 3))
    assert [expiry.remaining(7, now) for now in (0, 1, 2000, 2001, 9000)] == [3, 2, 1, 0, 0]


def test_soonest_first() -> None:
    expiry = leading(Lease(3, 10), Lease(1, 20), Lease(2, 10), Lease(-4, 5, remaining_ttl=4))
    assert expiry.soonest_first() == [-4, 2, 3, 1]
    expiry.renew(2, 500)
    assert expiry.soonest_first() == [-4, 3, 2, 1]


@pytest.mark.parametrize("step", [1000, 250, 999])
def test_an_election_spreads_what_would_end_together(step: int) -> None:
    """At most so many in any second, however it is cut."""
    leases = [Lease(number, 5 + number % 2) for number in range(1, 101)]
    expiry = leading(*leases, burst_max=10)
    when = sorted(at for at, _ in ends(expiry, step=50))
    for start in range(0, when[-1] + 1, step):
        within = bisect_left(when, start + 1000) - bisect_left(when, start)
        assert within <= 10 + 1, start
    assert when[0] == 5 * SECOND
    assert when[-1] <= 5 * SECOND + 10 * SECOND


def test_few_leases_are_not_spread() -> None:
    expiry = leading(*[Lease(number, 5) for number in range(1, 11)], burst_max=10)
    assert {at for at, _ in ends(expiry, step=100)} == {5 * SECOND}


def test_demoting_forgets_everything() -> None:
    expiry = leading(Lease(7, 600), Lease(8, 2))
    expiry.expired(2000, 10, RETRY)
    expiry.checkpoints(INTERVAL, 10)
    expiry.demote()
    expiry.demote()
    expiry.check_invariants([7, 8])
    assert expiry.expired(10**12, 10, RETRY) == []
    assert expiry.checkpoints(10**12, 10) == []
    assert expiry.renew(7, 0) is None
    expiry.promote([Lease(7, 600)], 0, 0)
    assert expiry.standing(7, 0) is Standing.LIVE


def test_a_pause_is_given_back_to_who_could_have_renewed() -> None:
    expiry = leading(Lease(7, 2), Lease(8, 5))
    assert expiry.expired(2500, 10, RETRY) == [7]
    expiry.extend(60 * SECOND)
    assert expiry.standing(7, 62_500) is Standing.EXPIRED
    assert expiry.remaining(8, 62_500) == 2
    expiry.check_invariants([7, 8])
    assert expiry.expired(65_000, 10, RETRY) == [8]
    assert expiry.expired(62_500 + RETRY, 10, RETRY) == [7]


# -- checkpoints


def test_only_long_leases_are_checkpointed_once_per_interval() -> None:
    expiry = leading(Lease(7, 3600), Lease(8, 300))
    expiry.granted(Lease(9, 400), now=1000)
    assert expiry.checkpoints(INTERVAL - 1, 10) == []
    assert expiry.checkpoints(INTERVAL, 10) == [LeaseCheckpoint(7, 3300)]
    assert expiry.checkpoints(INTERVAL + 1000, 10) == [LeaseCheckpoint(9, 100)]
    assert expiry.checkpoints(2 * INTERVAL, 10) == [LeaseCheckpoint(7, 3000)]
    expiry.check_invariants([7, 8, 9])


def test_checkpoints_come_in_bounded_numbers() -> None:
    expiry = leading(*[Lease(number, 3600) for number in range(1, 26)])
    assert [len(expiry.checkpoints(INTERVAL, 10)) for _ in range(4)] == [10, 10, 5, 0]


def test_what_was_just_renewed_needs_no_checkpoint() -> None:
    expiry = leading(Lease(7, 3600))
    expiry.renew(7, INTERVAL)
    assert expiry.checkpoints(INTERVAL, 10) == []
    assert expiry.renew(7, INTERVAL) == 3600


def test_a_renewal_first_takes_the_checkpoint_back() -> None:
    expiry = leading(Lease(7, 3600))
    expiry.checkpoints(INTERVAL, 10)
    assert expiry.standing(7, INTERVAL) is Standing.NOTED
    assert expiry.renew(7, INTERVAL) is None
    mark = expiry.noted(7)
    expiry.checkpoints(2 * INTERVAL, 10)
    expiry.cleared(7, mark)
    assert expiry.standing(7, 2 * INTERVAL) is Standing.NOTED, "a later one came in between"
    expiry.cleared(7, expiry.noted(7))
    assert expiry.renew(7, 2 * INTERVAL) == 3600
    expiry.cleared(8, 1)
    assert expiry.noted(8) == 0


def test_the_next_leader_goes_on_from_the_checkpoint() -> None:
    expiry = leading(Lease(7, 3600, remaining_ttl=40), now=1000, extend=SECOND)
    assert expiry.remaining(7, 1000) == 41
    assert expiry.standing(7, 1000) is Standing.NOTED


def test_checkpoints_can_be_off() -> None:
    expiry = LeaseExpiry(checkpoint_ms=0)
    expiry.promote([Lease(7, 3600)], 0, 0)
    assert expiry.checkpoints(3000 * SECOND, 10) == []
