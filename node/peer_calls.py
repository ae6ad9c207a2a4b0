"""What members ask each other beside raft's messages: one question, one answer, on the peer port.

A question is a kind and the msgpack of its Struct; the answer is the msgpack of another one, or a
refusal in words. Kinds are part of the protocol between members: add, never reuse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Any, TypeVar

import msgspec

from raft.transport import CallFailed, Transport

Question = TypeVar("Question")
Answer = TypeVar("Answer")

_ENCODE = msgspec.msgpack.Encoder().encode


class PeerCall(IntEnum):
    LEASE_RENEW = 1
    LEASE_TIME_TO_LIVE = 2
    HASH_KV = 3
    CHANGE_MEMBERS = 4


class PeerCalls:
    """The questions this member answers, by kind; and how to ask others."""

    def __init__(self) -> None:
        self.transport: Transport
        self._answers: dict[int, tuple[Any, Callable[[int, Any], Awaitable[Any]]]] = {}

    def answer(
        self,
        kind: PeerCall,
        question: type[Question],
        handler: Callable[[int, Question], Awaitable[Any]],
    ) -> None:
        """`handler(sender, question)` answers from now on; CallFailed refuses in its words."""
        assert kind not in self._answers, f"{kind.name} is answered already"
        self._answers[kind] = (msgspec.msgpack.Decoder(question), handler)

    async def serve(self, sender: int, kind: int, body: bytes) -> bytes:
        """The driver's `serve`. CallFailed for what cannot be read or is not answered here."""
        known = self._answers.get(kind)
        if known is None:
            raise CallFailed(f"unknown call {kind}")
        decoder, handler = known
        try:
            question = decoder.decode(body)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise CallFailed(f"malformed call {kind}: {error}") from error
        return _ENCODE(await handler(sender, question))

    async def ask(
        self,
        member: int,
        kind: PeerCall,
        question: Any,
        answer: type[Answer],
        seconds: float = 5.0,
    ) -> Answer:
        """`member`'s answer. PeerUnavailable, CallFailed (also for an answer that is none)."""
        body = await self.transport.call(member, kind, _ENCODE(question), seconds)
        try:
            return msgspec.msgpack.decode(body, type=answer)
        except (ValueError, RecursionError) as error:
            raise CallFailed(f"malformed answer to call {kind}: {error}") from error
