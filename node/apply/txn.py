"""A transaction: compare, check, write, in this order and never mixed.

1. `choose` evaluates every compare, those of nested txns on the way included, against the state
before the txn. The
   outcome is a path: one boolean per txn entered, in the order they are entered.
2. `check_path` asks of each operation on that path what depends on the store: lease, revision, a
kept value's key.
3. Only then the writing begins, and nothing in it may fail: a txn is refused as a whole or executed
as a whole, alike
   on every member. An error there is ours and stops the node before the entry counts as applied.

Operations see earlier writes of the same txn; compares never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import KeyValue, RangeOptions, RangeResult
from mvcc.store import Store
from mvcc.txn import WriteTxn

from .checks import TXN_DEPTH_MAX, check_delete_range, check_put, check_range, the_request
from .errors import ApplyError, KeyNotFound, KeyNotProvided, LeaseNotFound, TooManyOps
from .lessor import NO_LEASE, Lessor
from .requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from .responses import DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse

_KEYS_ONLY = RangeOptions(keys_only=True)
_WHOLE = RangeOptions()
_MISSING = KeyValue(b"")


class View(Protocol):
    """What a compare or a range reads: the store, or a txn that is writing."""

    def range(self, key: bytes, range_end: bytes, options: RangeOptions) -> RangeResult: ...


def is_read_only(request: TxnRequest) -> bool:
    """Whether `request` needs no log entry: ranges in both branches, nothing nested."""
    return all(op.request_range is not None for op in request.success + request.failure)


def is_serializable(request: TxnRequest) -> bool:
    """Whether a read-only txn may be answered from local state: every one of its ranges says so.

    One without ranges only compares, which is no less of a read: it says nothing, so it is not.
    """
    ranges = [op.request_range for op in request.success + request.failure]
    return bool(ranges) and all(each is not None and each.serializable for each in ranges)


def read_txn(store: Store, request: TxnRequest) -> TxnResponse:
    """Execute a read-only txn on the present state. Compacted, FutureRevision."""
    succeeded = all(holds(store, compare) for compare in request.compare)
    ranges = [op.request_range for op in (request.success if succeeded else request.failure)]
    responses: list[RangeResponse | PutResponse | DeleteRangeResponse | TxnResponse] = []
    for each in ranges:
        assert each is not None, "a read-only txn has ranges only"
        check_revision(store, each.revision)
        responses.append(execute_range(store, each))
    store.counts.txns += 1
    store.counts.ranges += len(ranges)
    return TxnResponse(store.current_rev, succeeded, responses)


def apply_txn(
    store: Store, lessor: Lessor, request: TxnRequest, hit: Callable[[str], None]
) -> TxnResponse:
    """Execute one txn of the log.

    What it raises as a refusal (RequestError, Compacted, FutureRevision) has changed nothing.
    """
    path: list[bool] = []
    choose(store, request, path)
    check_path(store, lessor, request, path)
    writing = store.write()
    try:
        response = _Run(writing, store, hit).txn(request, iter(path))
        writing.end()
        lessor.follow(writing.lease_changes)
    except (ApplyError, Compacted, FutureRevision) as error:
        raise AssertionError(f"a checked txn failed while it was written: {error!r}") from error
    store.counts.txns += 1
    return response


def choose(view: View, request: TxnRequest, path: list[bool], depth: int = 1) -> None:
    """Append to `path` which branch `request` takes, then those of its txns nested there."""
    if depth > TXN_DEPTH_MAX:
        raise TooManyOps
    succeeded = all(holds(view, compare) for compare in request.compare)
    path.append(succeeded)
    for op in request.success if succeeded else request.failure:
        if op.request_txn is not None:
            choose(view, op.request_txn, path, depth + 1)


def holds(view: View, compare: Compare) -> bool:
    """Whether every key that `compare` is about satisfies it.

    No such key: numbers compare as 0, a value satisfies nothing.
    """
    if not compare.key:
        raise KeyNotProvided
    by_value = compare.target == CompareTarget.VALUE
    found = view.range(compare.key, compare.range_end, _WHOLE if by_value else _KEYS_ONLY).kvs
    if not found:
        return not by_value and _satisfies(_MISSING, compare)
    return all(_satisfies(kv, compare) for kv in found)


def _satisfies(kv: KeyValue, compare: Compare) -> bool:
    """stored `result` operand. A result out of its enum is refused at the door."""
    order = _order(kv, compare)
    match compare.result:
        case CompareResult.EQUAL:
            return order == 0
        case CompareResult.GREATER:
            return order > 0
        case CompareResult.LESS:
            return order < 0
        case CompareResult.NOT_EQUAL:
            return order != 0
    return False


def _order(kv: KeyValue, compare: Compare) -> int:
    """Negative, 0 or positive, as what is stored is below, at or above the operand."""
    match compare.target:
        case CompareTarget.VALUE:
            return (kv.value > compare.value) - (kv.value < compare.value)
        case CompareTarget.VERSION:
            return kv.version - compare.version
        case CompareTarget.CREATE:
            return kv.create_revision - compare.create_revision
        case CompareTarget.MOD:
            return kv.mod_revision - compare.mod_revision
    return kv.lease - compare.lease


def check_path(store: Store, lessor: Lessor, request: TxnRequest, path: list[bool]) -> None:
    """Raise what forbids an operation on `path`, by the state before the txn.

    Revisions come last, as in etcd: whoever names an unknown lease and a compacted revision hears
    of the lease.
    """
    taken = list(_taken(request, iter(path)))
    for op in taken:
        if op.request_put is not None:
            check_put_applies(store, lessor, op.request_put)
        elif op.request_range is not None:
            check_range(op.request_range)
        elif op.request_delete_range is not None:
            check_delete_range(op.request_delete_range)
        else:
            raise KeyNotFound
    for op in taken:
        if op.request_range is not None:
            check_revision(store, op.request_range.revision)


def _taken(request: TxnRequest, path: Iterator[bool]) -> Iterator[RequestOp]:
    """The operations on `path` in their order, nested txns opened."""
    for op in request.success if next(path) else request.failure:
        if op.request_txn is None:
            yield op
        else:
            yield from _taken(op.request_txn, path)


def check_revision(store: Store, revision: int) -> None:
    """Compacted, FutureRevision. In a txn a negative revision is not "now" but one of the past, and
    a store never compacted has -1 for its compacted one.
    """
    if revision < 0 and revision < store.compact_rev:
        raise Compacted(revision, store.compact_rev)
    store.check_revision(revision)


def check_put_applies(store: Store, lessor: Lessor, request: PutRequest) -> None:
    """Raise what forbids this put: its own fields, an unknown lease, nothing there to keep a value
    or lease of.
    """
    check_put(request)
    if request.lease != NO_LEASE and not lessor.exists(request.lease):
        raise LeaseNotFound
    if (request.ignore_value or request.ignore_lease) and store.get(request.key) is None:
        raise KeyNotFound


class _Run:
    """The writing half of one txn."""

    def __init__(self, writing: WriteTxn, store: Store, hit: Callable[[str], None]) -> None:
        self._writing = writing
        self._store = store
        self._hit = hit

    def txn(self, request: TxnRequest, path: Iterator[bool]) -> TxnResponse:
        succeeded = next(path)
        branch = request.success if succeeded else request.failure
        responses = [self._op(op, path) for op in branch]
        return TxnResponse(self._writing.revision, succeeded, responses)

    def _op(
        self, op: RequestOp, path: Iterator[bool]
    ) -> RangeResponse | PutResponse | DeleteRangeResponse | TxnResponse:
        self._hit("apply.in_write")
        writing = self._writing
        request = the_request(op)
        if type(request) is PutRequest:
            prev_kv = execute_put(writing, self._store, request)
            return PutResponse(writing.revision, prev_kv)
        if type(request) is RangeRequest:
            self._store.counts.ranges += 1
            return execute_range(writing, request)
        if type(request) is DeleteRangeRequest:
            count, prev_kvs = execute_delete_range(writing, self._store, request)
            return DeleteRangeResponse(writing.revision, count, prev_kvs)
        assert type(request) is TxnRequest, "an op without a request was checked"
        return self.txn(request, path)


def execute_range(view: View, request: RangeRequest) -> RangeResponse:
    """Compacted, FutureRevision."""
    found = view.range(request.key, request.range_end, options_of(request))
    return RangeResponse(found.revision, found.kvs, found.more, found.count)


def options_of(request: RangeRequest) -> RangeOptions:
    return RangeOptions(
        request.revision,
        request.limit,
        request.sort_order,
        request.sort_target,
        request.keys_only,
        request.count_only,
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    )


def execute_put(writing: WriteTxn, store: Store, request: PutRequest) -> KeyValue | None:
    """Write one checked put. The pair before, if it was asked for and there was one."""
    key = request.key
    value = request.value
    lease = request.lease
    prev_kv = None
    if request.prev_kv or request.ignore_value:
        prev_kv = writing.get(key)
        if request.ignore_value and prev_kv is not None:
            value = prev_kv.value
    if request.ignore_lease:
        lease = store.lease_of(key)
    writing.put(key, value, lease)
    counts = store.counts
    counts.puts += 1
    counts.put_bytes += len(key) + len(value)
    return prev_kv if request.prev_kv else None


def execute_delete_range(
    writing: WriteTxn, store: Store, request: DeleteRangeRequest
) -> tuple[int, list[KeyValue]]:
    """Delete a range: how many keys, and the pairs if they were asked for, ascending."""
    deleted = writing.delete_range(request.key, request.range_end)
    store.counts.deletes += 1
    if not request.prev_kv:
        return len(deleted), []
    return len(deleted), store.read_many([revision for _, revision in deleted])
