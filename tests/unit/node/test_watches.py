"""When streams are flushed, history is read and progress told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mvcc.errors import Compacted
from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.watchable_store import WatchOptions
from node import watches as watches_module
from node.watches import PROGRESS_MS, Watches
from tests.unit.node.watch_fixture import WatchBench


class Counter:
    """A listener that only counts."""

    def __init__(self, watches: Watches, size: int = 1) -> None:
        self.full = False
        self.flushes = 0
        self.taken = 0
        self.size = size
        self.subscription = watches.subscribe(self)
        self.subscription.watch(key=b"a")

    def flush(self) -> int:
        self.flushes += 1
        self.taken += len(self.subscription.stream.take())
        return self.size


def put(store: Store, key: bytes = b"a") -> int:
    txn = store.write()
    txn.put(key, b"v")
    return txn.end()


def test_many_writes_of_one_turn_are_one_flush() -> None:
    bench = WatchBench()
    counter = Counter(bench.watches)
    for _ in range(10):
        bench.put(b"a")
    assert len(bench.loop.soon) == 1
    bench.loop.run()
    assert (counter.flushes, counter.taken) == (1, 11)


def test_a_write_that_nobody_watches_schedules_nothing() -> None:
    bench = WatchBench()
    counters = [Counter(bench.watches) for _ in range(5)]
    bench.loop.run()
    bench.put(b"b")
    assert bench.loop.soon == []
    assert [counter.flushes for counter in counters] == [1] * 5


@pytest.mark.parametrize(("streams", "size", "turns"), [(450, 1, 3), (9, 1 << 20, 2)])
def test_a_long_flush_is_cut(streams: int, size: int, turns: int) -> None:
    bench = WatchBench()
    counters = [Counter(bench.watches, size) for _ in range(streams)]
    bench.loop.run()
    bench.put(b"a")
    assert bench.loop.run() == turns
    assert [counter.flushes for counter in counters] == [2] * streams


def test_a_full_one_is_not_taken_and_holds_up_nobody() -> None:
    bench = WatchBench()
    slow, quick = Counter(bench.watches), Counter(bench.watches)
    bench.loop.run()
    slow.full = True
    for _ in range(3):
        bench.put(b"a")
        bench.loop.run()
    assert (slow.flushes, quick.flushes) == (1, 4)
    slow.subscription.resume()
    bench.loop.run()
    assert slow.taken == 1, "it was full when its turn came"
    slow.full = False
    slow.subscription.resume()
    bench.loop.run()
    assert slow.taken == 4


def test_closed_between_its_mark_and_its_flush() -> None:
    bench = WatchBench()
    counter = Counter(bench.watches)
    bench.put(b"a")
    counter.subscription.close()
    bench.loop.run()
    counter.subscription.resume()
    counter.subscription.close()
    assert (counter.flushes, bench.loop.soon) == (0, [])
    assert bench.watches.store.status()[:3] == (0, 0, 0)


def test_when_rights_change_every_stream_is_asked() -> None:
    bench = WatchBench()
    counters = [Counter(bench.watches) for _ in range(3)]
    bench.loop.run()
    bench.watches.sweep()
    assert bench.loop.soon == []
    bench.auth.store.revision += 1
    bench.watches.sweep()
    bench.loop.run()
    bench.watches.sweep()
    assert bench.loop.soon == []
    assert [counter.flushes for counter in counters] == [2] * 3


@contextlib.asynccontextmanager
async def running(store: Store, **options: object) -> AsyncIterator[Watches]:
    watches = Watches(
        store,
        call_soon=asyncio.get_running_loop().call_soon,
        **options,  # type: ignore[arg-type]
    )
    task = asyncio.ensure_future(watches.run())
    try:
        yield watches
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def filled(writes: int) -> Store:
    store = Store(MemoryBackend())
    for _ in range(writes):
        put(store)
    return store


async def test_history_is_read_at_once() -> None:
    async with running(filled(3000)) as watches:
        notices = watches.notices(WatchOptions(b"a", start_rev=1))
        revisions: list[int] = []
        async with asyncio.timeout(5), contextlib.aclosing(notices):  # type: ignore[type-var]
            async for notice in notices:
                revisions += [event.kv.mod_revision for event in notice.events]
                if len(revisions) == 3000:
                    break
        assert revisions == list(range(2, 3002))
        assert watches.store.status()[:2] == (0, 0)


async def test_no_history_is_read_while_a_snapshot_replaces_the_store() -> None:
    store = filled(10)
    paused = True
    async with running(store, paused=lambda: paused) as watches:
        first = asyncio.ensure_future(watches.first(WatchOptions(b"a", start_rev=1)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not first.done()
        assert watches.store.behind
        newer = filled(20)
        paused = False
        watches.attach(newer)
        notice = await asyncio.wait_for(first, 5)
        assert [event.kv.mod_revision for event in notice.events] == list(range(2, 22))


async def test_waiting_for_an_event_after_a_revision() -> None:
    store = filled(3)
    async with running(store) as watches:
        at_once = await watches.first(WatchOptions(b"a", start_rev=3))
        assert [event.kv.mod_revision for event in at_once.events] == [3, 4]
        later = asyncio.ensure_future(watches.first(WatchOptions(b"a", start_rev=5)))
        await asyncio.sleep(0)
        put(store, b"b")
        await asyncio.sleep(0)
        assert not later.done()
        put(store)
        assert (await asyncio.wait_for(later, 5)).revision == 6
        store.compact(5)
        with pytest.raises(Compacted):
            await watches.first(WatchOptions(b"a", start_rev=2))
        with pytest.raises(ValueError, match="range is empty"):
            await watches.first(WatchOptions(b"b", b"a"))
        waiting = asyncio.ensure_future(watches.first(WatchOptions(b"a")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert watches.store.status()[:3] == (0, 0, 0)


async def test_progress_is_told_to_the_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches_module, "PROGRESS_MS_MIN", 1)
    monkeypatch.setattr(watches_module, "PROGRESS_STREAMS", 2)
    store = filled(1)
    async with running(store, progress_ms=1, jitter=0.5) as watches:
        counters = [Counter(watches) for _ in range(5)]
        for counter in counters:
            counter.subscription.watch(key=b"b", progress_notify=True)
        async with asyncio.timeout(5):
            while min(counter.taken for counter in counters) < 5:  # noqa: ASYNC110 (a count)
                await asyncio.sleep(0.001)
        assert all(counter.taken >= 5 for counter in counters)


@pytest.mark.parametrize(("given", "used"), [(0, PROGRESS_MS), (1, 100), (5000, 5000)])
def test_the_interval_of_progress_has_a_floor(given: int, used: int) -> None:
    store = filled(0)
    for jitter in (0, 0.5, 1):
        watches = Watches(store, call_soon=print, progress_ms=given, jitter=jitter)
        assert watches.progress_seconds == pytest.approx(used * (1 + jitter / 10) / 1e3)
