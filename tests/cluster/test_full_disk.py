"""A member whose disk is full acknowledges nothing that it cannot keep, and loses nothing else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.client import NO_ANSWER, ApiError
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]

DISK_BYTES = 200 << 20
"""The log takes 64 MiB for itself and as much for its reserve before the first entry comes."""
VALUE = b"x" * 50_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small file system here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=10)


@pytest.fixture
def cramped(new_cluster: NewCluster, small_disk: Path) -> Iterator[Cluster]:
    """Three members, the first on the small disk; ended before the disk goes."""
    cluster = new_cluster()
    cluster[0].data_dir = small_disk / "data"
    yield cluster.start()
    cluster.end()


def fill(place: Path) -> Path:
    """Take all room that is left, to the last byte."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"\xff" * size)
            except OSError:
                continue
    return ballast


def write_until_it_ends(member: Member, acknowledged: dict[bytes, bytes]) -> None:
    """Puts through `member` until it runs no more; what it said yes to is noted."""
    for number in range(3000):
        if not member.running:
            return
        key = b"key/%04d" % number
        try:
            member.client.put(key, VALUE)
        except (*NO_ANSWER, ApiError):
            continue
        acknowledged[key] = VALUE
    raise AssertionError("it wrote more than its disk has room for")


def check_kept(member: Member, acknowledged: dict[bytes, bytes], *, serializable: bool) -> None:
    for key, value in acknowledged.items():
        row = member.client.get(key, serializable=serializable)
        assert row is not None and row.value == value, key


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_full_disk(leads: bool, cramped: Cluster, small_disk: Path) -> None:
    first, second, third = cramped
    leader = cramped.wait_leader()
    wanted = first if leads else second
    if leader is not wanted:
        leader.client.move_leader(wanted.id)
        wait_until("the other leads", lambda: cramped.wait_leader() is wanted)
    acknowledged = {b"before": b"x"}
    first.client.put(b"before", b"x")
    ballast = fill(small_disk)
    write_until_it_ends(first, acknowledged)
    assert first.wait_exit() == 1
    said = [line for line in first.log().splitlines() if "level=fatal" in line]
    assert said and all(str(first.data_dir) in line for line in said), said
    assert "No space left" in said[-1]
    assert "Traceback" not in first.log()

    # The others go on, with all that was acknowledged.
    wait_until("the others lead", lambda: cramped.wait_leader() in (second, third))
    third.client.put(b"meanwhile", b"y")
    acknowledged[b"meanwhile"] = b"y"
    check_kept(second, acknowledged, serializable=False)

    # Still full: it cannot start, or stops again, and says why again.
    ballast.unlink()
    first.start()
    first.wait_healthy()
    cramped.wait_same_history()
    check_kept(first, acknowledged, serializable=True)
    first.client.put(b"after", b"z")
