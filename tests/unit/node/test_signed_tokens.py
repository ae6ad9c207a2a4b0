"""Signed tokens: the flag, and a table of forgeries."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from node.apply.errors import AuthOldRevision, InvalidAuthToken, VerifyOnly
from node.apply.requests import Identity
from node.signed_tokens import METHODS, TOKEN_BYTES_MAX, SignedTokens, read_signing

NOW = 1_000_000_000.0
REVISION = 7
SECRET = b"a secret of more than sixty-four bytes, so that every method is content with it."


@cache
def key_of(method: str, which: int) -> Any:
    """A private key that goes with `method`; another one for another `which`."""
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if method in curves:
        return ec.generate_private_key(curves[method])
    if method == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def family(method: str) -> str:
    return "RSA" if method[:2] in ("RS", "PS") else method


def private_pem(method: str, which: int = 0) -> bytes:
    key = key_of(family(method), which)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(method: str, which: int = 0) -> bytes:
    key = key_of(family(method), which).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def flag(folder: Path, method: str, *, private: bool = True, public: bool = True) -> str:
    """The value of --auth-token, its files written."""
    text = f"jwt,sign-method={method},ttl=10m"
    if method.startswith("HS"):
        (folder / "secret").write_bytes(SECRET)
        return f"{text},priv-key={folder / 'secret'}"
    if private:
        (folder / "private").write_bytes(private_pem(method))
        text += f",priv-key={folder / 'private'}"
    if public:
        (folder / "public").write_bytes(public_pem(method))
        text += f",pub-key={folder / 'public'}"
    return text


class Member:
    """A member that trusts the keys of `value`; alice and bob exist."""

    def __init__(self, value: str) -> None:
        self.now = NOW
        self.store: Any = SimpleNamespace(
            revision=REVISION, has_user=lambda name: name in ("alice", "bob")
        )
        self.tokens = SignedTokens(self.store, read_signing(value), lambda: self.now)

    def identify(self, token: str) -> Identity:
        return self.tokens.identify(token)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_signs_and_recognises(tmp_path: Path, method: str) -> None:
    member = Member(flag(tmp_path, method))
    token = member.tokens.sign("alice", REVISION)
    assert member.identify(token) == Identity("alice", REVISION)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {"username": "alice", "revision": REVISION, "exp": NOW + 600}
    assert jwt.get_unverified_header(token)["alg"] == method


@pytest.mark.parametrize("method", ["RS256", "PS512", "ES256", "EdDSA"])
def test_with_the_public_key_alone_nothing_is_signed(tmp_path: Path, method: str) -> None:
    token = Member(flag(tmp_path, method, public=False)).tokens.sign("bob", REVISION)
    member = Member(flag(tmp_path, method, private=False))
    assert member.identify(token).user == "bob"
    with pytest.raises(VerifyOnly):
        member.tokens.sign("bob", REVISION)


def test_a_token_ends_with_its_time(tmp_path: Path) -> None:
    member = Member(flag(tmp_path, "ES256"))
    token = member.tokens.sign("alice", REVISION)
    for _ in range(2):
        member.now = NOW + 599
        assert member.identify(token).user == "alice"
        member.now = NOW + 600
        with pytest.raises(InvalidAuthToken):
            member.identify(token)


def test_a_token_ends_with_the_next_change_of_users_or_roles(tmp_path: Path) -> None:
    member = Member(flag(tmp_path, "ES256"))
    token = member.tokens.sign("alice", REVISION)
    assert member.identify(token).user == "alice"
    member.store.revision += 1
    with pytest.raises(AuthOldRevision):
        member.identify(token)


def test_a_member_that_lags_behind_takes_a_newer_token(tmp_path: Path) -> None:
    member = Member(flag(tmp_path, "ES256"))
    assert member.identify(member.tokens.sign("alice", REVISION + 1)).revision == REVISION + 1


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.signed_tokens._REMEMBERED_MAX", 3)
    member = Member(flag(tmp_path, "HS256"))
    for number in range(10):
        member.now += 1
        assert member.identify(member.tokens.sign("alice", REVISION + number)).user == "alice"
    assert len(member.tokens._remembered) <= 3


GOOD = {"username": "alice", "revision": REVISION, "exp": NOW + 60}


def segment(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(header: object, claims: object = GOOD, signature: bytes = b"") -> str:
    return f"{segment(header)}.{segment(claims)}.{segment(signature) if signature else ''}"


def signed(claims: object, method: str = "RS256", key: Any = None, **header: Any) -> str:
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, key or key_of("RSA", 0), algorithm=method, headers=header)


def hmac_with_the_public_key() -> str:
    """What a library would accept that lets the token choose the method."""
    head = segment({"alg": "HS256", "typ": "JWT"}) + "." + segment(GOOD)
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return head + "." + segment(algorithm.sign(head.encode(), public_pem("RS256")))


def tampered() -> str:
    head, _, signature = signed(GOOD).split(".")
    return ".".join([head, segment({**GOOD, "username": "bob"}), signature])


FORGERIES: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "a word": lambda: "root",
    "a simple token": lambda: "abcdefghijklmnop.7",
    "dots": lambda: "..",
    "many dots": lambda: "." * 500,
    "not ASCII": lambda: "\xe9." * 3,
    "half a character": lambda: "\udcff.a.b",
    "too long": lambda: signed({**GOOD, "username": "alice", "pad": "x" * TOKEN_BYTES_MAX}),
    "a megabyte": lambda: "a.b." + "c" * (1 << 20),
    "no method": lambda: unsigned({"alg": "none"}),
    "no method, in capitals": lambda: unsigned({"alg": "NONE"}),
    "no method, but a signature": lambda: unsigned({"alg": "none"}, signature=b"x"),
    "a header without a method": lambda: unsigned({"typ": "JWT"}),
    "a method that is a list": lambda: unsigned({"alg": ["RS256"]}, signature=b"x"),
    "a header that is a list": lambda: unsigned([], signature=b"x"),
    "a deep header": lambda: unsigned(b"[" * 4000, signature=b"x"),
    "claims that are a list": lambda: signed(b"[]"),
    "deep claims": lambda: signed(b"[" * 4000),
    "claims that are no JSON": lambda: signed(b"\xff\xfe"),
    "no claims": lambda: signed(b""),
    "another key": lambda: signed(GOOD, key=key_of("RSA", 1)),
    "another method of the same key": lambda: signed(GOOD, "RS512"),
    "another padding of the same key": lambda: signed(GOOD, "PS256"),
    "the public key as a secret": hmac_with_the_public_key,
    "other claims": tampered,
    "a cut signature": lambda: signed(GOOD)[:-8],
    "no signature": lambda: signed(GOOD).rpartition(".")[0] + ".",
    "an unknown critical header": lambda: signed(GOOD, crit=["exp"], exp=1),
    "a key of its own": lambda: signed(GOOD, key=key_of("RSA", 1), jwk={"kty": "RSA"}, kid="../x"),
    "expired": lambda: signed({**GOOD, "exp": NOW - 1}),
    "not yet": lambda: signed({**GOOD, "nbf": NOW + 10}),
    "endless": lambda: signed({"username": "alice", "revision": REVISION}),
    "an end that is a text": lambda: signed({**GOOD, "exp": "2099"}),
    "nobody": lambda: signed({**GOOD, "username": ""}),
    "the members' own name and revision": lambda: signed({**GOOD, "username": "", "revision": 0}),
    "a user that is not there": lambda: signed({**GOOD, "username": "mallory"}),
    "a user that is a number": lambda: signed({**GOOD, "username": 7}),
    "a user that is a list": lambda: signed({**GOOD, "username": ["alice"]}),
    "no revision": lambda: signed({"username": "alice", "exp": NOW + 60}),
    "a revision that is a text": lambda: signed({**GOOD, "revision": "7"}),
    "a negative revision": lambda: signed({**GOOD, "revision": -1}),
    "a huge revision": lambda: signed({**GOOD, "revision": 2**64}),
    "a revision without end": lambda: signed(
        b'{"username":"alice","revision":1e999,"exp":2000000000}'
    ),
}


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Member:
    return Member(flag(tmp_path_factory.mktemp("keys"), "RS256"))


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_at_once(trusting: Member, name: str) -> None:
    for _ in range(2):
        with pytest.raises(InvalidAuthToken):
            trusting.identify(FORGERIES[name]())


def test_what_the_forgeries_begin_with_is_good(trusting: Member) -> None:
    assert trusting.identify(signed(GOOD)) == Identity("alice", REVISION)
    assert trusting.identify(signed({**GOOD, "revision": 7.0, "nbf": NOW})).revision == REVISION


@settings(max_examples=50)
@given(
    st.text(max_size=200)
    | st.builds(
        unsigned,
        st.recursive(
            st.none() | st.text(max_size=5) | st.integers(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        ),
        st.just(GOOD),
        st.binary(max_size=20),
    )
)
def test_no_text_is_a_token_by_chance(text: str) -> None:
    store: Any = SimpleNamespace(revision=REVISION, has_user=lambda name: True)
    signing: Any = SimpleNamespace(method="EdDSA", public=key_of("EdDSA", 0).public_key())
    tokens = SignedTokens(store, signing, lambda: NOW)
    with pytest.raises(InvalidAuthToken):
        tokens.identify(text)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("", "sign-method '' is not one of"),
        (",sign-method=none", "sign-method 'none' is not one of"),
        (",sign-method=RS256", "RS256 needs priv-key, or pub-key"),
        (",sign-method=HS256,pub-key={public}", "HS256 needs priv-key"),
        (",sign-method=RS256,priv-key={public}", "priv-key holds no private key"),
        (",sign-method=RS256,pub-key={private}", "pub-key holds no public key"),
        (",sign-method=ES256,priv-key={private}", "does not go with a key of this kind"),
        (",sign-method=ES256,pub-key={public}", "does not go with a key of this kind"),
        (",sign-method=EdDSA,pub-key={public}", "does not go with a key of this kind"),
        (",sign-method=ES384,priv-key={curve}", "does not go with a key of this kind"),
        (",sign-method=RS256,priv-key={private},pub-key={other}", "do not belong together"),
        (",sign-method=RS256,pub-key=/nowhere/key", "pub-key: cannot read /nowhere/key"),
        (",sign-method=RS256,pub-key={public},ttl=10", "'10' is not a duration"),
        (",sign-method=RS256,pub-key={public},ttl=0", "ttl 0 is not more than nothing"),
        (",sign-method=RS256,sign-method=RS512", "sign-method is given twice"),
        (",sign-metod=RS256", "'sign-metod=RS256' is none of"),
        (",RS256", "'RS256' is none of"),
    ],
)
def test_what_is_wrong_with_the_flag(tmp_path: Path, options: str, fault: str) -> None:
    files = {
        "private": private_pem("RS256"),
        "public": public_pem("RS256"),
        "other": public_pem("RS256", 1),
        "curve": private_pem("ES256"),
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    paths = {name: tmp_path / name for name in files}
    with pytest.raises(ValueError, match=fault):
        read_signing("jwt" + options.format(**paths))


def test_a_short_secret_is_taken_but_noted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 31)
    value = f"jwt,sign-method=HS256,priv-key={tmp_path / 'secret'}"
    assert read_signing(value).guessable
    assert not read_signing(flag(tmp_path, "HS512")).guessable
    (tmp_path / "secret").write_bytes(b"short")
    member = Member(value)
    assert member.identify(member.tokens.sign("alice", REVISION)).user == "alice"


def test_five_minutes_unless_told(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    assert read_signing(f"jwt,sign-method=HS256,priv-key={tmp_path / 'secret'}").ttl_seconds == 300
