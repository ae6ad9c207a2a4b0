"""Peer streams over TLS, on both loops: a certificate first, the hello after it."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raft.tls_port import Certificate

from .transport_fixture import (
    Member,
    Source,
    ends,
    eventually,
    message,
    open_raw,
    snapshot_message,
)

try:
    import uvloop
except ImportError:
    uvloop = None

LOOPS = [asyncio.new_event_loop] + ([uvloop.new_event_loop] if uvloop else [])


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(path.name))])
        self.certificate = self._sign(self.key, self.name, authority=True)
        self._write("ca.pem", self.certificate.public_bytes(serialization.Encoding.PEM))
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "member")])
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        signed = self._sign(key, name, authority=False)
        self._write("member.pem", private + signed.public_bytes(serialization.Encoding.PEM))

    def _write(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def _sign(
        self, key: ec.EllipticCurvePrivateKey, name: x509.Name, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def contexts(self) -> dict[str, Trust]:
        """Both sides show a certificate of this authority and want to see one."""
        listener = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(self.path / "ca.pem")
        )
        listener.verify_mode = ssl.CERT_REQUIRED
        dialer = ssl.create_default_context(cafile=str(self.path / "ca.pem"))
        for context in (listener, dialer):
            context.load_cert_chain(self.path / "member.pem")
        return {"server_tls": Trust(listener), "client_tls": Trust(dialer)}


class Trust:
    """One side's `raft.tls_port.Tls`; may refuse whoever has shown a certificate."""

    def __init__(self, context: ssl.SSLContext, why: str = "") -> None:
        self._context = context
        self._why = why
        self.met: list[Certificate] = []

    def context(self) -> ssl.SSLContext:
        return self._context

    def refusal(self, certificate: Certificate) -> str:
        self.met.append(certificate)
        return self._why


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.__module__)
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    def run(scenario: Callable[..., object], *arguments: object) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scenario(*arguments), 20))

    return run


async def exchange(tls: dict[str, Trust]) -> None:
    """Messages, a call and a snapshot from one member to another."""
    scheme = "https" if tls else "http"
    one, two = (Member(number, {1, 2}, scheme=scheme, **tls) for number in (1, 2))
    for member in (one, two):
        await member.transport.start(member.recorder)
    await one.connected(two)
    big = bytes(100_000)
    for index in range(30):
        one.transport.send([message(2, index=index, data=big), message(2, index=index)])
    await two.recorder.until(lambda: len(two.recorder.messages) == 60)
    assert [m.index for m in two.recorder.messages] == [i for i in range(30) for _ in range(2)]
    assert await one.transport.call(2, 1, b"hello") == b"1:hello"
    source = Source(big * 20)
    one.transport.send_snapshot(snapshot_message(), source)
    await one.recorder.until(lambda: one.recorder.results)
    assert one.recorder.results == [(2, True)]
    assert two.recorder.sinks[0].data == source._data
    for member in (one, two):
        await member.transport.stop()
        assert member.recorder.errors == []


def test_exchange_in_the_clear(run: Callable[..., None]) -> None:
    run(exchange, {})


def test_exchange_over_tls(run: Callable[..., None], tmp_path: Path) -> None:
    run(exchange, Authority(tmp_path / "ours").contexts())


async def mistrust(ours: dict[str, Trust], theirs: dict[str, Trust], why: str, say: str) -> None:
    one = Member(1, {1, 2}, scheme="https", **ours)
    two = Member(2, {1, 2}, scheme=say, **theirs)
    for member in (one, two):
        await member.transport.start(member.recorder)
    one.transport.add_peer(2, ["https" + two.url[two.url.index(":") :]])
    await eventually(lambda: one.transport.counters[2].connect_failures)
    one.transport.send([message(2)])
    await one.recorder.until(lambda: one.recorder.lost)
    assert one.transport.active_since(2) is None, why
    assert two.recorder.messages == [], why
    for member in (one, two):
        await member.transport.stop()
        assert member.recorder.errors == []


def test_certificates_of_another_authority(run: Callable[..., None], tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ours").contexts()
    theirs = Authority(tmp_path / "theirs").contexts()
    run(mistrust, ours, theirs, "both sides are strangers", "https")
    run(mistrust, ours, {**theirs, "server_tls": ours["server_tls"]}, "no matter", "http")
    # The listener alone must refuse a dialler that trusts it but that it does not trust.
    trusting = ssl.create_default_context(cafile=str(tmp_path / "theirs" / "ca.pem"))
    trusting.load_cert_chain(tmp_path / "ours" / "member.pem")
    run(
        mistrust,
        {**ours, "client_tls": Trust(trusting)},
        theirs,
        "the dialler is a stranger",
        "https",
    )


async def without_certificates() -> None:
    member = Member(1, {1, 2}, scheme="https")
    with pytest.raises(ValueError, match="there is no certificate"):
        await member.transport.start(member.recorder)
    plain = Member(1, {1, 2})
    await plain.transport.start(plain.recorder)
    plain.transport.add_peer(2, ["https://127.0.0.1:1"])
    await eventually(lambda: plain.transport.counters[2].connect_failures)
    await plain.transport.stop()


def test_https_needs_certificates(
    run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    run(without_certificates)
    assert "wants TLS, which this member has no certificates for" in caplog.text


async def refused_by_name(ours: dict[str, Trust], theirs: dict[str, Trust]) -> None:
    one = Member(1, {1, 2}, scheme="https", **ours)
    two = Member(2, {1, 2}, scheme="https", **theirs)
    for member in (one, two):
        await member.transport.start(member.recorder)
    one.dial(two)
    await eventually(lambda: one.transport.counters[2].connect_failures)
    assert one.transport.active_since(2) is None
    assert not two.transport._connections
    for member in (one, two):
        await member.transport.stop()
        assert member.recorder.errors == []


def test_certificates_with_a_name_that_no_member_has(
    run: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sides = Authority(tmp_path / "ours").contexts()
    for side in ("server_tls", "client_tls"):
        choosy = Trust(sides[side].context(), f"not by the {side}")
        run(refused_by_name, sides | {side: choosy}, sides | {side: choosy})
        assert f"not by the {side}" in caplog.text
        assert choosy.met and choosy.met[0]["subject"] == ((("commonName", "member"),),)


async def plain_dialler(tls: dict[str, Trust]) -> None:
    one = Member(1, {1, 2})
    two = Member(2, {1, 2}, scheme="https", **tls)
    for member in (one, two):
        await member.transport.start(member.recorder)
    one.transport.add_peer(2, [two.url.replace("https:", "http:")])
    await eventually(lambda: one.transport.counters[2].connect_failures)
    for member in (one, two):
        await member.transport.stop()
        assert member.recorder.errors == []


def test_plain_dialler_is_told_what_is_wrong(
    run: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(plain_dialler, Authority(tmp_path / "ours").contexts())
    assert "does not speak our protocol: it speaks HTTP, or wants TLS" in caplog.text
    assert "127.0.0.1 speaks plainly to a port with TLS" in caplog.text


async def crowd(tls: dict[str, Trust]) -> None:
    two = Member(2, {1, 2}, scheme="https", **tls)
    await two.transport.start(two.recorder)
    oldest = await open_raw(two)
    others = [await open_raw(two) for _ in range(3)]
    assert await ends(oldest[0]) == b"", "one more than fit: the oldest makes room"
    one = Member(1, {1, 2}, scheme="https", **tls)
    await one.transport.start(one.recorder)
    await one.connected(two)
    for _, writer in (oldest, *others):
        writer.close()
    for member in (one, two):
        await member.transport.stop()
        assert member.recorder.errors == []


def test_connections_in_their_handshake_are_bounded(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raft.tls_port.PENDING_MAX", 3)
    run(crowd, Authority(tmp_path / "ours").contexts())


async def late(tls: dict[str, Trust]) -> None:
    two = Member(2, {1, 2}, scheme="https", **tls)
    await two.transport.start(two.recorder)
    silent, half = await open_raw(two), await open_raw(two)
    half[1].write(b"\x16\x03\x01\x02\x00")
    for reader, writer in (silent, half):
        assert await ends(reader) == b""
        writer.close()
    await two.transport.stop()


def test_late_handshake(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raft.tls_port.HANDSHAKE_SECONDS", 0.05)
    run(late, Authority(tmp_path / "ours").contexts())
