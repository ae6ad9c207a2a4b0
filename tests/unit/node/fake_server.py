"""A server for the API's tests: a dict without history, one revision counter, answers now or when
told.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import KeyValue
from mvcc.store import Counts
from mvcc.watchable_store import WatchStatus
from node.apply.checks import in_range
from node.apply.errors import LeaseExists, LeaseNotFound, NoSpace
from node.apply.requests import (
    AlarmAction,
    AlarmRequest,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
)
from node.apply.responses import (
    Alarm,
    AlarmResponse,
    CompactionResponse,
    DeleteRangeResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    Member,
    PutResponse,
    RangeResponse,
    TxnResponse,
)
from node.leases import TimeLeft
from node.waiting import answer_of
from raft.peer_stream import PeerCounters


@dataclass
class FakeConfig:
    max_request_bytes: int = 1_572_864
    max_txn_ops: int = 128
    election_timeout: int = 1000
    cors: tuple[str, ...] = ("*",)
    host_whitelist: tuple[str, ...] = ("*",)


class FakeStore:
    """Live keys only."""

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyValue] = {}
        self.current_rev = 1
        self.compact_rev = -1
        self.counts = Counts()

    def status(self) -> Any:
        return SimpleNamespace(
            current_rev=self.current_rev, compact_rev=self.compact_rev, keys=len(self.keys)
        )


class FakeLessor:
    def __init__(self) -> None:
        self.granted: dict[int, int] = {}
        self.granted_total = self.revoked_total = 0

    def leases(self) -> list[int]:
        return sorted(self.granted)

    def exists(self, number: int) -> bool:
        return number in self.granted

    def keys_of(self, number: int) -> list[bytes]:
        return [b"a", b"b"]


class FakeLeases:
    """A leader's clock, one second after each grant; `away`: another member's clock counts."""

    def __init__(self, lessor: FakeLessor) -> None:
        self._lessor = lessor
        self.away = False
        self.renewed_total = self.expired_total = 0
        self.asked: list[list[int]] = []
        self.answer: asyncio.Future[list[int]] | None = None

    def time_left_now(self, number: int) -> TimeLeft | None:
        return None if self.away else self._left(number)

    async def time_left(self, number: int) -> TimeLeft:
        return self._left(number)

    def _left(self, number: int) -> TimeLeft:
        granted = self._lessor.granted.get(number)
        return TimeLeft(-1) if granted is None else TimeLeft(granted - 1, granted)

    def soonest_first(self) -> list[int]:
        return self._lessor.leases()

    def renew_now(self, number: int) -> int | None:
        return None if self.away else self._lessor.granted.get(number, 0)

    async def renew(self, numbers: list[int]) -> list[int]:
        self.asked.append(list(numbers))
        if self.answer is not None:
            return await self.answer
        return [self._lessor.granted.get(number, 0) for number in numbers]


class FakeAlarms:
    def __init__(self) -> None:
        self.raised: list[Alarm] = []

    def get(self, alarm: int = 0) -> list[Alarm]:
        return [a for a in self.raised if alarm in (0, a.alarm)]


@dataclass
class FakeServer:
    """`held` collects (request, done) of everything asked while `hold` is set; `release` answers in
    order.
    """

    config: FakeConfig = field(default_factory=FakeConfig)
    hold: bool = False
    failure: Exception | None = None
    unreadable: Exception | None = None

    def __post_init__(self) -> None:
        self.cluster_id, self.member_id, self.raft_term, self.leader = 17, 2**63 + 5, 3, 2**63 + 5
        self.is_leader, self.is_learner, self.leaderless = True, False, False
        self.store, self.lessor, self.alarms = FakeStore(), FakeLessor(), FakeAlarms()
        self.leases = FakeLeases(self.lessor)
        self.members = SimpleNamespace(
            list=lambda: [
                Member(7, peerURLs=["http://b:1"], isLearner=True),
                Member(2**63 + 5, "one", ["http://a:1"], ["http://a:2"]),
            ]
        )
        self.backend = SimpleNamespace(
            size=lambda: SimpleNamespace(size=8192, in_use=4096),
            info=lambda: SimpleNamespace(readers=[], rebuilding="defrag"),
        )
        self.transport = SimpleNamespace(
            counters={
                0xA: PeerCounters(sent_bytes=100, received_bytes=50),
                0xB: PeerCounters(1, 60, dropped_messages=3, connections_lost=2),
            },
            active_since=lambda member: 5.0 if member == 0xA else None,
        )
        self.driver = SimpleNamespace(commit_index=12, counters=SimpleNamespace(late_ticks=4))
        self.reads = SimpleNamespace(slow_total=1, failed_total=2)
        self.quota = SimpleNamespace(limit=2 << 30)
        self.compactor = SimpleNamespace(rows_deleted=0)
        self.installing = False
        self.applied_index, self.leader_changes, self.proposals_pending = 11, 1, 0
        self.proposals_failed = self.slow_applies = 0
        self.maintenance: Any = SimpleNamespace()
        self.claims: Any = SimpleNamespace()
        none = WatchStatus(0, 0, 0, 0, 0)
        self.watches: Any = SimpleNamespace(store=SimpleNamespace(status=lambda: none))
        self.auth: Any = SimpleNamespace(enabled=False, revision=1)
        self.membership: Any = SimpleNamespace(promoted_total=0, promotions_refused={})
        self.held: list[tuple[Any, Any, Any]] = []
        self.asked: list[Any] = []

    # -- what the API calls

    def propose(self, request: Any, done: Any, _asker: Any = None) -> None:
        self._answer(self._apply, request, done)

    def linearizable(self, done: Any) -> None:
        self._answer(lambda _: self.unreadable, None, done)

    async def call(self, method: Any, request: Any, asker: Any = None) -> Any:
        return await answer_of(lambda done: method(request, done, asker))

    def range(self, request: RangeRequest, done: Any, _asker: Any = None) -> None:
        self._answer(self._range, request, done)

    def txn(self, request: TxnRequest, done: Any, _asker: Any = None) -> None:
        self._answer(self._apply, request, done)

    def compact(self, request: CompactionRequest, done: Any, _asker: Any = None) -> None:
        self._answer(self._apply, request, done)

    def status(self) -> Any:
        return SimpleNamespace(
            db_size=8192,
            db_size_in_use=4096,
            db_size_quota=2 << 30,
            leader=self.leader,
            raft_index=12,
            raft_term=3,
            raft_applied_index=11,
            errors=["etcdserver: no leader"] if not self.leader else [],
            is_learner=self.is_learner,
            downgrade="",
        )

    # -- what a test calls

    async def asked_times(self, count: int) -> None:
        """Wait until `count` requests have come in."""
        while len(self.asked) < count:  # noqa: ASYNC110 (no Event: most users have no loop)
            await asyncio.sleep(0)

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            work, request, done = self.held.pop(0)
            done(self._result(work, request))

    def _answer(self, work: Any, request: Any, done: Any) -> None:
        self.asked.append(request)
        if self.hold:
            self.held.append((work, request, done))
        else:
            done(self._result(work, request))

    def _result(self, work: Any, request: Any) -> Any:
        if self.failure is not None:
            return self.failure
        try:
            return work(request)
        except (LeaseExists, LeaseNotFound, Compacted, FutureRevision, NoSpace) as error:
            return error

    # -- a small store

    def _range(self, request: RangeRequest) -> Any:
        if self.unreadable is not None:
            raise self.unreadable
        store = self.store
        if request.revision > store.current_rev:
            raise FutureRevision(request.revision, store.current_rev)
        if 0 < request.revision < store.compact_rev:
            raise Compacted(request.revision, store.compact_rev)
        found = [
            store.keys[key]
            for key in sorted(store.keys)
            if in_range(key, request.key, request.range_end)
        ]
        kvs = [] if request.count_only else found[: request.limit if request.limit > 0 else None]
        more = not request.count_only and len(kvs) < len(found)
        return RangeResponse(store.current_rev, kvs, more, len(found))

    def _apply(self, request: Any) -> Any:
        store = self.store
        revision = store.current_rev
        match request:
            case AlarmRequest():
                alarm = Alarm(request.memberID, request.alarm)
                if request.action == AlarmAction.ACTIVATE:
                    self.alarms.raised.append(alarm)
                    return AlarmResponse(revision, [alarm])
                if request.action == AlarmAction.DEACTIVATE:
                    self.alarms.raised.remove(alarm)
                    return AlarmResponse(revision, [alarm])
                return AlarmResponse(revision, self.alarms.get(request.alarm))
            case CompactionRequest():
                if request.revision > revision:
                    raise FutureRevision(request.revision, revision)
                store.compact_rev = request.revision
                return CompactionResponse(revision)
            case LeaseGrantRequest():
                if request.ID in self.lessor.granted:
                    raise LeaseExists
                self.lessor.granted[request.ID] = request.TTL
                return LeaseGrantResponse(revision, request.ID, request.TTL)
            case LeaseRevokeRequest():
                if self.lessor.granted.pop(request.ID, None) is None:
                    raise LeaseNotFound
                return LeaseRevokeResponse(revision)
        return self._write(request, revision + 1)

    def _write(self, request: Any, revision: int) -> Any:
        """Every write takes the revision it is given; a txn runs its `success` branch."""
        store = self.store
        match request:
            case PutRequest():
                old = store.keys.get(request.key)
                store.keys[request.key] = KeyValue(
                    request.key,
                    request.value,
                    old.create_revision if old else revision,
                    revision,
                    old.version + 1 if old else 1,
                    request.lease,
                )
                store.current_rev = revision
                return PutResponse(revision, old if request.prev_kv else None)
            case DeleteRangeRequest():
                keys = [k for k in store.keys if in_range(k, request.key, request.range_end)]
                gone = [store.keys.pop(key) for key in sorted(keys)]
                store.current_rev = revision if gone else store.current_rev
                return DeleteRangeResponse(
                    store.current_rev, len(gone), gone if request.prev_kv else []
                )
            case TxnRequest():
                responses = []
                for op in request.success:
                    if op.request_range is not None:
                        responses.append(self._range(op.request_range))
                    else:
                        one = op.request_put or op.request_delete_range or op.request_txn
                        responses.append(self._write(one, revision))
                return TxnResponse(store.current_rev, True, responses)
        raise AssertionError(f"no such write: {request}")
