"""The wire messages: which fields they have, of which JSON form, in which order.

The replicated requests and their responses live in `node.apply` (JSON and log share them); here are
the others, and what a Struct's annotations cannot say: which ints are unsigned or enums, and which
fields exclude each other. One table (`fields_of`) drives both the tolerant decoder and the generic
encoder, so names and types cannot drift apart.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from mvcc.kv import KeyValue, SortOrder, SortTarget
from node.apply.requests import (
    AlarmAction,
    AlarmRequest,
    AlarmType,
    Compare,
    CompareResult,
    CompareTarget,
    DowngradeAction,
    DowngradeRequest,
    MemberUpdateRequest,
    Permission,
    PermissionType,
    RangeRequest,
    RequestOp,
)
from node.apply.responses import Alarm


class EmptyMessage(msgspec.Struct):
    """No fields, either way."""


class LeaseTimeToLiveRequest(msgspec.Struct):
    ID: int = 0
    keys: bool = False


class LeaseTimeToLiveResponse(msgspec.Struct):
    """`TTL` -1: there is no such lease. `keys` in no promised order."""

    revision: int
    ID: int
    TTL: int
    grantedTTL: int = 0
    keys: list[bytes] = []


class LeaseKeepAliveRequest(msgspec.Struct):
    ID: int = 0


class LeaseKeepAliveResponse(msgspec.Struct):
    """`TTL` 0: there is no such lease (any more)."""

    revision: int
    ID: int
    TTL: int


class LeaseStatus(msgspec.Struct):
    ID: int


class LeaseLeasesResponse(msgspec.Struct):
    """The soonest to expire first."""

    revision: int
    leases: list[LeaseStatus] = []


class MemberListRequest(msgspec.Struct):
    linearizable: bool = False


class MemberAddRequest(msgspec.Struct):
    peerURLs: list[str] = []
    isLearner: bool = False


class MemberRemoveRequest(msgspec.Struct):
    ID: int = 0


class MemberPromoteRequest(msgspec.Struct):
    ID: int = 0


class DowngradeInfo(msgspec.Struct, frozen=True):
    enabled: bool = False
    targetVersion: str = ""


class StatusResponse(msgspec.Struct):
    """Sizes in bytes; `leader` 0: none known."""

    revision: int
    version: str
    dbSize: int
    leader: int
    raftIndex: int
    raftTerm: int
    raftAppliedIndex: int
    errors: list[str]
    dbSizeInUse: int
    isLearner: bool
    storageVersion: str
    dbSizeQuota: int
    downgradeInfo: DowngradeInfo = DowngradeInfo()


class HashResponse(msgspec.Struct):
    revision: int
    hash: int


class HashKvRequest(msgspec.Struct):
    revision: int = 0


class HashKvResponse(msgspec.Struct):
    revision: int
    hash: int
    compact_revision: int
    hash_revision: int


class MoveLeaderRequest(msgspec.Struct):
    targetID: int = 0


class SnapshotResponse(msgspec.Struct):
    """One message of the stream; the last one's `blob` is the SHA-256 of all the others."""

    remaining_bytes: int
    blob: bytes
    version: str = ""


class RevisionResponse(msgspec.Struct):
    """A header alone."""

    revision: int


class LockRequest(msgspec.Struct):
    name: bytes = b""
    lease: int = 0


class LockResponse(msgspec.Struct):
    revision: int
    key: bytes


class UnlockRequest(msgspec.Struct):
    key: bytes = b""


class LeaderKey(msgspec.Struct):
    """A claim to lead: its key, the revision that created it, the lease it lives by."""

    name: bytes = b""
    key: bytes = b""
    rev: int = 0
    lease: int = 0


class CampaignRequest(msgspec.Struct):
    name: bytes = b""
    lease: int = 0
    value: bytes = b""


class CampaignResponse(msgspec.Struct):
    revision: int
    leader: LeaderKey


class ProclaimRequest(msgspec.Struct):
    leader: LeaderKey | None = None
    value: bytes = b""


class ResignRequest(msgspec.Struct):
    leader: LeaderKey | None = None


class LeaderRequest(msgspec.Struct):
    """Of whom: also what observe takes."""

    name: bytes = b""


class LeaderResponse(msgspec.Struct):
    revision: int
    kv: KeyValue


class _WithPassword(msgspec.Struct):
    """A message that shows nobody what it holds, whatever prints it."""

    name: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


class AuthenticateRequest(_WithPassword):
    pass


class AuthenticateResponse(msgspec.Struct):
    revision: int
    token: str


class AuthStatusResponse(msgspec.Struct):
    revision: int
    enabled: bool
    authRevision: int


class UserAddOptions(msgspec.Struct):
    no_password: bool = False


class AuthUserAddRequest(_WithPassword):
    options: UserAddOptions | None = None
    hashedPassword: str = ""


class AuthUserChangePasswordRequest(_WithPassword):
    hashedPassword: str = ""


class UserGetRequest(msgspec.Struct):
    name: str = ""


class UserGetResponse(msgspec.Struct):
    revision: int
    roles: list[str] = []


class UserListResponse(msgspec.Struct):
    revision: int
    users: list[str] = []


class RoleGetRequest(msgspec.Struct):
    role: str = ""


class RoleGetResponse(msgspec.Struct):
    revision: int
    perm: list[Permission] = []


class RoleListResponse(msgspec.Struct):
    revision: int
    roles: list[str] = []


class FilterType(IntEnum):
    NOPUT = 0
    NODELETE = 1


class WatchCreateRequest(msgspec.Struct):
    key: bytes = b""
    range_end: bytes = b""
    start_revision: int = 0
    progress_notify: bool = False
    filters: list[int] = []
    prev_kv: bool = False
    watch_id: int = 0
    fragment: bool = False


class WatchCancelRequest(msgspec.Struct):
    watch_id: int = 0


class WatchRequest(msgspec.Struct):
    """One of them, or none: a kind of request that is not known here."""

    create_request: WatchCreateRequest | None = None
    cancel_request: WatchCancelRequest | None = None
    progress_request: EmptyMessage | None = None


class Kind(Enum):
    BYTES = auto()
    STRING = auto()
    BOOL = auto()
    INT64 = auto()
    UINT64 = auto()
    UINT32 = auto()
    ENUM = auto()
    MESSAGE = auto()


class Field(NamedTuple):
    """`of` is the enum or message class of an ENUM or MESSAGE. `repeated` fields are arrays."""

    name: str
    kind: Kind
    repeated: bool = False
    of: Any = None


_ENUMS: dict[tuple[type, str], type[IntEnum]] = {
    (RangeRequest, "sort_order"): SortOrder,
    (RangeRequest, "sort_target"): SortTarget,
    (Compare, "result"): CompareResult,
    (Compare, "target"): CompareTarget,
    (AlarmRequest, "action"): AlarmAction,
    (AlarmRequest, "alarm"): AlarmType,
    (Alarm, "alarm"): AlarmType,
    (DowngradeRequest, "action"): DowngradeAction,
    (WatchCreateRequest, "filters"): FilterType,
    (Permission, "permType"): PermissionType,
}
_UNSIGNED: dict[tuple[type, str], Kind] = {
    (AlarmRequest, "memberID"): Kind.UINT64,
    (MoveLeaderRequest, "targetID"): Kind.UINT64,
    (MemberRemoveRequest, "ID"): Kind.UINT64,
    (MemberPromoteRequest, "ID"): Kind.UINT64,
    (MemberUpdateRequest, "ID"): Kind.UINT64,
    (AuthStatusResponse, "authRevision"): Kind.UINT64,
    (HashResponse, "hash"): Kind.UINT32,
    (HashKvResponse, "hash"): Kind.UINT32,
}
_KINDS = {bytes: Kind.BYTES, str: Kind.STRING, bool: Kind.BOOL, int: Kind.INT64}

ONEOF: dict[type, frozenset[str]] = {
    RequestOp: frozenset(RequestOp.__struct_fields__),
    Compare: frozenset({"version", "create_revision", "mod_revision", "value", "lease"}),
    WatchRequest: frozenset(WatchRequest.__struct_fields__),
}
"""At most one of these members may be present."""


@cache
def fields_of(message: type) -> tuple[Field, ...]:
    """The fields of a Struct in wire order. `revision` of a response belongs to its header and is
    left out by the encoder.
    """
    hints = get_type_hints(message)
    return tuple(_field(message, name, hints[name]) for name in message.__struct_fields__)  # type: ignore[attr-defined]


def _field(message: type, name: str, hint: Any) -> Field:
    if (message, name) in _ENUMS:
        return Field(name, Kind.ENUM, get_origin(hint) is list, _ENUMS[message, name])
    if (message, name) in _UNSIGNED:
        return Field(name, _UNSIGNED[message, name])
    repeated = get_origin(hint) is list
    if repeated:
        hint = get_args(hint)[0]
    elif isinstance(hint, UnionType):
        (hint,) = (arm for arm in get_args(hint) if arm is not NoneType)
    kind = _KINDS.get(hint, Kind.MESSAGE)
    return Field(name, kind, repeated, hint if kind is Kind.MESSAGE else None)


def camel_case(name: str) -> str:
    """The other spelling of a field that input may use."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)
