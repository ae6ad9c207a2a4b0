"""A process dies at every named place; the next start finds one index and exactly its rows.

The child applies entries as a counter that is not idempotent: entry `i` adds `i` to the stored sum
and writes revision `i`. Were an entry's effects stored without its index (or the other way round),
or replayed twice, the sum would be wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvcc.backend import KEY, META
from tests.unit.mvcc.backends import END, LmdbRig

EXIT_CODE = 77
ENTRIES = 60
SUM = b"sum"

COMMIT_POINTS = ["backend.before_commit", "backend.after_commit"]
DEFRAG_POINTS = [
    f"defrag.{step}" for step in ("before_copy", "after_copy", "before_current", "after_current")
]
INSTALL_POINTS = ["install.before_current", "install.after_current"]


def row(number: int) -> bytes:
    return number.to_bytes(17, "big")


def apply(rig: LmdbRig, index: int) -> None:
    """Adds, writes its revision, and deletes an older one, as a compaction would."""
    backend = rig.backend
    backend.put(KEY, row(index), b"v%d" % index)
    total = int(backend.get(META, SUM) or b"0")
    backend.put(META, SUM, b"%d" % (total + index))
    if index > 20:
        backend.delete(KEY, row(index - 20))
    backend.end_entries(index, 1)


def assert_consistent(rig: LmdbRig) -> int:
    """The index stored, which is that of the rows beside it."""
    index, _ = rig.backend.applied()
    assert int(rig.backend.get(META, SUM) or b"0") == index * (index + 1) // 2
    present = [int.from_bytes(key, "big") for key, _ in rig.backend.range(KEY, b"", END, 0)]
    assert present == list(range(max(1, index - 19), index + 1))
    return index


class Doomed(LmdbRig):
    """Ends the process at the `count`-th hit of `point`, as kill -9 would."""

    def __init__(self, path: Path, point: str, count: int) -> None:
        self.point, self.count = point, count
        super().__init__(path, batch_ops=9)

    def hit(self, name: str) -> None:
        if name == self.point:
            self.count -= 1
            if self.count == 0:
                os._exit(EXIT_CODE)


def run_child(path: Path, point: str, count: int) -> None:
    """Apply entries, defragment in the middle, install the own copy at the end; never returns."""
    rig = Doomed(path, point, count)
    first = rig.backend.applied()[0] + 1
    for index in range(first, ENTRIES + 1):
        apply(rig, index)
        if index % 7 == 0:
            rig.flush()
            print(index, flush=True)
        if index == ENTRIES // 2:
            rig.backend.defragment(lambda error: None)
    rig.flush()
    received = rig.backend.open_copy()
    assert rig.rebuild(lambda done: rig.backend.install(received.path, done)) is None
    rig.close()
    os._exit(0)


def die(path: Path, point: str, count: int) -> int:
    """Run the child until it dies; the last index that it called durable."""
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(path), point, str(count)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == EXIT_CODE, child.stderr
    return int((child.stdout.split() or ["0"])[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "count"),
    [(point, count) for point in COMMIT_POINTS for count in (1, 2, 5, 9)]
    + [(point, 1) for point in DEFRAG_POINTS + INSTALL_POINTS],
)
def test_restart_after_death_at(tmp_path: Path, point: str, count: int) -> None:
    durable = die(tmp_path, point, count)
    rig = LmdbRig(tmp_path)
    index = assert_consistent(rig)
    assert durable <= index <= ENTRIES
    generation = rig.backend.info().generation
    assert {child.name for child in rig.path.iterdir()} == {"CURRENT", f"{generation:08d}"}
    for later in range(index + 1, ENTRIES + 1):
        apply(rig, later)
    rig.reopen()
    assert assert_consistent(rig) == ENTRIES
    rig.close()


@pytest.mark.slow
@pytest.mark.parametrize(("point", "moved"), [("before_current", False), ("after_current", True)])
def test_current_decides_which_generation_a_crash_leaves(
    tmp_path: Path, point: str, moved: bool
) -> None:
    die(tmp_path, f"defrag.{point}", 1)
    rig = LmdbRig(tmp_path)
    assert rig.backend.info().generation == (2 if moved else 1)
    assert assert_consistent(rig) >= ENTRIES // 2 - 7
    rig.close()


if __name__ == "__main__":
    run_child(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
