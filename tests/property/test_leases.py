"""Leases under a virtual clock, against what their clients know: when each was renewed last.

One log, and whoever leads it at the moment. A leader's proposals are applied late, in the term of
another leader, or never; members restart and stop for a while. The model is on the client's side: a
lease that was renewed less than its TTL ago is there, and one left alone goes within a bound.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.apply.errors import ApplyError, LeaseExists, NotLeader
from node.apply.lease_expiry import SECOND, LeaseExpiry, Standing
from node.apply.requests import (
    DeleteRangeRequest,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    Request,
    encode,
)
from tests.unit.node.apply_fixture import Machine

SCAN = 500
EXTEND = 1 * SECOND
RETRY = 7 * SECOND
CHECKPOINT = 2 * SECOND
BURST_MAX = 2
TTL_MAX = 5
IDS = st.sampled_from([1, 2**63 - 1, -(2**63)])
KEYS = st.sampled_from([b"a", b"b"])


class Leases(RuleBasedStateMachine):
    """`renewed`: by lease, when its client last heard that it has all of its time again."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.now = self.scanned = 0
        self.term = 0
        self.renewed: dict[int, int] = {}
        self.under_way: list[Request] = []
        self.elect()
        self.promote()
        for number, ttl in ((1, 2), (2**63 - 1, 3), (-(2**63), TTL_MAX)):
            self.grant(number, ttl)

    # -- the log

    def apply(self, request: Request) -> object:
        machine = self.machine
        index = machine.index + 1
        data = encode(index, request)
        result = machine.applier.apply_normal(index, self.term, data, request)
        machine.backend.end_entries(index, self.term)
        machine.index = index
        if isinstance(request, LeaseExpireRequest) and not isinstance(result, ApplyError):
            self.gone(request.ID)
        return result

    def gone(self, number: int) -> None:
        ttl = self.ttls.pop(number)
        assert self.now >= self.renewed.pop(number) + ttl * SECOND, "a live lease was revoked"

    def elect(self) -> None:
        self.term += 1
        self.leads = False
        self.expiry = LeaseExpiry(checkpoint_ms=CHECKPOINT, burst_max=BURST_MAX)
        self.ttls = {lease.ID: lease.TTL for lease in self.machine.lessor.all()}
        lessor, expiry = self.machine.lessor, self.expiry
        lessor.on_grant = lambda lease: expiry.granted(lease, self.now)
        lessor.on_revoke = expiry.revoked

    # -- clients

    @rule(number=IDS, ttl=st.integers(1, TTL_MAX))
    def grant(self, number: int, ttl: int) -> None:
        result = self.apply(LeaseGrantRequest(ttl, number))
        if number in self.ttls:
            assert isinstance(result, LeaseExists)
        else:
            self.ttls[number] = ttl
            self.renewed[number] = self.now

    @precondition(lambda self: self.leads)
    @rule(number=IDS)
    def renew(self, number: int) -> None:
        standing = self.expiry.standing(number, self.now)
        if standing is Standing.NOTED:
            assert self.expiry.renew(number, self.now) is None
            mark = self.expiry.noted(number)
            self.apply(LeaseCheckpointRequest([LeaseCheckpoint(number)], self.term))
            self.expiry.cleared(number, mark)
            standing = self.expiry.standing(number, self.now)
        ttl = self.expiry.renew(number, self.now)
        assert ttl == (self.ttls[number] if standing is Standing.LIVE else None)
        if ttl is not None:
            self.renewed[number] = self.now
            assert self.expiry.remaining(number, self.now) == ttl

    @rule(number=IDS, key=KEYS, what=st.sampled_from(["revoke", "delete", "put", "put", "detach"]))
    def write(self, number: int, key: bytes, what: str) -> None:
        known = number in self.ttls
        match what:
            case "revoke":
                result = self.apply(LeaseRevokeRequest(number))
                assert isinstance(result, ApplyError) == (not known)
                self.ttls.pop(number, None)
                self.renewed.pop(number, None)
            case "delete":
                self.apply(DeleteRangeRequest(key))
            case "detach":
                self.apply(PutRequest(key))
            case "put":
                result = self.apply(PutRequest(key, b"", number))
                assert isinstance(result, ApplyError) == (not known)

    # -- leaders

    @precondition(lambda self: not self.leads)
    @rule()
    def promote(self) -> None:
        self.leads = True
        self.expiry.promote(self.machine.lessor.all(), self.now, EXTEND)
        self.scanned = self.now

    @rule(restart=st.booleans(), at_once=st.booleans())
    def change_leader(self, restart: bool, at_once: bool) -> None:
        """What the old leader proposed may still come, in the next one's term."""
        self.expiry.demote()
        self.expiry.check_invariants([])
        if restart:
            self.machine.backend.force_commit()
            self.machine = Machine(self.machine.backend)
        self.elect()
        if at_once:
            self.promote()

    @precondition(lambda self: self.under_way)
    @rule(place=st.integers(0, 2), kept=st.booleans())
    def arrive(self, place: int, kept: bool) -> None:
        """One proposal under way is applied, or lost."""
        if place < len(self.under_way):
            request = self.under_way.pop(place)
            if kept:
                assert isinstance(request, LeaseExpireRequest | LeaseCheckpointRequest)
                void = isinstance(self.apply(request), NotLeader)
                assert void == (request.term != self.term)

    # -- time

    @rule(ms=st.integers(0, 4 * SECOND))
    def advance(self, ms: int) -> None:
        """Scan by scan; what it brings about is under way."""
        until = self.now + ms
        while self.scanned + SCAN <= until:
            self.now = self.scanned = self.scanned + SCAN
            self.under_way += self.scan()
        self.now = until

    @rule(ms=st.integers(2 * SCAN, 30 * SECOND))
    def stop_for_a_while(self, ms: int) -> None:
        """No client is heard either."""
        self.now += ms
        if self.leads:
            self.expiry.extend(self.now - self.scanned)
        self.scanned = self.now

    def scan(self) -> list[Request]:
        if not self.leads:
            return []
        due = self.expiry.expired(self.now, 3, RETRY)
        assert all(self.expiry.standing(n, self.now) is Standing.EXPIRED for n in due)
        brought: list[Request] = [LeaseExpireRequest(number, self.term) for number in due]
        rests = self.expiry.checkpoints(self.now, 3)
        assert all(0 < each.remaining_ttl < self.ttls[each.ID] for each in rests)
        return [*brought, *([LeaseCheckpointRequest(rests, self.term)] if rests else [])]

    # -- what always holds

    @invariant()
    def all_live_leases_are_there(self) -> None:
        assert {lease.ID for lease in self.machine.lessor.all()} == self.ttls.keys()
        assert self.renewed.keys() == self.ttls.keys()
        self.machine.check()
        self.expiry.check_invariants(self.ttls)
        if not self.leads:
            assert len(self.expiry) == 0, "a follower counts time"

    @precondition(lambda self: self.leads)
    @invariant()
    def no_lease_ends_before_its_client_expects(self) -> None:
        for number, ttl in self.ttls.items():
            if self.expiry.standing(number, self.now) is Standing.EXPIRED:
                assert self.now >= self.renewed[number] + ttl * SECOND

    def teardown(self) -> None:
        """Left alone, every lease goes: its TTL, the election, the spread, a lost revoke."""
        if not self.leads:
            self.promote()
        bound = TTL_MAX * SECOND + EXTEND + len(self.ttls) * SECOND + RETRY + 4 * SCAN
        # A pause may have given each lease as long again as it lasted: none is due before that.
        latest = max((self.expiry.remaining(number, self.now) for number in self.ttls), default=0)
        until = self.now + min(bound, latest * SECOND + SECOND + RETRY + 4 * SCAN)
        while self.now < until:
            self.now = self.scanned = self.now + SCAN
            for request in self.scan():
                self.apply(request)
        assert not self.ttls, "a dead lease is still there"
        assert self.machine.store.leases == {}


TestLeases = Leases.TestCase
TestLeases.settings = settings(stateful_step_count=30, deadline=None)
