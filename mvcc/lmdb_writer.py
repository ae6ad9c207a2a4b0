"""The one thread that writes the database: batches in, one LMDB transaction each, reports out.

An LMDB write transaction belongs to the thread that began it (ending it elsewhere leaves the write
lock held for ever), so everything that writes goes through this thread's queue, in order: batches,
and between two of them the making of a new generation. While that lasts batches wait and stay
readable from memory; the loop goes on.

What is durable when. Environments run without metasync: a commit syncs its pages and then writes
the meta page that makes them count, without waiting for it. The next commit's sync carries that
meta page. Hence after commit k only batch k-1 is sure to survive a power loss, and k itself once
`env.sync` ran: for a forced batch at once, else when a second passes without another.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import lmdb

from mvcc.backend import KEY, META, TABLES
from mvcc.errors import BackendFailed, CorruptionError
from mvcc.generations import (
    CONSISTENT_INDEX,
    DATA,
    Generation,
    Generations,
    applied_in_file,
    copy_compact,
    encode_index,
    free_bytes,
    sync_path,
)

Outcome = Callable[[Exception | None], None]
"""Called once on the loop: None, or why nothing has changed."""


class Batch:
    """All effects of the entries up to `index`, as the final state of each row they touched.

    `tables` is at once what the writer writes and what the loop reads meanwhile: row or None for
    deleted. Rows of KEY are never overwritten and come in ascending order, so the dict's own order
    is the order of the file. `revisions` are the keys put to KEY, for bisection. Nobody changes a
    batch that was handed to the writer.
    """

    __slots__ = ("changed", "done", "index", "ops", "revisions", "size", "sync", "tables", "term")

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes | None]] = {name: {} for name in TABLES}
        self.revisions: list[bytes] = []
        self.ops = 0
        self.size = 0
        self.index = 0
        self.term = 0
        self.changed = False
        self.sync = False
        self.done: list[Callable[[], None]] = []


class CommitStats(NamedTuple):
    """One transaction: `batches` with `ops` changes, up to `applied_index`; bytes and seconds.

    `durable_index` is what a power loss cannot take any more; it trails unless forced.
    """

    applied_index: int
    durable_index: int
    size: int
    in_use: int
    batches: int
    ops: int
    seconds: float


class Rebuild(NamedTuple):
    """Make a new generation: from the old one (`name` defrag), or from a file (install)."""

    name: str
    source: str
    done: Outcome


class Retired(NamedTuple):
    """A superseded generation that lost its last reader: close it and remove it."""

    generation: Generation


Job = Batch | Rebuild | Retired


class Reports(NamedTuple):
    """What the writer tells the loop, each through `post`, in the order in which it happened."""

    committed: Callable[[CommitStats], None]
    switched: Callable[[Generation, Rebuild], None]
    refused: Callable[[Rebuild, Exception], None]
    failed: Callable[[Exception], None]


class Writer:
    """Owns the thread, the queue and every write transaction.

    `generation` is the one in service on this side; the loop follows at `Reports.switched`.
    `failure` is what ended the thread before it was told to stop.
    """

    def __init__(
        self,
        generations: Generations,
        generation: Generation,
        reports: Reports,
        *,
        post: Callable[[Callable[[], None]], None],
        hit: Callable[[str], None],
        disk_reserve: int,
    ) -> None:
        self.generation = generation
        self.failure: Exception | None = None
        self._generations = generations
        self._reports = reports
        self._post = post
        self._hit = hit
        self._disk_reserve = disk_reserve
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._ahead: list[Job | None] = []
        self._committed_index, _ = generation.applied()
        self._durable_index = self._committed_index
        self._thread = threading.Thread(target=self._run, name="backend", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Any thread; never blocks."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Write what was submitted, end the thread, close what it retired. Blocks until then."""
        self._jobs.put(None)
        self._thread.join()
        while not self._jobs.empty():
            job = self._jobs.get()
            if isinstance(job, Retired):
                remove(job.generation)

    def _run(self) -> None:
        try:
            self._work()
        except (
            Exception
        ) as error:  # the thread's edge: whatever it was, nothing is written any more
            failure = error
            if isinstance(error, OSError | lmdb.Error):
                failure = BackendFailed(self.generation.directory, error)
                failure.__cause__ = error
            self.failure = failure
            self._post(partial(self._reports.failed, failure))

    def _work(self) -> None:
        while (job := self._take()) is not None:
            if isinstance(job, Batch):
                self._commit(self._with_waiting(job))
            elif isinstance(job, Rebuild):
                self._rebuild(job)
            else:
                remove(job.generation)

    def _take(self) -> Job | None:
        return self._ahead.pop() if self._ahead else self._jobs.get()

    def _with_waiting(self, first: Batch) -> list[Batch]:
        """All batches that wait in a row: they share one transaction."""
        batches = [first]
        while not self._jobs.empty():
            job = self._jobs.get()
            if not isinstance(job, Batch):
                self._ahead.append(job)
                break
            batches.append(job)
        return batches

    def _commit(self, batches: list[Batch]) -> None:
        started = time.perf_counter()
        generation = self.generation
        last = batches[-1]
        self._hit("backend.before_commit")
        if any(batch.changed for batch in batches):
            with generation.env.begin(write=True) as txn:
                for batch in batches:
                    write_batch(txn, generation, batch)
                # Also when it is the old one: a transaction that changes nothing writes no meta
                # page and syncs nothing, yet the batch before would be called durable.
                index = encode_index(last.index, last.term)
                txn.put(CONSISTENT_INDEX, index, db=generation.tables[META])
            self._durable_index = self._committed_index
            self._committed_index = last.index
        if any(batch.sync for batch in batches):
            generation.env.sync(True)
            self._durable_index = self._committed_index
        self._hit("backend.after_commit")
        with generation.env.begin() as txn:
            size = generation.size(txn)
        stats = CommitStats(
            applied_index=last.index,
            durable_index=self._durable_index,
            size=size.size,
            in_use=size.in_use,
            batches=len(batches),
            ops=sum(batch.ops for batch in batches),
            seconds=time.perf_counter() - started,
        )
        self._post(partial(self._reports.committed, stats))

    def _rebuild(self, job: Rebuild) -> None:
        """Until CURRENT is renamed the old generation stays in service, whatever fails."""
        number = self.generation.number + 1
        try:
            fresh = self._stage(job, number)
        except (OSError, lmdb.Error, CorruptionError, BackendFailed) as error:
            self._generations.unstage(number)
            self._post(partial(self._reports.refused, job, error))
            return
        self._generations.switch()
        old, self.generation = self.generation, fresh
        self._hit(f"{job.name}.after_current")
        self._committed_index, _ = fresh.applied()
        self._durable_index = self._committed_index
        # The loop reads the old one until it hears of this. It is counted as a reader of the new
        # one here and now: a second rebuild may retire that before the loop has heard of the first.
        fresh.acquire()
        assert not old.retire(), f"generation {old.number} lost its reader before it was replaced"
        if job.source:
            os.unlink(job.source)
        self._post(partial(self._reports.switched, fresh, job))

    def _stage(self, job: Rebuild, number: int) -> Generation:
        # Read before anything is linked: the engine would make a database of an empty file.
        expected = applied_in_file(job.source) if job.source else self.generation.applied()
        directory = self._generations.prepare(number)
        data = os.path.join(directory, DATA)
        if job.source:
            _take_file(job.source, data)
        else:
            self._require_space()
            self._hit("defrag.before_copy")
            copy_compact(self.generation.env, directory)
        sync_path(data)
        sync_path(directory)
        if not job.source:
            self._hit("defrag.after_copy")
        fresh = Generation(directory, self._generations.map_size)
        try:
            if fresh.applied() != expected:
                raise CorruptionError(f"{directory} holds {fresh.applied()}, expected {expected}")
            self._generations.stage(number)
            self._hit(f"{job.name}.before_current")
        except Exception:
            fresh.env.close()
            raise
        return fresh

    def _require_space(self) -> None:
        with self.generation.env.begin() as txn:
            in_use = self.generation.size(txn).in_use
        need = in_use * 11 // 10 + self._disk_reserve
        free = free_bytes(self._generations.path)
        if free < need:
            raise BackendFailed(
                self._generations.path, f"a copy needs {need} bytes of free disk, there are {free}"
            )


def write_batch(txn: lmdb.Transaction[bytes], generation: Generation, batch: Batch) -> None:
    """Rows of `batch` into `txn`. CorruptionError if a row of KEY is not above the stored."""
    for name, rows in batch.tables.items():
        if not rows:
            continue
        puts = [(key, value) for key, value in rows.items() if value is not None]
        with txn.cursor(generation.tables[name]) as cursor:
            # One call for all of them: row by row the interpreter's lock would change hands each.
            _, added = cursor.putmulti(puts, append=name == KEY)
            if name == KEY and added != len(puts):
                raise CorruptionError(
                    f"{len(puts) - added} of {len(puts)} revisions from {puts[0][0].hex()} on"
                    f" (index {batch.index}) are not above the stored ones"
                )
            if len(puts) < len(rows):
                for key, value in rows.items():
                    if value is None and cursor.set_key(key):
                        cursor.delete()


def remove(generation: Generation) -> None:
    """Close a generation that CURRENT no longer names, and give its disk back."""
    generation.env.close()
    shutil.rmtree(generation.directory)


def _take_file(source: str, target: str) -> None:
    """The same bytes under `target`; `source` stays until CURRENT names the new generation.

    A second name costs nothing; across file systems it is a copy.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
