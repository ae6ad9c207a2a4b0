"""The words others import: a key's state, an event, what a range asks and answers."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """One key at one revision. `lease` 0: none. A delete sets only `key` and `mod_revision`.

    No tuple: the collector looks at those of a named kind, and an answer may hold a million.
    """

    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0


class EventType(IntEnum):
    PUT = 0
    DELETE = 1


class Event(NamedTuple):
    """One change. `prev_kv` is set when it was captured, None otherwise."""

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None = None


class SortOrder(IntEnum):
    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class RangeOptions(NamedTuple):
    """How to read a range: revision <= 0 is now, limit <= 0 is none, 0 switches a bound off."""

    revision: int = 0
    limit: int = 0
    sort_order: int = SortOrder.NONE
    sort_target: int = SortTarget.KEY
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class RangeResult(NamedTuple):
    """`revision` is the store's current one, also for a read of the past.

    `count` ignores limit and filters.
    """

    kvs: list[KeyValue]
    count: int  # type: ignore[assignment]
    more: bool
    revision: int
