"""One member's state machine over a backend in memory."""

from __future__ import annotations

from collections.abc import Callable

from mvcc.compaction import Compaction
from mvcc.errors import MvccError
from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from node.apply.alarm import Alarms
from node.apply.applier import Applier
from node.apply.auth_store import AuthStore
from node.apply.errors import ApplyError
from node.apply.lessor import Lessor
from node.apply.members import Members
from node.apply.requests import Asker, PutRequest, Request, RequestOp, TxnRequest, encode


class Crash(Exception):
    """The process died at a failpoint."""


class Machine:
    """An applier, and the little that a server does around it: skip, count, end entries."""

    def __init__(
        self,
        backend: MemoryBackend | None = None,
        *,
        hit: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.backend = backend or MemoryBackend()
        self.store = Store(self.backend)
        for _ in self.store.restore():
            pass
        self.lessor = Lessor(self.backend)
        self.alarms = Alarms(self.backend)
        self.members = Members(self.backend)
        self.auth = AuthStore(self.backend, self.lessor)
        self.applier = Applier(
            self.store,
            self.backend,
            self.lessor,
            self.alarms,
            self.members,
            auth=self.auth,
            hit=hit,
        )
        self.applier.restore(self.store)
        self.jobs: list[Compaction] = []
        self.applier.on_compaction = self.jobs.append
        self.index = self.backend.applied()[0]

    def restarted(self) -> Machine:
        """Another process on what is durable; it takes up an unfinished compaction."""
        again = Machine(self.backend.crash())
        pending = again.store.pending_compaction()
        if pending is not None:
            again.jobs.append(pending)
        return again

    def apply(self, request: Request, asker: Asker = None, *, decoded: bool = True) -> object:
        """Execute `request` as the next entry of the log; its response, or the exception returned.

        `decoded` False: as a member that did not propose it.
        """
        data = encode(self.index + 1, request, asker)
        return self.entry(self.index + 1, data, request if decoded else None)

    def entry(self, index: int, data: bytes, request: Request | None = None) -> object:
        """Execute one entry, unless the backend holds it already."""
        if index <= self.backend.applied()[0]:
            return None
        result = self.applier.apply_normal(index, 1, data, request)
        self.backend.end_entries(index, 1)
        self.index = index
        return result

    def step_compaction(self, rows: int) -> None:
        """One step of the oldest unfinished compaction, between two entries."""
        if self.jobs[0].step(rows):
            self.jobs.pop(0)
        self.backend.end_entries(*self.backend.applied())

    def put(self, key: bytes, value: bytes = b"", **fields: int | bool) -> object:
        return self.apply(PutRequest(key, value, **fields))  # type: ignore[arg-type]

    def value(self, key: bytes) -> bytes | None:
        kv = self.store.get(key)
        return None if kv is None else kv.value

    def keys(self) -> list[bytes]:
        return [kv.key for kv in self.store.range(b"\0", b"\0").kvs]

    def hash_kv(self) -> int:
        """Over everything applied, durable or not."""
        self.backend.force_commit()
        if self.backend.hold:
            self.backend.commit()
        for step in self.store.hash_kv(self.backend.snapshot()):
            if step is not None:
                return step.hash
        raise AssertionError("a hash without a result")

    def check(self) -> None:
        self.store.check_invariants()
        self.lessor.check_invariants(self.store.leases)
        self.alarms.check_invariants()
        self.members.check_invariants()
        self.auth.check_invariants()


def refused(result: object) -> type[Exception]:
    """The type of a refusal; fails for a response."""
    assert isinstance(result, ApplyError | MvccError), result
    return type(result)


def put_op(key: bytes, value: bytes = b"", **fields: int | bool) -> RequestOp:
    return RequestOp(request_put=PutRequest(key, value, **fields))  # type: ignore[arg-type]


def txn_op(success: list[RequestOp], failure: list[RequestOp] | None = None) -> RequestOp:
    return RequestOp(request_txn=TxnRequest([], success, failure or []))
