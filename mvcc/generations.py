"""Where the database lives: one directory per generation, and the file that says which one counts.

    backend/CURRENT              "00000002\\n", replaced by rename: always exactly one valid answer
    backend/00000002/data.mdb    the generation in service
    backend/00000003/            being copied or received; nobody reads it before CURRENT names it
    backend/*.tmp                a CURRENT being written, a copy being streamed

LMDB keeps writing to the old inode when a new file is renamed over an open one, so a defragmented
or received database never replaces a file: it is a new directory. Whatever CURRENT does not name is
a leftover of a crash, and is removed at the next start once the named one has been opened.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from mvcc.backend import KEY, META, TABLES, BackendSize
from mvcc.errors import BackendFailed, CorruptionError

CONSISTENT_INDEX = b"consistentIndex"
"""The key in META of (index, term), big-endian: the entry up to which the rows have effects."""
DATA = "data.mdb"

_CURRENT = "CURRENT"
_TEMPORARY = ".tmp"
_NUMBER = re.compile(r"\d{8}", re.ASCII)
_INDEX = struct.Struct(">QQ")
_META_PAGES = 2
_READERS_MAX = 126
_DBS_MAX = 16

# Newer bindings bundle two engines whose files differ; older ones have only this one.
_ENGINE: dict[str, Any] = {"lib_version": 0} if hasattr(lmdb.Environment, "lib_version") else {}


def encode_index(index: int, term: int) -> bytes:
    return _INDEX.pack(index, term)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """An OSError of an open file does not say which one it was; from here on it does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def sync_path(path: str) -> None:
    """fsync of a file or a directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with _naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(path: str) -> int:
    return shutil.disk_usage(path).free


def copy_compact(env: lmdb.Environment, directory: str) -> None:
    """A compacted copy of the last commit as `directory`/data.mdb; not synced.

    The engine writes it past the page cache: where the system can, it is asked to read the copy
    back, else the loop's first reads would each wait for the disk.
    """
    env.copy(directory, compact=True)
    if hasattr(os, "posix_fadvise"):
        handle = os.open(os.path.join(directory, DATA), os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


class Generation:
    """One environment with all its tables open, and the count of those who read it.

    `readers` is guarded by a lock, because views are closed in other threads. A retired generation
    without readers is closed by its owner, and removed if it was superseded: see `release`.
    """

    def __init__(self, directory: str, map_size: int) -> None:
        """Raises BackendFailed when the engine refuses the file, CorruptionError when its end is
        missing.
        """
        self.directory = directory
        self.map_size = map_size
        self.readers = 0
        self.retired = False
        self._lock = threading.Lock()
        try:
            self.env = lmdb.open(
                directory,
                map_size=map_size,
                metasync=False,
                max_readers=_READERS_MAX,
                max_dbs=_DBS_MAX,
                **_ENGINE,
            )
            self._require_whole()
            with self.env.begin(write=True) as txn:
                self.tables = {name: self.env.open_db(name.encode(), txn=txn) for name in TABLES}
            # After a crash the last commit may be visible and yet only in the page cache.
            self.env.sync(True)
        except lmdb.Error as error:
            raise BackendFailed(directory, error) from error

    def _require_whole(self) -> None:
        """Raises CorruptionError for a file that was cut short: the engine maps it, and reading
        behind the end of a mapped file ends the process without a word.

        Other damage is not looked for here, which would take reading every page (see `check`): the
        engine notices a page of the wrong kind when it comes upon it.
        """
        self.page_bytes = int(self.env.stat()["psize"])
        data = os.path.join(self.directory, DATA)
        needed = (int(self.env.info()["last_pgno"]) + 1) * self.page_bytes
        size = os.path.getsize(data)
        if size < needed:
            self.env.close()
            raise CorruptionError(f"{data} has {size} bytes, its last commit needs {needed}")

    @property
    def number(self) -> int:
        return int(os.path.basename(self.directory))

    def applied(self) -> tuple[int, int]:
        """(index, term) of the last commit; (0, 0) when there was none."""
        try:
            with self.env.begin() as txn:
                return applied_in(txn, self.tables[META])
        except lmdb.Error as error:
            raise BackendFailed(self.directory, error) from error

    def size(self, txn: lmdb.Transaction[bytes]) -> BackendSize:
        """Of the state `txn` sees. The pages of the free list itself count as free."""
        try:
            stats = [txn.stat(), *(txn.stat(db) for db in self.tables.values())]
        except lmdb.Error as error:
            raise BackendFailed(self.directory, error) from error
        pages = _META_PAGES + sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats
        )
        last_page = int(self.env.info()["last_pgno"])
        return BackendSize((last_page + 1) * self.page_bytes, pages * self.page_bytes)

    def acquire(self) -> bool:
        """Count one reader; False when the generation has been retired."""
        with self._lock:
            if self.retired:
                return False
            self.readers += 1
            return True

    def release(self) -> bool:
        """One reader less; True when the caller must see to it that the generation is closed."""
        with self._lock:
            assert self.readers > 0, f"generation {self.number} released more often than acquired"
            self.readers -= 1
            return self.retired and self.readers == 0

    def retire(self) -> bool:
        """No new readers; True when there are none left (see release)."""
        with self._lock:
            self.retired = True
            return self.readers == 0


def applied_in(txn: lmdb.Transaction[bytes], meta: Any) -> tuple[int, int]:
    value = txn.get(CONSISTENT_INDEX, db=meta)
    if value is None:
        return 0, 0
    if len(value) != _INDEX.size:
        raise CorruptionError(f"consistentIndex has {len(value)} bytes, {_INDEX.size} expected")
    index, term = _INDEX.unpack(value)
    return int(index), int(term)


class Generations:
    """The directory `path`: which generation counts, making the next one, removing the others."""

    def __init__(self, path: str, map_size: int) -> None:
        self.path = path
        self.map_size = map_size

    def open(self) -> Generation:
        """The generation that CURRENT names, or the first one; leftovers are gone afterwards.

        Raises CorruptionError when CURRENT is unreadable, names nothing, or is missing although a
        generation holds data: none of these is left by a crash, and guessing could lose a database.
        """
        os.makedirs(self.path, exist_ok=True)
        sync_path(os.path.dirname(os.path.abspath(self.path)))
        number = self._current()
        if number is None:
            self._refuse_orphans()
            number = 1
            generation = Generation(self.prepare(number), self.map_size)
            sync_path(generation.directory)
            self.stage(number)
            self.switch()
        else:
            directory = self.directory(number)
            if not os.path.exists(os.path.join(directory, DATA)):
                raise CorruptionError(
                    f"{self._file(_CURRENT)} names {directory}, which has no data"
                )
            generation = Generation(directory, self.map_size)
        self._remove_others(number)
        return generation

    def directory(self, number: int) -> str:
        return self._file(f"{number:08d}")

    def temporary(self, name: str) -> str:
        """A path for a file that the next start removes if this process does not."""
        return self._file(name + _TEMPORARY)

    def prepare(self, number: int) -> str:
        """An empty directory for generation `number`, whatever an earlier attempt left there."""
        directory = self.directory(number)
        if os.path.lexists(directory):
            shutil.rmtree(directory)
        os.mkdir(directory)
        sync_path(self.path)
        return directory

    def stage(self, number: int) -> None:
        """Write the next CURRENT under its temporary name, synced. Nothing has changed yet."""
        path = self._file(_CURRENT + _TEMPORARY)
        with _naming(path), open(path, "w", encoding="ascii") as file:
            file.write(f"{number:08d}\n")
            file.flush()
            os.fsync(file.fileno())

    def switch(self) -> None:
        """Make the staged CURRENT the one that counts. After an error it is unknown which does."""
        os.rename(self._file(_CURRENT + _TEMPORARY), self._file(_CURRENT))
        sync_path(self.path)

    def unstage(self, number: int) -> None:
        """Remove what a failed attempt at generation `number` left."""
        shutil.rmtree(self.directory(number), ignore_errors=True)
        if os.path.lexists(self._file(_CURRENT + _TEMPORARY)):
            os.unlink(self._file(_CURRENT + _TEMPORARY))

    def _current(self) -> int | None:
        try:
            with open(self._file(_CURRENT), encoding="ascii", errors="replace") as file:
                text = file.read(64)
        except FileNotFoundError:
            return None
        if not _NUMBER.fullmatch(text.removesuffix("\n")):
            raise CorruptionError(f"{self._file(_CURRENT)} holds {text!r}, not a generation")
        return int(text)

    def _refuse_orphans(self) -> None:
        for name in os.listdir(self.path):
            if not os.path.exists(os.path.join(self.path, name, DATA)):
                continue
            orphan = Generation(os.path.join(self.path, name), self.map_size)
            index, _ = orphan.applied()
            orphan.env.close()
            if index:
                raise CorruptionError(
                    f"{self._file(_CURRENT)} is missing, but {name} holds data up to index {index}"
                )

    def _remove_others(self, number: int) -> None:
        for name in os.listdir(self.path):
            path = self._file(name)
            if _NUMBER.fullmatch(name) and name != f"{number:08d}":
                shutil.rmtree(path)
            elif name.endswith(_TEMPORARY):
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


def open_file(path: str) -> lmdb.Environment:
    """A database that nobody writes to, as a single file: a copy or a received snapshot."""
    return lmdb.open(
        path,
        subdir=False,
        readonly=True,
        lock=False,
        create=False,
        max_dbs=_DBS_MAX,
        **_ENGINE,
    )


def applied_in_file(path: str) -> tuple[int, int]:
    """(index, term) as the file itself says. CorruptionError when it does not say."""
    try:
        with open_file(path) as env:
            meta = env.open_db(META.encode(), create=False)
            with env.begin() as txn:
                applied = applied_in(txn, meta)
    except lmdb.Error as error:
        raise CorruptionError(f"{path} is not a database of ours: {error}") from error
    if applied == (0, 0):
        raise CorruptionError(f"{path} holds no consistentIndex")
    return applied


def check(path: str) -> list[str]:
    """What is wrong with a received file, in words; empty when it may be installed.

    Walks every page without the engine where the binding can (hostile bytes cannot crash it), then
    looks at our own invariants. Takes seconds per gigabyte: for a pool thread.
    """
    try:
        verifier: Any = importlib.import_module("lmdb.verify")
    except ImportError:  # older bindings have no offline verifier
        faults = []
    else:
        try:
            faults = [str(fault) for fault in verifier.verify(path, subdir=False)]
        except (verifier.VerifyError, OSError) as error:
            return [str(error)]
    if faults:
        return faults
    try:
        applied_in_file(path)
        with open_file(path) as env:
            env.open_db(KEY.encode(), create=False)
    except (CorruptionError, lmdb.Error) as error:
        return [str(error)]
    return []
