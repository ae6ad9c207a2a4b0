"""Changing who belongs to the cluster: what is asked before a change is proposed, and the wait for
it.

Whether a change is *allowed* is decided in apply, from the membership alone, on every member
alike. Whether it is *wise* is asked here, once, by the leader, which hears from everybody: would
the change leave a quorum, are the members connected, has a learner caught up. Any member may be
called; it asks the leader. The leader makes one change at a time, each a simple one: raft's joint
configurations are not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

from node.apply import errors
from node.apply.members import ChangeKind, MemberChange, encode_change, new_id
from node.apply.requests import MemberUpdateRequest
from node.apply.responses import Member, MembersResponse
from node.peer_calls import PeerCall
from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType
from raft.core.errors import ProposalDropped
from raft.core.types import NONE
from raft.transport import CallFailed, PeerUnavailable

if TYPE_CHECKING:
    from node.server import Server

_CONNECTED_SECONDS = 5.0
_LEARNERS_MAX = 1
_CAUGHT_UP_SHARE = 0.9
_RETRY_SECONDS = 0.05
_POLL_SECONDS = 0.01

_REFUSALS: dict[str, type[errors.ApplyError]] = {
    cls.__name__: cls
    for cls in (
        errors.InvalidArgument,
        errors.LearnerNotReady,
        errors.MemberExists,
        errors.MemberNotFound,
        errors.MemberUrlsInvalid,
        errors.NoLeader,
        errors.NotEnoughStarted,
        errors.NotLeader,
        errors.NotLearner,
        errors.PeerUrlExists,
        errors.RequestTimedOut,
        errors.Stopped,
        errors.TooManyLearners,
        errors.Unhealthy,
    )
}
"""What a leader may refuse another member's change for; they travel by name."""


class ChangeQuestion(msgspec.Struct, omit_defaults=True):
    """A change for the leader to make. ADD reads the URLs and the flag, the others the ID."""

    kind: ChangeKind
    ID: int = 0
    peerURLs: list[str] = []
    isLearner: bool = False


class ChangeAnswer(msgspec.Struct, omit_defaults=True):
    """The members after the change, which `index` had applied; or the name of a refusal."""

    index: int = 0
    members: list[Member] = []
    member: Member | None = None
    refusal: str = ""
    why: str = ""


class Membership:
    """The cluster's members, as one of them changes them. Every call returns after the change is
    applied here; each may raise NoLeader, RequestTimedOut (the outcome is unknown) and Stopped.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._changing = asyncio.Lock()
        self.promoted_total = 0
        self.promotions_refused: dict[type[errors.ApplyError], int] = {}
        server.peer_calls.answer(PeerCall.CHANGE_MEMBERS, ChangeQuestion, self._answer)

    async def add(self, peer_urls: Sequence[str], *, is_learner: bool) -> MembersResponse:
        """Add a member that is not started yet. MemberUrlsInvalid, PeerUrlExists, TooManyLearners,
        NotEnoughStarted, Unhealthy.
        """
        check_peer_urls(peer_urls)
        question = ChangeQuestion(ChangeKind.ADD, 0, list(peer_urls), is_learner)
        return await self._at_leader(question)

    async def remove(self, number: int) -> MembersResponse:
        """Remove a member for ever: its id never comes back. MemberNotFound, NotEnoughStarted,
        Unhealthy.
        """
        return await self._at_leader(ChangeQuestion(ChangeKind.REMOVE, number))

    async def promote(self, number: int) -> MembersResponse:
        """Make a voter of a learner that has caught up. MemberNotFound, NotLearner,
        LearnerNotReady, NotEnoughStarted, Unhealthy.
        """
        return await self._at_leader(ChangeQuestion(ChangeKind.PROMOTE, number))

    async def update(self, number: int, peer_urls: Sequence[str]) -> MembersResponse:
        """Give a member other peer URLs. MemberNotFound, MemberUrlsInvalid, PeerUrlExists."""
        self._present(number)
        check_peer_urls(peer_urls)
        request = MemberUpdateRequest(number, list(peer_urls))
        response: MembersResponse = await self._server.call(self._server.propose, request)
        return response

    # -- finding the leader

    async def _at_leader(self, question: ChangeQuestion) -> MembersResponse:
        """Made by whoever leads; a leader that loses its office before it proposes is no answer."""
        server = self._server
        deadline = self._loop.time() + server.request_timeout
        while server.leader != NONE and self._loop.time() < deadline:
            try:
                if server.is_leader:
                    return await self._lead(question)
                return await self._ask(server.leader, question)
            except errors.NotLeader:
                await asyncio.sleep(_RETRY_SECONDS)
        raise errors.NoLeader

    async def _ask(self, leader: int, question: ChangeQuestion) -> MembersResponse:
        server = self._server
        seconds = server.request_timeout
        try:
            answer = await server.peer_calls.ask(
                leader, PeerCall.CHANGE_MEMBERS, question, ChangeAnswer, seconds
            )
        except (PeerUnavailable, CallFailed) as error:
            raise errors.RequestTimedOut from error
        if answer.refusal:
            raise _REFUSALS.get(answer.refusal, errors.RequestTimedOut)(answer.why)
        deadline = self._loop.time() + seconds
        while server.applied_index < answer.index:
            if self._loop.time() > deadline:
                raise errors.RequestTimedOut
            await asyncio.sleep(_POLL_SECONDS)
        return MembersResponse(answer.members, answer.member)

    async def _answer(self, _sender: int, question: ChangeQuestion) -> ChangeAnswer:
        """Another member's client asks for a change; it is refused unless this member leads."""
        try:
            if not self._server.is_leader:
                raise errors.NotLeader
            response = await self._lead(question)
        except errors.ApplyError as error:
            return ChangeAnswer(refusal=type(error).__name__, why=str(error))
        return ChangeAnswer(self._server.applied_index, response.members, response.member)

    # -- what the leader does

    async def _lead(self, question: ChangeQuestion) -> MembersResponse:
        """Ask what is to be asked, and make the change: one at a time. NotLeader: not proposed."""
        try:
            async with asyncio.timeout(self._server.request_timeout), self._changing:
                if question.kind == ChangeKind.ADD:
                    return await self._lead_add(question)
                if question.kind == ChangeKind.REMOVE:
                    return await self._lead_remove(question.ID)
                return await self._lead_promote(question.ID)
        except TimeoutError as error:
            raise errors.RequestTimedOut from error

    async def _lead_add(self, question: ChangeQuestion) -> MembersResponse:
        server = self._server
        urls = question.peerURLs
        check_peer_urls(urls)
        members = server.members.list()
        taken = {url for member in members for url in member.peerURLs}
        if not taken.isdisjoint(urls):
            raise errors.PeerUrlExists
        if question.isLearner:
            if sum(member.isLearner for member in members) >= _LEARNERS_MAX:
                raise errors.TooManyLearners
        elif server.config.strict_reconfig_check:
            check_adding(self._standings())
        salt = f"{server.request_id():016x}"
        number = new_id(urls, server.config.initial_cluster_token, salt)
        member = Member(number, peerURLs=urls, isLearner=question.isLearner)
        kind = ConfChangeType.ADD_LEARNER if question.isLearner else ConfChangeType.ADD_VOTER
        return await self._change(ChangeKind.ADD, member, kind)

    async def _lead_remove(self, number: int) -> MembersResponse:
        member = self._present(number)
        if self._server.config.strict_reconfig_check and not member.isLearner:
            check_removing(self._standings(without=number))
        return await self._change(ChangeKind.REMOVE, member, ConfChangeType.REMOVE)

    async def _lead_promote(self, number: int) -> MembersResponse:
        try:
            member = self._present(number)
            if not member.isLearner:
                raise errors.NotLearner
            if not member.name or not self._caught_up(number):
                raise errors.LearnerNotReady
            if self._server.config.strict_reconfig_check:
                check_promoting(self._standings(), reachable=self._reachable(number))
            response = await self._change(ChangeKind.PROMOTE, member, ConfChangeType.ADD_VOTER)
        except errors.ApplyError as error:
            refused = self.promotions_refused
            refused[type(error)] = refused.get(type(error), 0) + 1
            raise
        self.promoted_total += 1
        return response

    def _present(self, number: int) -> Member:
        member = self._server.members.get(number)
        if member is None:
            raise errors.MemberNotFound
        return member

    def _standings(self, without: int = NONE) -> list[Standing]:
        """Of all voters but one."""
        return [
            Standing(bool(member.name), self._connected(member.ID))
            for member in self._server.members.list()
            if not member.isLearner and without != member.ID
        ]

    def _connected(self, number: int) -> bool:
        """For long enough to be relied on."""
        if number == self._server.member_id:
            return True
        since = self._server.transport.active_since(number)
        return since is not None and self._loop.time() - since >= _CONNECTED_SECONDS

    def _reachable(self, number: int) -> bool:
        server = self._server
        return number == server.member_id or server.transport.active_since(number) is not None

    def _caught_up(self, number: int) -> bool:
        status = self._server.driver.status()
        own, learner = status.progress.get(self._server.member_id), status.progress.get(number)
        if own is None or learner is None:
            return False
        return learner.match > 0 and learner.match >= own.match * _CAUGHT_UP_SHARE

    async def _change(
        self, kind: ChangeKind, member: Member, raft_kind: ConfChangeType
    ) -> MembersResponse:
        server = self._server
        future: asyncio.Future[MembersResponse] = self._loop.create_future()

        def done(result: object) -> None:
            if future.done():
                return  # the caller was stopped meanwhile
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                assert isinstance(result, MembersResponse), result
                future.set_result(result)

        def propose(request_id: int) -> None:
            context = encode_change(MemberChange(request_id, kind, member))
            single = ConfChangeSingle(raft_kind, member.ID)
            try:
                server.driver.propose_conf_change(ConfChange([single], context=context))
            except ProposalDropped as error:
                raise errors.NotLeader from error

        server.propose_change(propose, done)
        return await future


class Standing(NamedTuple):
    """One voter: whether it ever started, and whether it has been connected for a while."""

    started: bool
    connected: bool


def check_adding(voters: Sequence[Standing]) -> None:
    """NotEnoughStarted or Unhealthy when the cluster with one more voter, which does not run yet,
    would have no quorum. One voter alone may always get a second: there is no other way to grow.
    """
    if len(voters) == 1 and voters[0].started:
        return
    _require_quorum(voters, 0, len(voters) + 1)


def check_promoting(voters: Sequence[Standing], *, reachable: bool) -> None:
    """The same for a learner, which runs: it counts as started, and as connected if it is."""
    if not reachable:
        raise errors.Unhealthy
    _require_quorum(voters, 1, len(voters) + 1)


def check_removing(rest: Sequence[Standing]) -> None:
    """The same for what a removed voter leaves, whether that one is connected or not: its return
    could let the change through while those it leaves are still away.
    """
    if not rest:
        raise errors.NotEnoughStarted
    _require_quorum(rest, 0, len(rest))


def _require_quorum(voters: Sequence[Standing], more: int, count: int) -> None:
    """`more` of the `count` voters, beside those listed, are able."""
    quorum = count // 2 + 1
    if sum(voter.started for voter in voters) + more < quorum:
        raise errors.NotEnoughStarted
    if sum(voter.connected for voter in voters) + more < quorum:
        raise errors.Unhealthy


def check_peer_urls(urls: Sequence[str]) -> None:
    """MemberUrlsInvalid unless there is one and each is http(s)://host:port without a path."""
    if not urls:
        raise errors.MemberUrlsInvalid
    for url in urls:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port
        except ValueError as error:
            raise errors.MemberUrlsInvalid(url) from error
        if not valid or parts.path or parts.query or parts.fragment:
            raise errors.MemberUrlsInvalid(url)
