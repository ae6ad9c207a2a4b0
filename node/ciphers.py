"""Cipher suites by the names that etcd, like the standards, gives them, and by OpenSSL's.

Only those of TLS 1.2 and before can be chosen; TLS 1.3 brings its own three, all of them good.
"""

from __future__ import annotations

from collections.abc import Iterator

_EXCHANGES = {"RSA": "", "ECDHE_RSA": "ECDHE-RSA-", "ECDHE_ECDSA": "ECDHE-ECDSA-"}
_CIPHERS = {
    "AES_128_CBC_SHA": "AES128-SHA",
    "AES_256_CBC_SHA": "AES256-SHA",
    "AES_128_CBC_SHA256": "AES128-SHA256",
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}
_WITH_CURVES = {
    "CHACHA20_POLY1305": "CHACHA20-POLY1305",
    "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
}


def _names() -> Iterator[tuple[str, str]]:
    for exchange, prefix in _EXCHANGES.items():
        for cipher, name in (_CIPHERS | (_WITH_CURVES if prefix else {})).items():
            yield f"TLS_{exchange}_WITH_{cipher}", prefix + name


OPENSSL_NAMES = dict(_names())
