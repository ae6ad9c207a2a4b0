"""The election service: names with one leader at a time, and a value it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from node.api.messages import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ResignRequest,
    RevisionResponse,
)
from node.apply.errors import ClaimFailed

if TYPE_CHECKING:
    from node.api.maintenance import Spawn
    from node.api.methods import GiveUp
    from node.apply.requests import Asker
    from node.claims import Claims
    from node.proposals import Done


class Election:
    """Methods call `done` once, unless they are given up."""

    def __init__(self, claims: Claims, spawn: Spawn) -> None:
        self._claims = claims
        self._spawn = spawn

    def campaign(self, request: CampaignRequest, asker: Asker, done: Done) -> GiveUp:
        """Answered when we lead. Given up, the candidate leaves the queue."""
        return self._spawn(self._campaign(request, asker), done)

    async def _campaign(self, request: CampaignRequest, asker: Asker) -> CampaignResponse:
        claim = await self._claims.campaign(request.name, request.lease, request.value, asker)
        leader = LeaderKey(request.name, claim.key, claim.rev, claim.lease)
        return CampaignResponse(claim.revision, leader)

    def proclaim(self, request: ProclaimRequest, asker: Asker, done: Done) -> GiveUp:
        return self._spawn(self._proclaim(request, asker), done)

    async def _proclaim(self, request: ProclaimRequest, asker: Asker) -> RevisionResponse:
        leader = _given(request.leader)
        return RevisionResponse(
            await self._claims.proclaim(leader.key, leader.rev, leader.lease, request.value, asker)
        )

    def resign(self, request: ResignRequest, asker: Asker, done: Done) -> GiveUp:
        return self._spawn(self._resign(request, asker), done)

    async def _resign(self, request: ResignRequest, asker: Asker) -> RevisionResponse:
        leader = _given(request.leader)
        return RevisionResponse(await self._claims.resign(leader.key, leader.rev, asker))

    def leader(self, request: LeaderRequest, asker: Asker, done: Done) -> GiveUp:
        return self._spawn(self._leader(request, asker), done)

    async def _leader(self, request: LeaderRequest, asker: Asker) -> LeaderResponse:
        return LeaderResponse(*await self._claims.leader(request.name, asker))

    async def observe(self, request: LeaderRequest, asker: Asker) -> AsyncIterator[LeaderResponse]:
        """The present leader and whatever follows, for as long as the client listens."""
        async for revision, kv in self._claims.observe(request.name, asker):
            yield LeaderResponse(revision, kv)


def _given(leader: LeaderKey | None) -> LeaderKey:
    if leader is None:
        raise ClaimFailed('"leader" field must be provided')
    return leader
