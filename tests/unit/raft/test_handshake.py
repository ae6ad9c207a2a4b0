"""The hello: layout, every verdict, and what the log says about it."""

from __future__ import annotations

import pytest

from raft.handshake import (
    ANSWER_BYTES,
    HELLO_BYTES,
    VERSION,
    Answer,
    Hello,
    Identity,
    NotAPeer,
    StreamKind,
    Verdict,
    explain_refusal,
    explain_stranger,
    judge,
    pack_answer,
    pack_hello,
    unpack_answer,
    unpack_hello,
)

OURS = Identity(0xC, 1, knows=lambda member: member in (2, 3), removed=lambda member: member == 9)
GOOD = Hello(VERSION, StreamKind.MESSAGES, cluster=0xC, sender=2, receiver=1)


def test_layout() -> None:
    data = pack_hello(OURS, StreamKind.SNAPSHOT, 2)
    assert data == b"ESKR\x00\x01\x02\x00" + b"".join(n.to_bytes(8, "big") for n in (0xC, 1, 2))
    assert len(data) == HELLO_BYTES
    assert unpack_hello(data) == Hello(VERSION, StreamKind.SNAPSHOT, 0xC, 1, 2)
    answer = pack_answer(OURS, Verdict.WRONG_MEMBER)
    assert len(answer) == ANSWER_BYTES
    assert unpack_answer(answer) == Answer(VERSION, Verdict.WRONG_MEMBER, 0xC, 1)


def test_other_magic_is_no_peer() -> None:
    with pytest.raises(NotAPeer):
        unpack_hello(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n"[:HELLO_BYTES])
    with pytest.raises(NotAPeer):
        unpack_answer(b"HTTP/1.1 400 Bad Request\r\n"[:ANSWER_BYTES])


@pytest.mark.parametrize(
    ("hello", "verdict"),
    [
        (GOOD, Verdict.ACCEPTED),
        (GOOD._replace(kind=StreamKind.SNAPSHOT, sender=3), Verdict.ACCEPTED),
        (GOOD._replace(version=VERSION + 1), Verdict.WRONG_VERSION),
        (GOOD._replace(cluster=0xD), Verdict.WRONG_CLUSTER),
        (GOOD._replace(receiver=4), Verdict.WRONG_MEMBER),
        (GOOD._replace(sender=4), Verdict.UNKNOWN_SENDER),
        (GOOD._replace(sender=1), Verdict.UNKNOWN_SENDER),
        (GOOD._replace(sender=9), Verdict.REMOVED_SENDER),
        (GOOD._replace(kind=99), Verdict.WRONG_KIND),
        # Ids of another cluster mean nothing here: the cluster is what is wrong.
        (GOOD._replace(cluster=0xD, sender=9, receiver=4), Verdict.WRONG_CLUSTER),
    ],
)
def test_verdicts(hello: Hello, verdict: Verdict) -> None:
    assert judge(OURS, hello) == verdict


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.WRONG_CLUSTER, "peer 10.0.0.3:2380 belongs to cluster d, ours is c"),
        (Verdict.WRONG_MEMBER, "peer 10.0.0.3:2380 is member 7, we look for 2"),
        (Verdict.WRONG_VERSION, "peer 10.0.0.3:2380 speaks version 5, we speak 1"),
        (Verdict.UNKNOWN_SENDER, "peer 10.0.0.3:2380 does not know this member (1)"),
        (Verdict.REMOVED_SENDER, "peer 10.0.0.3:2380 says that this member (1) was removed"),
        (99, "peer 10.0.0.3:2380 refused this member (1): code 99"),
    ],
)
def test_the_refused_side_says_who_the_other_is(verdict: int, words: str) -> None:
    answer = Answer(5, verdict, 0xD, 7)
    assert explain_refusal(OURS, answer, "10.0.0.3:2380", 2) == words


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.WRONG_CLUSTER, "peer 10.0.0.3:1 belongs to cluster d, ours is c"),
        (Verdict.WRONG_MEMBER, "peer 10.0.0.3:1 looks for 7, we are 1"),
        (Verdict.UNKNOWN_SENDER, "peer 10.0.0.3:1 is member 4, which we do not know"),
        (Verdict.REMOVED_SENDER, "peer 10.0.0.3:1 is member 4, which was removed"),
        (Verdict.BUSY, "peer 10.0.0.3:1 is refused: busy"),
    ],
)
def test_the_refusing_side_says_who_came(verdict: Verdict, words: str) -> None:
    hello = Hello(VERSION, StreamKind.MESSAGES, 0xD, 4, 7)
    assert explain_stranger(OURS, hello, verdict, "10.0.0.3:1") == words
