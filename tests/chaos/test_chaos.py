"""A short run of a few faults on real members, and the parts it is made of."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.chaos import disks
from tests.chaos.arena import Arena
from tests.chaos.report import recoveries
from tests.chaos.run import Settings, run
from tests.chaos.verdict import judge
from tests.cluster.client import NO_ANSWER, ApiError
from tests.cluster.harness import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NEAR = ("kill-leader", "kill-all", "isolate-leader", "mute-leader", "bridge", "replace-member")


def test_a_short_run_is_legal(tmp_path: Path) -> None:
    settings = Settings(seconds=25, seed=1, rate=80, writers=4, hold_seconds=(1, 2), only=NEAR)
    report, history = run(settings, tmp_path / "members")
    report.save(tmp_path, history)
    text = (tmp_path / "report.txt").read_text()
    assert report.verdict == "legal", text
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["anomalies"] == []
    assert {each["name"] for each in saved["faults"]} <= set(NEAR)
    assert report.findings.checked["operations ok"] > 300
    assert report.findings.checked["searched groups"] > 5
    assert all(row["ended"] for row in recoveries(report.faults, history).values())

    # The same history with one answer forged is not.
    forged = next(each for each in history.acknowledged() if each.request.writes)
    forged.revision += 1
    assert judge(history).verdict == "illegal"


@pytest.fixture
def arena(tmp_path: Path):
    arena = Arena(tmp_path, seed=1, small_disk=False)
    yield arena
    arena.close()


def test_relays_know_who_is_calling(arena: Arena) -> None:
    """A leader that is cut off cannot write; healed, it can; the others go on meanwhile."""
    arena.start()
    leader = arena.cluster.wait_leader()
    other = arena.others(leader)[0]
    arena.links.cut(arena.both_ways([leader.name], arena.names))
    with pytest.raises((ApiError, *NO_ANSWER)):
        arena.ask(leader, "kv/put", {"key": "YQ=="}, 3.0)
    wait_until("the others lead", lambda: bool(arena.ask(other, "kv/put", {"key": "Yg=="}, 3.0)))
    arena.links.heal()
    arena.cluster.wait_same_history()
    assert arena.links.relayed_bytes > 1000


def test_failpoints_are_listed(arena: Arena) -> None:
    names = arena.failpoints()
    assert "wal.before_sync" in names
    assert len(names) > 20


def test_torn_tails_are_of_the_last_record(arena: Arena, tmp_path: Path) -> None:
    arena.start()
    member = arena.cluster[2]
    for number in range(20):
        member.client.put(b"key", b"%d" % number)
    member.kill()
    (segment,) = disks.segments(member.data_dir)
    before = disks.end_of_data(segment)
    disks.append_garbage(member.data_dir, random.Random(1))
    assert disks.end_of_data(segment) == before + disks.TAIL_BYTES
    member.start()
    member.wait_healthy()
    assert "torn" in member.log()
    arena.cluster.wait_same_history()
