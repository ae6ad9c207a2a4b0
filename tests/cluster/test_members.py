"""Members come, are promoted and go while real processes serve; and what a lost majority leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.client import ApiError
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = pytest.mark.slow

CONNECTED_SECONDS = 5.0
"""How long members must have been connected before a voter comes or goes."""


def newcomer(cluster: Cluster, name: str, root: Path) -> Member:
    """A process that will join, with the cluster's members in its settings."""
    member = Member(name, root / name)
    known = [f"{each.name}={each.peer_url}" for each in cluster if each.name != name]
    initial = ",".join([*known, f"{name}={member.peer_url}"])
    token = cluster[0].flags["initial-cluster-token"]
    member.flags = {
        "initial-cluster": initial,
        "initial-cluster-token": token,
        "initial-cluster-state": "existing",
    }
    return member


def add(asked: Member, added: Member, *, learner: bool = False) -> int:
    body = {"peerURLs": [added.peer_url], "isLearner": learner}
    return int(asked.client.call("cluster/member/add", body)["member"]["ID"])


def eventually(asked: Member, path: str, number: int) -> dict[str, object]:
    """The answer, once the cluster is healthy enough to give it."""
    answers: list[dict[str, object]] = []

    def answered() -> bool:
        answers.append(asked.client.call(path, {"ID": number}))
        return True

    wait_until(f"{path} of {number:x}", answered)
    return answers[0]


def refusal(asked: Member, path: str, body: dict[str, object]) -> tuple[int, int, str]:
    with pytest.raises(ApiError) as caught:
        asked.client.call(path, body)
    return caught.value.status, caught.value.code, caught.value.message


def test_a_learner_is_promoted_through_a_follower(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        follower, other = cluster.followers()
        follower.client.put(b"before", b"1")
        learner = newcomer(cluster, "n4", tmp_path)
        number = add(follower, learner, learner=True)
        promote = "cluster/member/promote"
        too_early = "etcdserver: can only promote a learner member which is in sync with leader"
        assert refusal(other, promote, {"ID": number}) == (400, 9, too_early)
        assert refusal(other, promote, {"ID": 7})[:2] == (404, 5)
        assert refusal(other, promote, {"ID": other.id})[2].endswith("promote a learner member")
        learner.start()
        try:
            wait_until("the learner serves", lambda: bool(learner.client.status()["isLearner"]))
            learner_answers_little(learner)
            eventually(other, promote, number)
            members = {int(each["ID"]): each for each in other.client.members()}
            assert not members[number].get("isLearner")
            wait_until("it is a voter", lambda: "isLearner" not in learner.client.status())
            assert learner.client.get(b"before") is not None
            learner.client.put(b"after", b"2")
            cluster.members.append(learner)
            cluster.wait_same_history()
            leader = cluster.wait_leader()
            metrics = leader.client.metrics()
            assert metrics["etcd_server_learner_promote_successes"] == 1
            assert sum(n for name, n in metrics.items() if "promote_failures{" in name) >= 3
        finally:
            learner.end()


def learner_answers_little(learner: Member) -> None:
    """Status, serializable ranges and snapshots; all else is refused."""
    refused = (400, 9, "etcdserver: rpc not supported for learner")
    wait_until("it has caught up", lambda: learner.client.get(b"before", serializable=True))
    assert b"".join(learner.client.snapshot())
    learner.client.close()
    key: dict[str, object] = {"key": "YQ=="}
    requests: list[tuple[str, dict[str, object]]] = [
        ("kv/range", key),
        ("kv/put", key),
        ("kv/deleterange", key),
        ("kv/txn", {"success": [{"request_range": {**key, "serializable": True}}]}),
        ("kv/compaction", {"revision": 1}),
        ("lease/grant", {"TTL": 5}),
        ("lease/leases", {}),
        ("lease/timetolive", {"ID": 5}),
        ("cluster/member/list", {}),
        ("cluster/member/promote", {"ID": 5}),
        ("maintenance/alarm", {}),
        ("maintenance/hashkv", {}),
        ("maintenance/defragment", {}),
    ]
    for path, body in requests:
        assert refusal(learner, path, body) == refused, path


def test_a_hundred_changes_back_to_back(tmp_path: Path) -> None:
    """Each is answered when raft has seen it applied, so the next is not refused for it; on every
    member in turn.
    """
    with Cluster(tmp_path) as cluster:
        cluster.start()
        stranger = Member("n9", tmp_path / "n9")
        for turn in range(50):
            asked = cluster[turn % 3]
            number = add(asked, stranger, learner=True)
            listed = [int(each["ID"]) for each in asked.client.members()]
            assert number in listed
            asked.client.call("cluster/member/remove", {"ID": number})

        def agreed() -> bool:
            tables = [member.client.members() for member in cluster]
            return len(tables[0]) == 3 and tables[0] == tables[1] == tables[2]

        wait_until("the first three members everywhere", agreed)


def test_a_removed_member_stops_and_says_so_and_comes_back_as_another(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        gone, asked = cluster.followers()
        removed = gone.id
        eventually(asked, "cluster/member/remove", removed)
        gone.wait_exit()
        assert "removed from the cluster" in gone.log()
        gone.start()
        assert gone.wait_exit() == 0
        # With its old data it is nobody; with empty ones and a new id it is welcome again.
        gone.wipe()
        gone.flags["initial-cluster-state"] = "existing"
        body = {"peerURLs": [gone.peer_url]}
        added: list[int] = []

        def accepted() -> bool:
            answer = asked.client.call("cluster/member/add", body)
            added.append(int(answer["member"]["ID"]))
            return True

        wait_until("a voter may be added", accepted)
        assert added[0] != removed
        gone.start()
        gone.wait_healthy()
        assert gone.id == added[0]
        cluster.wait_same_history()


def test_what_would_lose_the_quorum_is_refused(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start()
        follower, down = cluster.followers()
        number = down.id
        down.kill()
        stranger = Member("n9", tmp_path / "n9")
        urls: dict[str, object] = {"peerURLs": [stranger.peer_url]}
        assert refusal(follower, "cluster/member/add", urls)[:2] == (503, 14)
        leader = cluster.wait_leader()
        for asked, member in ((follower, leader), (leader, follower)):
            assert refusal(asked, "cluster/member/remove", {"ID": member.id})[:2] == (503, 14)
        # The one that is down takes no quorum along.
        eventually(follower, "cluster/member/remove", number)
        follower.client.put(b"still", b"here")


def test_new_peer_urls_keep_the_learner_flag(tmp_path: Path) -> None:
    with Cluster(tmp_path, size=1) as cluster:
        cluster.start()
        stranger = Member("n9", tmp_path / "n9")
        number = add(cluster[0], stranger, learner=True)
        urls = ["http://127.0.0.1:1"]
        answer = cluster[0].client.call("cluster/member/update", {"ID": number, "peerURLs": urls})
        (learner,) = (each for each in answer["members"] if int(each["ID"]) == number)
        assert learner["isLearner"]
        assert learner["peerURLs"] == urls
