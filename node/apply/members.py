"""The membership: who belongs to the cluster, by which URLs, and who never may again.

One store only: these rows, and the raft configuration beside them, written in the batch of the
entry that changed them. Whether a change is allowed depends on nothing but them, so every member
decides alike; whether it is wise (who is reachable, has the learner caught up) was asked before it
was proposed.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

import msgspec

from mvcc.backend import Backend
from raft.core.types import ConfState

from .errors import (
    InvalidArgument,
    LearnerNotReady,
    MemberExists,
    MemberNotFound,
    MemberUrlsInvalid,
    NotLearner,
    PeerUrlExists,
)
from .requests import MemberAttributesRequest, MemberUpdateRequest
from .responses import Member, MembersResponse
from .schema import (
    CLUSTER,
    CLUSTER_ID,
    CONF_STATE,
    END,
    FIRST,
    MEMBERS,
    MEMBERS_REMOVED,
    META,
    UINT64_MAX,
    id_key,
    member_id_of,
)


class ChangeKind(IntEnum):
    """What a configuration change means to the membership. Numbers are in the log for ever."""

    ADD = 0
    REMOVE = 1
    PROMOTE = 2


class MemberChange(msgspec.Struct, omit_defaults=True):
    """A configuration change's context in the log. REMOVE and PROMOTE read only the member's ID."""

    request_id: int
    kind: ChangeKind
    member: Member


def encode_change(change: MemberChange) -> bytes:
    return _ENCODE(change)


def decode_change(context: bytes) -> MemberChange:
    """ValueError when these bytes are no change of ours."""
    try:
        return _DECODE_CHANGE(context)
    except msgspec.DecodeError as error:
        raise ValueError(f"malformed membership change: {error}") from error


def new_id(peer_urls: Iterable[str], token: str, salt: str = "") -> int:
    """A member's id: the first 8 bytes of the BLAKE2b of sorted URLs, token and salt, big-endian,
    never 0.

    Parts end in a zero byte, so that no two lists read alike. Members of the first configuration
    have no salt: each computes the same ids from the same flags. One added later is salted by its
    proposer (with the time), for ids are never reused though URLs may be.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (*sorted(peer_urls), "", token, salt):
        digest.update(part.encode() + b"\0")
    return int.from_bytes(digest.digest(), "big") or 1


def new_cluster_id(members: Iterable[Member], token: str) -> int:
    """The same function over the ascending ids of the first members, in hex, and the token."""
    return new_id((f"{member.ID:016x}" for member in members), token, "cluster")


def first_members(initial_cluster: Mapping[str, Sequence[str]], token: str) -> list[Member]:
    """Voters of a new cluster, ascending by ID, from name -> peer URLs.

    They have no names yet: a member publishes its own when it starts.
    """
    members = [
        Member(new_id(urls, token), peerURLs=sorted(urls)) for urls in initial_cluster.values()
    ]
    return sorted(members, key=lambda member: member.ID)


class Members:
    """The membership as of the last applied entry.

    Ids of present members and of removed ones are disjoint; no URL belongs to two members;
    `conf_state` names exactly the present members once the change that brought them is applied.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._members: dict[int, Member] = {}
        self._removed: set[int] = set()
        self.cluster_id = 0
        self.conf_state = ConfState()

    def restore(self) -> None:
        """Load everything from the backend; all empty in a fresh one."""
        backend = self._backend
        rows = backend.range(MEMBERS, FIRST, END, 0)
        self._members = {member_id_of(key): _DECODE_MEMBER(row) for key, row in rows}
        self._removed = {
            member_id_of(key) for key, _ in backend.range(MEMBERS_REMOVED, FIRST, END, 0)
        }
        row = backend.get(CLUSTER, CLUSTER_ID)
        self.cluster_id = 0 if row is None else member_id_of(row)
        row = backend.get(META, CONF_STATE)
        self.conf_state = ConfState() if row is None else _DECODE_CONF_STATE(row)

    def bootstrap(self, members: Iterable[Member], token: str) -> None:
        """Write the first configuration of a new cluster, the same on every first member."""
        first = sorted(members, key=lambda member: member.ID)
        assert not self._members and not self._removed, "bootstrap of a store that has members"
        assert len({member.ID for member in first}) == len(first), "two first members of one id"
        for member in first:
            self._write(member)
        self.cluster_id = new_cluster_id(first, token)
        self._backend.put(CLUSTER, CLUSTER_ID, id_key(self.cluster_id))
        self.put_conf_state(
            ConfState(
                voters=tuple(member.ID for member in first if not member.isLearner),
                learners=tuple(member.ID for member in first if member.isLearner),
            )
        )

    def keep_only(self, number: int) -> None:
        """The majority is lost: `number` goes on as the only voter. All others count as removed."""
        for member in self.list():
            if number != member.ID:
                self._remove(member.ID)
        self._write(msgspec.structs.replace(self._members[number], isLearner=False))
        self.put_conf_state(ConfState(voters=(number,)))

    def get(self, number: int) -> Member | None:
        return self._members.get(number)

    def list(self) -> builtins.list[Member]:
        """Ascending by ID."""
        return [self._members[number] for number in sorted(self._members)]

    def is_removed(self, number: int) -> bool:
        return number in self._removed

    def is_learner(self, number: int) -> bool:
        member = self._members.get(number)
        return member is not None and member.isLearner

    def is_voter(self, number: int) -> bool:
        member = self._members.get(number)
        return member is not None and not member.isLearner

    def check(self, change: MemberChange) -> None:
        """Raise what forbids `change`; nothing is changed by asking.

        MemberExists (also for a removed id), PeerUrlExists, MemberUrlsInvalid, InvalidArgument,
        MemberNotFound, NotLearner, LearnerNotReady.
        """
        member = change.member
        if change.kind == ChangeKind.ADD:
            if not 0 < member.ID <= UINT64_MAX:
                raise InvalidArgument(f"member id {member.ID} does not fit 64 bits without a sign")
            if member.ID in self._members or member.ID in self._removed:
                raise MemberExists
            self._check_urls(member.ID, member.peerURLs)
            return
        present = self._present(member.ID)
        if change.kind == ChangeKind.PROMOTE:
            if not present.isLearner:
                raise NotLearner
            if not present.name:
                raise LearnerNotReady

    def apply(self, change: MemberChange) -> MembersResponse:
        """Carry out a change that `check` has let through at this very position of the log."""
        member = change.member
        if change.kind == ChangeKind.ADD:
            self._write(member)
            return MembersResponse(self.list(), member)
        present = self._members[member.ID]
        if change.kind == ChangeKind.REMOVE:
            self._remove(member.ID)
        else:
            self._write(msgspec.structs.replace(present, isLearner=False))
        return MembersResponse(self.list())

    def update(self, request: MemberUpdateRequest) -> MembersResponse:
        """New peer URLs; name and learner flag stay.

        MemberNotFound, PeerUrlExists, MemberUrlsInvalid.
        """
        present = self._present(request.ID)
        self._check_urls(request.ID, request.peerURLs)
        self._write(msgspec.structs.replace(present, peerURLs=request.peerURLs))
        return MembersResponse(self.list())

    def publish(self, request: MemberAttributesRequest) -> MembersResponse:
        """A started member's name and client URLs. MemberNotFound: it was removed meanwhile."""
        present = self._present(request.ID)
        self._write(
            msgspec.structs.replace(present, name=request.name, clientURLs=request.clientURLs)
        )
        return MembersResponse(self.list())

    def put_conf_state(self, conf_state: ConfState) -> None:
        """Keep raft's configuration as it is after the entry being applied."""
        self.conf_state = conf_state
        self._backend.put(META, CONF_STATE, msgspec.msgpack.encode(conf_state))

    def check_invariants(self) -> None:
        assert not self._removed & self._members.keys(), self._removed
        urls = [url for member in self._members.values() for url in member.peerURLs]
        assert len(urls) == len(set(urls)), urls

    def _present(self, number: int) -> Member:
        member = self._members.get(number)
        if member is None:
            raise MemberNotFound
        return member

    def _check_urls(self, number: int, urls: Sequence[str]) -> None:
        if not urls:
            raise MemberUrlsInvalid
        if len(set(urls)) != len(urls):
            raise PeerUrlExists
        for member in self._members.values():
            if number != member.ID and not set(urls).isdisjoint(member.peerURLs):
                raise PeerUrlExists

    def _remove(self, number: int) -> None:
        del self._members[number]
        self._removed.add(number)
        self._backend.delete(MEMBERS, id_key(number))
        self._backend.put(MEMBERS_REMOVED, id_key(number), b"")

    def _write(self, member: Member) -> None:
        self._members[member.ID] = member
        self._backend.put(MEMBERS, id_key(member.ID), _ENCODE(member))


_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE_MEMBER = msgspec.msgpack.Decoder(Member).decode
_DECODE_CHANGE = msgspec.msgpack.Decoder(MemberChange).decode
_DECODE_CONF_STATE = msgspec.msgpack.Decoder(ConfState).decode
