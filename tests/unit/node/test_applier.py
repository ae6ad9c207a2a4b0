"""Applier: results, refusals, alarms, leases, members, each as an entry of the log."""

from __future__ import annotations

import pytest

from mvcc.errors import Compacted, CorruptionError, FutureRevision
from mvcc.kv import KeyValue
from mvcc.memory_backend import MemoryBackend
from node.apply import errors
from node.apply.members import ChangeKind, MemberChange, encode_change, first_members
from node.apply.requests import (
    AlarmAction,
    AlarmRequest,
    AlarmType,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    MemberUpdateRequest,
    PutRequest,
    RangeRequest,
    Request,
    RequestOp,
    TxnRequest,
    encode,
)
from node.apply.responses import (
    Alarm,
    AlarmResponse,
    CompactionResponse,
    DeleteRangeResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    Member,
    MembersResponse,
    PutResponse,
    TxnResponse,
)
from raft.core.errors import ConfChangeRefused
from raft.core.types import ConfState

from .apply_fixture import Machine, put_op, refused, txn_op


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- put and delete


def test_first_write_takes_revision_two_and_each_put_one_more(machine: Machine) -> None:
    assert machine.put(b"a", b"1") == PutResponse(2)
    assert machine.put(b"a", b"1") == PutResponse(3)
    assert machine.store.get(b"a") == KeyValue(b"a", b"1", 2, 3, 2, 0)


def test_new_leaders_empty_entry_does_nothing(machine: Machine) -> None:
    assert machine.entry(1, b"") is None
    assert machine.store.current_rev == 1


def test_prev_kv_only_when_asked_for_and_there(machine: Machine) -> None:
    assert machine.put(b"a", b"1", prev_kv=True) == PutResponse(2, None)
    assert machine.put(b"a", b"2", prev_kv=True) == PutResponse(3, KeyValue(b"a", b"1", 2, 2, 1))
    assert machine.put(b"a", b"3") == PutResponse(4, None)


def test_ignore_value_and_lease_keep_what_is_there(machine: Machine) -> None:
    machine.apply(LeaseGrantRequest(10, 7))
    machine.apply(LeaseGrantRequest(10, 8))
    machine.put(b"a", b"1", lease=7)
    machine.put(b"a", lease=8, ignore_value=True)
    assert machine.store.get(b"a") == KeyValue(b"a", b"1", 2, 3, 2, 8)
    machine.put(b"a", b"2", ignore_lease=True)
    assert machine.store.get(b"a") == KeyValue(b"a", b"2", 2, 4, 3, 8)
    assert machine.lessor.keys_of(7) == []
    assert machine.lessor.keys_of(8) == [b"a"]


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (PutRequest(b""), errors.KeyNotProvided),
        (PutRequest(b"a", ignore_value=True), errors.KeyNotFound),
        (PutRequest(b"a", b"1", ignore_lease=True), errors.KeyNotFound),
        (PutRequest(b"a", b"1", ignore_value=True), errors.ValueProvided),
        (PutRequest(b"a", lease=1, ignore_lease=True), errors.LeaseProvided),
        (PutRequest(b"a", lease=9), errors.LeaseNotFound),
        (PutRequest(b"a", lease=-9), errors.LeaseNotFound),
        (PutRequest(b"a", lease=2**64 - 1), errors.InvalidArgument),
        (DeleteRangeRequest(b""), errors.KeyNotProvided),
        (LeaseGrantRequest(10, 0), errors.LeaseNotFound),
        (LeaseGrantRequest(9_000_000_001, 1), errors.LeaseTtlTooLarge),
        (LeaseRevokeRequest(9), errors.LeaseNotFound),
        (AlarmRequest(3), errors.InvalidArgument),
        (AlarmRequest(AlarmAction.ACTIVATE, 1, 3), errors.InvalidArgument),
        (AlarmRequest(AlarmAction.ACTIVATE, -1, 1), errors.InvalidArgument),
        (CompactionRequest(-1), Compacted),
        (CompactionRequest(2), FutureRevision),
        (MemberAttributesRequest(9, "m"), errors.MemberNotFound),
        (MemberUpdateRequest(9, ["http://h:1"]), errors.MemberNotFound),
        (TxnRequest(success=[RequestOp()]), errors.KeyNotFound),
    ],
)
def test_a_refusal_is_a_result_and_leaves_no_trace(
    machine: Machine, request_: Request, error: type[Exception]
) -> None:
    before = machine.hash_kv()
    assert refused(machine.apply(request_, decoded=False)) is error
    assert machine.store.current_rev == 1
    assert machine.hash_kv() == before
    assert machine.backend.applied()[0] == 1
    machine.check()


def test_delete_range_counts_and_returns_pairs_in_key_order(machine: Machine) -> None:
    for key in (b"b", b"a", b"c"):
        machine.put(key, key)
    response = machine.apply(DeleteRangeRequest(b"a", b"c", prev_kv=True))
    assert isinstance(response, DeleteRangeResponse)
    assert (response.revision, response.deleted) == (5, 2)
    assert [kv.key for kv in response.prev_kvs] == [b"a", b"b"]
    assert machine.apply(DeleteRangeRequest(b"c")) == DeleteRangeResponse(6, 1, [])


def test_delete_of_nothing_takes_no_revision(machine: Machine) -> None:
    assert machine.apply(DeleteRangeRequest(b"a", b"\0", prev_kv=True)) == DeleteRangeResponse(1)


# -- compaction


def test_compaction_hands_out_its_job_and_answers_the_current_revision(machine: Machine) -> None:
    machine.put(b"a")
    machine.put(b"a")
    assert machine.apply(CompactionRequest(2)) == CompactionResponse(3)
    assert [job.revision for job in machine.jobs] == [2]
    assert machine.store.compact_rev == 2
    assert refused(machine.apply(CompactionRequest(2))) is Compacted
    assert len(machine.jobs) == 1


def test_compaction_at_zero_works_once(machine: Machine) -> None:
    assert machine.apply(CompactionRequest(0)) == CompactionResponse(1)
    assert refused(machine.apply(CompactionRequest(0))) is Compacted


# -- leases


def test_grant_put_revoke(machine: Machine) -> None:
    assert machine.apply(LeaseGrantRequest(10, 7)) == LeaseGrantResponse(1, 7, 10)
    assert refused(machine.apply(LeaseGrantRequest(20, 7))) is errors.LeaseExists
    machine.put(b"b", lease=7)
    machine.put(b"a", lease=7)
    machine.put(b"c")
    assert machine.apply(LeaseRevokeRequest(7)) == LeaseRevokeResponse(5)
    assert machine.keys() == [b"c"]
    events = machine.store.events(5, 6, 0)
    assert [event.kv.key for event in events] == [b"a", b"b"], "one revision, ascending keys"
    assert refused(machine.apply(LeaseRevokeRequest(7))) is errors.LeaseNotFound


def test_revoke_without_keys_takes_no_revision(machine: Machine) -> None:
    machine.apply(LeaseGrantRequest(10, 7))
    assert machine.apply(LeaseRevokeRequest(7)) == LeaseRevokeResponse(1)


def test_put_moves_and_detaches_a_key(machine: Machine) -> None:
    machine.apply(LeaseGrantRequest(10, 7))
    machine.apply(LeaseGrantRequest(10, -8))
    machine.put(b"a", lease=7)
    machine.put(b"a", lease=-8)
    assert (machine.lessor.keys_of(7), machine.lessor.keys_of(-8)) == ([], [b"a"])
    machine.put(b"a")
    assert machine.lessor.keys_of(-8) == []
    machine.put(b"a", lease=7)
    machine.apply(DeleteRangeRequest(b"a"))
    assert machine.lessor.keys_of(7) == []
    machine.check()


def test_restart_attaches_by_the_newest_record(machine: Machine) -> None:
    machine.apply(LeaseGrantRequest(10, 7))
    machine.apply(LeaseGrantRequest(10, -8))
    machine.put(b"a", lease=7)
    machine.put(b"b", lease=7)
    machine.put(b"c", lease=7)
    machine.put(b"b", lease=-8)
    machine.apply(DeleteRangeRequest(b"c"))
    machine.backend.force_commit()
    again = Machine(machine.backend.crash())
    assert (again.lessor.keys_of(7), again.lessor.keys_of(-8)) == ([b"a"], [b"b"])
    again.check()


# -- alarms

GROWING: list[Request] = [
    PutRequest(b"a"),
    TxnRequest(success=[put_op(b"a")]),
    TxnRequest(failure=[put_op(b"a")]),
    TxnRequest(success=[RequestOp(request_txn=TxnRequest(failure=[put_op(b"a")]))]),
    LeaseGrantRequest(10, 9),
]
FREEING: list[Request] = [
    TxnRequest(success=[RequestOp(request_range=RangeRequest(b"k"))]),
    TxnRequest(success=[RequestOp(request_delete_range=DeleteRangeRequest(b"k"))]),
    DeleteRangeRequest(b"k"),
    LeaseRevokeRequest(7),
    CompactionRequest(2),
]


def prepared(*alarms: AlarmType) -> Machine:
    """A key, a lease, and these alarms raised."""
    machine = Machine()
    machine.put(b"k")
    machine.apply(LeaseGrantRequest(10, 7))
    for alarm in alarms:
        machine.apply(AlarmRequest(AlarmAction.ACTIVATE, 1, alarm))
    return machine


@pytest.mark.parametrize("request_", GROWING)
def test_nospace_refuses_what_grows(request_: Request) -> None:
    assert refused(prepared(AlarmType.NOSPACE).apply(request_)) is errors.NoSpace


@pytest.mark.parametrize("request_", FREEING)
def test_nospace_lets_through_what_frees_or_reads(request_: Request) -> None:
    assert not isinstance(prepared(AlarmType.NOSPACE).apply(request_), Exception)


@pytest.mark.parametrize("request_", GROWING + FREEING)
@pytest.mark.parametrize("alarms", [(AlarmType.CORRUPT,), (AlarmType.NOSPACE, AlarmType.CORRUPT)])
def test_corrupt_refuses_every_change_and_comes_first(
    request_: Request, alarms: tuple[AlarmType, ...]
) -> None:
    assert refused(prepared(*alarms).apply(request_)) is errors.Corrupt


def test_alarms_can_be_cleared_under_both() -> None:
    machine = prepared(AlarmType.NOSPACE, AlarmType.CORRUPT)
    for alarm in (AlarmType.NOSPACE, AlarmType.CORRUPT):
        cleared = machine.apply(AlarmRequest(AlarmAction.DEACTIVATE, 1, alarm))
        assert cleared == AlarmResponse(2, [Alarm(1, alarm)])
    assert isinstance(machine.put(b"a"), PutResponse)
    assert machine.apply(AlarmRequest(AlarmAction.GET)) == AlarmResponse(3, [])


# -- determinism and failure


def test_proposer_and_follower_answer_alike_for_a_txn_with_an_old_range() -> None:
    """etcd 3.6 and earlier dropped ranges on members without a waiting client before checking them,
    so that the proposer refused such a txn and the others wrote it."""
    request = TxnRequest(
        success=[put_op(b"x"), RequestOp(request_range=RangeRequest(b"a", revision=99))]
    )
    proposer, follower = Machine(), Machine()
    assert refused(proposer.apply(request, decoded=True)) is FutureRevision
    assert refused(follower.apply(request, decoded=False)) is FutureRevision
    assert proposer.hash_kv() == follower.hash_kv()
    assert proposer.keys() == follower.keys() == []


def test_an_error_of_ours_leaves_apply(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise CorruptionError("a row is gone")

    monkeypatch.setattr(machine.store, "read_many", broken)
    machine.put(b"a")
    with pytest.raises(CorruptionError) as caught:
        machine.apply(DeleteRangeRequest(b"a", prev_kv=True))
    assert caught.value.__notes__ == ["while applying entry 2 of term 1: DeleteRangeRequest"]


def test_bytes_of_another_version_stop_the_node(machine: Machine) -> None:
    data = b"\x7f" + encode(1, PutRequest(b"a"))[1:]
    with pytest.raises(ValueError, match="unknown request kind"):
        machine.entry(1, data)


# -- configuration changes


def a_cluster(machine: Machine) -> list[Member]:
    members = first_members({"a": ["http://a:1"], "b": ["http://b:1"]}, "token")
    machine.members.bootstrap(members, "token")
    return members


def test_an_accepted_change_moves_raft_then_the_rows(machine: Machine) -> None:
    first, second = a_cluster(machine)
    moved = ConfState(voters=(first.ID,))
    asked: list[bool] = []

    def advance(accepted: bool) -> ConfState:
        asked.append(accepted)
        assert machine.members.get(second.ID) is not None
        return moved

    context = encode_change(MemberChange(1, ChangeKind.REMOVE, Member(second.ID)))
    assert machine.applier.apply_conf_change(context, advance) == MembersResponse([first])
    assert asked == [True]
    assert machine.members.conf_state == moved
    assert machine.members.is_removed(second.ID)


def test_a_refused_change_reaches_raft_as_one_that_changes_nothing(machine: Machine) -> None:
    a_cluster(machine)
    unmoved = machine.members.conf_state
    asked: list[bool] = []

    def advance(accepted: bool) -> ConfState:
        asked.append(accepted)
        return unmoved

    context = encode_change(MemberChange(1, ChangeKind.REMOVE, Member(77)))
    assert refused(machine.applier.apply_conf_change(context, advance)) is errors.MemberNotFound
    assert asked == [False]
    assert len(machine.members.list()) == 2


def test_leaving_a_joint_configuration_keeps_only_the_configuration(machine: Machine) -> None:
    moved = ConfState(voters=(1, 2))
    assert machine.applier.apply_conf_change(b"", lambda accepted: moved) is None
    machine.members.restore()
    assert machine.members.conf_state == moved


def test_what_raft_refuses_leaves_the_rows_as_they_were(machine: Machine) -> None:
    _, second = a_cluster(machine)

    def advance(accepted: bool) -> ConfState:
        raise ConfChangeRefused("a joint configuration is not left yet")

    context = encode_change(MemberChange(1, ChangeKind.REMOVE, second))
    with pytest.raises(ConfChangeRefused):
        machine.applier.apply_conf_change(context, advance)
    assert machine.members.get(second.ID) == second


def apply_change(machine: Machine, index: int, change: MemberChange) -> None:
    """As a server does it, with a raft that does what it is told."""
    if index <= machine.backend.applied()[0]:
        return
    members = machine.members

    def advance(accepted: bool) -> ConfState:
        voters, learners = set(members.conf_state.voters), set(members.conf_state.learners)
        if accepted:
            voters.discard(change.member.ID)
            learners.discard(change.member.ID)
            if change.kind != ChangeKind.REMOVE:
                (learners if change.member.isLearner else voters).add(change.member.ID)
        return ConfState(tuple(sorted(voters)), tuple(sorted(learners)))

    machine.applier.apply_conf_change(encode_change(change), advance)
    machine.backend.end_entries(index, 1)


def test_membership_replayed_from_every_commit_is_the_same() -> None:
    """Replay once assumed that a member was in another store too, and starts failed on it."""
    learner = Member(100, "l", ["http://l:1"], isLearner=True)
    voter = Member(200, "v", ["http://v:1"])
    changes = [
        MemberChange(2, ChangeKind.ADD, learner),
        MemberChange(3, ChangeKind.ADD, voter),
        MemberChange(4, ChangeKind.ADD, voter),
        MemberChange(5, ChangeKind.PROMOTE, Member(100)),
        MemberChange(6, ChangeKind.REMOVE, Member(200)),
        MemberChange(7, ChangeKind.REMOVE, Member(200)),
    ]
    for committed in range(1, len(changes) + 1):
        machine = Machine(MemoryBackend(hold=True))
        first = a_cluster(machine)
        machine.backend.end_entries(1, 1)
        for index, change in enumerate(changes, 2):
            if index == committed + 1:
                machine.backend.commit()
            apply_change(machine, index, change)
        again = Machine(machine.backend.crash())
        for index, change in enumerate(changes, 2):
            apply_change(again, index, change)
        assert again.members.list() == machine.members.list()
        assert again.members.conf_state == machine.members.conf_state
        assert [member.ID for member in again.members.list()] == sorted(
            [100, *(member.ID for member in first)]
        )
        assert again.members.is_voter(100)
        again.check()


def test_members_publish_and_move(machine: Machine) -> None:
    first, _ = a_cluster(machine)
    machine.apply(MemberAttributesRequest(first.ID, "a", ["http://a:2"]))
    response = machine.apply(MemberUpdateRequest(first.ID, ["http://a:9"]))
    assert isinstance(response, MembersResponse)
    assert Member(first.ID, "a", ["http://a:9"], ["http://a:2"]) in response.members


def test_results_have_the_store_revision_after_them(machine: Machine) -> None:
    machine.put(b"a")
    response = machine.apply(TxnRequest(success=[put_op(b"b"), put_op(b"c")]))
    assert isinstance(response, TxnResponse)
    assert response.revision == machine.store.current_rev == 3


def test_what_was_executed_is_counted(machine: Machine) -> None:
    machine.apply(LeaseGrantRequest(10, 7))
    machine.put(b"a", b"12")
    machine.apply(DeleteRangeRequest(b"x"))
    read = RequestOp(request_range=RangeRequest(b"a"))
    machine.apply(TxnRequest(success=[put_op(b"b"), txn_op([read, read])]))
    machine.apply(TxnRequest(success=[put_op(b"b", lease=99)]))
    machine.apply(LeaseRevokeRequest(7))
    counts, lessor = machine.store.counts, machine.lessor
    assert (counts.puts, counts.put_bytes, counts.deletes) == (2, 4, 1)
    assert (counts.ranges, counts.txns) == (2, 1), "what was refused was not executed"
    assert (lessor.granted_total, lessor.revoked_total) == (1, 1)
