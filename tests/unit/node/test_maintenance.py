"""Long work on the database whose caller went away: nobody else hears of it, nothing is left."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvcc.backend import META
from mvcc.errors import BackendFailed
from mvcc.lmdb_backend import LmdbBackend
from mvcc.lmdb_view import VIEWS_MAX
from node.api.errors import UNKNOWN, refusal
from node.apply.errors import NoCopy
from node.maintenance import Maintenance


class Bench:
    """A backend, and the maintenance of a server that has nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.copying, self.may_copy = asyncio.Event(), threading.Event()
        self._loop = loop = asyncio.get_running_loop()
        self.backend = LmdbBackend(
            path,
            map_size=1 << 24,
            post=loop.call_soon_threadsafe,
            clock=time.monotonic,
            hit=self._hit,
        )
        server: Any = SimpleNamespace(backend=self.backend)
        self.maintenance = Maintenance(server)

    def _hit(self, name: str) -> None:
        if name == "snapshot.before_copy":
            self._loop.call_soon_threadsafe(self.copying.set)
            assert self.may_copy.wait(10), "nobody lets the copy go on"

    def write(self, index: int) -> None:
        self.backend.put(META, b"row", b"%d" % index)
        self.backend.end_entries(index, 1)

    async def commit(self) -> None:
        committed = asyncio.Event()
        self.backend.force_commit(committed.set)
        await committed.wait()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.backend.close()


async def test_abandoned_hash_leaves_the_commit_to_others(bench: Bench) -> None:
    bench.write(1)
    asking = asyncio.create_task(bench.maintenance.hash())
    await asyncio.sleep(0)
    asking.cancel()
    await bench.commit()
    assert bench.backend.info().readers == []
    assert asking.cancelled()


async def test_hash_without_a_free_view_is_refused(bench: Bench) -> None:
    bench.write(1)
    views = [bench.backend.snapshot() for _ in range(VIEWS_MAX)]
    asking = asyncio.create_task(bench.maintenance.hash())
    await asyncio.sleep(0)
    await bench.commit()
    with pytest.raises(BackendFailed):
        await asking
    for view in views:
        view.close()


async def test_copy_of_a_client_that_left_is_removed(bench: Bench) -> None:
    bench.write(1)
    asking = asyncio.create_task(bench.maintenance.open_copy())
    await bench.copying.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    bench.may_copy.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    await asyncio.sleep(0)
    assert list(bench.path.glob("*.tmp")) == []


async def test_who_wants_a_copy_hears_what_the_disk_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write(1)
    bench.may_copy.set()
    full = OSError(errno.ENOSPC, "No space left on device", str(bench.path))

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr("mvcc.lmdb_writer.copy_compact", refuse)
    with pytest.raises(NoCopy, match="No space left on device"):
        await bench.maintenance.defragment()
    monkeypatch.setattr(bench.backend, "open_copy", refuse)
    with pytest.raises(NoCopy, match="No space left on device"):
        await bench.maintenance.open_copy()
    assert refusal(NoCopy("why")) == (UNKNOWN, "etcdserver: why")


class Store:
    """Knows what it was asked to hash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.compact_rev = 1

    def check_revision(self, revision: int) -> int:
        return revision

    def hash_kv(self, view: object, at: int) -> Iterator[str]:
        yield f"{self.name} at {at}"


async def test_history_is_not_hashed_while_a_snapshot_replaces_it(bench: Bench) -> None:
    """The rows are the new ones already, the store and its compact revision still the old."""
    bench.write(1)
    server: Any = bench.maintenance._server
    server.installing, server.store = True, Store("old")
    rounds = 0
    force_commit = server.backend.force_commit

    def counted(done: Callable[[], None]) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            server.installing, server.store = False, Store("new")
        force_commit(done)

    server.backend.force_commit = counted
    found: Any = await asyncio.wait_for(bench.maintenance.hash_kv(5), 5)
    assert found == "new at 5"
    assert bench.backend.info().readers == []
