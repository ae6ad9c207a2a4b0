"""What the store costs: puts, memory per key, compaction, restore, and the collector's pauses.

    python -m tests.bench.bench_store [keys]        1 M keys take about 2 GB with this backend

Back of the envelope: 10,000 puts/s applied on each of three nodes of one core leave 33 us per put
and node; the store should take a tenth of that. 1 M keys at 150 bytes + key are 0.2 GB. A
compaction of 100,000 dead rows among 1 M keys should cost what it costs among 100,000 keys. Rows
are kept in the memory backend: the disk is measured elsewhere.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import tracemalloc
from collections.abc import Iterator
from time import perf_counter

from mvcc.kv import RangeOptions
from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.tree_index import TreeIndex

VALUE = b"v" * 100
KEYS = 100_000
SLICE = 1000


class Pauses:
    """The longest run of the cyclic collector."""

    def __init__(self) -> None:
        self.longest = self._start = 0.0
        self.count = 0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._start = perf_counter()
        else:
            self.count += 1
            self.longest = max(self.longest, perf_counter() - self._start)


def environment() -> str:
    load = os.getloadavg()[0]
    return (
        f"CPython {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, load {load:.1f}"
    )


def names(count: int) -> Iterator[bytes]:
    """Spread over the key space as hashes are, the same in every run."""
    return (b"/registry/pods/%016x" % (i * 0x9E3779B97F4A7C15 % 2**64) for i in range(count))


def put_all(store: Store, count: int) -> float:
    """Seconds for one put per key, each its own txn."""
    start = perf_counter()
    for name in names(count):
        txn = store.write()
        txn.put(name, VALUE)
        if txn.end() % SLICE == 0:
            store.backend.end_entries(txn.revision, 1)
            store.backend.force_commit()
    return perf_counter() - start


def index_alone(count: int) -> tuple[float, float]:
    """(bytes per key besides the key's own bytes object, seconds of a full collection)"""
    keys = list(names(count))
    gc.collect()
    tracemalloc.start()
    index = TreeIndex()
    for main, key in enumerate(keys, 1000):
        index.put(key, main, 0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del keys
    start = perf_counter()
    gc.collect()
    return used / count, perf_counter() - start


def compact(store: Store) -> str:
    """What a compaction of everything costs."""
    job, longest, start = store.compact(store.current_rev), 0.0, perf_counter()
    finished = False
    while not finished:
        begin = perf_counter()
        finished = job.step(SLICE)
        longest = max(longest, perf_counter() - begin)
    each = (perf_counter() - start) / job.deleted * 1e6
    return f"{job.deleted:,} dead, {each:.1f} us a row, longest step {longest * 1e3:.1f} ms"


def restore(store: Store) -> tuple[float, float]:
    """(seconds, longest step)"""
    longest, start = 0.0, perf_counter()
    begin = start
    for _ in store.restore():
        longest = max(longest, perf_counter() - begin)
        begin = perf_counter()
    return perf_counter() - start, longest


def row(name: str, text: str) -> None:
    print(f"{name:<28}{text}")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else KEYS
    print(environment())
    row("keys", f"{count:,} of {len(next(names(1)))} bytes, values of {len(VALUE)}")
    used, pause = index_alone(count)
    row("index memory", f"{used:.0f} bytes per key, besides the key")
    row("full collection, index", f"{pause * 1e3:.1f} ms")
    pauses = Pauses()
    store = Store(MemoryBackend())
    for kind in ("new keys", "second version", "third version"):
        took = put_all(store, count)
        row(f"put, {kind}", f"{count / took:,.0f}/s, {took / count * 1e6:.1f} us each")
    row("collector during puts", f"{pauses.count} runs, longest {pauses.longest * 1e3:.0f} ms")
    start = perf_counter()
    for _ in range(1000):
        store.range(b"\0", b"\0", RangeOptions(count_only=True))
    row("count of everything", f"{(perf_counter() - start) * 1e3:.1f} us")
    start = perf_counter()
    for _ in range(100):
        store.range(b"/registry/pods/8", b"\0", RangeOptions(limit=500))
    row("range of 500", f"{(perf_counter() - start) * 1e4:.0f} us")
    row("compact, all changed twice", compact(store))
    put_all(store, SLICE)
    row("compact, few changed", compact(store))
    took, longest = restore(store)
    row("restore", f"{count / took:,.0f} rows/s, longest step {longest * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
