"""Unstable: the entries and the snapshot that are accepted here but not yet known durable.

storage │ offset ...... taken │ ........ end
        │ being written       │ not handed out yet
"""

from __future__ import annotations

from raft.core.types import Entry, Snapshot


class Unstable:
    """The end of the log. Always offset <= taken <= offset + len(entries).

    offset          index of entries[0]; everything below is durable (or in `snapshot`)
    taken           entries below it were handed out to be written
    snapshot        replaces everything before offset, until it is durable
    snapshot_taken  it was handed out
    """

    __slots__ = ("entries", "offset", "snapshot", "snapshot_taken", "taken")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.taken = offset
        self.entries: list[Entry] = []
        self.snapshot: Snapshot | None = None
        self.snapshot_taken = False

    def append(self, entries: list[Entry]) -> None:
        """Contiguous entries that begin at or before the end; they replace what stood there."""
        first = entries[0].index
        end = self.offset + len(self.entries)
        assert first <= end, f"hole between {end} and {first}"
        if first == end:
            self.entries.extend(entries)
        elif first <= self.offset:
            # Also entries that were durable are replaced: the tail is unstable again from `first`.
            self.offset = self.taken = first
            self.entries = list(entries)
        else:
            del self.entries[first - self.offset :]
            self.entries.extend(entries)
            self.taken = min(self.taken, first)

    def restore(self, snapshot: Snapshot) -> None:
        self.offset = self.taken = snapshot.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_taken = False

    def has_next(self) -> bool:
        return self.taken < self.offset + len(self.entries) or (
            self.snapshot is not None and not self.snapshot_taken
        )

    def take(self) -> tuple[Snapshot | None, list[Entry]]:
        """What was not handed out yet; it counts as handed out from now on."""
        snapshot = None if self.snapshot_taken else self.snapshot
        self.snapshot_taken = self.snapshot is not None
        entries = self.entries[self.taken - self.offset :]
        self.taken += len(entries)
        return snapshot, entries

    def stable_to(self, index: int, term: int) -> None:
        """Entries up to `index` are durable, if the one there is still of `term`.

        It is not when the entries that were written have been replaced meanwhile; then the durable
        ones are no longer ours.
        """
        position = index - self.offset
        if position < 0 or position >= len(self.entries) or self.entries[position].term != term:
            return
        assert index < self.taken, f"{index} stable, handed out below {self.taken}"
        del self.entries[: position + 1]
        self.offset = index + 1

    def stable_snapshot(self, index: int) -> None:
        """The snapshot of `index` is durable; ignored when a later one has replaced it."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_taken = False

    def check_invariants(self) -> None:
        assert self.offset <= self.taken <= self.offset + len(self.entries)
        if self.snapshot is not None:
            assert self.snapshot.index < self.offset
        for position, entry in enumerate(self.entries):
            assert entry.index == self.offset + position
