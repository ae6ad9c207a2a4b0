"""Where this package keeps its rows: tables, keys, and the bytes of an id as a key.

`consistentIndex` and its term are the backend's own (it writes them with every batch); everything
else that apply persists is named here.

    table             key                     value (msgpack)
    lease             lease id                LeaseRecord: TTL and remaining TTL, seconds
    alarm             member id, alarm type   nothing: the key says it
    members           member id               Member
    members_removed   member id               nothing; kept for ever, ids are never reused
    cluster           clusterID               the cluster's id
    cluster           downgrade               the release of an announced downgrade, in plain text
    meta              confState               ConfState
    auth              state                   AuthState
    auth_users        name, UTF-8             User
    auth_roles        name, UTF-8             Role
"""

from __future__ import annotations

import struct

META = "meta"
LEASE = "lease"
ALARM = "alarm"
MEMBERS = "members"
MEMBERS_REMOVED = "members_removed"
CLUSTER = "cluster"
AUTH = "auth"
AUTH_USERS = "auth_users"
AUTH_ROLES = "auth_roles"

CONF_STATE = b"confState"
CLUSTER_ID = b"clusterID"
DOWNGRADE = b"downgrade"
AUTH_STATE = b"state"

FIRST = b""
"""Below every key of a table."""
END = b"\xff" * 24
"""Above every key of this package's tables: ids are 12 bytes at most, UTF-8 has no such byte."""

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1

_ID = struct.Struct(">Q")
_ALARM = struct.Struct(">QI")


def id_key(number: int) -> bytes:
    """Eight bytes for a member id (unsigned) or a lease id (signed, kept modulo 2**64)."""
    return _ID.pack(number & UINT64_MAX)


def member_id_of(key: bytes) -> int:
    return int(_ID.unpack(key)[0])


def lease_id_of(key: bytes) -> int:
    number = member_id_of(key)
    return number - 2**64 if number > INT64_MAX else number


def alarm_key(member: int, alarm: int) -> bytes:
    """Member first, then type: 12 bytes."""
    return _ALARM.pack(member, alarm)


def alarm_of(key: bytes) -> tuple[int, int]:
    member, alarm = _ALARM.unpack(key)
    return int(member), int(alarm)
