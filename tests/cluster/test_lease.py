"""Leases on real members: they end when nobody renews them, and only then, whoever leads."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.cluster.client import NO_ANSWER, ApiError, Client, prefix_end
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TTL = 4
NO_LEASE = 404


def grant(client: Client, ttl: int, number: int = 0) -> int:
    return int(client.call("lease/grant", {"TTL": ttl, "ID": number})["ID"])


def keep_alive(client: Client, *numbers: int) -> list[int]:
    """The TTLs that one stream of renewals is answered with; 0: no such lease."""
    body = "".join(json.dumps({"ID": str(number)}) for number in numbers)
    status, answer = client.send("POST", "/v3/lease/keepalive", body.encode())
    results = [json.loads(line) for line in answer.splitlines()]
    for result in results:
        if "error" in result:
            raise ApiError(status, result["error"]["code"], result["error"]["message"])
    assert [int(result["result"].get("ID", 0)) for result in results] == list(numbers)
    return [int(result["result"].get("TTL", 0)) for result in results]


def time_left(client: Client, number: int) -> int:
    return int(client.call("lease/timetolive", {"ID": number}).get("TTL", 0))


def leases(client: Client) -> list[int]:
    return [int(lease["ID"]) for lease in client.call("lease/leases", {}).get("leases", [])]


class Renewer(threading.Thread):
    """Renews leases through some members until stopped; a member that does not answer is passed
    over. `lost` are the leases that a member said are gone.
    """

    def __init__(self, members: Iterable[Member], numbers: list[int]) -> None:
        super().__init__()
        self._clients = [member.connect(timeout_seconds=8.0) for member in members]
        self._numbers = numbers
        self._over = threading.Event()
        self.lost: set[int] = set()
        self.rounds = 0

    def run(self) -> None:
        while not self._over.wait(0.3):
            for client in self._clients:
                with suppress(*NO_ANSWER, ApiError):
                    left = keep_alive(client, *self._numbers)
                    gone = (n for n, ttl in zip(self._numbers, left, strict=True) if not ttl)
                    self.lost.update(gone)
                    self.rounds += 1

    def stop(self) -> None:
        self._over.set()
        self.join()
        for client in self._clients:
            client.close()


@contextmanager
def renewing(members: Iterable[Member], numbers: list[int]) -> Iterator[Renewer]:
    renewer = Renewer(members, numbers)
    renewer.start()
    try:
        yield renewer
    finally:
        renewer.stop()


def attach(cluster: Cluster, count: int, ttl: int = TTL) -> list[int]:
    """Leases with a key each."""
    client = cluster.wait_leader().client
    numbers = [grant(client, ttl) for _ in range(count)]
    for number in numbers:
        client.put(b"lease/%d" % number, b"", number)
    return numbers


def keys(client: Client) -> int:
    return client.range(b"lease/", prefix_end(b"lease/"), count_only=True).count


def test_every_member_grants_renews_and_tells_the_time(cluster: Cluster) -> None:
    for place, member in enumerate(cluster):
        client = member.client
        number = grant(client, 30, -7 - place)
        assert number == -7 - place
        assert [29 <= time_left(other.client, number) <= 30 for other in cluster] == [True] * 3
    time.sleep(2.1)
    for member in cluster:
        assert time_left(member.client, -7) < 29
    for member in cluster:
        assert keep_alive(member.client, -7, 12345, -8, -7) == [30, 0, 30, 30]
        assert 29 <= time_left(member.client, -7) <= 30
        assert time_left(member.client, 12345) == -1
    leader = cluster.wait_leader().client
    assert leases(leader)[0] == -9, "the one that nobody renewed"


def test_a_lease_ends_with_its_keys_in_one_revision_everywhere(cluster: Cluster) -> None:
    client = cluster.followers()[0].client
    number = grant(client, 2)
    granted = time.monotonic()
    for key in (b"b", b"a", b"c"):
        revision = client.put(key, b"", number)
    wait_until("the lease has ended", lambda: time_left(client, number) == -1, 10)
    assert 2 <= time.monotonic() - granted < 4.5
    for member in cluster:
        assert member.client.range(b"a", b"d").count == 0
    assert client.revision() == revision + 1
    with pytest.raises(ApiError) as refused:
        client.call("lease/revoke", {"ID": number})
    assert refused.value.status == NO_LEASE
    assert keep_alive(client, number) == [0]
    cluster.wait_same_history()


def test_a_paused_leader_takes_no_lease_with_it(cluster: Cluster) -> None:
    """It wakes up with all of them expired on its clock, and must not act on that."""
    numbers = attach(cluster, 20)
    leader = cluster.wait_leader()
    others = cluster.followers()
    with renewing(others, numbers) as renewer:
        leader.pause()
        time.sleep(2.5 * TTL)
        leader.resume()
        cluster.wait_healthy()
        time.sleep(TTL)
        assert renewer.rounds > 5
    assert renewer.lost == set()
    assert keys(others[0].client) == len(numbers)
    assert keep_alive(leader.client, *numbers) == [TTL] * len(numbers)
    wait_until("they end when nobody renews them", lambda: keys(leader.client) == 0, 3 * TTL)
    cluster.wait_same_history()


def test_a_process_that_was_paused_alone_gives_the_time_back(new_cluster: Any) -> None:
    cluster = new_cluster(1).start()
    numbers = attach(cluster, 5)
    client = cluster[0].client
    cluster[0].pause()
    time.sleep(TTL + 2)
    cluster[0].resume()
    assert keep_alive(client, *numbers) == [TTL] * 5


def test_leases_survive_the_leaders_death(cluster: Cluster) -> None:
    numbers = attach(cluster, 20)
    for _ in range(2):
        leader = cluster.wait_leader()
        others = [member for member in cluster if member is not leader]
        with renewing(others, numbers) as renewer:
            leader.kill()
            cluster.wait_leader()
            time.sleep(TTL + 1)
            leader.start()
            cluster.wait_healthy()
        assert renewer.rounds > 0
        assert renewer.lost == set()
        assert keys(others[0].client) == len(numbers)
    wait_until("all ended", lambda: keys(cluster[0].client) == 0, 4 * TTL)


def test_leases_outlive_a_whole_cluster(cluster: Cluster) -> None:
    attach(cluster, 3)
    lasting = grant(cluster[0].client, 600)
    for member in cluster:
        member.kill()
    time.sleep(TTL + 1)
    cluster.start()
    assert keys(cluster[0].client) == 3, "the time of a lease begins anew with a leader"
    wait_until("all ended", lambda: keys(cluster[0].client) == 0, 4 * TTL)
    assert leases(cluster[1].client) == [lasting]


def test_many_leases_end_at_once_while_others_write(cluster: Cluster) -> None:
    """Each takes its keys; who writes meanwhile hardly notices."""
    count = 5000
    leader = cluster.wait_leader()
    _grant_many(leader, count, ttl=12)
    client = cluster.followers()[0].client
    for number in range(1, count + 1, 10):
        client.put(b"lease/%d" % number, b"", number)
    slowest, puts = 0.0, 0
    deadline = time.monotonic() + 60
    while leases(leader.client):
        assert time.monotonic() < deadline, f"{len(leases(leader.client))} leases left"
        started = time.monotonic()
        client.put(b"meanwhile", b"")
        slowest = max(slowest, time.monotonic() - started)
        puts += 1
        time.sleep(0.02)
    assert keys(client) == 0
    assert puts > 100
    assert slowest < 2.0
    assert leader.client.metrics()["etcd_debugging_server_lease_expired_total"] == count
    cluster.wait_same_history()


def _grant_many(member: Member, count: int, ttl: int) -> None:
    def some(numbers: range) -> None:
        client = member.connect()
        for number in numbers:
            grant(client, ttl, number)
        client.close()

    threads = [
        threading.Thread(target=some, args=(range(1 + start, count + 1, 8),)) for start in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_without_a_quorum_nothing_is_renewed_or_revoked(new_cluster: Any) -> None:
    cluster = new_cluster(3, election_timeout=500, heartbeat_interval=50).start()
    numbers = attach(cluster, 3)
    left, *others = cluster
    for member in others:
        member.kill()
    with pytest.raises(ApiError) as refused:
        time.sleep(2)
        keep_alive(left.client, numbers[0])
    assert refused.value.status == 503
    time.sleep(TTL)
    assert left.client.range(b"lease/", prefix_end(b"lease/"), serializable=True).count == 3
    for member in others:
        member.start()
    cluster.wait_healthy()
    assert keep_alive(left.client, *numbers) == [TTL] * 3
