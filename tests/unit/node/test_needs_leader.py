"""`Grpc-Metadata-hasleader: true`: whoever says it is not served by a member without a leader."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from node.apply.requests import LeaseGrantRequest
from tests.unit.node.lone_member import LoneMember
from tests.unit.node.test_access_matrix import TABLE, Row

NO_LEADER = (503, "etcdserver: no leader")


@pytest.fixture
async def member() -> AsyncIterator[LoneMember]:
    member = LoneMember()
    await member.change(LeaseGrantRequest(60, 7))
    await member.start()
    yield member
    await member.stop()


async def told(member: LoneMember, row: Row, **headers: str) -> tuple[int, str]:
    status, answer = await member.ask(row.path, row.body, **headers)
    error = answer.get("error", "")
    return status, error["message"] if isinstance(error, dict) else error


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.path)
async def test_every_route_refuses(member: LoneMember, row: Row) -> None:
    member.driver.leader = 0
    for way in ({}, {"Connection": "close"}):
        assert await told(member, row, Grpc_Metadata_hasleader="true", **way) == NO_LEADER


async def test_who_does_not_say_it_is_served(member: LoneMember) -> None:
    read = Row(None, "/kv/range", {"key": "YQ==", "serializable": True})  # type: ignore[arg-type]
    assert await told(member, read, Grpc_Metadata_hasleader="true") == (200, "")
    member.driver.leader = 0
    for headers in ({}, {"Grpc_Metadata_hasleader": "TRUE"}, {"Grpc_Metadata_hasleader": ""}):
        assert await told(member, read, **headers) == (200, "")


async def test_when_a_leader_counts_as_lost() -> None:
    member = LoneMember(election_timeout=1000, heartbeat_interval=100)
    server, now = member.server, member.server._led_at
    server._loop = SimpleNamespace(time=lambda: now)  # type: ignore[assignment]
    server.backend.poll = lambda: None
    lost = []
    for leader, passed in ((0, 2.9), (0, 0.2), (5, 0.1), (0, 2.9), (0, 0.2)):
        member.driver.leader = leader
        now += passed
        server.sweep()
        lost.append(server.leaderless)
    assert lost == [False, True, False, False, True]
