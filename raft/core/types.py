"""The nouns of the replicated log: entries, durable state, configuration."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec

NONE = 0
"""The member id that is nobody: no vote, no leader."""


class EntryType(IntEnum):
    """What an entry's data mean to whoever applies it."""

    NORMAL = 0
    CONF_CHANGE = 1


class Role(IntEnum):
    """What a member is in its term."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One position of the log. `data` is opaque here; empty for a new leader's first entry.

    Owns no references into cycles, so the collector does not track it (`gc=False`): logs are long.
    """

    term: int
    index: int
    type: int = EntryType.NORMAL
    data: bytes = b""


class HardState(NamedTuple):
    """What is on disk before a member speaks: its term, its vote in it, what it knows committed."""

    term: int = 0
    vote: int = NONE
    commit: int = 0


class SoftState(NamedTuple):
    """What need not be durable: the leader as this member sees it, and this member's role."""

    leader: int = NONE
    role: Role = Role.FOLLOWER


class ConfState(msgspec.Struct, array_like=True, frozen=True):
    """A configuration: ascending member ids; `voters_outgoing` is non-empty only while joint."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """The state after `index`, by name only: its bytes travel and rest outside the core."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = ConfState()


class ReadState(NamedTuple):
    """A read asked for with `token` is linearizable once this member has applied `index`."""

    index: int  # type: ignore[assignment]  # hides tuple.index(), which nobody wants of this
    token: int
