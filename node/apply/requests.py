"""The replicated request types and their versioned bytes.

These are etcd's own messages (field names are the wire's, JSON and log alike), so that a request is
decoded once at the door and stays the same object until it is applied. In the log a request is one
byte of kind, eight of request id, and its fields as a msgpack map without the defaults: a field
added later reads as its default from older entries, and an unknown one is skipped.

While authentication is on, the kind's highest bit is set and who asks comes before the fields:

    kind | 0x80, id | auth revision (8 bytes), length of the user's name (1 byte), the name | fields
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec


class Identity(NamedTuple):
    """Who asks: a user, and the auth revision at which the asked member let them in."""

    user: str
    revision: int


Asker = Identity | None
"""None while authentication is off."""

CLUSTER = Identity("", 0)
"""The members themselves: what they propose on their own account needs no permission."""


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


class PermissionType(IntEnum):
    READ = 0
    WRITE = 1
    READWRITE = 2


class AlarmAction(IntEnum):
    GET = 0
    ACTIVATE = 1
    DEACTIVATE = 2


class DowngradeAction(IntEnum):
    VALIDATE = 0
    ENABLE = 1
    CANCEL = 2


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


class LeaseCheckpoint(msgspec.Struct, omit_defaults=True, gc=False):
    """Seconds that the leader saw left of a lease; 0: renewed, all of them."""

    ID: int = 0
    remaining_ttl: int = 0


class LeaseCheckpointRequest(msgspec.Struct, omit_defaults=True):
    """Counts only in the `term` of the leader whose clock it is."""

    checkpoints: list[LeaseCheckpoint] = []
    term: int = 0


class LeaseExpireRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """A leader's revoke of a lease whose time is up. Counts only in its `term`: the next leader may
    have renewed the lease.
    """

    ID: int = 0
    term: int = 0


class AlarmRequest(msgspec.Struct, omit_defaults=True, gc=False):
    action: int = 0
    memberID: int = 0
    alarm: int = 0


class DowngradeRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """In the log, ENABLE has a release of three numbers; CANCEL needs none."""

    action: int = 0
    version: str = ""


class MemberAttributesRequest(msgspec.Struct, omit_defaults=True):
    """A started member publishes its name and client URLs."""

    ID: int = 0
    name: str = ""
    clientURLs: list[str] = []


class MemberUpdateRequest(msgspec.Struct, omit_defaults=True):
    """A member's new peer URLs. No configuration change: raft knows members by their ids."""

    ID: int = 0
    peerURLs: list[str] = []


class Permission(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a role may do with [key, range_end); an empty end is one key, a zero byte no bound."""

    permType: int = 0
    key: bytes = b""
    range_end: bytes = b""


class AuthEnableRequest(msgspec.Struct, omit_defaults=True, gc=False):
    pass


class AuthDisableRequest(msgspec.Struct, omit_defaults=True, gc=False):
    pass


class AuthTokenRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """A user was let in at `revision`. The token's SHA-256, so that no log holds a key to the
    cluster.
    """

    name: str = ""
    digest: bytes = b""
    revision: int = 0


class UserAddRequest(msgspec.Struct, omit_defaults=True, gc=False):
    """`hashed_password` is the proposer's work; empty for a user without one."""

    name: str = ""
    hashed_password: bytes = b""


class UserDeleteRequest(msgspec.Struct, omit_defaults=True, gc=False):
    name: str = ""


class UserChangePasswordRequest(msgspec.Struct, omit_defaults=True, gc=False):
    name: str = ""
    hashed_password: bytes = b""


class UserGrantRoleRequest(msgspec.Struct, omit_defaults=True, gc=False):
    user: str = ""
    role: str = ""


class UserRevokeRoleRequest(msgspec.Struct, omit_defaults=True, gc=False):
    name: str = ""
    role: str = ""


class RoleAddRequest(msgspec.Struct, omit_defaults=True, gc=False):
    name: str = ""


class RoleDeleteRequest(msgspec.Struct, omit_defaults=True, gc=False):
    role: str = ""


class RoleGrantPermissionRequest(msgspec.Struct, omit_defaults=True):
    name: str = ""
    perm: Permission | None = None


class RoleRevokePermissionRequest(msgspec.Struct, omit_defaults=True, gc=False):
    role: str = ""
    key: bytes = b""
    range_end: bytes = b""


AuthRequest = (
    AuthEnableRequest
    | AuthDisableRequest
    | AuthTokenRequest
    | UserAddRequest
    | UserDeleteRequest
    | UserChangePasswordRequest
    | UserGrantRoleRequest
    | UserRevokeRoleRequest
    | RoleAddRequest
    | RoleDeleteRequest
    | RoleGrantPermissionRequest
    | RoleRevokePermissionRequest
)

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
    | LeaseCheckpointRequest
    | LeaseExpireRequest
    | DowngradeRequest
    | AuthRequest
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
    10: LeaseCheckpointRequest,
    11: AuthEnableRequest,
    12: AuthDisableRequest,
    13: AuthTokenRequest,
    14: UserAddRequest,
    15: UserDeleteRequest,
    16: UserChangePasswordRequest,
    17: UserGrantRoleRequest,
    18: UserRevokeRoleRequest,
    19: RoleAddRequest,
    20: RoleDeleteRequest,
    21: RoleGrantPermissionRequest,
    22: RoleRevokePermissionRequest,
    23: LeaseExpireRequest,
    24: DowngradeRequest,
}
"""Kind numbers are in the log for ever: add, never reuse. At most 127."""

NAME_BYTES_MAX = 255
"""Of a user or a role: what one byte of length can say, and what fits a key of the backend."""

_HEAD = struct.Struct(">BQ")
_SIGNED = 0x80
_IDENTITY = struct.Struct(">QB")
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_DECODERS = {kind: msgspec.msgpack.Decoder(cls) for kind, cls in KINDS.items()}
_ENCODE = msgspec.msgpack.Encoder().encode


def encode(request_id: int, request: Request, identity: Identity | None = None) -> bytes:
    """The bytes of one log entry; `identity` while authentication is on."""
    kind = _KIND_OF[type(request)]
    if identity is None:
        return _HEAD.pack(kind, request_id) + _ENCODE(request)
    user = identity.user.encode()
    return b"".join(
        (
            _HEAD.pack(kind | _SIGNED, request_id),
            _IDENTITY.pack(identity.revision, len(user)),
            user,
            _ENCODE(request),
        )
    )


def request_id_of(data: bytes) -> int:
    """The id alone, without decoding the request."""
    return _HEAD.unpack_from(data)[1]  # type: ignore[no-any-return]


def identity_of(data: bytes) -> Identity | None:
    """Who asks, of an entry that `decode` can read; None when it does not say."""
    if not data[0] & _SIGNED:
        return None
    revision, length = _IDENTITY.unpack_from(data, _HEAD.size)
    start = _HEAD.size + _IDENTITY.size
    return Identity(data[start : start + length].decode(), revision)


def decode(data: bytes) -> tuple[int, Request]:
    """(request id, request). ValueError when these bytes are no request of ours."""
    if len(data) < _HEAD.size:
        raise ValueError("entry shorter than its head")
    kind, request_id = _HEAD.unpack_from(data)
    start = _HEAD.size
    if kind & _SIGNED:
        kind &= ~_SIGNED
        start = _end_of_identity(data)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ValueError(f"unknown request kind {kind}")
    try:
        return request_id, decoder.decode(memoryview(data)[start:])
    except msgspec.DecodeError as error:
        raise ValueError(f"malformed request of kind {kind}: {error}") from error


def _end_of_identity(data: bytes) -> int:
    """Where the fields begin. ValueError for an identity that is cut or no text."""
    start = _HEAD.size + _IDENTITY.size
    if len(data) < start:
        raise ValueError("entry shorter than its identity")
    end = start + data[start - 1]
    if len(data) < end:
        raise ValueError("entry shorter than its identity")
    data[start:end].decode()
    return end
