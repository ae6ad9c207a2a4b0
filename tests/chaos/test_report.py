"""What runs are summed up as: recovery after faults, and what has grown in a soak."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos.history import History, Operation
from tests.chaos.model import Answer, get, put
from tests.chaos.report import Injected, Report, recoveries
from tests.chaos.run import complaints
from tests.chaos.soak import Sample, grown
from tests.chaos.verdict import Anomaly, Findings

SECOND = 1_000_000_000


def history() -> History:
    """Writes answered in the seconds 1, 5 and 9, a read in second 3, one without an answer in 6."""
    done = Answer(True, (None,))
    operations = [
        Operation(n, "w", "n1", request, at * SECOND, False, at * SECOND + SECOND // 2, "ok", done)
        for n, (at, request) in enumerate(
            [(1, put(b"k", b"1")), (3, get(b"k")), (5, put(b"k", b"2")), (9, put(b"k", b"3"))]
        )
    ]
    return History([*operations, Operation(4, "w", "n1", put(b"k", b"4"), 6 * SECOND)])


def test_recovery_is_until_the_next_write_that_began_and_was_answered() -> None:
    faults = [
        Injected("cut", 2 * SECOND, 6 * SECOND),
        Injected("cut", 9 * SECOND, 10 * SECOND),
        Injected("full", skipped="not here"),
    ]
    assert recoveries(faults, history()) == {
        "cut": {"times": 2, "began": [3.5, 0.5], "ended": [3.5]}
    }


def test_a_report_is_saved_with_its_history(tmp_path: Path) -> None:
    findings = Findings([Anomaly("stale", "a get of the past")])
    report = Report(7, 60, [Injected("cut", 2 * SECOND, 6 * SECOND)], findings)
    report.save(tmp_path, history())
    saved = json.loads((tmp_path / "report.json").read_text())
    assert (saved["seed"], saved["verdict"]) == (7, "illegal")
    assert saved["anomalies"] == [{"check": "stale", "text": "a get of the past"}]
    assert "stale: a get of the past" in (tmp_path / "report.txt").read_text()
    assert len(History.load(tmp_path / "history.jsonl").operations) == 5


def test_what_is_not_known_is_no_pass() -> None:
    assert Report(1, 1, findings=Findings(unknown=1)).verdict == "unknown"
    assert Report(1, 1, failure="a member ended").verdict == "illegal"


def test_a_member_that_ends_by_itself_is_heard() -> None:
    full = "level=fatal msg='data/wal: No space left on device'"
    assert complaints(f"level=info msg=started\n{full}\n") == []
    broken = ["level=fatal msg='hole in the log'", "Traceback (most recent call last):"]
    assert complaints("\n".join([full, *broken, "  File x"])) == broken


def samples(memory: int) -> list[Sample]:
    """Forty, whose memory grows by `memory` KiB from one to the next."""
    return [
        Sample(5.0 * n, 600, 2.0, 9.0, {"n1": {
            "memory": 50_000 + memory * n, "descriptors": 30 + n % 3, "threads": 6, "disk": 130_000,
        }})
        for n in range(40)
    ]  # fmt: skip


def test_growth_is_named_and_noise_is_not() -> None:
    assert grown(samples(0)) == []
    assert grown(samples(100)) == []
    assert grown(samples(1000)) == ["n1: memory grew from 64500 to 84500 KiB"]
