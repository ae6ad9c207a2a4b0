"""What a Kubernetes cluster keeps: ten thousand Service objects, their history, and every kind of
crash.

A plain dict of histories is the model. Every answer the cluster gave is in it, with the revision it
was given at, and every key must read back at the head and at old revisions, from any member.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.cluster import services
from tests.cluster.client import ApiError, Client, b64
from tests.cluster.harness import Cluster, Member

SERVICES = 10_000
UPDATES = 3
WRITERS = 6
OLD_REVISIONS = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Version(NamedTuple):
    """What a key was from `revision` on: the number of its update, None once deleted."""

    revision: int
    update: int | None


class Model:
    """Every key's versions, ascending by revision."""

    def __init__(self) -> None:
        self.histories: dict[int, list[Version]] = {}

    def wrote(self, number: int, revision: int, update: int | None) -> None:
        self.histories.setdefault(number, []).append(Version(revision, update))

    def at(self, revision: int) -> dict[bytes, bytes]:
        """Every key and value as of `revision`."""
        found = {}
        for number, versions in self.histories.items():
            place = bisect_right(versions, revision, key=lambda version: version.revision)
            update = versions[place - 1].update if place else None
            if update is not None:
                found[services.key(number)] = services.service(number, update)
        return found

    @property
    def head(self) -> int:
        return max(versions[-1].revision for versions in self.histories.values())


def in_parallel(
    cluster: Cluster, numbers: Iterable[int], work: Callable[[Client, int], None]
) -> None:
    """Spread `work` over all members, each number by one of several clients, in any order."""
    numbers = list(numbers)

    def run(writer: int) -> None:
        client = cluster[writer % len(cluster)].connect()
        try:
            for number in numbers[writer::WRITERS]:
                work(client, number)
        finally:
            client.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(run, writer) for writer in range(WRITERS)]:
            done.result()


def load(cluster: Cluster) -> Model:
    """Create all, update each three times, delete every other one."""
    model = Model()
    for update in range(UPDATES + 1):

        def write(client: Client, number: int, update: int = update) -> None:
            revision = client.put(services.key(number), services.service(number, update))
            model.wrote(number, revision, update)

        in_parallel(cluster, range(SERVICES), write)

    def delete(client: Client, number: int) -> None:
        answer = client.call(
            "kv/txn",
            {"success": [{"request_delete_range": {"key": b64(services.key(number))}}]},
        )
        model.wrote(number, int(answer["header"]["revision"]), None)

    in_parallel(cluster, range(0, SERVICES, 2), delete)
    return model


def read_back(member: Member, model: Model, revision: int) -> None:
    """Every key of `member` as of `revision` is what the model says, no more and no less."""
    found = {row.key: row.value for row in member.client.everything(revision=revision)}
    assert found == model.at(revision), f"{member.name} at revision {revision}"


def check_history(cluster: Cluster, model: Model, revisions: list[int]) -> None:
    cluster.wait_healthy()
    for member in cluster:
        assert member.client.range(b"\0").revision == model.head
    for place, revision in enumerate([model.head, *revisions]):
        read_back(cluster[place % len(cluster)], model, revision)
    cluster.wait_same_history()


def check_refused(cluster: Cluster, revision: int) -> None:
    for member in cluster:
        with pytest.raises(ApiError, match="required revision has been compacted") as refused:
            member.client.range(services.key(1), revision=revision)
        assert (refused.value.status, refused.value.code) == (400, 11)


def test_ten_thousand_services_survive_every_crash(new_cluster) -> None:
    cluster = new_cluster(3).start()
    model = load(cluster)
    revisions_written = SERVICES * (UPDATES + 1) + SERVICES // 2
    assert model.head == 1 + revisions_written
    chance = random.Random("old revisions")
    revisions = sorted(chance.sample(range(2, model.head), OLD_REVISIONS))
    check_history(cluster, model, revisions)

    compacted = SERVICES * 2
    cluster[0].client.compact(compacted, physical=True)
    kept = [compacted, *(revision for revision in revisions if revision > compacted)]
    check_refused(cluster, compacted - 1)
    check_history(cluster, model, kept)

    for member in cluster:
        member.kill()
        member.start()
        cluster.wait_healthy()
        check_refused(cluster, compacted - 1)
        check_history(cluster, model, kept[:1])
    for member in cluster:
        member.kill()
    cluster.start()
    check_refused(cluster, compacted - 1)
    check_history(cluster, model, kept)
