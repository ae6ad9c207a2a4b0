"""Arming, counting, dying and waiting."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from node import failpoint
from node.failpoint import EXIT_CODE, Failpoints, UnknownFailpoint, ignore

DIE = """
import os
from node.failpoint import Failpoints
hit = Failpoints.from_environment(os.environ).function
for turn in range(1, 6):
    print(turn, flush=True)
    hit("wal.before_sync")
    hit("wal.after_sync")
"""


def survived(failpoints: str) -> tuple[int, int]:
    """(exit code, how many turns a process began) with `failpoints` armed."""
    done = subprocess.run(
        [sys.executable, "-c", DIE],
        env={**os.environ, "ESKER_FAILPOINTS": failpoints},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, len(done.stdout.split())


DEATHS = [
    ("", (0, 5)),
    ("wal.before_sync=exit", (EXIT_CODE, 1)),
    ("wal.after_sync=exit@3", (EXIT_CODE, 3)),
    ("wal.before_sync=sleep(0); wal.after_sync=exit@2;", (EXIT_CODE, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("failpoints", "expected"), DEATHS)
def test_exit_ends_the_process_at_the_chosen_hit(
    failpoints: str, expected: tuple[int, int]
) -> None:
    assert survived(failpoints) == expected


def test_nothing_armed_is_a_function_that_does_nothing() -> None:
    assert Failpoints.from_environment({}).function is ignore
    assert Failpoints.from_environment({"ESKER_FAILPOINTS": " ; "}).function is ignore


def test_sleep_waits_at_every_hit_or_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(failpoint.time, "sleep", slept.append)
    armed = Failpoints({"wal.before_sync": "sleep(200)", "wal.after_sync": "sleep(7)@2"})
    for _ in range(3):
        armed.hit("wal.before_sync")
        armed.hit("wal.after_sync")
        armed.hit("wal.before_cut")
    assert slept == [0.2, 0.2, 0.007, 0.2]
    assert armed.hits == {"wal.before_sync": 3, "wal.after_sync": 3}


WRONG = ["nowhere=exit", "wal.before_sync", "wal.before_sync=die", "wal.before_sync=exit@0"]


@pytest.mark.parametrize("failpoints", WRONG)
def test_unknown_names_and_actions_are_refused(failpoints: str) -> None:
    with pytest.raises(UnknownFailpoint) as caught:
        Failpoints.from_environment({"ESKER_FAILPOINTS": failpoints})
    assert failpoints.partition("=")[0] in str(caught.value)


def test_an_unregistered_name_is_our_fault() -> None:
    armed = Failpoints({"wal.before_sync": "exit"})
    with pytest.raises(AssertionError, match="nowhere is hit but not registered"):
        armed.hit("nowhere")
