"""Members: ids, the first configuration, what a change is refused for, and that rows say it all."""

from __future__ import annotations

import itertools

import pytest

from mvcc.memory_backend import MemoryBackend
from node.apply import errors
from node.apply.members import (
    ChangeKind,
    MemberChange,
    Members,
    decode_change,
    encode_change,
    first_members,
    new_cluster_id,
    new_id,
)
from node.apply.requests import MemberAttributesRequest, MemberUpdateRequest
from node.apply.responses import Member, MembersResponse
from raft.core.types import ConfState

ADD, REMOVE, PROMOTE = ChangeKind
CLUSTER = {"a": ["http://a:1", "http://a:2"], "b": ["http://b:1"], "c": ["http://c:1"]}
A_NEW_VOTER = Member(100, peerURLs=["http://n:1"])
A_LEARNER = Member(101, peerURLs=["http://l:1"], isLearner=True)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def members(backend: MemoryBackend) -> Members:
    """Three first voters and one learner that has not started."""
    members = Members(backend)
    members.bootstrap(first_members(CLUSTER, "token"), "token")
    members.apply(change(ADD, A_LEARNER))
    return members


def change(kind: ChangeKind, member: Member) -> MemberChange:
    return MemberChange(1, kind, member)


def same_after_restart(members: Members, backend: MemoryBackend) -> bool:
    again = Members(backend)
    again.restore()
    again.check_invariants()
    return (again.list(), again.cluster_id, again.conf_state) == (
        members.list(),
        members.cluster_id,
        members.conf_state,
    )


# -- ids


def test_every_first_member_computes_the_same_ids() -> None:
    shuffled = {name: list(reversed(CLUSTER[name])) for name in ("c", "a", "b")}
    assert first_members(CLUSTER, "token") == first_members(shuffled, "token")
    first = first_members(CLUSTER, "token")
    assert [member.ID for member in first] == sorted(member.ID for member in first)
    assert new_cluster_id(first, "token") == new_cluster_id(first, "token")


def test_ids_differ_by_urls_token_and_salt() -> None:
    ids = [
        new_id(["http://a:1"], "token"),
        new_id(["http://a:1"], "other"),
        new_id(["http://a:2"], "token"),
        new_id(["http://a:1", "http://a:2"], "token"),
        new_id(["http://a:1"], "token", "1"),
        new_id(["http://a:1"], "token", "2"),
        new_id(["http://a:1", "token"], ""),
        new_cluster_id([Member(1)], "token"),
        new_cluster_id([Member(1)], "other"),
    ]
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 2**64 for number in ids)


def test_an_id_is_for_ever_the_same() -> None:
    """Ids are in every data directory: the function may not change."""
    assert new_id(["http://127.0.0.1:2380"], "etcd-cluster") == 0x63051E62AF32E0C5
    assert new_cluster_id([Member(1), Member(2)], "etcd-cluster") == 0x654A7581D84B7EAD


# -- the first configuration


def test_bootstrap_is_all_there_is_in_the_rows(backend: MemoryBackend) -> None:
    members = Members(backend)
    members.restore()
    assert (members.list(), members.cluster_id, members.conf_state) == ([], 0, ConfState())
    first = first_members(CLUSTER, "token")
    members.bootstrap(first, "token")
    assert members.list() == first
    assert members.conf_state == ConfState(voters=tuple(member.ID for member in first))
    assert members.cluster_id == new_cluster_id(first, "token")
    assert same_after_restart(members, backend)


def test_bootstrap_only_once(members: Members) -> None:
    with pytest.raises(AssertionError):
        members.bootstrap(first_members(CLUSTER, "token"), "token")


# -- what a change is refused for


def test_check_and_changes_nothing(members: Members) -> None:
    voter = next(member for member in members.list() if not member.isLearner)
    before = members.list()
    refusals: list[tuple[MemberChange, type[Exception]]] = [
        (change(ADD, Member(voter.ID, peerURLs=["http://n:1"])), errors.MemberExists),
        (change(ADD, Member(0, peerURLs=["http://n:1"])), errors.InvalidArgument),
        (change(ADD, Member(2**64, peerURLs=["http://n:1"])), errors.InvalidArgument),
        (change(ADD, Member(100, peerURLs=["http://a:2"])), errors.PeerUrlExists),
        (change(ADD, Member(100, peerURLs=["http://n:1"] * 2)), errors.PeerUrlExists),
        (change(ADD, Member(100)), errors.MemberUrlsInvalid),
        (change(REMOVE, Member(100)), errors.MemberNotFound),
        (change(PROMOTE, Member(100)), errors.MemberNotFound),
        (change(PROMOTE, Member(voter.ID)), errors.NotLearner),
        (change(PROMOTE, A_LEARNER), errors.LearnerNotReady),
    ]
    for each, error in refusals:
        with pytest.raises(error):
            members.check(each)
    assert members.list() == before
    members.check_invariants()


def test_a_learner_that_never_ran_is_not_promoted(members: Members, backend: MemoryBackend) -> None:
    members.publish(MemberAttributesRequest(A_LEARNER.ID, "l", ["http://l:2"]))
    members.check(change(PROMOTE, Member(A_LEARNER.ID)))
    response = members.apply(change(PROMOTE, Member(A_LEARNER.ID)))
    promoted = Member(A_LEARNER.ID, "l", ["http://l:1"], ["http://l:2"], isLearner=False)
    assert promoted in response.members
    assert members.is_voter(A_LEARNER.ID)
    assert same_after_restart(members, backend)


def test_new_urls_leave_a_learner_a_learner(members: Members, backend: MemoryBackend) -> None:
    """etcd once promoted by such an update."""
    members.update(MemberUpdateRequest(A_LEARNER.ID, ["http://l:9"]))
    assert members.is_learner(A_LEARNER.ID)
    assert members.get(A_LEARNER.ID) == Member(
        A_LEARNER.ID, peerURLs=["http://l:9"], isLearner=True
    )
    assert same_after_restart(members, backend)


def test_an_update_may_keep_urls_but_not_take_others(members: Members) -> None:
    members.update(MemberUpdateRequest(A_LEARNER.ID, ["http://l:1", "http://l:2"]))
    with pytest.raises(errors.PeerUrlExists):
        members.update(MemberUpdateRequest(A_LEARNER.ID, ["http://l:1", "http://b:1"]))
    with pytest.raises(errors.MemberUrlsInvalid):
        members.update(MemberUpdateRequest(A_LEARNER.ID))
    with pytest.raises(errors.MemberNotFound):
        members.update(MemberUpdateRequest(5, ["http://x:1"]))
    with pytest.raises(errors.MemberNotFound):
        members.publish(MemberAttributesRequest(5, "x"))


def test_a_removed_id_never_returns_but_its_urls_may(
    members: Members, backend: MemoryBackend
) -> None:
    gone = members.list()[0]
    assert members.apply(change(REMOVE, gone)) == MembersResponse(members.list())
    assert members.get(gone.ID) is None
    for each in (members, Members(backend)):
        each.restore()
        assert each.is_removed(gone.ID)
        assert not each.is_voter(gone.ID)
        assert not each.is_learner(gone.ID)
        with pytest.raises(errors.MemberExists):
            each.check(change(ADD, gone))
        each.check(change(ADD, Member(100, peerURLs=gone.peerURLs)))


def test_an_added_member_is_named_in_the_answer(members: Members) -> None:
    members.check(change(ADD, A_NEW_VOTER))
    response = members.apply(change(ADD, A_NEW_VOTER))
    assert response.member == A_NEW_VOTER
    assert [member.ID for member in response.members] == sorted(
        member.ID for member in members.list()
    )


def test_every_prefix_of_changes_is_in_the_rows(backend: MemoryBackend) -> None:
    """etcd kept two copies of the membership, which drifted apart over restarts."""
    members = Members(backend)
    members.bootstrap(first_members(CLUSTER, "token"), "token")
    steps = [
        lambda: members.apply(change(ADD, A_LEARNER)),
        lambda: members.publish(MemberAttributesRequest(A_LEARNER.ID, "l", ["http://l:2"])),
        lambda: members.update(MemberUpdateRequest(A_LEARNER.ID, ["http://l:3"])),
        lambda: members.apply(change(PROMOTE, A_LEARNER)),
        lambda: members.apply(change(ADD, A_NEW_VOTER)),
        lambda: members.apply(change(REMOVE, A_LEARNER)),
    ]
    for step, number in zip(steps, itertools.count(1), strict=False):
        step()
        members.put_conf_state(ConfState(voters=(number,), learners=(2**64 - 1,)))
        assert same_after_restart(members, backend)


# -- bytes


def test_changes_and_back() -> None:
    for kind, member in ((ADD, A_LEARNER), (REMOVE, Member(2**64 - 1)), (PROMOTE, Member(1))):
        each = MemberChange(2**64 - 1, kind, member)
        assert decode_change(encode_change(each)) == each


@pytest.mark.parametrize("context", [b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"junk"])
def test_bytes_that_are_no_change(context: bytes) -> None:
    with pytest.raises(ValueError, match="malformed membership change"):
        decode_change(context)
