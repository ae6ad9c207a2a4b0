"""The lock service: names that one lease at a time holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.api.messages import LockRequest, LockResponse, RevisionResponse, UnlockRequest

if TYPE_CHECKING:
    from node.api.maintenance import Spawn
    from node.api.methods import GiveUp
    from node.apply.requests import Asker
    from node.claims import Claims
    from node.proposals import Done


class Lock:
    """Methods call `done` once, unless they are given up."""

    def __init__(self, claims: Claims, spawn: Spawn) -> None:
        self._claims = claims
        self._spawn = spawn

    def lock(self, request: LockRequest, asker: Asker, done: Done) -> GiveUp:
        """Answered when the lock is ours. Given up, it is not waited for any longer."""
        return self._spawn(self._lock(request, asker), done)

    async def _lock(self, request: LockRequest, asker: Asker) -> LockResponse:
        claim = await self._claims.lock(request.name, request.lease, asker)
        return LockResponse(claim.revision, claim.key)

    def unlock(self, request: UnlockRequest, asker: Asker, done: Done) -> GiveUp:
        return self._spawn(self._unlock(request, asker), done)

    async def _unlock(self, request: UnlockRequest, asker: Asker) -> RevisionResponse:
        return RevisionResponse(await self._claims.unlock(request.key, asker))
