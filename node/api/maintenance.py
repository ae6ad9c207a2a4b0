"""The maintenance service: alarms, status, and the long work on one member's database."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from node.api.messages import (
    DowngradeInfo,
    EmptyMessage,
    HashKvRequest,
    HashKvResponse,
    HashResponse,
    MoveLeaderRequest,
    SnapshotResponse,
    StatusResponse,
)
from node.api.methods import GiveUp
from node.apply.checks import check
from node.apply.errors import DowngradeVersionFormat, DowngradeVersionInvalid
from node.apply.requests import AlarmRequest, DowngradeAction, DowngradeRequest
from node.apply.responses import DowngradeResponse
from node.version import API_VERSION, CLUSTER_VERSION, STORAGE_VERSION

if TYPE_CHECKING:
    from node.apply.requests import Asker
    from node.metrics import Histogram, Metrics
    from node.proposals import Done
    from node.server import Server

Result = TypeVar("Result")

Spawn = Callable[[Coroutine[Any, Any, Any], "Done"], GiveUp]
"""Runs a coroutine in a task that somebody owns; its result or error goes to `done`. Returns how to
cancel it: `done` is not called then.
"""


BLOB_BYTES = 32 << 10
"""What etcd sends in one message of a snapshot."""

_VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8}))?", re.ASCII)

READ_BYTES = 1 << 20
"""Read from disk per hop to a thread."""


class Maintenance:
    """Methods raise the RequestError a request deserves, or call `done` exactly once."""

    def __init__(self, server: Server, spawn: Spawn, metrics: Metrics) -> None:
        self._server = server
        self._spawn = spawn
        self._metrics = metrics

    def alarm(self, request: AlarmRequest, asker: Asker, done: Done) -> None:
        """Through the log even to read: the answer is as of now."""
        check(request)
        self._server.propose(request, done, asker)

    def status(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        now = self._server.status()
        done(
            StatusResponse(
                revision=self._server.store.current_rev,
                version=API_VERSION,
                dbSize=now.db_size,
                leader=now.leader,
                raftIndex=now.raft_index,
                raftTerm=now.raft_term,
                raftAppliedIndex=now.raft_applied_index,
                errors=list(now.errors),
                dbSizeInUse=now.db_size_in_use,
                isLearner=now.is_learner,
                storageVersion=STORAGE_VERSION,
                dbSizeQuota=now.db_size_quota,
                downgradeInfo=DowngradeInfo(bool(now.downgrade), now.downgrade),
            )
        )

    def defragment(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        self._spawn(self._defragment(), done)

    async def _defragment(self) -> EmptyMessage:
        await _timed(self._metrics.defragment, self._server.maintenance.defragment())
        return EmptyMessage()

    def hash(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        self._spawn(self._hash(), done)

    async def _hash(self) -> HashResponse:
        value = await _timed(self._metrics.hash, self._server.maintenance.hash())
        return HashResponse(self._server.store.current_rev, value)

    def hash_kv(self, request: HashKvRequest, asker: Asker, done: Done) -> None:
        self._spawn(self._hash_kv(request.revision), done)

    async def _hash_kv(self, revision: int) -> HashKvResponse:
        value, hash_revision, compact_revision, current = await _timed(
            self._metrics.hash_rev, self._server.maintenance.hash_kv(revision)
        )
        return HashKvResponse(current, value, compact_revision, hash_revision)

    def downgrade(self, request: DowngradeRequest, asker: Asker, done: Done) -> None:
        """Validate, announce or cancel a downgrade to the release before the cluster's."""
        if request.action != DowngradeAction.CANCEL:
            request = DowngradeRequest(request.action, downgrade_target(request.version))

        def applied(result: object) -> None:
            if isinstance(result, DowngradeResponse):
                result.version = CLUSTER_VERSION
            done(result)

        self._server.propose(request, applied, asker)

    def transfer_leadership(self, request: MoveLeaderRequest, asker: Asker, done: Done) -> None:
        self._spawn(self._transfer_leadership(request.targetID), done)

    async def _transfer_leadership(self, target: int) -> EmptyMessage:
        await self._server.maintenance.transfer_leadership(target)
        return EmptyMessage()

    async def snapshot(
        self, _request: EmptyMessage, _asker: Asker
    ) -> AsyncIterator[SnapshotResponse]:
        """A consistent copy of the database, then a message with the SHA-256 of its bytes."""
        copy = await _timed(self._metrics.snapshot, self._server.maintenance.open_copy())
        try:
            async for message in _messages(copy.path, copy.size):
                yield message
        finally:
            copy.close()


def downgrade_target(version: str) -> str:
    """The release that `version` asks for: DowngradeVersionFormat, DowngradeVersionInvalid.

    >>> downgrade_target("3.5.9")
    '3.5.0'
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        raise DowngradeVersionFormat
    major, minor, _ = CLUSTER_VERSION.split(".")
    if (int(found[1]), int(found[2])) != (int(major), int(minor) - 1):
        raise DowngradeVersionInvalid
    return f"{found[1]}.{found[2]}.0"


async def _timed(histogram: Histogram, work: Awaitable[Result]) -> Result:
    """Await `work`, and note how long it took if it succeeded."""
    start = time.monotonic()
    result = await work
    histogram.observe(time.monotonic() - start)
    return result


async def _messages(path: str, size: int) -> AsyncIterator[SnapshotResponse]:
    """The file in messages of `BLOB_BYTES`, read in a pool thread some at a time."""
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()
    remaining = size
    with open(path, "rb") as file:  # noqa: ASYNC230 (opening is quick; reading is not done here)
        while read := await loop.run_in_executor(None, file.read, READ_BYTES):
            digest.update(read)
            for start in range(0, len(read), BLOB_BYTES):
                blob = read[start : start + BLOB_BYTES]
                remaining -= len(blob)
                yield SnapshotResponse(remaining, blob, STORAGE_VERSION)
    yield SnapshotResponse(0, digest.digest(), STORAGE_VERSION)
