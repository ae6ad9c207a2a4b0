"""Applier: one committed entry in, its result out; the only writer of the store.

A deterministic function of the log: no clock, no config, no size of this member's file. Every
member that applies the same entries answers the same and holds the same rows. An entry is executed
exactly once: the caller skips what `backend.applied()` already holds and calls
`backend.end_entries` after each batch, which ties effects and index together.

A request that is refused counts as applied; its result is the exception. Any other exception means
that this member no longer does what the others do: it leaves `apply_*` and stops the node, whose
next start replays the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvcc.backend import Backend
from mvcc.compaction import Compaction
from mvcc.errors import Compacted, FutureRevision
from mvcc.store import Store
from raft.core.types import ConfState

from .alarm import Alarms
from .auth_store import AuthStore
from .checks import check, check_alarm, check_delete_range, check_grant
from .downgrade import Downgrade
from .errors import ApplyError, NotLeader
from .lessor import NO_LEASE, Lessor
from .members import Members, decode_change
from .requests import (
    AlarmAction,
    AlarmRequest,
    AuthRequest,
    AuthTokenRequest,
    CompactionRequest,
    DeleteRangeRequest,
    DowngradeRequest,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    MemberUpdateRequest,
    PutRequest,
    Request,
    TxnRequest,
    decode,
    identity_of,
)
from .responses import (
    AlarmResponse,
    AuthResponse,
    AuthTokenResponse,
    CompactionResponse,
    DeleteRangeResponse,
    DowngradeResponse,
    LeaseCheckpointResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    MembersResponse,
    PutResponse,
    TxnResponse,
)
from .txn import apply_txn, check_put_applies, execute_delete_range, execute_put

Response = (
    PutResponse
    | DeleteRangeResponse
    | TxnResponse
    | CompactionResponse
    | LeaseGrantResponse
    | LeaseRevokeResponse
    | LeaseCheckpointResponse
    | AlarmResponse
    | DowngradeResponse
    | MembersResponse
    | AuthResponse
    | AuthTokenResponse
)
Result = Response | ApplyError | Compacted | FutureRevision
"""A response, or what the request was refused for."""

_REFUSED = (ApplyError, Compacted, FutureRevision)


class Applier:
    """Executes entries on `store`, `lessor`, `alarms`, `members` and `auth`, which all write
    through one backend.

    `on_compaction` gets the job of each compaction applied. Its taker forces a backend commit
    before the first step.
    """

    def __init__(
        self,
        store: Store,
        backend: Backend,
        lessor: Lessor,
        alarms: Alarms,
        members: Members,
        *,
        auth: AuthStore,
        hit: Callable[[str], None],
    ) -> None:
        self.store = store
        self.backend = backend
        self.lessor = lessor
        self.alarms = alarms
        self.members = members
        self.auth = auth
        self.downgrade = Downgrade(backend)
        self.on_compaction: Callable[[Compaction], None] = lambda job: None
        self._hit = hit
        self._index = self._term = 0
        self._execute: dict[type[Any], Callable[[Any], Response]] = {
            PutRequest: self._put,
            DeleteRangeRequest: self._delete_range,
            TxnRequest: self._txn,
            CompactionRequest: self._compact,
            LeaseGrantRequest: self._grant,
            LeaseRevokeRequest: self._revoke,
            LeaseExpireRequest: self._expire,
            LeaseCheckpointRequest: self._checkpoint,
            AlarmRequest: self._alarm,
            DowngradeRequest: self._downgrade,
            MemberAttributesRequest: members.publish,
            MemberUpdateRequest: members.update,
            AuthTokenRequest: self._token,
            **dict.fromkeys(auth.operations, self._auth),
        }

    def restore(self, store: Store) -> None:
        """Take up a store just restored, on start or from a snapshot, and the other tables."""
        store.counts, self.store = self.store.counts, store
        self.alarms.restore()
        self.members.restore()
        self.downgrade.restore()
        self.auth.restore()
        self.lessor.restore(store.leases.items())

    def apply_normal(
        self, index: int, term: int, data: bytes, request: Request | None = None
    ) -> Result | None:
        """Execute one entry. `request` is the proposer's own object, so that it is not decoded
        again.

        Empty data (a new leader's first entry) is None. ValueError: bytes of another version of
        this program; the node must not guess what the others made of them.
        """
        if not data:
            return None
        if request is None:
            _, request = decode(data)
        self._hit("apply.before_entry")
        self._term = term
        alarms = self.alarms
        auth = self.auth
        try:
            if auth.enabled:
                self._index = index
                auth.check(identity_of(data), request)
            if alarms.nospace or alarms.corrupt:
                alarms.check(request)
            return self._execute[type(request)](request)
        except _REFUSED as refusal:
            return refusal
        except Exception as error:
            error.add_note(f"while applying entry {index} of term {term}: {type(request).__name__}")
            raise

    def apply_conf_change(
        self, context: bytes, advance: Callable[[bool], ConfState]
    ) -> MembersResponse | ApplyError | None:
        """Execute a configuration change: first `advance(accepted)` moves raft, then the rows
        follow.

        A change that the membership forbids still reaches raft, as one that changes nothing.
        Without context (raft leaving a joint configuration by itself) only the configuration is
        kept. What `advance` raises leaves the rows as they were.
        """
        self._hit("apply.before_entry")
        if not context:
            self.members.put_conf_state(advance(True))
            return None
        change = decode_change(context)
        try:
            self.members.check(change)
        except ApplyError as refusal:
            self.members.put_conf_state(advance(False))
            return refusal
        self.members.put_conf_state(advance(True))
        return self.members.apply(change)

    def _put(self, request: PutRequest) -> PutResponse:
        lease = request.lease
        if request.ignore_value or request.ignore_lease or lease != NO_LEASE or not request.key:
            check_put_applies(self.store, self.lessor, request)
        writing = self.store.write()
        prev_kv = execute_put(writing, self.store, request)
        if writing.lease_changes:
            self.lessor.follow(writing.lease_changes)
        return PutResponse(writing.end(), prev_kv)

    def _delete_range(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        check_delete_range(request)
        writing = self.store.write()
        count, prev_kvs = execute_delete_range(writing, self.store, request)
        self.lessor.follow(writing.lease_changes)
        return DeleteRangeResponse(writing.end(), count, prev_kvs)

    def _txn(self, request: TxnRequest) -> TxnResponse:
        return apply_txn(self.store, self.lessor, request, self._hit)

    def _compact(self, request: CompactionRequest) -> CompactionResponse:
        self.on_compaction(self.store.compact(request.revision))
        return CompactionResponse(self.store.current_rev)

    def _grant(self, request: LeaseGrantRequest) -> LeaseGrantResponse:
        check_grant(request)
        lease = self.lessor.grant(request.ID, request.TTL)
        return LeaseGrantResponse(self.store.current_rev, lease.ID, lease.TTL)

    def _revoke(self, request: LeaseRevokeRequest) -> LeaseRevokeResponse:
        """Keys go in ascending order, in one revision; the lease's row leaves in the same batch."""
        keys = self.lessor.keys_of(request.ID)
        writing = self.store.write()
        for key in keys:
            self._hit("apply.in_write")
            writing.delete_range(key)
        revision = writing.end()
        self.lessor.follow(writing.lease_changes)
        self.lessor.revoke(request.ID)
        return LeaseRevokeResponse(revision)

    def _expire(self, request: LeaseExpireRequest) -> LeaseRevokeResponse:
        check(request)
        self._check_term(request.term)
        return self._revoke(LeaseRevokeRequest(request.ID))

    def _checkpoint(self, request: LeaseCheckpointRequest) -> LeaseCheckpointResponse:
        check(request)
        self._check_term(request.term)
        for each in request.checkpoints:
            self.lessor.checkpoint(each.ID, each.remaining_ttl)
        return LeaseCheckpointResponse(self.store.current_rev)

    def _check_term(self, term: int) -> None:
        """What a leader says of its clock is void in another term.

        A leader that is deposed between proposing and appending forwards the proposal to the new
        one, which may have renewed the lease meanwhile.
        """
        if term != self._term:
            raise NotLeader

    def _downgrade(self, request: DowngradeRequest) -> DowngradeResponse:
        self.downgrade.apply(request)
        return DowngradeResponse(self.store.current_rev)

    def _alarm(self, request: AlarmRequest) -> AlarmResponse:
        check_alarm(request)
        if request.action == AlarmAction.ACTIVATE:
            alarms = self.alarms.activate(request.memberID, request.alarm)
        elif request.action == AlarmAction.DEACTIVATE:
            alarms = self.alarms.deactivate(request.memberID, request.alarm)
        else:
            alarms = self.alarms.get(request.alarm)
        return AlarmResponse(self.store.current_rev, alarms)

    def _auth(self, request: AuthRequest) -> AuthResponse:
        check(request)
        self.auth.operations[type(request)](request)
        return AuthResponse(self.store.current_rev)

    def _token(self, request: AuthTokenRequest) -> AuthTokenResponse:
        check(request)
        self.auth.let_in(request, self._index)
        return AuthTokenResponse(self._index)
