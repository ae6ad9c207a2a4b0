"""Locks and elections over three members: the queue, who leaves it, and what observers see."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.client import NO_ANSWER, ApiError, b64, prefix_end
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = pytest.mark.slow

MUTEX = b"mutex"


def grant(member: Member, ttl: int = 60) -> int:
    return int(member.client.call("lease/grant", {"TTL": ttl})["ID"])


class Asked:
    """A request that waits on a connection of its own, which can be broken."""

    def __init__(self, member: Member, path: str, **body: Any) -> None:
        parts = urlsplit(member.client_url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self._connection.request("POST", f"/v3/{path}", json.dumps(body).encode())
        self.status = 0
        self.answer: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            with self._connection.getresponse() as response:
                self.answer = json.loads(response.read())
            self.status = response.status
        except NO_ANSWER:
            pass
        finally:
            self._connection.close()

    def leave(self) -> None:
        """Break the connection, as a client that dies does."""
        assert self._connection.sock is not None
        self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)

    def wait(self) -> dict[str, Any]:
        self._thread.join(30)
        assert not self._thread.is_alive(), "no answer"
        return self.answer


def lock(member: Member, lease: int, name: bytes = MUTEX) -> Asked:
    return Asked(member, "lock/lock", name=b64(name), lease=lease)


def queue(member: Member, name: bytes = MUTEX) -> list[bytes]:
    """Who stands in it, oldest first."""
    prefix = name + b"/"
    rows = member.client.range(prefix, prefix_end(prefix)).kvs
    return [row.key for row in sorted(rows, key=lambda row: row.create_revision)]


def key_of(lease: int, name: bytes = MUTEX) -> bytes:
    return b"%b/%x" % (name, lease)


def wait_for_queue(member: Member, leases: list[int], name: bytes = MUTEX) -> None:
    expected = [key_of(lease, name) for lease in leases]
    wait_until(f"the queue is {expected}", lambda: queue(member, name) == expected)


def test_a_queue_over_three_members(cluster: Cluster) -> None:
    """First come, first served, whichever member was asked; each answer names its own key."""
    members = cluster.members
    leases = [grant(members[number % 3]) for number in range(6)]
    waiting = []
    for number, lease in enumerate(leases):
        waiting.append(lock(members[number % 3], lease))
        wait_for_queue(members[0], leases[: number + 1])
    for number, lease in enumerate(leases):
        answer = waiting[number].wait()
        assert base64.b64decode(answer["key"]) == key_of(lease)
        assert [each.status for each in waiting[number + 1 :]] == [0] * (5 - number)
        members[(number + 1) % 3].client.call("lock/unlock", {"key": answer["key"]})
    assert queue(members[0]) == []


def test_who_leaves_frees_its_place(cluster: Cluster) -> None:
    """A waiting client that is gone, one whose lease ends, and a holder whose lease ends."""
    one, two, three = cluster.members
    holder, gone, ended, last = (grant(one) for _ in range(4))
    lock(one, holder).wait()
    leaving = lock(two, gone)
    wait_for_queue(one, [holder, gone])
    ending = lock(three, ended)
    wait_for_queue(one, [holder, gone, ended])
    waiting = lock(two, last)
    wait_for_queue(one, [holder, gone, ended, last])

    leaving.leave()
    wait_for_queue(one, [holder, ended, last])
    one.client.call("lease/revoke", {"ID": ended})
    assert ending.wait()["message"] == "mutex: session is expired"
    assert ending.status == 500
    wait_for_queue(one, [holder, last])
    assert waiting.status == 0
    one.client.call("lease/revoke", {"ID": holder})
    assert base64.b64decode(waiting.wait()["key"]) == key_of(last)


def test_a_claim_without_a_lease_of_its_own_leaves_none_behind(cluster: Cluster) -> None:
    one, two, _ = cluster.members
    holder = grant(one)
    lock(one, holder).wait()
    leaving = Asked(two, "lock/lock", name=b64(MUTEX))
    wait_until("it waits", lambda: len(queue(one)) == 2)
    assert len(one.client.call("lease/leases", {})["leases"]) == 2
    leaving.leave()
    wait_for_queue(one, [holder])
    wait_until("its lease is gone", lambda: len(one.client.call("lease/leases", {})["leases"]) == 1)


def test_a_lock_again_with_the_same_lease_is_the_same_lock(cluster: Cluster) -> None:
    one, two, _ = cluster.members
    lease = grant(one)
    first = lock(one, lease).wait()
    again = lock(two, lease).wait()
    assert (first["key"], first["header"]["revision"]) == (
        again["key"],
        again["header"]["revision"],
    )


def test_waiting_survives_the_leader(cluster: Cluster) -> None:
    """Those who wait on the members that are left get their turn."""
    leader = cluster.wait_leader()
    others = [member for member in cluster.members if member is not leader]
    holder, next_one = grant(others[0]), grant(others[1])
    held = lock(others[0], holder).wait()
    waiting = lock(others[1], next_one)
    wait_for_queue(others[0], [holder, next_one])
    leader.kill()

    def unlocked() -> bool:
        others[0].client.call("lock/unlock", {"key": held["key"]})
        return True

    wait_until("the lock is freed", unlocked)
    assert base64.b64decode(waiting.wait()["key"]) == key_of(next_one)


REFUSALS: list[tuple[str, dict[str, Any], int, str]] = [
    ("lock/lock", {"name": b64(b"m"), "lease": 999}, 500, "etcdserver: requested lease not found"),
    ("lock/unlock", {}, 500, "etcdserver: key is not provided"),
    ("lock/lock", {"name": "%"}, 400, "bad base64 in name: Only base64 data is allowed"),
    ("election/leader", {"name": b64(b"e")}, 500, "election: no leader"),
    ("election/proclaim", {}, 500, '"leader" field must be provided'),
    ("election/resign", {}, 500, '"leader" field must be provided'),
    (
        "election/proclaim",
        {"leader": {"key": b64(b"e/1"), "rev": "5"}},
        500,
        "election: not leader",
    ),
]


def test_refusals(cluster: Cluster) -> None:
    client = cluster[1].client
    before = client.revision()
    for path, body, status, message in REFUSALS:
        with pytest.raises(ApiError) as caught:
            client.call(path, body)
        assert (caught.value.status, caught.value.message) == (status, message)
    assert client.revision() == before


class Observer:
    """What an observe stream says, line by line."""

    def __init__(self, member: Member, name: bytes) -> None:
        parts = urlsplit(member.client_url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        body = json.dumps({"name": b64(name)}).encode()
        self._connection.request("POST", "/v3/election/observe", body)

    def lines(self) -> Iterator[tuple[bytes, bytes]]:
        self._response = self._connection.getresponse()
        for line in self._response:
            kv = json.loads(line)["result"]["kv"]
            yield base64.b64decode(kv["key"]), base64.b64decode(kv.get("value", ""))

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def test_observers_see_every_value_and_leader(cluster: Cluster) -> None:
    one, two, three = cluster.members
    observer = Observer(three, b"e")
    seen = observer.lines()
    first, second = grant(one), grant(two)
    won = one.client.call(
        "election/campaign", {"name": b64(b"e"), "value": b64(b"0"), "lease": first}
    )
    assert next(seen) == (key_of(first, b"e"), b"0")
    next_one = Asked(
        two, "election/campaign", name=b64(b"e"), value=b64(b"mine"), lease=str(second)
    )
    wait_for_queue(one, [first, second], b"e")
    for number in range(1, 30):
        body = {"leader": won["leader"], "value": b64(b"%d" % number)}
        cluster.members[number % 3].client.call("election/proclaim", body)
    assert [next(seen) for _ in range(29)] == [
        (key_of(first, b"e"), b"%d" % number) for number in range(1, 30)
    ]
    three.client.call("election/resign", {"leader": won["leader"]})
    assert base64.b64decode(next_one.wait()["leader"]["key"]) == key_of(second, b"e")
    assert next(seen) == (key_of(second, b"e"), b"mine")
    observer.close()
    with pytest.raises(ApiError, match="election: not leader"):
        one.client.call("election/proclaim", {"leader": won["leader"], "value": b64(b"late")})


def test_a_second_campaign_with_the_same_lease_proclaims(cluster: Cluster) -> None:
    one, two, _ = cluster.members
    lease = grant(one)
    body = {"name": b64(b"e"), "lease": lease}
    first = one.client.call("election/campaign", {**body, "value": b64(b"a")})
    again = two.client.call("election/campaign", {**body, "value": b64(b"b")})
    assert first["leader"] == again["leader"]
    assert one.client.call("election/leader", {"name": b64(b"e")})["kv"]["value"] == b64(b"b")


@pytest.mark.parametrize("leads", [True, False])
def test_whoever_waits_on_a_member_that_stops_is_told_and_leaves_the_queue(
    cluster: Cluster, leads: bool
) -> None:
    leader = cluster.wait_leader()
    stopping = leader if leads else cluster.followers()[0]
    stays = next(member for member in cluster if member not in (leader, stopping))
    first, second, third = (grant(stays) for _ in range(3))
    lock(stays, first).wait()
    gone = [
        lock(stopping, second),
        *(Asked(stopping, path, name=b64(MUTEX)) for path in ("lock/lock", "election/campaign")),
    ]
    wait_until("all wait", lambda: len(queue(stays)) == 4)
    next_one = lock(stays, third)
    wait_until("the next one waits", lambda: len(queue(stays)) == 5)
    watching = Asked(stopping, "election/observe", name=b64(b"nobody"))
    assert stopping.stop() == 0
    for asked in (*gone, watching):
        assert "etcdserver: server stopped" in str(asked.wait())
    cluster.wait_leader()
    wait_for_queue(stays, [first, third])
    stays.client.call("lock/unlock", {"key": b64(key_of(first))})
    assert next_one.wait()["key"] == b64(key_of(third))
    stays.client.call("lock/unlock", {"key": b64(key_of(third))})
    stopping.start()
    cluster.wait_healthy()
