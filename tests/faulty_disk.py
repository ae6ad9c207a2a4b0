"""A disk in memory that fails as disks do: it forgets what was not synced, tears, fills up, lies.

What a process sees is the volatile state; `crash` leaves what the power cut leaves. A file's bytes
survive what `sync` or `sync_data` covered; later writes survive by the sector, as chance has it. A
name survives `sync_dir` of its directory; later changes of a directory survive as a prefix.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random

SECTOR = 512


class PowerCut(BaseException):
    """The machine is off: nothing works until `crash`. No handler of errors may catch it."""


class _File:
    """`data` is what is seen, `durable` what is safe, `unsynced` leads from one to the other."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.unsynced: list[tuple[int, bytes] | int] = []

    def sync(self) -> None:
        for change in self.unsynced:
            _apply(self.durable, change)
        self.unsynced = []

    def forget(self, random: Random | None) -> None:
        """Leaves each sector as at some time since the sync; without chance, as at the sync."""
        if random is not None and self.unsynced:
            self._keep_some(random)
        self.data = bytearray(self.durable)
        self.unsynced = []

    def _keep_some(self, random: Random) -> None:
        data = bytearray(self.durable)
        sizes = [len(data)]
        versions: dict[int, list[bytes]] = {}
        for change in self.unsynced:
            before = bytes(data)
            _apply(data, change)
            sizes.append(len(data))
            for start in range(0, max(len(data), len(before)), SECTOR):
                old, new = before[start : start + SECTOR], bytes(data[start : start + SECTOR])
                if old != new:
                    versions.setdefault(start, [old]).append(new)
        _resize(data, random.choice((sizes[0], sizes[-1], random.choice(sizes))))
        likely = random.choice((0.0, 0.5, 1.0))
        for start, states in versions.items():
            kept = states[-1] if random.random() < likely else random.choice(states)
            room = data[start : start + SECTOR]
            data[start : start + SECTOR] = kept[: len(room)].ljust(len(room), b"\0")
        self.durable = data


def _apply(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        _resize(data, change)
    else:
        offset, written = change
        _resize(data, max(len(data), offset + len(written)))
        data[offset : offset + len(written)] = written


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


class _Directory:
    """`names` is what is seen, `durable` what is safe, `unsynced` are the changes between them."""

    def __init__(self) -> None:
        self.names: dict[str, _Node] = {}
        self.durable: dict[str, _Node] = {}
        self.unsynced: list[Callable[[dict[str, _Node]], None]] = []
        self.locked = False

    def change(self, change: Callable[[dict[str, _Node]], None]) -> None:
        change(self.names)
        self.unsynced.append(change)

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.unsynced = []

    def forget(self, random: Random | None) -> None:
        kept = random.randrange(len(self.unsynced) + 1) if random is not None else 0
        for change in self.unsynced[:kept]:
            change(self.durable)
        self.names = dict(self.durable)
        self.unsynced = []
        self.locked = False
        for node in self.names.values():
            node.forget(random)


_Node = _File | _Directory


def _unlock(directory: _Directory) -> None:
    directory.locked = False
    for node in directory.names.values():
        if isinstance(node, _Directory):
            _unlock(node)


class FaultyDisk:
    """Implements `raft.disk.Disk`. Faults are attributes a test sets; all off at first.

    `operations` counts what changes the disk; the one numbered `cut_at` is half done when the power
    goes. `free` is the room in bytes. `sync_error` fails syncs, once, and drops what they covered.
    """

    def __init__(self) -> None:
        self.root = _Directory()
        self.operations = 0
        self.cut_at: int | None = None
        self.free = 1 << 40
        self.sync_error: int | None = None
        self.write_error: int | None = None
        self.syncs = 0
        self.writes = 0

    # -- faults ----------------------------------------------------------------------------------

    def crash(self, random: Random | None = None) -> None:
        """Power off and on. Without `random` everything that was not synced is gone."""
        self.root.forget(random)
        self.cut_at = None

    def unlock(self) -> None:
        """A process has ended: its locks are gone, what it wrote is not."""
        _unlock(self.root)

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Damages one bit, durably."""
        file = self._file(path)
        file.data[offset] ^= 1 << bit
        file.durable, file.unsynced = bytearray(file.data), []

    def replace(self, path: str, data: bytes) -> None:
        """Makes `data` the durable contents."""
        file = self._file(path)
        file.data, file.durable, file.unsynced = bytearray(data), bytearray(data), []

    def count(self) -> bool:
        """One more change of the disk; True when it is the one that the power cut halves."""
        if self.cut_at is not None and self.operations >= self.cut_at:
            if self.operations > self.cut_at:
                raise PowerCut
            self.operations += 1
            return True
        self.operations += 1
        return False

    def take(self, size: int) -> int:
        """Room for up to `size` more bytes."""
        size = min(size, self.free)
        self.free -= size
        return size

    # -- Disk ------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> FaultyFile:
        if create:
            self._change(path, _create, lambda node: node is None, errno.EEXIST)
        return FaultyFile(self, self._file(path))

    def read(self, path: str) -> bytes:
        return bytes(self._file(path).data)

    def lock(self, path: str) -> FaultyLock:
        directory = self._directory(path)
        if directory.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", path)
        return FaultyLock(directory)

    def make_dir(self, path: str) -> None:
        self._change(path, _make_dir, lambda node: node is None, errno.EEXIST)

    def remove_dir(self, path: str) -> None:
        if self._directory(path).names:
            raise OSError(errno.ENOTEMPTY, "not empty", path)
        self._change(path, _remove, lambda node: node is not None, errno.ENOENT)

    def remove(self, path: str) -> None:
        self.free += len(self._file(path).data)
        self._change(path, _remove, lambda node: isinstance(node, _File), errno.ENOENT)

    def rename(self, source: str, target: str) -> None:
        directory, old = self._parent(source)
        same, new = self._parent(target)
        assert directory is same, "moves between directories are not modelled"
        node = directory.names[old]
        if self.count():
            raise PowerCut

        def change(names: dict[str, _Node]) -> None:
            names.pop(old, None)
            names[new] = node

        directory.change(change)

    def list(self, path: str) -> list[str]:
        return sorted(self._directory(path).names)

    def exists(self, path: str) -> bool:
        try:
            self._node(path)
        except FileNotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        return len(self._file(path).data)

    def sync_dir(self, path: str) -> None:
        if self.count():
            raise PowerCut
        self._directory(path).sync()

    def free_bytes(self, path: str) -> int:
        return self.free

    # -- the tree --------------------------------------------------------------------------------

    def _parent(self, path: str) -> tuple[_Directory, str]:
        folder, _, name = path.rpartition("/")
        return self._directory(folder), name

    def _node(self, path: str) -> _Node:
        node: _Node = self.root
        for name in filter(None, path.split("/")):
            if not isinstance(node, _Directory) or name not in node.names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = node.names[name]
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._node(path)
        if not isinstance(node, _Directory):
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
        return node

    def _file(self, path: str) -> _File:
        node = self._node(path)
        if not isinstance(node, _File):
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        return node

    def _change(
        self,
        path: str,
        make: Callable[[str], Callable[[dict[str, _Node]], None]],
        allowed: Callable[[_Node | None], bool],
        refusal: int,
    ) -> None:
        directory, name = self._parent(path)
        if not allowed(directory.names.get(name)):
            raise OSError(refusal, os.strerror(refusal), path)
        if self.count():
            raise PowerCut
        directory.change(make(name))


def _create(name: str) -> Callable[[dict[str, _Node]], None]:
    node = _File()
    return lambda names: names.update({name: node})


def _make_dir(name: str) -> Callable[[dict[str, _Node]], None]:
    node = _Directory()
    return lambda names: names.update({name: node})


def _remove(name: str) -> Callable[[dict[str, _Node]], None]:
    def change(names: dict[str, _Node]) -> None:
        names.pop(name, None)

    return change


class FaultyLock:
    """Held by a directory; `crash` takes it away too."""

    def __init__(self, directory: _Directory) -> None:
        self._directory = directory
        directory.locked = True

    def close(self) -> None:
        self._directory.locked = False


class FaultyFile:
    """Implements `raft.disk.DiskFile`."""

    def __init__(self, disk: FaultyDisk, file: _File) -> None:
        self._disk = disk
        self._file = file

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._file.data[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        cut = self._disk.count()
        error = self._disk.write_error
        if cut or error is not None:
            self._put(offset, data[: len(data) // 2])
            raise OSError(error, os.strerror(error)) if error is not None else PowerCut
        grown = max(0, offset + len(data) - len(self._file.data))
        missing = grown - self._disk.take(grown)
        self._put(offset, data[: len(data) - missing])
        if missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.writes += 1

    def _put(self, offset: int, data: bytes) -> None:
        if data:
            _apply(self._file.data, (offset, data))
            self._file.unsynced.append((offset, data))

    def size(self) -> int:
        return len(self._file.data)

    def truncate(self, size: int) -> None:
        if self._disk.count():
            raise PowerCut
        _resize(self._file.data, size)
        self._file.unsynced.append(size)

    def preallocate(self, size: int) -> None:
        missing = size - len(self._file.data)
        if missing <= 0:
            return
        if self._disk.take(missing) < missing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.truncate(size)

    def sync_data(self) -> None:
        self._sync()

    def sync(self) -> None:
        self._sync()

    def _sync(self) -> None:
        if self._disk.count():
            raise PowerCut
        error = self._disk.sync_error
        if error is not None:
            self._disk.sync_error = None
            self._file.forget(None)
            raise OSError(error, os.strerror(error))
        self._disk.syncs += 1
        self._file.sync()

    def close(self) -> None:
        """A closed file keeps what it has; nothing is synced by it."""
