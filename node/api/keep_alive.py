"""The keep-alive stream: each message renews one lease and is answered in its turn.

A leader answers from memory, as it hears the message. Elsewhere what has come in meanwhile travels
to the leader in one question, so a stream costs a round trip and not one for each message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.api.errors import refusal
from node.api.gate import Gate
from node.api.messages import LeaseKeepAliveRequest, LeaseKeepAliveResponse
from node.api.methods import Access, Credentials, GiveUp, Sink
from node.apply.errors import ApplyError, LearnerRefused, TooManyRequests

if TYPE_CHECKING:
    from node.api.maintenance import Spawn
    from node.server import Server

OUTSTANDING_MAX = 10_000
"""Messages of one stream that wait for their turn."""
BATCH_MAX = 256
"""Renewals asked for at once."""


class KeepAlive:
    """One stream. `encode(response)` is one whole message."""

    def __init__(
        self,
        server: Server,
        spawn: Spawn,
        sink: Sink,
        credentials: Credentials,
        encode: Callable[[Any], bytes],
    ) -> None:
        self._server = server
        self._spawn = spawn
        self._sink = sink
        self._credentials = credentials
        self._encode = encode
        self._gate = Gate(server)
        self._waiting: deque[int] = deque()
        self._asking: list[int] = []
        self._give_up: GiveUp | None = None
        self._input_ended = False
        self._closed = False

    def receive(self, message: LeaseKeepAliveRequest) -> None:
        if len(self._waiting) >= OUTSTANDING_MAX:
            raise TooManyRequests
        self._waiting.append(message.ID)
        self._proceed()

    def end_of_input(self) -> None:
        self._input_ended = True
        self._proceed()

    def resume(self) -> None:
        self._proceed()

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        if self._give_up is not None:
            self._give_up()

    def _proceed(self) -> None:
        try:
            self._go_on()
        except ApplyError as error:
            self._fail(error)

    def _go_on(self) -> None:
        """Answer what can be answered now, ask the leader for what cannot."""
        while self._waiting and not (self._asking or self._closed or self._sink.full):
            number = self._waiting[0]
            self._check(number)
            ttl = self._server.leases.renew_now(number)
            if ttl is None:
                self._ask()
            else:
                self._waiting.popleft()
                self._sink.send([self._line(number, ttl)])
        if self._input_ended and not (self._waiting or self._asking):
            self._sink.finish()

    def _check(self, number: int) -> None:
        """LearnerRefused, UserEmpty, InvalidAuthToken; PermissionDenied without WRITE on the keys
        of the lease.
        """
        server = self._server
        if server.is_learner:
            raise LearnerRefused
        asker = self._gate.admit(Access.USER, self._credentials)
        if asker is not None and server.lessor.exists(number):
            server.auth.check_keys(asker, server.lessor.keys_of(number), write=True)

    def _ask(self) -> None:
        while self._waiting and len(self._asking) < BATCH_MAX:
            self._asking.append(self._waiting.popleft())
        self._give_up = self._spawn(self._renew(self._asking), self._answered)

    async def _renew(self, numbers: list[int]) -> list[int]:
        """By the leader. This member may be behind it: who has which keys is known after a read."""
        server = self._server
        if server.auth.enabled:
            await server.call(lambda _, done, __: server.linearizable(done), None)
            for number in numbers:
                self._check(number)
        return await server.leases.renew(numbers)

    def _answered(self, result: object) -> None:
        self._give_up = None
        numbers, self._asking = self._asking, []
        if self._closed:
            return
        if isinstance(result, Exception):
            self._fail(result)
            return
        assert isinstance(result, list), result
        pairs = zip(numbers, result, strict=True)
        self._sink.send([self._line(number, ttl) for number, ttl in pairs])
        self._proceed()

    def _fail(self, error: Exception) -> None:
        self._waiting.clear()
        self._sink.finish(refusal(error))

    def _line(self, number: int, ttl: int) -> bytes:
        revision = self._server.store.current_rev
        return self._encode(LeaseKeepAliveResponse(revision, number, ttl))
