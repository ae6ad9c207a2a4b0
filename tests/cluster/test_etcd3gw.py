"""A client that people have: etcd3gw, unchanged, against three members, one of which is killed.

Its own retry is a requests session whose adapter tries again; which member to ask next is its
user's affair, as it is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import etcd3gw
import pytest
import requests
from etcd3gw.exceptions import Etcd3Exception
from urllib3.util import Retry

from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = pytest.mark.slow

Result = TypeVar("Result")


def connect(member: Member) -> etcd3gw.Etcd3Client:
    parts = urlsplit(member.client_url)
    session = requests.Session()
    retry = Retry(5, status_forcelist=(503,), allowed_methods=None, backoff_factor=0.1)
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    return etcd3gw.client(
        host=parts.hostname, port=parts.port, timeout=10, session=session, api_path=None
    )


class Clients:
    """One of each member; `call` asks them in turn until one answers."""

    def __init__(self, cluster: Cluster) -> None:
        self.all = [connect(member) for member in cluster.members]

    def call(self, ask: Callable[[etcd3gw.Etcd3Client], Result]) -> Result:
        answers: list[Result] = []

        def asked() -> bool:
            self.all.append(self.all.pop(0))
            try:
                answers.append(ask(self.all[0]))
            except (requests.exceptions.RequestException, Etcd3Exception) as error:
                raise OSError(str(error)) from error
            return True

        wait_until("an answer", asked, 60)
        return answers[0]

    def close(self) -> None:
        for client in self.all:
            client.session.close()


@pytest.fixture
def clients(cluster: Cluster) -> Iterator[Clients]:
    made = Clients(cluster)
    yield made
    made.close()


def keys_and_values(client: etcd3gw.Etcd3Client) -> None:
    assert client.put("plain", "1")
    assert client.get("plain") == [b"1"]
    ((value, about),) = client.get("plain", metadata=True)
    assert (value, about["key"], about["version"]) == (b"1", b"plain", "1")
    assert client.create("created", "a") is True
    assert client.create("created", "b") is False
    assert client.replace("created", "a", "c") is True
    assert client.replace("created", "a", "d") is False
    assert client.get("created") == [b"c"]
    for number in range(5):
        client.put(f"many/{number}", str(number))
    found = client.get_prefix("many/", sort_order="descend", sort_target="key")
    assert [value for value, _ in found] == [b"4", b"3", b"2", b"1", b"0"]
    assert client.delete("plain") is True
    assert client.delete("plain") is False
    assert client.delete_prefix("many/") is True
    assert client.get_prefix("many/") == []
    assert {value for value, _ in client.get_all()} >= {b"c"}


def leases(client: etcd3gw.Etcd3Client) -> None:
    lease = client.lease(ttl=100)
    client.put("leased", "x", lease=lease)
    assert 90 < lease.ttl() <= 100
    assert lease.keys() == [b"leased"]
    assert lease.refresh() == 100
    assert lease.revoke() is True
    assert client.get("leased") == []


def locks(client: etcd3gw.Etcd3Client) -> None:
    first, second = client.lock("here", ttl=60), client.lock("here", ttl=60)
    assert first.acquire() is True
    assert second.acquire() is False
    assert first.is_acquired()
    assert first.refresh() == 60
    assert first.release() is True
    with second:
        assert second.is_acquired()
    assert not second.is_acquired()


def watches(client: etcd3gw.Etcd3Client) -> None:
    events, cancel = client.watch_prefix("seen/")
    writer = threading.Thread(target=write_some, args=(client,))
    writer.start()
    seen: list[Any] = [next(events) for _ in range(4)]
    writer.join(30)
    cancel()
    assert [event.get("type", "PUT") for event in seen] == ["PUT", "PUT", "PUT", "DELETE"]
    assert [event["kv"]["key"] for event in seen] == [b"seen/1", b"seen/2", b"seen/1", b"seen/2"]
    first = int(seen[0]["kv"]["mod_revision"])
    again = client.watch_once("seen/1", timeout=10, start_revision=first)
    assert again["kv"]["mod_revision"] == str(first)


def write_some(client: etcd3gw.Etcd3Client) -> None:
    client.put("seen/1", "a")
    client.put("seen/2", "b")
    client.put("seen/1", "c")
    client.delete("seen/2")


OPERATIONS = (keys_and_values, leases, locks, watches)


@pytest.mark.parametrize("number", range(3))
def test_every_operation_on_every_member(clients: Clients, number: int) -> None:
    client = clients.all[number]
    for operation in OPERATIONS:
        operation(client)
    assert client.status()["version"]
    assert len(client.members()) == 3


def test_everything_goes_on_while_the_leader_is_killed(cluster: Cluster, clients: Clients) -> None:
    """What was written is there, what was leased lives on, and a watcher that begins again where
    it was cut off misses nothing.
    """
    lease = clients.call(lambda client: client.lease(ttl=120))
    clients.call(lambda client: client.put("kept", "x", lease=lease))
    leader = cluster.wait_leader()
    started = threading.Event()
    acknowledged: list[int] = []

    def write() -> None:
        for number in range(60):
            clients.call(lambda client, number=number: client.put(f"row/{number:02}", "v"))
            acknowledged.append(number)
            if number == 20:
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert started.wait(30)
    leader.kill()
    writer.join(120)
    assert len(acknowledged) == 60
    rows = clients.call(lambda client: client.get_prefix("row/"))
    assert [about["key"] for _, about in rows] == [b"row/%02d" % n for n in range(60)]
    survivor = next(member for member in cluster.members if member is not leader)
    client = connect(survivor)
    try:
        first = min(int(about["create_revision"]) for _, about in rows)
        events, cancel = client.watch_prefix("row/", start_revision=first)
        created = [next(events)["kv"]["key"] for _ in range(60)]
        cancel()
        assert sorted(set(created)) == [b"row/%02d" % n for n in range(60)]
        assert client.get("kept") == [b"x"]
        for operation in OPERATIONS:
            operation(client)
    finally:
        client.session.close()
