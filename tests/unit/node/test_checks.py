"""Checks of a request alone: what a client is told, and what a leader lets into its log."""

from __future__ import annotations

import msgspec
import pytest

from node.apply import errors
from node.apply.checks import TXN_DEPTH_MAX, admit, check, in_range
from node.apply.requests import (
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    Permission,
    PutRequest,
    RangeRequest,
    Request,
    RequestOp,
    RoleAddRequest,
    RoleDeleteRequest,
    RoleGrantPermissionRequest,
    RoleRevokePermissionRequest,
    TxnRequest,
    UserAddRequest,
    UserChangePasswordRequest,
    UserDeleteRequest,
    UserGrantRoleRequest,
    UserRevokeRoleRequest,
    encode,
)

from .apply_fixture import Machine, put_op, txn_op
from .auth_fixture import HASH

INT64 = 2**63
LONG = "n" * 256


def delete_op(key: bytes, range_end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key, range_end))


def range_op(key: bytes, **fields: int) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key, **fields))  # type: ignore[arg-type]


def one_of_each() -> list[Request]:
    return [
        PutRequest(b"a", b"1", lease=-1, prev_kv=True),
        PutRequest(b"a", ignore_value=True, ignore_lease=True),
        DeleteRangeRequest(b"a", b"\0"),
        TxnRequest([Compare(1, 3, b"a")], [put_op(b"a")], [range_op(b"b")]),
        TxnRequest(),
        CompactionRequest(-1),
        LeaseGrantRequest(2, 7),
        LeaseRevokeRequest(-7),
        LeaseExpireRequest(-7, 2**64 - 1),
        LeaseCheckpointRequest([LeaseCheckpoint(-7, 9_000_000_000)] * 1000, 2**64 - 1),
        AlarmRequest(1, 2**64 - 1, 2),
        MemberAttributesRequest(2**64 - 1, "m"),
        AuthEnableRequest(),
        AuthDisableRequest(),
        AuthTokenRequest("u", b"d" * 32, 2**63 - 1),
        UserAddRequest("n" * 255, HASH),
        UserAddRequest(""),
        UserDeleteRequest("u"),
        UserChangePasswordRequest("u", HASH),
        UserGrantRoleRequest("u", "r"),
        UserRevokeRoleRequest("u", "r"),
        RoleAddRequest("r"),
        RoleDeleteRequest("r"),
        RoleGrantPermissionRequest("r"),
        RoleGrantPermissionRequest("r", Permission(2, b"a", b"\0")),
        RoleRevokePermissionRequest("r", b"a", b"b"),
    ]


@pytest.mark.parametrize("request_", one_of_each())
def test_good_requests_pass_both_doors(request_: Request) -> None:
    check(request_)
    admit(encode(1, request_))


BAD: list[tuple[Request, type[Exception]]] = [
    (PutRequest(), errors.KeyNotProvided),
    (PutRequest(b"a", b"1", ignore_value=True), errors.ValueProvided),
    (PutRequest(b"a", lease=1, ignore_lease=True), errors.LeaseProvided),
    (PutRequest(b"a", lease=INT64), errors.InvalidArgument),
    (DeleteRangeRequest(), errors.KeyNotProvided),
    (CompactionRequest(INT64), errors.InvalidArgument),
    (LeaseGrantRequest(9_000_000_001), errors.LeaseTtlTooLarge),
    (LeaseGrantRequest(1, INT64), errors.InvalidArgument),
    (LeaseGrantRequest(-INT64 - 1), errors.InvalidArgument),
    (LeaseRevokeRequest(), errors.LeaseNotFound),
    (LeaseExpireRequest(INT64), errors.InvalidArgument),
    (LeaseExpireRequest(7, -1), errors.InvalidArgument),
    (LeaseCheckpointRequest(term=-1), errors.InvalidArgument),
    (LeaseCheckpointRequest([LeaseCheckpoint(7, 1)] * 1001), errors.InvalidArgument),
    (LeaseCheckpointRequest([LeaseCheckpoint(INT64, 1)]), errors.InvalidArgument),
    (LeaseCheckpointRequest([LeaseCheckpoint(7, -1)]), errors.InvalidArgument),
    (LeaseCheckpointRequest([LeaseCheckpoint(7, 9_000_000_001)]), errors.InvalidArgument),
    (AlarmRequest(3), errors.InvalidArgument),
    (AlarmRequest(-1), errors.InvalidArgument),
    (AlarmRequest(0, 0, 3), errors.InvalidArgument),
    (AlarmRequest(1, -1, 1), errors.InvalidArgument),
    (MemberAttributesRequest(-1), errors.InvalidArgument),
    (AuthTokenRequest("u", b"d" * 31), errors.InvalidArgument),
    (AuthTokenRequest("u", b"d" * 32, INT64), errors.InvalidArgument),
    (AuthTokenRequest(LONG, b"d" * 32), errors.InvalidArgument),
    (UserAddRequest(LONG), errors.InvalidArgument),
    (UserAddRequest("\N{EURO SIGN}" * 86), errors.InvalidArgument),
    (UserAddRequest("u", b"in the clear"), errors.InvalidArgument),
    (UserAddRequest("u", HASH + b"\n"), errors.InvalidArgument),
    (UserChangePasswordRequest("u", HASH[:-1]), errors.InvalidArgument),
    (UserDeleteRequest(LONG), errors.InvalidArgument),
    (UserGrantRoleRequest(LONG, "r"), errors.InvalidArgument),
    (UserGrantRoleRequest("u", LONG), errors.InvalidArgument),
    (UserRevokeRoleRequest(LONG, "r"), errors.InvalidArgument),
    (UserRevokeRoleRequest("u", LONG), errors.InvalidArgument),
    (RoleAddRequest(LONG), errors.InvalidArgument),
    (RoleDeleteRequest(LONG), errors.InvalidArgument),
    (RoleRevokePermissionRequest(LONG), errors.InvalidArgument),
    (RoleGrantPermissionRequest(LONG), errors.InvalidArgument),
    (RoleGrantPermissionRequest("r", Permission(3, b"a")), errors.InvalidArgument),
    (RoleGrantPermissionRequest("r", Permission(-1, b"a")), errors.InvalidArgument),
    (TxnRequest([Compare()]), errors.KeyNotProvided),
    (TxnRequest([Compare(4, 0, b"a")]), errors.InvalidArgument),
    (TxnRequest([Compare(0, 5, b"a")]), errors.InvalidArgument),
    (TxnRequest([Compare(0, 0, b"a", version=INT64)]), errors.InvalidArgument),
    (TxnRequest(success=[RequestOp()]), errors.KeyNotFound),
    (TxnRequest(failure=[put_op(b"")]), errors.KeyNotProvided),
    (TxnRequest(failure=[delete_op(b"")]), errors.KeyNotProvided),
    (TxnRequest(success=[range_op(b"")]), errors.KeyNotProvided),
    (TxnRequest(success=[range_op(b"a", sort_order=3)]), errors.InvalidSortOption),
    (TxnRequest(success=[txn_op([], [RequestOp()])]), errors.KeyNotFound),
]


@pytest.mark.parametrize(("request_", "error"), BAD)
def test_bad_requests_are_named_and_never_enter_a_log(
    request_: Request, error: type[Exception]
) -> None:
    with pytest.raises(error):
        check(request_)
    if isinstance(request_, LeaseGrantRequest) and request_.TTL < -INT64:
        return
    with pytest.raises(ValueError, match=error.__name__):
        admit(encode(1, request_))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"sort_order": 3}, errors.InvalidSortOption),
        ({"sort_order": -1}, errors.InvalidSortOption),
        ({"sort_target": 5}, errors.InvalidSortOption),
        ({"limit": INT64}, errors.InvalidArgument),
        ({"revision": -INT64 - 1}, errors.InvalidArgument),
        ({"max_create_revision": INT64}, errors.InvalidArgument),
    ],
)
def test_ranges(fields: dict[str, int], error: type[Exception]) -> None:
    check(RangeRequest(b"a", sort_order=2, sort_target=4, limit=-1))
    with pytest.raises(error):
        check(RangeRequest(b"a", **fields))  # type: ignore[arg-type]


# -- counts


@pytest.mark.parametrize("member", ["compare", "success", "failure"])
def test_each_list_may_hold_as_many_as_allowed(member: str) -> None:
    item = Compare(key=b"a") if member == "compare" else range_op(b"a")
    check(TxnRequest(**{member: [item] * 3}), max_txn_ops=3)  # type: ignore[arg-type]
    with pytest.raises(errors.TooManyOps):
        check(TxnRequest(**{member: [item] * 4}), max_txn_ops=3)  # type: ignore[arg-type]


def test_a_nested_txn_has_what_its_parents_longest_list_left() -> None:
    ops = [range_op(b"a")]
    check(TxnRequest(success=[txn_op(ops * 127)]))
    with pytest.raises(errors.TooManyOps):
        check(TxnRequest(success=[txn_op(ops * 128)]))
    with pytest.raises(errors.TooManyOps):
        check(TxnRequest([Compare(key=b"a")] * 2, [txn_op(ops * 127)]))


def nested(depth: int) -> TxnRequest:
    request = TxnRequest()
    for _ in range(depth - 1):
        request = TxnRequest(success=[RequestOp(request_txn=request)])
    return request


def test_depth_is_limited_whatever_the_count_allows() -> None:
    check(nested(TXN_DEPTH_MAX), max_txn_ops=10_000)
    admit(encode(1, nested(TXN_DEPTH_MAX)))
    with pytest.raises(errors.TooManyOps):
        check(nested(TXN_DEPTH_MAX + 1), max_txn_ops=10_000)
    with pytest.raises(ValueError, match="TooManyOps"):
        admit(encode(1, nested(TXN_DEPTH_MAX + 1)))


def test_apply_survives_what_is_deeper_than_the_door_allows() -> None:
    assert isinstance(Machine().apply(nested(TXN_DEPTH_MAX), decoded=False), msgspec.Struct)
    result = Machine().apply(nested(TXN_DEPTH_MAX + 1), decoded=False)
    assert isinstance(result, errors.TooManyOps)


# -- keys written twice

TWICE: list[list[RequestOp]] = [
    [put_op(b"a"), put_op(b"a")],
    [put_op(b"b"), delete_op(b"a", b"c")],
    [delete_op(b"a", b"c"), put_op(b"b")],
    [delete_op(b"b"), put_op(b"b")],
    [put_op(b"a"), txn_op([put_op(b"a")])],
    [txn_op([put_op(b"a")]), txn_op([], [put_op(b"a")])],
    [delete_op(b"a", b"c"), txn_op([put_op(b"b")])],
    [txn_op([delete_op(b"a", b"c")]), put_op(b"b")],
    [txn_op([], [txn_op([delete_op(b"a", b"c")])]), put_op(b"b")],
    [txn_op([delete_op(b"b")]), txn_op([put_op(b"b")])],
]

ONCE: list[list[RequestOp]] = [
    [put_op(b"a"), put_op(b"b"), delete_op(b"c"), range_op(b"a")],
    [delete_op(b"a", b"c"), put_op(b"c")],
    [delete_op(b"a", b"d"), delete_op(b"b"), delete_op(b"a", b"\0")],
    [delete_op(b"c", b"a"), put_op(b"b")],
    [delete_op(b"a", b"\0"), put_op(b"b")],
    [txn_op([put_op(b"a")]), txn_op([delete_op(b"a")])],
    [txn_op([put_op(b"a")], [put_op(b"a")])],
    [txn_op([put_op(b"a")], [delete_op(b"a")])],
    [txn_op([delete_op(b"a")]), txn_op([delete_op(b"a")]), delete_op(b"a")],
]


@pytest.mark.parametrize("ops", TWICE)
def test_a_key_written_twice_is_refused_in_either_branch(ops: list[RequestOp]) -> None:
    for request in (TxnRequest(success=ops), TxnRequest(failure=ops)):
        with pytest.raises(errors.DuplicateKey):
            check(request)
        with pytest.raises(ValueError, match="DuplicateKey"):
            admit(encode(1, request))


@pytest.mark.parametrize("ops", ONCE)
def test_only_one_branch_runs_and_deletes_may_overlap(ops: list[RequestOp]) -> None:
    check(TxnRequest(success=ops))
    check(TxnRequest(success=ops, failure=ops))


@pytest.mark.parametrize("ops", TWICE + ONCE)
def test_apply_executes_even_those_without_harm(ops: list[RequestOp]) -> None:
    machine = Machine()
    machine.put(b"a")
    machine.put(b"b")
    machine.apply(TxnRequest(success=ops), decoded=False)
    machine.check()


def test_many_deleted_ranges_join() -> None:
    deletes = [delete_op(b"%03d" % i, b"%03d" % (i + 2)) for i in range(0, 100, 2)]
    gap = [delete_op(b"200", b"210"), delete_op(b"190", b"195"), delete_op(b"180", b"220")]
    for key, free in ((b"050", False), (b"099", False), (b"100", True), (b"198", False)):
        request = TxnRequest(success=[*deletes, *gap, put_op(key)])
        if free:
            check(request)
        else:
            with pytest.raises(errors.DuplicateKey):
                check(request)


@pytest.mark.parametrize(
    ("key", "start", "end", "inside"),
    [
        (b"a", b"a", b"", True),
        (b"a\0", b"a", b"", False),
        (b"a", b"a", b"b", True),
        (b"b", b"a", b"b", False),
        (b"z", b"a", b"\0", True),
        (b"a", b"b", b"\0", False),
        (b"b", b"c", b"a", False),
    ],
)
def test_in_range(key: bytes, start: bytes, end: bytes, inside: bool) -> None:
    assert in_range(key, start, end) is inside


# -- bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x00" + bytes(8) + b"\x80",
        b"\xff" + bytes(8) + b"\x80",
        b"\x01" + bytes(8),
        b"\x01" + bytes(8) + b"\x90",
        encode(1, PutRequest(b"a"))[:-1],
        encode(1, PutRequest(b"a")) + b"\0",
        b"\x01" + bytes(8) + msgspec.msgpack.encode({"key": 1}),
        b"\x03" + bytes(8) + msgspec.msgpack.encode({"success": [None]}),
    ],
)
def test_admit_refuses_bytes_that_are_no_request(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        admit(data)


def test_admit_refuses_nesting_that_exhausts_the_stack() -> None:
    one = msgspec.msgpack.encode({"success": [{"request_txn": {}}]})
    data = one[:-1] * 5_000 + one
    with pytest.raises(ValueError, match="nested too deeply"):
        admit(b"\x03" + bytes(8) + data)


def test_unknown_fields_of_a_later_version_are_skipped() -> None:
    admit(b"\x01" + bytes(8) + msgspec.msgpack.encode({"key": b"a", "later": [1]}))
