"""Questions between members: what cannot be read is refused in words, and nothing else happens."""

from __future__ import annotations

import msgspec
import pytest

from node.peer_calls import PeerCall, PeerCalls
from raft.transport import CallFailed


class Question(msgspec.Struct):
    name: str = ""
    numbers: list[int] = []


async def _answer(sender: int, question: Question) -> Question:
    return Question(f"{question.name} of {sender}", question.numbers)


@pytest.fixture
def calls() -> PeerCalls:
    calls = PeerCalls()
    calls.answer(PeerCall.HASH_KV, Question, _answer)
    return calls


async def test_a_question_is_answered(calls: PeerCalls) -> None:
    body = msgspec.msgpack.encode({"name": "n", "numbers": [1], "later": "field"})
    answer = await calls.serve(7, PeerCall.HASH_KV, body)
    assert msgspec.msgpack.decode(answer, type=Question) == Question("n of 7", [1])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (99, b"\x80"),
        (PeerCall.HASH_KV, b""),
        (PeerCall.HASH_KV, b"\x81"),
        (PeerCall.HASH_KV, b"\x80\x80"),
        (PeerCall.HASH_KV, b"\x81\xa4name\x01"),
        (PeerCall.HASH_KV, b"\x81\xa4name\xa2\xff\xfe"),
        (PeerCall.HASH_KV, b"\x81\xa7numbers\xdd\xff\xff\xff\xff"),
        (PeerCall.HASH_KV, b"\x81\xa1x" + b"\x91" * 50_000 + b"\x90"),
    ],
)
async def test_what_is_no_question(calls: PeerCalls, kind: int, body: bytes) -> None:
    with pytest.raises(CallFailed):
        await calls.serve(7, kind, body)


@pytest.mark.parametrize("answer", [b"", b"\x81\xa4name\xa2\xff\xfe", b"\x91" * 50_000])
async def test_what_is_no_answer(calls: PeerCalls, answer: bytes) -> None:
    class Line:
        async def call(self, member: int, kind: int, body: bytes, seconds: float) -> bytes:
            return answer

    calls.transport = Line()  # type: ignore[assignment]
    with pytest.raises(CallFailed, match="malformed answer"):
        await calls.ask(2, PeerCall.HASH_KV, Question(), Question)
