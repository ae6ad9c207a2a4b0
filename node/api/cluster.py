"""The cluster service: who belongs to the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.api.messages import (
    MemberAddRequest,
    MemberListRequest,
    MemberPromoteRequest,
    MemberRemoveRequest,
)
from node.apply.requests import MemberUpdateRequest
from node.apply.responses import MembersResponse

if TYPE_CHECKING:
    from node.api.maintenance import Spawn
    from node.apply.requests import Asker
    from node.proposals import Done
    from node.server import Server


class Cluster:
    """Methods call `done` exactly once."""

    def __init__(self, server: Server, spawn: Spawn) -> None:
        self._server = server
        self._spawn = spawn

    def list(self, request: MemberListRequest, asker: Asker, done: Done) -> None:
        """As this member knows them, or as of now with `linearizable`."""
        if not request.linearizable:
            done(self._members())
            return
        self._server.linearizable(lambda error: done(self._members() if error is None else error))

    def _members(self) -> MembersResponse:
        return MembersResponse(self._server.members.list())

    def add(self, request: MemberAddRequest, asker: Asker, done: Done) -> None:
        membership = self._server.membership
        self._spawn(membership.add(request.peerURLs, is_learner=request.isLearner), done)

    def remove(self, request: MemberRemoveRequest, asker: Asker, done: Done) -> None:
        self._spawn(self._server.membership.remove(request.ID), done)

    def update(self, request: MemberUpdateRequest, asker: Asker, done: Done) -> None:
        self._spawn(self._server.membership.update(request.ID, request.peerURLs), done)

    def promote(self, request: MemberPromoteRequest, asker: Asker, done: Done) -> None:
        self._spawn(self._server.membership.promote(request.ID), done)
