"""TLS contexts of a member's listeners and of its connections to peers."""

from __future__ import annotations

import ssl

from node.config import NodeConfig


class TlsContexts:
    """Each context is None where the configuration names no certificate. OSError, ssl.SSLError for
    files that cannot be used.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config

    def client_listener(self) -> ssl.SSLContext | None:
        """For client URLs with https; asks for a certificate when told to trust an authority."""
        config = self._config
        return _listener(
            config.cert_file, config.key_file, config.trusted_ca_file, config.client_cert_auth
        )

    def peer_listener(self) -> ssl.SSLContext | None:
        """For peer URLs with https: a peer shows a certificate of our authority before a byte of
        it is read.
        """
        config = self._config
        return _listener(
            config.peer_cert_file,
            config.peer_key_file,
            config.peer_trusted_ca_file,
            config.peer_client_cert_auth,
        )

    def peer_dialer(self) -> ssl.SSLContext | None:
        """For dialling https peers: they must show a certificate of our authority, and see ours."""
        config = self._config
        if not config.peer_cert_file:
            return None
        context = ssl.create_default_context(
            ssl.Purpose.SERVER_AUTH, cafile=config.peer_trusted_ca_file or None
        )
        context.load_cert_chain(config.peer_cert_file, config.peer_key_file)
        return context


def _listener(certificate: str, key: str, authority: str, required: bool) -> ssl.SSLContext | None:
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority or None)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED if required or authority else ssl.CERT_NONE
    return context
