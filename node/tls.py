"""TLS of a member's listeners and of its connections to peers: certificates, trust, who may call.

Files are looked at for every connection and read again when one of them has changed, so renewed
certificates need no restart. What cannot be read is named in the log, and the old ones stay in use.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import ssl
from collections.abc import Callable, Iterator

from node.ciphers import OPENSSL_NAMES
from node.config import NodeConfig
from raft.tls_port import Certificate, TlsPort, certificate_of, listen_tls

log = logging.getLogger("esker.tls")

_VERSIONS = {
    "": ssl.TLSVersion.MAXIMUM_SUPPORTED,
    "TLS1.2": ssl.TLSVersion.TLSv1_2,
    "TLS1.3": ssl.TLSVersion.TLSv1_3,
}


class Tls:
    """One side of TLS, see `raft.tls_port.Tls`: `prefix` begins the flags it is made of.

    OSError, with the flags and the files in its text, for files that cannot be used.
    """

    def __init__(
        self, config: NodeConfig, prefix: str, purpose: ssl.Purpose, *, required: bool
    ) -> None:
        self._config = config
        self._prefix = prefix
        self._purpose = purpose
        self._required = required
        self._common_name = config.peer_cert_allowed_cn if prefix else ""
        client = config.client_cert_allowed_hostname
        self._hostname = config.peer_cert_allowed_hostname if prefix else client
        self._seen = self._look()
        self._context = self._build()

    def context(self) -> ssl.SSLContext:
        """Made of the files as they are now, or as they were when they last could be read."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = self._build()
            except OSError as error:
                log.error("certificates have changed, the old ones stay in use: %s", error)
            else:
                log.info("certificates have changed: %s", ", ".join(self._files()))
        return self._context

    def refusal(self, certificate: Certificate) -> str:
        """Whom --*cert-allowed-cn and --*-allowed-hostname keep out."""
        name = common_name(certificate)
        if self._common_name and name != self._common_name:
            return f"the common name of its certificate is {name!r}, not {self._common_name!r}"
        if self._hostname and not any(
            _covers(kind, pattern, self._hostname)
            for kind, pattern in certificate.get("subjectAltName", ())
        ):
            return f"its certificate is not for {self._hostname!r}"
        return ""

    def user_of(self, transport: asyncio.BaseTransport) -> str:
        """The common name of a client's certificate, where --client-cert-auth makes it a user."""
        if not self._config.client_cert_auth:
            return ""
        return common_name(certificate_of(transport))

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        host: str | None,
        port: int,
        *,
        full: Callable[[], bool] = lambda: False,
    ) -> TlsPort:
        """A listener whose connections come to `factory` after their handshake, see `listen_tls`.
        OSError.
        """
        return await listen_tls(self, factory, host, port, full=full)

    def _setting(self, name: str) -> str:
        value: str = getattr(self._config, self._attribute + name)
        return value

    @property
    def _attribute(self) -> str:
        return self._prefix.replace("-", "_")

    def _files(self) -> Iterator[str]:
        for name in ("cert_file", "key_file", "trusted_ca_file"):
            if path := self._setting(name):
                yield path
        if self._revoked:
            yield self._revoked

    @property
    def _revoked(self) -> str:
        """The revocation list; like etcd's, it is for who dials us."""
        if self._purpose == ssl.Purpose.SERVER_AUTH:
            return ""
        return self._config.peer_crl_file if self._prefix else self._config.client_crl_file

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._files()]

    def _build(self) -> ssl.SSLContext:
        prefix, config = self._prefix, self._config
        authority, revoked = self._setting("trusted_ca_file"), self._revoked
        certificate, key = self._setting("cert_file"), self._setting("key_file")
        try:
            context = ssl.create_default_context(self._purpose, cafile=authority or None)
        except OSError as error:
            raise OSError(
                f"--{prefix}trusted-ca-file {authority}: no certificates to be read ({_why(error)})"
            ) from error
        try:
            context.load_cert_chain(certificate, key)
        except OSError as error:
            raise OSError(
                f"--{prefix}cert-file {certificate} and --{prefix}key-file {key}: no certificate"
                f" with its key to be read ({_why(error)})"
            ) from error
        if revoked:
            _refuse_revoked(context, f"--{prefix or 'client-'}crl-file {revoked}", revoked)
        context.verify_mode = ssl.CERT_REQUIRED if self._required else ssl.CERT_NONE
        context.minimum_version = _VERSIONS[config.tls_min_version]
        context.maximum_version = _VERSIONS[config.tls_max_version]
        if config.cipher_suites:
            context.set_ciphers(":".join(OPENSSL_NAMES[name] for name in config.cipher_suites))
        return context


def client_listener(config: NodeConfig) -> Tls | None:
    """For client URLs with https; asks for a certificate when told to trust an authority."""
    if not config.cert_file:
        return None
    required = config.client_cert_auth or bool(config.trusted_ca_file)
    return Tls(config, "", ssl.Purpose.CLIENT_AUTH, required=required)


def peer_listener(config: NodeConfig) -> Tls | None:
    """For peer URLs with https: a peer shows a certificate of our authority before a byte of it is
    read.
    """
    if not config.peer_cert_file:
        return None
    required = config.peer_client_cert_auth or bool(config.peer_trusted_ca_file)
    return Tls(config, "peer-", ssl.Purpose.CLIENT_AUTH, required=required)


def peer_dialer(config: NodeConfig) -> Tls | None:
    """For dialling https peers: they must show a certificate of our authority, and see ours."""
    if not config.peer_cert_file:
        return None
    return Tls(config, "peer-", ssl.Purpose.SERVER_AUTH, required=True)


def common_name(certificate: Certificate) -> str:
    """Of the certificate's subject, the last one as in Go; empty without one."""
    found = ""
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                found = value
    return found


def _covers(kind: str, pattern: str, wanted: str) -> bool:
    """Whether a name in a certificate is, or with its first label a star includes, `wanted`."""
    if kind == "IP Address":
        try:
            return ipaddress.ip_address(pattern) == ipaddress.ip_address(wanted)
        except ValueError:
            return False
    if kind != "DNS":
        return False
    pattern, wanted = pattern.lower(), wanted.lower()
    if pattern.startswith("*."):
        label, dot, rest = wanted.partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return pattern == wanted


def _refuse_revoked(context: ssl.SSLContext, words: str, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise OSError(f"{words}: no revocation list to be read ({_why(error)})") from error
    if not context.cert_store_stats()["crl"]:
        raise OSError(f"{words}: there is no revocation list in it")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Changes with the file, also with what a symbolic link on the way to it points at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _why(error: OSError) -> str:
    return error.strerror or str(error)
