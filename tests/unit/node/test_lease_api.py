"""The lease service: ids, floors, time left, and the keep-alive stream over a sink of lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest

from node.api.errors import FAILED_PRECONDITION, PERMISSION_DENIED, UNAVAILABLE, Refusal
from node.api.keep_alive import OUTSTANDING_MAX, KeepAlive
from node.api.lease import Lease, random_id
from node.api.messages import (
    EmptyMessage,
    LeaseKeepAliveRequest,
    LeaseStatus,
    LeaseTimeToLiveRequest,
)
from node.api.methods import ANONYMOUS
from node.apply import errors
from node.apply.requests import Identity, LeaseGrantRequest
from tests.unit.node.fake_server import FakeConfig, FakeServer

ALICE = Identity("alice", 1)


class FakeAuth:
    """Everybody is alice, who has no permission for `closed`."""

    enabled = True

    def __init__(self, closed: bytes = b"") -> None:
        self.closed = closed
        self.asked: list[tuple[list[bytes], bool]] = []

    def identify(self, token: str, common_name: str) -> Identity:
        return ALICE

    def check_keys(self, identity: Identity, keys: Iterable[bytes], *, write: bool) -> None:
        assert identity is ALICE
        self.asked.append((list(keys), write))
        if self.closed in keys:
            raise errors.PermissionDenied


class FakeSink:
    def __init__(self) -> None:
        self.full = False
        self.lines: list[dict[str, Any]] = []
        self.told: list[Refusal | None] = []

    def send(self, messages: Sequence[bytes]) -> None:
        self.lines += [json.loads(message) for message in messages]

    def finish(self, told: Refusal | None = None) -> None:
        self.told.append(told)


def spawn(work: Coroutine[Any, Any, Any], done: Callable[[object], None]) -> Callable[[], object]:
    async def run() -> None:
        try:
            result = await work
        except Exception as error:
            done(error)
        else:
            done(result)

    return asyncio.get_running_loop().create_task(run()).cancel


def service(server: FakeServer, **options: Any) -> Lease:
    return Lease(server, spawn, **options)  # type: ignore[arg-type]


def ask(serve: Any, request: Any, asker: Identity | None = None) -> Any:
    """The one answer of a call that is answered at once."""
    answers: list[Any] = []
    serve(request, asker, answers.append)
    (answer,) = answers
    return answer


def stream(server: FakeServer, *granted: int) -> tuple[KeepAlive, FakeSink]:
    for number in granted:
        server.lessor.granted[number] = 60
    sink = FakeSink()

    def encode(response: Any) -> bytes:
        return json.dumps({"ID": response.ID, "TTL": response.TTL}).encode()

    return service(server).keep_alive(sink, ANONYMOUS, encode), sink


def tell(session: KeepAlive, *numbers: int, end: bool = True) -> None:
    for number in numbers:
        session.receive(LeaseKeepAliveRequest(number))
    if end:
        session.end_of_input()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def lines(*pairs: tuple[int, int]) -> list[dict[str, int]]:
    return [{"ID": number, "TTL": ttl} for number, ttl in pairs]


# -- unary


@pytest.mark.parametrize(
    ("election_ms", "asked", "granted"),
    [(1000, 0, 2), (1000, -5, 2), (1000, 2, 2), (1000, 3, 3), (200, 0, 1), (667, 1, 2)],
)
def test_the_floor_of_a_ttl_is_one_and_a_half_elections(
    election_ms: int, asked: int, granted: int
) -> None:
    lease = service(FakeServer(FakeConfig(election_timeout=election_ms)))
    assert granted == ask(lease.grant, LeaseGrantRequest(asked, 7)).TTL


def test_a_lease_without_an_id_gets_one() -> None:
    server = FakeServer()
    lease = service(server, new_id=lambda: 77)
    assert ask(lease.grant, LeaseGrantRequest(60)).ID == 77
    assert ask(lease.grant, LeaseGrantRequest(60, -3)).ID == -3
    assert all(0 < random_id() < 2**63 for _ in range(100))
    with pytest.raises(errors.LeaseTtlTooLarge):
        ask(lease.grant, LeaseGrantRequest(9_000_000_001, 8))
    assert len(server.asked) == 2


def test_time_to_live() -> None:
    server = FakeServer()
    lease = service(server)
    server.lessor.granted[7] = 60
    answer = ask(lease.time_to_live, LeaseTimeToLiveRequest(7))
    assert (answer.ID, answer.TTL, answer.grantedTTL, answer.keys) == (7, 59, 60, [])
    assert ask(lease.time_to_live, LeaseTimeToLiveRequest(7, True)).keys == [b"a", b"b"]
    unknown = ask(lease.time_to_live, LeaseTimeToLiveRequest(8, True))
    assert (unknown.ID, unknown.TTL, unknown.grantedTTL, unknown.keys) == (8, -1, 0, [])
    server.unreadable = errors.NoLeader()
    assert isinstance(ask(lease.time_to_live, LeaseTimeToLiveRequest(7)), errors.NoLeader)


async def test_time_to_live_by_another_members_clock() -> None:
    server = FakeServer()
    server.lessor.granted[7] = 60
    server.leases.away = True
    answers: list[Any] = []
    service(server).time_to_live(LeaseTimeToLiveRequest(7, True), None, answers.append)
    assert answers == []
    await turns()
    assert [(a.TTL, a.grantedTTL, a.keys) for a in answers] == [(59, 60, [b"a", b"b"])]


def test_keys_and_leases_need_permission_to_read_the_keys() -> None:
    server = FakeServer()
    server.lessor.granted[7] = 60
    server.auth = FakeAuth(closed=b"b")
    lease = service(server)
    assert ask(lease.time_to_live, LeaseTimeToLiveRequest(7), ALICE).TTL == 59
    refused = ask(lease.time_to_live, LeaseTimeToLiveRequest(7, True), ALICE)
    assert isinstance(refused, errors.PermissionDenied)
    with pytest.raises(errors.PermissionDenied):
        ask(lease.leases, EmptyMessage(), ALICE)
    server.auth.closed = b""
    assert ask(lease.leases, EmptyMessage(), ALICE).leases == [LeaseStatus(7)]
    assert server.auth.asked[-1] == ([b"a", b"b"], False)


# -- the stream


def test_a_leader_answers_each_message_at_once() -> None:
    session, sink = stream(FakeServer(), 7, 8)
    tell(session, 7, 9, end=False)
    assert sink.lines == lines((7, 60), (9, 0))
    tell(session, 8)
    assert sink.lines == lines((7, 60), (9, 0), (8, 60))
    assert sink.told == [None]


async def test_what_waits_for_the_leader_travels_together_and_is_answered_in_order() -> None:
    server = FakeServer()
    server.leases.away = True
    server.leases.answer = asyncio.get_running_loop().create_future()
    session, sink = stream(server, 7, 8)
    tell(session, 7, end=False)
    tell(session, 9, 8, 7)
    await turns()
    assert (server.leases.asked, sink.lines, sink.told) == ([[7]], [], [])
    server.leases.answer.set_result([60])
    server.leases.answer = None
    await turns()
    assert server.leases.asked == [[7], [9, 8, 7]]
    assert sink.lines == lines((7, 60), (9, 0), (8, 60), (7, 60))
    assert sink.told == [None]


async def test_an_error_of_the_leader_ends_the_stream_after_the_answers_before_it() -> None:
    server = FakeServer()
    session, sink = stream(server, 7)
    tell(session, 7, end=False)
    server.leases.away = True
    server.leases.answer = asyncio.get_running_loop().create_future()
    server.leases.answer.set_exception(errors.RequestTimedOut())
    tell(session, 7, 7)
    await turns()
    assert sink.lines == lines((7, 60))
    assert [told.code for told in sink.told if told][:1] == [UNAVAILABLE]


async def test_a_client_that_leaves_is_not_answered() -> None:
    server = FakeServer()
    server.leases.away = True
    server.leases.answer = asyncio.get_running_loop().create_future()
    session, sink = stream(server, 7)
    tell(session, 7, 7, end=False)
    await turns()
    session.close()
    await turns()
    assert server.leases.answer.cancelled()
    assert (sink.lines, sink.told) == ([], [])


def test_a_client_that_does_not_read_is_waited_for() -> None:
    session, sink = stream(FakeServer(), 7)
    sink.full = True
    tell(session, *[7] * OUTSTANDING_MAX, end=False)
    with pytest.raises(errors.TooManyRequests):
        session.receive(LeaseKeepAliveRequest(7))
    session.end_of_input()
    assert (sink.lines, sink.told) == ([], [])
    sink.full = False
    session.resume()
    assert len(sink.lines) == OUTSTANDING_MAX
    assert sink.told == [None]


def test_renewing_needs_permission_to_write_the_keys() -> None:
    server = FakeServer()
    server.auth = FakeAuth()
    session, sink = stream(server, 7)
    tell(session, 7, 8, end=False)
    assert server.auth.asked == [([b"a", b"b"], True)]
    server.auth.closed = b"b"
    tell(session, 7, end=False)
    assert sink.lines == lines((7, 60), (8, 0))
    assert [told and told.code for told in sink.told] == [PERMISSION_DENIED]


async def test_permission_is_judged_by_what_the_leader_knows() -> None:
    """A member that lags behind may not know the lease, or its keys."""
    server = FakeServer(hold=True)
    server.auth = FakeAuth(closed=b"b")
    server.leases.away = True
    session, sink = stream(server)
    tell(session, 7, end=False)
    await turns()
    server.lessor.granted[7] = 60
    server.release()
    await turns()
    assert [told and told.code for told in sink.told] == [PERMISSION_DENIED]
    assert (sink.lines, server.leases.asked) == ([], [])


def test_a_learner_renews_nothing() -> None:
    server = FakeServer()
    server.is_learner = True
    session, sink = stream(server, 7)
    tell(session, 7, end=False)
    assert [told and told.code for told in sink.told] == [FAILED_PRECONDITION]
    assert sink.lines == []
