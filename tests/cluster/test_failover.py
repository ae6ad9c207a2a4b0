"""The leader dies: how soon the others go on, and what becomes of what was under way."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.client import NO_ANSWER, ApiError
from tests.cluster.harness import Cluster, Member

pytestmark = pytest.mark.slow

ELECTION_SECONDS = 1.0
"""What a follower waits at least that knows nothing better."""
REQUEST_SECONDS = 7.0
WRITERS = 8
ROUNDS = 3


class Writer(threading.Thread):
    """Puts one key after the other at one member until told to stop."""

    def __init__(self, member: Member, number: int) -> None:
        super().__init__()
        self.member = member
        self.number = number
        self.stopped = threading.Event()
        self.acknowledged: list[bytes] = []
        self.refused: list[str] = []
        self.slowest = 0.0

    def run(self) -> None:
        count = 0
        with closing(self.member.connect()) as client:
            while not self.stopped.is_set():
                key = b"w%d/%d" % (self.number, count)
                count += 1
                started = time.monotonic()
                try:
                    client.put(key, b"x")
                except ApiError as error:
                    self.refused.append(error.message)
                    self.stopped.wait(0.02)
                else:
                    self.acknowledged.append(key)
                self.slowest = max(self.slowest, time.monotonic() - started)


def first_write(member: Member) -> float:
    """Seconds until a put succeeds at `member`."""
    started = time.monotonic()
    with closing(member.connect()) as client:
        while True:
            try:
                client.put(b"first", b"x")
            except (*NO_ANSWER, ApiError):
                assert time.monotonic() - started < 30.0
                time.sleep(0.01)
            else:
                return time.monotonic() - started


def test_another_leads_before_an_election_timeout_has_passed(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        took = []
        for _ in range(ROUNDS):
            leader = cluster.wait_leader()
            time.sleep(2.5)  # Connections that broke sooner are not dialled again at once.
            leader.kill()
            took.append(min(first_write(member) for member in cluster.running()))
            cluster.start()
        assert sorted(took)[ROUNDS // 2] < ELECTION_SECONDS, took
        cluster.wait_same_history()


def test_what_a_dead_leader_was_sent_is_answered_soon(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        followers = cluster.followers()
        leader = cluster.wait_leader()
        time.sleep(2.5)
        writers = [Writer(followers[number % 2], number) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        time.sleep(1.0)
        leader.kill()
        first_write(followers[0])
        time.sleep(0.5)
        for writer in writers:
            writer.stopped.set()
        for writer in writers:
            writer.join(2 * REQUEST_SECONDS)
        assert max(writer.slowest for writer in writers) < REQUEST_SECONDS / 2
        told = {text for writer in writers for text in writer.refused}
        lost = "etcdserver: request timed out, possibly due to previous leader failure"
        assert told <= {lost, "etcdserver: no leader"}
        written = [key for writer in writers for key in writer.acknowledged]
        assert len(written) > WRITERS
        for member in followers:
            found = {row.key for row in member.client.everything()}
            assert found.issuperset(written)
        cluster.start()
        cluster.wait_same_history()
