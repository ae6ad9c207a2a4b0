"""Bits that flip on a member's disk: refused with file and offset, or found by the comparison of
hashes; and the member is rebuilt from the others by one command.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos import disks
from tests.cluster import eskerctl
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MARK = b"a value that is easy to find in a file: "


@pytest.fixture
def cluster(tmp_path: Path):
    flags = {"corrupt-check-time": "500ms", "backend-batch-interval": "20ms"}
    with Cluster(tmp_path, 3, flags) as cluster:
        cluster.start()
        for number in range(40):
            cluster[0].client.put(b"key %d" % (number % 10), MARK + b"%d" % number)
        cluster.wait_same_history()
        yield cluster


def rebuild(cluster: Cluster, damaged: Member) -> None:
    """As the README says: one command, an empty directory, and a start."""
    others = ",".join(member.client_url for member in cluster if member is not damaged)
    printed = eskerctl.ok("member", "replace", damaged.name, at=others)
    damaged.end()
    damaged.wipe()
    settings = dict(re.findall(r'^ETCD_(\w+)="(.*)"$', printed, re.MULTILINE))
    assert settings["NAME"] == damaged.name
    for name in ("INITIAL_CLUSTER", "INITIAL_CLUSTER_STATE"):
        damaged.flags[name.lower().replace("_", "-")] = settings[name]
    damaged.start()
    damaged.wait_healthy()
    others_client = next(member for member in cluster if member is not damaged).client
    others_client.put(b"after", b"the repair")
    cluster.wait_same_history()
    assert others_client.alarms() == []
    assert {each["name"] for each in others_client.members()} == {"n1", "n2", "n3"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_bit_inside_the_log(cluster: Cluster, share: float) -> None:
    """The start is refused, naming the file and a place not behind the bit; nothing is cut off."""
    damaged = cluster.followers()[0]
    assert damaged.stop() == 0
    (path,) = disks.segments(damaged.data_dir)
    flipped = int(share * disks.end_of_data(path)) + 8
    disks.flip(path, flipped, bit=2)
    before = path.read_bytes()
    for _ in range(2):
        damaged.start()
        assert damaged.wait_exit() == 1
        assert path.read_bytes() == before, "what is damaged is left as it is"
    said = [line for line in damaged.log().splitlines() if "level=fatal" in line]
    place = re.search(rf"{re.escape(path.name)} at offset (\d+)", said[-1])
    assert place is not None, said
    assert 0 <= int(place[1]) <= flipped
    assert "Traceback" not in damaged.log()
    cluster.running()[0].client.put(b"the others", b"go on")
    rebuild(cluster, damaged)


def marks(path: Path) -> list[int]:
    """Where values stand in a file."""
    return [found.start() for found in re.finditer(re.escape(MARK), path.read_bytes())]


def test_a_bit_in_the_database_of_a_running_member(cluster: Cluster) -> None:
    """The periodic comparison names the member while all of them run, in values of the past too."""
    damaged = cluster.followers()[0]
    number = damaged.id
    path = disks.database(damaged.data_dir)
    wait_until("the rows are on disk", lambda: len(marks(path)) >= 40)
    for place in marks(path):
        disks.flip(path, place + 3)
    good = next(member for member in cluster if member is not damaged)
    wait_until(
        "the alarm names it",
        lambda: (
            [(int(each["memberID"]), each["alarm"]) for each in good.client.alarms()]
            == [(number, "CORRUPT")]
        ),
    )
    rebuild(cluster, damaged)


def test_a_bit_in_the_database_of_a_stopped_member(cluster: Cluster) -> None:
    damaged = cluster.followers()[0]
    assert damaged.stop() == 0
    path = disks.database(damaged.data_dir)
    # All of them: some stand in pages that are free by now.
    for place in marks(path):
        disks.flip(path, place + 3)
    damaged.flags["initial-corrupt-check"] = "true"
    damaged.start()
    assert damaged.wait_exit() == 1
    assert "the data of this member differ" in damaged.log()
    del damaged.flags["initial-corrupt-check"]
    nobody = eskerctl.run("member", "replace", "n9", at=eskerctl.all_of(cluster))
    assert nobody.code != 0
    assert "0 members have the name n9" in nobody.err
    rebuild(cluster, damaged)


def test_bits_anywhere_in_the_database(cluster: Cluster) -> None:
    """Pages, not only values: the member refuses, ends, or is named, but its answers are no other
    than the others', and its end harms nobody.
    """
    damaged = cluster.followers()[0]
    number = damaged.id
    assert damaged.stop() == 0
    path = disks.database(damaged.data_dir)
    size = path.stat().st_size
    for place in range(0, size, 512):
        disks.flip(path, place, bit=place // 512 % 8)
    damaged.start()
    good = next(member for member in cluster if member is not damaged)

    def found() -> bool:
        alarms = good.client.alarms()
        return not damaged.running or [int(each["memberID"]) for each in alarms] == [number]

    wait_until("the damage is found", found)
    rebuild(cluster, damaged)
