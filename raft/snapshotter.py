"""Received snapshots: whole state files from a leader, on their way into the backend.

    member/snap/
        00000000000003e8.snap.db            the state after entry 1000, complete and durable
        00000000000007d0-3.snap.tmp         being received: index 2000, term 3

A file appears under its final name only when its bytes match the sender's SHA-256 and are durable;
whatever else is found on start is a reception that the last process did not finish.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NamedTuple

from raft.core.errors import RaftError
from raft.disk import Disk, DiskFile

_NAME = re.compile(r"([0-9a-f]{16})\.snap\.db")
_TEMPORARY = ".snap.tmp"


class SnapshotRefused(RaftError):
    """What was received is not what was sent, or there is no room for it; nothing of it is kept."""


class SnapshotFile(NamedTuple):
    """A complete snapshot: the state after `index`."""

    index: int
    path: str


class Snapshotter:
    """The directory of received snapshots. Blocking; one thread at a time per reception."""

    def __init__(self, disk: Disk, path: str, *, spare_bytes: int = 0) -> None:
        """Makes the directory if need be and removes unfinished receptions.

        `spare_bytes` is what a reception must leave free on the disk.
        """
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

    def begin(self, index: int, term: int, size: int) -> SnapshotWriter:
        """A writer for a snapshot of `size` bytes; a reception of the same one is aborted.

        SnapshotRefused when the disk has not the room.
        """
        free = self._disk.free_bytes(self._path)
        if size + self._spare_bytes > free:
            raise SnapshotRefused(
                f"snapshot {index} has {size} bytes, {free} are free, {self._spare_bytes} to spare"
            )
        name = f"{index:016x}-{term:x}{_TEMPORARY}"
        earlier = self._receiving.get(name)
        if earlier is not None:
            earlier.abort()
        temporary = f"{self._path}/{name}"
        writer = SnapshotWriter(self, self._disk, temporary, self.path_of(index), size)
        self._receiving[name] = writer
        return writer

    def path_of(self, index: int) -> str:
        """Where the snapshot at `index` is, or would be."""
        return f"{self._path}/{index:016x}.snap.db"

    def files(self) -> list[SnapshotFile]:
        """The complete snapshots, ascending by index."""
        found = []
        for name in self._disk.list(self._path):
            match = _NAME.fullmatch(name)
            if match is not None:
                found.append(SnapshotFile(int(match[1], 16), f"{self._path}/{name}"))
        return found

    def newest(self) -> SnapshotFile | None:
        """The complete snapshot with the greatest index."""
        files = self.files()
        return files[-1] if files else None

    def purge(self, keep: int) -> None:
        """Removes all complete snapshots but the newest `keep`."""
        files = self.files()
        dead = files[: max(0, len(files) - keep)]
        for file in dead:
            self._disk.remove(file.path)
        if dead:
            self._disk.sync_dir(self._path)

    def _finish(self, temporary: str, target: str) -> None:
        self._disk.rename(temporary, target)
        self._disk.sync_dir(self._path)
        self._forget(temporary)

    def _forget(self, temporary: str) -> None:
        self._receiving.pop(temporary.rpartition("/")[2], None)


class SnapshotWriter:
    """One reception: `write` the chunks in order, then `finish`, or `abort` at any time.

    A writer that was finished, aborted or has failed refuses more chunks with SnapshotRefused.
    """

    def __init__(
        self, owner: Snapshotter, disk: Disk, temporary: str, target: str, size: int
    ) -> None:
        self._owner = owner
        self._disk = disk
        self._temporary = temporary
        self._target = target
        self._size = size
        self._digest = hashlib.sha256()
        self._file: DiskFile | None = disk.open(temporary, create=True)
        self.received = 0

    def write(self, chunk: bytes) -> None:
        """Adds bytes; OSError ends the reception."""
        file = self._open_file()
        if self.received + len(chunk) > self._size:
            self.abort()
            raise SnapshotRefused(f"more than the {self._size} bytes announced")
        try:
            file.write_at(self.received, chunk)
        except OSError:
            self.abort()
            raise
        self._digest.update(chunk)
        self.received += len(chunk)

    def finish(self, digest: bytes) -> str:
        """Makes the file durable under its final name, which is returned.

        SnapshotRefused when length or SHA-256 are not the sender's; OSError ends the reception.
        """
        file = self._open_file()
        if self.received != self._size:
            self.abort()
            raise SnapshotRefused(f"{self.received} bytes of {self._size}")
        if not hmac.compare_digest(self._digest.digest(), digest):
            self.abort()
            raise SnapshotRefused("the checksum is not the sender's")
        try:
            file.sync()
        except OSError:
            self.abort()
            raise
        self._file = None
        file.close()
        self._owner._finish(self._temporary, self._target)
        return self._target

    def abort(self) -> None:
        """Ends the reception and removes what it left; idempotent."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._owner._forget(self._temporary)
        self._disk.remove(self._temporary)

    def _open_file(self) -> DiskFile:
        if self._file is None:
            raise SnapshotRefused("this reception has ended")
        return self._file
