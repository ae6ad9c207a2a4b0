"""Renewals that race with revokes: who is told that a lease lives has all of its TTL from when they
asked, whatever comes in between.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from node.apply import errors
from node.apply.requests import LeaseCheckpointRequest, LeaseExpireRequest
from node.leases import Renewed
from tests.unit.node.lease_fixture import FakeServer, turns

TTL, LONG_TTL = 2, 15
IDS = (7, 8)
CLIENT_AND_CLOCK = ["renew"] * 3 + ["wait", "wait", "tick", "late", "pause"]
EVENTS = ["confirm", "apply", "lose", "depose", "lead"]
STEPS = st.sampled_from(CLIENT_AND_CLOCK + EVENTS)


class Race:
    """One member. `renewed`: when each lease's client asked for what was granted to it last."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.term = 1
        self.server.lead(self.term)
        self.renewed: dict[int, float] = {}
        for number, ttl in zip(IDS, (TTL, LONG_TTL), strict=True):
            self.server.lessor.grant(number, ttl)
            self.renewed[number] = self.server.now
        self.tasks: list[asyncio.Task[None]] = []

    async def renew(self, number: int) -> None:
        server = self.server
        asked = server.now
        with suppress(errors.ApplyError):
            (ttl,) = await server.leases.renew([number])
            if ttl:
                assert server.lessor.exists(number), "renewed, and gone"
                self.renewed[number] = max(self.renewed[number], asked)

    def apply(self) -> None:
        """The oldest proposal; it is void when the term has changed."""
        server = self.server
        if not server.proposed:
            return
        request = server.proposed[0][0]
        assert isinstance(request, LeaseExpireRequest | LeaseCheckpointRequest)
        if request.term != self.term:
            server.apply(errors.NotLeader())
        elif isinstance(request, LeaseExpireRequest) and not server.lessor.exists(request.ID):
            server.apply(errors.LeaseNotFound())
        else:
            if isinstance(request, LeaseExpireRequest):
                ttl = server.lessor.time_to_live(request.ID).granted_ttl
                assert server.now >= self.renewed[request.ID] + ttl - 0.001, "revoked alive"
            server.apply()

    async def step(self, step: str, number: int) -> None:
        server = self.server
        match step:
            case "renew":
                self.tasks.append(asyncio.create_task(self.renew(number)))
            case "tick":
                server.pass_time(0.5)
            case "wait":
                server.pass_time(TTL + 0.1)
            case "late":
                server.now += 0.4
            case "pause":
                server.now += 30
            case "confirm":
                server.confirm()
            case "apply":
                self.apply()
            case "lose":
                if server.proposed:
                    server.apply(errors.RequestTimedOut())
            case "depose":
                # The next leader knows no lease.
                server.peer_calls.answers = [Renewed([0])] * 99
                server.follow(term=self.term)
            case "lead":
                if not server.leases._term:
                    self.term += 1
                    server.lead(self.term)
        await turns(3)

    async def end(self) -> None:
        """Left alone, every renewal is answered and every lease goes."""
        if not self.server.leases._term:
            await self.step("lead", 0)
        rounds = 0
        while self.server.lessor.leases() or not all(task.done() for task in self.tasks):
            rounds += 1
            assert rounds < 200, "a dead lease, or a renewal without an answer"
            self.server.pass_time(0.5)
            self.server.confirm()
            while self.server.proposed:
                self.apply()
            await turns(2)
        for task in self.tasks:
            task.result()


@given(st.lists(st.tuples(STEPS, st.sampled_from(IDS)), min_size=8, max_size=40))
def test_who_is_told_that_a_lease_lives_has_all_of_it(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        race = Race()
        for step, number in steps:
            await race.step(step, number)
        await race.end()

    asyncio.run(run())
