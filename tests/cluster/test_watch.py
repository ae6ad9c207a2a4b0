"""Watches on real members: through elections, snapshots, compactions, and with rude clients."""

from __future__ import annotations

import random
import threading
import time

import pytest

from tests.cluster.harness import Cluster, Member, wait_until
from tests.cluster.watching import Watching, create, create_prefix

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PAST_THE_LOG = 700
"""Writes of 20 kB: more than may be under way to a member that does not answer."""

GAUGES = (
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_pending_events_total",
)


def gauges(member: Member) -> list[float]:
    """(watchers, streams, slow watchers, pending events)."""
    numbers = member.client.metrics()
    return [numbers[name] for name in GAUGES]


def put_some(cluster: Cluster, count: int, start: int = 0) -> list[tuple[bytes, int]]:
    """(key, revision) of writes to 20 keys through all members that run."""
    clients = [member.client for member in cluster.running()]
    written = []
    for number in range(start, start + count):
        key = b"key/%02d" % (number % 20)
        written.append((key, clients[number % len(clients)].put(key, b"%d" % number)))
    return written


def test_many_watchers_of_one_stream_on_every_member(cluster: Cluster) -> None:
    requests = [create_prefix(b"key/"), *(create(b"key/%02d" % n) for n in range(20))]
    streams = [Watching(member.client_url, requests) for member in cluster]
    for stream in streams:
        stream.wait_created(21)
    written = put_some(cluster, 300)
    for stream in streams:
        stream.wait_events(600)
        assert stream.revisions(0) == [revision for _, revision in written]
        for number in range(20):
            key = b"key/%02d" % number
            assert stream.revisions(number + 1) == [rev for name, rev in written if name == key]
        stream.kill()
    wait_until("nothing is left", lambda: all(gauges(member) == [0] * 4 for member in cluster))


def test_a_transaction_is_one_answer(cluster: Cluster) -> None:
    member = cluster.followers()[0]
    with Watching(member.client_url, [create_prefix(b"key/")]) as stream:
        stream.wait_created()
        puts = [{"request_put": create(b"key/%d" % n)["create_request"]} for n in range(10)]
        for put in puts:
            del put["request_put"]["range_end"]
        cluster.wait_leader().client.txn(success=puts)
        stream.wait_events(10)
        (answer,) = [result for result in stream.results if "events" in result]
        assert answer["header"]["revision"] == "2"
        assert {event["kv"]["mod_revision"] for event in answer["events"]} == {"2"}


def test_across_the_death_of_the_leader(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    survivors = cluster.followers()
    streams = [Watching(member.client_url, [create_prefix(b"key/")]) for member in survivors]
    for stream in streams:
        stream.wait_created()
    ended = Watching(leader.client_url, [create_prefix(b"key/")])
    ended.wait_created()
    written = put_some(cluster, 60)
    leader.kill()
    wait_until("the stream of the dead ends", ended.closed.is_set)
    ended.kill()
    cluster.wait_leader()
    written += put_some(cluster, 60, 60)
    leader.start()
    cluster.wait_healthy()
    written += put_some(cluster, 60, 120)
    streams.append(Watching(leader.client_url, [create_prefix(b"key/", start_revision=1)]))
    for stream in streams:
        stream.wait_events(180)
        assert stream.revisions() == [revision for _, revision in written]
        stream.kill()


def test_who_needs_a_leader_is_told_that_it_is_lost(cluster: Cluster) -> None:
    """Others hear nothing of it, and what is written when there is a leader again."""
    stays, *others = cluster
    needy = Watching(stays.client_url, [create(b"a")], headers=["Grpc-Metadata-hasleader: true"])
    patient = Watching(stays.client_url, [create(b"a")])
    for stream in (needy, patient):
        stream.wait_created()
    for member in others:
        member.pause()
    assert needy.closed.wait(30), "the stream goes on"
    assert (needy.error["grpc_code"], needy.error["message"]) == (14, "etcdserver: no leader")
    for member in others:
        member.resume()
    cluster.wait_healthy()
    stays.client.put(b"a", b"again")
    patient.wait_events(1)
    assert not patient.closed.is_set()
    for stream in (needy, patient):
        stream.kill()


def test_large_ranges_on_the_same_member_starve_no_watch(cluster: Cluster) -> None:
    """etcd #15402: reading 64 MB over and over delays puts and their events only so long."""
    member = cluster.wait_leader()
    for number in range(64):
        member.client.put(b"large/%02d" % number, b"x" * 1_000_000)
    ended = threading.Event()

    def read() -> None:
        client = member.connect(60)
        while not ended.is_set():
            assert len(client.range(b"large/", b"large0").kvs) == 64
        client.close()

    reader = threading.Thread(target=read, daemon=True)
    delays = []
    with Watching(member.client_url, [create(b"small")]) as stream:
        stream.wait_created()
        reader.start()
        for number in range(1, 11):
            begun = time.monotonic()
            member.client.put(b"small", b"%d" % number)
            stream.wait_events(number)
            delays.append(time.monotonic() - begun)
    assert reader.is_alive()
    ended.set()
    reader.join(60)
    member.client.delete(b"large/", b"large0")
    assert max(delays) < 5, delays


def test_a_stop_ends_streams_without_their_last_chunk(cluster: Cluster) -> None:
    member = cluster.followers()[0]
    streams = [Watching(member.client_url, [create(b"a")]) for _ in range(20)]
    for stream in streams:
        stream.wait_created()
    slow = Watching(member.client_url, [create_prefix(b"big/")], read=False)
    for number in range(30):
        member.client.put(b"big/%d" % number, b"x" * 1_000_000)
    started = time.monotonic()
    assert member.stop() == 0
    assert time.monotonic() - started < 5
    for stream in [*streams, slow]:
        stream.kill()


def test_across_a_snapshot(new_cluster) -> None:
    """A member paused so long that only a snapshot helps: its watchers miss nothing."""
    cluster = new_cluster(3, snapshot_count=40, snapshot_catchup_entries=5).start()
    away = cluster.followers()[0]
    others = [member for member in cluster if member is not away]
    with Watching(away.client_url, [create_prefix(b"key/"), create(b"key/03")]) as stream:
        stream.wait_created(2)
        written = put_some(cluster, 40)
        away.pause()
        for number in range(PAST_THE_LOG):
            key = b"key/%02d" % (number % 20)
            written.append((key, others[0].client.put(key, b"x" * 20_000)))
        away.resume()
        wait_until("a snapshot came", lambda: "installed a snapshot" in away.log())
        cluster.wait_healthy()
        written += put_some(cluster, 40)
        wait_until("all events came", lambda: len(stream.revisions()) >= len(written))
        assert stream.revisions() == [revision for _, revision in written]
        single = [revision for key, revision in written if key == b"key/03"]
        wait_until("those of one key, too", lambda: len(stream.revisions(1)) >= len(single))
        assert stream.revisions(1) == single


def test_across_a_snapshot_and_a_compaction(new_cluster) -> None:
    """All events, or one cancel that says what is gone; never a gap, nothing twice."""
    cluster = new_cluster(3, snapshot_count=40, snapshot_catchup_entries=5).start()
    away = cluster.followers()[0]
    others = [member for member in cluster if member is not away]
    start = PAST_THE_LOG + 60
    future = create_prefix(b"key/", watch_id=7, start_revision=start)
    with Watching(away.client_url, [create_prefix(b"key/"), future]) as stream:
        stream.wait_created(2)
        put_some(cluster, 40)
        away.pause()
        revision = 0
        for number in range(PAST_THE_LOG):
            revision = others[0].client.put(b"key/%02d" % (number % 20), b"x" * 20_000)
        others[0].client.compact(revision - 100, physical=True)
        away.resume()
        wait_until("a snapshot came", lambda: "installed a snapshot" in away.log())
        cluster.wait_healthy()
        wait_until("the cancel came", lambda: len(stream.canceled()) == 1)
        assert stream.canceled()[0]["compact_revision"] == str(revision - 100)
        written = put_some(cluster, 40)
        assert stream.revisions(0) == sorted(set(stream.revisions(0)))
        wanted = [rev for _, rev in written if rev >= start]
        wait_until("the future came", lambda: len(stream.revisions(7)) >= len(wanted))
        assert stream.revisions(7) == wanted
        assert len(stream.canceled()) == 1


def test_a_slow_reader_slows_nobody(cluster: Cluster) -> None:
    member = cluster.wait_leader()
    with (
        Watching(member.client_url, [create_prefix(b"big/")], read=False) as slow,
        Watching(member.client_url, [create_prefix(b"big/")]) as quick,
    ):
        quick.wait_created()
        client, delays = member.client, []
        for number in range(100):
            before = time.monotonic()
            client.put(b"big/%d" % number, b"x" * 500_000)
            delays.append(time.monotonic() - before)
        quick.wait_events(100)
        assert sorted(delays)[50] < 0.5
        assert gauges(member)[2] == 1, "the slow one is known to be behind"
        slow.read()
        slow.wait_events(100)
        assert slow.revisions() == quick.revisions() == list(range(2, 102))


def test_stale_watchers_hear_of_a_compaction_once(cluster: Cluster) -> None:
    """More of them than are looked at in one step, and slow: nobody is told twice, none is kept."""
    member = cluster.wait_leader()
    for number in range(60):
        member.client.put(b"key/%02d" % (number % 20), b"x")
    member.client.compact(50)
    requests = [create(b"key/%02d" % (n % 20), start_revision=2 + n % 48) for n in range(2000)]
    with Watching(member.client_url, [*requests, create(b"key/00")]) as stream:
        stream.wait_created(2001)
        wait_until("all are canceled", lambda: len(stream.canceled()) >= 2000)
        assert sorted(int(r.get("watch_id", 0)) for r in stream.canceled()) == list(range(2000))
        assert {r["compact_revision"] for r in stream.canceled()} == {"50"}
        assert gauges(member)[:3] == [1, 1, 0]
        member.client.put(b"key/00", b"y")
        stream.wait_events(1)
        assert len(stream.canceled()) == 2000


def test_streams_that_are_killed_leave_nothing(cluster: Cluster) -> None:
    chance = random.Random(5)
    member = cluster.followers()[0]
    for _ in range(10):
        streams = [
            Watching(member.client_url, [create_prefix(b"key/", start_revision=1)], read=False)
            for _ in range(60)
        ]
        cluster.wait_leader().client.put(b"key/00", b"x" * 10_000)
        chance.shuffle(streams)
        for stream in streams:
            stream.kill()
    wait_until("nothing is left", lambda: gauges(member) == [0] * 4)
    numbers = member.client.metrics()
    started = 'grpc_server_started_total{grpc_method="Watch"'
    assert sum(number for name, number in numbers.items() if name.startswith(started)) == 600
    wait_until("files are closed", lambda: member.client.metrics()["process_open_fds"] < 100)
