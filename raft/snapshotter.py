"""Received snapshots: whole state files from a leader, on their way into the backend.

    member/snap/
        00000000000003e8-8587d865.snap.db   the state after entry 1000, complete and durable; CRC-32
        00000000000007d0-3.snap.tmp         being received: index 2000, term 3

A file appears under its final name only when it is whole, durable, and no fault was found in it:
raft then builds on it, and a start would fail on it for ever. Whether its bytes are the sender's is
checked by who receives them, before `finish`. Whatever else is found on start is a
reception that the last process did not finish.

A database has no checksums of its own, so the name carries one of the bytes that were written. A
start adopts a file only if it is `intact`, and removes all others: whatever a running process finds
here was found sound by itself, so that it installs without reading all of it once more. The same
state, sent again by another leader, may be other bytes, and then it is a second file. The first is
not removed for it, since it may be in the middle of its installation; both are when that is over.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from raft.core.errors import RaftError
from raft.core.types import Snapshot
from raft.disk import Disk, DiskFile

PIECE_BYTES = 256 << 10
"""What `intact` reads at a time: as much as a sender's chunk."""

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{8})\.snap\.db")
_TEMPORARY = ".snap.tmp"


class NoRoom(RaftError):
    """The disk has not the room for a snapshot of this size; nothing was begun."""


class DamagedSnapshot(RaftError):
    """What was received is no state that could be installed."""


class ReceptionEnded(RaftError):
    """This reception was finished or aborted, or has failed, and takes no more."""


class SnapshotFile(NamedTuple):
    """A complete snapshot: the state after `index`, in bytes of this CRC-32 when it was written."""

    index: int  # type: ignore[assignment]  # hides tuple.index()
    crc: int
    path: str


class Snapshotter:
    """The directory of received snapshots. Blocking; one thread at a time per reception."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        *,
        spare_bytes: int = 0,
        faults: Callable[[str, Snapshot], list[str]] = lambda path, snapshot: [],
    ) -> None:
        """Makes the directory if need be and removes unfinished receptions.

        `spare_bytes` is what a reception must leave free on the disk. `faults(path, snapshot)` is
        what is wrong with a received file, in words; blocking.
        """
        self.faults = faults
        self.observe: Callable[[float, float], None] = lambda synced, whole: None
        """Told of each reception that succeeded the seconds of its sync, and of all of it."""
        self._disk = disk
        self._path = path
        self._spare_bytes = spare_bytes
        self._receiving: dict[str, SnapshotWriter] = {}
        if not disk.exists(path):
            disk.make_dir(path)
            disk.sync_dir(path.rpartition("/")[0] or "/")
        for name in disk.list(path):
            if name.endswith(_TEMPORARY):
                disk.remove(f"{path}/{name}")

    def begin(self, snapshot: Snapshot, size: int = 0) -> SnapshotWriter:
        """A writer for a file of `size` bytes (0: not known).

        An earlier reception of the same snapshot is aborted. NoRoom, OSError.
        """
        free = self._disk.free_bytes(self._path)
        if size + self._spare_bytes > free:
            spare = self._spare_bytes
            raise NoRoom(f"a snapshot of {size} bytes, {free} are free, {spare} to spare")
        name = f"{snapshot.index:016x}-{snapshot.term:x}{_TEMPORARY}"
        earlier = self._receiving.get(name)
        if earlier is not None:
            earlier.abort()
        temporary = f"{self._path}/{name}"
        writer = SnapshotWriter(self, self._disk, temporary, snapshot)
        self._receiving[name] = writer
        return writer

    def path(self, snapshot: Snapshot) -> str:
        """Where a file of `snapshot` is, which this process has received."""
        files = self.files_of(snapshot.index)
        assert files, f"the snapshot of index {snapshot.index} is not in {self._path}"
        return files[0].path

    def files_of(self, index: int) -> list[SnapshotFile]:
        """The complete snapshots of the state after `index`: one, but for other bytes of it."""
        return [file for file in self.files() if file.index == index]

    def intact(self, file: SnapshotFile) -> bool:
        """Whether its bytes are still those that were written; reads all of them, by the piece."""
        opened = self._disk.open(file.path)
        try:
            crc = offset = 0
            while piece := opened.read_at(offset, PIECE_BYTES):
                crc = zlib.crc32(piece, crc)
                offset += len(piece)
        finally:
            opened.close()
        return crc == file.crc

    def files(self) -> list[SnapshotFile]:
        """The complete snapshots, ascending by index."""
        found = []
        for name in self._disk.list(self._path):
            match = _NAME.fullmatch(name)
            if match is not None:
                index, crc = (int(number, 16) for number in match.groups())
                found.append(SnapshotFile(index, crc, f"{self._path}/{name}"))
        return found

    def newest(self) -> SnapshotFile | None:
        """The complete snapshot with the greatest index."""
        files = self.files()
        return files[-1] if files else None

    def purge(self, index: int) -> None:
        """Removes the complete snapshots up to `index`: a later one may still be wanted."""
        dead = [file for file in self.files() if file.index <= index]
        for file in dead:
            self._disk.remove(file.path)
        if dead:
            self._disk.sync_dir(self._path)

    def _publish(self, temporary: str, snapshot: Snapshot, crc: int) -> None:
        self._disk.rename(temporary, f"{self._path}/{snapshot.index:016x}-{crc:08x}.snap.db")
        self._disk.sync_dir(self._path)
        self._forget(temporary)

    def _forget(self, temporary: str) -> None:
        self._receiving.pop(temporary.rpartition("/")[2], None)


class SnapshotWriter:
    """One reception: `write` the chunks in order, then `finish`, or `abort` at any time.

    After an error nothing is left of it, and all but `abort` raise ReceptionEnded.
    """

    def __init__(self, owner: Snapshotter, disk: Disk, temporary: str, snapshot: Snapshot) -> None:
        self._owner = owner
        self._disk = disk
        self._temporary = temporary
        self._snapshot = snapshot
        self._file: DiskFile | None = disk.open(temporary, create=True)
        self._begun = time.monotonic()
        self.received = 0
        """Bytes written."""
        self._crc = 0

    def write(self, chunk: bytes) -> None:
        """Appends; OSError ends the reception."""
        file = self._open_file()
        try:
            file.write_at(self.received, chunk)
        except OSError:
            self.abort()
            raise
        self.received += len(chunk)
        self._crc = zlib.crc32(chunk, self._crc)

    def finish(self) -> None:
        """The bytes are whole: makes them durable under their final name; OSError and
        DamagedSnapshot end it.
        """
        file = self._open_file()
        try:
            before = time.monotonic()
            file.sync()
            synced = time.monotonic() - before
            faults = self._owner.faults(self._temporary, self._snapshot)
            if faults:
                self.abort()
                raise DamagedSnapshot(f"a damaged snapshot: {'; '.join(faults[:3])}")
            self._owner._publish(self._temporary, self._snapshot, self._crc)
        except OSError:
            self.abort()
            raise
        self._file = None
        file.close()
        self._owner.observe(synced, time.monotonic() - self._begun)

    def abort(self) -> None:
        """Ends the reception and removes what it left; idempotent."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._owner._forget(self._temporary)
        if self._disk.exists(self._temporary):
            self._disk.remove(self._temporary)

    def _open_file(self) -> DiskFile:
        if self._file is None:
            raise ReceptionEnded(self._temporary)
        return self._file
