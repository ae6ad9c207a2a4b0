"""What the gateway's JSON means: every form that is taken, and every one that is refused."""

from __future__ import annotations

from typing import Any

import pytest

from node.api import json_codec, kv_json
from node.api.errors import MalformedMessage
from node.api.messages import (
    EmptyMessage,
    HashKvResponse,
    HashResponse,
    LeaseTimeToLiveResponse,
    MoveLeaderRequest,
)
from node.apply.requests import (
    AlarmRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.apply.responses import Alarm, AlarmResponse, Member, MembersResponse

ACCEPTED: list[tuple[str, Any]] = [
    ("", RangeRequest()),
    (" \n", RangeRequest()),
    ("{}", RangeRequest()),
    ('{"key":"YQ=="} junk', RangeRequest(b"a")),
    ('{"key":"YQ==","key":"Yg=="}', RangeRequest(b"b")),
    ('{"key":"YQ","range_end":"_-8"}', RangeRequest(b"a", b"\xff\xef")),
    ('{"key":"Y\\nQ==\\r\\n"}', RangeRequest(b"a")),
    ('{"rangeEnd":"AA==","keysOnly":true}', RangeRequest(range_end=b"\0", keys_only=True)),
    ('{"KEY":"YQ==","Key":"YQ==","nope":[{}]}', RangeRequest()),
    ('{"key":null,"limit":null,"serializable":null}', RangeRequest()),
    ('{"limit":5}', RangeRequest(limit=5)),
    ('{"limit":"5"}', RangeRequest(limit=5)),
    ('{"limit":5.0,"revision":1e1}', RangeRequest(limit=5, revision=10)),
    ('{"limit":"5.0","revision":"-1e1"}', RangeRequest(limit=5, revision=-10)),
    ('{"limit":9007199254740993.0}', RangeRequest(limit=9007199254740993)),
    ('{"limit":"9223372036854775807"}', RangeRequest(limit=2**63 - 1)),
    ('{"limit":-9223372036854775808}', RangeRequest(limit=-(2**63))),
    ('{"sort_order":"DESCEND","sortTarget":3}', RangeRequest(sort_order=2, sort_target=3)),
    ('{"sort_order":9}', RangeRequest(sort_order=9)),
    ('{"key":"YQ==","lease":"7","prevKv":true}', PutRequest(b"a", lease=7, prev_kv=True)),
    ('{"TTL":60,"ID":"-7"}', LeaseGrantRequest(60, -7)),
    ('{"ttl":60,"id":7}', LeaseGrantRequest()),
    ('{"memberID":"18446744073709551615"}', AlarmRequest(memberID=2**64 - 1)),
    ('{"targetID":18446744073709551615}', MoveLeaderRequest(2**64 - 1)),
    ('{"action":"ACTIVATE","alarm":"NOSPACE"}', AlarmRequest(1, 0, 1)),
    ('{"anything":1}', EmptyMessage()),
    ('{"compare":null,"success":[{}]}', TxnRequest([], [RequestOp()])),
    (
        '{"compare":[{"target":"LEASE","result":"NOT_EQUAL","lease":"5","value":null}]}',
        TxnRequest([Compare(result=3, target=4, lease=5)]),
    ),
    (
        '{"success":[{"requestPut":{"key":"YQ=="},"request_range":null}]}',
        TxnRequest(success=[RequestOp(request_put=PutRequest(b"a"))]),
    ),
    (
        '{"failure":[{"request_txn":{"success":[{"request_delete_range":{"prev_kv":true}}]}}]}',
        TxnRequest(
            failure=[
                RequestOp(
                    request_txn=TxnRequest(
                        success=[RequestOp(request_delete_range=DeleteRangeRequest(prev_kv=True))]
                    )
                )
            ]
        ),
    ),
]


@pytest.mark.parametrize(("text", "message"), ACCEPTED, ids=[text[:40] for text, _ in ACCEPTED])
def test_accepted(text: str, message: Any) -> None:
    assert json_codec.decode(text.encode(), type(message)) == message


REFUSED: list[tuple[type, str]] = [
    (RangeRequest, text)
    for text in (
        "{",
        '{"key":',
        '{"key":"YQ==",}',
        "nonsense",
        "[1,2]",
        '"text"',
        "5",
        "null",
        '{"key" "YQ=="}',
        '{"key":"%%%"}',
        '{"key":"YQ=*"}',
        '{"key":"a"}',
        '{"key":"YQ="}',
        '{"key":"====" }',
        '{"key":"YQ==YQ=="}',
        '{"key":"-_+/"}',
        '{"key":"é"}',
        '{"key":5}',
        '{"key":{"a":1}}',
        '{"key":["YQ=="]}',
        '{"limit":"many"}',
        '{"limit":""}',
        '{"limit":1.5}',
        '{"limit":"007"}',
        '{"limit":" 7"}',
        '{"limit":"٣"}',
        '{"limit":true}',
        '{"limit":99999999999999999999}',
        '{"limit":"9223372036854775808"}',
        '{"limit":1e999999999}',
        '{"limit":NaN}',
        '{"limit":' + "1" * 9999 + "}",
        '{"keys_only":"yes"}',
        '{"keys_only":1}',
        '{"sort_order":"SIDEWAYS"}',
        '{"sort_order":"1"}',
        '{"sort_order":2147483648}',
        '{"rangeEnd":"AA==","range_end":"AA=="}',
    )
] + [
    (TxnRequest, text)
    for text in (
        '{"compare":"no"}',
        '{"compare":[null]}',
        '{"success":[null]}',
        '{"success":[5]}',
        '{"success":{"request_put":{}}}',
        '{"success":[{"request_put":{"key":7}}]}',
        '{"success":[{"request_put":{},"request_range":{}}]}',
        '{"compare":[{"version":1,"value":""}]}',
        '{"compare":[{"target":"COLOUR"}]}',
    )
]
REFUSED += [(AlarmRequest, '{"memberID":-1}'), (AlarmRequest, '{"memberID":18446744073709551616}')]


@pytest.mark.parametrize(
    ("message", "text"), REFUSED, ids=[f"{m.__name__} {text[:40]}" for m, text in REFUSED]
)
def test_refused(message: type, text: str) -> None:
    with pytest.raises(MalformedMessage):
        json_codec.decode(text.encode(), message)


@pytest.mark.parametrize("text", ['{"success":', '{"success":[{"request_txn":', '{"nope":['])
def test_bottomless_nesting_is_refused(text: str) -> None:
    for decode in (kv_json.decode_txn, lambda body: json_codec.decode(body, TxnRequest)):
        with pytest.raises(MalformedMessage):
            decode(text.encode() * 100_000)


def test_invalid_utf_8_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        json_codec.decode(b'{"nope":"\xff"}', RangeRequest)


def test_zero_values_are_absent_and_numbers_are_text() -> None:
    header = kv_json.Header(1, 2).full(0, 0)
    assert json_codec.encode_with_header(header, MembersResponse([Member(7)])) == (
        b'{"header":{"cluster_id":"1","member_id":"2"},"members":[{"ID":"7"}]}'
    )
    header = kv_json.Header(1, 2).full(9, 3)
    start = b'{"header":{"cluster_id":"1","member_id":"2","revision":"9","raft_term":"3"}'
    assert json_codec.encode_with_header(header, AlarmResponse(9)) == start + b"}"
    assert json_codec.encode_with_header(header, LeaseTimeToLiveResponse(9, -7, -1)) == (
        start + b',"ID":"-7","TTL":"-1"}'
    )
    ttl = LeaseTimeToLiveResponse(9, 1, 2, 3, [b"a", b""])
    assert json_codec.encode_with_header(header, ttl) == (
        start + b',"ID":"1","TTL":"2","grantedTTL":"3","keys":["YQ==",""]}'
    )


def test_32_bit_numbers_stay_numbers_and_enums_are_names() -> None:
    header = b'{"header":{}'
    assert json_codec.encode_with_header(header, HashResponse(9, 4294967295)) == (
        b'{"header":{},"hash":4294967295}'
    )
    assert json_codec.encode_with_header(header, HashKvResponse(9, 5, -1, 9)) == (
        b'{"header":{},"hash":5,"compact_revision":"-1","hash_revision":"9"}'
    )
    alarms = AlarmResponse(9, [Alarm(2**64 - 1, 1), Alarm(0, 2), Alarm(3, 0), Alarm(4, 9)])
    assert json_codec.encode_with_header(header, alarms) == (
        b'{"header":{},"alarms":[{"memberID":"18446744073709551615","alarm":"NOSPACE"},'
        b'{"alarm":"CORRUPT"},{"memberID":"3"},{"memberID":"4","alarm":9}]}'
    )
    assert json_codec.encode(EmptyMessage()) == b"{}"


def test_wire_size_is_the_protobuf_size() -> None:
    assert json_codec.wire_size(PutRequest()) == 0
    # tag, length, bytes; a length from 128 on takes two bytes, a negative number ten.
    assert json_codec.wire_size(PutRequest(b"abc", b"x" * 300)) == 1 + 1 + 3 + 1 + 2 + 300
    assert json_codec.wire_size(PutRequest(b"a", lease=-1, prev_kv=True)) == 3 + 11 + 2
    op = RequestOp(request_put=PutRequest(b"abc"))
    assert json_codec.wire_size(op) == 2 + 5
    assert json_codec.wire_size(TxnRequest(success=[op, RequestOp()])) == 2 + 7 + 2
