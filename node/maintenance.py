"""What operators ask one member to do with its database: defragment, hash, stream it, and hand
over its leadership.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import lmdb

from mvcc.backend import META, TABLES
from mvcc.errors import BackendFailed, CorruptionError
from mvcc.hash_kv import HashKV
from mvcc.lmdb_view import Copy, View
from node.apply import errors
from node.waiting import answer_of, end_of

if TYPE_CHECKING:
    from node.server import Server

log = logging.getLogger("esker.maintenance")

HASHES_MAX = 2
"""Hashes at a time; others wait. Each holds a view, and there is not one for everybody."""
COPIES_MAX = 4
"""Copies of the database for clients, made or not yet sent: each takes its size on the disk."""
_HASH_ROWS = 1000
_POLL_SECONDS = 0.01
_OWN_META = (b"consistentIndex", b"confState")
"""Rows that say how far this member is, not what the data are: left out of the hash of the whole
database.
"""


class Maintenance:
    """Long work on one member; none of it stops the loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._hashing = asyncio.Semaphore(HASHES_MAX)
        self._copying = 0
        self._copies: list[Copy] = []

    async def defragment(self) -> None:
        """Copy the live pages to a new file and swap it in; requests go on meanwhile. NoCopy."""
        backend = self._server.backend
        before = backend.size().size
        with _no_copy():
            await answer_of(backend.defragment)
        log.info("defragmented", extra={"before": before, "after": backend.size().size})

    async def hash_kv(self, revision: int) -> HashKV:
        """Hash of the history up to `revision` (0: now), comparable between members of equal
        compact revision.
        """
        async with self._hashing:
            return await self._hash_kv(revision)

    async def _hash_kv(self, revision: int) -> HashKV:
        server = self._server
        while True:
            store = server.store
            at = store.check_revision(revision)
            compacted = store.compact_rev
            view = await self._view_of_now()
            # The view may be later than `at`; what counts is that no compaction came between, and
            # that it is of this store: an installation replaces the rows first.
            replaced = server.installing or server.store is not store
            if store.compact_rev == compacted and not replaced:
                break
            view.close()
        try:
            steps = store.hash_kv(view, at)
            return await self._loop.run_in_executor(None, _last, steps)
        finally:
            view.close()

    async def _view_of_now(self) -> View:
        """A view that holds everything applied so far, and perhaps a little more."""
        backend = self._server.backend
        await end_of(backend.force_commit)
        return backend.snapshot("hash")

    async def hash(self) -> int:
        """CRC-32 over every table as last committed: for tests, not for comparing members under
        load.
        """
        async with self._hashing:
            view = await self._view_of_now()
            try:
                return await self._loop.run_in_executor(None, _hash_tables, view)
            finally:
                view.close()

    async def open_copy(self) -> Copy:
        """A compacted copy of the database as of now, for a stream to a client, who closes it.
        TooManyRequests while COPIES_MAX are there; NoCopy.
        """
        backend = self._server.backend
        await end_of(backend.force_commit)
        self._copies = [copy for copy in self._copies if not copy.closed]
        if self._copying + len(self._copies) >= COPIES_MAX:
            raise errors.TooManyRequests
        self._copying += 1
        copying = self._loop.run_in_executor(None, backend.open_copy)
        copying.add_done_callback(self._copied)
        try:
            with _no_copy():
                return await asyncio.shield(copying)
        except asyncio.CancelledError:
            # The client has left, but the pool's thread goes on: nobody else would remove the file.
            copying.add_done_callback(_close_unwanted)
            raise

    def _copied(self, copying: asyncio.Future[Copy]) -> None:
        self._copying -= 1
        if not copying.cancelled() and copying.exception() is None:
            self._copies.append(copying.result())

    async def transfer_leadership(self, target: int) -> None:
        """Hand over to the voter `target`: NotLeader, BadLeaderTransferee, TransferTimedOut."""
        server = self._server
        if not server.is_leader:
            raise errors.NotLeader()
        if not server.members.is_voter(target):
            raise errors.BadLeaderTransferee()
        if target == server.member_id:
            return
        server.driver.transfer_leader(target)
        deadline = self._loop.time() + server.request_timeout
        while server.leader != target:
            if self._loop.time() > deadline:
                raise errors.TransferTimedOut()
            await asyncio.sleep(_POLL_SECONDS)


@contextmanager
def _no_copy() -> Iterator[None]:
    """Whoever asked for a copy hears what the disk said."""
    try:
        yield
    except (OSError, lmdb.Error, BackendFailed, CorruptionError) as error:
        log.warning("no copy of the database", extra={"why": str(error)})
        raise errors.NoCopy(str(error)) from error


def _close_unwanted(copying: asyncio.Future[Copy]) -> None:
    if not copying.cancelled() and copying.exception() is None:
        copying.result().close()


def _last(steps: Iterator[HashKV | None]) -> HashKV:
    """Drive the resumable hash to its end; runs in a pool thread."""
    result = None
    for result in steps:  # noqa: B007
        pass
    assert result is not None
    return result


def _hash_tables(view: View) -> int:
    crc = 0
    for table in TABLES:
        start = b"\x00"
        crc = zlib.crc32(table.encode(), crc)
        while rows := view.range(table, start, b"\xff" * 32, _HASH_ROWS):
            for key, value in rows:
                if table != META or key not in _OWN_META:
                    crc = zlib.crc32(value, zlib.crc32(key, crc))
            start = rows[-1][0] + b"\x00"
    return crc
