"""Simple tokens: 16 random letters and a number, known to the members and to nobody's disk.

The member that checked the password chooses the token and proposes its SHA-256; every member that
applies the entry knows the token from then on. Each forgets it when it has not seen it for the TTL,
so that a client which stays with one member is a stranger to the others after a while, as in etcd.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from node.apply.errors import InvalidAuthToken
from node.apply.requests import Identity

if TYPE_CHECKING:
    from node.apply.auth_store import AuthStore

_LETTERS = 16
_SWEEP_MAX = 1000


class Tokens(Protocol):
    """How a token is recognised, whatever kind it is.

    `lasting`: a token survives changes of roles and permissions.
    """

    lasting: bool

    def identify(self, token: str) -> Identity:
        """Whose token this is. InvalidAuthToken, AuthOldRevision."""


class SimpleTokens:
    """The tokens that this member knows, by digest.

    `_known`: who was let in and when it will be forgotten, the longest unused first; all live
    equally long, so deadlines ascend.
    """

    lasting = True

    def __init__(self, store: AuthStore, ttl_seconds: float, now: Callable[[], float]) -> None:
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._now = now
        self._known: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, user: str, digest: bytes) -> None:
        """The cluster has let `user` in with the token of this digest, just now."""
        self._keep(digest, Identity(user, self._store.revision))

    def _keep(self, digest: bytes, login: Identity) -> None:
        self._known[digest] = (login, self._now() + self._ttl_seconds)
        self._known.move_to_end(digest)

    def identify(self, token: str) -> Identity:
        digest = digest_of(token)
        found = self._known.get(digest)
        if found is None:
            raise InvalidAuthToken
        login, deadline = found
        if deadline <= self._now() or not self._store.login_holds(*login):
            del self._known[digest]
            raise InvalidAuthToken
        self._keep(digest, login)
        return Identity(login.user, self._store.revision)

    def sweep(self) -> None:
        """Forget what has expired, a bounded number at a time."""
        now = self._now()
        for _ in range(min(_SWEEP_MAX, len(self._known))):
            digest, (_, deadline) = next(iter(self._known.items()))
            if deadline > now:
                return
            del self._known[digest]

    def check_invariants(self) -> None:
        deadlines = [deadline for _, deadline in self._known.values()]
        assert deadlines == sorted(deadlines), deadlines


def new_token(index: int) -> str:
    """A token nobody can guess; `index` is where in the log its user stood, for who reads it."""
    letters = "".join(secrets.choice(string.ascii_letters) for _ in range(_LETTERS))
    return f"{letters}.{index}"


def digest_of(token: str) -> bytes:
    """What the log and the members hold of a token. InvalidAuthToken for what is no text of one."""
    if not token.isascii():
        raise InvalidAuthToken
    return hashlib.sha256(token.encode()).digest()
