"""Transactions: the compare table, what is checked before anything is written, the answers'
revisions.
"""

from __future__ import annotations

import pytest

from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import KeyValue
from node.apply import errors
from node.apply.requests import (
    CompactionRequest,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    LeaseGrantRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.apply.responses import (
    DeleteRangeResponse,
    PutResponse,
    RangeResponse,
    TxnResponse,
)
from node.apply.txn import holds, is_read_only, is_serializable, read_txn

from .apply_fixture import Crash, Machine, put_op, refused, txn_op

EQUAL, GREATER, LESS, NOT_EQUAL = CompareResult
VERSION, CREATE, MOD, VALUE, LEASE = CompareTarget


def range_op(key: bytes, range_end: bytes = b"", **fields: int | bool) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key, range_end, **fields))  # type: ignore[arg-type]


def delete_op(key: bytes, range_end: bytes = b"", prev_kv: bool = False) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key, range_end, prev_kv))


@pytest.fixture
def machine() -> Machine:
    """b"k" = b"m" with version 2, create 2, mod 3, lease 7; b"l" = b"" at 4."""
    machine = Machine()
    machine.apply(LeaseGrantRequest(10, 7))
    machine.put(b"k", b"x")
    machine.put(b"k", b"m", lease=7)
    machine.put(b"l")
    return machine


# -- compares


@pytest.mark.parametrize(
    ("target", "operand", "below"),
    [
        (VERSION, {"version": 2}, {"version": 1}),
        (CREATE, {"create_revision": 2}, {"create_revision": 1}),
        (MOD, {"mod_revision": 3}, {"mod_revision": 2}),
        (VALUE, {"value": b"m"}, {"value": b"lz"}),
        (LEASE, {"lease": 7}, {"lease": -1}),
    ],
)
def test_each_target_and_result(
    machine: Machine, target: int, operand: dict[str, int], below: dict[str, int]
) -> None:
    def outcomes(fields: dict[str, int]) -> list[bool]:
        return [
            holds(machine.store, Compare(result, target, b"k", **fields))  # type: ignore[arg-type]
            for result in (EQUAL, GREATER, LESS, NOT_EQUAL)
        ]

    assert outcomes(operand) == [True, False, False, False]
    assert outcomes(below) == [False, True, False, True]


@pytest.mark.parametrize("range_end", [b"", b"zz"])
def test_a_missing_key_has_zeros_but_no_value(machine: Machine, range_end: bytes) -> None:
    for target in (VERSION, CREATE, MOD, LEASE):
        assert holds(machine.store, Compare(EQUAL, target, b"z", range_end=range_end))
        assert not holds(machine.store, Compare(GREATER, target, b"z", range_end=range_end))
    for result in CompareResult:
        assert not holds(machine.store, Compare(result, VALUE, b"z", range_end=range_end))


def test_an_empty_value_equals_an_empty_operand(machine: Machine) -> None:
    assert holds(machine.store, Compare(EQUAL, VALUE, b"l"))


def test_a_range_compare_holds_for_every_key(machine: Machine) -> None:
    assert holds(machine.store, Compare(GREATER, MOD, b"k", mod_revision=2, range_end=b"m"))
    assert not holds(machine.store, Compare(GREATER, MOD, b"k", mod_revision=3, range_end=b"m"))
    assert not holds(machine.store, Compare(EQUAL, VERSION, b"a", version=1, range_end=b"\0"))


def test_an_operand_of_another_target_reads_as_zero(machine: Machine) -> None:
    assert not holds(machine.store, Compare(EQUAL, VERSION, b"k", mod_revision=2))


def test_nested_compares_see_the_state_before_the_txn(machine: Machine) -> None:
    unseen = TxnRequest([Compare(EQUAL, VERSION, b"n")], [put_op(b"yes")], [put_op(b"no")])
    machine.apply(TxnRequest(success=[put_op(b"n"), RequestOp(request_txn=unseen)]))
    assert machine.value(b"yes") == b""
    assert machine.value(b"no") is None


# -- answers


def test_revisions_are_those_visible_at_each_operation(machine: Machine) -> None:
    response = machine.apply(
        TxnRequest(
            success=[
                range_op(b"n"),
                delete_op(b"nothing"),
                txn_op([range_op(b"n")]),
                put_op(b"n", b"1"),
                range_op(b"n"),
                delete_op(b"nothing"),
                delete_op(b"l", prev_kv=True),
                txn_op([range_op(b"l")]),
            ]
        )
    )
    l_before = KeyValue(b"l", b"", 4, 4, 1)
    assert response == TxnResponse(
        5,
        True,
        [
            RangeResponse(4),
            DeleteRangeResponse(4),
            TxnResponse(4, True, [RangeResponse(4)]),
            PutResponse(5),
            RangeResponse(5, [KeyValue(b"n", b"1", 5, 5, 1)], False, 1),
            DeleteRangeResponse(5),
            DeleteRangeResponse(5, 1, [l_before]),
            TxnResponse(5, True, [RangeResponse(5)]),
        ],
    )


def test_a_txn_that_changes_nothing_takes_no_revision(machine: Machine) -> None:
    assert machine.apply(TxnRequest(success=[delete_op(b"nothing")])) == TxnResponse(
        4, True, [DeleteRangeResponse(4)]
    )
    assert machine.apply(TxnRequest([Compare(GREATER, MOD, b"z")], [put_op(b"a")])) == TxnResponse(
        4, False, []
    )


def test_one_revision_with_ascending_subs(machine: Machine) -> None:
    machine.apply(TxnRequest(success=[put_op(b"b"), delete_op(b"k", b"m"), put_op(b"a")]))
    events = machine.store.events(5, 6, 0)
    assert [event.kv.key for event in events] == [b"b", b"k", b"l", b"a"]


def test_prev_kv_of_a_put(machine: Machine) -> None:
    response = machine.apply(TxnRequest(success=[put_op(b"l", b"2", prev_kv=True)]))
    assert response == TxnResponse(5, True, [PutResponse(5, KeyValue(b"l", b"", 4, 4, 1))])


def test_leases_follow_the_writes_of_a_txn(machine: Machine) -> None:
    machine.apply(LeaseGrantRequest(10, 8))
    machine.apply(TxnRequest(success=[delete_op(b"k"), put_op(b"a", lease=8), put_op(b"l")]))
    assert machine.lessor.keys_of(7) == []
    assert machine.lessor.keys_of(8) == [b"a"]
    machine.apply(TxnRequest(success=[put_op(b"a", b"new", ignore_lease=True)]))
    assert machine.lessor.keys_of(8) == [b"a"]
    machine.check()


def test_a_key_deleted_by_the_same_txn_keeps_nothing(machine: Machine) -> None:
    """Such a request passes the door as it does in etcd, whose process then dies."""
    machine.apply(
        TxnRequest(
            success=[delete_op(b"a", b"\0"), put_op(b"k", ignore_value=True, ignore_lease=True)]
        )
    )
    assert machine.store.get(b"k") == KeyValue(b"k", b"", 5, 5, 1)
    machine.check()


# -- checked before anything is written

REFUSED: list[tuple[RequestOp, type[Exception]]] = [
    (range_op(b"k", revision=5), FutureRevision),
    (range_op(b"k", revision=2), Compacted),
    (range_op(b"k", revision=-1), Compacted),
    (range_op(b""), errors.KeyNotProvided),
    (range_op(b"k", sort_target=9), errors.InvalidSortOption),
    (put_op(b"a", lease=9), errors.LeaseNotFound),
    (put_op(b"a", ignore_value=True), errors.KeyNotFound),
    (put_op(b"a", ignore_lease=True), errors.KeyNotFound),
    (put_op(b"k", b"1", ignore_value=True), errors.ValueProvided),
    (put_op(b""), errors.KeyNotProvided),
    (delete_op(b""), errors.KeyNotProvided),
    (RequestOp(), errors.KeyNotFound),
]


@pytest.mark.parametrize(("op", "error"), REFUSED)
@pytest.mark.parametrize("depth", [0, 2])
def test_a_refusal_on_the_path_refuses_the_whole_txn(
    machine: Machine, op: RequestOp, error: type[Exception], depth: int
) -> None:
    machine.apply(CompactionRequest(3))
    for _ in range(depth):
        op = txn_op([op])
    before = machine.hash_kv()
    assert refused(machine.apply(TxnRequest(success=[put_op(b"first"), op]))) is error
    assert machine.value(b"first") is None
    assert machine.store.current_rev == 4
    assert machine.hash_kv() == before
    machine.check()


def test_revisions_are_asked_after_everything_else(machine: Machine) -> None:
    branch = [txn_op([range_op(b"k", revision=9)]), put_op(b"a", lease=9)]
    assert refused(machine.apply(TxnRequest(success=branch))) is errors.LeaseNotFound


def test_a_negative_revision_is_of_the_past(machine: Machine) -> None:
    """-1 is what a store holds as compacted before its first compaction."""
    assert isinstance(machine.apply(TxnRequest(success=[range_op(b"k", revision=-1)])), TxnResponse)
    read = TxnRequest(success=[range_op(b"k", revision=-2)])
    assert refused(machine.apply(read)) is Compacted
    with pytest.raises(Compacted):
        read_txn(machine.store, read)


@pytest.mark.parametrize("op", [op for op, _ in REFUSED])
def test_the_branch_not_taken_is_not_asked(machine: Machine, op: RequestOp) -> None:
    request = TxnRequest(success=[put_op(b"first"), txn_op([], [op])], failure=[op])
    assert isinstance(machine.apply(request), TxnResponse)


def test_a_lease_that_the_txn_cannot_see_yet_is_unknown(machine: Machine) -> None:
    """A key put by the txn itself is no key to keep a value of: checks see the state before."""
    request = TxnRequest(
        success=[txn_op([put_op(b"n", b"1")]), txn_op([put_op(b"n", ignore_value=True)])]
    )
    assert refused(machine.apply(request)) is errors.KeyNotFound


@pytest.mark.parametrize("step", range(4))
def test_a_failure_while_writing_leaves_apply_at_every_step(step: int) -> None:
    """etcd once swallowed such an error and kept half a txn."""
    steps = 0

    def hit(name: str) -> None:
        nonlocal steps
        if name == "apply.in_write":
            if steps == step:
                raise Crash
            steps += 1

    machine = Machine(hit=hit)
    ops = [put_op(b"a"), txn_op([put_op(b"b")]), delete_op(b"z"), put_op(b"c")]
    with pytest.raises(Crash):
        machine.apply(TxnRequest(success=ops))
    again = Machine(machine.backend.crash())
    assert again.keys() == []
    assert isinstance(again.apply(TxnRequest(success=ops)), TxnResponse)
    assert again.keys() == [b"a", b"b", b"c"]


def test_a_refusal_while_writing_is_an_error_of_ours(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise errors.KeyNotFound

    monkeypatch.setattr(machine.lessor, "follow", broken)
    with pytest.raises(AssertionError, match="a checked txn failed"):
        machine.apply(TxnRequest(success=[put_op(b"a")]))


# -- reads


def test_which_txns_are_reads() -> None:
    serializable = range_op(b"a", serializable=True)
    assert is_read_only(TxnRequest())
    assert is_read_only(TxnRequest([Compare(key=b"a")], [range_op(b"a")], [serializable]))
    assert not is_read_only(TxnRequest(success=[range_op(b"a")], failure=[delete_op(b"a")]))
    assert not is_read_only(TxnRequest(success=[txn_op([range_op(b"a")])]))
    assert is_serializable(TxnRequest(success=[serializable], failure=[serializable]))
    assert not is_serializable(TxnRequest(success=[serializable], failure=[range_op(b"a")]))
    assert not is_serializable(TxnRequest([Compare(key=b"a")]))


def test_read_txn(machine: Machine) -> None:
    request = TxnRequest(
        [Compare(EQUAL, VALUE, b"k", value=b"m")], [range_op(b"k", revision=2)], [range_op(b"l")]
    )
    assert read_txn(machine.store, request) == TxnResponse(
        4, True, [RangeResponse(4, [KeyValue(b"k", b"x", 2, 2, 1)], False, 1)]
    )
    with pytest.raises(FutureRevision):
        read_txn(machine.store, TxnRequest(success=[range_op(b"k", revision=5)]))
