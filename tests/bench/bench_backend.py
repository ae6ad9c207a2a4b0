"""Which writer the durable backend should have: a thread, or a child process?

    python -m tests.bench.bench_backend [--seconds 4] [--rows-per-second 8000] [--row-bytes 300]

The thread shares the interpreter's lock with the loop, and LMDB calls give that lock up and take it
again many times per transaction: next to a busy loop each taking back may wait for the switch
interval (5 ms). A child process does not share the lock, but every batch is encoded, piped and
decoded, and its death and its memory are another thing to look after.

Both are the real backend; only the writer is exchanged. An *idle* loop does nothing but apply rows
as fast as back-pressure lets it. A *saturated* one is busy with Python in turns of half a
millisecond, as with requests, and applies rows at a fixed rate meanwhile; a *compacting* one
deletes as many older rows besides. Lag is what a timer of 5 ms comes late; commit is the time of
one transaction, as the writer reports it.

Measured on 2 cores shared with other work (load 4), CPython 3.11, py-lmdb 3.0, 300-byte rows,
8000 rows/s asked of the busy loops; ranges of three runs (compacting: two):

    loop        writer      rows/s          lag p99 ms   commit p50 ms   commit max ms
    idle        none                          0 .. 23
    idle        thread      226 .. 435 k      5 .. 18     23 .. 27        58 .. 114
    idle        process     238 .. 464 k      5 .. 18     18 .. 30        33 .. 59
    saturated   none                          2 .. 11
    saturated   thread      8 k               2 .. 19      2 .. 6          5 .. 230
    saturated   process     8 k               5 .. 16      4 .. 6         15 .. 20
    compacting  none                          6 .. 11
    compacting  thread      8 k              12 .. 15      5 .. 7        270 .. 370
    compacting  process     8 k               8 .. 15      3 .. 4         23 .. 35

The thread is kept: both hold the rate, both move far more than raft can feed them, and the lag is
that of the machine. In some runs one commit of the thread takes a quarter of a second, all of it in
writing rows, which the process never does: most likely the race for the lock. Two batches may wait
and an aged one grows meanwhile, so neither apply nor a request notices. In exchange there is no
second process to start, watch, feed and kill, and a defragmentation is one more job in one queue.
"""

from __future__ import annotations

import argparse
import asyncio
import marshal
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest import mock

import lmdb

from mvcc import lmdb_backend
from mvcc.backend import KEY, META
from mvcc.generations import CONSISTENT_INDEX, Generation, Generations, encode_index
from mvcc.lmdb_backend import LmdbBackend
from mvcc.lmdb_writer import Batch, CommitStats, Job, Reports, Writer, write_batch

MAP_BYTES = 8 << 30
TURN_SECONDS = 0.0005
TICK_SECONDS = 0.005
ROWS_PER_ENTRY = 10
KEPT_ROWS = 5000
LOADS = ("idle", "saturated", "compacting")


def serve(path: str, connection: Connection) -> None:
    """The child: one transaction per message, one report per transaction."""
    generation = Generation(path, MAP_BYTES)
    while message := connection.recv_bytes():
        started = time.perf_counter()
        index, term, sync, tables = marshal.loads(message)
        batch = Batch()
        batch.tables = tables
        with generation.env.begin(write=True) as txn:
            write_batch(txn, generation, batch)
            txn.put(CONSISTENT_INDEX, encode_index(index, term), db=generation.tables[META])
        if sync:
            generation.env.sync(True)
        with generation.env.begin() as txn:
            size = generation.size(txn)
        connection.send_bytes(marshal.dumps((*size, time.perf_counter() - started)))
    generation.env.close()


class ProcessWriter:
    """The writer as a child process: batches only, and one thread that waits for its pipe."""

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
        self._reports = reports
        self._post = post
        self._durable_index = generation.applied()[0]
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        spawn = multiprocessing.get_context("spawn")
        self._pipe, end = spawn.Pipe()
        self._child = spawn.Process(target=serve, args=(generation.directory, end), daemon=True)
        self._child.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()
        self._pipe.send_bytes(b"")
        self._child.join()

    def _run(self) -> None:
        while (batch := self._jobs.get()) is not None:
            assert isinstance(batch, Batch)
            job = (batch.index, batch.term, batch.sync, batch.tables)
            self._pipe.send_bytes(marshal.dumps(job))
            size, in_use, seconds = marshal.loads(self._pipe.recv_bytes())
            durable = batch.index if batch.sync else self._durable_index
            self._durable_index = batch.index
            report = CommitStats(batch.index, durable, size, in_use, 1, batch.ops, seconds)
            self._post(partial(self._reports.committed, report))


class Run:
    """One measurement: a loop, a backend, a load."""

    def __init__(self, options: argparse.Namespace, load: str) -> None:
        self.options = options
        self.load = load
        self.saturated = load != "idle"
        self.value = os.urandom(options.row_bytes)
        self.rows = 0
        self.lags: list[float] = []
        self.commits: list[float] = []
        self.backend: LmdbBackend | None = None

    async def measure(self, path: Path, *, write: bool) -> dict[str, float]:
        loop = asyncio.get_running_loop()
        if write:
            self.backend = LmdbBackend(
                path,
                map_size=MAP_BYTES,
                post=loop.call_soon_threadsafe,
                clock=loop.time,
                on_commit=lambda stats: self.commits.append(stats.seconds),
                on_fatal=lambda error: sys.exit(f"the writer failed: {error}"),
            )
            await self._flush()
        started = loop.time()
        self._deadline = started + self.options.seconds
        self._started = started
        ticker = asyncio.create_task(self._tick())
        while loop.time() < self._deadline:
            self._apply()
            if self.saturated:
                self._work()
            await asyncio.sleep(0 if self.saturated or self.backend is None else 0.0002)
        await ticker
        await self._flush()
        elapsed = loop.time() - started
        if self.backend is not None:
            self.backend.close()
        return {
            "rows/s": self.rows / elapsed,
            "lag p50 ms": 1e3 * percentile(self.lags, 50),
            "lag p99 ms": 1e3 * percentile(self.lags, 99),
            "lag max ms": 1e3 * max(self.lags),
            "commit p50 ms": 1e3 * percentile(self.commits, 50),
            "commit max ms": 1e3 * max(self.commits, default=0.0),
        }

    def _apply(self) -> None:
        """Entries of ten rows: as many as the rate asks for, for half a millisecond at most."""
        backend = self.backend
        if backend is None:
            return
        now = time.perf_counter
        turn_ends = now() + TURN_SECONDS
        due = (asyncio.get_running_loop().time() - self._started) * self.options.rows_per_second
        while not backend.blocked() and now() < turn_ends:
            if self.saturated and self.rows >= due:
                return
            for _ in range(ROWS_PER_ENTRY):
                self.rows += 1
                backend.put(KEY, self.rows.to_bytes(17, "big"), self.value)
            if self.load == "compacting" and self.rows > KEPT_ROWS:
                first = self.rows - KEPT_ROWS
                dead = range(first, first + ROWS_PER_ENTRY)
                backend.delete_many(KEY, [number.to_bytes(17, "big") for number in dead])
            backend.end_entries(self.rows, 1)

    def _work(self) -> None:
        """Half a turn of Python as a request costs it: small objects, dicts, bytes."""
        turn_ends = time.perf_counter() + TURN_SECONDS
        while time.perf_counter() < turn_ends:
            fields = {name: name.encode() for name in ("key", "value", "lease", "range_end")}
            b"".join(fields.values()).partition(b"e")

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while (due := loop.time() + TICK_SECONDS) < self._deadline:
            await asyncio.sleep(TICK_SECONDS)
            self.lags.append(loop.time() - due)

    async def _flush(self) -> None:
        if self.backend is None:
            return
        done = asyncio.get_running_loop().create_future()
        self.backend.force_commit(lambda: done.set_result(None))
        await done


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else 0.0


def one(options: argparse.Namespace, writer: Any, load: str) -> dict[str, float]:
    """A fresh database, one run. `writer` None: the loop alone, for comparison."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = Run(options, load)
        with mock.patch.object(lmdb_backend, "Writer", writer or Writer):
            return asyncio.run(run.measure(Path(folder), write=writer is not None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rows-per-second", type=int, default=8000)
    parser.add_argument("--row-bytes", type=int, default=300)
    parser.add_argument("--folder", default=None, help="where the databases go (a real disk)")
    options = parser.parse_args()
    print(
        f"# CPython {platform.python_version()}, py-lmdb {lmdb.__version__},"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},"
        f" switch interval {sys.getswitchinterval() * 1e3:g} ms"
    )
    print(
        f"# {options.seconds:g} s each, rows of {options.row_bytes} bytes,"
        f" {options.rows_per_second} rows/s asked of the saturated loop"
    )
    writers = {"none": None, "thread": Writer, "process": ProcessWriter}
    header_written = False
    for load in LOADS:
        for name, writer in writers.items():
            result = one(options, writer, load)
            if not header_written:
                print(f"{'loop':<10} {'writer':<8} " + " ".join(f"{key:>14}" for key in result))
                header_written = True
            numbers = " ".join(f"{value:>14.2f}" for value in result.values())
            print(f"{load:<10} {name:<8} {numbers}")


if __name__ == "__main__":
    main()
