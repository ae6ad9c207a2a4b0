"""Simple tokens, over a clock that moves when told."""

from __future__ import annotations

import re

import pytest

from node.apply.errors import InvalidAuthToken
from node.apply.requests import (
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    Identity,
    RoleAddRequest,
    UserAddRequest,
    UserChangePasswordRequest,
    UserDeleteRequest,
)
from node.apply.responses import AuthTokenResponse
from node.tokens import SimpleTokens, digest_of, new_letters
from tests.unit.node.apply_fixture import Machine
from tests.unit.node.auth_fixture import HASH, add_user, done, switch_on

TTL = 300


class Member:
    """A member with users root and alice, its tokens, and its clock."""

    def __init__(self) -> None:
        self.machine = Machine()
        switch_on(self.machine)
        add_user(self.machine, "alice")
        self.now = 1000.0
        self.tokens = SimpleTokens(
            self.machine.auth, TTL, lambda: self.now, lambda: self.machine.index
        )

        self.machine.auth.on_token = self.tokens.admit

    def let_in(self, user: str) -> str:
        letters = new_letters()
        request = AuthTokenRequest(user, digest_of(letters), self.machine.auth.revision)
        response = self.machine.apply(request, Identity("", 0))
        assert response == AuthTokenResponse(self.machine.index)
        self.tokens.check_invariants()
        return f"{letters}.{self.machine.index}"

    def knows(self, token: str) -> bool:
        try:
            return bool(self.tokens.identify(token).user)
        except InvalidAuthToken:
            return False


def test_nobody_guesses_the_letters_of_a_token() -> None:
    letters = {new_letters() for _ in range(100)}
    assert len(letters) == 100
    assert all(re.fullmatch(r"[A-Za-z]{16}", each) for each in letters)


def test_a_token_says_whether_its_member_has_come_so_far() -> None:
    member = Member()
    token = member.let_in("alice")
    letters, index = token.split(".")
    assert not member.tokens.ahead(token)
    assert member.tokens.ahead(f"{letters}.{int(index) + 1}")
    assert member.tokens.ahead(f"{letters}.{10**18}")
    for other in (
        "",
        letters,
        f"{letters}.",
        f"{letters}.-1",
        f"x.{index}9",
        f"{letters}.{10**19}",
    ):
        assert not member.tokens.ahead(other)
    assert not member.knows(f"{letters}.{int(index) + 1}")


def test_who_shows_a_token_is_its_user_as_of_now() -> None:
    member = Member()
    token = member.let_in("alice")
    revision = member.machine.auth.revision
    assert member.tokens.identify(token) == Identity("alice", revision)
    done(member.machine, RoleAddRequest("another"))
    assert member.tokens.identify(token) == Identity("alice", revision + 1)


def test_a_token_lives_from_its_last_use() -> None:
    member = Member()
    used, unused = member.let_in("alice"), member.let_in("alice")
    member.now += TTL - 1
    assert member.knows(used)
    member.now += 1
    assert not member.knows(unused)
    member.now += TTL - 2
    assert member.knows(used)
    member.now += TTL
    assert not member.knows(used)
    assert len(member.tokens) == 0


def test_expired_tokens_are_forgotten_though_nobody_asks() -> None:
    member = Member()
    for _ in range(1500):
        member.let_in("alice")
    member.now += TTL / 2
    fresh = member.let_in("root")
    member.tokens.sweep()
    assert len(member.tokens) == 1501
    member.now += TTL / 2
    member.tokens.sweep()
    assert len(member.tokens) == 501, "a bounded number at a time"
    member.tokens.sweep()
    assert len(member.tokens) == 1
    assert member.knows(fresh)
    member.tokens.check_invariants()


@pytest.mark.parametrize(
    "requests",
    [
        [UserChangePasswordRequest("alice", HASH)],
        [UserDeleteRequest("alice")],
        [UserDeleteRequest("alice"), UserAddRequest("alice", HASH)],
        [AuthDisableRequest()],
        [AuthDisableRequest(), AuthEnableRequest()],
    ],
)
def test_what_ends_a_token(requests: list[object]) -> None:
    member = Member()
    token = member.let_in("alice")
    assert member.knows(token)
    done(member.machine, *requests)  # type: ignore[arg-type]
    assert not member.knows(token)


def test_a_token_outlives_what_happens_to_others() -> None:
    member = Member()
    token = member.let_in("alice")
    done(
        member.machine,
        UserChangePasswordRequest("root", HASH),
        UserAddRequest("bob", HASH),
        UserDeleteRequest("bob"),
        RoleAddRequest("r"),
    )
    assert member.knows(token)


@pytest.mark.parametrize(
    "forged",
    ["", "x", "abcdefghijklmnop.7", "\xe9\xe9.7", "\udcff.7", "a" * 100_000, "Bearer x", "\0"],
)
def test_what_is_no_token_is_refused(forged: str) -> None:
    member = Member()
    token = member.let_in("alice")
    for text in (forged, token[:-1], token + " ", token.lower()):
        assert not member.knows(text)
    assert member.knows(token)


def test_no_member_remembers_the_text() -> None:
    member = Member()
    token = member.let_in("alice")
    assert token not in repr(vars(member.tokens))
