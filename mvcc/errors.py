"""What the store refuses, and what it must never see."""

from __future__ import annotations


class MvccError(Exception):
    """Root of this package's errors."""


class Compacted(MvccError):
    """The revision asked for is below the compacted one (or, for a compaction, not above it)."""

    def __init__(self, revision: int, compact_revision: int) -> None:
        super().__init__(f"revision {revision} is compacted, the oldest is {compact_revision}")
        self.revision = revision
        self.compact_revision = compact_revision


class FutureRevision(MvccError):
    """The revision asked for is above the current one."""

    def __init__(self, revision: int, current_revision: int) -> None:
        super().__init__(
            f"revision {revision} is in the future, the current one is {current_revision}"
        )
        self.revision = revision
        self.current_revision = current_revision


class CorruptionError(MvccError):
    """An invariant of the stored data does not hold: the node stops before it speaks again."""


class BackendFailed(MvccError):
    """The disk, the map or the file under `path` refused: nothing handed over since is durable."""

    def __init__(self, path: str, why: object) -> None:
        super().__init__(f"backend {path}: {why}")
        self.path = path


class SnapshotExpired(MvccError):
    """A read view was held beyond its budget and cancelled: it pins every page freed meanwhile."""

    def __init__(self, owner: str, seconds: float) -> None:
        super().__init__(f"the read view of {owner} was cancelled after {seconds:.0f} s")
        self.owner = owner
