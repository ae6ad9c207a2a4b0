"""The lease service. The proposer chooses what a replicated request must not leave open: the id and
the floor of the TTL.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.api.messages import (
    EmptyMessage,
    LeaseLeasesResponse,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from node.apply.checks import check
from node.apply.errors import LeaseNotFound
from node.apply.requests import LeaseGrantRequest, LeaseRevokeRequest

if TYPE_CHECKING:
    from node.apply.requests import Asker
    from node.proposals import Done
    from node.server import Server


def random_id() -> int:
    """A positive 63-bit number."""
    return secrets.randbelow(2**63 - 1) + 1


class Lease:
    """Methods raise the RequestError a request deserves, or call `done` exactly once."""

    def __init__(self, server: Server, *, new_id: Callable[[], int] = random_id) -> None:
        self._server = server
        self._new_id = new_id
        # A lease must outlive an election: nobody can renew it meanwhile. ceil(1.5 elections), in
        # seconds.
        self._ttl_min = -(-3 * server.config.election_timeout // 2000)

    def grant(self, request: LeaseGrantRequest, asker: Asker, done: Done) -> None:
        check(request)
        ttl = max(request.TTL, self._ttl_min)
        self._server.propose(LeaseGrantRequest(ttl, request.ID or self._new_id()), done, asker)

    def revoke(self, request: LeaseRevokeRequest, asker: Asker, done: Done) -> None:
        check(request)
        self._server.propose(request, done, asker)

    def time_to_live(self, request: LeaseTimeToLiveRequest, asker: Asker, done: Done) -> None:
        """Confirms leadership first, so that every member knows a lease granted before."""

        def read(error: object) -> None:
            done(self._time_to_live(request) if error is None else error)

        self._server.linearizable(read)

    def _time_to_live(self, request: LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse:
        revision = self._server.store.current_rev
        try:
            status = self._server.lessor.time_to_live(request.ID, keys=request.keys)
        except LeaseNotFound:
            return LeaseTimeToLiveResponse(revision, request.ID, -1)
        return LeaseTimeToLiveResponse(
            revision, request.ID, status.TTL, status.granted_ttl, list(status.keys)
        )

    def leases(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        """As this member knows them; needs no leader."""
        leases = [LeaseStatus(number) for number in self._server.lessor.leases()]
        done(LeaseLeasesResponse(self._server.store.current_rev, leases))
