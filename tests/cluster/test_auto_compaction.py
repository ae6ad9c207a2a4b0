"""Automatic compaction on real members, with a retention of seconds. Windows and ticks are tested
with a clock of the test's own, beside the module.
"""

from __future__ import annotations

import pytest

from tests.cluster.client import ApiError
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROPOSED = "starting auto compaction"
COMPACTED = "required revision has been compacted"
COMPACT_REVISION = "etcd_debugging_mvcc_compact_revision"


def compacted_at(member: Member) -> int:
    return int(member.client.metrics()[COMPACT_REVISION])


def overwrite(cluster: Cluster, times: int = 20) -> int:
    """The revision of the first of some writes to one key."""
    client = cluster.wait_leader().client
    first, *_ = [client.put(b"key", b"%d" % number) for number in range(times)]
    return first


def wait_compacted(cluster: Cluster, revision: int) -> None:
    wait_until(
        f"revision {revision} is compacted everywhere",
        lambda: all(compacted_at(member) > revision for member in cluster.running()),
    )


def test_periodic_compacts_on_all_members_and_outlives_the_leader(new_cluster) -> None:
    cluster = new_cluster(auto_compaction_mode="periodic", auto_compaction_retention="2s").start()
    leader = cluster.wait_leader()
    old = overwrite(cluster)
    wait_compacted(cluster, old)
    for member in cluster:
        with pytest.raises(ApiError, match=COMPACTED):
            member.client.get(b"key", revision=old, serializable=True)
        kept = member.client.get(b"key")
        assert kept is not None and kept.value == b"19", "the newest state stays"
    if cluster.wait_leader() is leader:
        assert {member.name for member in cluster if PROPOSED in member.log()} == {leader.name}

    leader.kill()
    cluster.wait_leader()
    later = overwrite(cluster)
    wait_compacted(cluster, later)
    assert any(PROPOSED in member.log() for member in cluster.running())
    leader.start()
    cluster.wait_healthy()
    wait_compacted(cluster, later)
    cluster.wait_same_history()


def test_what_is_younger_than_the_retention_is_kept(new_cluster) -> None:
    cluster = new_cluster(1, auto_compaction_retention="1h").start()
    old = overwrite(cluster)
    client = cluster[0].client
    kept = client.get(b"key", revision=old)
    assert kept is not None and kept.value == b"0"
    assert compacted_at(cluster[0]) == -1


def test_by_revision_waits_for_its_tick(new_cluster) -> None:
    """It looks every five minutes, however many revisions there are by then."""
    cluster = new_cluster(1, auto_compaction_mode="revision", auto_compaction_retention="5").start()
    old = overwrite(cluster, 50)
    kept = cluster[0].client.get(b"key", revision=old)
    assert kept is not None and kept.value == b"0"
    assert compacted_at(cluster[0]) == -1
    assert PROPOSED not in cluster[0].log()
