"""Checkpoints: how far the logs reach back, and which configuration held where.

    WAL      [ released | marker ................ last ]      a restart replays from the marker
    memory   [ gone | first .. marker .......... last ]       slow followers are served from here
                      `catch_up`

marker <= durable index of the state machine <= applied <= last.
"""

from __future__ import annotations

from collections.abc import Callable

from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Snapshot

PAUSE_SECONDS = 30.0
"""After a snapshot was sent nothing is truncated for so long: its receiver must find the entries
behind it, or it would need another snapshot as soon as it has this one."""
SENDING_MAX = 16
"""Snapshots on their way, one per peer: each holds a copy of the state machine open."""


class Checkpoints:
    """Decides when to mark the WAL and when to truncate the log in memory.

    `_conf_states` are configurations with the index at which each was applied, ascending; the first
    holds at the marker. `_sending` are the members to whom a snapshot is on its way.
    """

    def __init__(
        self,
        storage: MemoryStorage,
        *,
        marker: int,
        applied: int,
        conf_state: ConfState,
        snapshot_count: int,
        catch_up_entries: int,
        log_bytes_max: int,
        now: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._marker = marker
        self._conf_states = [(applied, conf_state)]
        self._snapshot_count = snapshot_count
        self._catch_up_entries = catch_up_entries
        self._log_bytes_max = log_bytes_max
        self._now = now
        self._sending: set[int] = set()
        self._paused_until = 0.0

    # -- configurations

    @property
    def conf_state(self) -> ConfState:
        """The one applied last."""
        return self._conf_states[-1][1]

    def conf_state_at(self, index: int) -> ConfState:
        """The one that holds at `index`, which is not before the marker."""
        held = [conf_state for at, conf_state in self._conf_states if at <= index]
        return held[-1] if held else self._conf_states[0][1]

    def reconfigured(self, index: int, conf_state: ConfState) -> None:
        """The entry at `index` led to `conf_state`."""
        self._conf_states.append((index, conf_state))

    def installed(self, snapshot: Snapshot) -> None:
        """Everything begins anew with `snapshot`."""
        self._marker = snapshot.index
        self._conf_states = [(snapshot.index, snapshot.conf_state)]

    # -- snapshots on their way

    def begin_sending(self, member: int) -> bool:
        """Whether a snapshot may be sent to `member` now; nothing is truncated until it ended."""
        if member in self._sending or len(self._sending) >= SENDING_MAX:
            return False
        self._sending.add(member)
        return True

    def ended_sending(self, member: int) -> None:
        """It has arrived or failed."""
        self._sending.discard(member)
        self._paused_until = self._now() + PAUSE_SECONDS

    @property
    def _may_truncate(self) -> bool:
        return not self._sending and self._now() >= self._paused_until

    # -- length

    def mark(self, durable_index: int) -> Snapshot | None:
        """A marker for the WAL when one is due, at what the state machine has on disk."""
        due = durable_index - self._marker >= self._snapshot_count
        if not due and not (self._too_long() and durable_index > self._marker):
            return None
        if durable_index < self._storage.first_index():
            # A snapshot was accepted that the state machine has not installed yet.
            return None
        while len(self._conf_states) > 1 and self._conf_states[1][0] <= durable_index:
            del self._conf_states[0]
        self._marker = durable_index
        return self._storage.create_snapshot(durable_index, self.conf_state_at(durable_index))

    def truncate(self) -> None:
        """Drop what is far enough behind the marker; half as far while the log is too long."""
        if not self._may_truncate:
            return
        first = self._storage.first_index()
        keep = self._catch_up_entries
        if self._too_long():
            keep = min(keep, (self._storage.last_index() - first) // 2)
        if self._marker - keep >= first:
            self._storage.compact(self._marker - keep)

    def _too_long(self) -> bool:
        return self._storage.size_bytes > self._log_bytes_max and self._may_truncate
