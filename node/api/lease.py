"""The lease service. The proposer chooses what a replicated request must not leave open: the id and
the floor of the TTL.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.api.keep_alive import KeepAlive
from node.api.messages import (
    EmptyMessage,
    LeaseLeasesResponse,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from node.apply.checks import check
from node.apply.errors import RequestError
from node.apply.requests import LeaseGrantRequest, LeaseRevokeRequest

if TYPE_CHECKING:
    from node.api.maintenance import Spawn
    from node.api.methods import Credentials, Sink
    from node.apply.requests import Asker
    from node.leases import TimeLeft
    from node.proposals import Done
    from node.server import Server


def random_id() -> int:
    """A positive 63-bit number."""
    return secrets.randbelow(2**63 - 1) + 1


class Lease:
    """Methods raise the RequestError a request deserves, or call `done` exactly once."""

    def __init__(
        self, server: Server, spawn: Spawn, *, new_id: Callable[[], int] = random_id
    ) -> None:
        self._server = server
        self._spawn = spawn
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
        """By the leader's clock, after a confirmation that every lease granted before is known."""

        def told(left: Any) -> None:
            if isinstance(left, Exception):
                done(left)
            else:
                done(self._describe(request, asker, left))

        def read(error: object) -> None:
            if error is not None:
                done(error)
                return
            left = self._server.leases.time_left_now(request.ID)
            if left is not None:
                told(left)
            else:
                self._spawn(self._server.leases.time_left(request.ID), told)

        self._server.linearizable(read)

    def _describe(self, request: LeaseTimeToLiveRequest, asker: Asker, left: TimeLeft) -> object:
        """The answer, or why it is refused. Keys are those that this member has applied."""
        server, keys = self._server, []
        if request.keys and server.lessor.exists(request.ID):
            keys = server.lessor.keys_of(request.ID)
        try:
            if server.auth.enabled:
                server.auth.check_keys(asker, keys, write=False)
        except RequestError as error:
            return error
        return LeaseTimeToLiveResponse(
            server.store.current_rev, request.ID, left.TTL, left.granted_ttl, keys
        )

    def leases(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        """As this member knows them; needs no leader."""
        server = self._server
        numbers = server.leases.soonest_first()
        if server.auth.enabled:
            for number in numbers:
                server.auth.check_keys(asker, server.lessor.keys_of(number), write=False)
        found = [LeaseStatus(number) for number in numbers]
        done(LeaseLeasesResponse(server.store.current_rev, found))

    def keep_alive(
        self, sink: Sink, credentials: Credentials, encode: Callable[[Any], bytes]
    ) -> KeepAlive:
        """A stream of renewals; `encode(response)` is one of its messages."""
        return KeepAlive(self._server, self._spawn, sink, credentials, encode)
