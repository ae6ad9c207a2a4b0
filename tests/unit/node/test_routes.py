"""The surface, and what the services behind it ask of the server."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.lease import Lease, random_id
from node.api.messages import LeaseTimeToLiveRequest, MemberListRequest
from node.api.routes import Routes
from node.apply.errors import LeaseTtlTooLarge, NoLeader, TooManyOps
from node.apply.requests import (
    CompactionRequest,
    LeaseGrantRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.metrics import Metrics
from tests.unit.node.fake_server import FakeConfig, FakeServer

PATHS = [
    "/kv/range",
    "/kv/put",
    "/kv/deleterange",
    "/kv/txn",
    "/kv/compaction",
    "/lease/grant",
    "/lease/revoke",
    "/lease/timetolive",
    "/lease/leases",
    "/kv/lease/revoke",
    "/kv/lease/timetolive",
    "/kv/lease/leases",
    "/cluster/member/add",
    "/cluster/member/list",
    "/cluster/member/promote",
    "/cluster/member/remove",
    "/cluster/member/update",
    "/maintenance/alarm",
    "/maintenance/status",
    "/maintenance/defragment",
    "/maintenance/hash",
    "/maintenance/hashkv",
    "/maintenance/transfer-leadership",
    "/lock/lock",
    "/lock/unlock",
    "/election/campaign",
    "/election/proclaim",
    "/election/leader",
    "/election/resign",
]

STREAMS = ["/maintenance/snapshot", "/election/observe"]


def routes_of(server: FakeServer) -> Routes:
    return Routes(server, lambda work, done: work.close(), Metrics())  # type: ignore[arg-type]


def ask(serve: Any, request: Any) -> Any:
    """The one answer of a call that is answered at once."""
    answers: list[Any] = []
    serve(request, None, answers.append)
    (answer,) = answers
    return answer


def test_the_surface() -> None:
    routes = routes_of(FakeServer())
    for table, paths in ((routes.unary, PATHS), (routes.streams, STREAMS)):
        assert set(table) == {f"/{v}{p}".encode() for v in ("v3", "v3beta") for p in paths}
    names = [method.name for method in routes.methods()]
    assert len(names) == len(set(names))
    assert routes.unary[b"/v3/kv/lease/leases"] is routes.unary[b"/v3beta/lease/leases"]


@pytest.mark.parametrize("path", PATHS)
def test_every_call_takes_an_empty_body(path: str) -> None:
    method = routes_of(FakeServer()).unary[b"/v3" + path.encode()]
    assert type(method.decode(b"")) is type(method.decode(b"{}"))


def test_members_have_no_revision_in_their_header() -> None:
    routes = routes_of(FakeServer())
    members = routes.unary[b"/v3/cluster/member/list"]
    answer = ask(members.serve, MemberListRequest())
    assert b'"revision"' not in members.encode(answer)
    assert [member.name for member in answer.members] == ["", "one"]


def test_a_linearizable_member_list_waits_for_the_leader() -> None:
    server = FakeServer(unreadable=NoLeader())
    members = routes_of(server).unary[b"/v3/cluster/member/list"].serve
    assert isinstance(ask(members, MemberListRequest(linearizable=True)), NoLeader)
    assert len(ask(members, MemberListRequest()).members) == 2


def test_the_limit_of_a_txn_is_the_members() -> None:
    serve = routes_of(FakeServer(FakeConfig(max_txn_ops=0))).unary[b"/v3/kv/txn"].serve
    with pytest.raises(TooManyOps):
        ask(serve, TxnRequest([], [RequestOp(request_range=RangeRequest(b"a"))]))


def test_a_compaction_keeps_its_physical() -> None:
    server = FakeServer()
    request = CompactionRequest(1, True)
    ask(routes_of(server).unary[b"/v3/kv/compaction"].serve, request)
    assert server.asked == [request]


@pytest.mark.parametrize(
    ("election_ms", "asked", "granted"),
    [(1000, 0, 2), (1000, -5, 2), (1000, 2, 2), (1000, 3, 3), (200, 0, 1), (667, 1, 2)],
)
def test_the_floor_of_a_ttl_is_one_and_a_half_elections(
    election_ms: int, asked: int, granted: int
) -> None:
    lease = Lease(FakeServer(FakeConfig(election_timeout=election_ms)))  # type: ignore[arg-type]
    assert granted == ask(lease.grant, LeaseGrantRequest(asked, 7)).TTL


def test_a_lease_without_an_id_gets_one() -> None:
    server = FakeServer()
    lease = Lease(server, new_id=lambda: 77)  # type: ignore[arg-type]
    assert ask(lease.grant, LeaseGrantRequest(60)).ID == 77
    assert ask(lease.grant, LeaseGrantRequest(60, -3)).ID == -3
    assert all(0 < random_id() < 2**63 for _ in range(100))
    with pytest.raises(LeaseTtlTooLarge):
        ask(lease.grant, LeaseGrantRequest(9_000_000_001, 8))
    assert len(server.asked) == 2


def test_time_to_live() -> None:
    server = FakeServer()
    lease = Lease(server)  # type: ignore[arg-type]
    server.lessor.granted[7] = 60
    answer = ask(lease.time_to_live, LeaseTimeToLiveRequest(7))
    assert (answer.ID, answer.TTL, answer.grantedTTL, answer.keys) == (7, 59, 60, [])
    assert ask(lease.time_to_live, LeaseTimeToLiveRequest(7, True)).keys == [b"a", b"b"]
    unknown = ask(lease.time_to_live, LeaseTimeToLiveRequest(8, True))
    assert (unknown.ID, unknown.TTL, unknown.grantedTTL, unknown.keys) == (8, -1, 0, [])
    server.unreadable = NoLeader()
    assert isinstance(ask(lease.time_to_live, LeaseTimeToLiveRequest(7)), NoLeader)
