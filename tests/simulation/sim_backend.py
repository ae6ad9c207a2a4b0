"""The backend without LMDB and without a thread: commits come late, syncs later, a crash takes what
was neither.

    open batch ─(100 ms, or forced)─► committed ─(forced, or idle)─► durable
                                      survives a kill                survives a power cut
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from sortedcontainers import SortedDict

from mvcc.backend import META, TABLES
from mvcc.errors import BackendFailed
from mvcc.lmdb_writer import CommitStats
from mvcc.memory_backend import MemoryBackend, MemorySnapshot
from node.apply.schema import CONF_STATE
from raft.core.types import ConfState, Snapshot
from raft.disk import Disk

IDLE_SECONDS = 1.0
"""Without a commit for so long, what was committed is synced."""

DEFRAG_SECONDS_MAX = 5.0

Rows = dict[tuple[str, bytes], bytes | None]
"""New contents of rows; None: removed."""


class StateFile(msgspec.Struct):
    """A whole database as bytes, as a snapshot carries it."""

    index: int
    term: int
    tables: dict[str, list[tuple[bytes, bytes]]]


Tables = dict[str, SortedDict]


class Platter:
    """What a member's database is on disk. `unsynced` are commits that a power cut may take, oldest
    first.
    """

    def __init__(self) -> None:
        self._tables: Tables = {name: SortedDict() for name in TABLES}
        self._applied = (0, 0)
        self.unsynced: list[tuple[Rows, tuple[int, int]]] = []

    def commit(self, rows: Rows, applied: tuple[int, int]) -> None:
        self.unsynced.append((rows, applied))

    def sync(self, count: int | None = None) -> None:
        """The oldest `count` commits are safe."""
        for rows, applied in self.unsynced[:count]:
            _write(self._tables, rows)
            self._applied = applied
        self.unsynced = self.unsynced[count:] if count is not None else []

    def power_cut(self, kept: int) -> None:
        """The oldest `kept` of the commits made it."""
        self.sync(kept)
        self.unsynced = []

    def replace(self, state: StateFile) -> None:
        self._tables = {name: SortedDict(state.tables.get(name, ())) for name in TABLES}
        self._applied = (state.index, state.term)
        self.unsynced = []

    @property
    def applied(self) -> tuple[int, int]:
        """(index, term) of the last commit, synced or not."""
        return self.unsynced[-1][1] if self.unsynced else self._applied

    def tables(self) -> Tables:
        """A copy as of the last commit, synced or not."""
        tables = {name: rows.copy() for name, rows in self._tables.items()}
        for rows, _ in self.unsynced:
            _write(tables, rows)
        return tables

    def state(self) -> StateFile:
        tables = {name: list(rows.items()) for name, rows in self.tables().items()}
        return StateFile(*self.applied, tables)


def _write(tables: Tables, rows: Rows) -> None:
    for (table, key), value in rows.items():
        if value is None:
            tables[table].pop(key, None)
        else:
            tables[table][key] = value


class _Info(NamedTuple):
    rebuilding: str
    readers: list[Any]


class SimBackend(MemoryBackend):
    """Implements what `mvcc.lmdb_backend.LmdbBackend` does for a node, over a `Platter`.

    `seconds()` is how long the next commit takes; `on_commit` and the rest are as there.
    """

    def __init__(
        self,
        platter: Platter,
        disk: Disk,
        *,
        seconds: Callable[[], float],
        batch_seconds: float = 0.1,
        on_commit: Callable[[CommitStats], None] = lambda stats: None,
        on_drained: Callable[[], None] = lambda: None,
        hit: Callable[[str], None] = lambda name: None,
    ) -> None:
        super().__init__(hold=True)
        self._platter = platter
        self._disk = disk
        self._seconds = seconds
        self._batch_seconds = batch_seconds
        self._on_commit = on_commit
        self._on_drained = on_drained
        self._hit = hit
        self._loop = asyncio.get_running_loop()
        self._opened_at: float | None = None
        self._committed_at = self._loop.time()
        self._committing = False
        self._rebuilding = ""
        self._dead = False
        self.effects = 0
        """CRC-32 of the rows written since it was last set to 0."""
        self._load()

    def _load(self) -> None:
        platter = self._platter
        # As LMDB's environments are opened: what an earlier process left in the cache is synced.
        platter.sync()
        self._tables = platter.tables()
        self._applied = self._durable = platter.applied
        self.durable_index = platter.applied[0]
        self._undo.clear()
        self._in_entry = False
        self._bytes = sum(
            len(key) + len(row) for rows in self._tables.values() for key, row in rows.items()
        )
        self._bytes_max = max(self._bytes_max, self._bytes)

    # -- rows

    def put(self, table: str, key: bytes, value: bytes) -> None:
        super().put(table, key, value)
        self.effects = crc32(value, crc32(key, crc32(table.encode(), self.effects)))

    def delete(self, table: str, key: bytes) -> None:
        super().delete(table, key)
        self.effects = crc32(b"deleted", crc32(key, crc32(table.encode(), self.effects)))

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        """All of a table, committed or not."""
        return list(self._tables[table].items())

    # -- when batches close

    def end_entries(self, index: int, term: int) -> None:
        super().end_entries(index, term)
        self.poll()

    def force_commit(self, done: Callable[[], None] | None = None) -> None:
        if self._due is None:
            self._due = []
        if done is not None:
            self._due.append(done)
        self._begin()

    def poll(self) -> None:
        now = self._loop.time()
        if self._undo or self._applied != self._durable:
            self._opened_at = now if self._opened_at is None else self._opened_at
            if now - self._opened_at >= self._batch_seconds:
                self._begin()
        elif self._platter.unsynced and now - self._committed_at >= IDLE_SECONDS:
            self.force_commit()

    def _begin(self) -> None:
        if not (self._committing or self._rebuilding == "install" or self._dead):
            self._committing = True
            self._loop.call_later(self._seconds(), self._commit)

    def _commit(self) -> None:
        self._committing = False
        if self._dead or self._rebuilding == "install":
            return
        platter, due = self._platter, self._due
        rows: Rows = {(table, key): self._tables[table].get(key) for table, key in self._undo}
        self._hit("backend.before_commit")
        platter.commit(rows, self._applied)
        self._undo.clear()
        self._in_entry = False
        self._durable = self._applied
        self._opened_at, self._committed_at = None, self._loop.time()
        if due is not None:
            platter.sync()
            self._due = None
            self.durable_index = self._applied[0]
        size = self.size()
        self._on_commit(
            CommitStats(
                self._applied[0], self.durable_index, size.size, size.in_use, 1, len(rows), 0.001
            )
        )
        for done in due or ():
            done()

    def abandon(self) -> None:
        self._dead = True

    def close(self) -> None:
        """What is complete is written and synced; an entry half done is not."""
        if self._dead:
            return
        self._dead = True
        if not self._in_entry:
            rows: Rows = {(table, key): self._tables[table].get(key) for table, key in self._undo}
            self._platter.commit(rows, self._applied)
            self._platter.sync()

    # -- whole states

    def snapshot(self, owner: str = "snapshot") -> MemorySnapshot:
        return MemorySnapshot(self._platter.tables())

    def info(self) -> _Info:
        return _Info(self._rebuilding, [])

    def defragment(self, done: Callable[[Exception | None], None]) -> None:
        if self._rebuilding:
            error = BackendFailed("memory", f"{self._rebuilding} is under way")
            self._loop.call_soon(done, error)
            return
        self._rebuilding = "defrag"

        def finished() -> None:
            self._rebuilding = ""
            self._bytes_max = self._bytes
            done(None)

        self._loop.call_later(min(10 * self._seconds(), DEFRAG_SECONDS_MAX), finished)

    def install(self, path: str, done: Callable[[Exception | None], None]) -> None:
        if self._rebuilding:
            self._loop.call_later(self._seconds(), self.install, path, done)
            return
        self._rebuilding = "install"

        def finished() -> None:
            self._hit("install.before_switch")
            self._platter.replace(msgspec.msgpack.decode(self._disk.read(path), type=StateFile))
            superseded, self._due = self._due or [], None
            self._load()
            self._hit("install.after_switch")
            self._disk.remove(path)
            self._rebuilding = ""
            done(None)
            for each in superseded:
                each()

        self._loop.call_later(5 * self._seconds(), finished)


class SimStateCopy:
    """A `raft.transport.SnapshotSource` over a platter."""

    def __init__(self, backend: SimBackend) -> None:
        state = backend._platter.state()
        self._data = msgspec.msgpack.encode(state)
        self._at = 0
        self.size = len(self._data)
        row = dict(state.tables[META]).get(CONF_STATE)
        conf_state = msgspec.msgpack.decode(row, type=ConfState) if row else ConfState()
        self.snapshot = Snapshot(state.index, state.term, conf_state)

    def read(self, limit: int) -> bytes:
        chunk = self._data[self._at : self._at + limit]
        self._at += len(chunk)
        return chunk

    def close(self) -> None:
        self._data = b""


def faults_in(disk: Disk) -> Callable[[str, Snapshot], list[str]]:
    """What is wrong with a received state file."""

    def faults(path: str, snapshot: Snapshot) -> list[str]:
        try:
            state = msgspec.msgpack.decode(disk.read(path), type=StateFile)
        except msgspec.DecodeError as error:
            return [f"no state: {error}"]
        if (state.index, state.term) != (snapshot.index, snapshot.term):
            return [f"it holds the state of {state.index}, term {state.term}"]
        return []

    return faults
