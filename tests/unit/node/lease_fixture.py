"""One member's leases without raft: the test says what is confirmed, applied, and who leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mvcc.memory_backend import MemoryBackend
from node.apply.lessor import Lessor
from node.apply.requests import CLUSTER, LeaseCheckpointRequest, LeaseExpireRequest
from node.leases import Leases
from node.peer_calls import PeerCall
from node.waiting import answer_of

OWN, OTHER = 1, 2


class FakePeers:
    """Answers of the other members, by the order they are asked for."""

    def __init__(self) -> None:
        self.handlers: dict[PeerCall, Callable[[int, Any], Any]] = {}
        self.asked: list[tuple[int, PeerCall, Any]] = []
        self.answers: list[Any] = []

    def answer(self, kind: PeerCall, question: type, handler: Callable[[int, Any], Any]) -> None:
        self.handlers[kind] = handler

    async def ask(
        self, member: int, kind: PeerCall, question: Any, answer: type, seconds: float
    ) -> Any:
        self.asked.append((member, kind, question))
        result = self.answers.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


class FakeServer:
    """One member whose log is a list: `apply` answers the oldest proposal, `confirm` all reads."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            request_timeout=7.0, election_timeout=1000, heartbeat_interval=100
        )
        self.lessor = Lessor(MemoryBackend())
        self.peer_calls = FakePeers()
        self.replica = SimpleNamespace()
        self.member_id = OWN
        self.leader = 0
        self.proposed: list[tuple[Any, Any]] = []
        self.reads: list[Any] = []
        self.now = 1000.0
        self.leases = Leases(self, lambda: self.now, checkpoint_ms=10_000)  # type: ignore[arg-type]

    def propose(self, request: Any, done: Any, asker: Any) -> None:
        assert asker is CLUSTER
        self.proposed.append((request, done))

    def linearizable(self, done: Any) -> None:
        self.reads.append(done)

    async def call(self, method: Any, request: Any, asker: Any = CLUSTER) -> Any:
        return await answer_of(lambda done: method(request, done, asker))

    # -- what a test calls

    def lead(self, term: int = 1) -> None:
        self.leader = OWN
        self.replica.on_role(True, term)
        self.replica.on_term(term)

    def follow(self, leader: int = OTHER, term: int = 2) -> None:
        self.leader = leader
        self.replica.on_role(False, term)

    def confirm(self, error: Exception | None = None) -> None:
        reads, self.reads = self.reads, []
        for done in reads:
            done(error)

    def apply(self, error: Exception | None = None) -> Any:
        request, done = self.proposed.pop(0)
        if error is None and isinstance(request, LeaseExpireRequest):
            self.lessor.revoke(request.ID)
        if error is None and isinstance(request, LeaseCheckpointRequest):
            for each in request.checkpoints:
                self.lessor.checkpoint(each.ID, each.remaining_ttl)
        done(error)
        return request

    def pass_time(self, seconds: float, step: float = 0.05) -> None:
        """As the loop of a process that is never late."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.leases.beat()


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
