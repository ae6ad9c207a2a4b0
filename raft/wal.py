"""The write-ahead log: what a member has promised, in segments that only grow.

    member/wal/
        0000000000000000-0000000000000001.wal     <sequence>-<index of the first entry to come>.wal
        0000000000000001-00000000000186a1.wal     the last one is being filled
        next.tmp                                  preallocated for the next cut
        reserve                                   room to shut down in when the disk is full

    segment:  CRC  METADATA  HARD_STATE | ENTRIES  HARD_STATE | SNAPSHOT | ENTRIES | ... 0 0 0
              `---- its own head -----'   `-- one append --'

An append is one write and, if asked, one sync: snapshot markers, then batches of entries, then the
last hard state. Records are described in `raft.wal_format`. What replay makes of them:

- an ENTRIES batch that starts at index i replaces whatever was at i and after; a hole is damage;
- a SNAPSHOT marker (index, term, configuration) counts once a hard state has committed its index:
  the log then starts behind it. Where the log has not that very entry, the marker replaces the log;
- the hard state comes last in its append, so it never speaks of entries that a torn write lost. The
  entries may then be of a term the hard state does not know; this member cannot have voted in that
  term yet (votes leave after the sync), so replay raises the term, with no vote.

Opening syncs what it read before anyone builds on it: a process that dies leaves bytes in the page
cache, which the next one would read, answer for, and lose with the power.

After any failed write or sync the object refuses everything (`WalFailed`): the kernel may have
dropped the pages and report success the next time. The next process reads what is really there.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from raft import codec
from raft.core.types import Entry, HardState, Snapshot
from raft.disk import Disk, DiskFile, DiskLock
from raft.wal_format import DURABLE, Kind, add_record, crc_body, record_bytes
from raft.wal_replay import (
    HEAD_KINDS,
    CorruptWal,
    Replay,
    Segment,
    WalError,
    WalState,
    replay_directory,
    verify,
)

__all__ = [
    "CorruptWal",
    "Wal",
    "WalError",
    "WalFailed",
    "WalJob",
    "WalLocked",
    "WalState",
    "verify",
]

SEGMENT_BYTES = 64 << 20
"""Large enough that cuts are rare, small enough to read and to release in one go."""
RESERVE_BYTES = 64 << 20
"""Enough for a last backend commit and one compaction after the disk has filled up."""

_ZEROS = bytes(512 << 10)
"""One step of `Wal.prepare`: an append that arrives meanwhile waits for it."""
_RESERVE = "reserve"
_NEXT = "next.tmp"

_log = logging.getLogger("raft.wal")


class WalFailed(WalError):
    """A write or sync failed, now or earlier: this Wal does nothing any more."""


class WalLocked(WalError):
    """Another process uses this directory."""


class WalJob(NamedTuple):
    """What one Ready wants written; None and empty mean nothing of that sort."""

    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    snapshot: Snapshot | None = None


class Wal:
    """An open log. Blocking; one thread at a time.

    `_crc` and `_position` are where the chain stands in the last segment; `_synced` is whether
    everything before `_position` is durable; `_marker` is the index of the newest valid marker.
    `_zeroed` and `_next_zeroed` are how far zeros (or records) were written into preallocated room.
    """

    def __init__(
        self,
        disk: Disk,
        path: str,
        lock: DiskLock,
        metadata: bytes,
        *,
        segment_bytes: int,
    ) -> None:
        """For `create` and `open` only."""
        self._disk = disk
        self._path = path
        self._lock = lock
        self._metadata = metadata
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._file: DiskFile | None = None
        self._next_file: DiskFile | None = None
        self._size = 0
        self._position = 0
        self._zeroed = 0
        self._next_zeroed = 0
        self._crc = 0
        self._synced = True
        self._hard_state = HardState()
        self._last_index = 0
        self._marker = 0
        self._failure: OSError | None = None
        self._closed = False
        self.hit: Callable[[str], None] = lambda name: None
        self.written_bytes = 0

    # -- opening ---------------------------------------------------------------------------------

    @staticmethod
    def exists(disk: Disk, path: str) -> bool:
        """Whether `path` holds a log; half a creation does not count."""
        return disk.exists(path)

    @staticmethod
    def create(
        disk: Disk,
        path: str,
        metadata: bytes,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> Wal:
        """A new, empty, durable log: after a crash it is there whole or not at all.

        FileExistsError when there is one; OSError when the disk refuses.
        """
        if disk.exists(path):
            raise FileExistsError(errno.EEXIST, "there is a WAL already", path)
        building = path + ".tmp"
        if disk.exists(building):
            _remove_tree(disk, building)
        disk.make_dir(building)
        wal = Wal(disk, building, _lock(disk, building), metadata, segment_bytes=segment_bytes)
        try:
            wal._start_segment(Segment(0, 1), 0)
            wal._make_reserve(reserve_bytes)
            disk.sync_dir(building)
            disk.rename(building, path)
            disk.sync_dir(_parent(path))
        except BaseException:
            wal.close()
            raise
        wal._path = path
        return wal

    @staticmethod
    def open(
        disk: Disk,
        path: str,
        *,
        logger: logging.Logger = _log,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> tuple[Wal, WalState]:
        """The log at `path`, ready for appends, and what it says.

        A torn tail of the last segment is cut, after a copy of the file to `<name>.broken`. Raises
        CorruptWal for any other damage, WalLocked, OSError.
        """
        lock = _lock(disk, path)
        try:
            replay = replay_directory(disk, path)
            wal = Wal(disk, path, lock, replay.metadata, segment_bytes=segment_bytes)
            state = replay.state(path)
        except BaseException:
            lock.close()
            raise
        try:
            wal._resume(replay, state, logger)
            wal._make_reserve(reserve_bytes, logger)
        except BaseException:
            wal.close()
            raise
        return wal, state

    def _resume(self, replay: Replay, state: WalState, logger: logging.Logger) -> None:
        """Makes the last segment end where the good records end, durably."""
        for name in self._disk.list(self._path):
            if name.endswith(".tmp"):
                self._disk.remove(self._join(name))
        self._segments = replay.segments
        self._hard_state = replay.hard_state
        self._last_index = replay.last_index
        self._marker = state.snapshot.index
        self._crc = replay.crc
        self._position = replay.end
        name = self._join(self._segments[-1].name)
        self._file = self._disk.open(name)
        if replay.torn is not None:
            logger.warning("wal: torn tail cut: file=%s %s", name, replay.torn)
            _keep_broken(self._disk, name)
            self._file.truncate(self._position)
        self._file.preallocate(self._segment_bytes)
        self._size = self._file.size()
        self._file.sync()
        self._disk.sync_dir(self._path)

    def _make_reserve(self, size: int, logger: logging.Logger = _log) -> None:
        path = self._join(_RESERVE)
        if size == 0 or self._disk.exists(path):
            return
        file = self._disk.open(path, create=True)
        try:
            file.preallocate(size)
            file.sync()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            logger.warning("wal: no room for the reserve of %d bytes", size)
            self._disk.remove(path)
        finally:
            file.close()

    # -- writing ---------------------------------------------------------------------------------

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
        *,
        sync: bool,
    ) -> None:
        """Writes one job; durable on return if `sync`. Raises WalFailed, then and ever after."""
        self.append_jobs((WalJob(hard_state, entries, snapshot),), sync=sync)

    def append_jobs(self, jobs: Sequence[WalJob], *, sync: bool) -> None:
        """Writes jobs in their order with one write and at most one sync; else like `append`."""
        self._guarded(lambda: self._append(jobs, sync))

    def prepare(self) -> bool:
        """A step of what may be done ahead, a millisecond or two; False when nothing is left to do.

        Zeros are written and synced before records come: a sync of bytes that have their blocks on
        the disk already is a third faster than one that must also record the new blocks. Once this
        segment is half full, the next one is made.
        """
        if self._zeroed < self._size:
            self._guarded(self._zero_ahead)
        elif self._position * 2 < self._size:
            return False
        elif self._next_file is None:
            self._guarded(self._make_next)
        elif self._next_zeroed < self._segment_bytes:
            self._guarded(self._zero_next)
        else:
            return False
        return True

    def release(self, index: int) -> None:
        """Removes segments that only hold entries before `index`, but keeps the newest of them.

        Never goes past the newest valid marker: replay starts there.
        """
        self._guarded(lambda: self._release(min(index, self._marker + 1)))

    def close(self) -> None:
        """Gives up files and lock without a sync; idempotent."""
        if self._closed:
            return
        self._closed = True
        for held in (self._file, self._next_file, self._lock):
            if held is not None:
                held.close()

    def _guarded(self, action: Callable[[], None]) -> None:
        if self._failure is not None:
            raise WalFailed(f"the WAL failed earlier: {self._failure}") from self._failure
        assert not self._closed, "the WAL is closed"
        try:
            action()
        except OSError as error:
            self._failure = error
            if error.errno == errno.ENOSPC:
                self._give_up_reserve()
            raise WalFailed(f"the WAL in {self._path} cannot be written: {error}") from error

    def _give_up_reserve(self) -> None:
        # A disk that cannot even remove a file has its first error reported, not this one.
        with suppress(OSError):
            self._disk.remove(self._join(_RESERVE))

    def _append(self, jobs: Sequence[WalJob], sync: bool) -> None:
        records: list[tuple[int, bytes]] = []
        hard_state, last_index, marker = self._hard_state, self._last_index, self._marker
        for job in jobs:
            if job.snapshot is not None:
                records.append((Kind.SNAPSHOT, codec.encode_snapshot(job.snapshot)))
                marker = max(marker, job.snapshot.index)
                last_index = max(last_index, marker)
            if job.entries:
                first = job.entries[0].index
                assert first <= last_index + 1, f"a hole: {first} behind {last_index}"
                records.append((Kind.ENTRIES, codec.encode_entries(job.entries)))
                last_index = job.entries[-1].index
            if job.hard_state is not None:
                hard_state = job.hard_state
        if hard_state != self._hard_state:
            records.append((Kind.HARD_STATE, codec.encode_hard_state(hard_state)))
        assert marker <= hard_state.commit, f"a marker at {marker} beyond {hard_state.commit}"
        if records:
            self._write(records)
            self._hard_state, self._last_index, self._marker = hard_state, last_index, marker
        if sync and not self._synced:
            self._sync()

    def _write(self, records: Sequence[tuple[int, bytes]]) -> None:
        size = sum(record_bytes(len(data)) for _, data in records)
        if self._position + size > self._size:
            self._cut(size)
        assert self._file is not None
        parts: list[bytes] = []
        start = offset = self._position
        crc = self._crc
        flags = DURABLE if self._synced else 0
        for kind, data in records:
            crc = add_record(parts, kind, data, crc=crc, offset=offset, flags=flags)
            offset += record_bytes(len(data))
            flags = 0
        self._synced = False
        self._file.write_at(start, b"".join(parts))
        self.written_bytes += offset - start
        self._position = offset
        self._crc = crc

    def _sync(self) -> None:
        assert self._file is not None
        self.hit("wal.before_sync")
        self._file.sync_data()
        self._synced = True
        self.hit("wal.after_sync")

    # -- segments --------------------------------------------------------------------------------

    def _zero_ahead(self) -> None:
        assert self._file is not None
        start = max(self._zeroed, self._position)
        self._zeroed = _write_zeros(self._file, start, self._size)
        self._sync()

    def _zero_next(self) -> None:
        assert self._next_file is not None
        self._next_zeroed = _write_zeros(self._next_file, self._next_zeroed, self._segment_bytes)
        self._next_file.sync_data()

    def _make_next(self) -> None:
        path = self._join(_NEXT)
        self._next_file = self._disk.open(path, create=True)
        self._next_file.preallocate(self._segment_bytes)
        self._next_file.sync()

    def _cut(self, room: int) -> None:
        """Goes on in a new segment with `room` bytes for records, once the last one is durable."""
        assert self._file is not None
        if not self._synced:
            self._sync()
        self.hit("wal.before_cut")
        self._file.close()
        self._file = None
        sequence = self._segments[-1].sequence + 1
        self._start_segment(Segment(sequence, self._last_index + 1), room)
        self.hit("wal.after_cut")

    def _start_segment(self, segment: Segment, room: int) -> None:
        """Head first, then the name: a segment that can be seen has its head."""
        if self._next_file is None:
            self._make_next()
        file = self._next_file
        assert file is not None
        self._file, self._next_file = file, None
        self._zeroed, self._next_zeroed = self._next_zeroed, 0
        parts: list[bytes] = []
        offset = 0
        head = (
            crc_body(self._crc),
            self._metadata,
            codec.encode_hard_state(self._hard_state),
        )
        for kind, data in zip(HEAD_KINDS, head, strict=True):
            self._crc = add_record(parts, kind, data, crc=self._crc, offset=offset)
            offset += record_bytes(len(data))
        file.preallocate(max(self._segment_bytes, offset + room))
        file.write_at(0, b"".join(parts))
        file.sync()
        self._disk.rename(self._join(_NEXT), self._join(segment.name))
        self._disk.sync_dir(self._path)
        self._segments.append(segment)
        self._position = offset
        self._size = file.size()
        self._synced = True

    def _release(self, index: int) -> None:
        # What is live in a segment is before the next one's first index. Names need not ascend: the
        # log may have been overwritten from further back.
        first = [segment.first_index for segment in self._segments]
        holding = max((at for at in range(len(first)) if first[at] <= index), default=0)
        dead = self._segments[: max(0, holding - 1)]
        if dead and not self._synced:
            self._sync()  # the marker that makes them dispensable, and the hard state it counts by
        for segment in dead:
            self._disk.remove(self._join(segment.name))
            self._segments.remove(segment)
        if dead:
            self._disk.sync_dir(self._path)

    def _join(self, name: str) -> str:
        return f"{self._path}/{name}"


def _write_zeros(file: DiskFile, start: int, end: int) -> int:
    end = min(end, start + len(_ZEROS))
    file.write_at(start, _ZEROS[: end - start])
    return end


def _lock(disk: Disk, path: str) -> DiskLock:
    try:
        return disk.lock(path)
    except BlockingIOError as error:
        raise WalLocked(f"another process uses {path}") from error


def _keep_broken(disk: Disk, path: str) -> None:
    """Copies what is in a segment to `<path>.broken`, durably; a copy of old is replaced."""
    broken = path + ".broken"
    if disk.exists(broken):
        disk.remove(broken)
    copy = disk.open(broken, create=True)
    try:
        copy.write_at(0, disk.read(path).rstrip(b"\0"))
        copy.sync()
    finally:
        copy.close()


def _remove_tree(disk: Disk, path: str) -> None:
    for name in disk.list(path):
        disk.remove(f"{path}/{name}")
    disk.remove_dir(path)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")
