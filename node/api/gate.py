"""Gate: nobody reaches a method but through here, so a method without a rule is closed to all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, assert_never

from node.api.methods import Access, Credentials
from node.apply.errors import AuthOldRevision

if TYPE_CHECKING:
    from node.apply.requests import Asker
    from node.server import Server


class Gate:
    """Turns credentials into who asks. While authentication is off everybody passes unasked."""

    def __init__(self, server: Server) -> None:
        self._auth = server.auth

    def admit(self, access: Access, credentials: Credentials) -> Asker:
        """Who asks. UserEmpty without a token, InvalidAuthToken, PermissionDenied."""
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
                return auth.identify(*credentials)
            case Access.ROOT:
                identity = auth.identify(*credentials)
                auth.require_root(identity)
                return identity
        assert_never(access)
