"""How long one member's loop stands still, and for which of its long works.

    python -m tests.bench.bench_pauses [keys] [runs]       200,000 keys take about 300 MB of disk

A real store on a real database on a uvloop loop, driven as node.server, node.compactor and
node.maintenance drive it. Meanwhile a heartbeat every millisecond notes how late it comes.

    gap     the longest time between two heartbeats, and the 99th percentile
    own     the longest without the time this thread stood ready in the queue for a processor
            (where Linux tells): what is left is ours, also waits for the interpreter's lock
    cpu     the most processor time that this thread alone took between two heartbeats
    gc      the longest collection, and how many there were

Back of the envelope: an election timeout is 1000 ms and a heartbeat 100, so a pause of 10 ms harms
nobody but the requests that wait in it; at 10,000 requests a second those are 100. Medians over the
runs are printed, and the figures say what the machine did, not what must be: two cores shared with
others show gaps that are nobody's.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import uvloop

from mvcc.hash_kv import HashKV
from mvcc.kv import RangeOptions, SortOrder, SortTarget
from mvcc.lmdb_backend import LmdbBackend
from mvcc.store import Store
from node.api.kv_json import range_slices
from node.apply.responses import RangeResponse
from node.compactor import Compactor
from node.interpreter import GC_THRESHOLDS, settle
from tests.bench.bench_store import environment, names

KEYS = 200_000
RUNS = 3
VALUE = b"v" * 256
BATCH = 100
"""Puts applied in one turn of the loop: what 32 clients or a follower's append bring."""
BEAT_SECONDS = 0.001
TENTH = b"/registry/pods/19"
"""Above a tenth of the keys, which are spread evenly."""
QUEUE = "/proc/thread-self/schedstat"
SWEEP_SECONDS = 0.05
MAP_BYTES = 8 << 30


class Pauses(NamedTuple):
    """One work as the heartbeat saw it; seconds, and milliseconds where it says so."""

    seconds: float
    gap_ms: float
    p99_ms: float
    own_ms: float
    cpu_ms: float
    gc_ms: float
    gc_runs: int


class Queue:
    """How long this thread has waited for a processor, in seconds; always 0 where nobody counts."""

    def __init__(self) -> None:
        exists = os.path.exists(QUEUE)
        self._file = open(QUEUE, "rb", buffering=0) if exists else None  # noqa: SIM115 - see close

    def waited(self) -> float:
        if self._file is None:
            return 0.0
        self._file.seek(0)
        return int(self._file.read(64).split()[1]) / 1e9

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Heart:
    """Beats on the loop until stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gaps: list[float] = []
        self._own = self._cpu = self._gc = self._gc_started = 0.0
        self._gc_runs = 0
        self._queue = Queue()
        self._waited = self._queue.waited()
        self._started = self._beat_at = time.perf_counter()
        self._cpu_at = time.thread_time()
        gc.callbacks.append(self._collected)
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        now, cpu, waited = time.perf_counter(), time.thread_time(), self._queue.waited()
        gap = now - self._beat_at
        self._gaps.append(gap)
        self._own = max(self._own, gap - (waited - self._waited))
        self._cpu = max(self._cpu, cpu - self._cpu_at)
        self._beat_at, self._cpu_at, self._waited = now, cpu, waited
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._gc_started = time.perf_counter()
        else:
            self._gc = max(self._gc, time.perf_counter() - self._gc_started)
            self._gc_runs += 1

    def stop(self) -> Pauses:
        self._timer.cancel()
        self._beat()
        self._timer.cancel()
        self._queue.close()
        gc.callbacks.remove(self._collected)
        gaps = sorted(self._gaps)
        return Pauses(
            time.perf_counter() - self._started,
            gaps[-1] * 1e3,
            gaps[len(gaps) * 99 // 100] * 1e3,
            self._own * 1e3,
            self._cpu * 1e3,
            self._gc * 1e3,
            self._gc_runs,
        )


class Bench:
    """One run: the works in their order, each under a heartbeat."""

    def __init__(self, count: int, directory: str) -> None:
        self.count = count
        self.results: dict[str, Pauses] = {}
        self._loop = loop = asyncio.get_running_loop()
        self._drained = asyncio.Event()
        self.backend = LmdbBackend(
            directory,
            map_size=MAP_BYTES,
            post=loop.call_soon_threadsafe,
            clock=time.monotonic,
            on_drained=self._drained.set,
            on_fatal=loop.call_exception_handler,
        )
        self.store = Store(self.backend)
        self.compactor = Compactor(
            self.backend,
            batch_rows=1000,
            pause_seconds=0.01,
            busy=lambda: False,
            observe=lambda seconds, rows: None,
            hit=lambda name: None,
        )
        self._pool = ThreadPoolExecutor(1)

    async def run(self) -> None:
        tasks = [asyncio.create_task(self.compactor.run()), asyncio.create_task(self._sweep())]
        try:
            await self._under_heartbeat("nothing", lambda: asyncio.sleep(0.3))
            settle()
            for name, work in self._works():
                await self._under_heartbeat(name, work)
        finally:
            for task in tasks:
                task.cancel()
            self._pool.shutdown()
            self.backend.close()

    def _works(self) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
        half = self.count // 2
        yield "load: new keys", lambda: self._put(self.count)
        yield "collect everything", self._collect
        gc.freeze()
        yield "collect, frozen", self._collect
        yield "put: overwrite half", lambda: self._put(half)
        yield "count only, 1,000 times", self._count
        past = self.store.current_rev - half
        by_revision = RangeOptions(sort_target=SortTarget.MOD, sort_order=SortOrder.DESCEND)
        yield "range of everything, JSON", lambda: self._range(RangeOptions())
        yield "range of the past, JSON", lambda: self._range(RangeOptions(revision=past))
        yield "range, newest first, JSON", lambda: self._range(by_revision)
        yield "hash_kv", self._hash
        yield "open_copy", lambda: self._in_pool(lambda: self.backend.open_copy().close())
        yield "compact half the rows", self._compact
        yield "defragment", self._defragment
        yield "restore in steps", self._restore
        yield "free the index replaced", self._dismantle
        yield "delete a tenth, one txn", self._delete

    async def _under_heartbeat(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        heart = Heart()
        await work()
        self.results[name] = heart.stop()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.backend.poll()

    async def _put(self, count: int) -> None:
        for number, name in enumerate(names(count), 1):
            txn = self.store.write()
            txn.put(name, VALUE)
            txn.end()
            if number % BATCH == 0:
                self._end_entries()
                await asyncio.sleep(0)
                while self.backend.blocked():
                    self._drained.clear()
                    await self._drained.wait()
        await self._commit()

    def _end_entries(self) -> None:
        self.backend.end_entries(self.store.current_rev, 1)

    async def _commit(self) -> None:
        self._end_entries()
        await self._called(self.backend.force_commit)

    async def _called(self, start: Callable[[Callable[..., None]], None]) -> None:
        future = self._loop.create_future()
        start(lambda error=None: future.set_exception(error) if error else future.set_result(None))
        await future

    async def _collect(self) -> None:
        gc.collect()

    async def _count(self) -> None:
        for _ in range(1000):
            self.store.range(b"\0", b"\0", RangeOptions(count_only=True))
            await asyncio.sleep(0)

    async def _range(self, options: RangeOptions) -> None:
        found = None
        for found in self.store.range_steps(b"\0", b"\0", options):  # noqa: B007
            await asyncio.sleep(0)
        assert found is not None, "a range without a result"
        response = RangeResponse(found.revision, found.kvs, found.more, found.count)
        for _ in range_slices(b'{"header":{}', response):
            await asyncio.sleep(0)

    async def _hash(self) -> None:
        await self._commit()
        view = self.backend.snapshot("hash")
        steps = self.store.hash_kv(view)

        def last() -> HashKV | None:
            return [result for result in steps if result is not None][-1]

        await self._in_pool(last)
        view.close()

    async def _in_pool(self, work: Callable[[], object]) -> None:
        await self._loop.run_in_executor(self._pool, work)

    async def _compact(self) -> None:
        self.compactor.submit(self.store.compact(self.store.current_rev))
        self._end_entries()
        await self._called(self.compactor.barrier)

    async def _defragment(self) -> None:
        await self._called(self.backend.defragment)

    async def _restore(self) -> None:
        store = Store(self.backend)
        for _ in store.restore():
            await asyncio.sleep(0)
        assert len(store.index.live) == self.count
        self._replaced, self.store = self.store, store

    async def _dismantle(self) -> None:
        for _ in self._replaced.dismantle():
            await asyncio.sleep(0)

    async def _delete(self) -> None:
        """One entry and one revision: it cannot be cut."""
        txn = self.store.write()
        txn.delete_range(b"\0", TENTH)
        txn.end()
        await self._commit()


async def measure(count: int) -> dict[str, Pauses]:
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(count, os.path.join(directory, "backend"))
        await bench.run()
        return bench.results


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else RUNS
    print(f"{environment()}, uvloop {uvloop.__version__}, thresholds {GC_THRESHOLDS}")
    print(f"{count:,} keys of {len(next(names(1)))} bytes, values of {len(VALUE)}, {runs} runs\n")
    seen: dict[str, list[Pauses]] = defaultdict(list)
    for _ in range(runs):
        gc.unfreeze()
        for name, pauses in uvloop.run(measure(count)).items():
            seen[name].append(pauses)
    print(f"{'ms':<28}{'took s':>8}{'gap':>8}{'p99':>8}{'own':>8}{'cpu':>8}{'gc':>8}{'runs':>6}")
    for name, each in seen.items():
        *figures, collections = map(statistics.median, zip(*each, strict=True))
        took, *pauses = figures
        print(f"{name:<28}{took:>8.2f}{''.join(f'{ms:>8.1f}' for ms in pauses)}{collections:>6.0f}")


if __name__ == "__main__":
    main()
