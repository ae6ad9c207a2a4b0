"""What a WAL says: the records of all its segments, in their order, become one state.

Only reads. Where the last segment has a torn tail, `Replay.torn` and `Replay.end` say where to cut;
everything else that is wrong is a CorruptWal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeVar

from raft import codec
from raft.core.errors import RaftError
from raft.core.types import NONE, Entry, HardState, Snapshot
from raft.disk import Disk
from raft.wal_format import Damage, Kind, Record, read_seed, scan

HEAD_KINDS = (Kind.CRC, Kind.METADATA, Kind.HARD_STATE)
"""The records every segment starts with, in this order."""

_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")
_T = TypeVar("_T")


class WalError(RaftError):
    """Root of what the WAL raises."""


class CorruptWal(WalError):
    """The log is damaged where it must not be; nothing was changed on disk."""

    def __init__(self, file: str, offset: int, why: str) -> None:
        super().__init__(f"{file} at offset {offset}: {why}")
        self.file = file
        self.offset = offset
        self.why = why


class WalState(NamedTuple):
    """What a log says on opening.

    `snapshot` is the newest valid marker (index 0 if there is none), `entries` are those behind it,
    contiguous; those beyond `hard_state.commit` belong to the log but are not committed.
    """

    metadata: bytes
    hard_state: HardState
    snapshot: Snapshot
    entries: list[Entry]


class Segment(NamedTuple):
    """A file of the log; `first_index` is that of the first entry to come when it was begun."""

    sequence: int
    first_index: int

    @property
    def name(self) -> str:
        return f"{self.sequence:016x}-{self.first_index:016x}.wal"


class Replay:
    """Makes the state out of the records of all segments, in their order.

    `entries` are contiguous; they start behind `snapshot` unless segments before the first were
    released and no marker was met yet (`headless`). `held` are the records since a marker that its
    hard state, at the end of the same append, has yet to commit: all of them count, or none.
    `crc` and `end` are where the chain stands behind the last record that counts.
    """

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.metadata = b""
        self.hard_state = HardState()
        self.snapshot = Snapshot()
        self.entries: list[Entry] = []
        self.headless = False
        self.held: list[Record] = []
        self.held_crc = 0
        self.crc = 0
        self.end = 0
        self.torn: Damage | None = None

    @property
    def last_index(self) -> int:
        return self.entries[-1].index if self.entries else self.snapshot.index

    def read_segment(self, disk: Disk, path: str, segment: Segment, *, last: bool) -> None:
        """Takes one segment's records; CorruptWal, or `torn` where the last one may be cut."""
        file = f"{path}/{segment.name}"
        data = disk.read(file)
        taken = 0
        previous_crc = self.crc
        try:
            seed = read_seed(data)
            if self.segments and seed != previous_crc:
                raise Damage(0, "does not continue the segment before it", torn=False)
            self.crc, self.end = seed, 0
            for record in scan(data, seed):
                if taken < len(HEAD_KINDS):
                    self._take_head(taken, record)
                else:
                    self._take(record)
                taken += 1
                self.crc, self.end = record.crc, record.end
            if taken < len(HEAD_KINDS):
                raise Damage(self.end, "the segment's head is not whole", torn=False)
        except Damage as damage:
            if not (last and damage.torn and taken >= len(HEAD_KINDS)):
                raise CorruptWal(file, damage.offset, damage.why) from damage
            self.torn = damage
        self.segments.append(segment)
        if self.held:
            self._drop_held(file, last)

    def _take_head(self, at: int, record: Record) -> None:
        if record.kind != HEAD_KINDS[at]:
            raise Damage(record.offset, f"a record of kind {record.kind} in the head", torn=False)
        if record.kind == Kind.METADATA:
            metadata = bytes(record.data)
            if self.segments and metadata != self.metadata:
                raise Damage(record.offset, "metadata of another log", torn=False)
            self.metadata = metadata
        elif record.kind == Kind.HARD_STATE:
            self.hard_state = _decoded(record, codec.decode_hard_state)

    def _take(self, record: Record) -> None:
        if record.kind == Kind.SNAPSHOT:
            marker = _decoded(record, codec.decode_snapshot)
            if self.held or marker.index > self.hard_state.commit:
                if not self.held:
                    self.held_crc = self.crc
                self.held.append(record)
            else:
                self._adopt(marker)
        elif record.kind == Kind.HARD_STATE:
            self.hard_state = _decoded(record, codec.decode_hard_state)
            held, self.held = self.held, []
            for earlier in held:
                self._take(earlier)
            if self.held:
                raise Damage(self.held[0].offset, "a marker beyond its commit", torn=False)
        elif record.kind == Kind.ENTRIES:
            if self.held:
                self.held.append(record)
            else:
                self._add(record, _decoded(record, codec.decode_entries))
        else:
            raise Damage(record.offset, f"a record of kind {record.kind}", torn=False)

    def _adopt(self, marker: Snapshot) -> None:
        """Starts the log behind a committed marker, unless that is behind the start already."""
        if marker.index <= self.snapshot.index:
            return
        if not self.entries:
            self.snapshot = marker
            return
        at = marker.index - self.entries[0].index
        if at < -1:
            # Headless: the entries between were released, so a later marker covers them, or an
            # overwrite from further back comes. Otherwise the gap is found at the end.
            self.snapshot = marker
            return
        same = at == -1 or (at < len(self.entries) and self.entries[at].term == marker.term)
        self.entries = self.entries[at + 1 :] if same else []
        self.headless = False
        self.snapshot = marker

    def _add(self, record: Record, batch: list[Entry]) -> None:
        for number, entry in enumerate(batch):
            if entry.index != batch[0].index + number:
                raise Damage(record.offset, "a hole inside a batch of entries", torn=False)
        if not batch:
            return
        first = batch[0].index
        if self.headless and not self.entries:
            self.entries = batch
            return
        if first > self.last_index + 1:
            why = f"a hole: entry {first} behind {self.last_index}"
            raise Damage(record.offset, why, torn=False)
        start = self.entries[0].index if self.entries else self.last_index + 1
        if first >= start:
            del self.entries[first - start :]
            self.entries.extend(batch)
        else:
            self.entries = [entry for entry in batch if entry.index > self.snapshot.index]

    def _drop_held(self, file: str, last: bool) -> None:
        """An append whose end is missing was torn, though each record left of it is good."""
        record = self.held[0]
        if not last:
            raise CorruptWal(file, record.offset, "a marker that was never committed")
        why = "the hard state that commits a snapshot marker is missing"
        self.torn = Damage(record.offset, why, torn=True)
        self.end, self.crc = record.offset, self.held_crc
        self.held = []

    def state(self, path: str) -> WalState:
        """The whole; CorruptWal where the parts do not fit each other."""
        file = f"{path}/{self.segments[-1].name}"
        first, last = self.snapshot.index + 1, self.last_index
        if self.entries and self.entries[0].index != first:
            why = f"a hole: the log starts at {self.entries[0].index}, {first} is due"
            raise CorruptWal(file, self.end, why)
        if self.hard_state.commit > last:
            why = f"commit {self.hard_state.commit} beyond the last entry {last}"
            raise CorruptWal(file, self.end, why)
        hard_state = self.hard_state
        last_term = self.entries[-1].term if self.entries else self.snapshot.term
        if last_term > hard_state.term:
            hard_state = HardState(last_term, NONE, hard_state.commit)
        return WalState(self.metadata, hard_state, self.snapshot, self.entries)


def _decoded(record: Record, decode: Callable[[memoryview], _T]) -> _T:
    try:
        return decode(record.data)
    except ValueError as error:
        raise Damage(record.offset, f"not decodable: {error}", torn=False) from error


def _list_segments(disk: Disk, path: str) -> list[Segment]:
    """Ascending by sequence and without a gap; CorruptWal otherwise."""
    segments = []
    for name in disk.list(path):
        match = _SEGMENT_NAME.fullmatch(name)
        if match is not None:
            segments.append(Segment(int(match[1], 16), int(match[2], 16)))
    if not segments:
        raise CorruptWal(path, 0, "no segment in this directory")
    for before, segment in pairwise(segments):
        if segment.sequence != before.sequence + 1:
            why = f"the segment before it is missing ({before.name} is there)"
            raise CorruptWal(f"{path}/{segment.name}", 0, why)
    return segments


def replay_directory(disk: Disk, path: str) -> Replay:
    replay = Replay()
    segments = _list_segments(disk, path)
    replay.headless = segments[0].sequence > 0
    for segment in segments:
        replay.read_segment(disk, path, segment, last=segment is segments[-1])
    return replay


def verify(disk: Disk, path: str) -> list[str]:
    """What is wrong with the log at `path`, a line each; empty when nothing is.

    Reads only and takes no lock. A torn tail, which opening would cut, is a problem too.
    """
    try:
        replay = replay_directory(disk, path)
        replay.state(path)
    except (CorruptWal, OSError) as error:
        return [str(error)]
    if replay.torn is None:
        return []
    return [f"{path}/{replay.segments[-1].name}: torn tail at {replay.torn}"]
