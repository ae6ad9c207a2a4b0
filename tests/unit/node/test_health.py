"""Verdicts of /health, /livez and /readyz, and the reasons they give."""

from __future__ import annotations

import asyncio

import pytest

from node.api.health import Health
from node.apply.errors import LeaderChanged, RequestTimedOut
from node.apply.requests import RangeRequest
from node.apply.responses import Alarm
from tests.unit.node.fake_server import FakeServer


def health_of(server: FakeServer) -> Health:
    return Health(server)  # type: ignore[arg-type]


async def test_a_well_member() -> None:
    server = FakeServer()
    health = health_of(server)
    assert await health.health() == ""
    assert await health.livez() == (True, "ok\n")
    assert await health.readyz() == (True, "ok\n")
    assert (health.success, health.failures) == (1, 0)


@pytest.mark.parametrize(
    ("exclude", "reason"),
    [
        ((), "ALARM NOSPACE"),
        (("NOSPACE",), "ALARM CORRUPT"),
        (("NOSPACE", "CORRUPT"), ""),
    ],
)
async def test_alarms(exclude: tuple[str, ...], reason: str) -> None:
    server = FakeServer()
    server.alarms.raised = [Alarm(5, 1), Alarm(6, 2)]
    health = health_of(server)
    assert await health.health(exclude) == reason
    assert await health.health(exclude, serializable=True) == reason
    assert health.failures == (2 if reason else 0)


async def test_without_a_leader() -> None:
    server = FakeServer()
    server.leader = 0
    assert await health_of(server).health() == "RAFT NO LEADER"
    assert await health_of(server).health(serializable=True) == ""


async def test_alarms_come_before_the_leader_and_the_leader_before_the_read() -> None:
    server = FakeServer(failure=LeaderChanged())
    assert await health_of(server).health() == "RANGE ERROR:etcdserver: leader changed"
    server.leader = 0
    assert await health_of(server).health() == "RAFT NO LEADER"
    server.alarms.raised = [Alarm(5, 2)]
    assert await health_of(server).health() == "ALARM CORRUPT"


async def test_the_read_is_as_consistent_as_the_question() -> None:
    server = FakeServer()
    await health_of(server).health()
    await health_of(server).health(serializable=True)
    await health_of(server).livez()
    await health_of(server).readyz()
    reads = [request.serializable for request in server.asked]
    assert reads == [False, True, True, True, False]
    assert all(isinstance(request, RangeRequest) for request in server.asked)


async def test_ready_checks_one_by_one() -> None:
    server = FakeServer()
    server.alarms.raised = [Alarm(5, 1)]
    assert (await health_of(server).readyz()).ok, "NOSPACE does not count"
    server.alarms.raised = [Alarm(5, 2)]
    server.is_learner = True
    server.failure = RequestTimedOut()
    report = await health_of(server).readyz()
    assert not report.ok
    assert report.text.splitlines() == [
        "[-]data_corruption failed: alarm activated: CORRUPT",
        "[-]serializable_read failed: etcdserver: request timed out",
        "[-]linearizable_read failed: etcdserver: request timed out",
        "[-]non_learner failed: member is a learner",
        "readyz check failed",
    ]
    server.failure = None
    assert (await health_of(server).livez()).ok
    report = await health_of(server).readyz(["data_corruption", "non_learner"], verbose=True)
    assert report == (
        True,
        "[+]data_corruption excluded: ok\n[+]serializable_read ok\n[+]linearizable_read ok\n"
        "[+]non_learner excluded: ok\nok\n",
    )


async def test_single_checks() -> None:
    server = FakeServer()
    server.is_learner = True
    health = health_of(server)
    assert await health.single("readyz", "serializable_read") == (True, "ok\n")
    failed = await health.single("readyz", "non_learner")
    assert failed is not None
    assert not failed.ok
    assert await health.single("readyz", "nothing") is None
    assert await health.single("livez", "linearizable_read") is None
    assert health.verdicts == {"serializable_read": True, "non_learner": False}


async def test_an_answer_after_the_client_is_gone_is_dropped() -> None:
    server = FakeServer(hold=True)
    asking = asyncio.create_task(health_of(server).health())
    await server.asked_times(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    server.release()
