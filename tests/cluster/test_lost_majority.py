"""Disaster recovery: a majority of the cluster is lost for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import NewCluster
from tests.cluster.harness import Member, wait_until

pytestmark = pytest.mark.slow


def test_a_survivor_goes_on_alone_and_the_cluster_grows_again(
    new_cluster: NewCluster, tmp_path: Path
) -> None:
    cluster = new_cluster()
    cluster.start()
    for number in range(50):
        cluster[0].client.put(b"key %d" % number, b"value %d" % number)
    cluster[0].client.compact(20)
    revision, ids = cluster[0].client.revision(), [member.id for member in cluster]
    for member in cluster:
        member.kill()
    survivor = cluster[2]
    survivor.flags["force-new-cluster"] = "true"
    survivor.start()
    survivor.wait_healthy()
    assert "goes on alone" in survivor.log()
    assert survivor.id == ids[2]
    assert [int(member["ID"]) for member in survivor.client.members()] == [ids[2]]
    assert survivor.client.revision() == revision
    assert survivor.client.range(b"key", b"kez").count == 50
    survivor.client.put(b"after", b"the end")
    del survivor.flags["force-new-cluster"]
    survivor.kill()
    # A ghost of the old cluster changes nothing.
    cluster[0].start()
    survivor.start()
    survivor.wait_healthy()
    assert [int(member["ID"]) for member in survivor.client.members()] == [ids[2]]
    assert cluster[0].wait_exit() == 0
    assert "removed from the cluster" in cluster[0].log()
    grow(survivor, Member("n5", tmp_path / "n5"))


def grow(survivor: Member, member: Member) -> None:
    survivor.client.call("cluster/member/add", {"peerURLs": [member.peer_url]})
    member.flags = {
        "initial-cluster": f"old={survivor.peer_url},n5={member.peer_url}",
        "initial-cluster-token": "test",
        "initial-cluster-state": "existing",
    }
    member.start()
    try:
        member.wait_healthy()
        assert member.client.get(b"after") is not None
        wait_until(
            "both hold the same", lambda: member.client.hash_kv() == survivor.client.hash_kv()
        )
    finally:
        member.end()
