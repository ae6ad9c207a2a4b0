"""Corruption checks: who is suspected, and which answers may be compared."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mvcc.errors import Compacted, FutureRevision
from mvcc.hash_kv import HashKV
from node.apply.requests import AlarmAction, AlarmRequest, AlarmType
from node.corruption_check import (
    HASHES_MAX,
    CorruptionCheck,
    CorruptMember,
    HashAnswer,
    HashQuestion,
    differing,
)
from node.peer_calls import PeerCall, PeerCalls
from raft.transport import CallFailed, PeerUnavailable

OWN, B, C = 1, 2, 3


@pytest.mark.parametrize(
    ("hashes", "members", "suspects"),
    [
        ({1: 5}, 1, []),
        ({1: 5}, 3, []),
        ({1: 5, 2: 5}, 3, []),
        ({1: 5, 2: 5, 3: 5}, 3, []),
        ({1: 5, 2: 5, 3: 6}, 3, [3]),
        ({1: 6, 2: 5, 3: 5}, 3, [1]),
        ({1: 5, 2: 6}, 2, [0]),
        ({1: 5, 2: 6}, 3, [0]),
        ({1: 5, 2: 6, 3: 7}, 3, [0]),
        ({1: 5, 2: 5, 3: 6, 4: 7}, 5, [0]),
        ({1: 5, 2: 5, 3: 5, 4: 6, 5: 7}, 5, [4, 5]),
        ({1: 5, 2: 5, 3: 6, 4: 6}, 4, [0]),
    ],
)
def test_who_differs(hashes: dict[int, int], members: int, suspects: list[int]) -> None:
    """A majority is one of all members, not only of those that answered."""
    assert differing(hashes, members) == suspects


class Server:
    """The leader of three members at revision 20; `answers` are the others'."""

    def __init__(self) -> None:
        self.member_id, self.is_leader = OWN, True
        rows = [SimpleNamespace(ID=number) for number in (OWN, B, C)]
        self.members = SimpleNamespace(list=lambda: rows)
        self.raised: list[AlarmRequest] = []
        self.alarms = SimpleNamespace(raised=lambda member, alarm: member in self.old_alarms)
        self.old_alarms: set[int] = set()
        self.store = SimpleNamespace(current_rev=20, compact_rev=10)
        self.maintenance = SimpleNamespace(hash_kv=self._hash)
        self.own: Any = [HashKV(5, 20, 10, 20)]
        self.peer_calls = PeerCalls()
        self.peer_calls.transport = SimpleNamespace(call=self._call)  # type: ignore[assignment]
        self.answers: dict[int, HashAnswer | Exception] = {
            B: HashAnswer(5, 10, 20, 10),
            C: HashAnswer(5, 10, 20, 10),
        }
        self.asked: list[int] = []

    async def _hash(self, revision: int) -> HashKV:
        value = self.own.pop(0) if len(self.own) > 1 else self.own[0]
        if isinstance(value, Exception):
            raise value
        return value

    async def _call(self, member: int, kind: int, body: bytes, seconds: float) -> bytes:
        assert kind == PeerCall.HASH_KV
        self.asked.append(msgspec.msgpack.decode(body, type=HashQuestion).revision)
        answer = self.answers[member]
        if isinstance(answer, Exception):
            raise answer
        return msgspec.msgpack.encode(answer)

    def linearizable(self, done: Any) -> None:
        done(None)

    def propose(self, request: AlarmRequest, done: Any, asker: Any) -> None:
        self.raised.append(request)

    @property
    def suspects(self) -> list[int]:
        for request in self.raised:
            assert (request.action, request.alarm) == (AlarmAction.ACTIVATE, AlarmType.CORRUPT)
        return [request.memberID for request in self.raised]


async def checked(server: Any) -> list[int]:
    await CorruptionCheck(server).check_now()
    suspects: list[int] = server.suspects
    return suspects


async def test_equal_members_raise_nothing() -> None:
    server = Server()
    assert await checked(server) == []
    assert server.asked == [20, 20]


@pytest.mark.parametrize(
    ("answer", "suspects"),
    [
        (HashAnswer(6, 10, 20, 10), [C]),
        (HashAnswer(6, 11, 20, 11), [C]),  # not comparable, but ahead in compactions
        (HashAnswer(6, 9, 20, 9), []),
        (HashAnswer(5, 10, 21, 10), [C]),
        (HashAnswer(None, 0, 19, 10), []),
        (PeerUnavailable("no"), []),
        (CallFailed("no"), []),
    ],
)
async def test_one_answer_among_good_ones(
    answer: HashAnswer | Exception, suspects: list[int]
) -> None:
    server = Server()
    server.answers[C] = answer
    assert await checked(server) == suspects


async def test_no_majority_names_nobody() -> None:
    server = Server()
    server.answers = {B: HashAnswer(6, 10, 20, 10), C: PeerUnavailable("no")}
    assert await checked(server) == [0]


async def test_an_alarm_is_raised_once() -> None:
    server = Server()
    server.answers[C] = HashAnswer(6, 10, 20, 10)
    server.old_alarms = {C}
    assert await checked(server) == []


async def test_a_hash_that_changes_by_itself_accuses_its_member() -> None:
    server = Server()
    server.own = [HashKV(5, 20, 10, 20), HashKV(6, 20, 10, 20)]
    assert await checked(server) == [OWN]


@pytest.mark.parametrize("error", [Compacted(20, 21), FutureRevision(20, 19)])
async def test_a_compaction_between_the_hashes_is_no_failure(error: Exception) -> None:
    server = Server()
    server.own = [HashKV(5, 20, 10, 20), error]
    assert await checked(server) == []
    server = Server()
    server.own = [error]
    assert await checked(server) == []


async def test_only_the_leader_checks() -> None:
    server = Server()
    server.is_leader = False
    assert await checked(server) == []
    assert server.asked == []


async def test_at_the_start_any_other_history_is_refused() -> None:
    server: Any = Server()
    await CorruptionCheck(server).check_at_start()
    server = Server()
    server.answers[B] = HashAnswer(6, 10, 20, 10)
    with pytest.raises(CorruptMember, match="differ at revision 20 from those of 2"):
        await CorruptionCheck(server).check_at_start()


async def test_hashes_of_compactions_are_kept_and_given_and_forgotten() -> None:
    server: Any = Server()
    server.config = SimpleNamespace(
        corrupt_check_time=0, compact_hash_check_enabled=True, compact_hash_check_time=60_000
    )
    check = CorruptionCheck(server)
    running = asyncio.create_task(check.run())
    for revision in range(1, HASHES_MAX + 3):
        server.own = [HashKV(100 + revision, revision, revision, 20)]
        check.compaction_finished(revision)
        await asyncio.sleep(0.001)
    server.own = [Compacted(1, 2)]

    async def answer(revision: int) -> int | None:
        body = msgspec.msgpack.encode(HashQuestion(revision))
        told = await server.peer_calls.serve(B, PeerCall.HASH_KV, body)
        return msgspec.msgpack.decode(told, type=HashAnswer).hash

    assert [await answer(number) for number in (2, 3, 12)] == [None, 103, 112]
    with pytest.raises(CallFailed):
        await answer(0)
    server.answers = {B: HashAnswer(112, 12, 20, 10), C: HashAnswer(7, 12, 20, 10)}
    await check.check_compactions()
    await check.check_compactions()
    assert server.suspects == [C]
    assert server.asked == [12, 12], "each compaction is compared once"
    server.store = SimpleNamespace(current_rev=20, compact_rev=10)
    assert await answer(12) is None, "a snapshot brought another store"
    running.cancel()


async def test_a_compaction_may_end_while_others_are_compared() -> None:
    """The others are asked about compactions 3 and 2, and number 4 comes between."""
    server: Any = Server()
    check = CorruptionCheck(server)
    check._kept().extend(HashKV(100 + number, number, number, 20) for number in (2, 3))
    server.answers = {B: HashAnswer(None, 0, 20, 10), C: PeerUnavailable("down")}
    calling = server.peer_calls.transport.call

    async def call(*asked: object) -> bytes:
        check._kept().append(HashKV(104, 4, 4, 20))
        return await calling(*asked)

    server.peer_calls.transport.call = call
    await check.check_compactions()
    assert (server.asked, server.suspects) == ([3, 3, 2, 2], [])
