"""What the driver drives besides the core: the state machine, the WAL's thread, snapshot files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from raft.core.conf_change import ConfChange
from raft.core.errors import ProposalDropped
from raft.core.types import Entry, Snapshot, SoftState
from raft.transport import SnapshotSink, SnapshotSource
from raft.wal import WalJob


class StateMachine(Protocol):
    """What the committed entries are for. All plain calls on the loop's thread, but the two that
    move whole states."""

    def apply(self, entries: Sequence[Entry]) -> None:
        """Execute committed entries, ascending, none twice. A configuration change comes alone, and
        is to be handed to driver.apply_conf_change() unless the state machine itself refuses it."""

    def apply_blocked(self) -> bool:
        """True: keep the committed entries; driver.resume() will be called."""

    def admit(self, data: bytes) -> None:
        """ValueError: a forwarded proposal that apply could not handle; it is refused before it
        enters the log."""

    def require_readable(self, data: bytes) -> None:
        """ValueError: a leader's entry that apply could not decode; it is not taken into the
        log."""

    def admit_conf_change(self, change: ConfChange) -> None:
        """ValueError: a forwarded configuration change whose context apply could not handle."""

    def role_changed(self, soft: SoftState, term: int) -> None:
        """Another leader is known, or this member has another role."""

    def leader_gone(self, term: int) -> None:
        """The process that led in `term` has ended: what was forwarded to it, and is not applied
        when the first entry of a later term is, will hardly ever be."""

    def read_ready(self, token: int, index: int) -> None:
        """The read asked for with `token` is linearizable once `index` is applied."""

    def dropped(self, ids: Sequence[int], error: ProposalDropped) -> None:
        """Proposals that did not enter the log and never will."""

    async def open_snapshot(self) -> SnapshotSource:
        """A frozen copy at an index that is durable here; the transport closes it. OSError when
        there cannot be one now: the peer will be tried again."""

    async def install_snapshot(self, snapshot: Snapshot, path: str) -> None:
        """Replace the state by the file at `path`. No entry is applied meanwhile."""


class WalWriter(Protocol):
    """The thread that owns the WAL (`raft.wal_thread`)."""

    def submit(self, job: WalJob, on_done: Callable[[], None], *, sync: bool) -> None:
        """Write in order of submission; `on_done` on the loop, in the same order, once it is as
        durable as asked."""

    def release(self, index: int) -> None:
        """Let go of segments before `index`, after what was submitted so far."""


class Snapshots(Protocol):
    """Where received snapshot files rest (`raft.snapshotter`)."""

    def begin(self, snapshot: Snapshot, size: int) -> SnapshotSink:
        """RaftError or OSError when there is no room."""

    def path(self, snapshot: Snapshot) -> str:
        """Of a complete file that this process has received."""

    def purge(self, index: int) -> None:
        """Remove the complete files up to `index`. Blocking."""
