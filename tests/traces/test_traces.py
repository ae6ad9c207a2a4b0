"""Runs every trace of `tests/traces/raft` (see datadriven.py for their form)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.traces.datadriven import run_file
from tests.traces.raft_env import RaftEnv

RAFT_TRACES = sorted((Path(__file__).parent / "raft").glob("*.txt"))


@pytest.mark.parametrize("path", RAFT_TRACES, ids=lambda path: path.stem)
def test_raft(path: Path) -> None:
    run_file(path, RaftEnv().run)


def test_all_raft_traces_are_found() -> None:
    assert len(RAFT_TRACES) >= 25
