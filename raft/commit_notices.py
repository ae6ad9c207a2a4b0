"""Appends that carry nothing but a commit index wait a moment, since the next one mostly follows.

A leader tells its followers of every commit. Under load the next append says it anyway; with one
writer at a time a follower would be woken twice per entry, once to keep it and once to hear that
others did too. A follower whose own clients wait for that commit hears it at once: because it
forwarded their request lately, or because it says in its answers that they watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from raft.core.message import Message, MessageType

HOLD_SECONDS = 0.002
"""Longer than a client that writes again at once takes, shorter than anybody notices. The loop's
clock is cut to milliseconds, so up to one of these may have passed before the wait begins.
"""
EAGER_SECONDS = 0.1
"""After a forwarded request: its sender is likely to forward another one."""


class CommitNotices:
    """At most one notice is held for each member: the newest says what the older ones did.

    A held notice is dropped when another append goes to its member, which says the same or more.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, send: Callable[[Sequence[Message]], None]
    ) -> None:
        self._loop = loop
        self._send = send
        self._held: dict[int, Message] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._eager_until: dict[int, float] = {}
        self._eager: set[int] = set()

    def forwarded_by(self, member: int) -> None:
        """A request of `member` came: it waits for what commits it."""
        self._eager_until[member] = self._loop.time() + EAGER_SECONDS

    def answered_by(self, member: int, *, eager: bool) -> None:
        """An answer of `member` came, and says whether its clients wait for what others write."""
        if eager:
            self._eager.add(member)
        else:
            self._eager.discard(member)

    def take(self, messages: Sequence[Message]) -> list[Message]:
        """What of `messages` is to be sent now."""
        now = []
        for message in messages:
            if message.type == MessageType.APPEND:
                if not message.entries and not self._is_eager(message.to):
                    self._hold(message)
                    continue
                self._held.pop(message.to, None)
            now.append(message)
        return now

    def stop(self) -> None:
        """Forget what is held: messages may be lost."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _is_eager(self, member: int) -> bool:
        if member in self._eager:
            return True
        until = self._eager_until.get(member)
        return until is not None and self._loop.time() < until

    def _hold(self, message: Message) -> None:
        self._held[message.to] = message
        if self._timer is None:
            self._timer = self._loop.call_later(HOLD_SECONDS, self._release)

    def _release(self) -> None:
        self._timer = None
        held, self._held = list(self._held.values()), {}
        if held:
            self._send(held)
