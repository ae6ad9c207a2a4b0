"""Quota: the cost table and the limit."""

from __future__ import annotations

import pytest

from node.apply.quota import QUOTA_BYTES_DEFAULT, Quota, cost, puts_something
from node.apply.requests import (
    AlarmRequest,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    Request,
    RequestOp,
    TxnRequest,
)

from .apply_fixture import put_op, txn_op

SMALL, BIG = put_op(b"k", b"v"), put_op(b"k", b"v" * 100)


@pytest.mark.parametrize(
    ("request_", "bytes_"),
    [
        (PutRequest(), 256),
        (PutRequest(b"key", b"value"), 256 + 8),
        (LeaseGrantRequest(10, 7), 64),
        (LeaseRevokeRequest(7), 0),
        (DeleteRangeRequest(b"a"), 0),
        (CompactionRequest(7), 0),
        (AlarmRequest(1, 1, 1), 0),
        (TxnRequest(), 0),
        (TxnRequest(success=[RequestOp(request_range=RangeRequest(b"a"))]), 0),
        (TxnRequest(success=[SMALL, SMALL], failure=[BIG]), 2 * 258),
        (TxnRequest(success=[SMALL], failure=[BIG]), 357),
        (TxnRequest(success=[SMALL, txn_op([SMALL], [BIG])]), 258 + 357),
        (TxnRequest(failure=[txn_op([], [txn_op([BIG, SMALL])])]), 357 + 258),
    ],
)
def test_cost(request_: Request, bytes_: int) -> None:
    assert cost(request_) == bytes_
    if isinstance(request_, TxnRequest):
        assert puts_something(request_) == (bytes_ > 0)


def test_the_sum_must_stay_below_the_limit() -> None:
    quota = Quota(1000)
    assert quota.available(743, PutRequest())
    assert not quota.available(744, PutRequest())
    assert not quota.available(1000, LeaseGrantRequest())


def test_what_costs_nothing_passes_a_full_store() -> None:
    assert Quota(1000).available(5000, DeleteRangeRequest(b"a"))
    assert Quota(1000).available(5000, TxnRequest())


def test_zero_is_the_default_and_negative_is_off() -> None:
    assert Quota(0).limit == QUOTA_BYTES_DEFAULT == 2 * 1024**3
    assert not Quota(0).available(QUOTA_BYTES_DEFAULT - 256, PutRequest())
    assert Quota(-1).available(2**62, PutRequest(b"k", b"v" * 1000))
