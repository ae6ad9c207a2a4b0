"""Changes of the configuration, and the only way from one configuration to the next.

    (1 2 3) ── simple: at most one voter differs ──► (1 2 3 4)
    (1 2 3) ── enter joint ──► (1 4 5)&(1 2 3) ── leave joint ──► (1 4 5)

While joint, elections and commits need a majority of both halves (Raft paper §6).
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from raft.core.errors import ConfChangeRefused
from raft.core.progress import Progress
from raft.core.tracker import Tracker, ascending, check_conf_state
from raft.core.types import NONE, ConfState


class ConfChangeType(IntEnum):
    """What happens to one member."""

    ADD_VOTER = 0
    ADD_LEARNER = 1
    REMOVE = 2


class Transition(IntEnum):
    """How a change is made: AUTO is simple where that is enough, else joint; both of the joint ones
    force the joint way, and only an explicit one waits for an empty change to leave it."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class ConfChangeSingle(msgspec.Struct, array_like=True, frozen=True):
    """One member's part of a change; adding a voter as learner demotes it, and the reverse."""

    type: ConfChangeType
    member: int


class ConfChange(msgspec.Struct, array_like=True, frozen=True):
    """A change as it stands in an entry. Without `changes` it leaves a joint configuration.

    `context` belongs to whoever proposed it and is opaque here.
    """

    changes: list[ConfChangeSingle] = []
    transition: Transition = Transition.AUTO
    context: bytes = b""

    def leaves_joint(self) -> bool:
        return not self.changes

    def enters_joint(self) -> bool:
        return len(self.changes) > 1 or (bool(self.changes) and self.transition != Transition.AUTO)

    def auto_leave(self) -> bool:
        return self.transition != Transition.JOINT_EXPLICIT


_decoder = msgspec.msgpack.Decoder(ConfChange)


def encode_conf_change(change: ConfChange) -> bytes:
    return msgspec.msgpack.encode(change)


def decode_conf_change(data: bytes) -> ConfChange:
    """ConfChangeRefused when `data` is not an encoded ConfChange; no data is an empty change."""
    if not data:
        return ConfChange()
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ConfChangeRefused(f"not a configuration change: {error}") from error


class Changer:
    """Computes the next configuration; the tracker it reads from stays as it is.

    A member that appears gets a Progress that probes after `last_index`, and counts as active until
    the next check of the quorum, so that adding it does not depose the leader.
    """

    def __init__(self, tracker: Tracker, last_index: int) -> None:
        self._tracker = tracker
        self._next_index = max(last_index, 1)
        conf = tracker.conf
        self._voters = list(conf.voters)
        self._outgoing = list(conf.voters_outgoing)
        self._learners = list(conf.learners)
        self._learners_next = list(conf.learners_next)
        self._progress = dict(tracker.progress)

    def change(self, change: ConfChange) -> tuple[ConfState, dict[int, Progress]]:
        """The configuration after `change`, and its members' Progress. ConfChangeRefused."""
        if change.leaves_joint():
            return self.leave_joint()
        if change.enters_joint():
            return self.enter_joint(change)
        return self.simple(change)

    def simple(self, change: ConfChange) -> tuple[ConfState, dict[int, Progress]]:
        if self._outgoing:
            raise ConfChangeRefused("a simple change while joint")
        before = list(self._voters)
        self._apply(change)
        added = [voter for voter in self._voters if voter not in before]
        removed = [voter for voter in before if voter not in self._voters]
        if len(added) + len(removed) > 1:
            raise ConfChangeRefused("more than one voter changed without a joint configuration")
        return self._result(auto_leave=False)

    def enter_joint(self, change: ConfChange) -> tuple[ConfState, dict[int, Progress]]:
        if self._outgoing:
            raise ConfChangeRefused("the configuration is joint already")
        if not self._voters:
            raise ConfChangeRefused("there are no voters to be joined with")
        self._outgoing = list(self._voters)
        self._apply(change)
        return self._result(auto_leave=change.auto_leave())

    def leave_joint(self) -> tuple[ConfState, dict[int, Progress]]:
        if not self._outgoing:
            raise ConfChangeRefused("the configuration is not joint")
        self._learners += self._learners_next
        self._learners_next = []
        for member in self._outgoing:
            if member not in self._voters and member not in self._learners:
                del self._progress[member]
        self._outgoing = []
        return self._result(auto_leave=False)

    def _apply(self, change: ConfChange) -> None:
        for single in change.changes:
            if single.member == NONE:
                raise ConfChangeRefused("a change of member 0")
            if single.type == ConfChangeType.ADD_VOTER:
                self._make_voter(single.member)
            elif single.type == ConfChangeType.ADD_LEARNER:
                self._make_learner(single.member)
            else:
                self._remove(single.member)
        if not self._voters:
            raise ConfChangeRefused("no voter would be left")

    def _make_voter(self, member: int) -> None:
        self._discard(member)
        self._voters.append(member)
        self._ensure_progress(member)

    def _make_learner(self, member: int) -> None:
        """An outgoing voter becomes a learner only when joint is left: never both at a time."""
        self._discard(member)
        if member in self._outgoing:
            self._learners_next.append(member)
        else:
            self._learners.append(member)
        self._ensure_progress(member)

    def _remove(self, member: int) -> None:
        """An outgoing voter keeps its Progress until joint is left."""
        self._discard(member)
        if member not in self._outgoing:
            self._progress.pop(member, None)

    def _discard(self, member: int) -> None:
        for ids in (self._voters, self._learners, self._learners_next):
            if member in ids:
                ids.remove(member)

    def _ensure_progress(self, member: int) -> None:
        if member not in self._progress:
            progress = self._tracker.new_progress(self._next_index)
            progress.recent_active = True
            self._progress[member] = progress

    def _result(self, *, auto_leave: bool) -> tuple[ConfState, dict[int, Progress]]:
        conf = ConfState(
            voters=ascending(self._voters),
            learners=ascending(self._learners),
            voters_outgoing=ascending(self._outgoing),
            learners_next=ascending(self._learners_next),
            auto_leave=auto_leave,
        )
        check_conf_state(conf)
        return conf, {member: self._progress[member] for member in sorted(self._progress)}
