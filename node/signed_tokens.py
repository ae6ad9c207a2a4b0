"""Signed tokens (JWT): whoever has the key can tell who was let in, and no member remembers it.

`--auth-token=jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m`, as etcd spells it. The
claims are etcd's: `username`, `revision`, `exp`. A token is good until it expires or until users,
roles or permissions change, whichever comes first: only the auth revision can end it early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import HMACAlgorithm

from node import flags
from node.apply.errors import AuthOldRevision, InvalidAuthToken, VerifyOnly
from node.apply.requests import Identity

if TYPE_CHECKING:
    from node.apply.auth_store import AuthStore

TTL_SECONDS = 300.0
TOKEN_BYTES_MAX = 8 << 10
"""Ours have some hundred bytes; what is longer is not worth the parsing."""

_REVISION_MAX = 2**63 - 1
_REMEMBERED_MAX = 4096

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_HMAC = ("HS256", "HS384", "HS512")
METHODS = (*_RSA, *_CURVES, *_HMAC, "EdDSA")


class Claims(msgspec.Struct, omit_defaults=True):
    """Times in seconds since 1970. Go writes numbers as it likes, hence the floats."""

    username: str
    revision: int | float
    exp: int | float
    nbf: int | float = 0


@dataclass(frozen=True)
class Signing:
    """A method and its keys. `private` None: this member recognises tokens and makes none."""

    method: str
    public: Any
    private: Any
    ttl_seconds: float = TTL_SECONDS

    @property
    def guessable(self) -> bool:
        """Whether a secret is shorter than what it signs (RFC 7518, 3.2)."""
        return self.method in _HMAC and 8 * len(self.private) < int(self.method[2:])


def read_signing(text: str) -> Signing:
    """The value of --auth-token, with the files it names. ValueError says what is wrong with it."""
    kind, *words = text.split(",")
    assert kind == "jwt", kind
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("sign-method", "pub-key", "priv-key", "ttl") or not equals:
            raise ValueError(f"{word!r} is none of sign-method=, pub-key=, priv-key=, ttl=")
        if name in options:
            raise ValueError(f"{name} is given twice")
        options[name] = value
    method = options.get("sign-method", "")
    if method not in METHODS:
        raise ValueError(f"sign-method {method!r} is not one of {', '.join(METHODS)}")
    ttl_seconds = flags.duration_ms(options["ttl"]) / 1e3 if "ttl" in options else TTL_SECONDS
    if ttl_seconds <= 0:
        raise ValueError(f"ttl {options['ttl']} is not more than nothing")
    private, public = (_read(name, options.get(name, "")) for name in ("priv-key", "pub-key"))
    if method in _HMAC:
        if not private:
            raise ValueError(f"{method} needs priv-key, a file with the secret")
        return Signing(method, private, private, ttl_seconds)
    return Signing(method, *_pair(method, private, public), ttl_seconds)


def _read(name: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path}: {error.strerror}") from None


def _pair(method: str, private: bytes, public: bytes) -> tuple[Any, Any]:
    """(public, private) keys of the method's kind that belong together."""
    secret = _private_key(method, private) if private else None
    known = _public_key(method, public) if public else None
    if secret is None and known is None:
        raise ValueError(f"{method} needs priv-key, or pub-key to recognise tokens only")
    if secret is not None:
        if known is not None and _written(known) != _written(secret.public_key()):
            raise ValueError("pub-key and priv-key do not belong together")
        known = secret.public_key()
    return known, secret


def _written(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _private_key(method: str, text: bytes) -> Any:
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError, jwt.PyJWTError):
        raise ValueError("priv-key holds no private key in PEM (without a password)") from None
    _require(method, key, RSAPrivateKey, EllipticCurvePrivateKey, Ed25519PrivateKey)
    return key


def _public_key(method: str, text: bytes) -> Any:
    try:
        if b"BEGIN CERTIFICATE" in text:
            key: Any = load_pem_x509_certificate(text).public_key()
        else:
            key = load_pem_public_key(text)
    except ValueError:
        raise ValueError("pub-key holds no public key in PEM") from None
    _require(method, key, RSAPublicKey, EllipticCurvePublicKey, Ed25519PublicKey)
    return key


def _require(method: str, key: Any, rsa: type[Any], curve: type[Any], edwards: type[Any]) -> None:
    """ValueError unless the key is of the kind that the method signs with."""
    if method in _RSA:
        fits = isinstance(key, rsa)
    elif method in _CURVES:
        fits = isinstance(key, curve) and key.curve.name == _CURVES[method]
    else:
        fits = isinstance(key, edwards)
    if not fits:
        raise ValueError(f"{method} does not go with a key of this kind")


class _AnyLengthHmac(HMACAlgorithm):
    """A secret that etcd takes is taken here; the configuration warns of a short one, once."""

    def check_key_length(self, key: Any) -> None:
        return None


class SignedTokens:
    """Tokens of one signing method. A token that was good is remembered until it expires, because
    a signature costs more than a request.
    """

    lasting = False

    def __init__(self, store: AuthStore, signing: Signing, wall: Callable[[], float]) -> None:
        self._store = store
        self._signing = signing
        self._wall = wall
        self._codec = jwt.PyJWS(algorithms=[signing.method])
        if signing.method in _HMAC:
            digest = getattr(HMACAlgorithm, f"SHA{signing.method[2:]}")
            self._codec.unregister_algorithm(signing.method)
            self._codec.register_algorithm(signing.method, _AnyLengthHmac(digest))
        self._remembered: dict[str, Claims] = {}

    def sign(self, user: str, revision: int) -> str:
        """A token for `user`, let in at `revision`. VerifyOnly without a private key."""
        signing = self._signing
        if signing.private is None:
            raise VerifyOnly
        claims = Claims(user, revision, int(self._wall() + signing.ttl_seconds))
        return self._codec.encode(
            msgspec.json.encode(claims), signing.private, algorithm=signing.method
        )

    def identify(self, token: str) -> Identity:
        claims = self._remembered.get(token) or self._read(token)
        if not claims.nbf <= self._wall() < claims.exp:
            self._remembered.pop(token, None)
            raise InvalidAuthToken
        if claims.revision < self._store.revision:
            raise AuthOldRevision
        if not self._store.has_user(claims.username):
            raise InvalidAuthToken
        return Identity(claims.username, int(claims.revision))

    def ahead(self, token: str) -> bool:
        try:
            claims = self._remembered.get(token) or self._read(token)
        except InvalidAuthToken:
            return False
        return claims.revision > self._store.revision

    def _read(self, token: str) -> Claims:
        """The claims of a token with a good signature."""
        if len(token) > TOKEN_BYTES_MAX:
            raise InvalidAuthToken
        method = self._signing.method
        try:
            payload = self._codec.decode(token, self._signing.public, algorithms=[method])
            claims = msgspec.json.decode(payload, type=Claims)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise InvalidAuthToken from None
        if not claims.username or not 0 < claims.revision <= _REVISION_MAX:
            raise InvalidAuthToken
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[token] = claims
        return claims
