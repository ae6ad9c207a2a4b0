"""Leases: who counts their time, revokes the expired ones, and renews them for whoever asks.

Grants and revokes are entries of the log; the time between is the leader's affair alone
(`node.apply.lease_expiry`). A renewal never enters the log: the leader answers it from memory,
every other member asks the leader. What the leader's clock brings about does enter it: revokes, and
from time to time the rest of a long lease, so that its next leader need not begin anew.

A lease is revoked by a leader that has seen it expired and has proved after that that it still
leads. The entry names the term and is void in any other, because the next leader may know better.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec

from node.apply import errors
from node.apply.lease_expiry import LeaseExpiry, Standing
from node.apply.requests import (
    CLUSTER,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
)
from node.peer_calls import PeerCall
from node.waiting import answer_of
from raft.core.types import NONE
from raft.transport import CallFailed, PeerUnavailable

if TYPE_CHECKING:
    from node.apply.lessor import Lease
    from node.server import Server

log = logging.getLogger("esker.leases")

BATCH_MAX = 256
"""Renewals that travel to the leader in one question."""

_BEAT_SECONDS = 0.05
_SCAN_MS = 500
_SCAN_MAX = 500
"""Two scans a second: at most 1000 revokes, and as many checkpoints."""
_REVOKES_IN_FLIGHT_MAX = 16
_LATE_HEARTBEATS = 3
"""Without a beat for so many heartbeats this member may have been replaced without knowing."""
_RETRY_SECONDS = 0.1

_ASK_AGAIN = (errors.NotLeader, errors.NoLeader, PeerUnavailable, CallFailed)
"""Nothing has changed, and soon there will be a leader who knows."""

Question = TypeVar("Question", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)


class Renewal(msgspec.Struct):
    IDs: list[int]


class Renewed(msgspec.Struct):
    """The granted TTLs, in the order they were asked for; 0: there is no such lease."""

    TTLs: list[int]


class TimeLeftOf(msgspec.Struct):
    ID: int


class TimeLeft(msgspec.Struct):
    """Seconds; `TTL` -1: there is no such lease."""

    TTL: int
    granted_ttl: int = 0


_UNKNOWN = TimeLeft(-1)


class Leases:
    """The time of one member's leases; it counts only while the member leads.

    `_term` is the one that this member was elected for, 0 while another leads; it may take a moment
    until an entry of that term is applied and `_expiry` counts.
    """

    def __init__(self, server: Server, now: Callable[[], float], *, checkpoint_ms: int) -> None:
        """`now()`: seconds of a clock that never goes back."""
        self._server = server
        self._clock = now
        self._expiry = LeaseExpiry(checkpoint_ms=checkpoint_ms)
        self._timeout = server.config.request_timeout
        self._election_ms = server.config.election_timeout
        self._late_ms = max(_LATE_HEARTBEATS * server.config.heartbeat_interval, 150)
        self._term = 0
        self._beat_at = self._scan_at = self._ms()
        self._late_beats = self._proved_beats = 0
        self._to_revoke: deque[int] = deque()
        self._revoking = 0
        self._pumping = False
        self._turn = asyncio.Event()
        self._ended: dict[int, asyncio.Event] = {}
        self.renewed_total = self.expired_total = 0
        self.observe_ttl: Callable[[float], None] = lambda seconds: None
        server.lessor.on_grant = self._granted
        server.lessor.on_revoke = self._revoked
        server.replica.on_role = self.role_changed
        server.replica.on_term = self.term_applied
        server.peer_calls.answer(PeerCall.LEASE_RENEW, Renewal, self._serve_renewal)
        server.peer_calls.answer(PeerCall.LEASE_TIME_TO_LIVE, TimeLeftOf, self._serve_time_left)

    # -- what the API asks

    def renew_now(self, number: int) -> int | None:
        """Renew a lease and return its TTL, if this member can do that without asking or waiting
        for anybody; else None, and nothing has changed.
        """
        now = self._now()
        ttl = None if self._doubtful else self._expiry.renew(number, now)
        if ttl is not None:
            self.renewed_total += 1
        return ttl

    async def renew(self, numbers: Sequence[int]) -> list[int]:
        """Renew leases, at most BATCH_MAX: their TTLs, 0 for each that does not exist (any more).

        NoLeader, RequestTimedOut and what else keeps a linearizable read from its answer.
        """
        question = Renewal(list(numbers))
        answer = await self._by_leader(PeerCall.LEASE_RENEW, question, Renewed, self._renew_here)
        return answer.TTLs

    def time_left_now(self, number: int) -> TimeLeft | None:
        """By this member's clock, right after a linearizable read; None when another's counts."""
        if not self._expiry.leading:
            return None
        now = self._now()
        if self._expiry.standing(number, now) is Standing.UNKNOWN:
            return _UNKNOWN
        granted = self._server.lessor.time_to_live(number).granted_ttl
        return TimeLeft(self._expiry.remaining(number, now), granted)

    async def time_left(self, number: int) -> TimeLeft:
        """By the leader's clock. NoLeader, RequestTimedOut, ..."""
        return await self._by_leader(
            PeerCall.LEASE_TIME_TO_LIVE, TimeLeftOf(number), TimeLeft, self._time_left_here
        )

    def soonest_first(self) -> list[int]:
        """All leases, the soonest to expire first as far as this member knows."""
        expiry = self._expiry
        return expiry.soonest_first() if expiry.leading else self._server.lessor.leases()

    # -- what raft and apply tell

    def role_changed(self, leads: bool, term: int) -> None:
        """Another leader is known, or none, or this member was elected for `term`."""
        if self._term and not (leads and term == self._term):
            self._expiry.demote()
            self._to_revoke.clear()
            self._wake_ended()
        self._term = term if leads else 0
        self._wake()

    def term_applied(self, term: int) -> None:
        """The first entry of `term` is applied: all that earlier leaders decided is known."""
        if term != self._term or self._expiry.leading:
            return
        self._expiry.promote(self._server.lessor.all(), self._now(), self._election_ms)
        self._proved_beats = self._late_beats
        log.info("counting the time of leases", extra={"leases": len(self._expiry), "term": term})
        self._wake()

    def _granted(self, lease: Lease) -> None:
        self._expiry.granted(lease, self._now())
        self.observe_ttl(lease.TTL)

    def _revoked(self, number: int) -> None:
        self._expiry.revoked(number)
        ended = self._ended.pop(number, None)
        if ended is not None:
            ended.set()

    def _wake(self) -> None:
        """Whoever waits for another leader, or for this one's clock, looks again."""
        self._turn.set()
        self._turn = asyncio.Event()

    def _wake_ended(self) -> None:
        """Who waits for the end of an expired lease looks again, too."""
        for ended in self._ended.values():
            ended.set()
        self._ended.clear()

    # -- time

    def _ms(self) -> int:
        return int(self._clock() * 1000)

    def _now(self) -> int:
        """Milliseconds. The first call after a pause of the process makes it good: nobody could
        renew meanwhile, and this member may have been replaced.
        """
        now = self._ms()
        gap = now - self._beat_at
        if gap > self._late_ms:
            self._late_beats += 1
            if gap > 2 * _SCAN_MS and self._expiry.leading:
                log.warning("leases live longer by a pause of this process", extra={"ms": gap})
                self._expiry.extend(gap)
                self._wake_ended()
            self._beat_at = now
        return now

    @property
    def _doubtful(self) -> bool:
        """Whether there was a pause since this member last proved that it leads."""
        return self._late_beats != self._proved_beats

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            self.beat()

    def beat(self) -> None:
        now = self._now()
        self._beat_at = now
        if now >= self._scan_at:
            self._scan_at = now + _SCAN_MS
            if self._expiry.leading:
                self._checkpoint(now)
                self._scan(now)

    # -- expiry

    def _scan(self, now: int) -> None:
        """Find what has expired, and prove that this member still leads before it acts on it."""
        room = _SCAN_MAX - len(self._to_revoke)
        found = self._expiry.expired(now, room, int(self._timeout * 1000))
        if not found:
            return
        term = self._term

        def proved(error: object) -> None:
            if error is None and term == self._term:
                self._to_revoke.extend(found)
                self._pump()

        self._server.linearizable(proved)

    def _pump(self) -> None:
        """Keep some revokes under way, never more. An answer may come from within `propose`."""
        if self._pumping:
            return
        self._pumping = True
        while self._to_revoke and self._revoking < _REVOKES_IN_FLIGHT_MAX:
            number = self._to_revoke.popleft()
            if self._expiry.standing(number, self._now()) is Standing.EXPIRED:
                self._revoking += 1
                request = LeaseExpireRequest(number, self._term)
                self._server.propose(request, self._revoke_ended, CLUSTER)
        self._pumping = False

    def _revoke_ended(self, result: object) -> None:
        """What did not happen is found again by a later scan."""
        self._revoking -= 1
        if isinstance(result, Exception):
            log.debug("a lease was not revoked", extra={"why": repr(result)})
        else:
            self.expired_total += 1
        self._pump()

    def _checkpoint(self, now: int) -> None:
        rests = self._expiry.checkpoints(now, _SCAN_MAX)
        if rests:
            request = LeaseCheckpointRequest(rests, self._term)
            self._server.propose(request, _checkpointed, CLUSTER)

    # -- the leader's answers

    async def _renew_here(self, question: Renewal) -> Renewed:
        return Renewed([await self._renew_one(number) for number in question.IDs])

    async def _renew_one(self, number: int) -> int:
        """The TTL; 0 when nothing that is committed knows of the lease. NotLeader."""
        sure = False
        while True:
            ttl = self.renew_now(number)
            if ttl is not None:
                return ttl
            await self._counting()
            standing = self._expiry.standing(number, self._now())
            if self._doubtful:
                await self._prove()
            elif standing is Standing.EXPIRED:
                await self._ended.setdefault(number, asyncio.Event()).wait()
            elif standing is Standing.NOTED:
                await self._clear(number)
            elif standing is Standing.UNKNOWN:
                if sure:
                    return 0
                await self._prove()
                sure = True

    async def _time_left_here(self, question: TimeLeftOf) -> TimeLeft:
        await self._counting()
        await self._prove()
        answer = self.time_left_now(question.ID)
        if answer is None:
            raise errors.NotLeader
        return answer

    async def _counting(self) -> None:
        """Wait until this member counts the time. NotLeader when it does not lead."""
        while not self._expiry.leading:
            if not self._term:
                raise errors.NotLeader
            await self._turn.wait()

    async def _prove(self) -> None:
        """A linearizable read: if this member counts the time after it, it did so rightly before,
        and knows all leases granted before.
        """
        term, beats = self._term, self._late_beats
        await answer_of(self._server.linearizable)
        if term == self._term:
            self._proved_beats = beats

    async def _clear(self, number: int) -> None:
        """Take back the checkpoints of a lease that is about to be renewed."""
        mark = self._expiry.noted(number)
        request = LeaseCheckpointRequest([LeaseCheckpoint(number)], self._term)
        await self._server.call(self._server.propose, request)
        if request.term == self._term:
            self._expiry.cleared(number, mark)

    # -- other members

    async def _by_leader(
        self,
        kind: PeerCall,
        question: Question,
        answer: type[Answer],
        here: Callable[[Question], Awaitable[Answer]],
    ) -> Answer:
        """The leader's answer, whoever that is in the end: with a new one it is asked again."""
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    turn = self._turn
                    with suppress(*_ASK_AGAIN):
                        if self._term:
                            return await here(question)
                        leader = self._server.leader
                        if leader not in (NONE, self._server.member_id):
                            seconds = self._election_ms / 1e3
                            calls = self._server.peer_calls
                            return await calls.ask(leader, kind, question, answer, seconds)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_RETRY_SECONDS):
                            await turn.wait()
        except TimeoutError:
            if self._server.leader == NONE:
                raise errors.NoLeader from None
            raise errors.RequestTimedOut from None

    async def _serve_renewal(self, _sender: int, question: Renewal) -> Renewed:
        if len(question.IDs) > BATCH_MAX:
            raise CallFailed(f"{len(question.IDs)} renewals at once")
        return await self._answer(self._renew_here(question))

    async def _serve_time_left(self, _sender: int, question: TimeLeftOf) -> TimeLeft:
        return await self._answer(self._time_left_here(question))

    async def _answer(self, answer: Awaitable[Answer]) -> Answer:
        """What a peer is told, or a refusal that it understands; no later than it listens."""
        try:
            async with asyncio.timeout(self._election_ms / 1e3):
                return await answer
        except (errors.ApplyError, TimeoutError) as error:
            raise CallFailed(repr(error)) from error


def _checkpointed(result: object) -> None:
    """What is not written now is written at the next interval."""
    if isinstance(result, Exception):
        log.debug("lease checkpoints were not written", extra={"why": repr(result)})
