"""The table of fields that drives the codec."""

from __future__ import annotations

import pytest

from mvcc.kv import SortOrder
from node.api.messages import (
    Field,
    HashResponse,
    Kind,
    LeaseTimeToLiveResponse,
    camel_case,
    fields_of,
)
from node.apply.requests import AlarmRequest, PutRequest, RangeRequest, RequestOp, TxnRequest


@pytest.mark.parametrize(
    ("name", "camel"),
    [
        ("key", "key"),
        ("range_end", "rangeEnd"),
        ("min_create_revision", "minCreateRevision"),
        ("request_delete_range", "requestDeleteRange"),
        ("ID", "ID"),
        ("TTL", "TTL"),
        ("grantedTTL", "grantedTTL"),
        ("memberID", "memberID"),
    ],
)
def test_camel_case(name: str, camel: str) -> None:
    assert camel_case(name) == camel


def test_kinds_come_from_the_annotations() -> None:
    assert fields_of(PutRequest)[:4] == (
        Field("key", Kind.BYTES),
        Field("value", Kind.BYTES),
        Field("lease", Kind.INT64),
        Field("prev_kv", Kind.BOOL),
    )
    assert fields_of(TxnRequest)[1] == Field("success", Kind.MESSAGE, True, RequestOp)
    assert fields_of(RequestOp)[3] == Field("request_txn", Kind.MESSAGE, False, TxnRequest)
    assert fields_of(LeaseTimeToLiveResponse)[4] == Field("keys", Kind.BYTES, True)


def test_what_annotations_cannot_say() -> None:
    by_name = {field.name: field for field in fields_of(RangeRequest)}
    assert by_name["sort_order"] == Field("sort_order", Kind.ENUM, False, SortOrder)
    assert fields_of(AlarmRequest)[1].kind is Kind.UINT64
    assert fields_of(HashResponse)[1].kind is Kind.UINT32
