"""Disks whose system calls fail or are late, under the real log and the real store of one of three
members: it ends at once or stays, and in the end nobody lacks what was acknowledged.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.faulty_disk import (
    FOR_EVER,
    PLACES,
    SYNCS,
    WRITES,
    FaultyDisk,
    NoLibrary,
    last_words,
)
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Failing(NamedTuple):
    """As `FaultyDisk.fail` takes it, and whether the member leads then."""

    calls: int
    error: int
    passes: int
    times: int
    leads: bool


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 3, {"backend-batch-interval": "20ms"}) as cluster:
        yield cluster


def faulty(member: Member, directory: Path) -> FaultyDisk:
    """A member that is started on a disk that can fail."""
    try:
        disk = FaultyDisk(directory, member)
    except NoLibrary as error:
        pytest.skip(str(error))
    member.start(environment=disk.environment)
    return disk


def below(member: Member, place: str) -> Path:
    return member.data_dir / "member" / place


def write_until_it_ends(member: Member, acknowledged: dict[bytes, bytes]) -> None:
    numbers = itertools.count()

    def ended() -> bool:
        for number in itertools.islice(numbers, 5):
            key, value = b"key/%04d" % number, b"%d" % number * 50
            member.client.put(key, value)
            acknowledged[key] = value
        return not member.running

    wait_until("it ends", lambda: not member.running or ended())


def check_kept(cluster: Cluster, acknowledged: dict[bytes, bytes]) -> None:
    """All members have one history, and every acknowledged write is in it."""
    cluster.wait_same_history()
    for member in cluster:
        held = {kv.key: kv.value for kv in member.client.everything(serializable=True)}
        assert acknowledged.items() <= held.items(), member.name
        assert member.client.alarms() == []


def lead(cluster: Cluster, wanted: Member) -> None:
    if cluster.wait_leader() is not wanted:
        cluster.wait_leader().client.move_leader(wanted.id)
        wait_until("it leads", lambda: cluster.wait_leader() is wanted)


@pytest.mark.parametrize(
    "failing",
    [
        Failing(SYNCS, errno.EIO, 0, 1, leads=False),
        # Beyond those that prepare the log's first segment.
        Failing(SYNCS, errno.EIO, 80, 1, leads=True),
        Failing(SYNCS, errno.EIO, 3, FOR_EVER, leads=False),
        Failing(WRITES, errno.EIO, 30, 1, leads=True),
        Failing(WRITES, errno.ENOSPC, 0, FOR_EVER, leads=False),
    ],
    ids=["sync", "later-sync", "syncs", "write", "full"],
)
@pytest.mark.parametrize("place", PLACES)
def test_failing_disk(cluster: Cluster, tmp_path: Path, place: str, failing: Failing) -> None:
    """One failed call ends the member, also where the next one would succeed: the kernel may have
    called clean what never came to the disk.
    """
    member = cluster[0]
    disk = faulty(member, tmp_path)
    cluster.start()
    lead(cluster, member if failing.leads else cluster[1])
    acknowledged: dict[bytes, bytes] = {}
    where = below(member, place)
    disk.fail(failing.calls, where, failing.error, passes=failing.passes, times=failing.times)
    write_until_it_ends(member, acknowledged)
    assert member.wait_exit() == 1
    last_words(member.log(), where, failing.error)
    assert disk.met >= 1
    assert disk.retried == 0, "it went on with a file whose sync had failed"

    other = cluster[1]
    wait_until("the others go on", lambda: bool(other.client.put(b"meanwhile", b"x")))
    acknowledged[b"meanwhile"] = b"x"
    disk.mend()
    member.start()
    member.wait_healthy()
    member.client.put(b"after", b"y")
    check_kept(cluster, acknowledged | {b"after": b"y"})


@pytest.mark.parametrize(
    ("calls", "first"),
    [(SYNCS, True), (WRITES, True), (SYNCS, False)],
    ids=["first-sync", "first-write", "sync"],
)
def test_start_on_a_failing_disk(cluster: Cluster, tmp_path: Path, calls: int, first: bool) -> None:
    """Whichever call of it fails: the member does not start, says on which file, and starts when
    the disk is well again. What it founds it does not believe before it is synced.
    """
    member = cluster[0]
    disk = faulty(member, tmp_path)
    if not first:
        cluster.start()
    member.kill()
    starts = 0
    while True:
        if first:
            member.wipe()
        before = len(member.log())
        disk.fail(calls, member.data_dir, passes=starts)
        member.start(environment=disk.environment)
        wait_until("it met it", lambda: disk.met == 1 or not member.running)
        assert member.wait_exit() == 1
        last_words(member.log()[before:], member.data_dir, errno.EIO)
        assert disk.retried == 0
        starts += 1
        if any("raft stops" in line for line in member.log()[before:].splitlines()):
            break  # it was up
    assert starts > (5 if first else 2)
    disk.mend()
    cluster.start()
    member.client.put(b"key", b"value")
    check_kept(cluster, {b"key": b"value"})


def test_failing_sync_while_it_stops(cluster: Cluster, tmp_path: Path) -> None:
    """The last batch of the store is synced at the end; that this failed is no secret."""
    member = cluster[0]
    disk = faulty(member, tmp_path)
    cluster.start()
    lead(cluster, member)
    member.client.put(b"key", b"value")
    before = len(member.log())
    place = below(member, "backend")
    disk.fail(SYNCS, place, times=FOR_EVER)
    assert member.stop() == 1
    last_words(member.log()[before:], place, errno.EIO)
    disk.mend()
    cluster.start()
    check_kept(cluster, {b"key": b"value"})


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
def test_delayed_disk(cluster: Cluster, tmp_path: Path, leads: bool) -> None:
    """Slow syncs cost nobody the membership, a write or the office."""
    member = cluster[0]
    disk = faulty(member, tmp_path)
    cluster.start()
    leader = member if leads else cluster[1]
    lead(cluster, leader)
    acknowledged = {}
    disk.delay(SYNCS, member.data_dir, 50, 500)
    while disk.met < 10:
        key = b"key/%d" % len(acknowledged)
        cluster[2].client.put(key, b"value")
        acknowledged[key] = b"value"
    assert cluster.wait_leader() is leader
    disk.mend()
    assert member.running
    assert "level=fatal" not in member.log()
    check_kept(cluster, acknowledged)
