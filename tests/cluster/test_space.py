"""The night of `mvcc: database space exceeded`, and the way out that operators know."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cluster.client import ApiError, Client, b64
from tests.cluster.harness import ROOT, Cluster, wait_until

QUOTA_BYTES = 4 << 20
VALUE = b"x" * 20_000
EXCEEDED = "etcdserver: mvcc: database space exceeded"

pytestmark = pytest.mark.slow


def fill(client: Client) -> int:
    """Rewrite a few keys until the cluster refuses; how many writes it took."""
    for number in range(5000):
        try:
            client.put(b"churn/%d" % (number % 10), VALUE)
        except ApiError as error:
            assert (error.status, error.code, error.message) == (429, 8, EXCEEDED)
            return number
    raise AssertionError("the quota was never reached")


def check_read_only(cluster: Cluster) -> None:
    """Under the alarm: puts are refused on every member, everything that frees or reads works."""
    for number, member in enumerate(cluster):
        client = member.client
        wait_until("the alarm is known", lambda client=client: bool(client.alarms()))
        with pytest.raises(ApiError, match="space exceeded"):
            client.put(b"small", b"x")
        with pytest.raises(ApiError, match="space exceeded"):
            client.txn(failure=[{"request_put": {"key": b64(b"small"), "value": b64(b"x")}}])
        assert client.get(b"churn/5") is not None
        assert client.delete(b"churn/%d" % number) == 1
        status = client.status()
        assert any("NOSPACE" in problem for problem in status["errors"])
        assert not client.healthy()


def test_recovery_as_operators_do_it(new_cluster) -> None:
    cluster = new_cluster(3, quota_backend_bytes=QUOTA_BYTES).start()
    client = cluster[0].client
    assert fill(client) > 50
    check_read_only(cluster)

    before = {member.name: int(member.client.status()["dbSize"]) for member in cluster}
    revision = client.revision()
    client.compact(revision, physical=True)
    with pytest.raises(ApiError, match="space exceeded"):
        client.put(b"small", b"x")
    for member in cluster:
        member.client.defragment()
        size = int(member.client.status()["dbSize"])
        assert size < before[member.name] / 2, f"{member.name}: {before[member.name]} to {size}"
    with pytest.raises(ApiError, match="space exceeded"):
        client.put(b"small", b"x")
    client.disarm()
    for member in cluster:
        member.client.put(b"after", member.name.encode())
        wait_until(f"{member.name} is healthy", member.client.healthy)
    cluster.wait_same_history()


def test_disarming_without_making_room_raises_the_alarm_again(new_cluster) -> None:
    cluster = new_cluster(1, quota_backend_bytes=QUOTA_BYTES).start()
    client = cluster[0].client
    fill(client)
    wait_until("the alarm is raised", lambda: bool(client.alarms()))
    client.disarm()
    with pytest.raises(ApiError, match="space exceeded"):
        client.put(b"churn/0", VALUE)
    wait_until("the alarm is raised again", lambda: bool(client.alarms()))


def test_recovery_with_every_step_by_eskerctl(new_cluster) -> None:
    cluster = new_cluster(3, quota_backend_bytes=QUOTA_BYTES).start()
    endpoints = ",".join(member.client_url for member in cluster)

    def ctl(*words: str, ok: bool = True) -> str:
        command = [sys.executable, "-m", "node.ctl", "--endpoints", endpoints, *words]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode == 0) == ok, (words, done)
        return done.stdout if ok else done.stderr

    fill(cluster[0].client)
    wait_until("the alarm is raised", lambda: bool(cluster[0].client.alarms()))
    assert EXCEEDED in ctl("put", "small", "x", ok=False)
    assert "NOSPACE" in ctl("alarm", "list")
    assert "NOSPACE" in ctl("endpoint", "status", "-w", "table")
    status = json.loads(ctl("endpoint", "status", "-w", "json"))
    revision = max(int(row["Status"]["header"]["revision"]) for row in status)
    assert f"compacted revision {revision}" in ctl("compaction", str(revision), "--physical")
    assert ctl("defrag").count("Finished defragmenting") == len(cluster)
    assert "NOSPACE" in ctl("alarm", "disarm")
    assert ctl("put", "small", "x").strip() == "OK"
    assert ctl("get", "small", "--print-value-only").strip() == "x"
    assert ctl("alarm", "list").strip() == ""
