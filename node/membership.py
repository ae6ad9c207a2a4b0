"""Changing who belongs to the cluster: what is asked before a change is proposed, and the wait for
it.

Whether a change is *allowed* is decided in apply, from the membership alone, on every member
alike. Whether it is *wise* is asked here, once, by the member that was called: would the change
leave a quorum, are its members connected, has a learner caught up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from node.apply import errors
from node.apply.members import ChangeKind, MemberChange, encode_change, new_id
from node.apply.requests import MemberUpdateRequest
from node.apply.responses import Member, MembersResponse
from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType
from raft.core.errors import ProposalDropped

if TYPE_CHECKING:
    from node.server import Server

_CONNECTED_SECONDS = 5.0
_LEARNERS_MAX = 1
_CAUGHT_UP_SHARE = 0.9


class Membership:
    """The cluster's members, as one of them changes them. Every call returns after the change is
    applied here.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()

    async def add(self, peer_urls: Sequence[str], *, is_learner: bool) -> MembersResponse:
        """Add a member that is not started yet. MemberUrlsInvalid, PeerUrlExists, TooManyLearners,
        NotEnoughStarted, Unhealthy.
        """
        server = self._server
        check_peer_urls(peer_urls)
        members = server.members.list()
        taken = {url for member in members for url in member.peerURLs}
        if not taken.isdisjoint(peer_urls):
            raise errors.PeerUrlExists
        if is_learner:
            if sum(member.isLearner for member in members) >= _LEARNERS_MAX:
                raise errors.TooManyLearners
        elif server.config.strict_reconfig_check:
            self._check_adding_voter()
        salt = f"{server.request_id():016x}"
        number = new_id(peer_urls, server.config.initial_cluster_token, salt)
        member = Member(number, peerURLs=list(peer_urls), isLearner=is_learner)
        kind = ConfChangeType.ADD_LEARNER if is_learner else ConfChangeType.ADD_VOTER
        return await self._change(ChangeKind.ADD, member, kind)

    async def remove(self, number: int) -> MembersResponse:
        """Remove a member for ever: its id never comes back. MemberNotFound, NotEnoughStarted,
        Unhealthy.
        """
        member = self._present(number)
        if self._server.config.strict_reconfig_check and not member.isLearner:
            self._check_removing_voter(number)
        return await self._change(ChangeKind.REMOVE, member, ConfChangeType.REMOVE)

    async def promote(self, number: int) -> MembersResponse:
        """Make a voter of a learner that has caught up. MemberNotFound, NotLearner,
        LearnerNotReady, NotLeader.
        """
        member = self._present(number)
        if not member.isLearner:
            raise errors.NotLearner
        if not self._caught_up(number):
            raise errors.LearnerNotReady
        if self._server.config.strict_reconfig_check:
            self._check_adding_voter()
        return await self._change(ChangeKind.PROMOTE, member, ConfChangeType.ADD_VOTER)

    async def update(self, number: int, peer_urls: Sequence[str]) -> MembersResponse:
        """Give a member other peer URLs. MemberNotFound, MemberUrlsInvalid, PeerUrlExists."""
        self._present(number)
        check_peer_urls(peer_urls)
        request = MemberUpdateRequest(number, list(peer_urls))
        response: MembersResponse = await self._server.call(self._server.propose, request)
        return response

    def _present(self, number: int) -> Member:
        member = self._server.members.get(number)
        if member is None:
            raise errors.MemberNotFound
        return member

    def _voters(self) -> list[Member]:
        return [member for member in self._server.members.list() if not member.isLearner]

    def _check_adding_voter(self) -> None:
        voters = self._voters()
        started = sum(bool(member.name) for member in voters)
        grows_from_one = started == 1 and len(voters) == 1
        if not grows_from_one and started < (len(voters) + 1) // 2 + 1:
            raise errors.NotEnoughStarted
        if not all(self._connected(member.ID) for member in voters):
            raise errors.Unhealthy

    def _check_removing_voter(self, number: int) -> None:
        rest = [member for member in self._voters() if number != member.ID]
        quorum = len(rest) // 2 + 1
        if not rest or sum(bool(member.name) for member in rest) < quorum:
            raise errors.NotEnoughStarted
        if not self._connected(number):
            return
        if sum(self._connected(member.ID) for member in rest) < quorum:
            raise errors.Unhealthy

    def _connected(self, number: int) -> bool:
        if number == self._server.member_id:
            return True
        since = self._server.transport.active_since(number)
        return since is not None and self._loop.time() - since >= _CONNECTED_SECONDS

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
                raise errors.NoLeader from error

        server.propose_change(propose, done)
        return await future


def check_peer_urls(urls: Sequence[str]) -> None:
    """MemberUrlsInvalid unless there is one and each is http(s)://host:port without a path."""
    if not urls:
        raise errors.MemberUrlsInvalid
    for url in urls:
        parts = urlsplit(url)
        try:
            valid = parts.scheme in ("http", "https") and parts.hostname and parts.port
        except ValueError:
            valid = False
        if not valid or parts.path or parts.query or parts.fragment:
            raise errors.MemberUrlsInvalid(url)
