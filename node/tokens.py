"""Simple tokens: 16 random letters and a number, known to the members and to nobody's disk.

    dQwKvXcYbZnMaSpE.1742     the letters, a dot, the index of the entry that let their user in

The member that checked the password chooses the letters and proposes their SHA-256; every member
that applies the entry knows the token from then on, and one that has not come so far can tell that
it has not. Each forgets a token when it has not seen it for the TTL, so that a client which stays
with one member is a stranger to the others after a while, as in etcd.
"""

from __future__ import annotations

import hashlib
import re
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
_TEXT = re.compile(rf"([A-Za-z]{{{_LETTERS}}})\.(\d{{1,19}})", re.ASCII)
_SWEEP_MAX = 1000


class Tokens(Protocol):
    """How a token is recognised, whatever kind it is.

    `lasting`: a token survives changes of roles and permissions.
    """

    lasting: bool

    def identify(self, token: str) -> Identity:
        """Whose token this is. InvalidAuthToken, AuthOldRevision."""

    def ahead(self, token: str) -> bool:
        """Whether it claims to be of a later time than what this member has applied."""


class SimpleTokens:
    """The tokens that this member knows, by digest and index.

    `_known`: who was let in and when it will be forgotten, the longest unused first; all live
    equally long, so deadlines ascend. `applied()`: the last index whose tokens are known.
    """

    lasting = True

    def __init__(
        self,
        store: AuthStore,
        ttl_seconds: float,
        now: Callable[[], float],
        applied: Callable[[], int],
    ) -> None:
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._now = now
        self._applied = applied
        self._known: OrderedDict[tuple[bytes, int], tuple[Identity, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def admit(self, user: str, digest: bytes, index: int) -> None:
        """The cluster has let `user` in with letters of this digest, just now."""
        self._keep((digest, index), Identity(user, self._store.revision))

    def _keep(self, key: tuple[bytes, int], login: Identity) -> None:
        self._known[key] = (login, self._now() + self._ttl_seconds)
        self._known.move_to_end(key)

    def identify(self, token: str) -> Identity:
        text = _TEXT.fullmatch(token)
        if text is None:
            raise InvalidAuthToken
        key = digest_of(text[1]), int(text[2])
        found = self._known.get(key)
        if found is None:
            raise InvalidAuthToken
        login, deadline = found
        if deadline <= self._now() or not self._store.login_holds(*login):
            del self._known[key]
            raise InvalidAuthToken
        self._keep(key, login)
        return Identity(login.user, self._store.revision)

    def ahead(self, token: str) -> bool:
        text = _TEXT.fullmatch(token)
        return text is not None and int(text[2]) > self._applied()

    def sweep(self) -> None:
        """Forget what has expired, a bounded number at a time."""
        now = self._now()
        for _ in range(min(_SWEEP_MAX, len(self._known))):
            key, (_, deadline) = next(iter(self._known.items()))
            if deadline > now:
                return
            del self._known[key]

    def check_invariants(self) -> None:
        deadlines = [deadline for _, deadline in self._known.values()]
        assert deadlines == sorted(deadlines), deadlines


def new_letters() -> str:
    """What makes a token one that nobody can guess."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(_LETTERS))


def digest_of(letters: str) -> bytes:
    """What the log and the members hold of a token."""
    return hashlib.sha256(letters.encode()).digest()
