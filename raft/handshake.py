"""The first bytes on a peer connection: who calls whom, in which cluster, for what.

The dialling side sends a Hello, the accepting side answers with an Answer, and nothing else is
decoded before both have agreed. Both are of fixed size and hold no length field, so a stranger can
make us buffer 32 bytes at most:

    Hello   "ESKR" | version u16 | kind u8 | 0 | cluster id u64 | sender id u64 | receiver id u64
      32 bytes Answer  "ESKR" | version u16 | code u8 | 0 | cluster id u64 | member id u64
                  24 bytes

All numbers are big-endian. The answer carries the accepting side's own ids, so that a wrong address
can be named: a peer URL that points at another cluster must be told from a peer of ours with other
data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"ESKR"
VERSION = 1
"""Of the frames and messages on the stream; members of different versions do not talk."""

_HELLO = struct.Struct(">4sHBxQQQ")
_ANSWER = struct.Struct(">4sHBxQQ")
HELLO_BYTES = _HELLO.size
ANSWER_BYTES = _ANSWER.size


class StreamKind(IntEnum):
    """What the connection is for. Snapshots have their own, so that they delay no heartbeat."""

    MESSAGES = 1
    SNAPSHOT = 2
    DISCOVER = 3
    """Asks who we are, by somebody who has no id yet: the answer is the end of the connection."""


class Verdict(IntEnum):
    """The accepting side's answer; all but ACCEPTED are followed by the end of the connection."""

    ACCEPTED = 0
    WRONG_VERSION = 1
    WRONG_CLUSTER = 2
    WRONG_MEMBER = 3
    UNKNOWN_SENDER = 4
    REMOVED_SENDER = 5
    WRONG_KIND = 6
    BUSY = 7


class NotAPeer(Exception):
    """These bytes are not the beginning of a peer connection."""


class Hello(NamedTuple):
    """What the dialling side says about itself, and whom it believes to call."""

    version: int
    kind: int
    cluster: int
    sender: int
    receiver: int


class Answer(NamedTuple):
    """The verdict, and the accepting side's own ids."""

    version: int
    verdict: int
    cluster: int
    member: int


class Identity(NamedTuple):
    """This member, and whom it talks to."""

    cluster: int
    member: int
    knows: Callable[[int], bool]
    """Whether a member id belongs to a present (or, while joining, a configured) member."""
    removed: Callable[[int], bool]
    """Whether a member id was removed; such ids never come back."""


def pack_hello(identity: Identity, kind: StreamKind, receiver: int) -> bytes:
    """The bytes that open a connection to `receiver`."""
    return _HELLO.pack(MAGIC, VERSION, kind, identity.cluster, identity.member, receiver)


def unpack_hello(data: bytes) -> Hello:
    """NotAPeer unless `data` (HELLO_BYTES long) begins with the magic."""
    magic, *fields = _HELLO.unpack(data)
    if magic != MAGIC:
        raise NotAPeer
    return Hello(*fields)


def pack_answer(identity: Identity, verdict: Verdict) -> bytes:
    """The bytes that answer a Hello."""
    return _ANSWER.pack(MAGIC, VERSION, verdict, identity.cluster, identity.member)


def unpack_answer(data: bytes) -> Answer:
    """NotAPeer unless `data` (ANSWER_BYTES long) begins with the magic."""
    magic, *fields = _ANSWER.unpack(data)
    if magic != MAGIC:
        raise NotAPeer
    return Answer(*fields)


def judge(identity: Identity, hello: Hello) -> Verdict:
    """What a Hello deserves. The cluster is looked at before the members: ids mean nothing in
    another one."""
    if hello.version != VERSION:
        return Verdict.WRONG_VERSION
    if hello.kind == StreamKind.DISCOVER:
        return Verdict.ACCEPTED
    if hello.cluster != identity.cluster:
        return Verdict.WRONG_CLUSTER
    if hello.receiver != identity.member:
        return Verdict.WRONG_MEMBER
    if identity.removed(hello.sender):
        return Verdict.REMOVED_SENDER
    if hello.sender == identity.member or not identity.knows(hello.sender):
        return Verdict.UNKNOWN_SENDER
    if hello.kind not in (StreamKind.MESSAGES, StreamKind.SNAPSHOT):
        return Verdict.WRONG_KIND
    return Verdict.ACCEPTED


def explain_refusal(identity: Identity, answer: Answer, address: str, receiver: int) -> str:
    """One sentence for the log of the side that was refused; names both sides' ids."""
    own = identity.member
    match answer.verdict:
        case Verdict.WRONG_VERSION:
            return f"peer {address} speaks version {answer.version}, we speak {VERSION}"
        case Verdict.WRONG_CLUSTER:
            return _other_cluster(address, answer.cluster, identity.cluster)
        case Verdict.WRONG_MEMBER:
            return f"peer {address} is member {answer.member:x}, we look for {receiver:x}"
        case Verdict.UNKNOWN_SENDER:
            return f"peer {address} does not know this member ({own:x})"
        case Verdict.REMOVED_SENDER:
            return f"peer {address} says that this member ({own:x}) was removed"
        case Verdict.BUSY:
            return f"peer {address} already has such a connection with this member"
    return f"peer {address} refused this member ({own:x}): code {answer.verdict}"


def explain_stranger(identity: Identity, hello: Hello, verdict: Verdict, address: str) -> str:
    """One sentence for the log of the side that refuses."""
    match verdict:
        case Verdict.WRONG_VERSION:
            return f"peer {address} speaks version {hello.version}, we speak {VERSION}"
        case Verdict.WRONG_CLUSTER:
            return _other_cluster(address, hello.cluster, identity.cluster)
        case Verdict.WRONG_MEMBER:
            return f"peer {address} looks for {hello.receiver:x}, we are {identity.member:x}"
        case Verdict.REMOVED_SENDER:
            return f"peer {address} is member {hello.sender:x}, which was removed"
        case Verdict.UNKNOWN_SENDER:
            return f"peer {address} is member {hello.sender:x}, which we do not know"
    return f"peer {address} is refused: {verdict.name.lower()}"


def _other_cluster(address: str, theirs: int, ours: int) -> str:
    return f"peer {address} belongs to cluster {theirs:x}, ours is {ours:x}"
