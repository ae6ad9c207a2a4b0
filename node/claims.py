"""Claims: keys that queue under a prefix, which is what locks and elections are.

    lock "m"        m/1f42 (created at 7)  <- holds it: the oldest
                    m/1f43 (created at 9)  <- waits until every older key is gone

A key is the prefix and its lease in hexadecimal, so a lease claims once, and a claim ends with its
lease. It all runs on the ordinary transactions, leases and watches of this member, with the rights
of whoever asked, as they are at each step: what happens here any client could have done by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from mvcc.errors import Compacted
from mvcc.kv import EventType, KeyValue, SortOrder, SortTarget
from mvcc.watchable_store import WatchOptions
from node.apply import errors
from node.apply.checks import check
from node.apply.requests import (
    CLUSTER,
    Asker,
    Compare,
    CompareTarget,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.apply.responses import RangeResponse, TxnResponse
from node.apply.schema import INT64_MAX

if TYPE_CHECKING:
    from node.server import Server

log = logging.getLogger("esker.claims")

OWN_LEASE_SECONDS = 60
"""TTL of the lease that a claim without one gets. Nobody renews it."""


class Claim(NamedTuple):
    """A key in the queue of its prefix. `rev` is its create revision and its place in the queue.

    `revision` is for the answer's header.
    """

    key: bytes
    rev: int
    lease: int
    revision: int


class Claims:
    """Locks and elections on one member."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waits: set[asyncio.Timeout] = set()
        self._stopping = False

    def stop(self) -> None:
        """The member stops: whoever waits, or would have to, hears StoppedWaiting. Their claims are
        withdrawn as if they had left, which takes raft some turns more.
        """
        self._stopping = True
        for wait in self._waits:
            wait.reschedule(0.0)

    # -- locks

    async def lock(self, name: bytes, lease: int, asker: Asker) -> Claim:
        """Wait until `name` is ours. The claim is withdrawn when the caller is cancelled.

        ClaimFailed when the lease ends first; StoppedWaiting when the member stops.
        """
        turn = await self._claim(name, lease, b"", asker)
        if turn.first:
            return turn.claim
        return turn.claim._replace(revision=await self._wait_turn(turn, asker))

    async def unlock(self, key: bytes, asker: Asker) -> int:
        """Delete the claim; the header's revision. A missing one is fine."""
        server = self._server
        request = DeleteRangeRequest(key)
        if not key:
            raise errors.KeyNotProvided
        response = await server.call(server.propose, request, asker)
        return int(response.revision)

    # -- elections

    async def campaign(self, name: bytes, lease: int, value: bytes, asker: Asker) -> Claim:
        """Wait until we lead `name`, with `value` for all to see. Withdrawn as a lock is."""
        turn = await self._claim(name, lease, value, asker)
        if turn.value != value:
            await self.proclaim(turn.claim.key, turn.claim.rev, turn.claim.lease, value, asker)
        if not turn.first:
            await self._wait_turn(turn, asker)
        return turn.claim

    async def proclaim(self, key: bytes, rev: int, lease: int, value: bytes, asker: Asker) -> int:
        """Put a new value under a claim that still stands; the revision. ClaimFailed."""
        put = RequestOp(request_put=PutRequest(key, value, lease))
        response = await self._txn(_while_claimed(key, rev, put), asker)
        if not response.succeeded:
            raise errors.ClaimFailed("election: not leader")
        return response.revision

    async def resign(self, key: bytes, rev: int, asker: Asker) -> int:
        """Delete the claim if it still stands; the revision."""
        response = await self._txn(_while_claimed(key, rev, _deletion(key)), asker)
        return response.revision

    async def leader(self, name: bytes, asker: Asker) -> tuple[int, KeyValue]:
        """(revision, the oldest key of the election). ClaimFailed when there is none."""
        found = await self._oldest(_prefix(name), asker)
        if not found.kvs:
            raise errors.ClaimFailed("election: no leader")
        return found.revision, found.kvs[0]

    async def observe(self, name: bytes, asker: Asker) -> AsyncIterator[tuple[int, KeyValue]]:
        """The present leader, or the first to come, then every value and leader after it.

        A leader's values are all seen; of leaders that came and went within one look only the last.
        """
        prefix = _prefix(name)
        while True:
            found = await self._oldest(prefix, asker)
            if not found.kvs:
                await self._news(WatchOptions(prefix, _end(prefix), found.revision + 1))
                continue
            leader = found.kvs[0]
            yield found.revision, leader
            async for kv in self._values(leader, found.revision, asker):
                yield kv.mod_revision, kv

    async def _values(
        self, leader: KeyValue, revision: int, asker: Asker
    ) -> AsyncIterator[KeyValue]:
        """What is put under the leader's key after `revision`, until that is deleted or history is
        compacted faster than it is read.
        """
        notices = self._server.watches.notices(WatchOptions(leader.key, start_rev=revision + 1))
        with suppress(Compacted):
            while True:
                async with self._until_stopped():
                    notice = await anext(notices)
                self._server.auth.check_range(asker, leader.key, b"")
                for event in notice.events:
                    if event.type == EventType.DELETE:
                        await notices.aclose()
                        return
                    yield event.kv

    # -- the queue

    async def _claim(self, name: bytes, lease: int, value: bytes, asker: Asker) -> _Turn:
        """Stand in the queue; whoever stands there already with this lease keeps the place."""
        server = self._server
        own_lease = lease == 0
        if own_lease:
            lease = server.request_id() & INT64_MAX
            await server.call(server.propose, LeaseGrantRequest(OWN_LEASE_SECONDS, lease), asker)
        prefix = _prefix(name)
        key = prefix + b"%x" % lease
        absent = Compare(target=CompareTarget.CREATE, key=key)
        there = RequestOp(request_range=RangeRequest(key))
        oldest = RequestOp(request_range=_oldest(prefix))
        put = RequestOp(request_put=PutRequest(key, value, lease))
        request = TxnRequest([absent], [put, oldest], [there, oldest])
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def withdraw(result: object) -> None:
            if isinstance(result, TxnResponse) and result.succeeded:
                self._withdraw(Claim(key, result.revision, lease, 0), own_lease)

        def done(result: object) -> None:
            # A task hears a turn later that it is cancelled; the answer may come in between.
            if future.cancelled():
                withdraw(result)
            else:
                future.set_result(result)

        server.txn(request, done, asker)
        try:
            response = await future
        except asyncio.CancelledError:
            if not future.cancelled():
                withdraw(future.result())
            raise
        if isinstance(response, Exception):
            raise response
        assert isinstance(response, TxnResponse), response
        return _turn(prefix, key, lease, value, response, own_lease=own_lease)

    async def _wait_turn(self, turn: _Turn, asker: Asker) -> int:
        """Until every older key is gone; the revision at which that was seen. ClaimFailed when our
        own is gone before.
        """
        claim = turn.claim
        older_key = RequestOp(request_range=_newest_before(turn.prefix, claim.rev))
        own_key = RequestOp(request_range=RangeRequest(claim.key))
        try:
            while True:
                found = await self._txn(TxnRequest([], [older_key, own_key]), asker)
                older, own = found.responses
                assert isinstance(older, RangeResponse), older
                assert isinstance(own, RangeResponse), own
                if not own.kvs or own.kvs[0].create_revision != claim.rev:
                    raise errors.ClaimFailed("mutex: session is expired")
                if not older.kvs:
                    return found.revision
                after = found.revision + 1
                await self._news(
                    WatchOptions(older.kvs[0].key, start_rev=after, no_put=True),
                    WatchOptions(claim.key, start_rev=after, no_put=True),
                )
        except BaseException:
            # The client has left, or its place cannot be waited for: nobody shall wait behind it.
            if turn.ours:
                self._withdraw(claim, turn.own_lease)
            raise

    def _withdraw(self, claim: Claim, own_lease: bool) -> None:
        """Give up a claim, and the lease if it was made for it. Nobody waits for the answer; should
        it be lost, the lease ends the claim.
        """

        def done(result: object) -> None:
            if isinstance(result, Exception):
                log.info("a claim was left to its lease", extra={"why": repr(result)})

        # Not with the rights of whoever asked: that these have ended may be the reason.
        if own_lease:
            self._server.propose(LeaseRevokeRequest(claim.lease), done, CLUSTER)
        else:
            deletion = _while_claimed(claim.key, claim.rev, _deletion(claim.key))
            self._server.propose(deletion, done, CLUSTER)

    # -- what any client could ask

    async def _oldest(self, prefix: bytes, asker: Asker) -> RangeResponse:
        return await self._range(_oldest(prefix), asker)

    async def _range(self, request: RangeRequest, asker: Asker) -> RangeResponse:
        server = self._server
        response: RangeResponse = await server.call(server.range, request, asker)
        return response

    async def _txn(self, request: TxnRequest, asker: Asker) -> TxnResponse:
        server = self._server
        check(request)
        response: TxnResponse = await server.call(server.txn, request, asker)
        return response

    async def _news(self, *watchers: WatchOptions) -> None:
        """Until something happens to what is watched, or history there is gone: look again."""
        async with self._until_stopped():
            with suppress(Compacted):
                await self._server.watches.first(*watchers)

    @asynccontextmanager
    async def _until_stopped(self) -> AsyncIterator[None]:
        """What waits in here hears StoppedWaiting once the member stops."""
        try:
            # Without a limit: `stop` sets it, and a client that leaves meanwhile stays cancelled.
            async with asyncio.timeout(0.0 if self._stopping else None) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            raise errors.StoppedWaiting from None


class _Turn(NamedTuple):
    """Where a claim stands: `first` of its queue or not; `value` is what it shows.

    `ours`: this request put the key, and withdraws it when it gives up; not so when it was there
    already, put by an earlier request with the same lease.
    """

    prefix: bytes
    claim: Claim
    value: bytes
    first: bool
    ours: bool
    own_lease: bool


def _turn(
    prefix: bytes, key: bytes, lease: int, value: bytes, response: TxnResponse, *, own_lease: bool
) -> _Turn:
    there, oldest = response.responses
    assert isinstance(oldest, RangeResponse), oldest
    rev = response.revision
    if not response.succeeded:
        assert isinstance(there, RangeResponse), there
        rev, value = there.kvs[0].create_revision, there.kvs[0].value
    first = oldest.kvs[0].create_revision == rev
    claim = Claim(key, rev, lease, response.revision)
    return _Turn(prefix, claim, value, first, response.succeeded, own_lease)


def _prefix(name: bytes) -> bytes:
    return name + b"/"


def _end(prefix: bytes) -> bytes:
    """Just above every key that begins with `prefix`, which ends with a slash."""
    return prefix[:-1] + b"0"


def _oldest(prefix: bytes) -> RangeRequest:
    return RangeRequest(
        prefix, _end(prefix), 1, sort_order=SortOrder.ASCEND, sort_target=SortTarget.CREATE
    )


def _newest_before(prefix: bytes, rev: int) -> RangeRequest:
    return RangeRequest(
        prefix,
        _end(prefix),
        1,
        sort_order=SortOrder.DESCEND,
        sort_target=SortTarget.CREATE,
        max_create_revision=rev - 1,
        keys_only=True,
    )


def _deletion(key: bytes) -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key))


def _while_claimed(key: bytes, rev: int, op: RequestOp) -> TxnRequest:
    """`op`, if the claim still stands."""
    stands = Compare(target=CompareTarget.CREATE, key=key, create_revision=rev)
    return TxnRequest([stands], [op])
