"""The gate: a table of who passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from node.api.gate import Gate
from node.api.methods import Access, Credentials
from node.apply import errors
from node.apply.requests import Identity

ROOT, ALICE = Identity("root", 3), Identity("alice", 3)


class KnownTokens:
    """Tokens `root`, `alice` and `old`; certificates of root and alice."""

    enabled = True

    def identify(self, token: str, common_name: str) -> Identity:
        if token == "old":
            raise errors.AuthOldRevision
        known = {"root": ROOT, "alice": ALICE}
        if not token and not common_name:
            raise errors.UserEmpty
        if (token or common_name) not in known:
            raise errors.InvalidAuthToken if token else errors.PermissionDenied
        return known[token or common_name]

    def require_root(self, identity: Identity) -> None:
        if identity != ROOT:
            raise errors.PermissionDenied


NOBODY = Credentials()
EMPTY, BAD, DENIED, OLD = (
    errors.UserEmpty,
    errors.InvalidAuthToken,
    errors.PermissionDenied,
    errors.AuthOldRevision,
)


@pytest.mark.parametrize(
    ("credentials", "public", "user", "root"),
    [
        (NOBODY, None, EMPTY, EMPTY),
        (Credentials("bogus"), BAD, BAD, BAD),
        (Credentials("bogus", "root"), BAD, BAD, BAD),
        (Credentials("old"), None, OLD, OLD),
        (Credentials("alice"), None, ALICE, DENIED),
        (Credentials("root"), None, ROOT, ROOT),
        (Credentials("", "alice"), None, ALICE, DENIED),
        (Credentials("", "root"), None, ROOT, ROOT),
        (Credentials("", "mallory"), None, DENIED, DENIED),
        (Credentials("alice", "root"), None, ALICE, DENIED),
    ],
)
def test_who_passes(credentials: Credentials, public: Any, user: Any, root: Any) -> None:
    gate = Gate(SimpleNamespace(auth=KnownTokens()))  # type: ignore[arg-type]
    table = {Access.PUBLIC: public, Access.USER: user, Access.ROOT: root}
    assert set(table) == set(Access)
    for access, expected in table.items():
        if isinstance(expected, type):
            with pytest.raises(expected):
                gate.admit(access, credentials)
        else:
            assert gate.admit(access, credentials) == expected


@pytest.mark.parametrize("access", Access)
def test_while_off_nobody_is_asked(access: Access) -> None:
    gate = Gate(SimpleNamespace(auth=SimpleNamespace(enabled=False)))  # type: ignore[arg-type]
    for credentials in (NOBODY, Credentials("bogus"), Credentials("", "mallory")):
        assert gate.admit(access, credentials) is None


def test_a_method_without_a_rule_is_closed() -> None:
    gate = Gate(SimpleNamespace(auth=KnownTokens()))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        gate.admit(None, Credentials("root"))  # type: ignore[arg-type]
