"""Whom certificates let in, what the flags around TLS may say, and the names of cipher suites."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from node.ciphers import OPENSSL_NAMES
from node.config import ConfigError, NodeConfig, load
from node.tls import client_listener, common_name, peer_dialer, peer_listener
from tests.cluster.certificates import Authority

SUITE = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> dict[str, str]:
    certificate, key = authority.issue("member")
    trusted = str(authority.certificate)
    both = {"cert_file": str(certificate), "key_file": str(key), "trusted_ca_file": trusted}
    return both | {f"peer_{name}": path for name, path in both.items()}


def config_of(files: dict[str, str], **settings: Any) -> NodeConfig:
    return NodeConfig(**files, **settings)


def shown(name: str, *names: tuple[str, str]) -> dict[str, Any]:
    """A certificate as the ssl module tells of it."""
    subject = ((("organizationName", "o"),), (("commonName", "first"),), (("commonName", name),))
    return {"subject": subject, "subjectAltName": names}


def test_common_name_is_the_last_one() -> None:
    assert common_name(shown("alice")) == "alice"
    assert common_name({}) == ""


def test_common_name_that_peers_must_have(files: dict[str, str]) -> None:
    config = config_of(files, peer_cert_allowed_cn="member")
    for side in (peer_listener(config), peer_dialer(config)):
        assert side is not None
        assert side.refusal(shown("member")) == ""
        assert "is 'other', not 'member'" in side.refusal(shown("other"))
        assert "is ''" in side.refusal({})
    clients = client_listener(config)
    assert clients is not None and clients.refusal(shown("other")) == ""


NAMES = [
    ("node.example", ("DNS", "node.example"), True),
    ("NODE.example", ("DNS", "node.EXAMPLE"), True),
    ("node.example", ("DNS", "*.example"), True),
    ("a.node.example", ("DNS", "*.example"), False),
    ("example", ("DNS", "*.example"), False),
    (".example", ("DNS", "*.example"), False),
    ("node.example", ("DNS", "node.exampl"), False),
    ("node.example", ("DNS", "*"), False),
    ("10.0.0.1", ("IP Address", "10.0.0.1"), True),
    ("10.0.0.1", ("IP Address", "10.0.0.2"), False),
    ("::1", ("IP Address", "0:0:0:0:0:0:0:1"), True),
    ("node.example", ("IP Address", "10.0.0.1"), False),
    ("node.example", ("URI", "node.example"), False),
]


@pytest.mark.parametrize(("wanted", "name", "good"), NAMES)
def test_host_name_that_certificates_must_be_for(
    files: dict[str, str], wanted: str, name: tuple[str, str], good: bool
) -> None:
    config = config_of(
        files, peer_cert_allowed_hostname=wanted, client_cert_allowed_hostname=wanted
    )
    for side in (peer_listener(config), client_listener(config)):
        assert side is not None
        assert (side.refusal(shown(wanted, name)) == "") == good
        assert side.refusal(shown(wanted)) == f"its certificate is not for {wanted!r}"


def test_common_name_is_a_user_only_where_asked_for(files: dict[str, str]) -> None:
    class Transport:
        def get_extra_info(self, name: str) -> Any:
            return shown("alice") if name == "peercert" else None

    for wanted, user in ((True, "alice"), (False, "")):
        side = client_listener(config_of(files, client_cert_auth=wanted))
        assert side is not None and side.user_of(Transport()) == user  # type: ignore[arg-type]


def test_context_is_made_anew_when_a_file_has_changed(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(name: str) -> None:
        for source, target in zip(authority.issue(name), (certificate, key), strict=True):
            target.write_bytes(source.read_bytes())

    install("one")
    side = client_listener(NodeConfig(cert_file=str(certificate), key_file=str(key)))
    assert side is not None
    first = side.context()
    assert side.context() is first
    key.unlink()
    assert side.context() is first
    assert f"--key-file {key}" in caplog.text
    install("two")
    second = side.context()
    assert second is not first
    assert side.context() is second


def test_versions(files: dict[str, str]) -> None:
    for low, high in (("TLS1.2", ""), ("TLS1.3", ""), ("TLS1.2", "TLS1.2")):
        side = peer_dialer(config_of(files, tls_min_version=low, tls_max_version=high))
        assert side is not None
        context = side.context()
        assert context.minimum_version.name == low.replace(".", "_").replace("TLS", "TLSv")
        assert (context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED) == (high == "")


def test_openssl_has_every_suite() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name in OPENSSL_NAMES.values():
        context.set_ciphers(name + ":@SECLEVEL=0")
        assert name in {cipher["name"] for cipher in context.get_ciphers()}


REFUSED = [
    (["--auto-tls"], "--auto-tls: esker makes no certificates"),
    (["--peer-auto-tls=true"], "--peer-auto-tls: esker makes no certificates"),
    (["--key-file=CERT"], "--cert-file and --key-file must be given together"),
    (["--trusted-ca-file=CERT"], "--trusted-ca-file: needs --cert-file and --key-file"),
    (["--client-cert-auth"], "--client-cert-auth: needs --trusted-ca-file"),
    (["--client-crl-file=CERT"], "--client-crl-file: needs --trusted-ca-file"),
    (["--peer-crl-file=/nowhere"], "--peer-crl-file: there is no file /nowhere"),
    (["--peer-cert-allowed-cn=x"], "--peer-cert-allowed-cn: needs --peer-trusted-ca-file"),
    (["--client-cert-allowed-hostname=x"], "-hostname: needs --trusted-ca-file"),
    (
        ["--peer-cert-allowed-cn=x", "--peer-cert-allowed-hostname=x"],
        "--peer-cert-allowed-cn and --peer-cert-allowed-hostname exclude one another",
    ),
    (["--tls-min-version=TLS1.1"], "'TLS1.1' is not one of TLS1.2, TLS1.3"),
    (
        ["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
        "--tls-min-version: TLS1.3 is above --tls-max-version (TLS1.2)",
    ),
    (["--cipher-suites=TLS_NONE"], "--cipher-suites: there is no suite 'TLS_NONE' of TLS 1.2"),
    (
        [f"--cipher-suites={SUITE}", "--tls-min-version=TLS1.3"],
        "--cipher-suites: those of TLS 1.3 cannot be chosen",
    ),
]


@pytest.mark.parametrize(("arguments", "fault"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_flags_that_are_refused(arguments: list[str], fault: str, authority: Authority) -> None:
    given = [argument.replace("CERT", str(authority.certificate)) for argument in arguments]
    with pytest.raises(ConfigError) as caught:
        load(given, {})
    assert fault in str(caught.value)


def test_revocation_list_that_is_none(files: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for path in (str(empty), files["cert_file"]):
        with pytest.raises(OSError, match=f"--client-crl-file {path}: .*no revocation list"):
            client_listener(config_of(files, client_crl_file=path))
    dialer = peer_dialer(config_of(files, peer_crl_file=str(empty)))
    assert dialer is not None, "the list is for who dials us"
