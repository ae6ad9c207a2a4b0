"""The fast reader of hot requests against the tolerant one: whatever the bytes, the same message or
the same refusal.
"""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvcc.kv import KeyValue
from node.api import json_codec, kv_json
from node.api.errors import MalformedMessage
from node.api.messages import Kind, camel_case, fields_of
from node.apply.requests import DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest
from node.apply.responses import DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse

FAST: dict[type, Callable[[bytes], Any]] = {
    PutRequest: kv_json.decode_put,
    RangeRequest: kv_json.decode_range,
    DeleteRangeRequest: kv_json.decode_delete_range,
    TxnRequest: kv_json.decode_txn,
}

INTS = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 2**31, -(2**31) - 1]),
    st.integers(-(10**20), 10**20),
)
NUMBER_TEXTS = st.sampled_from(
    ["", "-", "0", "-0", "00", "007", "+1", " 1", "1 ", "1.0", "1.5", "1e1", "1e-1", "1e99", "0x1"]
) | st.sampled_from(
    [
        "1E400000000",
        "1e" + "9" * 30,
        "0e-" + "9" * 30,
        "1_0",
        "٣",
        "many",
        "9" * 19,
        "9" * 20,
        "-" + "9" * 19,
    ]
)
NUMBERS = st.one_of(
    INTS, INTS.map(str), NUMBER_TEXTS, st.sampled_from([1.0, 1.5, -0.0, 1e3, 1e19, True, None])
)
BYTES = st.binary(max_size=7)
BASE64 = st.one_of(
    BYTES.map(lambda b: b64encode(b).decode()),
    BYTES.map(lambda b: urlsafe_b64encode(b).decode()),
    BYTES.map(lambda b: b64encode(b).decode().rstrip("=")),
    st.sampled_from(
        ["%%%", "YQ=*", "a", "YR==", "YQ==YQ==", "=YQ=", "====", "Y\nQ==", "é", "-_+/"]
    ),
    st.sampled_from([None, 5, True, [], {}]),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["\0", "\ud800", "\U0001f600", "a" * 300, "http://127.0.0.1:1", "root"]),
    st.sampled_from([None, 5, True, [], {}]),
)
BOOLS = st.sampled_from([True, False, True, None, 1, 0, "true", "false"])


def enums(names: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from([*names.__members__, "SIDEWAYS", "none", ""]), NUMBERS)


def values(field: Any, depth: int) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    match field.kind:
        case Kind.BYTES:
            one = BASE64
        case Kind.BOOL:
            one = BOOLS
        case Kind.STRING:
            one = TEXTS
        case Kind.ENUM:
            one = enums(field.of)
        case Kind.MESSAGE:
            one = objects(field.of, depth - 1) if depth else st.just({})
        case _:
            one = NUMBERS
    if field.repeated:
        return st.one_of(st.lists(one, max_size=3), st.sampled_from([None, {}, 5, [None], [5]]))
    return one


def usual(field: Any, depth: int) -> st.SearchStrategy[Any]:
    """Forms that a decent client sends: most of what the fast reader takes."""
    match field.kind:
        case Kind.BYTES:
            return BYTES.map(lambda b: b64encode(b).decode())
        case Kind.BOOL:
            return st.booleans()
        case Kind.STRING:
            one = st.text(max_size=5)
            return st.lists(one, max_size=3) if field.repeated else one
        case Kind.ENUM:
            return st.one_of(st.sampled_from(list(field.of.__members__)), st.integers(0, 4))
        case Kind.MESSAGE:
            one = objects(field.of, depth - 1, usual) if depth else st.just({})
            return st.lists(one, max_size=3) if field.repeated else one
    return st.one_of(st.integers(-1, 2**63 - 1), st.integers(-1, 2**63 - 1).map(str))


def objects(message: type, depth: int = 2, of: Any = values) -> st.SearchStrategy[dict[str, Any]]:
    named: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields_of(message):
        named[field.name] = of(field, depth)
        if of is values:
            named.setdefault(camel_case(field.name), of(field, depth))
    if of is values:
        named["colour"] = st.sampled_from(["red", None, {"x": [1, 2]}, 1.5, "\ud800"])
    if not named:
        return st.just({})
    return st.lists(st.sampled_from(sorted(named)), max_size=5, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: named[name] for name in names})
    )


def texts(message: type) -> st.SearchStrategy[bytes]:
    whole = st.one_of(objects(message, of=usual), objects(message)).flatmap(
        lambda value: st.sampled_from([(",", ":"), (", ", ": "), ("\n,\t", " :\r")]).map(
            lambda blanks: json.dumps(value, separators=blanks).encode()
        )
    )
    return st.one_of(whole, st.builds(damage, whole, st.integers(0, 999), st.binary(max_size=2)))


def damage(body: bytes, place: int, bits: bytes) -> bytes:
    """Overwrite some bytes in the middle, or append them."""
    place %= len(body) + 1
    return body[:place] + bits + body[place + 1 :]


def outcome(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except MalformedMessage:
        return MalformedMessage


MESSAGES = sorted(FAST, key=lambda message: message.__name__)
CASES = st.sampled_from(MESSAGES).flatmap(lambda m: st.tuples(st.just(m), texts(m)))


@settings(max_examples=200)
@given(CASES)
@example((PutRequest, b'{"key":"YQ==","key":"Yg=="}'))
@example((PutRequest, b'{"key":"YQ==","prev_kv":true,"prevKv":true}'))
@example((PutRequest, b'{"key":"YQ\\u003d="}'))
@example((PutRequest, b'{"key":"a\\/bc"}'))
@example((PutRequest, b'{"key":"YR=="} {"key":"YQ=="}'))
@example((PutRequest, b'\xef\xbb\xbf{"key":"YQ=="}'))
@example((PutRequest, b'{"key":"YQ==","lease":-0}'))
@example((PutRequest, b'{"key":"YQ==\x00"}'))
@example((TxnRequest, b'{"success":[{"request_put":{},"request_put":null}]}'))
@example((TxnRequest, b'{"success":[{"request_put":{},"request_range":{}}]}'))
@example((TxnRequest, b'{"compare":[{"version":1,"lease":"1"}]}'))
@example((TxnRequest, b'{"success":' + b'[{"request_txn":{"success":' * 2000))
@example((RangeRequest, b'{"key":"YQ==","limit":1E400000000}'))
@example((RangeRequest, b'{"key":"YQ==","limit":"1E99999999999999999999"}'))
@example((RangeRequest, '{"key":"YQ==","limit":"٣"}'.encode()))
@example((RangeRequest, b'{"key":"YQ==","sort_order":2147483648}'))
@example((TxnRequest, b'{"compare":[{"lease":"5"},{"version":"-5"},{"value":"YQ=="}]}'))
@example((RangeRequest, b'{"key":"YQ==","limit":' + b"1" * 5000 + b"}"))
def test_fast_and_tolerant_reader_agree(case: tuple[type, bytes]) -> None:
    message, body = case
    fast = outcome(FAST[message], body)
    assert fast == outcome(lambda b: json_codec.decode(b, message), body)
    assert fast is MalformedMessage or type(fast) is message


@pytest.mark.parametrize("message", MESSAGES)
@given(data=st.data())
@settings(max_examples=15)
def test_both_spellings_and_number_forms_mean_the_same(message: type, data: Any) -> None:
    value = data.draw(objects(message, of=usual))
    camel = _renamed(value)
    plain = outcome(FAST[message], json.dumps(value).encode())
    assert plain == outcome(FAST[message], json.dumps(camel).encode())


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {camel_case(name): _renamed(item) for name, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


REVISIONS = st.integers(1, 2**63 - 1)
KVS = st.builds(
    KeyValue,
    key=st.binary(min_size=1, max_size=5),
    value=st.binary(max_size=9),
    create_revision=REVISIONS,
    mod_revision=REVISIONS,
    version=REVISIONS,
    lease=st.integers(-(2**63), 2**63 - 1),
)
RANGES = st.builds(
    RangeResponse, REVISIONS, st.lists(KVS, max_size=5), st.booleans(), st.integers(0, 2**40)
)
PUTS = st.builds(PutResponse, REVISIONS, st.none() | KVS)
DELETES = st.builds(DeleteRangeResponse, REVISIONS, st.integers(0, 9), st.lists(KVS, max_size=3))
TXNS = st.recursive(
    st.builds(TxnResponse, REVISIONS, st.booleans()),
    lambda inner: st.builds(
        TxnResponse,
        REVISIONS,
        st.booleans(),
        st.lists(st.one_of(RANGES, PUTS, DELETES, inner), max_size=3),
    ),
    max_leaves=4,
)


def kv_object(kv: KeyValue) -> dict[str, Any]:
    numbers = ("create_revision", "mod_revision", "version", "lease")
    shown = {name: str(getattr(kv, name)) for name in numbers if getattr(kv, name)}
    shown |= {n: b64encode(getattr(kv, n)).decode() for n in ("key", "value") if getattr(kv, n)}
    return shown


def response_object(response: Any, header: dict[str, str]) -> dict[str, Any]:
    """The dumb twin of the hot writers."""
    shown: dict[str, Any] = {"header": header}
    match response:
        case PutResponse():
            if response.prev_kv:
                shown["prev_kv"] = kv_object(response.prev_kv)
        case RangeResponse():
            shown |= {"kvs": [kv_object(kv) for kv in response.kvs]} if response.kvs else {}
            shown |= {"more": True} if response.more else {}
            shown |= {"count": str(response.count)} if response.count else {}
        case DeleteRangeResponse():
            shown |= {"deleted": str(response.deleted)} if response.deleted else {}
            kvs = [kv_object(kv) for kv in response.prev_kvs]
            shown |= {"prev_kvs": kvs} if kvs else {}
        case TxnResponse():
            shown |= {"succeeded": True} if response.succeeded else {}
            inner = [_op_object(one) for one in response.responses]
            shown |= {"responses": inner} if inner else {}
    return shown


def _op_object(response: Any) -> dict[str, Any]:
    if isinstance(response, TxnResponse):
        return {"response_txn": response_object(response, {})}
    name = {
        RangeResponse: "response_range",
        PutResponse: "response_put",
        DeleteRangeResponse: "response_delete_range",
    }[type(response)]
    return {name: response_object(response, {"revision": str(response.revision)})}


WRITERS: dict[type, Callable[[bytes, Any], bytes]] = {
    RangeResponse: kv_json.encode_range,
    PutResponse: kv_json.encode_put,
    DeleteRangeResponse: kv_json.encode_delete_range,
    TxnResponse: kv_json.encode_txn,
}


@settings(max_examples=60)
@given(st.one_of(RANGES, PUTS, DELETES, TXNS))
def test_hot_writers_write_what_the_table_says(response: Any) -> None:
    header = kv_json.Header(7, 2**64 - 1).full(response.revision, 4)
    told = {"cluster_id": "7", "member_id": str(2**64 - 1), "raft_term": "4"}
    told["revision"] = str(response.revision)
    text = WRITERS[type(response)](header, response)
    assert json.loads(text) == response_object(response, told)
    if isinstance(response, RangeResponse) and response.kvs:
        assert b"".join(kv_json.range_slices(header, response)) == text
