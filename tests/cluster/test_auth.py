"""Users, roles and tokens over three members that crash, lag behind and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.cluster.client import ApiError, Client, b64
from tests.cluster.harness import Cluster, Member, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PASSWORDS = {"root": "Rt9-Geheimnis", "alice": "Al7-Geheimnis", "bob": "Bo5-Geheimnis"}
CHEAP = {"bcrypt_cost": 4}

ROLES = {"alice": ("READWRITE", b"a", b"b"), "bob": ("READ", b"a", b"c")}
"""Each user has a role of the same name."""

EMPTY, BAD_TOKEN, DENIED, OLD = (400, 3), (401, 16), (403, 7), (400, 3)


def auth(client: Client, path: str, **body: Any) -> dict[str, Any]:
    return client.call("auth/" + path, body)


def log_in(client: Client, name: str, password: str = "") -> str:
    return str(
        auth(client, "authenticate", name=name, password=password or PASSWORDS[name])["token"]
    )


def grant(client: Client, role: str, kind: str, key: bytes, end: bytes = b"") -> None:
    perm = {"permType": kind, "key": b64(key), "range_end": b64(end)}
    auth(client, "role/grant", name=role, perm=perm)


def switch_on(cluster: Cluster) -> None:
    """Users root, alice and bob, each in its role; all clients are root's from now on."""
    cluster.wait_leader()
    client = cluster[0].client
    for name, password in PASSWORDS.items():
        auth(client, "user/add", name=name, password=password)
        auth(client, "role/add", name=name)
        auth(client, "user/grant", user=name, role=name)
    for role, (kind, key, end) in ROLES.items():
        grant(client, role, kind, key, end)
    auth(client, "enable")
    become(cluster, log_in(client, "root"))
    if "auth-token" not in cluster[0].flags:
        wait_known(cluster, client.token)


def become(cluster: Cluster, token: str) -> None:
    for member in cluster:
        member.token = token
        if member.running:
            member.client.token = token


def refused(call: Callable[..., object], *what: Any, **more: Any) -> tuple[int, int] | None:
    """(HTTP status, code) of a refusal, None when it was none."""
    try:
        call(*what, **more)
    except ApiError as error:
        return error.status, error.code
    return None


def wait_told(told: tuple[int, int] | None, call: Callable[..., object], *what: Any) -> None:
    """Members hear of an entry one after the other."""
    wait_until(f"{told} for {what}", lambda: refused(call, *what) == told)


def as_user(member: Member, token: str) -> Client:
    client = member.connect()
    client.token = token
    return client


def decisions(member: Member, tokens: dict[str, str]) -> dict[tuple[str, str, bytes], bool]:
    """Who may do what, as this member answers."""
    table = {}
    for (user, token), key in product(tokens.items(), (b"a", b"ab", b"b", b"c", b"z")):
        client = as_user(member, token)
        table[user, "read", key] = refused(client.get, key) is None
        table[user, "read here", key] = refused(client.get, key, serializable=True) is None
        table[user, "write", key] = refused(client.put, key, b"v") is None
        table[user, "delete all", key] = refused(client.delete, key, b"\0") is None
        client.close()
    return table


def wait_known(cluster: Cluster, token: str) -> None:
    """Until every running member has heard of the token."""
    for member in cluster.running():
        client = as_user(member, token)
        wait_told(None, client.call, "cluster/member/list", {})
        client.close()


def test_a_token_is_good_on_all_members_until_its_user_changes(new_cluster) -> None:
    cluster = new_cluster(3, **CHEAP).start()
    switch_on(cluster)
    root = cluster.wait_leader().client
    for end, kept in (
        (lambda: auth(root, "user/changepw", name="alice", password=PASSWORDS["alice"]), False),
        (lambda: auth(root, "user/revoke", name="alice", role="alice"), True),
        (lambda: auth(root, "user/delete", name="alice"), False),
    ):
        token = log_in(cluster[0].client, "alice")
        wait_known(cluster, token)
        end()
        cluster.wait_same_history()
        for member in cluster:
            client = as_user(member, token)
            wait_told(None if kept else BAD_TOKEN, client.call, "cluster/member/list", {})
            client.close()
    auth(root, "disable")
    for member in cluster:
        wait_told(None, member.client.get, b"z")
    auth(root, "enable")
    for member in cluster:
        wait_told(BAD_TOKEN, member.client.get, b"z")


def test_members_decide_alike_after_a_crash_and_after_a_snapshot(new_cluster) -> None:
    """What is known of users is rebuilt from the rows that came, not kept from before."""
    cluster = new_cluster(3, snapshot_count=40, snapshot_catchup_entries=5, **CHEAP).start()
    switch_on(cluster)
    tokens = {name: log_in(cluster[0].client, name) for name in ("alice", "bob")}
    wait_known(cluster, tokens["bob"])
    assert decisions(cluster[0], tokens) == decisions(cluster[1], tokens)
    away = cluster.followers()[0]
    away.kill()
    leader = cluster.wait_leader()
    auth(leader.client, "role/revoke", role="alice", key=b64(b"a"), range_end=b64(b"b"))
    grant(leader.client, "alice", "WRITE", b"c")
    auth(leader.client, "user/revoke", name="bob", role="bob")
    auth(leader.client, "user/grant", user="bob", role="alice")
    auth(leader.client, "role/delete", role="bob")
    for number in range(200):
        leader.client.put(b"n%d" % number, b"x")
    away.start()
    away.wait_healthy()
    wait_until("a snapshot", lambda: "installed a snapshot" in away.log())
    # Who was let in by what the snapshot stands for is a stranger to the member that got it.
    become(cluster, log_in(leader.client, "root"))
    tokens = {name: log_in(leader.client, name) for name in ("alice", "bob")}
    for token in (*tokens.values(), away.token):
        wait_known(cluster, token)
    tables = [decisions(member, tokens) for member in cluster]
    assert tables[0] == tables[1] == tables[2]
    allowed = {row for row, yes in tables[0].items() if yes}
    assert allowed == {("alice", "write", b"c"), ("bob", "write", b"c")}
    for member in cluster:
        member.kill()
    for member in cluster:
        member.start()
    cluster.wait_healthy()
    client = cluster[0].connect()
    client.token = ""
    assert refused(client.get, b"a") == EMPTY
    tokens = {name: log_in(client, name) for name in ("alice", "bob")}
    become(cluster, log_in(client, "root"))
    for token in (*tokens.values(), cluster[0].token):
        wait_known(cluster, token)
    for member in cluster:
        table = decisions(member, tokens)
        assert {row for row, yes in table.items() if yes} == allowed
    cluster.wait_same_history()
    client.close()


def test_leases_expire_while_it_is_on(new_cluster) -> None:
    cluster = new_cluster(3, **CHEAP).start()
    switch_on(cluster)
    client = cluster.followers()[0].client
    client.call("lease/grant", {"TTL": 2, "ID": 77})
    client.put(b"z", b"v", lease=77)
    wait_until("the lease's end", lambda: client.get(b"z") is None, 15.0)
    assert client.call("lease/timetolive", {"ID": 77})["TTL"] == "-1"


def test_roles_change_while_they_are_checked(new_cluster) -> None:
    """Whoever may read `a` all the time is never told otherwise; whoever may read `c` now and then
    is told one or the other, and in the end what holds.
    """
    cluster = new_cluster(3, **CHEAP).start()
    switch_on(cluster)
    token = log_in(cluster[0].client, "alice")
    wait_known(cluster, token)
    stop = threading.Event()
    seen: dict[str, list[tuple[bytes, tuple[int, int] | None]]] = {}

    def ask(member: Member) -> None:
        client = as_user(member, token)
        answers = seen.setdefault(member.name, [])
        while not stop.is_set():
            answers.append((b"a", refused(client.get, b"a")))
            answers.append((b"a", refused(client.put, b"a", b"v")))
            answers.append((b"c", refused(client.put, b"c", b"v")))
        client.close()

    threads = [threading.Thread(target=ask, args=(member,)) for member in cluster]
    for thread in threads:
        thread.start()
    root = cluster.wait_leader().client
    for _ in range(30):
        grant(root, "alice", "WRITE", b"c")
        auth(root, "role/revoke", role="alice", key=b64(b"c"))
    stop.set()
    for thread in threads:
        thread.join()
    answers = [answer for each in seen.values() for answer in each]
    assert {told for key, told in answers if key == b"a"} == {None}
    assert {told for key, told in answers if key == b"c"} == {None, DENIED}
    cluster.wait_same_history()
    for member in cluster:
        client = as_user(member, token)
        assert refused(client.put, b"c", b"v") == DENIED
        client.close()


def files_of(member: Member) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(member.directory.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()


def test_no_secret_is_written_down(new_cluster) -> None:
    """No password and no token, in any file, log line or metric."""
    cluster = new_cluster(1, log_level="debug", **CHEAP).start()
    switch_on(cluster)
    member = cluster[0]
    client = member.client
    wrong, new, odd = "Wr0ng-Geheimnis", "Nw3-Geheimnis", "Od1-Geheimnis" * 9
    tokens = [client.token, log_in(client, "alice"), log_in(client, "bob")]
    assert refused(log_in, client, "alice", wrong) == (400, 3)
    assert refused(log_in, client, "nobody", wrong) == (400, 3)
    assert refused(auth, client, "user/add", name="x", password=odd) == (400, 3)
    assert refused(auth, client, "user/changepw", name="x", password=new) == (400, 9)
    auth(client, "user/changepw", name="bob", password=new)
    tokens.append(log_in(client, "bob", new))
    stranger = as_user(member, "forged-Geheimnis.17")
    assert refused(stranger.get, b"a") == BAD_TOKEN
    stranger.close()
    for body in (b'{"name":"alice","password":"Geheimnis"', b'{"password":["Geheimnis"]}'):
        status, answer = client.send("POST", "/v3/auth/authenticate", body)
        assert status == 400
        assert b"Geheimnis" not in answer
    metrics = client.send("GET", "/metrics")[1]
    assert b"etcd_debugging_auth_revision" in metrics
    time.sleep(0.3)  # One batch of the backend: its file holds what there is.
    written = [*files_of(member), (Path("/metrics"), metrics)]
    member.stop()
    written += files_of(member)
    assert any(b"alice" in data for path, data in written if "backend" in str(path))
    assert any(b"alice" in data for path, data in written if "wal" in str(path))
    secrets = [b"Geheimnis", *(token.encode() for token in tokens)]
    secrets += [token.partition(".")[0].encode() for token in tokens]
    assert [(path, secret) for path, data in written for secret in secrets if secret in data] == []
    log = member.log()
    assert "$2b$" not in log, "no hash either"


def write_keys(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(65537, 2048)
    (folder / "private.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "public.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def test_signed_tokens(new_cluster, tmp_path: Path) -> None:
    """Good on every member with the key, over restarts, until users or roles change."""
    write_keys(tmp_path)
    verify = f"jwt,sign-method=RS256,pub-key={tmp_path / 'public.pem'},ttl=10m"
    cluster = new_cluster(3, auth_token=f"{verify},priv-key={tmp_path / 'private.pem'}", **CHEAP)
    cluster[2].flags["auth-token"] = verify
    cluster.start()
    switch_on(cluster)
    become(cluster, log_in(cluster[0].client, "root"))
    for member in cluster:
        wait_told(None, member.client.put, b"z", b"")
    error = refused(log_in, cluster[2].client, "root")
    assert error == (500, 2), "it has no key to sign with"
    for member in cluster:
        member.kill()
    for member in cluster:
        member.start()
    cluster.wait_healthy()
    for member in cluster:
        member.client.put(b"z", b"again")
    head, claims, signature = cluster[0].token.split(".")
    for forged in (
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"eyJhbGciOiJub25lIn0.{claims}.",
        f"{head}.{claims}",
        "x" * 7000,
    ):
        client = as_user(cluster[1], forged)
        began = time.monotonic()
        assert refused(client.get, b"z") == BAD_TOKEN
        assert time.monotonic() - began < 2
        client.close()
    auth(cluster[0].client, "role/add", name="another")
    for member in cluster:
        wait_told(OLD, member.client.get, b"z")
    become(cluster, log_in(cluster[1].client, "root"))
    wait_told(None, cluster[2].client.get, b"z")
