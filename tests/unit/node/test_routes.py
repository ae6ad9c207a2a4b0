"""The surface, and what the services behind it ask of the server."""

from __future__ import annotations

from typing import Any

import pytest

from node.api.messages import EmptyMessage, MemberListRequest
from node.api.methods import ANONYMOUS
from node.api.routes import Routes
from node.apply.errors import LearnerRefused, NoLeader, TooManyOps
from node.apply.requests import (
    CompactionRequest,
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
    "/maintenance/downgrade",
    "/maintenance/transfer-leadership",
    "/auth/enable",
    "/auth/disable",
    "/auth/status",
    "/auth/authenticate",
    "/auth/user/add",
    "/auth/user/get",
    "/auth/user/list",
    "/auth/user/delete",
    "/auth/user/changepw",
    "/auth/user/grant",
    "/auth/user/revoke",
    "/auth/role/add",
    "/auth/role/get",
    "/auth/role/list",
    "/auth/role/delete",
    "/auth/role/grant",
    "/auth/role/revoke",
    "/lock/lock",
    "/lock/unlock",
    "/election/campaign",
    "/election/proclaim",
    "/election/leader",
    "/election/resign",
]

STREAMS = ["/maintenance/snapshot", "/election/observe"]
DUPLEXES = ["/watch", "/lease/keepalive"]


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
    tables = (
        (routes.unary, PATHS),
        (routes.streams, STREAMS),
        (routes.duplexes, DUPLEXES),
    )
    for table, paths in tables:
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


def test_a_learner_answers_its_status_and_serializable_ranges() -> None:
    server = FakeServer()
    server.is_learner = True
    routes = routes_of(server)
    for method in routes.unary.values():
        if method.name in ("KV/Range", "Maintenance/Status"):
            continue
        with pytest.raises(LearnerRefused):
            method.serve(None, None, lambda result: None)
    for duplex in routes.duplexes.values():
        with pytest.raises(LearnerRefused):
            duplex.open(None, ANONYMOUS)  # type: ignore[arg-type]
    status = routes.unary[b"/v3/maintenance/status"]
    assert ask(status.serve, EmptyMessage()).isLearner
