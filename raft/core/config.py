"""Config: how one member's core behaves, in ticks and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raft.core.types import NONE

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one core; a tick is whatever interval the driver chooses (100 ms by default).

    Pre-vote and check-quorum have no switch: without them a member that returns from a partition
    deposes a healthy leader, and a leader that lost its quorum goes on believing in itself.
    """

    id: int
    jitter: Callable[[int], int]
    """Returns some x with 0 <= x < n; the core's only source of chance."""

    election_ticks: int = 10
    """A follower campaigns after election_ticks + jitter(election_ticks) ticks of silence."""

    heartbeat_ticks: int = 1

    max_message_bytes: int = MIB
    """Of entries in one append: 10 ms of a gigabit link, so that no heartbeat behind it is late."""

    max_inflight: int = 512
    """Appends on their way to one peer."""

    max_inflight_bytes: int = 0
    """Bytes on their way to one peer; 0 is no limit. The append that crosses it still goes out."""

    max_apply_bytes: int = MIB
    """Of committed entries handed out and not yet reported as applied."""

    max_uncommitted_bytes: int = 64 * MIB
    """Of a leader's tail that no quorum has yet; without a limit a lost quorum fills memory."""

    applied: int = 0
    """The last index that the state machine holds durably; nothing up to it is handed out again."""

    step_down_on_removal: bool = True
    """A leader that is removed or made a learner hands over as soon as the others can elect."""

    def validate(self) -> None:
        """Raises ValueError that names every fault."""
        faults = []
        if self.id == NONE:
            faults.append("id must not be 0")
        if self.heartbeat_ticks < 1:
            faults.append(f"heartbeat_ticks {self.heartbeat_ticks} must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            faults.append(
                f"election_ticks {self.election_ticks} must be greater than "
                f"heartbeat_ticks {self.heartbeat_ticks}"
            )
        for name in ("max_message_bytes", "max_inflight", "max_apply_bytes"):
            if getattr(self, name) < 1:
                faults.append(f"{name} {getattr(self, name)} must be at least 1")
        if self.max_uncommitted_bytes < 1:
            faults.append(f"max_uncommitted_bytes {self.max_uncommitted_bytes} must be at least 1")
        if self.max_inflight_bytes and self.max_inflight_bytes < self.max_message_bytes:
            faults.append(
                f"max_inflight_bytes {self.max_inflight_bytes} must be 0 or at least "
                f"max_message_bytes {self.max_message_bytes}"
            )
        if self.applied < 0:
            faults.append(f"applied {self.applied} must not be negative")
        if faults:
            raise ValueError("; ".join(faults))
