"""The replicated request types and their versioned bytes.

These are etcd's own messages (field names are the wire's, JSON and log alike), so that a request is
decoded once at the door and stays the same object until it is applied. In the log a request is one
byte of kind, eight of request id, and its fields as a msgpack map without the defaults: a field
added later reads as its default from older entries, and an unknown one is skipped.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import msgspec


class CompareTarget(IntEnum):
    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class CompareResult(IntEnum):
    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class AlarmType(IntEnum):
    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


class AlarmAction(IntEnum):
    GET = 0
    ACTIVATE = 1
    DEACTIVATE = 2


class PutRequest(msgspec.Struct, omit_defaults=True, gc=False):
    key: bytes = b""
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class RangeRequest(msgspec.Struct, omit_defaults=True, gc=False):
    key: bytes = b""
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: int = 0
    sort_target: int = 0
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class DeleteRangeRequest(msgspec.Struct, omit_defaults=True, gc=False):
    key: bytes = b""
    range_end: bytes = b""
    prev_kv: bool = False


class Compare(msgspec.Struct, omit_defaults=True, gc=False):
    """stored `result` operand: the field that `target` names, absent means 0 or empty."""

    result: int = 0
    target: int = 0
    key: bytes = b""
    version: int = 0
    create_revision: int = 0
    mod_revision: int = 0
    value: bytes = b""
    lease: int = 0
    range_end: bytes = b""


class RequestOp(msgspec.Struct, omit_defaults=True):
    """Exactly one member is set; none at all is refused when it is checked."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None
    request_txn: TxnRequest | None = None


class TxnRequest(msgspec.Struct, omit_defaults=True):
    compare: list[Compare] = []
    success: list[RequestOp] = []
    failure: list[RequestOp] = []


class CompactionRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """`physical` concerns only the member that was asked: it waits for its own job."""

    revision: int = 0
    physical: bool = False


class LeaseGrantRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """The proposer has chosen the ID and applied the TTL floor, which apply cannot know."""

    TTL: int = 0
    ID: int = 0


class LeaseRevokeRequest(msgspec.Struct, omit_defaults=True, gc=False):
    ID: int = 0


class AlarmRequest(msgspec.Struct, omit_defaults=True, gc=False):
    action: int = 0
    memberID: int = 0
    alarm: int = 0


class MemberAttributesRequest(msgspec.Struct, omit_defaults=True):
    """A started member publishes its name and client URLs."""

    ID: int = 0
    name: str = ""
    clientURLs: list[str] = []


class MemberUpdateRequest(msgspec.Struct, omit_defaults=True):
    """A member's new peer URLs. No configuration change: raft knows members by their ids."""

    ID: int = 0
    peerURLs: list[str] = []


Request = (
    PutRequest
    | DeleteRangeRequest
    | TxnRequest
    | CompactionRequest
    | LeaseGrantRequest
    | LeaseRevokeRequest
    | AlarmRequest
    | MemberAttributesRequest
    | MemberUpdateRequest
)

KINDS: dict[int, type[Any]] = {
    1: PutRequest,
    2: DeleteRangeRequest,
    3: TxnRequest,
    4: CompactionRequest,
    5: LeaseGrantRequest,
    6: LeaseRevokeRequest,
    7: AlarmRequest,
    8: MemberAttributesRequest,
    9: MemberUpdateRequest,
}
"""Kind numbers are in the log for ever: add, never reuse."""

_HEAD = struct.Struct(">BQ")
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_DECODERS = {kind: msgspec.msgpack.Decoder(cls) for kind, cls in KINDS.items()}
_ENCODE = msgspec.msgpack.Encoder().encode


def encode(request_id: int, request: Request) -> bytes:
    """The bytes of one log entry."""
    return _HEAD.pack(_KIND_OF[type(request)], request_id) + _ENCODE(request)


def request_id_of(data: bytes) -> int:
    """The id alone, without decoding the request."""
    return _HEAD.unpack_from(data)[1]  # type: ignore[no-any-return]


def decode(data: bytes) -> tuple[int, Request]:
    """(request id, request). ValueError when these bytes are no request of ours."""
    if len(data) < _HEAD.size:
        raise ValueError("entry shorter than its head")
    kind, request_id = _HEAD.unpack_from(data)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ValueError(f"unknown request kind {kind}")
    try:
        return request_id, decoder.decode(memoryview(data)[_HEAD.size :])
    except msgspec.DecodeError as error:
        raise ValueError(f"malformed request of kind {kind}: {error}") from error
