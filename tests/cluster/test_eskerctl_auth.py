"""eskerctl user, role and auth against real members, and other commands with a password."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.eskerctl import Background, Done, all_of, ok, run
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]
ROOT = ("--user", "root:rpw")


def protected(at: str) -> None:
    """root, and a user alice who may read and write what begins with a/."""
    ok("role", "add", "app", at=at)
    ok("role", "grant-permission", "app", "readwrite", "a/", "--prefix", at=at)
    ok("user", "add", "alice:secret", at=at)
    ok("user", "grant-role", "alice", "app", at=at)
    ok("user", "add", "root:rpw", at=at)
    assert ok("auth", "enable", at=at) == "Authentication Enabled\n"


def test_who_may_do_what(cluster: Cluster) -> None:
    at = all_of(cluster)
    protected(at)
    nobody = run("get", "a/1", at=at)
    assert nobody == Done(1, "", "Error: etcdserver: user name is empty\n")
    alice = ("--user", "alice:secret")
    assert ok("put", "a/1", "x", *alice, at=at) == "OK\n"
    assert ok("get", "a/1", "--user=alice", "--password=secret", at=at) == "a/1\nx\n"
    refused = run("put", "b", "x", *alice, at=at)
    assert refused == Done(1, "", "Error: etcdserver: permission denied\n")
    wrong = run("get", "a/1", "--user=alice:guess", at=at)
    failed = "Error: etcdserver: authentication failed, invalid user ID or password\n"
    assert wrong == Done(2, "", failed)
    assert ok("user", "get", "alice", "--detail", *ROOT, at=at) == (
        "User: alice\n\nRole app\n"
        "KV Read:\n\t[a/, a0) (prefix a/)\nKV Write:\n\t[a/, a0) (prefix a/)\n"
    )
    assert ok("user", "list", *ROOT, at=at) == "alice\nroot\n"
    assert ok("auth", "status", *ROOT, at=at).startswith("Authentication Status: true\n")
    changed = ok("user", "passwd", "alice", "--interactive=false", *ROOT, at=at, stdin="new\n")
    assert changed == "Password updated\n"
    assert run("get", "a/1", *alice, at=at).code == 2
    assert ok("get", "a/1", "--user=alice:new", at=at) == "a/1\nx\n"
    ok("role", "revoke-permission", "app", "a/", "--prefix", *ROOT, at=at)
    assert run("get", "a/1", "--user=alice:new", at=at).code == 1
    assert ok("auth", "disable", *ROOT, at=at) == "Authentication Disabled\n"
    assert ok("get", "a/1", at=at) == "a/1\nx\n"
    assert ok("get", "a/1", "--user=alice:new", at=at) == "a/1\nx\n"


def test_tokens_that_ran_out_are_fetched_again(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1, auth_token_ttl=1).start()
    at = cluster[0].client_url
    protected(at)
    lease = ok("lease", "grant", "9", *ROOT, at=at).split()[1]
    with Background("lease", "keep-alive", lease, *ROOT, at=at) as kept:
        assert len(kept.wait_lines(3)) == 3
        assert kept.interrupt().err == ""


def test_a_watch_needs_permission(new_cluster: NewCluster) -> None:
    cluster = new_cluster(1).start()
    at = cluster[0].client_url
    protected(at)
    done = run("watch", "b", "--user=alice:secret", at=at)
    assert done.code == 5
    assert "permission denied" in done.err
    with Background("watch", "a/", "--prefix", "--rev=1", "--user=alice:secret", at=at) as watch:
        ok("put", "a/2", "y", *ROOT, at=at)
        assert watch.wait_lines(3) == ["PUT", "a/2", "y"]
