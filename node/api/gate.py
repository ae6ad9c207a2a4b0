"""Gate: nobody reaches a method but through here, so a method without a rule is closed to all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, assert_never

from node.api.errors import LeaderNeeded
from node.api.methods import Access, Credentials
from node.apply.errors import AuthOldRevision

if TYPE_CHECKING:
    from node.apply.requests import Asker
    from node.proposals import Done
    from node.server import Server


class Gate:
    """Turns credentials into who asks. While authentication is off everybody passes unasked."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._auth = server.auth

    def behind(self, credentials: Credentials) -> bool:
        """Whether the token may be of an entry that this member has yet to apply: then `catch_up`
        before anything is asked with it.
        """
        return self._auth.enabled and self._auth.ahead(credentials.token)

    def catch_up(self, done: Done) -> None:
        """`done` when all is applied that was committed until now, or when that cannot be. One
        confirmation of leadership serves all who wait, so a forged token costs no more than a read.
        """
        self._server.linearizable(done)

    def admit(self, access: Access, credentials: Credentials) -> Asker:
        """Who asks. UserEmpty without a token, InvalidAuthToken, PermissionDenied; LeaderNeeded."""
        if credentials.needs_leader and not self._server.leader:
            raise LeaderNeeded
        auth = self._auth
        if not auth.enabled:
            return None
        match access:
            case Access.PUBLIC:
                if credentials.token:
                    # One that has grown old is no reason to refuse whoever comes for a new one.
                    with contextlib.suppress(AuthOldRevision):
                        auth.identify(credentials.token, "")
                return None
            case Access.USER:
                return auth.identify(credentials.token, credentials.common_name)
            case Access.ROOT:
                identity = auth.identify(credentials.token, credentials.common_name)
                auth.require_root(identity)
                return identity
        assert_never(access)
