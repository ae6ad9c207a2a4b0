"""What the members should have answered: a store that keeps everything in lists.

It is slow, short, and shares nothing with the store under test but the words (requests, responses).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mvcc.kv import Event, EventType, KeyValue
from node.apply.requests import (
    AlarmAction,
    AlarmRequest,
    AlarmType,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    decode,
)
from node.apply.responses import (
    CompactionResponse,
    DeleteRangeResponse,
    LeaseCheckpointResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    PutResponse,
    RangeResponse,
    TxnResponse,
)


class Refused(Exception):
    """The request changes nothing; the text is the name of the error it is answered with."""


class Version(NamedTuple):
    """One state of one key; `kv` None: it was deleted."""

    main: int
    sub: int
    kv: KeyValue | None


class Model:
    """Every state there ever was. Entries come in the order of the log."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = -1
        self.versions: dict[bytes, list[Version]] = {}
        self.events: list[Event] = []
        self.leases: dict[int, int] = {}
        self.alarms: set[tuple[int, int]] = set()
        self._main = 0
        self._sub = 0
        self._term = 0

    def apply(self, term: int, data: bytes) -> Any:
        """The response to one entry, or the name of the error; None for what is not modelled."""
        _, request = decode(data)
        self._term = term
        self._main, self._sub = self.revision + 1, 0
        try:
            self._refuse(request)
            handler = _HANDLERS.get(type(request))
            response = handler(self, request) if handler is not None else None
        except Refused as refused:
            return str(refused)
        if self._sub:
            self.revision = self._main
        return response

    def _refuse(self, request: Any) -> None:
        kinds = {alarm for _, alarm in self.alarms}
        writes = isinstance(request, PutRequest | LeaseGrantRequest)
        if AlarmType.NOSPACE in kinds and (
            writes or (isinstance(request, TxnRequest) and _puts(request))
        ):
            raise Refused("NoSpace")

    # -- reading

    def state(self, key: bytes, revision: int) -> KeyValue | None:
        """The key at the end of `revision`."""
        for version in reversed(self.versions.get(key, [])):
            if version.main <= revision:
                return version.kv
        return None

    def range(self, request: RangeRequest, now: int, compacted: int = -1) -> RangeResponse:
        """What a read answers whose header says `now`."""
        at = request.revision if request.revision > 0 else now
        if at > now:
            raise Refused("FutureRevision")
        if at < compacted:
            raise Refused("Compacted")
        keys = sorted(key for key in self.versions if _within(key, request.key, request.range_end))
        found = [kv for key in keys if (kv := self.state(key, at)) is not None]
        count = len(found)
        kvs = [kv for kv in found if _passes(kv, request)]
        kvs = _sorted(kvs, request)
        more = 0 < request.limit < len(kvs)
        kvs = kvs[: request.limit] if request.limit > 0 else kvs
        if request.count_only:
            return RangeResponse(now, [], False, count)
        if request.keys_only:
            kvs = [_without_value(kv) for kv in kvs]
        return RangeResponse(now, kvs, more, count)

    def read_txn(self, request: TxnRequest, now: int) -> TxnResponse:
        succeeded = all(self._holds(compare, now) for compare in request.compare)
        branch = request.success if succeeded else request.failure
        ranges = [op.request_range for op in branch]
        return TxnResponse(now, succeeded, [self.range(each, now) for each in ranges if each])

    def holds_lock(self, key: bytes, prefix: bytes, now: int) -> bool:
        """Whether `key` is the oldest of those that begin with `prefix`."""
        own = self.state(key, now)
        rivals = [self.state(each, now) for each in self.versions if each.startswith(prefix)]
        made = [kv.create_revision for kv in rivals if kv is not None]
        return own is not None and own.create_revision == min(made)

    # -- writing

    @property
    def _now(self) -> int:
        """The revision that reads within this entry see."""
        return self._main if self._sub else self.revision

    def _write(self, key: bytes, kv: KeyValue | None) -> KeyValue | None:
        before = self.state(key, self._now)
        self.versions.setdefault(key, []).append(Version(self._main, self._sub, kv))
        shown = kv or KeyValue(key, mod_revision=self._main)
        self.events.append(Event(EventType.PUT if kv else EventType.DELETE, shown, before))
        self._sub += 1
        return before

    def _put(self, request: PutRequest) -> PutResponse:
        self._check_put(request)
        return self._execute_put(request)

    def _check_put(self, request: PutRequest) -> None:
        if request.lease and request.lease not in self.leases:
            raise Refused("LeaseNotFound")
        if (request.ignore_value or request.ignore_lease) and not self.state(
            request.key, self.revision
        ):
            raise Refused("KeyNotFound")

    def _execute_put(self, request: PutRequest) -> PutResponse:
        before = self.state(request.key, self._now)
        created, version = (before.create_revision, before.version) if before else (self._main, 0)
        value, lease = request.value, request.lease
        if request.ignore_value and before:
            value = before.value
        if request.ignore_lease and before:
            lease = before.lease
        kv = KeyValue(request.key, value, created, self._main, version + 1, lease)
        self._write(request.key, kv)
        return PutResponse(self._main, before if request.prev_kv else None)

    def _delete(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        now = self._now
        keys = sorted(key for key in self.versions if _within(key, request.key, request.range_end))
        living = [key for key in keys if self.state(key, now) is not None]
        gone = [self._write(key, None) for key in living]
        kvs = [kv for kv in gone if kv is not None] if request.prev_kv else []
        return DeleteRangeResponse(self._now, len(gone), kvs)

    def _txn(self, request: TxnRequest) -> TxnResponse:
        path: list[bool] = []
        self._choose(request, path)
        taken = list(_taken(request, iter(path)))
        for op in taken:
            if op.request_put is not None:
                self._check_put(op.request_put)
        for op in taken:
            if op.request_range is not None:
                self.range(op.request_range, self.revision, self.compacted)
        return self._execute_txn(request, iter(path))

    def _choose(self, request: TxnRequest, path: list[bool]) -> None:
        succeeded = all(self._holds(compare, self.revision) for compare in request.compare)
        path.append(succeeded)
        for op in request.success if succeeded else request.failure:
            if op.request_txn is not None:
                self._choose(op.request_txn, path)

    def _execute_txn(self, request: TxnRequest, path: Iterator[bool]) -> TxnResponse:
        succeeded = next(path)
        responses: list[Any] = []
        for op in request.success if succeeded else request.failure:
            if op.request_put is not None:
                responses.append(self._execute_put(op.request_put))
            elif op.request_range is not None:
                responses.append(self.range(op.request_range, self._now, self.compacted))
            elif op.request_delete_range is not None:
                responses.append(self._delete(op.request_delete_range))
            elif op.request_txn is not None:
                responses.append(self._execute_txn(op.request_txn, path))
        return TxnResponse(self._now, succeeded, responses)

    def _holds(self, compare: Compare, now: int) -> bool:
        found = [
            kv
            for key in sorted(self.versions)
            if _within(key, compare.key, compare.range_end)
            and (kv := self.state(key, now)) is not None
        ]
        by_value = compare.target == _VALUE
        if not found:
            return not by_value and _satisfies(KeyValue(compare.key), compare)
        return all(_satisfies(kv, compare) for kv in found)

    def _compact(self, request: CompactionRequest) -> CompactionResponse:
        if request.revision <= self.compacted:
            raise Refused("Compacted")
        if request.revision > self.revision:
            raise Refused("FutureRevision")
        self.compacted = request.revision
        return CompactionResponse(self.revision)

    def _grant(self, request: LeaseGrantRequest) -> LeaseGrantResponse:
        if request.ID in self.leases:
            raise Refused("LeaseExists")
        self.leases[request.ID] = request.TTL
        return LeaseGrantResponse(self.revision, request.ID, request.TTL)

    def _revoke(self, request: LeaseRevokeRequest) -> LeaseRevokeResponse:
        if request.ID not in self.leases:
            raise Refused("LeaseNotFound")
        del self.leases[request.ID]
        for key in sorted(self.versions):
            kv = self.state(key, self._now)
            if kv is not None and kv.lease == request.ID:
                self._write(key, None)
        return LeaseRevokeResponse(self._now)

    def _expire(self, request: LeaseExpireRequest) -> LeaseRevokeResponse:
        self._check_term(request.term)
        return self._revoke(LeaseRevokeRequest(request.ID))

    def _checkpoint(self, request: LeaseCheckpointRequest) -> LeaseCheckpointResponse:
        self._check_term(request.term)
        return LeaseCheckpointResponse(self.revision)

    def _check_term(self, term: int) -> None:
        if term != self._term:
            raise Refused("NotLeader")

    def _alarm(self, request: AlarmRequest) -> None:
        """Its answer is not modelled."""
        alarm = request.memberID, request.alarm
        if request.action == AlarmAction.ACTIVATE:
            self.alarms.add(alarm)
        elif request.action == AlarmAction.DEACTIVATE:
            self.alarms.discard(alarm)


_HANDLERS: dict[type, Any] = {
    PutRequest: Model._put,
    DeleteRangeRequest: Model._delete,
    TxnRequest: Model._txn,
    CompactionRequest: Model._compact,
    LeaseGrantRequest: Model._grant,
    LeaseRevokeRequest: Model._revoke,
    LeaseExpireRequest: Model._expire,
    LeaseCheckpointRequest: Model._checkpoint,
    AlarmRequest: Model._alarm,
}

_VERSION, _CREATE, _MOD, _VALUE, _LEASE = range(5)


def _within(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key and (end == b"\0" or key < end)


def _puts(request: TxnRequest) -> bool:
    """Whether either branch, at whatever depth, could add to the store."""
    return any(
        op.request_put is not None or (op.request_txn is not None and _puts(op.request_txn))
        for op in request.success + request.failure
    )


def _taken(request: TxnRequest, path: Iterator[bool]) -> Iterator[RequestOp]:
    for op in request.success if next(path) else request.failure:
        if op.request_txn is not None:
            yield from _taken(op.request_txn, path)
        else:
            yield op


def _satisfies(kv: KeyValue, compare: Compare) -> bool:
    pairs: dict[int, tuple[Any, Any]] = {
        _VERSION: (kv.version, compare.version),
        _CREATE: (kv.create_revision, compare.create_revision),
        _MOD: (kv.mod_revision, compare.mod_revision),
        _VALUE: (kv.value, compare.value),
        _LEASE: (kv.lease, compare.lease),
    }
    stored, operand = pairs[compare.target]
    return bool(
        (stored == operand, stored > operand, stored < operand, stored != operand)[compare.result]
    )


def _passes(kv: KeyValue, request: RangeRequest) -> bool:
    return (
        request.min_mod_revision <= kv.mod_revision
        and (not request.max_mod_revision or kv.mod_revision <= request.max_mod_revision)
        and request.min_create_revision <= kv.create_revision
        and (not request.max_create_revision or kv.create_revision <= request.max_create_revision)
    )


def _sorted(kvs: list[KeyValue], request: RangeRequest) -> list[KeyValue]:
    """By what is asked for; equal ones by key."""
    if not request.sort_order:
        return kvs
    of = ("key", "version", "create_revision", "mod_revision", "value")[request.sort_target]
    return sorted(kvs, key=lambda kv: getattr(kv, of), reverse=request.sort_order == 2)


def _without_value(kv: KeyValue) -> KeyValue:
    return KeyValue(kv.key, b"", kv.create_revision, kv.mod_revision, kv.version, kv.lease)
