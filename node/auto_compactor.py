"""When history is given up by itself, by age or by number of revisions. Only ever proposes, through
the log.

Every member keeps the books, only the leader proposes. The policies are pure: time and revision are
handed in, in milliseconds of a clock that does not jump. `AutoCompactor` gives them a clock and the
log.

    Periodic, P = 5 s (a sample each 0.5 s, revisions a b c ...)

    seconds    0    0.5  1.0  ...  5.0            5.5  ...  10.0
    samples    a    b    c         k              l         u
                                   proposes a (5 s old)     proposes j (of 4.5 s, 5.5 s old)
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from mvcc.errors import Compacted, FutureRevision
from node.apply.errors import ApplyError

log = logging.getLogger("esker.compaction")

INTERVAL_MAX_MS = 3_600_000
"""However much history is kept, it is cut once an hour, or each cut would be a big one."""
SAMPLES_PER_INTERVAL = 10
REVISION_CHECK_MS = 300_000


class Policy(Protocol):
    """What `AutoCompactor` drives: tick, and succeeded if what the tick proposed was done."""

    paused: bool
    """True while another member leads; books are kept, nothing is proposed."""

    wait_ms: float
    """Between two ticks."""

    def tick(self, now_ms: float, revision: int) -> int | None:
        """The revision to compact now, if any. `revision` is the store's current one."""

    def succeeded(self, target: int, now_ms: float) -> None:
        """`target` is compacted, by this proposal or already by another."""

    def compaction_applied(self, now_ms: float) -> None:
        """Some member's compaction came through the log."""


class _Sample(NamedTuple):
    taken_ms: float
    revision: int


class Periodic:
    """Keeps `retention_ms` of history.

    The window holds the samples of one retention and one more, so its oldest is what may go. The
    first compaction comes when a whole retention has been seen, later ones an interval after the
    last one, whoever proposed that: a new leader has sampled all along and does not repeat what the
    old one just did. A failed proposal leaves no trace here; the next tick tries again, and the
    window has then moved on.
    """

    def __init__(self, retention_ms: int, now_ms: float, revision: int) -> None:
        assert retention_ms > 0, retention_ms
        self.paused = True
        self._retention_ms = retention_ms
        self._interval_ms = min(retention_ms, INTERVAL_MAX_MS)
        self.wait_ms = self._interval_ms / SAMPLES_PER_INTERVAL
        window = SAMPLES_PER_INTERVAL * retention_ms // self._interval_ms + 1
        self._samples = deque([_Sample(now_ms, revision)], maxlen=window)
        self._last_ms = now_ms
        self._last_target = 0

    def tick(self, now_ms: float, revision: int) -> int | None:
        target = None if self.paused else self._due(now_ms)
        self._samples.append(_Sample(now_ms, revision))
        return target

    def _due(self, now_ms: float) -> int | None:
        """The oldest sample's revision, once that sample is old enough: a clock that stood still,
        or a compaction by hand before the first of ours, must not cut history short."""
        oldest = self._samples[0]
        if now_ms - oldest.taken_ms < self._retention_ms:
            return None
        if now_ms - self._last_ms < self._interval_ms or oldest.revision == self._last_target:
            return None
        return oldest.revision

    def succeeded(self, target: int, now_ms: float) -> None:
        self._last_target = target
        self._last_ms = now_ms

    def compaction_applied(self, now_ms: float) -> None:
        self._last_ms = now_ms


class ByRevision:
    """Keeps the newest `retention` revisions; looks every five minutes."""

    def __init__(self, retention: int) -> None:
        assert retention > 0, retention
        self.paused = True
        self.wait_ms: float = REVISION_CHECK_MS
        self._retention = retention
        self._last_target = 0

    def tick(self, now_ms: float, revision: int) -> int | None:
        target = revision - self._retention
        return None if self.paused or target <= 0 or target == self._last_target else target

    def succeeded(self, target: int, now_ms: float) -> None:
        self._last_target = target

    def compaction_applied(self, now_ms: float) -> None:
        """Revisions are counted, not time: what others compacted changes nothing here."""


def new_policy(mode: str, retention: int, now_ms: float, revision: int) -> Policy | None:
    """The policy of `mode`: "periodic" with milliseconds, or "revision" with a count; 0 is off."""
    if retention == 0:
        return None
    if mode == "periodic":
        return Periodic(retention, now_ms, revision)
    assert mode == "revision", mode
    return ByRevision(retention)


class AutoCompactor:
    """Drives a policy: `run` is a task of every member.

    `revision()` is the store's current revision, `propose(target)` returns when it is compacted and
    raises what it was refused for, `now()` and `sleep()` are seconds of one monotonic clock.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        revision: Callable[[], int],
        propose: Callable[[int], Awaitable[object]],
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._policy = policy
        self._revision = revision
        self._propose = propose
        self._now = now
        self._sleep = sleep

    def role_changed(self, is_leader: bool) -> None:
        """Only the leader proposes."""
        self._policy.paused = not is_leader

    def compaction_applied(self) -> None:
        """A compaction entry was applied here, whoever proposed it."""
        self._policy.compaction_applied(self._now_ms())

    async def run(self) -> None:
        """Ends only by cancellation, or by an error that is ours."""
        while True:
            await self._sleep(self._policy.wait_ms / 1e3)
            target = self._policy.tick(self._now_ms(), self._revision())
            if target is not None:
                await self._compact(target)

    async def _compact(self, target: int) -> None:
        log.info("starting auto compaction", extra={"rev": target})
        try:
            await self._propose(target)
        except Compacted:
            log.info("auto compaction was not needed any more", extra={"rev": target})
        except (ApplyError, FutureRevision) as error:
            log.warning("auto compaction failed", extra={"rev": target, "why": repr(error)})
            return
        self._policy.succeeded(target, self._now_ms())

    def _now_ms(self) -> float:
        return self._now() * 1e3
