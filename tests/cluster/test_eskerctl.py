"""eskerctl against real members: what it prints, how it ends, the recoveries it is there for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.client import Client, b64
from tests.cluster.eskerctl import Done, all_of, ok, run
from tests.cluster.harness import Cluster, Member, free_port, wait_until

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]


# What it prints

TXN = 'value("foo") = "bar"\nmod("foo") > "0"\n\nput foo "x y"\nget foo\ndel nope\n\nget foo\n\n'

LINES: list[tuple[tuple[str, ...], str, Done]] = [
    (("put", "foo", "bar"), "", Done(0, "OK\n", "")),
    (("put", "foo", "bar", "--prev-kv"), "", Done(0, "OK\nfoo\nbar\n", "")),
    (("get", "foo"), "", Done(0, "foo\nbar\n", "")),
    (("get", "foo", "--print-value-only"), "", Done(0, "bar\n", "")),
    (("get", "foo", "--hex"), "", Done(0, "\\x66\\x6f\\x6f\n\\x62\\x61\\x72\n", "")),
    (("put", "foo2"), "two\n", Done(0, "OK\n", "")),
    (
        ("put", "foo2"),
        "",
        Done(128, "", "Error: put command needs 1 argument and input from stdin or 2 arguments\n"),
    ),
    (("get", "foo", "--prefix", "--keys-only"), "", Done(0, "foo\n\nfoo2\n\n", "")),
    (("get", "foo", "--prefix", "--count-only"), "", Done(0, "2\n", "")),
    (("get", "--prefix=true", "foo", "--limit", "1"), "", Done(0, "foo\nbar\n", "")),
    (
        ("get", "", "--from-key", "--sort-by=key", "--order=descend"),
        "",
        Done(0, "foo2\ntwo\n\nfoo\nbar\n", ""),
    ),
    (("get", "foo", "foo2"), "", Done(0, "foo\nbar\n", "")),
    (("get", "missing"), "", Done(0, "", "")),
    (("txn",), TXN, Done(0, "SUCCESS\n\nOK\n\nfoo\nx y\n\n0\n", "")),
    (("txn",), TXN, Done(0, "FAILURE\n\nfoo\nx y\n", "")),
    (("txn",), "what\n\n", Done(3, "", "Error: malformed comparison: what\n")),
    (("txn",), "\nput a b", Done(3, "", "Error: EOF\n")),
    (("get", "foo", "--rev", "2"), "", Done(0, "foo\nbar\n", "")),
    (("compaction", "3"), "", Done(0, "compacted revision 3\n", "")),
    (
        ("compaction", "3"),
        "",
        Done(1, "", "Error: etcdserver: mvcc: required revision has been compacted\n"),
    ),
    (
        ("get", "foo", "--rev", "99"),
        "",
        Done(1, "", "Error: etcdserver: mvcc: required revision is a future revision\n"),
    ),
    (
        ("put", "foo", "x", "--lease=1f"),
        "",
        Done(1, "", "Error: etcdserver: requested lease not found\n"),
    ),
    (
        ("get", "a", "--prefix", "--from-key"),
        "",
        Done(
            128,
            "",
            "Error: `--prefix` and `--from-key` cannot be set at the same time, choose one\n",
        ),
    ),
    (("get", "a", "--order=up"), "", Done(4, "", "Error: bad sort order up\n")),
    (("get", "a", "-w", "table"), "", Done(4, "", "Error: table not supported as output format\n")),
    (("get", "a", "--frobnicate"), "", Done(1, "", "Error: No such option '--frobnicate'.\n")),
    (("del", "foo", "--prev-kv"), "", Done(0, "1\nfoo\nx y\n", "")),
    (("del", "", "--prefix"), "", Done(0, "1\n", "")),
    (("alarm", "list"), "", Done(0, "", "")),
    (("move-leader", "xyz"), "", Done(128, "", "Error: 'xyz' is not a member ID in hexadecimal\n")),
]


def test_simple_output_is_etcdctls(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1).start()
    for arguments, stdin, expected in LINES:
        assert run(*arguments, at=cluster[0].client_url, stdin=stdin) == expected, arguments


def test_json_and_fields(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1).start()
    at = cluster[0].client_url
    ok("put", "foo", "b\nr", at=at)
    answer = json.loads(ok("get", "foo", "-w", "json", at=at))
    assert answer["kvs"] == [
        {"key": "Zm9v", "create_revision": 2, "mod_revision": 2, "version": 1, "value": "Ygpy"}
    ]
    assert answer["count"] == 1
    fields = ok("-w", "fields", "get", "foo", at=at).splitlines()
    assert fields[4:] == [
        '"Key" : "foo"',
        '"CreateRevision" : 2',
        '"ModRevision" : 2',
        '"Version" : 1',
        '"Value" : "b\\nr"',
        '"Lease" : 0',
        '"More" : false',
        '"Count" : 1',
    ]
    done = json.loads(ok("txn", "-w", "json", at=at, stdin="\nput a b\n\n\n"))
    assert done["responses"] == [{"Response": {"ResponsePut": {"header": {"revision": 3}}}}]


def test_a_large_range_comes_in_pages_and_whole(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1, max_txn_ops=1000).start()
    client = cluster[0].client
    for start in range(0, 12_000, 500):
        puts = [
            {"request_put": {"key": b64(b"%05d" % number), "value": "dg=="}}
            for number in range(start, start + 500)
        ]
        assert client.txn(success=puts)["succeeded"]
    lines = ok("get", "", "--prefix", "--keys-only", at=cluster[0].client_url).split()
    assert len(lines) == len(set(lines)) == 12_000


def test_an_unreachable_member_is_named() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    done = run("get", "a", at=nobody)
    assert done == Done(1, "", f"Error: context deadline exceeded ({nobody}: Connection refused)\n")
    done = run("endpoint", "status", at=nobody)
    assert (done.code, done.out) == (1, "\n" if done.out else "")
    assert f"Failed to get the status of endpoint {nobody}" in done.err


def test_endpoints_are_tried_in_turn(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1).start()
    at = f"127.0.0.1:{free_port()},{cluster[0].client_url}"
    assert ok("put", "a", "b", at=at) == "OK\n"
    done = run("endpoint", "health", at=at)
    assert done.code == 1
    assert "is healthy: successfully committed proposal: took = " in done.out
    assert done.err.endswith("Error: unhealthy cluster\n")


def test_cluster_commands(cluster: Cluster) -> None:
    at = all_of(cluster)
    rows = [row.split(", ") for row in ok("endpoint", "status", at=at).splitlines()]
    assert [row[0] for row in rows] == at.split(",")
    assert sorted(row[4] for row in rows) == ["false", "false", "true"]

    hashes = {row.split(", ")[1] for row in ok("endpoint", "hashkv", at=at).splitlines()}
    assert len(hashes) == 1
    table = ok("endpoint", "status", "--cluster", "-w", "table", at=cluster[0].client_url)
    assert "| RAFT APPLIED INDEX | ERRORS |" in table
    assert table.count("http://") == 3

    members = [row.split(", ") for row in ok("member", "list", at=at).splitlines()]
    assert sorted(row[2] for row in members) == ["n1", "n2", "n3"]
    target = next(row for row in rows if row[4] == "false")[1]
    leader = next(row for row in rows if row[4] == "true")[1]
    moved = ok("move-leader", target, at=at)
    assert moved == f"Leadership transferred from {leader} to {target}\n"

    done = ok("defrag", "--cluster", at=cluster[0].client_url)
    assert done.count("Finished defragmenting etcd member[") == 3
    assert ok("version", at=at).startswith("eskerctl version: ")


# The recoveries

EXCEEDED = "Error: etcdserver: mvcc: database space exceeded\n"


def test_recovery_from_a_full_database(new_cluster: NewCluster) -> None:
    cluster = new_cluster(3, quota_backend_bytes=4 << 20).start()
    at = all_of(cluster)
    value = "x" * 100_000
    for number in range(1000):
        done = run("put", f"churn/{number % 5}", at=at, stdin=value)
        if done.code:
            break
    assert done == Done(1, "", EXCEEDED)
    assert ok("get", "churn/0", "--print-value-only", at=at) == value + "\n"
    assert "NOSPACE" in ok("endpoint", "status", "-w", "table", at=at)
    assert "alarm:NOSPACE" in ok("alarm", "list", at=at)
    assert run("endpoint", "health", at=at).code == 1

    (first, *_) = json.loads(ok("endpoint", "status", "-w", "json", at=at))
    revision = first["Status"]["header"]["revision"]
    assert ok("compaction", str(revision), "--physical", at=at).startswith("compacted revision")
    ok("defrag", "--cluster", at=at)
    assert "alarm:NOSPACE" in ok("alarm", "disarm", at=at)
    assert ok("alarm", "list", at=at) == ""
    assert ok("put", "again", "works", at=at) == "OK\n"
    cluster.wait_same_history()


def restored(snapshot: Path, root: Path) -> Cluster:
    """Three members, not started, each restored from the snapshot."""
    cluster = Cluster(root, 3, token="restored")
    for member in cluster:
        done = run(
            *("snapshot", "restore", str(snapshot), "--name", member.name),
            *("--data-dir", str(member.data_dir), "--initial-cluster-token", "restored"),
            *("--initial-cluster", member.flags["initial-cluster"]),
            *("--initial-advertise-peer-urls", member.peer_url),
        )
        assert done == Done(0, f"Restored {snapshot} to {member.data_dir}\n", "")
    return cluster


def names(client: Client) -> set[str]:
    return {member.get("name", "") for member in client.members()}


def test_snapshot_becomes_a_new_cluster(cluster: Cluster, tmp_path: Path) -> None:
    for number in range(20):
        cluster[0].client.put(b"key/%d" % (number % 7), b"value %d" % number)
    cluster[0].client.delete(b"key/3")
    cluster[0].client.compact(10, physical=True)
    before = [cluster[0].client.prefix(b"key/", revision=revision) for revision in (12, 0)]
    snapshot = tmp_path / "backup.db"
    said = ok("snapshot", "save", str(snapshot), at=cluster[0].client_url)
    assert said == f"Snapshot saved at {snapshot}\n"
    status = json.loads(ok("snapshot", "status", str(snapshot), "-w", "json", at="unused"))
    assert status["revision"] == cluster[0].client.revision()
    assert status["totalSize"] == snapshot.stat().st_size
    cluster.end()

    with restored(snapshot, tmp_path / "new") as new:
        new.start()
        client = new[1].client
        after = [client.prefix(b"key/", revision=revision) for revision in (12, 0)]
        assert [answer.kvs for answer in after] == [answer.kvs for answer in before]
        assert client.put(b"more", b"x") == before[1].revision + 1
        new.wait_same_history()
        wait_until("all members have told their names", lambda: names(client) == {"n1", "n2", "n3"})
        new[0].kill()
        new[0].start()
        new.wait_healthy()
        new.wait_same_history()


def test_damaged_snapshots_are_refused(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster(1).start()
    snapshot, copy = tmp_path / "a", tmp_path / "b"
    ok("snapshot", "save", str(snapshot), at=cluster[0].client_url)
    data = snapshot.read_bytes()

    copy.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    for command in ("status", "restore"):
        done = run(
            "snapshot",
            command,
            str(copy),
            "--data-dir" if command == "restore" else "-w",
            str(tmp_path / "data") if command == "restore" else "simple",
        )
        assert done.code == 1
        assert f"Error: {copy} is damaged: expected sha256" in done.err

    copy.write_bytes(data[:-32])
    done = run("snapshot", "restore", str(copy), "--data-dir", str(tmp_path / "data"))
    assert done == Done(1, "", "Error: snapshot missing hash but --skip-hash-check=false\n")
    assert not (tmp_path / "data").exists()
    done = run(
        "snapshot", "restore", str(copy), "--data-dir", str(tmp_path / "d"), "--skip-hash-check"
    )
    assert done.code == 0
    done = run("snapshot", "restore", str(snapshot), "--data-dir", str(tmp_path / "d"))
    assert "not empty" in done.err

    copy.write_bytes(b"nothing of the kind" * 1000)
    assert run("snapshot", "status", str(copy)).code == 1
    assert "no such file" in run("snapshot", "status", str(tmp_path / "none")).err


# The other client, where it is installed

SAME = [
    ("get", "k", "-w", "json"),
    ("get", "k", "-w", "fields"),
    ("get", "", "--prefix", "--sort-by=modify", "--order=descend"),
    ("get", "k", "--hex"),
    ("put", "k"),
    ("get", "k", "--rev", "1000"),
    ("get", "--prefix", "--from-key", "k"),
    ("del", "none", "-w", "fields"),
    ("endpoint", "status", "-w", "table"),
    ("member", "list", "-w", "table"),
    ("member", "list", "-w", "json"),
    ("member", "list", "-w", "fields"),
    ("alarm", "list", "-w", "json"),
]


class Etcd(Member):
    command = ("etcd",)


@pytest.mark.skipif(not shutil.which("etcdctl") or not shutil.which("etcd"), reason="no etcd here")
def test_the_same_words_as_etcdctl(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    member = Etcd("n1", tmp_path / "etcd")
    member.flags = {"initial-cluster": f"n1={member.peer_url}"}
    cluster.members = [member]
    with cluster.start():
        ok("put", "k", "v", at=member.client_url)
        ok("put", "l", "ä\n\x7f", at=member.client_url)
        for arguments in SAME:
            ours = run("--endpoints", member.client_url, *arguments)
            theirs = run("--endpoints", member.client_url, *arguments, program=("etcdctl",))
            messages = [line for line in theirs.err.splitlines(True) if line[:1] != "{"]
            assert ours == theirs._replace(err="".join(messages)), arguments
