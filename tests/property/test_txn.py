"""Transactions against a model on one screen; equal logs on unlike members; a crash at every
place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import KeyValue
from mvcc.memory_backend import MemoryBackend
from node.apply import errors
from node.apply.checks import check
from node.apply.quota import PUT_OVERHEAD_BYTES, cost, puts_something
from node.apply.requests import (
    AlarmRequest,
    CompactionRequest,
    Compare,
    CompareTarget,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    Request,
    RequestOp,
    TxnRequest,
    encode,
)
from node.apply.responses import DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse
from tests.unit.node.apply_fixture import Crash, Machine

# -- requests over three keys and two leases; lease 9 is never granted

KEYS = st.sampled_from([b"a", b"b", b"c"])
ENDS = st.sampled_from([b"", b"", b"\0", b"c", b"b"])
VALUES = st.sampled_from([b"", b"1", b"2"])
LEASES = st.sampled_from([0, 0, 0, 7, 8, 9])
SMALL = st.integers(0, 3)

puts = st.one_of(
    st.builds(PutRequest, KEYS, VALUES, LEASES, st.booleans()),
    st.builds(PutRequest, KEYS, lease=LEASES, prev_kv=st.booleans(), ignore_value=st.just(True)),
    st.builds(PutRequest, KEYS, VALUES, prev_kv=st.booleans(), ignore_lease=st.just(True)),
)
ranges = st.builds(
    RangeRequest,
    KEYS,
    ENDS,
    limit=st.integers(-1, 2),
    revision=st.sampled_from([-1, 0, 0, 0, 1, 2, 3, 9]),
    keys_only=st.booleans(),
    count_only=st.booleans(),
)
deletes = st.builds(DeleteRangeRequest, KEYS, ENDS, st.booleans())
compares = st.builds(
    Compare, SMALL, st.integers(0, 4), KEYS, SMALL, SMALL, SMALL, VALUES, LEASES, ENDS
)


def txns_of(ops: st.SearchStrategy[RequestOp]) -> st.SearchStrategy[TxnRequest]:
    return st.builds(
        TxnRequest,
        st.lists(compares, max_size=2),
        st.lists(ops, max_size=3),
        st.lists(ops, max_size=2),
    )


ops = st.recursive(
    st.one_of(
        st.builds(RequestOp, request_put=puts),
        st.builds(RequestOp, request_range=ranges),
        st.builds(RequestOp, request_delete_range=deletes),
    ),
    lambda inner: st.builds(RequestOp, request_txn=txns_of(inner)),
    max_leaves=6,
)
txns = txns_of(ops)
logs = st.lists(
    st.one_of(
        txns,
        txns,
        puts,
        deletes,
        st.builds(CompactionRequest, st.integers(-1, 6)),
        st.builds(LeaseGrantRequest, st.just(10), st.sampled_from([7, 8])),
        st.builds(LeaseRevokeRequest, st.sampled_from([7, 8])),
        st.builds(AlarmRequest, st.sampled_from([1, 2, 2]), st.just(1), st.integers(1, 2)),
    ),
    max_size=8,
)


# -- the model: whole states by revision


class Model:
    """Executes the same requests in the plainest way; a refusal is the exception's type."""

    def __init__(self) -> None:
        self.states: list[dict[bytes, KeyValue]] = [{}, {}]
        self.compacted = -1
        self.leases: set[int] = set()

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def run(self, request: TxnRequest) -> TxnResponse | type[Exception]:
        before = self.states[-1]
        work = dict(before)
        refusals = list(self.refusals(request, before))
        if refusals:
            of_revisions = (Compacted, FutureRevision)
            return next((each for each in refusals if each not in of_revisions), refusals[0])
        written: list[bytes] = []
        response = self.txn(request, before, work, written)
        if written:
            self.states.append(work)
        return response

    def branch(self, request: TxnRequest, before: dict[bytes, KeyValue]) -> list[RequestOp]:
        holds = all(self.holds(compare, before) for compare in request.compare)
        return request.success if holds else request.failure

    def holds(self, compare: Compare, before: dict[bytes, KeyValue]) -> bool:
        by_value = compare.target == CompareTarget.VALUE
        found = self.select(compare.key, compare.range_end, before)
        if not found and by_value:
            return False
        name = ("version", "create_revision", "mod_revision", "value", "lease")[compare.target]
        operand = getattr(compare, name)
        stored = [getattr(kv, name) for kv in found] or [0]
        tests: list[Callable[[object], bool]] = [
            lambda x: x == operand,
            lambda x: x > operand,
            lambda x: x < operand,
            lambda x: x != operand,
        ]
        return all(tests[compare.result](each) for each in stored)

    def refusals(
        self, request: TxnRequest, before: dict[bytes, KeyValue]
    ) -> Iterator[type[Exception]]:
        for op in self.branch(request, before):
            if op.request_txn:
                yield from self.refusals(op.request_txn, before)
            elif op.request_put:
                put = op.request_put
                if put.lease and put.lease not in self.leases:
                    yield errors.LeaseNotFound
                if (put.ignore_value or put.ignore_lease) and put.key not in before:
                    yield errors.KeyNotFound
            elif op.request_range:
                if op.request_range.revision > self.revision:
                    yield FutureRevision
                if op.request_range.revision and op.request_range.revision < self.compacted:
                    yield Compacted

    def txn(
        self,
        request: TxnRequest,
        before: dict[bytes, KeyValue],
        work: dict[bytes, KeyValue],
        written: list[bytes],
    ) -> TxnResponse:
        branch = self.branch(request, before)
        holds = all(self.holds(compare, before) for compare in request.compare)
        responses = []
        for op in branch:
            if op.request_txn:
                responses.append(self.txn(op.request_txn, before, work, written))
            elif op.request_put:
                responses.append(self.put(op.request_put, work, written))
            elif op.request_delete_range:
                responses.append(self.delete(op.request_delete_range, work, written))
            else:
                responses.append(self.range(op.request_range, work, written))
        return TxnResponse(self.revision + bool(written), holds, responses)

    def put(
        self, request: PutRequest, work: dict[bytes, KeyValue], written: list[bytes]
    ) -> PutResponse:
        old = work.get(request.key)
        value, lease, main = request.value, request.lease, self.revision + 1
        if request.ignore_value:
            value = old.value if old else b""
        if request.ignore_lease:
            lease = old.lease if old else 0
        create, version = (old.create_revision, old.version + 1) if old else (main, 1)
        work[request.key] = KeyValue(request.key, value, create, main, version, lease)
        written.append(request.key)
        return PutResponse(main, old if request.prev_kv else None)

    def delete(
        self, request: DeleteRangeRequest, work: dict[bytes, KeyValue], written: list[bytes]
    ) -> DeleteRangeResponse:
        gone = self.select(request.key, request.range_end, work)
        for kv in gone:
            del work[kv.key]
            written.append(kv.key)
        revision = self.revision + bool(written)
        return DeleteRangeResponse(revision, len(gone), gone if request.prev_kv else [])

    def range(
        self, request: RangeRequest | None, work: dict[bytes, KeyValue], written: list[bytes]
    ) -> RangeResponse:
        assert request is not None
        state = self.states[request.revision] if request.revision > 0 else work
        kvs = self.select(request.key, request.range_end, state)
        count = len(kvs)
        more = 0 < request.limit < count and not request.count_only
        if request.limit > 0:
            kvs = kvs[: request.limit]
        if request.keys_only:
            kvs = [replace(kv, value=b"") for kv in kvs]
        if request.count_only:
            kvs = []
        return RangeResponse(self.revision + bool(written), kvs, more, count)

    @staticmethod
    def select(key: bytes, end: bytes, state: dict[bytes, KeyValue]) -> list[KeyValue]:
        if not end:
            return [state[key]] if key in state else []
        return [state[k] for k in sorted(state) if key <= k and (end == b"\0" or k < end)]


def outcome(result: object) -> object:
    return type(result) if isinstance(result, Exception) else result


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(txns, txns, st.integers(0, 6)), max_size=10), st.booleans())
def test_txns_do_what_the_model_does(steps: list[TxnRequest | int], decoded: bool) -> None:
    """An integer is a compaction at that revision."""
    machine, model = Machine(), Model()
    for lease in (7, 8):
        machine.apply(LeaseGrantRequest(10, lease))
        model.leases.add(lease)
    for step in steps:
        if isinstance(step, int):
            if not isinstance(machine.apply(CompactionRequest(step)), Exception):
                model.compacted = step
                finish(machine)
        else:
            assert outcome(machine.apply(step, decoded=decoded)) == model.run(step)
        machine.check()
        assert machine.store.current_rev == model.revision
    kvs = machine.store.range(b"\0", b"\0").kvs
    assert kvs == [model.states[-1][key] for key in sorted(model.states[-1])]


# -- cost


def paths(request: TxnRequest) -> list[list[PutRequest]]:
    """The puts of every way through `request`."""
    ways: list[list[PutRequest]] = []
    for branch in (request.success, request.failure):
        flat: list[list[PutRequest]] = [[]]
        for op in branch:
            if op.request_put:
                flat = [[*way, op.request_put] for way in flat]
            elif op.request_txn:
                flat = [way + inner for way in flat for inner in paths(op.request_txn)]
        ways += flat
    return ways


@settings(max_examples=100, deadline=None)
@given(txns)
def test_a_txn_costs_as_its_dearest_way_laid_out_flat(request: TxnRequest) -> None:
    flat = [TxnRequest(success=[RequestOp(request_put=p) for p in way]) for way in paths(request)]
    assert cost(request) == max(cost(each) for each in flat)
    assert cost(request) == max(
        sum(PUT_OVERHEAD_BYTES + len(p.key) + len(p.value) for p in way) for way in paths(request)
    )
    assert puts_something(request) == (cost(request) > 0)


# -- keys written twice

SHORT_KEYS = st.binary(min_size=1, max_size=2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SHORT_KEYS, st.binary(max_size=2)), max_size=6), SHORT_KEYS)
def test_a_put_meets_a_delete_as_the_ranges_one_by_one_say(
    spans: list[tuple[bytes, bytes]], key: bytes
) -> None:
    request = TxnRequest(
        success=[RequestOp(request_delete_range=DeleteRangeRequest(*span)) for span in spans]
        + [RequestOp(request_put=PutRequest(key))]
    )
    meets = any(key == start if not end else start <= key < end for start, end in spans)
    try:
        check(request)
    except errors.DuplicateKey:
        assert meets
    else:
        assert not meets


# -- equal logs on unlike members


def entries_of(log: list[Request]) -> list[bytes]:
    grants: list[Request] = [LeaseGrantRequest(10, 7)]
    return [encode(index, request) for index, request in enumerate(grants + log, 1)]


def finish(machine: Machine) -> None:
    """Step every compaction to its end."""
    while machine.jobs:
        machine.step_compaction(2)


def state_of(machine: Machine) -> tuple[object, ...]:
    """Everything a member could be told apart by, memory and rows."""
    machine.check()
    return (
        machine.store.current_rev,
        machine.store.compact_rev,
        machine.store.range(b"\0", b"\0").kvs,
        machine.hash_kv(),
        [machine.lessor.time_to_live(lease, keys=True) for lease in machine.lessor.leases()],
        machine.alarms.get(),
    )


@settings(max_examples=40, deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_members_that_flush_and_step_differently_stay_equal(log: list[Request], random) -> None:  # type: ignore[no-untyped-def]
    """One proposed everything and does everything at once; the other decodes, lags, restarts."""
    prompt, lazy = Machine(), Machine(MemoryBackend(hold=True))
    for index, data in enumerate(entries_of(log), 1):
        request = log[index - 2] if index > 1 else LeaseGrantRequest(10, 7)
        expected = prompt.entry(index, data, request)
        finish(prompt)
        assert outcome(lazy.entry(index, data)) == outcome(expected)
        if random.random() < 0.3:
            lazy.backend.commit()
            if lazy.jobs and random.random() < 0.5:
                lazy.step_compaction(random.randint(1, 3))
        if random.random() < 0.2:
            lazy.backend.commit()
            lazy = lazy.restarted()
    finish(lazy)
    assert state_of(lazy) == state_of(prompt)
    assert state_of(lazy.restarted()) == state_of(prompt)


# -- a crash at every place


def play(machine: Machine, entries: list[bytes], commits: set[int]) -> None:
    """Apply what the machine does not hold yet; commit after the entries in `commits`."""
    for index, data in enumerate(entries, 1):
        machine.entry(index, data)
        if index in commits:
            machine.backend.commit()


@settings(max_examples=25, deadline=None)
@given(logs, st.sets(st.integers(1, 9)))
def test_a_crash_anywhere_leaves_whole_entries(log: list[Request], commits: set[int]) -> None:
    entries = entries_of(log)
    places = 0

    def count(name: str) -> None:
        nonlocal places
        places += 1

    whole = Machine(MemoryBackend(hold=True), hit=count)
    play(whole, entries, commits)
    for place in range(places):
        left = place

        def hit(name: str) -> None:
            nonlocal left
            if left == 0:
                raise Crash
            left -= 1

        dying = Machine(MemoryBackend(hold=True), hit=hit)
        try:
            play(dying, entries, commits)
            raise AssertionError("it should have died")
        except Crash:
            pass
        found = Machine(dying.backend.crash())
        held = found.backend.applied()[0]
        prefix = Machine(MemoryBackend(hold=True))
        play(prefix, entries[:held], commits)
        assert state_of(found) == state_of(prefix), "nothing of the entry it died in"
        play(found, entries, commits)
        assert state_of(found) == state_of(whole)
