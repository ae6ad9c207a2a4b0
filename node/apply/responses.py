"""What apply answers: etcd's response messages without their headers.

`revision` is the store's revision for the header of the answer; cluster id, member id and term are
the answering member's.
"""

from __future__ import annotations

import msgspec

from mvcc.kv import KeyValue


class PutResponse(msgspec.Struct, gc=False):
    revision: int
    prev_kv: KeyValue | None = None


class RangeResponse(msgspec.Struct):
    revision: int
    kvs: list[KeyValue] = []
    more: bool = False
    count: int = 0


class DeleteRangeResponse(msgspec.Struct):
    revision: int
    deleted: int = 0
    prev_kvs: list[KeyValue] = []


class TxnResponse(msgspec.Struct):
    """`responses` follow the taken branch, each with the revision visible at that point."""

    revision: int
    succeeded: bool = False
    responses: list[RangeResponse | PutResponse | DeleteRangeResponse | TxnResponse] = []


class CompactionResponse(msgspec.Struct):
    revision: int


class LeaseGrantResponse(msgspec.Struct):
    revision: int
    ID: int
    TTL: int


class LeaseRevokeResponse(msgspec.Struct):
    revision: int


class LeaseCheckpointResponse(msgspec.Struct):
    revision: int


class Alarm(msgspec.Struct, frozen=True, order=True):
    memberID: int
    alarm: int


class AlarmResponse(msgspec.Struct):
    revision: int
    alarms: list[Alarm] = []


class DowngradeResponse(msgspec.Struct):
    """`version` is the cluster's; the answering member fills it in."""

    revision: int
    version: str = ""


class Member(msgspec.Struct, omit_defaults=True):
    """One member. `name` and `clientURLs` are empty until it has started and published them."""

    ID: int
    name: str = ""
    peerURLs: list[str] = []
    clientURLs: list[str] = []
    isLearner: bool = False


class MembersResponse(msgspec.Struct):
    """All members after the change, ascending by ID; `member` is the added one."""

    members: list[Member] = []
    member: Member | None = None


class AuthResponse(msgspec.Struct, gc=False):
    """Done. Every request of users and roles that is not refused is answered so."""

    revision: int


class AuthTokenResponse(msgspec.Struct, gc=False):
    """A user was let in by the entry of this index."""

    index: int
