"""Request ids, and who waits for which entry to be applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Done = Callable[[object], None]
"""Called exactly once, with a response or with an exception instance (which it must not raise)."""

COUNTER_BITS = 48


class Proposals:
    """The proposals of this member that were not yet seen applied, oldest first.

    An id is 16 bits of the member and a 48-bit counter that starts anywhere, drawn anew in each
    life: what an earlier life proposed and is only now applied is taken for nothing of this one's,
    wherever the clock was set meanwhile.
    """

    def __init__(self, member_id: int, *, first_id: int) -> None:
        self._prefix = (member_id & 0xFFFF) << COUNTER_BITS
        self._counter = first_id
        self._waiting: dict[int, tuple[Any, Done, float]] = {}
        self._forwarded: list[int] = []
        self.failed_total = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def next_id(self) -> int:
        """A fresh id."""
        self._counter += 1
        return self._prefix | (self._counter & ((1 << COUNTER_BITS) - 1))

    def register(self, request_id: int, request: Any, done: Done, deadline: float) -> None:
        """Wait for `request_id`; deadlines must not decrease from one call to the next."""
        assert request_id not in self._waiting, f"request id {request_id:x} registered twice"
        self._waiting[request_id] = (request, done, deadline)

    def take(self, request_id: int) -> tuple[Any, Done, float] | None:
        """(request, done, deadline) of a proposal made here, once; None for anybody else's."""
        return self._waiting.pop(request_id, None)

    def expire(self, now: float) -> list[Done]:
        """Forget what is due: its outcome is unknown, and a late result finds nobody."""
        due = []
        for request_id, (_, done, deadline) in self._waiting.items():
            if deadline > now:
                break
            due.append((request_id, done))
        for request_id, _ in due:
            del self._waiting[request_id]
        return [done for _, done in due]

    def leader_gone(self) -> None:
        """Whatever waits now was forwarded to a leader that is no more."""
        self._forwarded = list(self._waiting)

    def lost(self) -> list[Done]:
        """Forget what was forwarded to a leader that is no more, and still waits."""
        forwarded, self._forwarded = self._forwarded, []
        waiting = (self._waiting.pop(request_id, None) for request_id in forwarded)
        return [found[1] for found in waiting if found is not None]

    def take_all(self) -> list[Done]:
        """Everybody who still waits; the registry is empty afterwards."""
        waiting, self._waiting = self._waiting, {}
        return [done for _, done, _ in waiting.values()]
