"""The cluster service: who belongs to the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.api.messages import MemberListRequest
from node.apply.responses import MembersResponse

if TYPE_CHECKING:
    from node.proposals import Done
    from node.server import Server


class Cluster:
    """Methods call `done` exactly once."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def list(self, request: MemberListRequest, done: Done) -> None:
        """As this member knows them, or as of now with `linearizable`."""
        if not request.linearizable:
            done(self._members())
            return
        self._server.linearizable(lambda error: done(self._members() if error is None else error))

    def _members(self) -> MembersResponse:
        return MembersResponse(self._server.members.list())
