"""Linearizable reads in batches: one confirmation of leadership serves everybody who waited before
it began.

A round asks the leader (through raft's read index) for an index that was committed after the
round's readers came; when this member has applied it, they may read locally. While a round runs,
newcomers gather for the next one. Each try of a round has a token of its own, so an answer to an
older leader's term can be told from the present one's and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from node.proposals import Done

_RETRY_SECONDS = 0.5


class _Round:
    """Readers that share one confirmation; `deadline` is the earliest of theirs."""

    __slots__ = ("deadline", "index", "readers", "retry_at", "tokens")

    def __init__(self, readers: list[Done], deadline: float) -> None:
        self.readers = readers
        self.deadline = deadline
        self.retry_at = 0.0
        self.tokens: set[int] = set()
        self.index: int | None = None


class LinearizableReads:
    """`ask(token)` starts a read index; `call_soon` defers to the end of the loop's turn."""

    def __init__(
        self,
        *,
        ask: Callable[[int], None],
        applied: Callable[[], int],
        call_soon: Callable[[Callable[[], None]], object],
        now: Callable[[], float],
        timeout_seconds: float,
        first_token: int,
    ) -> None:
        self._ask = ask
        self._applied = applied
        self._call_soon = call_soon
        self._now = now
        self._timeout = timeout_seconds
        self._token = first_token
        self._gathering: list[Done] = []
        self._gathering_since = 0.0
        self._scheduled = False
        self._asking: _Round | None = None
        self._applying: list[_Round] = []
        self.slow_total = 0
        self.failed_total = 0

    def wait(self, done: Done) -> None:
        """`done(None)` once a local read is linearizable; it costs no task, future or timer of its
        own.
        """
        if not self._gathering:
            self._gathering_since = self._now()
        self._gathering.append(done)
        if self._asking is None and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._begin)

    def _begin(self) -> None:
        self._scheduled = False
        if self._asking is not None or not self._gathering:
            return
        readers, self._gathering = self._gathering, []
        self._asking = _Round(readers, self._gathering_since + self._timeout)
        self._try(self._asking)

    def _try(self, asking: _Round) -> None:
        self._token += 1
        asking.tokens.add(self._token)
        asking.retry_at = self._now() + _RETRY_SECONDS
        self._ask(self._token)

    def ready(self, token: int, index: int) -> None:
        """The leader confirmed `token` at commit index `index`."""
        asking = self._asking
        if asking is None or token not in asking.tokens:
            return
        self._asking = None
        asking.index = index
        if index <= self._applied():
            self._answer(asking, None)
        else:
            self._applying.append(asking)
        if self._gathering and not self._scheduled:
            self._begin()

    def applied(self, index: int) -> None:
        """Everything up to `index` is applied: answer who waited for it."""
        if self._applying:
            due = [r for r in self._applying if r.index is not None and r.index <= index]
            if due:
                self._applying = [r for r in self._applying if r not in due]
                for waiting in due:
                    self._answer(waiting, None)

    def leader_changed(self) -> None:
        """What an earlier leader may answer no longer counts: ask again, with a new token."""
        if self._asking is not None:
            self._asking.tokens.clear()
            self._try(self._asking)

    def sweep(self, now: float, error: Callable[[], Exception]) -> None:
        """Retry a silent round; fail what is past its deadline with a fresh `error()`."""
        if self._asking is not None:
            if self._asking.deadline <= now:
                late, self._asking = self._asking, None
                self.failed_total += 1
                self._answer(late, error())
                self._begin()
            elif self._asking.retry_at <= now:
                self.slow_total += 1
                self._try(self._asking)
        late_rounds = [r for r in self._applying if r.deadline <= now]
        if late_rounds:
            self._applying = [r for r in self._applying if r.deadline > now]
            for late in late_rounds:
                self.failed_total += 1
                self._answer(late, error())

    def fail_all(self, error: Exception) -> None:
        """The member stops: nobody waits any longer."""
        readers, self._gathering = self._gathering, []
        if self._asking is not None:
            readers = self._asking.readers + readers
            self._asking = None
        for waiting in self._applying:
            readers += waiting.readers
        self._applying = []
        for done in readers:
            done(error)

    @staticmethod
    def _answer(asking: _Round, result: Exception | None) -> None:
        for done in asking.readers:
            done(result)
