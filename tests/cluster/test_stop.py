"""How a cluster ends: a leader that is asked to stop, all members asked to stop, all of them killed
in the middle of writing. What was acknowledged is there afterwards.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.client import NO_ANSWER, ApiError, Client
from tests.cluster.harness import Cluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

WRITERS = 4
ELECTION_TIMEOUT_MS = 8000
"""Longer than anything else takes: a leader that is known sooner was not elected by silence."""


class Writer(threading.Thread):
    """Puts one new key after the other, each until some member acknowledges it."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[bytes, bytes] = {}
        self.under_way: bytes | None = None
        self._number = number
        self._clients: list[Client] = [member.connect() for member in cluster]
        self._ending = threading.Event()

    def run(self) -> None:
        asked = count = self._number
        while not self._ending.is_set():
            count += 1
            key = b"writer %d/%d" % (self._number, count)
            self.under_way = key
            while not self._ending.is_set():
                try:
                    self._clients[asked % len(self._clients)].put(key, b"value of " + key)
                except (*NO_ANSWER, ApiError):
                    asked += 1
                    self._ending.wait(0.02)
                else:
                    self.acknowledged[key] = b"value of " + key
                    break
        for client in self._clients:
            client.close()

    def end(self) -> None:
        self._ending.set()
        self.join(30)
        assert not self.is_alive()


@contextmanager
def load(cluster: Cluster) -> Iterator[list[Writer]]:
    """Writers at work, each of them past its first acknowledged put; they end with the block."""
    writers = [Writer(cluster, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        goes_on(writers)
        yield writers
    finally:
        for writer in writers:
            writer.end()


def goes_on(writers: list[Writer], seconds: float = 30.0) -> None:
    """Wait until each of them got one more acknowledgement."""
    before = [len(writer.acknowledged) for writer in writers]
    wait_until(
        "every writer goes on",
        lambda: all(len(w.acknowledged) > b for w, b in zip(writers, before, strict=True)),
        seconds,
    )


def check(cluster: Cluster, writers: list[Writer]) -> None:
    """What was acknowledged is there on every member, and nothing that nobody wrote."""
    cluster.wait_same_history()
    expected = {key: value for w in writers for key, value in w.acknowledged.items()}
    unknown = {writer.under_way for writer in writers}
    for member in cluster.running():
        found = {kv.key: kv.value for kv in member.client.everything()}
        assert {key: found.get(key) for key in expected} == expected
        found.pop(b"asked", None)
        assert set(found) - set(expected) <= unknown


def test_a_leader_asked_to_stop_hands_over(new_cluster) -> None:
    cluster = new_cluster(election_timeout=ELECTION_TIMEOUT_MS).start()
    with load(cluster) as writers:
        leader = cluster.wait_leader()
        term = int(leader.client.status()["raftTerm"])
        assert leader.stop() == 0
        # Nobody waited for a silent leader: that would take a whole election timeout.
        successor = cluster.wait_leader(ELECTION_TIMEOUT_MS / 2e3)
        assert int(successor.client.status()["raftTerm"]) == term + 1
        # What a follower had sent to the old leader meanwhile may be lost, and its writer wait for
        # the request timeout; who asks now is served.
        assert successor.client.put(b"asked", b"now") > 0
        leader.start()
        leader.wait_healthy()
    check(cluster, writers)


def test_a_follower_asked_to_stop_leaves_the_leader_alone(cluster) -> None:
    with load(cluster) as writers:
        leader = cluster.wait_leader()
        term = leader.client.status()["raftTerm"]
        follower = cluster.followers()[0]
        assert follower.stop() == 0
        goes_on(writers)
        assert cluster.wait_leader() is leader
        follower.start()
        follower.wait_healthy()
        assert leader.client.status()["raftTerm"] == term
    check(cluster, writers)


def test_all_members_asked_to_stop(cluster) -> None:
    with load(cluster) as writers:
        for member in cluster:
            assert member.process is not None
            member.process.send_signal(signal.SIGTERM)
        assert [member.wait_exit() for member in cluster] == [0, 0, 0]
    cluster.start()
    check(cluster, writers)


def test_all_members_killed_under_load(cluster) -> None:
    with load(cluster) as writers:
        for _ in range(3):
            for member in cluster:
                assert member.process is not None
                member.process.kill()
            for member in cluster:
                member.wait_exit()
            cluster.start()
            goes_on(writers)
    check(cluster, writers)
