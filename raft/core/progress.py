"""Progress: what a leader knows of one peer's log, and how fast it may send.

          match       next                 log of the leader
────────────┴───────────┴──────────►
 confirmed  │ on its way│ not sent

PROBE      one append at a time: the peer's log is being looked for
REPLICATE  next moves on sending; the window of inflight appends is the limit
SNAPSHOT   nothing is sent until the peer has a snapshot that reaches the log
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import NamedTuple


class ProgressState(IntEnum):
    """How a leader sends to a peer."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class Inflights:
    """The appends sent and not yet answered: (last index, bytes), ascending, at most `capacity`."""

    __slots__ = ("bytes", "bytes_max", "capacity", "sent")

    def __init__(self, capacity: int, bytes_max: int) -> None:
        self.capacity = capacity
        self.bytes_max = bytes_max
        self.sent: deque[tuple[int, int]] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.sent)

    def full(self) -> bool:
        """Soft in bytes: the append that crosses the limit has gone out, the next one waits."""
        if len(self.sent) >= self.capacity:
            return True
        return 0 < self.bytes_max <= self.bytes

    def add(self, index: int, size: int) -> None:
        assert not self.full(), f"append up to {index} sent into a full window"
        self.sent.append((index, size))
        self.bytes += size

    def free_to(self, index: int) -> None:
        """Everything up to `index` has arrived."""
        sent = self.sent
        while sent and sent[0][0] <= index:
            self.bytes -= sent.popleft()[1]

    def reset(self) -> None:
        self.sent.clear()
        self.bytes = 0


class PeerStatus(NamedTuple):
    """A peer's Progress, read only."""

    match: int
    next: int
    state: ProgressState
    recent_active: bool
    paused: bool
    inflight: int
    pending_snapshot: int
    learner: bool


class Progress:
    """One peer as its leader sees it. Always match < next.

    match             the peer's log equals ours up to here, durably
    next              the first entry that the next append carries
    recent_active     heard from since the last check of the quorum
    paused            the flow of appends waits for a response or a heartbeat response
    pending_snapshot  in SNAPSHOT: the index of the snapshot sent
    sent_commit       the greatest commit index that the peer will know from what was sent
    commit            the greatest commit index that the peer said it knows
    """

    __slots__ = (
        "commit",
        "inflights",
        "match",
        "next",
        "paused",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_index: int, inflights: Inflights, *, match: int = 0) -> None:
        self.match = match
        self.next = next_index
        self.state = ProgressState.PROBE
        self.recent_active = False
        self.paused = False
        self.pending_snapshot = 0
        self.sent_commit = 0
        self.commit = 0
        self.inflights = inflights

    def become_probe(self) -> None:
        """After a snapshot the peer surely has what it held; else it has what it confirmed."""
        if self.state == ProgressState.SNAPSHOT:
            following = max(self.match, self.pending_snapshot) + 1
        else:
            following = self.match + 1
        self._enter(ProgressState.PROBE)
        self.next = following
        self.sent_commit = min(self.sent_commit, following - 1)

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def _enter(self, state: ProgressState) -> None:
        self.paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def is_paused(self) -> bool:
        return self.paused or self.state == ProgressState.SNAPSHOT

    def sent_entries(self, count: int, size: int) -> None:
        """An append of `count` entries (maybe none) starting at `next` went out."""
        if self.state == ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
            # An empty append into a full window is a probe: one of them, not one per event.
            self.paused = self.inflights.full()
        elif count:
            self.paused = True

    def heard(self, commit: int) -> None:
        """A response in the leader's term; the peer knows `commit`."""
        self.recent_active = True
        self.commit = max(self.commit, commit)

    def can_bump_commit(self, commit: int) -> bool:
        """Would another append tell the peer of a commit that none on its way does?"""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """The peer confirmed `index`; False when that is old news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.paused = False
        return True

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """The peer refused an append after `rejected` and may match at `hint`; False when stale.

        Responses overtake each other: in REPLICATE one at or below match, in PROBE one that is not
        about the probe sent last, belongs to a history that is over.
        """
        if self.state == ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.paused = False
        return True

    def status(self, *, learner: bool) -> PeerStatus:
        return PeerStatus(
            self.match,
            self.next,
            self.state,
            self.recent_active,
            self.is_paused(),
            len(self.inflights),
            self.pending_snapshot,
            learner,
        )

    def check_invariants(self) -> None:
        assert 0 <= self.match < self.next, f"match {self.match}, next {self.next}"
        assert (self.state == ProgressState.SNAPSHOT) == (self.pending_snapshot > 0)
        if self.state != ProgressState.REPLICATE:
            assert not self.inflights.sent, f"{len(self.inflights)} inflight in {self.state.name}"
        if self.inflights.sent:
            assert self.match < self.inflights.sent[0][0]
            assert self.inflights.sent[-1][0] < self.next
