"""Who may ask for what: each request type against users with and without the rights it needs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from node.apply import errors
from node.apply.checks import TXN_DEPTH_MAX
from node.apply.lessor import Lessor
from node.apply.permissions import RULES, Rights, permits
from node.apply.requests import (
    CLUSTER,
    KINDS,
    AlarmAction,
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    Identity,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    MemberUpdateRequest,
    Permission,
    PutRequest,
    RangeRequest,
    Request,
    RequestOp,
    RoleDeleteRequest,
    TxnRequest,
    UserChangePasswordRequest,
)
from node.apply.responses import LeaseGrantResponse, LeaseRevokeResponse, PutResponse

from .apply_fixture import Machine, put_op, refused, txn_op
from .auth_fixture import HASH, READ, READWRITE, WRITE, add_user, as_user, done, switch_on


@pytest.fixture
def machine() -> Machine:
    """Authentication is on. Lease 7 has the keys a and z, 8 has rw, 9 none.

    alice reads [r, s), writes w, and reads and writes rw; bob may nothing.
    """
    machine = Machine()
    for lease in (7, 8, 9):
        machine.apply(LeaseGrantRequest(10, lease))
    for key, lease in [(b"a", 7), (b"z", 7), (b"rw", 8), (b"w", 0)]:
        machine.put(key, b"1", lease=lease)
    switch_on(machine)
    add_user(
        machine,
        "alice",
        Permission(READ, b"r", b"s"),
        Permission(WRITE, b"w"),
        Permission(READWRITE, b"rw"),
    )
    add_user(machine, "bob")
    return machine


def allowed(machine: Machine, user: str, request: Request | RangeRequest) -> bool:
    try:
        machine.auth.check(as_user(machine, user), request)
    except errors.PermissionDenied:
        return False
    return True


def read_op(key: bytes, range_end: bytes = b"") -> RequestOp:
    return RequestOp(request_range=RangeRequest(key, range_end))


def delete_op(key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key, range_end, prev_kv))


OF_ALICE: list[tuple[Request | RangeRequest, bool]] = [
    (RangeRequest(b"r"), True),
    (RangeRequest(b"r", b"s"), True),
    (RangeRequest(b"r", b"s\0"), False),
    (RangeRequest(b"r", b"\0"), False),
    (RangeRequest(b"\0", b"\0"), False),
    (RangeRequest(b"w"), False),
    (PutRequest(b"w"), True),
    (PutRequest(b"r"), False),
    (PutRequest(b"w", prev_kv=True), False),
    (PutRequest(b"rw", prev_kv=True), True),
    (PutRequest(b"w", lease=7), False),
    (PutRequest(b"w", lease=8), True),
    (PutRequest(b"w", lease=9), True),
    (PutRequest(b"w", lease=10), True),
    (DeleteRangeRequest(b"w"), True),
    (DeleteRangeRequest(b"w", prev_kv=True), False),
    (DeleteRangeRequest(b"rw", prev_kv=True), True),
    (DeleteRangeRequest(b"w", b"x"), False),
    (DeleteRangeRequest(b"w", b"w\0"), True),
    (DeleteRangeRequest(b"w", b"\0"), False),
    (LeaseRevokeRequest(7), False),
    (LeaseRevokeRequest(8), True),
    (LeaseRevokeRequest(9), True),
    (LeaseRevokeRequest(10), True),
    (LeaseGrantRequest(10, 11), True),
    (AlarmRequest(AlarmAction.GET), True),
    (AlarmRequest(AlarmAction.ACTIVATE, 1, 1), False),
    (AlarmRequest(AlarmAction.DEACTIVATE, 1, 1), False),
    (AlarmRequest(7), False),
    (CompactionRequest(2), False),
    (MemberAttributesRequest(1, "m"), False),
    (MemberUpdateRequest(1), False),
    (UserChangePasswordRequest("alice", HASH), False),
    (RoleDeleteRequest("alice"), False),
    (AuthEnableRequest(), False),
    (AuthDisableRequest(), False),
    (TxnRequest(), True),
    (TxnRequest([Compare(key=b"r", range_end=b"s")]), True),
    (TxnRequest([Compare(key=b"r", range_end=b"t")]), False),
    (TxnRequest([Compare(key=b"w")]), False),
    (TxnRequest([], [put_op(b"w")], [read_op(b"r")]), True),
    (TxnRequest([], [put_op(b"w")], [read_op(b"z")]), False),
    (TxnRequest([], [], [put_op(b"z")]), False),
    (TxnRequest([], [put_op(b"w", lease=7)]), False),
    (TxnRequest([], [put_op(b"w", lease=8)]), True),
    (TxnRequest([], [put_op(b"w", prev_kv=True)]), False),
    (TxnRequest([], [delete_op(b"w")]), True),
    (TxnRequest([], [delete_op(b"w", prev_kv=True)]), False),
    (TxnRequest([], [delete_op(b"w", b"\0")]), False),
]


@pytest.mark.parametrize(("request_", "permitted"), OF_ALICE)
def test_what_alice_may(
    machine: Machine, request_: Request | RangeRequest, permitted: bool
) -> None:
    assert allowed(machine, "alice", request_) == permitted
    assert allowed(machine, "root", request_)


FORBIDDEN: list[RequestOp] = [
    put_op(b"z"),
    put_op(b"w", prev_kv=True),
    put_op(b"w", lease=7),
    read_op(b"w"),
    delete_op(b"r"),
    delete_op(b"w", prev_kv=True),
    RequestOp(request_txn=TxnRequest([Compare(key=b"w")])),
]


@pytest.mark.parametrize("op", FORBIDDEN)
@pytest.mark.parametrize("depth", [0, 1, 2, 5])
@pytest.mark.parametrize("in_failure", [False, True])
def test_no_depth_and_no_branch_hides_an_op(
    machine: Machine, op: RequestOp, depth: int, in_failure: bool
) -> None:
    for level in range(depth):
        hidden = [put_op(b"w"), op]
        op = txn_op([], hidden) if (level % 2 == 0) == in_failure else txn_op(hidden)
    branches = ([], [op]) if in_failure else ([op], [])
    request = TxnRequest([], *branches)
    before = machine.hash_kv()
    result = machine.apply(request, as_user(machine, "alice"), decoded=False)
    assert refused(result) is errors.PermissionDenied
    assert machine.hash_kv() == before


def test_an_op_with_two_members_needs_what_both_need(machine: Machine) -> None:
    two = RequestOp(request_range=RangeRequest(b"z"), request_put=PutRequest(b"w"))
    assert not allowed(machine, "alice", TxnRequest([], [two]))


def test_a_txn_deeper_than_any_member_proposes_is_refused_not_descended(
    machine: Machine,
) -> None:
    request = TxnRequest()
    for _ in range(TXN_DEPTH_MAX):
        request = TxnRequest([], [], [RequestOp(request_txn=request)])
    assert refused(machine.apply(request, as_user(machine, "root"))) is errors.TooManyOps


def test_bob_may_grant_leases_and_read_alarms_and_nothing_else(machine: Machine) -> None:
    bob = [request for request, _ in OF_ALICE if allowed(machine, "bob", request)]
    assert bob == [
        LeaseRevokeRequest(9),
        LeaseRevokeRequest(10),
        LeaseGrantRequest(10, 11),
        AlarmRequest(AlarmAction.GET),
        TxnRequest(),
    ]


def test_every_request_type_has_a_rule() -> None:
    """Whoever adds a request type decides who may ask for it."""
    assert {*RULES} == {*KINDS.values(), RangeRequest}


@pytest.mark.parametrize("kind", KINDS)
def test_most_requests_are_for_root_alone(kind: int) -> None:
    lessor = Lessor(Machine().backend)
    request = KINDS[kind]()
    of_members = ("LeaseCheckpointRequest", "LeaseExpireRequest", "AuthTokenRequest")
    of_anybody = ("TxnRequest", "LeaseGrantRequest", "LeaseRevokeRequest", "AlarmRequest")
    name = type(request).__name__
    assert permits(Rights(root=True), request, lessor) == (name not in of_members)
    assert permits(Rights(), request, lessor) == (name in of_anybody)


def test_a_request_type_without_a_rule_is_refused_to_everybody() -> None:
    class NewRequest(msgspec.Struct):
        key: bytes = b"a"

    new: Any = NewRequest()
    assert not permits(Rights(root=True), new, Lessor(Machine().backend))


def test_what_only_members_ask_is_refused_to_root(machine: Machine) -> None:
    for request in (LeaseCheckpointRequest(), AuthTokenRequest("alice", b"d" * 32, 1)):
        assert not allowed(machine, "root", request)
        machine.auth.check(CLUSTER, request)


# -- who asks


def test_nobody_is_asked_while_authentication_is_off() -> None:
    machine = Machine()
    machine.auth.check(None, CompactionRequest(1))
    assert machine.apply(PutRequest(b"a"), Identity("nobody", 0)) == PutResponse(2)


def test_an_entry_without_a_user_is_refused(machine: Machine) -> None:
    assert refused(machine.put(b"a")) is errors.UserEmpty
    assert refused(machine.apply(LeaseGrantRequest(10, 11), decoded=False)) is errors.UserEmpty


def test_an_unknown_user_may_nothing_at_all(machine: Machine) -> None:
    nobody = as_user(machine, "nobody")
    for request in (LeaseGrantRequest(10, 11), TxnRequest(), AlarmRequest()):
        assert refused(machine.apply(request, nobody)) is errors.PermissionDenied


def test_who_was_let_in_before_the_last_change_asks_again(machine: Machine) -> None:
    alice = as_user(machine, "alice")
    assert isinstance(machine.apply(PutRequest(b"w"), alice), PutResponse)
    add_user(machine, "carol")
    assert refused(machine.apply(PutRequest(b"w"), alice)) is errors.AuthOldRevision
    assert refused(machine.apply(PutRequest(b"z"), alice)) is errors.AuthOldRevision
    assert refused(machine.apply(PutRequest(b"w"), Identity("nobody", 1))) is (
        errors.AuthOldRevision
    )


def test_the_members_themselves_need_no_permission(machine: Machine) -> None:
    """An expired lease goes, whoever's keys it has."""
    add_user(machine, "carol")
    assert isinstance(machine.apply(LeaseRevokeRequest(7), CLUSTER), LeaseRevokeResponse)
    assert machine.value(b"z") is None
    result = machine.apply(MemberAttributesRequest(9, "m"), CLUSTER)
    assert refused(result) is errors.MemberNotFound


def test_rights_end_with_what_gave_them(machine: Machine) -> None:
    """An entry that was on its way is judged by what holds when its turn comes."""
    alice = as_user(machine, "alice")
    assert allowed(machine, "alice", PutRequest(b"w"))
    done(machine, RoleDeleteRequest("alice"))
    assert refused(machine.apply(PutRequest(b"w"), alice)) is errors.AuthOldRevision
    assert not allowed(machine, "alice", PutRequest(b"w"))
    assert isinstance(
        machine.apply(LeaseGrantRequest(10, 11), as_user(machine, "alice")), LeaseGrantResponse
    )


def test_a_refusal_by_permission_comes_before_one_by_alarm(machine: Machine) -> None:
    root = as_user(machine, "root")
    machine.apply(AlarmRequest(AlarmAction.ACTIVATE, 1, 1), root)
    alice = as_user(machine, "alice")
    assert refused(machine.apply(PutRequest(b"z"), alice)) is errors.PermissionDenied
    assert refused(machine.apply(PutRequest(b"w"), alice)) is errors.NoSpace


def test_a_lease_that_a_txn_names_often_is_judged_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few hundred KB of request and a lease of many keys would stop all members for minutes."""
    add_user(machine, "carol", Permission(WRITE, b"w", b"x"))
    machine.apply(LeaseGrantRequest(10, 20), as_user(machine, "carol"))
    judged: list[int] = []
    keys_of = machine.lessor.keys_of
    monkeypatch.setattr(
        machine.lessor, "keys_of", lambda number: judged.append(number) or keys_of(number)
    )
    puts = [put_op(b"w%d" % number, lease=20) for number in range(100)]
    request = TxnRequest([], [RequestOp(request_txn=TxnRequest([], puts)), put_op(b"w", lease=20)])
    assert permits(machine.auth.rights_of("carol"), request, machine.lessor)
    assert judged == [20]
    machine.apply(PutRequest(b"z", b"another's", lease=20), as_user(machine, "root"))
    assert not permits(machine.auth.rights_of("carol"), request, machine.lessor)
    machine.apply(PutRequest(b"z", b"another's"), as_user(machine, "root"))
    assert permits(machine.auth.rights_of("carol"), request, machine.lessor)
