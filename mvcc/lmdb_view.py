"""Long looks at the database: a frozen view of the last commit, and a copy of it as a file.

Both pin every page that is freed while they last, so both are listed with owner and start; a view
can be cancelled when its time is up.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import lmdb

from mvcc.errors import BackendFailed, SnapshotExpired
from mvcc.generations import Generation, Generations, applied_in_file
from mvcc.lmdb_writer import Retired, Writer

VIEW_SECONDS_MAX = 60.0
VIEWS_MAX = 64
"""Half of the engine's reader slots: the loop's own read must always find one."""
_SLICE_ROWS = 1000
"""Rows between two looks at whether the view was cancelled: about a millisecond."""


class Reader(NamedTuple):
    """Who holds a view or a copy, for how many seconds, and of which generation."""

    owner: str
    age: float
    generation: int


def read_rows(
    cursor: lmdb.Cursor[bytes], start: bytes, end: bytes, limit: int
) -> list[tuple[bytes, bytes]]:
    """Rows with start <= key < end, ascending, at most `limit` (0: all)."""
    if not cursor.set_range(start):
        return []
    rows: list[tuple[bytes, bytes]] = []
    for row in islice(cursor, limit or None):
        if row[0] >= end:
            break
        rows.append(row)
    return rows


class View:
    """A ReadSnapshot: its transaction may be used from any thread, by one at a time.

    `_lock` is held while rows are read: ending a transaction under a running read would crash the
    process. So `cancel` only says that the time is up, and ends it itself if nobody is reading.
    """

    def __init__(
        self, generation: Generation, owner: str, started: float, closed: Callable[[View], None]
    ) -> None:
        """`generation` was acquired for this view; `closed` is called once, in any thread."""
        self.generation = generation
        self.owner = owner
        self.started = started
        self._txn = generation.env.begin()
        self._closed = closed
        self._open = True
        self._expired: SnapshotExpired | None = None
        self._lock = threading.Lock()

    def range(self, table: str, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """As Backend.range, of the state this view froze. SnapshotExpired once it was cancelled."""
        rows: list[tuple[bytes, bytes]] = []
        with self._lock:
            while True:
                if self._expired is not None:
                    self._end()
                    raise self._expired
                assert self._open, f"the view of {self.owner} is closed"
                wanted = min(limit - len(rows), _SLICE_ROWS) if limit > 0 else _SLICE_ROWS
                with self._txn.cursor(self.generation.tables[table]) as cursor:
                    part = read_rows(cursor, start, end, wanted)
                rows += part
                if len(part) < wanted or len(rows) == limit:
                    return rows
                start = part[-1][0] + b"\0"

    def close(self) -> None:
        """Idempotent; waits for a read that another thread is in."""
        with self._lock:
            self._end()

    def cancel(self, seconds: float) -> None:
        """The budget is spent: reads fail from now on. Never blocks."""
        self._expired = SnapshotExpired(self.owner, seconds)
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._txn.abort()
            self._closed(self)


class Copy:
    """A compacted, synced copy of one commit as the file `path`; close() removes it.

    `index` and `term` are what the file itself holds, which may be later than what the caller last
    heard of.
    """

    def __init__(self, generation: Generation, path: str) -> None:
        """Blocks for seconds per gigabyte: a pool thread's work. After an error nothing is left."""
        self.path = path
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try:
                generation.env.copyfd(handle, compact=True)
                os.fsync(handle)
                self.size = os.fstat(handle).st_size
            finally:
                os.close(handle)
            self.index, self.term = applied_in_file(path)
        except BaseException:
            os.unlink(path)
            raise

    @property
    def closed(self) -> bool:
        return not os.path.lexists(self.path)

    def close(self) -> None:
        """Idempotent."""
        if not self.closed:
            os.unlink(self.path)


class Readers:
    """Who reads which generation: a superseded one goes when its last reader does.

    Views are opened on the loop; copies are made, and both are closed, in any thread.
    """

    def __init__(
        self,
        generations: Generations,
        writer: Writer,
        *,
        clock: Callable[[], float],
        hit: Callable[[str], None],
    ) -> None:
        self._generations = generations
        self._writer = writer
        self._clock = clock
        self._hit = hit
        self._views: set[View] = set()
        self._copies: dict[int, tuple[str, float, int]] = {}
        self._copy_numbers = itertools.count()
        self._ended = False

    def view(self, owner: str) -> View:
        if len(self._views) >= VIEWS_MAX:
            raise BackendFailed(self._generations.path, f"{VIEWS_MAX} read views are open")
        view = View(self._acquire(), owner, self._clock(), self._view_closed)
        self._views.add(view)
        return view

    def copy(self, owner: str) -> Copy:
        generation = self._acquire()
        number = next(self._copy_numbers)
        self._copies[number] = (owner, self._clock(), generation.number)
        try:
            self._hit("snapshot.before_copy")
            copy = Copy(generation, self._generations.temporary(f"copy-{number}"))
            self._hit("snapshot.after_copy")
        except (OSError, lmdb.Error) as error:
            raise BackendFailed(self._generations.path, error) from error
        finally:
            del self._copies[number]
            self.release(generation)
        return copy

    def cancel_overdue(self) -> None:
        now = self._clock()
        for view in list(self._views):
            if now - view.started > VIEW_SECONDS_MAX:
                view.cancel(now - view.started)

    def all(self) -> list[Reader]:
        """The oldest first."""
        now = self._clock()
        views = [(view.owner, view.started, view.generation.number) for view in list(self._views)]
        return [
            Reader(owner, now - started, number)
            for owner, started, number in sorted(
                views + list(self._copies.values()), key=lambda reader: reader[1]
            )
        ]

    def release(self, generation: Generation) -> None:
        """One reader less, in any thread."""
        if not generation.release():
            return
        if self._ended:
            generation.env.close()
        else:
            self._writer.submit(Retired(generation))

    def close(self) -> None:
        """End all views; copies that are being made go on, the last closes their generation."""
        self._ended = True
        for view in list(self._views):
            view.close()

    def _view_closed(self, view: View) -> None:
        self._views.discard(view)
        self.release(view.generation)

    def _acquire(self) -> Generation:
        """The newest generation; the writer may replace it at any moment."""
        while not self._ended:
            generation = self._writer.generation
            if generation.acquire():
                return generation
        raise BackendFailed(self._generations.path, "it is closed")
