"""Bytes from the log, from members and from strangers that are not what they seem: every decoder
gives a value or its own error, at once, and believes no length.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.api import json_codec
from node.api.errors import MalformedMessage
from node.apply.checks import admit
from node.apply.errors import AuthOldRevision, InvalidAuthToken
from node.apply.requests import KINDS, decode, encode, identity_of
from node.corruption_check import HashQuestion
from node.leases import Renewal
from node.membership import ChangeQuestion
from node.peer_calls import PeerCall, PeerCalls
from node.signed_tokens import SignedTokens, Signing
from raft import codec
from raft.core.errors import RaftError, StepRefused
from raft.core.message import Message, MessageType
from raft.core.types import Entry, Snapshot
from raft.framing import FrameError, FrameParser, FrameType, pack_frame
from raft.handshake import ANSWER_BYTES, HELLO_BYTES, NotAPeer, unpack_answer, unpack_hello
from raft.snapshot_stream import receive_snapshot
from raft.transport import CallFailed
from tests.unit.node.apply_fixture import Machine

FEW = settings(max_examples=settings.default.max_examples // 4)  # type: ignore[union-attr]

SCALARS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.binary(max_size=9), st.text(max_size=9), st.booleans()
)
VALUES = st.recursive(
    SCALARS | st.none() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
DEEP = b"\x91" * 20_000 + b"\x90"
LENGTHS = [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"]
LIES = [head + b"\xff\xff\xff\xff" for head in LENGTHS]
BAD_TEXT = b"\xa2\xff\xfe"


def named(message: type) -> st.SearchStrategy[bytes]:
    """A msgpack map with some fields of `message`, of any types."""
    names = st.sampled_from([*message.__struct_fields__, "later"])
    return st.dictionaries(names, VALUES, max_size=4).map(msgspec.msgpack.encode)


def spoiled(good: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Cut anywhere, overwritten anywhere with what nobody must believe, or followed by that."""
    lies = st.one_of(st.sampled_from([*LIES, BAD_TEXT, DEEP]), st.binary(max_size=4))

    def overwrite(data: bytes, at: int, lie: bytes) -> bytes:
        at %= len(data) + 1
        return data[:at] + lie + data[at + len(lie) :]

    place = st.integers(0, 10_000)
    return st.one_of(
        good,
        st.builds(lambda data, at: data[: at % (len(data) + 1)], good, place),
        st.builds(overwrite, good, place, lies),
        st.builds(lambda data, lie: data + lie, good, lies),
        st.builds(lambda lie: b"\x81\xa1x" + lie, lies),
    )


ENTRIES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.builds(
        lambda head, user, body: head + user + body,
        st.sampled_from([struct.pack(">BQ", kind, 7), struct.pack(">BQ", kind | 0x80, 7)]),
        st.sampled_from([b"", struct.pack(">QB", 3, 4) + b"root", struct.pack(">QB", 3, 200)]),
        spoiled(named(KINDS[kind])),
    )
)


@FEW
@given(ENTRIES | st.binary(max_size=30))
def test_entries(data: bytes) -> None:
    """What is admitted applies without a fault; what only decodes, too."""
    machine = Machine()
    before = machine.hash_kv()
    try:
        admit(data)
    except ValueError:
        with contextlib.suppress(ValueError, RecursionError):
            decode(data)
        assert machine.hash_kv() == before
    else:
        number, request = decode(data)
        result = machine.entry(1, data)
        assert isinstance(number, int)
        assert result is None or isinstance(result, (msgspec.Struct, Exception, tuple))
        again = encode(number, request, identity_of(data))
        assert decode(again) == (number, request)
    machine.check()


NUMBERS = st.integers(-1, 2**64 - 1)
MESSAGES = st.builds(
    Message,
    type=st.sampled_from([*map(int, MessageType), 0, 99]),
    to=NUMBERS,
    sender=NUMBERS,
    term=NUMBERS,
    index=NUMBERS,
    entries=st.lists(
        st.builds(Entry, NUMBERS, NUMBERS, st.integers(0, 9), st.binary(max_size=9)), max_size=3
    ),
    snapshot=st.none() | st.builds(Snapshot, NUMBERS, NUMBERS),
    context=NUMBERS,
).map(codec.encode_message)


@given(spoiled(MESSAGES))
def test_messages(data: bytes) -> None:
    try:
        message = codec.decode_message(data)
    except StepRefused:
        return
    assert message.type in set(MessageType)
    assert codec.decode_message(codec.encode_message(message)) == message


@pytest.mark.parametrize(
    "read", [codec.decode_entries, codec.decode_snapshot, codec.decode_hard_state]
)
@given(data=spoiled(MESSAGES))
def test_durable_state(read: Callable[[bytes], Any], data: bytes) -> None:
    """The WAL's checksum stands before these; they fail as its reader expects all the same."""
    try:
        value = read(data)
    except (ValueError, RecursionError):
        return
    assert value is not None


@given(st.binary(min_size=HELLO_BYTES, max_size=HELLO_BYTES))
@example(b"ESKR" + b"\xff" * (HELLO_BYTES - 4))
def test_handshakes(data: bytes) -> None:
    for read, size in ((unpack_hello, HELLO_BYTES), (unpack_answer, ANSWER_BYTES)):
        try:
            said = read(data[:size])
        except NotAPeer:
            assert data[:4] != b"ESKR"
        else:
            assert data[:4] == b"ESKR" and said.version == int.from_bytes(data[4:6], "big")


FRAME_MAX = 1000


@given(
    st.lists(
        st.binary(max_size=40) | st.builds(pack_frame, st.integers(0, 255), st.binary(max_size=30))
    )
)
@example([b"\xff\xff\xff\xff\x01"])
@example([b"\0\0\0\0"])
@example([b"\0\0\x03\xe8\x01", b"x" * 998, b"y"])
def test_frames(pieces: list[bytes]) -> None:
    """No more than one frame is ever held, whatever length it claims."""
    parser, came, left = FrameParser(FRAME_MAX), 0, 0
    for piece in pieces:
        came += len(piece)
        try:
            for _, body in parser.feed(piece):
                left += len(body) + 5
        except FrameError:
            return
        assert parser._held == came - left <= FRAME_MAX + 4


class Shelf:
    """Receiver and sink of a snapshot."""

    def __init__(self) -> None:
        self.ended = ""
        self.messages: list[Message] = []

    def begin_snapshot(self, message: Message, size: int) -> Shelf:
        return self

    def write(self, chunk: bytes) -> None:
        """Keeps nothing."""

    def finish(self) -> None:
        self.ended = "finished"

    def abort(self) -> None:
        self.ended = "aborted"

    def receive(self, message: Message) -> None:
        self.messages.append(message)


class Line:
    """A writer nobody reads from."""

    transport: Any

    def __init__(self) -> None:
        self.transport = self
        self.said = b""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.said += data

    async def drain(self) -> None:
        """Never full."""


NAMED = Message(type=MessageType.SNAPSHOT, to=2, sender=1, term=3, snapshot=Snapshot(5, 3))
HEADER = pack_frame(FrameType.SNAPSHOT_HEADER, struct.pack(">Q", 6) + codec.encode_message(NAMED))
STREAM = (
    HEADER
    + pack_frame(FrameType.SNAPSHOT_CHUNK, b"abc")
    + pack_frame(FrameType.SNAPSHOT_CHUNK, b"def")
    + pack_frame(FrameType.SNAPSHOT_END, hashlib.sha256(b"abcdef").digest())
)
HUGE = pack_frame(FrameType.SNAPSHOT_HEADER, b"\xff" * 8 + codec.encode_message(NAMED))


@given(spoiled(st.just(STREAM)))
@example(STREAM)
@example(HUGE)
@example(b"\xff\xff\xff\xff\x07")
@example(HEADER + pack_frame(FrameType.SNAPSHOT_CHUNK, b"more than six"))
def test_snapshot_streams(data: bytes) -> None:
    """Finished and handed on if every byte of the file is right, else aborted and told why."""
    shelf, line = Shelf(), Line()

    async def receive() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        await receive_snapshot(
            reader,
            line,
            shelf,
            sender=1,
            to=2,
            size_max=1 << 40,
            pool=None,  # type: ignore[arg-type]
        )

    try:
        asyncio.run(receive())
    except (OSError, EOFError, FrameError, RaftError):
        assert shelf.messages == [] and shelf.ended in ("", "aborted")
        assert line.said[4:6] == b"\x06\0"
    else:
        (message,) = shelf.messages
        assert (message.sender, message.to, shelf.ended) == (1, 2, "finished")
        assert STREAM[len(HEADER) :] in data


QUESTIONS = {
    PeerCall.LEASE_RENEW: Renewal,
    PeerCall.HASH_KV: HashQuestion,
    PeerCall.CHANGE_MEMBERS: ChangeQuestion,
}


@FEW
@given(
    st.sampled_from(sorted(QUESTIONS)).flatmap(
        lambda k: st.tuples(st.just(k), spoiled(named(QUESTIONS[k])))
    )
)
def test_questions(case: tuple[PeerCall, bytes]) -> None:
    kind, body = case
    asked: list[Any] = []

    async def answer(sender: int, question: Any) -> Any:
        asked.append(question)
        return question

    calls = PeerCalls()
    calls.answer(kind, QUESTIONS[kind], answer)
    try:
        asyncio.run(calls.serve(1, kind, body))
    except CallFailed:
        assert asked == []
    else:
        assert type(asked[0]) is QUESTIONS[kind]


MACHINE = Machine()
SIGNED = SignedTokens(MACHINE.auth, Signing("HS256", b"secret", b"secret"), lambda: 1000.0)
GOOD = SIGNED.sign("alice", 1)
PARTS = st.one_of(
    st.sampled_from(
        [*GOOD.split("."), "", "e30", "W10", "bnVsbA", "*", "\0", "\udcff", "é", "A" * 9000]
    ),
    st.text(max_size=9),
)
TOKENS = st.lists(PARTS, max_size=5).map(".".join) | st.text(max_size=40)


@FEW
@given(TOKENS)
@example(GOOD)
@example("." * 9000)
def test_tokens(token: str) -> None:
    """No text is anybody: alice has no account here, and nobody else a signature."""
    with pytest.raises((InvalidAuthToken, AuthOldRevision)):
        SIGNED.identify(token)


@FEW
@given(
    st.dictionaries(st.sampled_from(["username", "revision", "exp", "nbf", "x"]), VALUES) | VALUES
)
@example({"username": "alice", "revision": 1e300, "exp": 1e308})
@example({"username": "alice", "revision": 2**64 - 1, "exp": 2**64 - 1, "nbf": -(2**63)})
@example({"username": "\0", "revision": 0.5, "exp": 2000})
def test_signed_claims(claims: Any) -> None:
    """Signed by whoever has the key: also then only what the claims should be counts."""
    try:
        payload = msgspec.json.encode(claims)
    except (TypeError, UnicodeEncodeError):
        return
    signing = SIGNED._signing
    token = SIGNED._codec.encode(payload, signing.private, algorithm=signing.method)
    with pytest.raises((InvalidAuthToken, AuthOldRevision)):
        SIGNED.identify(token)


@given(
    st.binary(max_size=60) | st.text(max_size=30).map(str.encode), st.sampled_from(sorted(KINDS))
)
def test_json_of_any_request(body: bytes, kind: int) -> None:
    message = KINDS[kind]
    try:
        assert type(json_codec.decode(body, message)) is message
    except MalformedMessage as error:
        assert str(error)
