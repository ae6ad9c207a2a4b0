"""A member whose database was changed behind its back is found, and named."""

from __future__ import annotations

import time
from pathlib import Path

import lmdb
import pytest

from tests.cluster.client import ApiError
from tests.cluster.conftest import NewCluster
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = pytest.mark.slow


def corrupt(member: Member) -> None:
    """Another value in the newest put of the stopped member's database: a page as valid as before,
    with a row that no other member has.
    """
    backend = Path(member.data_dir) / "member" / "backend"
    generation = backend / (backend / "CURRENT").read_text().strip()
    with lmdb.open(str(generation), max_dbs=32) as environment:
        table = environment.open_db(b"key", create=False)
        with environment.begin(write=True) as txn:
            cursor = txn.cursor(table)
            for key, row in cursor.iterprev():
                if row.endswith(b"value"):
                    assert txn.put(key, row[:-5] + b"VALUE", db=table)
                    return
    raise AssertionError("nothing to corrupt")


def loaded(cluster: Cluster) -> Cluster:
    """With a history that every member has on disk."""
    cluster.start()
    for number in range(30):
        cluster[0].client.put(b"key %d" % (number % 10), b"value")
    cluster[0].client.compact(10, physical=True)
    cluster.wait_same_history()
    return cluster


def alarms(member: Member) -> list[tuple[int, str]]:
    return [(int(each.get("memberID", 0)), each["alarm"]) for each in member.client.alarms()]


def refused(member: Member, path: str, body: dict[str, object]) -> tuple[int, int, str]:
    with pytest.raises(ApiError) as caught:
        member.client.call(path, body)
    return caught.value.status, caught.value.code, caught.value.message


def damage(cluster: Cluster, member: Member) -> int:
    """Corrupt a stopped member and start it again; its id."""
    number = member.id
    assert member.stop() == 0
    corrupt(member)
    member.start()
    wait_until("it serves", lambda: bool(member.client.status()))
    return number


def test_the_periodic_check_names_the_one_that_differs(new_cluster: NewCluster) -> None:
    cluster = loaded(new_cluster(experimental_corrupt_check_time="500ms"))
    time.sleep(1.5)
    assert alarms(cluster[0]) == [], "healthy members raise nothing"
    bad = cluster.followers()[0]
    number = damage(cluster, bad)
    good = next(member for member in cluster.followers() if member is not bad)
    wait_until("the alarm", lambda: alarms(good) == [(number, "CORRUPT")])
    key: dict[str, object] = {"key": "a2V5IDE="}
    corrupt_cluster = (500, 15, "etcdserver: corrupt cluster")
    for path, body in (
        ("kv/put", key),
        ("kv/deleterange", key),
        ("kv/txn", {"success": [{"request_put": key}]}),
        ("kv/compaction", {"revision": 12}),
        ("lease/grant", {"TTL": 60}),
    ):
        assert refused(good, path, body) == corrupt_cluster, path
    for serializable in (False, True):
        assert good.client.get(b"key 1", serializable=serializable) is not None
    assert bad.client.get(b"key 1") is not None
    assert refused(bad, "kv/range", {**key, "serializable": True}) == corrupt_cluster
    assert f"memberID:{number} alarm:CORRUPT" in good.client.status()["errors"][0]
    status, page = good.client.send("GET", "/readyz?verbose")
    assert status == 503
    assert b"[-]data_corruption failed" in page


def test_the_leader_itself_may_be_the_one_that_differs(new_cluster: NewCluster) -> None:
    cluster = loaded(new_cluster(corrupt_check_time="500ms"))
    bad = cluster[0]
    number = damage(cluster, bad)
    if cluster.wait_leader() is not bad:
        cluster.wait_leader().client.move_leader(number)
    wait_until("the alarm", lambda: alarms(cluster[1]) == [(number, "CORRUPT")])


def test_two_that_differ_name_nobody(new_cluster: NewCluster) -> None:
    cluster = loaded(new_cluster(2, corrupt_check_time="500ms"))
    damage(cluster, cluster[1])
    wait_until("the alarm", lambda: alarms(cluster[0]) == [(0, "CORRUPT")])


def test_hashes_of_compactions_are_compared(new_cluster: NewCluster) -> None:
    flags = {
        "experimental_compact_hash_check_enabled": "true",
        "experimental_compact_hash_check_time": "500ms",
    }
    cluster = loaded(new_cluster(**flags))
    time.sleep(1.5)
    assert alarms(cluster[0]) == []
    bad = cluster.followers()[0]
    number = damage(cluster, bad)
    time.sleep(1.5)
    assert alarms(cluster[0]) == [], "only a compaction is hashed"
    cluster[0].client.compact(cluster[0].client.put(b"later", b"write"))
    wait_until("the alarm", lambda: alarms(cluster[0]) == [(number, "CORRUPT")])


def test_a_compaction_cut_short_raises_no_alarm(new_cluster: NewCluster) -> None:
    """etcd once hashed what a resumed compaction visited, and called a healthy member corrupt."""
    flags = {"compact_hash_check_enabled": "true", "compact_hash_check_time": "300ms"}
    cluster = loaded(new_cluster(**flags))
    victim = cluster.followers()[0]
    assert victim.stop() == 0
    victim.start(failpoints="compaction.before_finished=exit")
    victim.wait_healthy()
    cluster.wait_leader().client.compact(25)
    victim.wait_exit()
    victim.start()
    victim.wait_healthy()
    cluster.wait_same_history()
    cluster[0].client.compact(28)
    time.sleep(2)
    assert alarms(cluster[0]) == []


def test_who_differs_at_the_start_does_not_serve(new_cluster: NewCluster) -> None:
    cluster = loaded(new_cluster(experimental_initial_corrupt_check="true"))
    bad = cluster.followers()[0]
    assert bad.stop() == 0
    bad.start()
    bad.wait_healthy()
    assert "this member's data are those of the others" in bad.log()
    assert bad.stop() == 0
    corrupt(bad)
    bad.start()
    assert bad.wait_exit() == 1
    assert "the data of this member differ" in bad.log()
    assert cluster.wait_leader().client.put(b"the others", b"go on")
