"""A member killed at every named place, of a compaction, a snapshot, a defragmentation, and started
again.

After it is back it must have finished the same compaction as the others, hold the same history
(HashKV), and its revision must never be lower than one it has shown.
"""

from __future__ import annotations

import contextlib

import pytest

from node.failpoint import EXIT_CODE, FAILPOINTS
from tests.cluster.client import NO_ANSWER, ApiError, b64
from tests.cluster.harness import Cluster, Member, wait_until

KEYS = 40
ROUNDS = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def places(*prefixes: str) -> list[str]:
    return [name for name in FAILPOINTS if name.partition(".")[0] in prefixes]


def write_history(cluster: Cluster) -> int:
    """Some keys, rewritten and some deleted; the revision of the last write, which is a delete."""
    client = cluster[0].client
    for round_ in range(ROUNDS):
        for number in range(KEYS):
            client.put(b"key/%d" % number, b"value %d of round %d" % (number, round_))
    for number in range(0, KEYS, 2):
        client.delete(b"key/%d" % number)
    return client.revision()


def start_armed(cluster: Cluster, member: Member, failpoint: str) -> None:
    member.kill()
    member.start(failpoints=f"{failpoint}=exit")
    cluster.wait_healthy()


def check_rejoined(cluster: Cluster, victim: Member, revision: int) -> None:
    """The victim died at its place, is back with all it had, and equals the others."""
    assert victim.wait_exit() == EXIT_CODE, victim.log()[-2000:]
    victim.start()
    wait_until(
        f"{victim.name} shows revision {revision} again",
        lambda: victim.client.range(b"\0", serializable=True).revision >= revision,
    )
    cluster.wait_healthy()
    cluster[0].client.put(b"after", b"the crash")
    cluster.wait_same_history()


@pytest.mark.parametrize("failpoint", places("compaction"))
def test_killed_in_a_compaction(new_cluster, failpoint: str) -> None:
    cluster = new_cluster(3, compaction_batch_limit=20, compaction_sleep_interval="1ms").start()
    revision = write_history(cluster)
    victim = cluster[2]
    start_armed(cluster, victim, failpoint)
    # At the newest revision, which is a tombstone: its row goes with the compaction after it.
    cluster[0].client.compact(revision)
    check_rejoined(cluster, victim, revision)
    hash_, compacted, _ = victim.client.hash_kv()
    assert (hash_, compacted) == cluster[0].client.hash_kv()[:2]
    assert compacted == revision
    with pytest.raises(ApiError, match="compacted"):
        victim.client.range(b"key/1", revision=revision - 1)


@pytest.mark.parametrize("failpoint", places("defrag"))
def test_killed_in_a_defragmentation(new_cluster, failpoint: str) -> None:
    cluster = new_cluster(3).start()
    revision = write_history(cluster)
    cluster[0].client.compact(revision, physical=True)
    victim = cluster[2]
    start_armed(cluster, victim, failpoint)
    with contextlib.suppress(*NO_ANSWER):
        victim.client.defragment()
    check_rejoined(cluster, victim, revision)
    victim.client.defragment()
    backend = victim.data_dir / "member" / "backend"
    wait_until(
        "only the new generation is left",
        lambda: sum(path.is_dir() for path in backend.iterdir()) == 1,
    )


@pytest.mark.parametrize("failpoint", places("install"))
def test_killed_while_a_snapshot_is_installed(new_cluster, failpoint: str) -> None:
    cluster = new_cluster(3, snapshot_count=50, snapshot_catchup_entries=10).start()
    victim = cluster[2]
    victim.kill()
    cluster.wait_leader()
    revision = write_history(cluster)
    cluster[0].client.compact(revision, physical=True)
    victim.start(failpoints=f"{failpoint}=exit")
    check_rejoined(cluster, victim, revision)
    assert "install" in victim.log()


@pytest.mark.parametrize("failpoint", places("snapshot"))
def test_killed_while_a_snapshot_is_taken(new_cluster, failpoint: str) -> None:
    cluster = new_cluster(3, snapshot_count=50, snapshot_catchup_entries=10).start()
    away = cluster.followers()[0]
    away.kill()
    for member in cluster.running():
        member.kill()
        member.start(failpoints=f"{failpoint}=exit")
    cluster_client = next(member for member in cluster.running())
    cluster.wait_leader()
    for number in range(200):
        cluster_client.client.put(b"key/%d" % (number % 7), b"%d" % number)
    away.start()
    wait_until("the leader died taking it", lambda: len(cluster.running()) < len(cluster))
    for member in cluster:
        if not member.running:
            assert member.wait_exit() == EXIT_CODE
            member.start()
    for member in cluster:
        if member is not away:
            # Whoever leads next must not die at the same place.
            member.kill()
            member.start()
    cluster.wait_healthy()
    cluster.wait_same_history()


@pytest.mark.parametrize("failpoint", places("backend", "wal", "apply"))
def test_killed_while_writing(new_cluster, failpoint: str) -> None:
    """Whatever was acknowledged is there afterwards, once, on every member."""
    cluster = new_cluster(3).start()
    victim = cluster.followers()[0]
    victim.kill()
    at_cut = failpoint.endswith("_cut")
    at = 1 if at_cut else 3 if failpoint.startswith("backend") else 20
    victim.start(failpoints=f"{failpoint}=exit@{at}")
    cluster.wait_leader()
    value, count = (b"x" * 1_000_000, 80) if at_cut else (b"x", 400)
    client = cluster.wait_leader().client
    for number in range(count):
        put = [{"request_put": {"key": "a2V5", "value": b64(value + b"%d" % number)}}]
        client.txn(success=put)
    revision = client.revision()
    check_rejoined(cluster, victim, revision)
    assert client.get(b"key").version == count
