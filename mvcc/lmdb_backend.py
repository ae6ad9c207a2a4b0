"""The durable Backend: an overlay of what is not yet committed, over LMDB read by snapshot.

    put ──► open batch ──end_entries, due──► closed batches ──► writer thread ──► LMDB
            └──────────── overlay ─────────────┘                    │
    get ──► open batch, closed batches newest first, read txn ◄─ committed(n): new read txn,
                                                                 then the n oldest batches go

A batch is its own overlay: the writer writes the very dicts that reads look into. They are dropped
only when the commit is reported *and* a read transaction that sees it is in place, so a row is
never between the two. At most a few batches are closed at a time: while two wait, an aged batch
grows instead of being closed, so that a read looks into a handful of dicts also during the seconds
that a defragmentation keeps the writer busy. Nothing here waits for the disk except opening,
closing, and what is marked as a pool thread's work.

One writer thread, not a child process: see tests/bench/bench_backend.py for the numbers.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import lmdb

from mvcc.backend import KEY, BackendSize
from mvcc.errors import BackendFailed
from mvcc.generations import Generation, Generations
from mvcc.lmdb_view import Copy, Reader, Readers, View, read_rows
from mvcc.lmdb_writer import (
    Batch,
    CommitStats,
    Outcome,
    Rebuild,
    Reports,
    Writer,
)

__all__ = ["BackendInfo", "CommitStats", "LmdbBackend"]

BATCH_SECONDS = 0.1
BATCH_OPS = 10_000
BATCH_BYTES = 4 << 20
CLOSED_MAX = 2
"""Closed batches that may wait before apply does. Two keep the writer busy; more is only memory."""
OVERLAY_BYTES_MAX = 64 << 20
"""Rows in memory before apply waits, also while the database is being defragmented."""
OVERLAY_OPS_MAX = 500_000
"""The same for rows that are small or deleted: what they cost is the dict, about 150 bytes each."""
IDLE_SECONDS = 1.0
"""After so long without a commit the last one is synced, else durable_index would trail on."""
SWEEP_ROWS = 20_000
"""Rows freed in one turn of the loop, about 2 ms; only what waited for a rebuild is larger."""
DISK_RESERVE = 64 << 20
"""Free disk that a defragmentation leaves alone: the log and the next batches need it."""

_MISSING = bytes(bytearray(b"missing"))
"""Not a row: compared by identity."""


class BackendInfo(NamedTuple):
    """For status; `pending_batches` wait for the disk, the open one included."""

    path: str
    generation: int
    map_size: int
    pending_batches: int
    pending_bytes: int
    durable_index: int
    rebuilding: str
    readers: list[Reader]


class LmdbBackend:
    """Backend on LMDB under `path` (see generations.py for the files).

    `post` takes a callable from the writer thread to the loop (call_soon_threadsafe); `clock` gives
    seconds. `on_commit` follows every transaction, `on_drained` follows a `blocked` that said True.
    `on_fatal` is called once with the error when something could not be written: from then on
    nothing is, and nothing is reported as durable; the node must stop. Reads raise BackendFailed
    when they come upon a damaged page.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        map_size: int,
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
        batch_seconds: float = BATCH_SECONDS,
        batch_ops: int = BATCH_OPS,
        batch_bytes: int = BATCH_BYTES,
        disk_reserve: int = DISK_RESERVE,
        on_commit: Callable[[CommitStats], None] | None = None,
        on_drained: Callable[[], None] | None = None,
        on_fatal: Callable[[Exception], None] | None = None,
        hit: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Opens or creates the database and removes leftovers; blocks.

        CorruptionError, BackendFailed, OSError: nothing was changed.
        """
        self._post = post
        self._clock = clock
        self._batch_seconds = batch_seconds
        self._batch_ops = batch_ops
        self._batch_bytes = batch_bytes
        self._on_commit = on_commit
        self._on_drained = on_drained
        self._on_fatal = on_fatal
        self._generations = Generations(os.fspath(path), map_size)
        self._closed: list[Batch] = []
        self._closed_ops = self._closed_bytes = 0
        self._rebuilds: list[Rebuild] = []
        self._spent: list[dict[bytes, bytes | None]] = []
        self._told_blocked = False
        self._dead = False
        self._failure: Exception | None = None
        self._ended = False
        generation = self._generations.open()
        generation.acquire()
        self._adopt(generation)
        self._writer = Writer(
            self._generations,
            self._generation,
            Reports(
                self._fatal_if_raised(self._committed),
                self._fatal_if_raised(self._switched),
                self._fatal_if_raised(self._refused),
                self._failed,
            ),
            post=post,
            hit=hit,
            disk_reserve=disk_reserve,
        )
        self._readers = Readers(self._generations, self._writer, clock=clock, hit=hit)

    def _adopt(self, generation: Generation) -> None:
        """Read from `generation`, acquired for the loop, with an empty overlay."""
        self._generation = generation
        self._txn = generation.env.begin()
        self._size = generation.size(self._txn)
        self._applied = self._closed_applied = generation.applied()
        self.durable_index = self._committed_index = self._applied[0]
        self._committed_at = self._clock()
        self._begin_batch()

    def _begin_batch(self) -> None:
        self._open = Batch()
        self._opened_at: float | None = None
        self._marked_ops = 0

    # ---- writing

    def put(self, table: str, key: bytes, value: bytes) -> None:
        batch = self._open
        batch.tables[table][key] = value
        if table == KEY:
            batch.revisions.append(key)
        batch.ops += 1
        batch.size += len(key) + len(value)

    def delete(self, table: str, key: bytes) -> None:
        batch = self._open
        batch.tables[table][key] = None
        batch.ops += 1
        batch.size += len(key)

    def delete_many(self, table: str, keys: Sequence[bytes]) -> None:
        batch = self._open
        batch.tables[table].update(dict.fromkeys(keys))
        batch.ops += len(keys)
        batch.size += sum(map(len, keys))

    def end_entries(self, index: int, term: int) -> None:
        self._applied = (index, term)
        self._marked_ops = self._open.ops
        self._close_if_due()

    def force_commit(self, done: Callable[[], None] | None = None) -> None:
        """As the protocol says. It closes in the loop's next turn: now may be in an entry."""
        if done is not None:
            self._open.done.append(done)
        self._open.sync = True
        self._post(self._close_forced)

    def abandon(self) -> None:
        """Apply failed inside an entry: nothing that is still open may reach the disk any more."""
        self._dead = True

    def poll(self) -> None:
        """Called every 50 ms or so, never inside an entry: closes an aged batch, syncs when idle.

        Also cancels views that are older than their budget.
        """
        self._readers.cancel_overdue()
        self._close_if_due()
        idle = not self._closed and self._clock() - self._committed_at >= IDLE_SECONDS
        if idle and self.durable_index < self._committed_index:
            self._open.sync = True
            self._close_forced()

    def _close_if_due(self) -> None:
        batch = self._open
        if not batch.ops and self._applied == self._closed_applied:
            return
        now = self._clock()
        if self._opened_at is None:
            self._opened_at = now
        full = batch.ops >= self._batch_ops or batch.size >= self._batch_bytes
        due = full or now - self._opened_at >= self._batch_seconds
        if due and (len(self._closed) < CLOSED_MAX or (full and not self._rebuilds)):
            self._close_open()

    def _close_forced(self) -> None:
        if self._open.sync:
            self._close_open()

    def _close_open(self) -> None:
        # What is written after an install was asked for would land in the installed database.
        if self._dead or self._ended or any(rebuild.source for rebuild in self._rebuilds):
            return
        batch = self._open
        batch.index, batch.term = self._applied
        batch.changed = batch.ops > 0 or self._applied != self._closed_applied
        self._closed_applied = self._applied
        self._closed.append(batch)
        self._closed_ops += batch.ops
        self._closed_bytes += batch.size
        self._begin_batch()
        self._writer.submit(batch)

    # ---- reading

    def get(self, table: str, key: bytes) -> bytes | None:
        row = self._open.tables[table].get(key, _MISSING)
        if row is not _MISSING:
            return row
        for batch in reversed(self._closed):
            row = batch.tables[table].get(key, _MISSING)
            if row is not _MISSING:
                return row
        try:
            return self._txn.get(key, None, self._generation.tables[table])
        except lmdb.Error as error:
            raise BackendFailed(self._generation.directory, error) from error

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes | None] = {}
        for batch in (*self._closed, self._open):
            rows = batch.tables[table]
            if rows:
                found.update((key, rows[key]) for key in keys if key in rows)
        missing = [key for key in keys if key not in found] if found else keys
        if missing:
            try:
                with self._txn.cursor(self._generation.tables[table]) as cursor:
                    found.update(cursor.getmulti(missing))
            except lmdb.Error as error:
                raise BackendFailed(self._generation.directory, error) from error
        return [found.get(key) for key in keys]

    def range(self, table: str, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """As the protocol says; looks at every overlay key of a table other than KEY."""
        if table == KEY:
            return self._range_revisions(start, end, limit)
        overlay: dict[bytes, bytes | None] = {}
        for batch in (*self._closed, self._open):
            rows = batch.tables[table]
            overlay.update((key, rows[key]) for key in rows if start <= key < end)
        hidden = sum(value is None for value in overlay.values())
        try:
            with self._txn.cursor(self._generation.tables[table]) as cursor:
                stored = read_rows(cursor, start, end, limit and limit + hidden)
        except lmdb.Error as error:
            raise BackendFailed(self._generation.directory, error) from error
        if not overlay:
            return stored
        merged = {**dict(stored), **overlay}
        found = [(key, merged[key]) for key in sorted(merged)]
        present = [(key, value) for key, value in found if value is not None]
        return present[:limit] if limit else present

    def _range_revisions(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Rows of KEY, for what it costs to read them: each is above all that came before it, so
        those of a batch are bisected, and those of the overlay follow the stored ones.
        """
        batches = (*self._closed, self._open)
        overlay = [batch.tables[KEY] for batch in batches]
        changes = [rows for rows in overlay if rows]
        found: list[tuple[bytes, bytes]] = []
        try:
            with self._txn.cursor(self._generation.tables[KEY]) as cursor:
                stored = True
                while stored and not (limit and len(found) == limit):
                    rows = read_rows(cursor, start, end, limit and limit - len(found))
                    if changes:
                        found += [row for row in rows if not _deleted(changes, row[0])]
                    else:
                        found += rows
                    stored = bool(limit and rows)
                    if rows:
                        # A commit that is not reported yet is in both: the overlay begins after it.
                        start = rows[-1][0] + b"\x00"
        except lmdb.Error as error:
            raise BackendFailed(self._generation.directory, error) from error
        for i, batch in enumerate(batches):
            keys = batch.revisions
            for n in range(bisect_left(keys, start), bisect_left(keys, end)):
                if limit and len(found) == limit:
                    return found
                row = overlay[i][keys[n]]
                if row is not None and not _deleted(overlay[i + 1 :], keys[n]):
                    found.append((keys[n], row))
        return found

    def applied(self) -> tuple[int, int]:
        return self._applied

    def size(self) -> BackendSize:
        return self._size

    def snapshot(self, owner: str = "snapshot") -> View:
        """A view of the last commit, for any thread; cancelled after 60 s. Close it.

        BackendFailed when 64 of them are open.
        """
        return self._readers.view(owner)

    def open_copy(self, owner: str = "copy") -> Copy:
        """A pool thread's work: the last commit as a compacted, synced file. Close it.

        BackendFailed when the disk is full; nothing is left then.
        """
        return self._readers.copy(owner)

    # ---- state

    def blocked(self) -> bool:
        if self._overfull():
            self._told_blocked = True
        return self._told_blocked

    def _overfull(self) -> bool:
        # During a rebuild the writer is away for seconds: only memory limits what may wait.
        return (
            self._dead
            or (len(self._closed) > CLOSED_MAX and not self._rebuilds)
            or self._closed_bytes + self._open.size > OVERLAY_BYTES_MAX
            or self._closed_ops + self._open.ops > OVERLAY_OPS_MAX
        )

    def info(self) -> BackendInfo:
        return BackendInfo(
            path=self._generations.path,
            generation=self._generation.number,
            map_size=self._generations.map_size,
            pending_batches=len(self._closed) + (self._open.ops > 0),
            pending_bytes=self._closed_bytes + self._open.size,
            durable_index=self.durable_index,
            rebuilding=self._rebuilds[0].name if self._rebuilds else "",
            readers=self._readers.all(),
        )

    # ---- new generations

    def defragment(self, done: Outcome) -> None:
        """Copy the live pages to a new generation and go over to it; reads and writes go on.

        `done(error)` leaves the old generation in service: no space, a full disk, or another
        rebuild is under way.
        """
        if self._rebuilds:
            busy = BackendFailed(self._generations.path, f"{self._rebuilds[0].name} is under way")
            self._post(partial(done, busy))
        else:
            self._rebuild(Rebuild("defrag", "", done))

    def install(self, source: str | os.PathLike[str], done: Outcome) -> None:
        """Replace everything by the database in the file `source` (which is gone afterwards).

        From here to `done` nothing may be written. `done(None)`: applied() and all reads come from
        the file, it is durable, and nothing of the old overlay exists any more; what waited in
        force_commit is told so, since the file supersedes it. `done(error)`: as if never called.
        Runs after a defragmentation that is under way.
        """
        self._rebuild(Rebuild("install", os.fspath(source), done))

    def _rebuild(self, rebuild: Rebuild) -> None:
        if self._dead or self._ended:
            stopped = BackendFailed(self._generations.path, "it writes no more")
            self._post(partial(rebuild.done, stopped))
        else:
            self._rebuilds.append(rebuild)
            self._writer.submit(rebuild)

    def close(self) -> None:
        """Write and sync what is complete, end the thread; blocks. Nothing is called back then.

        An open batch that ends inside an entry is left out: the log replays it. Raises what kept
        the rest from being written, if nobody knows it yet; it is closed all the same.
        """
        if self._ended:
            return
        if self._open.ops == self._marked_ops:
            self._open.sync = True
            self._close_open()
        self._ended = True
        self._readers.close()
        self._txn.abort()
        self._readers.release(self._generation)
        self._writer.stop()
        newest = self._writer.generation
        if newest is not self._generation:
            newest.release()
        if newest.retire():
            newest.env.close()
        if self._writer.failure is not None and not self._dead:
            raise self._writer.failure

    # ---- reports of the writer, on the loop

    def _fatal_if_raised(self, report: Callable[..., None]) -> Callable[..., None]:
        """`post` has no caller who could hear of an error, and half a report leaves others waiting
        for ever.
        """

        def told(*facts: object) -> None:
            if self._failure is not None:
                return
            try:
                report(*facts)
            except Exception as error:
                if self._on_fatal is None:
                    raise
                self._failed(error)

        return told

    def _committed(self, stats: CommitStats) -> None:
        if self._ended:
            return
        self._txn.abort()
        self._txn = self._generation.env.begin()
        committed, self._closed = self._closed[: stats.batches], self._closed[stats.batches :]
        self._closed_ops -= sum(batch.ops for batch in committed)
        self._closed_bytes -= sum(batch.size for batch in committed)
        self._size = BackendSize(stats.size, stats.in_use)
        self._committed_index = stats.applied_index
        self._committed_at = self._clock()
        self.durable_index = stats.durable_index
        if self._on_commit is not None:
            self._on_commit(stats)
        for batch in committed:
            for done in batch.done:
                done()
        for batch in committed:
            self._spent += [rows for rows in batch.tables.values() if len(rows) > SWEEP_ROWS]
        self._sweep()
        self._resume()

    def _sweep(self) -> None:
        """Free large dicts in slices: half a million rows at once would stop the loop for 50 ms."""
        if not self._spent:
            return
        rows = self._spent[-1]
        for _ in range(min(len(rows), SWEEP_ROWS)):
            rows.popitem()
        if not rows:
            self._spent.pop()
        if self._spent:
            self._post(self._sweep)

    def _switched(self, generation: Generation, rebuild: Rebuild) -> None:
        if self._ended:
            return
        assert self._rebuilds[0] is rebuild, "rebuilds are reported in their order"
        old, superseded = self._generation, self._open
        self._txn.abort()
        if rebuild.source:
            assert not self._closed, f"{len(self._closed)} batches closed during an install"
            self._adopt(generation)
        else:
            self._generation = generation
            self._txn = generation.env.begin()
            self._size = generation.size(self._txn)
            self.durable_index = self._committed_index
        self._readers.release(old)
        self._finish(rebuild, None)
        if rebuild.source:
            for done in superseded.done:
                done()

    def _refused(self, rebuild: Rebuild, error: Exception) -> None:
        if not self._ended:
            self._finish(rebuild, error)

    def _finish(self, rebuild: Rebuild, error: Exception | None) -> None:
        self._rebuilds.remove(rebuild)
        rebuild.done(error)
        self._resume()

    def _resume(self) -> None:
        """Less waits than before: close what became due meanwhile, let apply go on."""
        self._close_forced()
        self._close_if_due()
        if self._told_blocked and not self._overfull():
            self._told_blocked = False
            if self._on_drained is not None:
                self._on_drained()

    def _failed(self, error: Exception) -> None:
        if self._ended or self._failure is not None:
            return
        self._dead = True
        self._failure = error
        if self._on_fatal is not None:
            self._on_fatal(error)
        for rebuild in self._rebuilds:
            rebuild.done(error)


def _deleted(overlay: list[dict[bytes, bytes | None]], key: bytes) -> bool:
    return any(rows.get(key, _MISSING) is None for rows in overlay)
