"""eskerctl watch against real members: what it shows, and that it outlives connections."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cluster.eskerctl import Background, all_of, ok, run
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]


@pytest.fixture
def alone(new_cluster: NewCluster) -> Cluster:
    """One member."""
    return new_cluster(1).start()


def test_past_and_present_in_every_format(alone: Cluster) -> None:
    client, at = alone[0].client, alone[0].client_url
    client.put(b"w1", b"a")
    with (
        Background("watch", "w", "--prefix", "--rev=2", "--prev-kv", at=at) as simple,
        Background("watch", "w1", "w2", "--rev=2", "-w", "json", at=at) as as_json,
        Background("watch", "w1", "--rev=2", "-w", "fields", at=at) as fields,
    ):
        for shown, lines in ((simple, 3), (as_json, 1), (fields, 11)):
            shown.wait_lines(lines)
        client.put(b"w1", b"b")
        client.put(b"w2", b"other")
        client.delete(b"w1")
        assert simple.wait_lines(16) == [
            *("PUT", "w1", "a"),
            *("PUT", "w1", "a", "w1", "b"),
            *("PUT", "w2", "other"),
            *("DELETE", "w1", "b", "w1", ""),
        ]
        answers = [json.loads(line) for line in as_json.wait_lines(3)]
        assert [answer["Header"]["revision"] for answer in answers] == [2, 3, 5]
        assert answers[2]["Events"] == [{"type": 1, "kv": {"key": "dzE=", "mod_revision": 5}}]
        deleted = fields.wait_lines(33)[-7:]
        assert deleted[:3] == ['"Type" : DELETE', '"Key" : "w1"', '"CreateRevision" : 0']
        assert simple.interrupt().code == 130


def test_a_command_for_each_event(alone: Cluster) -> None:
    client, at = alone[0].client, alone[0].client_url
    client.put(b"k", b"one")
    client.delete(b"k")
    script = 'echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'
    with Background("watch", "k", "--rev=2", "--", "sh", "-c", script, at=at) as watch:
        lines = watch.wait_lines(8)
        assert [line for line in lines if '"k"' in line] == [
            '3 "PUT" "k" "one"',
            '3 "DELETE" "k" ""',
        ]
    done = run("watch", "k", "--rev=2", "--", "false", at=at)
    assert done.code == 1
    assert done.err == 'command ["false"] error (exit status 1)\n'


def test_several_watches_in_one_session(alone: Cluster) -> None:
    client, at = alone[0].client, alone[0].client_url
    client.put(b"a", b"1")
    with Background("watch", "-i", at=at) as session:
        session.type("watch a --rev 2")
        session.wait_lines(3)
        session.type("watch b --prefix --rev=2 -- echo ran")
        client.put(b"b1", b"2")
        assert session.wait_lines(7) == ["PUT", "a", "1", "PUT", "b1", "2", "ran"]
        session.type("progress")
        assert session.wait_lines(9)[7:] == ["progress notify: 3"] * 2
        client.put(b"a", b"3")
        assert session.wait_lines(12)[9:] == ["PUT", "a", "3"]
        session.type("what")


def test_progress_comes_by_itself(new_cluster: NewCluster) -> None:
    flag = {"experimental_watch_progress_notify_interval": "300ms"}
    cluster = new_cluster(1, **flag).start()
    revision = cluster[0].client.put(b"other", b"x")
    with Background("watch", "a", "--progress-notify", at=cluster[0].client_url) as watch:
        assert watch.wait_lines(2)[:2] == [f"progress notify: {revision}"] * 2


def test_a_compacted_start_is_an_error(alone: Cluster) -> None:
    client, at = alone[0].client, alone[0].client_url
    for number in range(5):
        client.put(b"a", b"%d" % number)
    client.compact(5)
    done = run("watch", "a", "--rev=3", "-w", "json", at=at)
    assert done.code == 5
    assert done.err == (
        "watch was canceled (etcdserver: mvcc: required revision has been compacted)\n"
        "Error: watch is canceled by the server\n"
    )
    answer = json.loads(done.out)
    assert (answer["CompactRevision"], answer["Canceled"]) == (5, True)


def test_a_watch_outlives_its_members(cluster: Cluster) -> None:
    written: list[str] = []

    def write(member: int, number: int) -> None:
        for _ in range(number):
            value = str(len(written))
            cluster[member].client.put(b"w", value.encode())
            written.append(value)

    with Background("watch", "w", "--rev=2", at=all_of(cluster)) as watch:
        write(1, 20)
        watch.wait_lines(3 * len(written))
        for victim, other in ((0, 1), (1, 2), (2, 0)):
            cluster[victim].kill()
            cluster.wait_leader()
            write(other, 20)
            watch.wait_lines(3 * len(written))
            cluster[victim].start()
            cluster.wait_healthy()
            write(victim, 5)
        assert watch.wait_lines(3 * len(written))[2::3] == written
    assert ok("get", "w", "--print-value-only", at=all_of(cluster)) == f"{written[-1]}\n"
