"""The JSON of the hot calls (range, put, deleterange, txn) and of events, without detours.

Reading: msgspec decodes in C into a twin of the message. A twin takes a 64-bit number as int or
text and an enum as number or name; it knows no other spelling of a field and forbids unknown ones,
so a body it takes has exactly one meaning. What it does not take (camelCase, null, unpadded base64,
trailing bytes, or plain nonsense) goes to the tolerant decoder, which decides. The two must agree
on everything that the twin takes; tests/property/test_json_codec.py holds them to that.

Writing: no dicts in between, one call of the encoder for all pairs. A range of many keys is written
in slices, so that no single step of the loop is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from mvcc.kv import Event, EventType, KeyValue, SortOrder, SortTarget
from node.api import json_codec
from node.apply.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.apply.responses import DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse

SLICE_KEYS = 1000
SLICE_BYTES = 1 << 20
"""A slice ends at whichever comes first; either is about a millisecond of encoding."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_ENUM_MIN, _ENUM_MAX = -(2**31), 2**31 - 1


class _Unusual(Exception):
    """Not a form the twins take; the tolerant decoder shall say what it is."""


class _Put(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: bytes = b""
    value: bytes = b""
    lease: int | str = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class _Range(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: bytes = b""
    range_end: bytes = b""
    limit: int | str = 0
    revision: int | str = 0
    sort_order: int | str = 0
    sort_target: int | str = 0
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int | str = 0
    max_mod_revision: int | str = 0
    min_create_revision: int | str = 0
    max_create_revision: int | str = 0


class _DeleteRange(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False


class _Compare(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    result: int | str = 0
    target: int | str = 0
    key: bytes = b""
    version: int | str | UnsetType = UNSET
    create_revision: int | str | UnsetType = UNSET
    mod_revision: int | str | UnsetType = UNSET
    value: bytes | UnsetType = UNSET
    lease: int | str | UnsetType = UNSET
    range_end: bytes = b""


class _Op(msgspec.Struct, forbid_unknown_fields=True):
    request_range: _Range | None = None
    request_put: _Put | None = None
    request_delete_range: _DeleteRange | None = None
    request_txn: _Txn | None = None


class _Txn(msgspec.Struct, forbid_unknown_fields=True):
    compare: list[_Compare] = []
    success: list[_Op] = []
    failure: list[_Op] = []


def _int64(value: int | str) -> int:
    if type(value) is str:
        digits = value[1:] if value[:1] == "-" else value
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise _Unusual
        if digits[0] == "0" and len(digits) > 1:
            raise _Unusual
        value = int(value)
    if not _INT64_MIN <= value <= _INT64_MAX:  # type: ignore[operator]
        raise _Unusual
    return value  # type: ignore[return-value]


_ORDERS = {name: int(member) for name, member in SortOrder.__members__.items()}
_TARGETS = {name: int(member) for name, member in SortTarget.__members__.items()}
_RESULTS = {name: int(member) for name, member in CompareResult.__members__.items()}
_OPERANDS = {name: int(member) for name, member in CompareTarget.__members__.items()}


def _enum(value: int | str, names: dict[str, int]) -> int:
    if type(value) is str:
        value = names.get(value, _ENUM_MAX + 1)
    if not _ENUM_MIN <= value <= _ENUM_MAX:  # type: ignore[operator]
        raise _Unusual
    return value  # type: ignore[return-value]


def _put(twin: _Put) -> PutRequest:
    if twin.lease != 0:
        twin.lease = _int64(twin.lease)
    return PutRequest(*astuple(twin))


_SIMPLE_RANGE = astuple(_Range())[2:6] + astuple(_Range())[9:]


def _range(twin: _Range) -> RangeRequest:
    values = astuple(twin)
    numbers = values[2:6] + values[9:]
    if numbers == _SIMPLE_RANGE:
        return RangeRequest(*values)
    limit, revision, order, target, *bounds = numbers
    return RangeRequest(
        twin.key,
        twin.range_end,
        _int64(limit),
        _int64(revision),
        _enum(order, _ORDERS),
        _enum(target, _TARGETS),
        twin.serializable,
        twin.keys_only,
        twin.count_only,
        *map(_int64, bounds),
    )


def _delete_range(twin: _DeleteRange) -> DeleteRangeRequest:
    return DeleteRangeRequest(twin.key, twin.range_end, twin.prev_kv)


def _compare(twin: _Compare) -> Compare:
    request = Compare(
        _enum(twin.result, _RESULTS),
        _enum(twin.target, _OPERANDS),
        twin.key,
        range_end=twin.range_end,
    )
    operands = 0
    if twin.version is not UNSET:
        request.version = _int64(twin.version)
        operands += 1
    if twin.create_revision is not UNSET:
        request.create_revision = _int64(twin.create_revision)
        operands += 1
    if twin.mod_revision is not UNSET:
        request.mod_revision = _int64(twin.mod_revision)
        operands += 1
    if twin.value is not UNSET:
        request.value = twin.value
        operands += 1
    if twin.lease is not UNSET:
        request.lease = _int64(twin.lease)
        operands += 1
    if operands > 1:
        raise _Unusual
    return request


def _op(twin: _Op) -> RequestOp:
    request = RequestOp()
    members = 0
    if twin.request_range is not None:
        request.request_range = _range(twin.request_range)
        members += 1
    if twin.request_put is not None:
        request.request_put = _put(twin.request_put)
        members += 1
    if twin.request_delete_range is not None:
        request.request_delete_range = _delete_range(twin.request_delete_range)
        members += 1
    if twin.request_txn is not None:
        request.request_txn = _txn(twin.request_txn)
        members += 1
    if members > 1:
        raise _Unusual
    return request


def _txn(twin: _Txn) -> TxnRequest:
    return TxnRequest(
        [_compare(item) for item in twin.compare],
        [_op(item) for item in twin.success],
        [_op(item) for item in twin.failure],
    )


def _decoder(twin: type, message: type, convert: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    decode_twin: Callable[[bytes], Any] = msgspec.json.Decoder(twin).decode
    tolerant = json_codec.decode

    def decode(body: bytes) -> Any:
        try:
            return convert(decode_twin(body))
        except (msgspec.DecodeError, _Unusual, UnicodeDecodeError, RecursionError):
            return tolerant(body, message)

    return decode


decode_put: Callable[[bytes], PutRequest] = _decoder(_Put, PutRequest, _put)
decode_range: Callable[[bytes], RangeRequest] = _decoder(_Range, RangeRequest, _range)
decode_delete_range: Callable[[bytes], DeleteRangeRequest] = _decoder(
    _DeleteRange, DeleteRangeRequest, _delete_range
)
decode_txn: Callable[[bytes], TxnRequest] = _decoder(_Txn, TxnRequest, _txn)


class Header:
    """The start of an answer: `{"header":{...}` with its brace left open."""

    __slots__ = ("_end", "_start", "_term")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        ids = [b'"cluster_id":"%d"' % cluster_id] if cluster_id else []
        ids += [b'"member_id":"%d"' % member_id] if member_id else []
        self._start = b'{"header":{' + b",".join(ids)
        self._term = -1
        self._end = b"}"

    def full(self, revision: int, term: int) -> bytes:
        """All four fields; zero ones are left out, `revision` too where a call does not touch the
        store.
        """
        if term != self._term:
            self._term = term
            self._end = b',"raft_term":"%d"}' % term if term else b"}"
        if revision:
            return b'%b,"revision":"%d"%b' % (self._start, revision, self._end)
        return self._start + self._end


class _KeyValue(msgspec.Struct, omit_defaults=True, gc=False):
    """A KeyValue as it is written: 64-bit numbers as text. Empty texts and bytes are left out."""

    key: bytes = b""
    create_revision: str = ""
    mod_revision: str = ""
    version: str = ""
    value: bytes = b""
    lease: str = ""


_ENCODE = msgspec.json.Encoder().encode


def _shown(kv: KeyValue) -> _KeyValue:
    return _KeyValue(
        kv.key,
        str(kv.create_revision),
        str(kv.mod_revision),
        str(kv.version),
        kv.value,
        str(kv.lease) if kv.lease else "",
    )


def _key_values(kvs: list[KeyValue]) -> bytes:
    # One call of the encoder for all: a third faster than formatting each by hand.
    return _ENCODE([_shown(kv) for kv in kvs])


def encode_put(header: bytes, response: PutResponse) -> bytes:
    if response.prev_kv is None:
        return header + b"}"
    return b'%b,"prev_kv":%b}' % (header, _ENCODE(_shown(response.prev_kv)))


def encode_range(header: bytes, response: RangeResponse) -> bytes:
    text = header
    if response.kvs:
        text = b'%b,"kvs":%b' % (header, _key_values(response.kvs))
    return text + _range_end(response)


def _range_end(response: RangeResponse) -> bytes:
    more = b',"more":true' if response.more else b""
    return b'%b,"count":"%d"}' % (more, response.count) if response.count else more + b"}"


def range_slices(header: bytes, response: RangeResponse) -> Iterator[bytes]:
    """`encode_range` in steps: the concatenation is the same. Takes the pairs out of `response`,
    which would else be freed all at once.
    """
    kvs = response.kvs
    kvs.reverse()
    yield header + b',"kvs":['
    comma = b""
    while kvs:
        yield comma + _key_values(_take_slice(kvs))[1:-1]
        comma = b","
    yield b"]" + _range_end(response)


def _take_slice(kvs: list[KeyValue]) -> list[KeyValue]:
    """Remove the slice at the end of a reversed list."""
    part: list[KeyValue] = []
    size = 0
    while kvs and len(part) < SLICE_KEYS and size < SLICE_BYTES:
        kv = kvs.pop()
        part.append(kv)
        size += len(kv.value)
    return part


def is_large(response: RangeResponse) -> bool:
    """Whether to write it in slices; looks at values only when there are few keys."""
    kvs = response.kvs
    if len(kvs) < 2:
        return False
    return len(kvs) > SLICE_KEYS or len(kvs) * len(kvs[0].value) > SLICE_BYTES


def encode_delete_range(header: bytes, response: DeleteRangeResponse) -> bytes:
    text = header
    if response.deleted:
        text = b'%b,"deleted":"%d"' % (text, response.deleted)
    if response.prev_kvs:
        text = b'%b,"prev_kvs":%b' % (text, _key_values(response.prev_kvs))
    return text + b"}"


def encode_txn(header: bytes, response: TxnResponse) -> bytes:
    text = header
    if response.succeeded:
        text += b',"succeeded":true'
    if response.responses:
        text = b'%b,"responses":[%b]' % (text, b",".join(map(_op_response, response.responses)))
    return text + b"}"


_OP_RESPONSES: dict[type, tuple[bytes, Callable[[bytes, Any], bytes]]] = {
    RangeResponse: (b"response_range", encode_range),
    PutResponse: (b"response_put", encode_put),
    DeleteRangeResponse: (b"response_delete_range", encode_delete_range),
}


def _op_response(response: Any) -> bytes:
    if type(response) is TxnResponse:
        # A nested txn says nothing in its header, not even a revision.
        return b'{"response_txn":%b}' % encode_txn(b'{"header":{}', response)
    name, encode = _OP_RESPONSES[type(response)]
    header = b'{"header":{"revision":"%d"}' % response.revision
    return b'{"%b":%b}' % (name, encode(header, response))


class _Event(msgspec.Struct, omit_defaults=True, gc=False):
    """An Event as it is written."""

    kv: _KeyValue
    type: str = ""
    prev_kv: _KeyValue | None = None


def _shown_event(event: Event) -> _Event:
    kv, prev = event.kv, event.prev_kv
    before = None if prev is None else _shown(prev)
    if event.type == EventType.DELETE:
        return _Event(_KeyValue(kv.key, "", str(kv.mod_revision)), "DELETE", before)
    return _Event(_shown(kv), "", before)


def encode_events(events: Iterable[Event]) -> bytes:
    """The array of a watch's events."""
    return _ENCODE([_shown_event(event) for event in events])
