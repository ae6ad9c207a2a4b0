"""Membership: which change would lose a quorum, who makes it, and what becomes of one whose caller
is gone before the answer comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from node.apply import errors
from node.apply.errors import (
    LearnerNotReady,
    MemberNotFound,
    MemberUrlsInvalid,
    NotEnoughStarted,
    NotLearner,
    PeerUrlExists,
    RequestTimedOut,
    Stopped,
    TooManyLearners,
    Unhealthy,
)
from node.apply.members import ChangeKind, decode_change
from node.apply.responses import Member, MembersResponse
from node.membership import (
    ChangeAnswer,
    ChangeQuestion,
    Membership,
    Standing,
    check_adding,
    check_peer_urls,
    check_promoting,
    check_removing,
)
from node.peer_calls import PeerCalls
from node.proposals import Done
from raft.core.errors import ProposalDropped
from raft.transport import PeerUnavailable

URLS = ["http://b:1"]
UP, NEW, DOWN = Standing(True, True), Standing(False, False), Standing(True, False)


# -- what would lose the quorum


@pytest.mark.parametrize(
    ("voters", "error"),
    [
        ([UP], None),
        ([NEW], NotEnoughStarted),
        ([UP, UP], None),
        ([UP, NEW], NotEnoughStarted),
        ([UP, DOWN], Unhealthy),
        ([UP, UP, UP], None),
        ([UP, UP, DOWN], Unhealthy),
        ([UP, UP, NEW], NotEnoughStarted),
        ([UP, UP, UP, DOWN], None),
        ([UP, UP, UP, NEW], None),
        ([UP, UP, UP, UP, DOWN], None),
        ([UP, UP, UP, UP, NEW], None),
        ([UP, UP, UP, DOWN, DOWN], Unhealthy),
    ],
)
def test_adding_a_voter(voters: list[Standing], error: type[Exception] | None) -> None:
    """It does not run yet, and counts for the size of the quorum only."""
    _expect(error, lambda: check_adding(voters))


@pytest.mark.parametrize(
    ("voters", "reachable", "error"),
    [
        ([UP], True, None),
        ([UP], False, Unhealthy),
        ([UP, NEW], True, None),
        ([UP, DOWN], True, None),
        ([UP, UP, DOWN], True, None),
        ([UP, UP, NEW], True, None),
        ([UP, DOWN, DOWN], True, Unhealthy),
        ([UP, NEW, NEW], True, NotEnoughStarted),
    ],
)
def test_promoting_a_learner(
    voters: list[Standing], reachable: bool, error: type[Exception] | None
) -> None:
    """It runs, and counts for the quorum as well as for its size."""
    _expect(error, lambda: check_promoting(voters, reachable=reachable))


@pytest.mark.parametrize(
    ("rest", "error"),
    [
        ([], NotEnoughStarted),
        ([UP], None),
        ([DOWN], Unhealthy),
        ([NEW], NotEnoughStarted),
        ([UP, UP], None),
        ([UP, DOWN], Unhealthy),
        ([UP, NEW], NotEnoughStarted),
        ([UP, UP, DOWN], None),
        ([UP, DOWN, DOWN], Unhealthy),
        ([UP, UP, UP, DOWN], None),
        ([UP, UP, DOWN, DOWN], Unhealthy),
    ],
)
def test_removing_a_voter(rest: list[Standing], error: type[Exception] | None) -> None:
    _expect(error, lambda: check_removing(rest))


def _expect(error: type[Exception] | None, check: Callable[[], None]) -> None:
    if error is None:
        check()
    else:
        with pytest.raises(error):
            check()


@pytest.mark.parametrize(
    "url", ["", "b:1", "unix://b:1", "http://b", "http://b:1/x", "http://b:1?x", "http://[b:1"]
)
def test_peer_urls(url: str) -> None:
    with pytest.raises(MemberUrlsInvalid):
        check_peer_urls([url])
    check_peer_urls(["https://[::1]:1", "http://b:1"])


# -- who makes the change


class Server:
    """Leader of itself, a voter without URLs in the way, and a learner; keeps who waits."""

    def __init__(self, leader: int = 1) -> None:
        self.waiting: list[Done] = []
        self.proposed: list[Any] = []
        self.member_id, self.leader = 1, leader
        self.request_timeout = 1.0
        self.applied_index = 9
        self.table = {
            1: Member(1, "a", peerURLs=["http://a:1"]),
            2: Member(2, "l", peerURLs=["http://l:1"], isLearner=True),
        }
        self.members = SimpleNamespace(list=lambda: list(self.table.values()), get=self.table.get)
        self.config = SimpleNamespace(strict_reconfig_check=True, initial_cluster_token="t")
        self.match = 100
        self.dropping = 0
        self.driver = SimpleNamespace(propose_conf_change=self._propose, status=self._status)
        self.transport = SimpleNamespace(active_since=lambda member: -100.0, call=self._call)
        self.peer_calls = PeerCalls()
        self.peer_calls.transport = self.transport  # type: ignore[assignment]
        self.called: Callable[[bytes], Awaitable[bytes]]

    @property
    def is_leader(self) -> bool:
        return self.leader == self.member_id

    def request_id(self) -> int:
        return 7

    def propose_change(self, propose: Any, done: Done) -> None:
        propose(7)
        self.waiting.append(done)

    def _propose(self, change: Any) -> None:
        if self.dropping:
            self.dropping -= 1
            raise ProposalDropped
        self.proposed.append(decode_change(change.context))

    def _status(self) -> Any:
        own, learner = SimpleNamespace(match=100), SimpleNamespace(match=self.match)
        return SimpleNamespace(progress={1: own, 2: learner})

    async def _call(self, member: int, kind: int, body: bytes, seconds: float) -> bytes:
        return await self.called(body)


async def start_adding(membership: Membership) -> asyncio.Task[MembersResponse]:
    task = asyncio.create_task(membership.add(URLS, is_learner=False))
    await asyncio.sleep(0.001)
    return task


@pytest.mark.parametrize("result", [Stopped(), MembersResponse([])])
async def test_answer_to_nobody_is_dropped(result: object) -> None:
    server: Any = Server()
    task = await start_adding(Membership(server))
    task.cancel()
    await asyncio.wait([task])
    server.waiting[0](result)
    assert task.cancelled()


@pytest.mark.parametrize(("number", "error"), [(1, MemberUrlsInvalid), (5, MemberNotFound)])
async def test_an_update_asks_for_the_member_before_its_urls(
    number: int, error: type[Exception]
) -> None:
    server: Any = Server()
    with pytest.raises(error):
        await Membership(server).update(number, [])


async def test_what_a_leader_refuses() -> None:
    server: Any = Server()
    membership = Membership(server)
    server.match = 89
    with pytest.raises(LearnerNotReady):
        await membership.promote(2)
    server.match = 90
    server.table[2].name = ""
    with pytest.raises(LearnerNotReady):
        await membership.promote(2)
    with pytest.raises(NotLearner):
        await membership.promote(1)
    with pytest.raises(MemberNotFound):
        await membership.remove(3)
    with pytest.raises(PeerUrlExists):
        await membership.add(["http://l:1"], is_learner=False)
    with pytest.raises(TooManyLearners):
        await membership.add(URLS, is_learner=True)
    assert server.proposed == []
    assert membership.promotions_refused == {LearnerNotReady: 2, NotLearner: 1}


async def test_changes_go_one_after_the_other() -> None:
    server: Any = Server()
    membership = Membership(server)
    first, second = await start_adding(membership), await start_adding(membership)
    assert len(server.proposed) == 1
    server.waiting[0](MembersResponse([]))
    await first
    await asyncio.sleep(0.001)
    assert len(server.proposed) == 2
    server.waiting[1](MembersResponse([]))
    await second


async def test_a_change_that_raft_cannot_take_yet_is_proposed_again() -> None:
    server: Any = Server()
    server.dropping = 1
    membership = Membership(server)
    promoting = asyncio.create_task(membership.promote(2))
    await asyncio.sleep(0.1)
    server.waiting[0](MembersResponse([]))
    assert await promoting == MembersResponse([])
    assert server.proposed[0].kind == ChangeKind.PROMOTE
    assert membership.promoted_total == 1


async def test_a_leader_elsewhere_is_asked_and_its_answer_waited_for() -> None:
    """A real leader's own answer, over the wire's bytes."""
    leading: Any = Server()
    Membership(leading)
    asked: Any = Server(leader=3)
    asked.called = lambda body: leading.peer_calls.serve(1, 4, body)
    asked.applied_index = 8
    adding = await start_adding(Membership(asked))
    added = Member(5, peerURLs=URLS)
    leading.waiting[0](MembersResponse([added], added))
    await asyncio.sleep(0.02)
    assert not adding.done(), "not applied here yet"
    asked.applied_index = 9
    assert await adding == MembersResponse([added], added)


@pytest.mark.parametrize("error", [NotLearner, errors.InvalidArgument, Unhealthy])
async def test_a_refusal_elsewhere_is_the_same_refusal_here(error: type[Exception]) -> None:
    async def refuse(_body: bytes) -> bytes:
        return encode(ChangeAnswer(refusal=error.__name__, why="why"))

    server: Any = Server(leader=3)
    server.called = refuse
    with pytest.raises(error, match="why"):
        await Membership(server).promote(2)


async def test_an_answer_that_does_not_come_leaves_the_outcome_open() -> None:
    async def lose(_body: bytes) -> bytes:
        raise PeerUnavailable

    server: Any = Server(leader=3)
    server.called = lose
    with pytest.raises(RequestTimedOut):
        await Membership(server).remove(2)


async def test_no_leader_is_said_at_once_and_a_follower_does_not_act() -> None:
    server: Any = Server(leader=0)
    membership = Membership(server)
    with pytest.raises(errors.NoLeader):
        await membership.remove(2)
    question = encode(ChangeQuestion(ChangeKind.REMOVE, 2))
    answer = await server.peer_calls.serve(1, 4, question)
    assert b"NotLeader" in answer
    assert server.proposed == []


def encode(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)
