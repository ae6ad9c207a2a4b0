"""TLS contexts of a member's listeners and of its connections to peers."""

from __future__ import annotations

import ssl

from node.config import NodeConfig


class TlsContexts:
    """Each context is None where the configuration names no certificate. OSError, with the flags
    and the files in its text, for files that cannot be used.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config

    def client_listener(self) -> ssl.SSLContext | None:
        """For client URLs with https; asks for a certificate when told to trust an authority."""
        config = self._config
        if not config.cert_file:
            return None
        required = config.client_cert_auth or bool(config.trusted_ca_file)
        return self._context(ssl.Purpose.CLIENT_AUTH, "", required=required)

    def peer_listener(self) -> ssl.SSLContext | None:
        """For peer URLs with https: a peer shows a certificate of our authority before a byte of
        it is read.
        """
        config = self._config
        if not config.peer_cert_file:
            return None
        required = config.peer_client_cert_auth or bool(config.peer_trusted_ca_file)
        return self._context(ssl.Purpose.CLIENT_AUTH, "peer-", required=required)

    def peer_dialer(self) -> ssl.SSLContext | None:
        """For dialling https peers: they must show a certificate of our authority, and see ours."""
        if not self._config.peer_cert_file:
            return None
        return self._context(ssl.Purpose.SERVER_AUTH, "peer-", required=True)

    def _context(self, purpose: ssl.Purpose, prefix: str, *, required: bool) -> ssl.SSLContext:
        """With the certificate, key and authority that the flags beginning with `prefix` name."""
        attribute = prefix.replace("-", "_")
        certificate: str = getattr(self._config, f"{attribute}cert_file")
        key: str = getattr(self._config, f"{attribute}key_file")
        authority: str = getattr(self._config, f"{attribute}trusted_ca_file")
        try:
            context = ssl.create_default_context(purpose, cafile=authority or None)
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
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_NONE
        return context


def _why(error: OSError) -> str:
    return error.strerror or str(error)
