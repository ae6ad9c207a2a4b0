"""Everything at once, on a real loop: entries, views and copies in pool threads, defragmentation.

What can go wrong here kills the interpreter rather than fail an assertion, so it runs in this
process and for a while.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from mvcc.backend import KEY, META
from mvcc.errors import SnapshotExpired
from mvcc.generations import check
from mvcc.lmdb_backend import LmdbBackend

SECONDS = 4.0
KEPT = 300
END = b"\xff" * 24


def row(number: int) -> bytes:
    return number.to_bytes(17, "big")


def read_view(backend: LmdbBackend, view: object) -> int:
    """Revisions in a view are one run of numbers, at most KEPT of them; how many there were."""
    total = 0
    for _ in range(20):
        try:
            rows = view.range(KEY, b"", END, 0)  # type: ignore[attr-defined]
        except SnapshotExpired:
            return total
        numbers = [int.from_bytes(key, "big") for key, _ in rows]
        assert not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len(numbers) <= KEPT + 1
        total += len(numbers)
    view.close()  # type: ignore[attr-defined]
    return total


def take_copy(backend: LmdbBackend) -> int:
    copy = backend.open_copy()
    assert check(copy.path) == []
    copy.close()
    return copy.index


@pytest.mark.slow
async def test_everything_at_once(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    fatal: list[Exception] = []
    choose = random.Random(7)
    backend = LmdbBackend(
        tmp_path,
        map_size=256 << 20,
        post=loop.call_soon_threadsafe,
        clock=loop.time,
        batch_seconds=0.002,
        batch_ops=50,
        on_fatal=fatal.append,
    )
    ends = loop.time() + SECONDS
    read = copied = rebuilt = 0

    async def apply() -> None:
        index = 0
        while loop.time() < ends or index == 0:
            if not backend.blocked():
                index += 1
                backend.put(KEY, row(index), b"x" * choose.randrange(3000))
                if index > KEPT:
                    backend.delete(KEY, row(index - KEPT))
                backend.put(META, b"last", row(index))
                backend.end_entries(index, 1)
                assert backend.get(META, b"last") == row(index)
                assert backend.get(KEY, row(max(1, index - KEPT + 1))) is not None
            backend.poll()
            await asyncio.sleep(0)

    async def view() -> None:
        nonlocal read
        while loop.time() < ends:
            frozen = backend.snapshot()
            reading = loop.run_in_executor(None, read_view, backend, frozen)
            if choose.random() < 0.5:
                await asyncio.sleep(0.002)
                frozen.cancel(61.0)
            read += await reading

    async def copy() -> None:
        nonlocal copied
        await asyncio.sleep(0.1)
        while loop.time() < ends:
            copied = await loop.run_in_executor(None, take_copy, backend)

    async def defragment() -> None:
        nonlocal rebuilt
        while loop.time() < ends:
            done = loop.create_future()
            backend.defragment(done.set_result)
            assert await done is None
            rebuilt += 1
            await asyncio.sleep(0.01)

    await asyncio.gather(apply(), view(), view(), copy(), defragment())
    index = backend.applied()[0]
    await loop.run_in_executor(None, backend.close)
    assert not fatal and read and copied and rebuilt > 3
    again = LmdbBackend(
        tmp_path, map_size=256 << 20, post=loop.call_soon_threadsafe, clock=loop.time
    )
    assert again.applied() == (index, 1)
    rows = again.range(KEY, b"", END, 0)
    assert [int.from_bytes(key, "big") for key, _ in rows] == list(
        range(max(1, index - KEPT + 1), index + 1)
    )
    again.close()
