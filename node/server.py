"""Server: the one thing that `node.api` calls: proposals, reads, status.

What comes back from the log is `node.replica`'s affair, starting and stopping `node.member`'s.
Everything here runs on the loop; what waits for a disk or takes long runs in the parts' own
threads.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import RangeResult
from mvcc.lmdb_backend import LmdbBackend
from mvcc.store import Store
from node.apply import errors
from node.apply.applier import Applier
from node.apply.quota import Quota
from node.apply.requests import (
    CLUSTER,
    AlarmAction,
    AlarmRequest,
    AlarmType,
    Asker,
    CompactionRequest,
    LeaseGrantRequest,
    MemberAttributesRequest,
    PutRequest,
    RangeRequest,
    Request,
    TxnRequest,
    encode,
)
from node.apply.responses import RangeResponse
from node.apply.txn import is_read_only, is_serializable, options_of, read_txn
from node.auth import Auth
from node.claims import Claims
from node.compactor import Compactor
from node.config import NodeConfig
from node.corruption_check import CorruptionCheck
from node.leases import Leases
from node.maintenance import Maintenance
from node.membership import Membership
from node.peer_calls import PeerCalls
from node.proposals import Done, Proposals
from node.reads import LinearizableReads
from node.replica import Replica
from node.waiting import answer_of
from node.watches import Watches
from raft.core.errors import ProposalDropped
from raft.core.types import NONE
from raft.driver import RaftDriver
from raft.tcp_transport import TcpTransport
from raft.transport import SnapshotSource

log = logging.getLogger("esker.server")

_UNAPPLIED_MAX = 5000
_SILENT_ELECTIONS = 3
"""Without a leader for so many election timeouts, streams of those who need one are ended."""
_QUOTA_CHECKED = (PutRequest, TxnRequest, LeaseGrantRequest)


class ServerStatus(NamedTuple):
    """What /v3/maintenance/status reports, sizes in bytes."""

    db_size: int
    db_size_in_use: int
    db_size_quota: int
    leader: int
    raft_index: int
    raft_term: int
    raft_applied_index: int
    errors: list[str]
    is_learner: bool
    downgrade: str


class Server:
    """What clients reach of a member. `node.api` reads the attributes named here, nothing else.

    `leaderless`: no leader is known, and that for several election timeouts.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        member_id: int,
        cluster_id: int,
        backend: LmdbBackend,
        store: Store,
        applier: Applier,
        copy_state: Callable[[LmdbBackend], SnapshotSource],
        hit: Callable[[str], None],
        first_id: int,
    ) -> None:
        self.config = config
        self.member_id = member_id
        self.cluster_id = cluster_id
        self.backend = backend
        self.members = applier.members
        self.alarms = applier.alarms
        self.downgrade = applier.downgrade
        self.lessor = applier.lessor
        self.quota = Quota(config.quota_backend_bytes)
        self.driver: RaftDriver
        self.transport: TcpTransport
        self._loop = asyncio.get_running_loop()
        self.request_timeout = config.request_timeout
        self._proposals = Proposals(member_id, first_id=first_id)
        self.reads = LinearizableReads(
            ask=self._ask_read_index,
            applied=lambda: self.replica.applied_index,
            call_soon=self._loop.call_soon,
            now=self._loop.time,
            timeout_seconds=self.request_timeout,
            first_token=first_id,
        )
        self.compactor = Compactor(
            backend,
            batch_rows=config.compaction_batch_limit,
            pause_seconds=config.compaction_sleep_interval / 1e3,
            busy=lambda: len(self._proposals) > 0,
            observe=self._observe_compaction,
            hit=hit,
        )
        self.replica = Replica(
            backend=backend,
            store=store,
            applier=applier,
            proposals=self._proposals,
            reads=self.reads,
            compactor=self.compactor,
            request_bytes_max=config.max_request_bytes,
            copy_state=copy_state,
            hit=hit,
        )
        self.peer_calls = PeerCalls()
        self.leases = Leases(self, self._loop.time, checkpoint_ms=config.lease_checkpoint_ms)
        self.auth = Auth(self, applier.auth)
        self.maintenance = Maintenance(self)
        self.membership = Membership(self)
        self.corruption_check = CorruptionCheck(self)
        self.compactor.finished = self.corruption_check.compaction_finished
        self.claims = Claims(self)
        self.leaderless = False
        self._led_at = self._loop.time()
        self.watches = self._new_watches()
        self.observe_compaction: Callable[[float], None] = lambda pause_ms: None
        self._stopping = False
        self._alarm_under_way = False
        self.replica.resume_compaction()

    def _new_watches(self) -> Watches:
        watches = Watches(
            self.store,
            call_soon=self._loop.call_soon,
            stamp=lambda: (self.auth.enabled, self.auth.store.revision, self.leaderless),
            paused=lambda: self.installing,
            progress_ms=self.config.watch_progress_notify_interval,
            jitter=self.member_id % 1000 / 1000,
        )
        self.replica.store_replaced = watches.attach
        return watches

    def _ask_read_index(self, token: int) -> None:
        self.driver.read_index(token)

    def _observe_compaction(self, seconds: float, _rows: int) -> None:
        self.observe_compaction(seconds * 1e3)

    def connect(self, driver: RaftDriver, transport: TcpTransport) -> None:
        """Raft and the peers, which need the replica to exist before them."""
        self.driver = self.replica.driver = driver
        self.transport = self.peer_calls.transport = transport

    # -- what the API asks

    @property
    def raft_term(self) -> int:
        return self.driver.term

    @property
    def leader(self) -> int:
        """The leader's member id as this member knows it; 0 when it knows none."""
        return self.driver.leader

    @property
    def is_leader(self) -> bool:
        return self.driver.is_leader

    @property
    def is_learner(self) -> bool:
        return self.members.is_learner(self.member_id)

    @property
    def store(self) -> Store:
        """The store as of now: a snapshot may replace it between two turns of the loop."""
        return self.replica.store

    @property
    def installing(self) -> bool:
        """A received snapshot is replacing the state."""
        return self.replica.installing

    @property
    def applied_index(self) -> int:
        return self.replica.applied_index

    @property
    def leader_changes(self) -> int:
        return self.replica.leader_changes

    @property
    def slow_applies(self) -> int:
        return self.replica.slow_applies

    @property
    def proposals_failed(self) -> int:
        return self._proposals.failed_total

    @property
    def proposals_pending(self) -> int:
        return len(self._proposals)

    def propose(self, request: Request, done: Done, asker: Asker = None) -> None:
        """Put a checked request through the log; `done` gets its response, or why it was refused.

        OutcomeUnknown means that it may still be applied; every other error that nothing changed.
        """
        refusal = self._refuse(request)
        if refusal is not None:
            done(refusal)
        elif asker is None:
            self._propose(request, done, None)
        else:
            again = functools.partial(self.propose, request, done)
            self._propose(request, self.auth.persistent(asker, done, again), asker)

    def _propose(self, request: Request, done: Done, asker: Asker) -> None:
        request_id = self._proposals.next_id()
        data = encode(request_id, request, asker)
        if len(data) > self.config.max_request_bytes:
            done(errors.RequestTooLarge(len(data), self.config.max_request_bytes))
            return
        try:
            self.driver.propose(data, request_id)
        except ProposalDropped:
            self._proposals.failed_total += 1
            done(errors.NoLeader())
            return
        deadline = self._loop.time() + self.request_timeout
        self._proposals.register(request_id, request, done, deadline)

    def publish(self, request: MemberAttributesRequest, done: Done, asker: Asker = CLUSTER) -> None:
        """What a member says of itself; a learner may, too."""
        self._propose(request, done, asker)

    def _refuse(self, request: Request) -> errors.ApplyError | None:
        if self._stopping:
            return errors.Stopped()
        if self.driver.commit_index - self.applied_index > _UNAPPLIED_MAX:
            return errors.TooManyRequests()
        if self.is_learner:
            return errors.LearnerRefused()
        if isinstance(request, _QUOTA_CHECKED) and not self.quota.available(
            self.backend.size().size, request
        ):
            self.raise_alarm(AlarmType.NOSPACE)
            return errors.NoSpace()
        return None

    def request_id(self) -> int:
        """A number that no other request of the cluster has or will have."""
        return self._proposals.next_id()

    def propose_change(self, propose: Callable[[int], None], done: Done) -> None:
        """`propose(request id)` puts a membership change into the log; `done` gets its result."""
        if self._stopping:
            raise errors.Stopped
        request_id = self.request_id()
        propose(request_id)
        deadline = self._loop.time() + self.request_timeout
        self._proposals.register(request_id, None, done, deadline)

    def linearizable(self, done: Done) -> None:
        """`done(None)` when a local read is linearizable, or `done(error)`."""
        if self._stopping:
            done(errors.Stopped())
        elif self.is_learner:
            done(errors.LearnerRefused())
        else:
            self.reads.wait(done)

    def range(self, request: RangeRequest, done: Done, asker: Asker = None) -> None:
        """Read [key, range_end), linearizably unless `serializable`."""
        if request.serializable:
            if self._suspected:
                done(errors.Corrupt())
                return
            self._range_now(request, done, asker)
        else:
            self.linearizable(
                lambda error: (
                    self._range_now(request, done, asker) if error is None else done(error)
                )
            )

    def _range_now(self, request: RangeRequest, done: Done, asker: Asker) -> None:
        if self.installing:
            done(errors.NoLeader())
            return
        if self.auth.enabled:
            try:
                self.auth.check_read(asker, request)
            except errors.RequestError as refusal:
                done(refusal)
                return
            done = self.auth.unmoved(done)
        if request.range_end and not request.count_only:
            store = self.store
            store.counts.ranges += 1
            steps = store.range_steps(request.key, request.range_end, options_of(request))
            self._range_step(store, steps, done)
        else:
            self.store.counts.ranges += 1
            try:
                found = self.store.range(request.key, request.range_end, options_of(request))
            except (Compacted, FutureRevision) as error:
                done(error)
            else:
                done(RangeResponse(found.revision, found.kvs, found.more, found.count))

    def _range_step(self, store: Store, steps: Iterator[RangeResult | None], done: Done) -> None:
        """One slice per turn of the loop: a range of everything must not stop the heartbeats."""
        if store is not self.store or self.installing:
            # A snapshot has replaced the state that this range began on; a retry reads the new one.
            done(errors.LeaderChanged())
            return
        try:
            found = next(steps)
        except (Compacted, FutureRevision) as error:
            done(error)
            return
        except Exception as error:
            # The loop, which calls the later slices, would only log it, and the client would wait.
            done(error)
            self.driver.fail(error)
            return
        if found is None:
            self._loop.call_soon(self._range_step, store, steps, done)
        else:
            done(RangeResponse(found.revision, found.kvs, found.more, found.count))

    def txn(self, request: TxnRequest, done: Done, asker: Asker = None) -> None:
        """A txn of ranges only is a read and does not enter the log; any other is proposed."""
        if not is_read_only(request):
            self.propose(request, done, asker)
        elif is_serializable(request):
            if self._suspected:
                done(errors.Corrupt())
                return
            self._txn_now(request, done, asker)
        else:
            self.linearizable(
                lambda error: self._txn_now(request, done, asker) if error is None else done(error)
            )

    def _txn_now(self, request: TxnRequest, done: Done, asker: Asker) -> None:
        if self.installing:
            done(errors.NoLeader())
            return
        try:
            self.auth.check_read(asker, request)
            response: object = read_txn(self.store, request)
        except (Compacted, FutureRevision, errors.ApplyError) as error:
            response = error
        done(response)

    def compact(self, request: CompactionRequest, done: Done, asker: Asker = None) -> None:
        """Compact through the log. With `physical`, answer when this member's rows are gone and
        that is durable.
        """
        if not request.physical:
            self.propose(request, done, asker)
            return

        def applied(result: object) -> None:
            if isinstance(result, Exception) and not isinstance(result, Compacted):
                done(result)
            else:
                self.compactor.barrier(lambda: done(result))

        self.propose(request, applied, asker)

    @property
    def _suspected(self) -> bool:
        """An alarm says that this member's data are not those of the others: nobody shall read them
        unasked.
        """
        alarms = self.alarms
        return alarms.corrupt and alarms.raised(self.member_id, AlarmType.CORRUPT)

    def raise_alarm(self, alarm: AlarmType) -> None:
        """Propose an alarm for this member, once at a time."""
        if self._alarm_under_way or self.alarms.raised(self.member_id, alarm):
            return
        self._alarm_under_way = True
        log.warning(
            "raising an alarm", extra={"alarm": alarm.name, "member": f"{self.member_id:x}"}
        )

        def answered(result: object) -> None:
            self._alarm_under_way = False
            if isinstance(result, Exception):
                log.warning("the alarm was not raised", extra={"why": repr(result)})

        request = AlarmRequest(AlarmAction.ACTIVATE, self.member_id, alarm)
        self.propose(request, answered, CLUSTER)

    async def call(
        self, method: Callable[[Any, Done, Asker], None], request: Any, asker: Asker = CLUSTER
    ) -> Any:
        """`await` a callback-style method: returns its response or raises its error."""
        return await answer_of(lambda done: method(request, done, asker))

    def status(self) -> ServerStatus:
        """This member's view of itself and of the cluster; local, needs no quorum."""
        size = self.backend.size()
        problems = [] if self.leader != NONE else ["etcdserver: no leader"]
        problems += [
            f"memberID:{alarm.memberID} alarm:{AlarmType(alarm.alarm).name} "
            for alarm in self.alarms.get(AlarmType.NONE)
        ]
        return ServerStatus(
            db_size=size.size,
            db_size_in_use=size.in_use,
            db_size_quota=self.quota.limit,
            leader=self.leader,
            raft_index=self.driver.commit_index,
            raft_term=self.raft_term,
            raft_applied_index=self.applied_index,
            errors=problems,
            is_learner=self.is_learner,
            downgrade=self.downgrade.target,
        )

    # -- time, and the end

    def sweep(self) -> None:
        """Every 50 ms: what is past its deadline hears that its outcome is unknown."""
        now = self._loop.time()
        for done in self._proposals.expire(now):
            self._proposals.failed_total += 1
            done(errors.RequestTimedOut())
        self.reads.sweep(now, errors.RequestTimedOut)
        self.auth.sweep()
        self._note_leader(now)
        self.watches.sweep()
        # Somebody waits here for what others write: a leader elsewhere tells of commits at once.
        self.driver.eager = self.store.on_write is not None
        self.backend.poll()

    def _note_leader(self, now: float) -> None:
        if self.leader != NONE:
            self._led_at = now
        silence = _SILENT_ELECTIONS * self.config.election_timeout / 1e3
        self.leaderless = now - self._led_at > silence

    def refuse_all(self) -> None:
        """The member stops: nothing new is taken, and nobody waits any longer."""
        self._stopping = True
        self.auth.close()
        for done in self._proposals.take_all():
            done(errors.StoppedWaiting())
        self.reads.fail_all(errors.Stopped())
