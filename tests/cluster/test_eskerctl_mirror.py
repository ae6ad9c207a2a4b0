"""eskerctl make-mirror, check and the commands that change members, against real members."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.eskerctl import Background, all_of, ok, run
from tests.cluster.harness import Cluster, Member, free_port, wait_until

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]


def pairs(member: Member, prefix: bytes) -> dict[bytes, bytes]:
    return {row.key[len(prefix) :]: row.value for row in member.client.prefix(prefix).kvs}


def test_a_mirror_is_complete_and_stays_so(new_cluster: NewCluster) -> None:
    source, target = new_cluster(3).start(), new_cluster(1).start()
    client = source[1].client
    for number in range(50):
        client.put(b"app/%d" % number, b"old")
    client.put(b"other", b"x")

    def same() -> bool:
        return pairs(source[1], b"app/") == pairs(target[0], b"copy/")

    flags = ("--prefix=app/", "--dest-prefix=copy/", "--max-txn-ops=7")
    command = ("make-mirror", *flags, target[0].client_url)
    with Background(*command, at=all_of(source)) as mirror:
        wait_until("the first copy", same)
        client.put(b"app/1", b"new")
        client.delete(b"app/2")
        client.delete(b"app/3", b"app/4")
        wait_until("changes", same)

        source[0].kill()  # the mirror's endpoint
        target[0].kill()
        source.wait_leader()
        client.put(b"app/5", b"meanwhile")
        client.put(b"app/new", b"meanwhile")
        client.delete(b"app/6")
        target[0].start()
        target.wait_healthy()
        wait_until("what changed meanwhile", same)
        assert mirror.interrupt().code == 130
    assert target[0].client.get(b"other") is None
    assert len(list(target[0].client.everything())) == 38  # 11 begin with app/3


def test_data_scale_leaves_nothing(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1).start()
    at = cluster[0].client_url
    done = run("check", "datascale", "--auto-compact", "--auto-defrag", at=at)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("Start data scale check for work load [10000 key-value pairs, ")
    assert lines[-1].startswith("PASS: Approximate system memory used : ")
    assert list(cluster[0].client.everything()) == []
    assert cluster[0].client.revision() == 10_002


def test_a_learner_comes_and_goes(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1).start()
    at = cluster[0].client_url
    (first,) = cluster[0].client.members()
    url = f"http://127.0.0.1:{free_port()}"
    said = ok("member", "add", "n2", "--learner", f"--peer-urls={url}", at=at).splitlines()
    added = said[0].split()[1]
    assert said[2:] == [
        'ETCD_NAME="n2"',
        f'ETCD_INITIAL_CLUSTER="n1={first["peerURLs"][0]},n2={url}"'
        if int(first["ID"]) < int(added, 16)
        else f'ETCD_INITIAL_CLUSTER="n2={url},n1={first["peerURLs"][0]}"',
        f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{url}"',
        'ETCD_INITIAL_CLUSTER_STATE="existing"',
    ]
    done = run("member", "promote", added, at=at)
    too_early = "can only promote a learner member which is in sync with leader"
    assert (done.code, done.err) == (1, f"Error: etcdserver: {too_early}\n")
    other = f"http://127.0.0.1:{free_port()}"
    assert " updated in cluster " in ok("member", "update", added, f"--peer-urls={other}", at=at)
    assert f"{added}, unstarted, , {other}, , true" in ok("member", "list", at=at)
    assert " removed from cluster " in ok("member", "remove", added, at=at)
    assert len(ok("member", "list", at=at).splitlines()) == 1
