"""The disk as the log and the snapshots use it, and the seam where tests put a faulty one.

Everything `raft` writes goes through a `Disk`. All calls block, and all raise OSError; nothing is
durable before the `sync` that covers it: bytes by `DiskFile.sync_data`, a new or grown file by
`DiskFile.sync`, a name (created, renamed, removed) by `Disk.sync_dir` of its directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_ZEROS = bytes(1 << 20)
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class DiskLock(Protocol):
    """Held until closed, or until the process ends."""

    def close(self) -> None: ...


class DiskFile(Protocol):
    """An open file. Offsets and sizes are bytes."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""

    def write_at(self, offset: int, data: bytes) -> None:
        """All of `data`; after an error any part of it may be in the file."""

    def size(self) -> int: ...

    def truncate(self, size: int) -> None: ...

    def preallocate(self, size: int) -> None:
        """Grow to `size` bytes of reserved space that reads as zeros; never shrinks."""

    def sync_data(self) -> None:
        """The bytes and the size needed to read them are durable on return."""

    def sync(self) -> None:
        """Bytes and all metadata of the file are durable on return."""

    def close(self) -> None: ...


class Disk(Protocol):
    """A tree of files; paths are the operating system's."""

    def open(self, path: str, *, create: bool = False) -> DiskFile:
        """For reading and writing; `create` makes an empty file and refuses an existing one."""

    def read(self, path: str) -> bytes:
        """The whole file; needs no right to write."""

    def lock(self, path: str) -> DiskLock:
        """Exclusive lock of a directory among processes; BlockingIOError when another has it."""

    def make_dir(self, path: str) -> None: ...

    def remove_dir(self, path: str) -> None:
        """An empty directory."""

    def list(self, path: str) -> list[str]:
        """Names in a directory, ascending."""

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def rename(self, source: str, target: str) -> None:
        """Replaces `target` atomically."""

    def remove(self, path: str) -> None: ...

    def sync_dir(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int:
        """What an unprivileged process may still write on the file system that holds `path`."""


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """An OSError of an open file does not say which one it was; from here on it does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


class OsFile:
    """DiskFile over a file descriptor; `path` is what its errors call it."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def read_at(self, offset: int, size: int) -> bytes:
        chunks = []
        while size > 0:
            with _naming(self._path):
                chunk = os.pread(self._descriptor, size, offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
            size -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def write_at(self, offset: int, data: bytes) -> None:
        with _naming(self._path):
            written = os.pwrite(self._descriptor, data, offset)
            while written < len(data):
                written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        with _naming(self._path):
            os.ftruncate(self._descriptor, size)

    def preallocate(self, size: int) -> None:
        start = self.size()
        if size <= start:
            return
        try:
            with _naming(self._path):
                os.posix_fallocate(self._descriptor, start, size - start)
        except OSError as error:
            if error.errno not in _NO_PREALLOCATION:
                raise
            for offset in range(start, size, len(_ZEROS)):
                self.write_at(offset, _ZEROS[: size - offset])

    def sync_data(self) -> None:
        with _naming(self._path):
            os.fdatasync(self._descriptor)

    def sync(self) -> None:
        with _naming(self._path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class OsDisk:
    """Disk over the operating system."""

    def open(self, path: str, *, create: bool = False) -> OsFile:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return OsFile(os.open(path, flags, 0o600), path)

    def read(self, path: str) -> bytes:
        with _naming(path), open(path, "rb") as file:
            return file.read()

    def lock(self, path: str) -> OsFile:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return OsFile(descriptor, path)

    def make_dir(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def remove_dir(self, path: str) -> None:
        os.rmdir(path)

    def list(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def remove(self, path: str) -> None:
        os.remove(path)

    def sync_dir(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _naming(path):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        stats = os.statvfs(path)
        return stats.f_bavail * stats.f_frsize
