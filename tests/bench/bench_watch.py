"""What watches cost a write, a delivery, and a catch-up.

    python -m tests.bench.bench_watch [watchers]

Back of the envelope: a put costs the store about 10 us. Whoever does not match must add nothing to
that: a lookup per kind of range, about 1 us in all, with 10,000 watchers as with one. One who does
match adds a response in a queue, about 1 us; 1000 watchers of one key are then 1 ms a put, and
their events exist once. History is read at about 3 us a row, so a watcher 100,000 revisions behind
takes 0.3 s in slices of 2 to 3 ms. Rows are in the memory backend: no disk is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter

from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.watchable_store import WatchableStore, WatchOptions, WatchStream
from mvcc.watcher import prefix_end
from tests.bench.bench_store import VALUE, environment, row

WATCHERS = 10_000
PUTS = 10_000
ROUNDS = 5
KEY = b"/registry/pods/default/web-0"


class Rig:
    def __init__(self) -> None:
        self.store = Store(MemoryBackend())
        self.watches = WatchableStore(self.store)
        self.streams: list[WatchStream] = []

    def watch(self, count: int, options: Callable[[int], WatchOptions]) -> None:
        """100 watchers a stream, as they might come."""
        for number in range(count):
            if number % 100 == 0:
                self.streams.append(self.watches.open(lambda stream: None))
            self.streams[-1].watch(options(number))
        self.take()

    def take(self) -> int:
        return sum(len(stream.take()) for stream in self.streams)

    def puts(self, count: int) -> float:
        """us each"""
        start = perf_counter()
        for _ in range(count):
            txn = self.store.write()
            txn.put(KEY, VALUE)
            txn.end()
        return (perf_counter() - start) / count * 1e6


def key_elsewhere(number: int) -> WatchOptions:
    return WatchOptions(b"/registry/secrets/%05d" % number)


def prefix_elsewhere(number: int) -> WatchOptions:
    prefix = b"/registry/secrets/%05d/" % number
    return WatchOptions(prefix, prefix_end(prefix))


def range_elsewhere(number: int) -> WatchOptions:
    """Each reaches over the next ten, as no prefix does."""
    return WatchOptions(
        b"/registry/secrets/%05d" % number, b"/registry/secrets/%05d" % (number + 10)
    )


def not_matching(count: int) -> None:
    kinds = {
        "watchers": None,
        "key elsewhere": (1, key_elsewhere),
        "keys elsewhere": (count, key_elsewhere),
        "prefixes elsewhere": (count, prefix_elsewhere),
        "ranges elsewhere": (count, range_elsewhere),
    }
    rigs = {}
    for name, kind in kinds.items():
        rigs[name] = rig = Rig()
        if kind is not None:
            rig.watch(*kind)
    best = dict.fromkeys(kinds, float("inf"))
    for _ in range(ROUNDS):
        for name, rig in rigs.items():
            best[name] = min(best[name], rig.puts(PUTS))
    for name, us in best.items():
        kind = kinds[name]
        row(f"{kind[0] if kind else 0:,} {name}", f"{us:.1f} us a put")


def matching(count: int) -> None:
    rig = Rig()
    rig.watch(count, lambda number: WatchOptions(KEY))
    seconds, heard, puts = 0.0, 0, 20
    for _ in range(puts):
        seconds += rig.puts(1) / 1e6
        heard += rig.take()
    assert heard == count * puts, heard
    row(f"{count:,} of the key", f"{seconds / heard * 1e6:.2f} us a put for each of them")


def catching_up(revisions: int) -> None:
    rig = Rig()
    rig.puts(revisions)
    for count in (1, 500):
        rig.watch(count, lambda number: WatchOptions(KEY, start_rev=1))
        longest, slices, start = 0.0, 0, perf_counter()
        while rig.watches.behind:
            begin = perf_counter()
            rig.watches.catch_up()
            longest = max(longest, perf_counter() - begin)
            slices += 1
            rig.take()
        took = perf_counter() - start
        row(
            f"{count} over {revisions:,}",
            f"{took / revisions * 1e6:.1f} us a revision, {slices} slices, "
            f"longest {longest * 1e3:.1f} ms",
        )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else WATCHERS
    print(environment())
    not_matching(count)
    matching(1000)
    catching_up(50_000)


if __name__ == "__main__":
    main()
