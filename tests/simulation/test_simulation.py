"""Whole clusters under faults: a few seeds always, those that once found something, many in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import simulator

MANY = range(10_000, 10_300)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_short_run(seed: int) -> None:
    report = simulator.run(seed, seconds=1.0)
    assert not report.problem, report.problem + report.detail


def test_a_failing_seed_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("# found\n26\n")
    monkeypatch.setattr(simulator, "SEEDS", seeds)
    simulator.keep([31, 26, 7])
    simulator.keep([7])
    assert seeds.read_text() == "# found\n26\n7\n31\n"
    assert capsys.readouterr().out == "kept in seeds.txt: [7, 31]\n"


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (simulator.run(3, seconds=1.0) for _ in range(2))
    assert first.digest == second.digest
    assert first.counts == second.counts
    assert first.digest != simulator.run(4, seconds=1.0).digest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 12, 26, 45])
def test_the_same_seed_in_every_process(seed: int) -> None:
    """Neither the order of hashes nor addresses of objects are part of a run."""
    digests = set()
    for hash_seed in ("0", "1", "4711"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation.simulator", str(seed), "--seconds", "3"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        digests.add(told.stdout.split("digest ")[1].split(",")[0])
    assert len(digests) == 1, digests


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", simulator.found_seeds())
def test_a_seed_that_found_something(seed: int) -> None:
    report = simulator.run(seed)
    assert not report.problem, report.problem + report.detail


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_seeds() -> None:
    reports = simulator.run_many(MANY, simulator.SECONDS, os.cpu_count() or 1)
    assert [(each.seed, each.problem) for each in reports if each.problem] == []
