"""TLS at its edges: renewed files, who may call, what speaks the wrong language, who is slow."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster.certificates import Authority
from tests.cluster.client import b64
from tests.cluster.harness import ROOT, Cluster, free_port, wait_until
from tests.cluster.peer import Impostor, Verdict, connect, hello, silent
from tests.cluster.test_tls import (
    QUICK_SECONDS,
    SecureClient,
    SecureMember,
    assert_refused,
    context_of,
)

pytestmark = pytest.mark.slow

HANDSHAKE_SECONDS = 5.0
SLOW_CLIENTS = 60
FILES_MAX, CONNECTIONS_MAX = 300, 150
"""A small `ulimit -n`, and how many of these descriptors clients may take."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def members_of(root: Path, authority: Authority, size: int = 1, **flags: str) -> Cluster:
    """Members with https for clients, and for each other when there are several."""
    cluster = Cluster(root, size)
    for number, plain in enumerate(cluster.members):
        member = SecureMember(plain.name, plain.directory)
        member.context = context_of(authority, "client")
        member.client_url = plain.client_url.replace("http:", "https:")
        member.peer_url = plain.peer_url
        prefixes = [""]
        if size > 1:
            member.peer_url = plain.peer_url.replace("http:", "https:")
            prefixes.append("peer-")
        for prefix in prefixes:
            files = files_of(member, prefix)
            install(authority, "member", files)
            member.flags |= dict(zip(file_flags(prefix), map(str, files), strict=True))
        member.flags |= {name.replace("_", "-"): text for name, text in flags.items()}
        cluster.members[number] = member
    initial = ",".join(f"{member.name}={member.peer_url}" for member in cluster)
    for member in cluster:
        member.flags["initial-cluster"] = initial
    return cluster


def file_flags(prefix: str) -> tuple[str, ...]:
    return f"{prefix}cert-file", f"{prefix}key-file", f"{prefix}trusted-ca-file"


def files_of(member: SecureMember, prefix: str) -> tuple[Path, Path, Path]:
    names = ("cert.pem", "key.pem", "ca.pem")
    certificate, key, trusted = (member.directory / f"{prefix}{name}" for name in names)
    return certificate, key, trusted


def install(authority: Authority, name: str, files: tuple[Path, Path, Path]) -> None:
    """What `authority` issues, where the member looks for it."""
    for source, target in zip((*authority.issue(name), authority.certificate), files, strict=True):
        shutil.copy(source, target)


@pytest.fixture
def single(tmp_path: Path, authority: Authority) -> Iterator[SecureMember]:
    with members_of(tmp_path / "cluster", authority, client_cert_auth="true") as cluster:
        cluster.start()
        yield cluster[0]


# -- renewal


def test_certificates_are_renewed_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    later = Authority(tmp_path / "later", "later")
    both = authority.certificate.read_bytes() + later.certificate.read_bytes()
    with members_of(tmp_path / "cluster", authority, 3) as cluster:
        cluster.start()
        files = [files_of(member, prefix) for member in cluster for prefix in ("", "peer-")]
        for _, _, trusted in files:
            trusted.write_bytes(both)
        for each in files:
            install(later, "member", each)
            each[2].write_bytes(both)
        for _, _, trusted in files:
            shutil.copy(later.certificate, trusted)
        # An old certificate is no good any more, to clients and to peers, on either side.
        for member in cluster:
            assert_refused(member.client_url, context_of(authority, "client"))
            member.context = context_of(later, "client")
            client = member.connect()
            client.put(b"key/" + member.name.encode(), b"value")
            client.close()
        # Who comes back dials the others and is dialled by them, which were not restarted.
        cluster[0].kill()
        cluster[0].start()
        cluster[0].wait_healthy()
        client = cluster[0].connect()
        client.put(b"last", b"value")
        assert client.prefix(b"key/").count == 3
        client.close()
        assert "certificates have changed" in cluster[1].log()
        assert "Traceback" not in "".join(member.log() for member in cluster)


def test_broken_certificates_leave_the_old_ones_in_use(single: SecureMember) -> None:
    certificate, key, _ = files_of(single, "")
    good = certificate.read_bytes(), key.read_bytes()
    for path in (certificate, key):
        path.write_bytes(b"-----BEGIN NOTHING-----\n")
        client = single.connect()
        client.put(b"key", b"value")
        client.close()
        assert f"the old ones stay in use: --cert-file {certificate}" in single.log()
    certificate.unlink()
    with closing(single.connect()) as client:
        client.put(b"key", b"value")
    certificate.write_bytes(good[0])
    key.write_bytes(good[1])
    client = single.connect()
    client.put(b"key", b"value")
    assert "certificates have changed: " in single.log()
    client.close()


# -- who may call


def test_clients_that_are_refused(
    tmp_path: Path, authority: Authority, single: SecureMember
) -> None:
    url = single.client_url
    unknown = context_of(authority)
    unknown.load_cert_chain(*map(str, Authority(tmp_path / "theirs").issue("stranger")))
    for context in (unknown, context_of(authority), context_of(authority, "old", expired=True)):
        assert_refused(url, context)
    client = single.connect()
    assert client.get(b"never") is None
    client.close()
    wait_until("says why", lambda: "TLS handshake with 127.0.0.1 failed: " in single.log())
    assert single.log().count("TLS handshake with") == 1, "not more than one line in 10 s"


def test_revoked_certificates(tmp_path: Path, authority: Authority) -> None:
    bad, bad_key = authority.issue("revoked")
    flags = {"client_crl_file": str(authority.revoke(bad))}
    with members_of(tmp_path / "cluster", authority, **flags) as cluster:
        cluster.start()
        revoked = context_of(authority)
        revoked.load_cert_chain(str(bad), str(bad_key))
        assert_refused(cluster[0].client_url, revoked)
        authority.revoke()
        client = SecureClient(cluster[0].client_url, revoked)
        client.put(b"key", b"value")
        client.close()


def test_names_of_clients_and_peers(tmp_path: Path, authority: Authority) -> None:
    flags = {"peer_cert_allowed_cn": "member", "client_cert_allowed_hostname": "one.example"}
    with members_of(tmp_path / "cluster", authority, 3, **flags) as cluster:
        for member in cluster:
            member.context = context_of(authority, "client", host="*.example")
        cluster.start()
        assert_refused(cluster[0].client_url, context_of(authority, "client", host="two.example"))
        first, second = cluster[0], cluster[1]
        number = int(first.client.status()["header"]["cluster_id"])
        ids = {"cluster": number, "sender": second.id, "receiver": first.id}
        with connect(first.peer_url, context_of(authority, "other")) as connection:
            with suppress(ConnectionError):
                connection.sendall(hello(**ids))
            assert silent(connection) == b""
        wait_until("says why", lambda: "its certificate is 'other', not 'member'" in first.log())
        with Impostor(first.peer_url, context=context_of(authority, "member"), **ids) as known:
            assert known.answer.verdict == Verdict.ACCEPTED


ELSEWHERE = {"Origin": "http://elsewhere"}


def test_common_name_is_the_user(authority: Authority, single: SecureMember) -> None:
    call = single.client.call
    for name in ("root", "alice"):
        call("auth/user/add", {"name": name, "password": "secret"})
        call("auth/role/add", {"name": name})
        call("auth/user/grant", {"user": name, "role": name})
    permission = {"permType": "READWRITE", "key": b64(b"a"), "range_end": b64(b"b")}
    call("auth/role/grant", {"name": "alice", "perm": permission})
    call("auth/enable", {})
    for body, ways in ((b"ab", ("/v3/kv/put", "/v3beta/kv/put")), (b"b", ("/v3/kv/put",))):
        for way in ways:
            # A TE takes the request off the fast path. A page from elsewhere, as an Origin tells,
            # is nobody: its reader's certificate is not its own.
            for headers, known in (({}, True), ({"TE": "trailers"}, True), (ELSEWHERE, False)):
                connection = http.client.HTTPSConnection(
                    "127.0.0.1",
                    urlsplit(single.client_url).port,
                    context=context_of(authority, "alice"),
                    timeout=QUICK_SECONDS,
                )
                connection.request("POST", way, json.dumps({"key": b64(body)}), headers)
                allowed = 200 if body == b"ab" else 403
                with connection.getresponse() as response:
                    assert response.status == (allowed if known else 400)
                connection.close()
    assert_refused(single.client_url, context_of(authority, "nobody"))


def eskerctl(member: SecureMember, authority: Authority, *arguments: str) -> tuple[int, str]:
    certificate, key = map(str, authority.issue("operator"))
    flags = ("--endpoints", member.client_url, "--cacert", str(authority.certificate))
    done = subprocess.run(
        [sys.executable, "-m", "node.ctl", *flags, "--cert", certificate, "--key", key, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_eskerctl_and_the_pages_for_monitoring(tmp_path: Path, authority: Authority) -> None:
    metrics = f"https://127.0.0.1:{free_port()}"
    flags = {"client_cert_auth": "true", "listen_metrics_urls": metrics}
    with members_of(tmp_path / "cluster", authority, **flags) as cluster:
        cluster.start()
        member = cluster[0]
        assert isinstance(member, SecureMember)
        assert eskerctl(member, authority, "put", "key", "value") == (0, "OK\n")
        assert eskerctl(member, authority, "get", "key") == (0, "key\nvalue\n")
        stranger = Authority(tmp_path / "theirs")
        code, told = eskerctl(member, stranger, "get", "key")
        assert code != 0 and "Traceback" not in told
        page = SecureClient(metrics, member.context)
        assert page.healthy()
        assert page.metrics()["etcd_server_has_leader"] == 1.0
        page.close()
        assert_refused(metrics, context_of(authority))


# -- the wrong language


def test_plain_http_to_a_port_with_tls(tmp_path: Path, authority: Authority) -> None:
    with members_of(tmp_path / "cluster", authority, 3) as cluster:
        cluster.start()
        member = cluster[0]
        bodies = (b"", b"x" * 300_000)
        for url in (member.client_url, member.peer_url):
            for body in bodies:
                head = b"POST /v3/kv/put HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
                with connect(url) as connection:
                    connection.sendall(head + body)
                    answer = silent(connection)
                assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
                assert answer.endswith(b"Client sent an HTTP request to an HTTPS server.\n")
        assert member.log().count("speaks plainly to a port with TLS") == 2, "one for each port"
        assert member.client.healthy()


# -- versions


def test_versions_and_suites(tmp_path: Path, authority: Authority) -> None:
    suite = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    flags = {"tls_max_version": "TLS1.2", "cipher_suites": suite}
    with members_of(tmp_path / "cluster", authority, **flags) as cluster:
        cluster.start()
        with connect(cluster[0].client_url, context_of(authority, "client")) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            assert connection.version() == "TLSv1.2"
            assert connection.cipher() is not None
            assert connection.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
        newer = context_of(authority, "client")
        newer.minimum_version = ssl.TLSVersion.TLSv1_3
        assert_refused(cluster[0].client_url, newer)


# -- slow clients


def test_slow_handshakes_are_bounded_and_delay_nobody(single: SecureMember) -> None:
    address = urlsplit(single.client_url)
    started = time.monotonic()
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(SLOW_CLIENTS)]
    for number, connection in enumerate(slow):
        connection.settimeout(3 * HANDSHAKE_SECONDS)
        if number % 2:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
    for _ in range(5):
        began = time.monotonic()
        client = single.connect()
        client.put(b"key", b"value")
        client.close()
        assert time.monotonic() - began < 1.0
    for connection in slow:
        assert silent(connection) == b""
        connection.close()
    assert time.monotonic() - started < 3 * HANDSHAKE_SECONDS


def test_handshakes_under_way_count_as_clients(tmp_path: Path, authority: Authority) -> None:
    """More of them, silent or slow, than the process may have open files: others get in."""
    with members_of(tmp_path / "cluster", authority) as cluster:
        member = cluster[0]
        limited = f'ulimit -n {FILES_MAX} && exec "$@"'
        member.command = ("sh", "-c", limited, "sh", *member.command)  # type: ignore[misc]
        cluster.start()
        assert member.process is not None
        descriptors = f"/proc/{member.process.pid}/fd"
        before = len(os.listdir(descriptors))
        address = urlsplit(member.client_url)
        crowd = []
        for number in range(2 * FILES_MAX):
            crowd.append(socket.create_connection((address.hostname, address.port)))
            if number % 2:
                with suppress(OSError):
                    crowd[-1].sendall(b"\x16\x03\x01\x02\x00\x01")
            if number % 100 == 99:
                with closing(member.connect()) as client:
                    client.put(b"key", b"%d" % number)
        assert len(os.listdir(descriptors)) <= before + CONNECTIONS_MAX
        for connection in crowd:
            connection.close()
        assert "cannot be accepted" not in member.log()
