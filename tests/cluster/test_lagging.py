"""Members that were away too long, or lost everything: they come back by snapshot, or are told why
not.
"""

from __future__ import annotations

import pytest

from tests.cluster.client import b64
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KEYS = 300


def short_log(new_cluster) -> Cluster:
    """Three members that keep hardly any log: who is away for a moment needs a snapshot."""
    return new_cluster(3, snapshot_count=40, snapshot_catchup_entries=5).start()


def write(cluster: Cluster, text: str) -> None:
    client = cluster.wait_leader().client
    for number in range(KEYS):
        client.put(b"key/%d" % (number % 50), f"{text} {number}".encode())


def test_a_member_that_was_away_past_the_log_comes_back_by_snapshot(new_cluster) -> None:
    cluster = short_log(new_cluster)
    write(cluster, "before")
    away = cluster.followers()[0]
    away.kill()
    write(cluster, "meanwhile")
    cluster.wait_leader().client.compact(KEYS + 100, physical=True)
    away.start()
    cluster.wait_healthy()
    write(cluster, "after")
    cluster.wait_same_history()
    assert "installed a snapshot" in away.log()


def test_a_former_leader_comes_back_by_snapshot(new_cluster) -> None:
    cluster = short_log(new_cluster)
    away = cluster.wait_leader()
    away.kill()
    write(cluster, "under another leader")
    away.start()
    cluster.wait_healthy()
    cluster.wait_same_history()
    assert "installed a snapshot" in away.log()


def test_a_member_paused_past_the_log_comes_back_by_snapshot(new_cluster) -> None:
    cluster = short_log(new_cluster)
    away = cluster.followers()[0]
    away.pause()
    others = [member for member in cluster if member is not away]
    client = others[0].client
    for number in range(KEYS):
        client.put(b"key/%d" % (number % 50), b"%d" % number)
    away.resume()
    wait_until("all have one history", lambda: len({m.client.hash_kv() for m in cluster}) == 1)


def remove(cluster: Cluster, member: Member) -> None:
    leader = cluster.wait_leader().client
    number = next(int(m["ID"]) for m in leader.members() if m.get("name") == member.name)
    wait_until(
        f"{member.name} is removed",
        lambda: bool(leader.call("cluster/member/remove", {"ID": number})),
    )


def test_a_wiped_member_is_told_what_to_do_and_comes_back_by_snapshot(new_cluster) -> None:
    cluster = short_log(new_cluster)
    write(cluster, "before")
    wiped = cluster.followers()[0]
    wiped.kill()
    wiped.wipe()
    wiped.start()
    assert wiped.wait_exit() == 1
    assert "its data are lost" in wiped.log()
    write(cluster, "meanwhile")

    remove(cluster, wiped)
    leader = cluster.wait_leader().client
    wait_until(
        "it is added again",
        lambda: bool(leader.call("cluster/member/add", {"peerURLs": [wiped.peer_url]})),
    )
    wiped.wipe()
    wiped.flags["initial-cluster-state"] = "existing"
    wiped.start()
    cluster.wait_healthy()
    write(cluster, "after")
    cluster.wait_same_history()
    assert "installed a snapshot" in wiped.log()
    names = sorted(str(member.get("name")) for member in leader.members())
    assert names == ["n1", "n2", "n3"]

    # With its second life it counts: the cluster bears the loss of another member.
    other = next(member for member in cluster.followers() if member is not wiped)
    other.kill()
    cluster.wait_leader().client.put(b"one", b"more")


def test_a_joiner_that_dies_before_its_snapshot_finds_the_cluster_again(new_cluster) -> None:
    cluster = short_log(new_cluster)
    write(cluster, "before")
    cluster.wait_leader().client.compact(KEYS, physical=True)
    wiped = cluster.followers()[0]
    remove(cluster, wiped)
    assert wiped.wait_exit() == 0
    assert "was removed from the cluster" in wiped.log()
    leader = cluster.wait_leader().client
    wait_until(
        "it is added again",
        lambda: bool(leader.call("cluster/member/add", {"peerURLs": [wiped.peer_url]})),
    )
    wiped.wipe()
    wiped.flags["initial-cluster-state"] = "existing"
    wiped.start(failpoints="install.before_receive=exit")
    wiped.wait_exit()
    wiped.start()
    cluster.wait_healthy()
    cluster.wait_same_history()


def test_a_member_nobody_added_is_told_so(new_cluster) -> None:
    cluster = new_cluster(1).start()
    stranger = new_cluster(1)[0]
    stranger.flags["initial-cluster"] = f"n1={stranger.peer_url},other={cluster[0].peer_url}"
    stranger.flags["initial-cluster-state"] = "existing"
    stranger.start()
    assert stranger.wait_exit() == 1
    assert "add it first" in stranger.log()
    assert cluster[0].client.put(b"a", b64(b"b").encode()) == 2
