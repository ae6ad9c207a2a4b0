"""Auth: who a token or a certificate is, on this member."""

from __future__ import annotations

from node.apply import errors
from node.apply.requests import Identity


class Auth:
    """Authentication of one member's clients."""

    @property
    def enabled(self) -> bool:
        return False

    def identify(self, token: str, common_name: str) -> Identity:
        """Who shows this token, or (without one) this certificate. UserEmpty, InvalidAuthToken."""
        raise errors.InvalidAuthToken

    def require_root(self, identity: Identity) -> None:
        """PermissionDenied unless the user has the role root."""
        raise errors.PermissionDenied
