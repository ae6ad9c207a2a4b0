"""Members and clients over TLS: who has no certificate of ours is not listened to."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster.certificates import Authority
from tests.cluster.client import ApiError, Client
from tests.cluster.harness import Cluster, Member, wait_until
from tests.cluster.peer import Impostor, MessageType, Verdict, connect, hello, silent

pytestmark = pytest.mark.slow

QUICK_SECONDS = 7.0


class SecureClient(Client):
    """A client over https."""

    def __init__(self, url: str, context: ssl.SSLContext, timeout_seconds: float = 10.0) -> None:
        super().__init__(url, timeout_seconds)
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout_seconds, context=context
        )


class SecureMember(Member):
    """A member whose peer URL is https; `context` is what its clients use if theirs is too."""

    context: ssl.SSLContext

    def connect(self, timeout_seconds: float = 15.0) -> Client:
        if not self.client_url.startswith("https:"):
            return super().connect(timeout_seconds)
        return SecureClient(self.client_url, self.context, timeout_seconds)


def context_of(authority: Authority, name: str = "", **kind: Any) -> ssl.SSLContext:
    """What a client uses that trusts `authority`, with a certificate of its if named."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if name:
        context.load_cert_chain(*map(str, authority.issue(name, **kind)))
    return context


def assert_refused(url: str, context: ssl.SSLContext | None) -> None:
    """A client, a plain one without `context`, gets an error, and quickly."""
    client = SecureClient(url, context, QUICK_SECONDS) if context else Client(url, QUICK_SECONDS)
    started = time.monotonic()
    with pytest.raises((OSError, http.client.HTTPException, ApiError)):
        client.put(b"never", b"x")
    assert time.monotonic() - started < QUICK_SECONDS
    client.close()


def secure_cluster(root: Path, authority: Authority, *, clients: bool) -> Cluster:
    """Three members with certificates for peers, and with `clients` for clients too."""
    cluster = Cluster(root)
    members = []
    for plain in cluster:
        member = SecureMember(plain.name, plain.directory)
        member.context = context_of(authority, f"client-of-{plain.name}")
        member.peer_url = plain.peer_url.replace("http:", "https:")
        certificate, key = map(str, authority.issue(plain.name))
        member.flags = {"initial-cluster-token": "tls"}
        prefixes = ("", "peer-") if clients else ("peer-",)
        for prefix in prefixes:
            member.flags |= {
                f"{prefix}cert-file": certificate,
                f"{prefix}key-file": key,
                f"{prefix}trusted-ca-file": str(authority.certificate),
                f"{prefix}client-cert-auth": "true",
            }
        member.client_url = plain.client_url
        if clients:
            member.client_url = plain.client_url.replace("http:", "https:")
        members.append(member)
    cluster.members[:] = members
    initial = ",".join(f"{member.name}={member.peer_url}" for member in members)
    for member in members:
        member.flags["initial-cluster"] = initial
    return cluster


def test_three_members_over_tls(tmp_path: Path) -> None:
    authority, strangers = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with secure_cluster(tmp_path / "cluster", authority, clients=True) as cluster:
        cluster.start()
        cluster.wait_leader()
        for member in cluster:
            member.client.put(b"key/" + member.name.encode(), b"value")
        cluster.wait_same_history()
        check_clients(cluster, authority, strangers)
        check_peers(cluster, authority, strangers)
        cluster[0].kill()
        cluster.wait_leader()
        cluster[1].client.put(b"meanwhile", b"x")
        cluster.start()
        value = cluster[0].client.get(b"meanwhile")
        assert value is not None and value.value == b"x"
        cluster.wait_same_history()
        assert "Traceback" not in "".join(member.log() for member in cluster)


def check_clients(cluster: Cluster, authority: Authority, strangers: Authority) -> None:
    """Plain HTTP, no certificate, another's certificate: an error each, and quickly."""
    url = cluster[0].client_url
    unknown = context_of(authority)
    unknown.load_cert_chain(*map(str, strangers.issue("stranger")))
    for context in (None, context_of(authority), unknown, context_of(strangers)):
        assert_refused(url, context)
    assert cluster[0].client.get(b"never") is None


def check_peers(cluster: Cluster, authority: Authority, strangers: Authority) -> None:
    """A hello is only read from who has shown a certificate of ours."""
    first, second = cluster[0], cluster[1]
    number = int(first.client.status()["header"]["cluster_id"])
    ids = {"cluster": number, "sender": second.id, "receiver": first.id}
    with connect(first.peer_url) as plain:
        plain.sendall(hello(**ids))
        assert b"ESKR" not in silent(plain)
    unknown = context_of(authority)
    unknown.load_cert_chain(*map(str, strangers.issue("stranger")))
    for context in (context_of(authority), unknown):
        try:
            with connect(first.peer_url, context) as connection:
                connection.sendall(hello(**ids))
                assert silent(connection) == b""
        except (ssl.SSLError, ConnectionError):
            pass  # Refused in the handshake already: as good.
    with Impostor(first.peer_url, context=context_of(authority, "known"), **ids) as known:
        assert known.answer.verdict == Verdict.ACCEPTED
        known.propose_data(b"\xff" * 30)
        known.send(MessageType.VOTE, term=1 << 63, context=1)
    wait_until("all is well", first.client.healthy)


def test_members_that_speak_plainly_to_tls(tmp_path: Path) -> None:
    """One member of three was given http where the others have https: they say so and go on."""
    authority = Authority(tmp_path / "ours")
    with secure_cluster(tmp_path / "cluster", authority, clients=False) as cluster:
        odd = cluster[2]
        odd.flags = {name: text for name, text in odd.flags.items() if name[:5] != "peer-"}
        plain = odd.peer_url.replace("https:", "http:")
        initial = odd.flags["initial-cluster"].replace(odd.peer_url, plain)
        odd.peer_url = plain
        for member in cluster:
            member.flags["initial-cluster"] = initial
            member.start()
        for member in cluster.members[:2]:
            member.wait_healthy()
            member.client.put(b"key", b"value")
        wait_until("the odd one says why", lambda: "wants TLS" in odd.log())
        assert odd.running
        assert "Traceback" not in "".join(member.log() for member in cluster)


def test_https_asked_of_a_plain_port(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    with Cluster(tmp_path / "cluster", 1) as cluster:
        cluster.start()
        url = cluster[0].client_url.replace("http:", "https:")
        for _ in range(3):
            assert_refused(url, context_of(authority))
        wait_until("says so", lambda: "speaks TLS to a port without it" in cluster[0].log())
        assert cluster[0].log().count("speaks TLS") == 1
        status, answer = cluster[0].client.send("POST", "/v3/kv/range", b'{"key":"bmV2ZXI="}')
        assert status == 200 and "kvs" not in json.loads(answer)
