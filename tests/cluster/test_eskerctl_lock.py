"""eskerctl lease, lock and elect against real members."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.cluster.eskerctl import Background, all_of, ok, run
from tests.cluster.harness import Cluster, wait_until

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]


@pytest.fixture
def alone(new_cluster: NewCluster) -> Cluster:
    """One member."""
    return new_cluster(1).start()


def granted(ttl: int, at: str) -> str:
    """A new lease, as the commands name it."""
    return ok("lease", "grant", str(ttl), at=at).split()[1]


def test_the_life_of_a_lease(alone: Cluster) -> None:
    at = alone[0].client_url
    lease = granted(100, at)
    ok("put", "k1", "v", "--lease", lease, at=at)
    ok("put", "k2", "v", "--lease", lease, at=at)
    assert ok("lease", "list", at=at) == f"found 1 leases\n{lease}\n"
    told = ok("lease", "timetolive", lease, "--keys", at=at)
    assert told.startswith(f"lease {lease} granted with TTL(100s), remaining(")
    assert told.endswith("s), attached keys([k1 k2])\n")
    renewed = ok("lease", "keep-alive", "--once", lease, at=at)
    assert renewed == f"lease {lease} keepalived with TTL(100)\n"
    assert ok("lease", "revoke", lease, at=at) == f"lease {lease} revoked\n"
    assert ok("get", "k", "--prefix", at=at) == ""
    assert ok("lease", "timetolive", lease, at=at) == f"lease {lease} already expired\n"
    done = run("lease", "revoke", lease, at=at)
    message = "Error: failed to revoke lease (etcdserver: requested lease not found)\n"
    assert (done.code, done.err) == (1, message)
    assert run("lease", "keep-alive", "--once", lease, at=at).code == 2


def test_a_lease_is_kept_alive_until_it_is_revoked(cluster: Cluster) -> None:
    at = all_of(cluster)
    lease = granted(3, at)
    ok("put", "k", "v", "--lease", lease, at=at)
    with Background("lease", "keep-alive", lease, at=at) as kept:
        kept.wait_lines(3)
        cluster.wait_leader().kill()
        kept.wait_lines(7)
        assert set(kept.lines) == {f"lease {lease} keepalived with TTL(3)"}
        assert ok("get", "k", at=at) == "k\nv\n"
        ok("lease", "revoke", lease, at=at)
        done = kept.wait()
        assert (done.code, kept.lines[-1]) == (0, f"lease {lease} expired or revoked.")


def test_a_lock_is_held_by_one_at_a_time(alone: Cluster) -> None:
    at = alone[0].client_url
    with Background("lock", "L", at=at) as first:
        key = first.wait_lines(1)[0]
        assert key.startswith("L/")
        assert ok("get", "L/", "--prefix", "--keys-only", at=at).split() == [key]
        with Background("lock", "L", "sh", "-c", "true", at=at) as mistaken:
            assert mistaken.wait().code == 1
        script = 'echo "$ETCD_LOCK_KEY $ETCD_LOCK_REV"'
        with Background("lock", "L", "--", "sh", "-c", script, at=at) as second:
            wait_until("two claims", lambda: len(alone[0].client.prefix(b"L/").kvs) == 2)
            assert second.lines == []
            assert first.interrupt().code == 0
            done = second.wait()
            assert done.code == 0
            named, revision = done.out.split()
            assert named.startswith("L/")
            assert int(revision) > 2
    assert ok("get", "L/", "--prefix", at=at) == ""
    assert ok("lease", "list", at=at) == "found 0 leases\n"
    done = run("lock", "L", "--", "sh", "-c", "exit 7", at=at)
    assert (done.code, done.err) == (1, "Error: exit status 7\n")


def test_the_lock_of_a_dead_process_ends_with_its_lease(alone: Cluster) -> None:
    at = alone[0].client_url
    with Background("lock", "L", "--ttl=2", at=at) as holder:
        holder.wait_lines(1)
        time.sleep(3.0)  # longer than the lease: it is being renewed
        assert ok("get", "L/", "--prefix", "--count-only", at=at) == "1\n"
        holder.kill()
        with Background("lock", "L", "echo", "mine", at=at) as next_one:
            assert next_one.wait().out == "mine"


def test_a_lost_lock_ends_the_process(alone: Cluster) -> None:
    at = alone[0].client_url
    with Background("lock", "L", "--ttl=3", at=at) as holder:
        lease = holder.wait_lines(1)[0].removeprefix("L/")
        ok("lease", "revoke", lease, at=at)
        done = holder.wait()
        assert (done.code, done.err) == (1, "Error: session expired\n")


def test_elections_go_from_hand_to_hand(cluster: Cluster) -> None:
    at = all_of(cluster)
    with (
        Background("elect", "E", "one", at=at) as first,
        Background("elect", "-l", "E", at=at) as listener,
    ):
        assert first.wait_lines(2)[1] == "one"
        assert listener.wait_lines(2) == first.lines
        with Background("elect", "E", "two", at=at) as second:
            wait_until("two claims", lambda: len(cluster[1].client.prefix(b"E/").kvs) == 2)
            assert second.lines == []
            cluster[0].kill()  # all three spoke to this one
            cluster.wait_leader()
            assert first.interrupt().code == 0
            assert second.wait_lines(2)[1] == "two"
            assert listener.wait_lines(4)[2:] == second.lines
            shown = ok("get", second.lines[0], "-w", "json", at=at)
            assert json.loads(shown)["kvs"][0]["value"] == "dHdv"
