"""Auto compaction against a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mvcc.errors import Compacted
from node.apply.errors import NoLeader
from node.auto_compactor import (
    REVISION_CHECK_MS,
    AutoCompactor,
    ByRevision,
    Periodic,
    Policy,
    new_policy,
)

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class Clock:
    """Milliseconds that only `run` moves; the revision is one more, so a target tells its age."""

    def __init__(self, policy: Periodic, *, now_ms: int = 0) -> None:
        self.now_ms: float = now_ms
        self.policy = policy
        self.proposed: list[tuple[float, float]] = []
        """(when, age of the target)."""
        self.answer: Callable[[int], bool] = lambda target: True

    @classmethod
    def leading(cls, retention_ms: int) -> Clock:
        clock = cls(Periodic(retention_ms, 0, 1))
        clock.policy.paused = False
        return clock

    def tick(self) -> None:
        target = self.policy.tick(self.now_ms, int(self.now_ms) + 1)
        if target is not None:
            self.proposed.append((self.now_ms, self.now_ms - target + 1))
            if self.answer(target):
                self.policy.succeeded(target, self.now_ms)

    def run(self, until_ms: float) -> None:
        while self.now_ms + self.policy.wait_ms <= until_ms:
            self.now_ms += self.policy.wait_ms
            self.tick()


# -- periodic


@pytest.mark.parametrize(
    ("retention", "sample", "first", "interval", "later_age"),
    [
        (5 * SECOND, SECOND // 2, 5 * SECOND, 5 * SECOND, 5_500),
        (5 * MINUTE, 30 * SECOND, 5 * MINUTE, 5 * MINUTE, 330 * SECOND),
        (HOUR, 6 * MINUTE, HOUR, HOUR, 66 * MINUTE),
        (2 * HOUR, 6 * MINUTE, 2 * HOUR, HOUR, 126 * MINUTE),
        (24 * HOUR, 6 * MINUTE, 24 * HOUR, HOUR, 24 * HOUR + 6 * MINUTE),
    ],
)
def test_the_table(retention: int, sample: int, first: int, interval: int, later_age: int) -> None:
    clock = Clock.leading(retention)
    assert clock.policy.wait_ms == sample
    clock.run(first + 3 * interval)
    assert clock.proposed == [
        (first, retention),
        (first + interval, later_age),
        (first + 2 * interval, later_age),
        (first + 3 * interval, later_age),
    ]


@pytest.mark.parametrize("retention", [7, 700, 3_333, HOUR + 1, 3 * HOUR + 7])
def test_odd_retentions_keep_at_least_that_much(retention: int) -> None:
    clock = Clock.leading(retention)
    clock.run(3 * retention + 2 * clock.policy.wait_ms)
    assert clock.proposed
    for _, age in clock.proposed:
        assert retention <= age + 1 <= retention + 2 * clock.policy.wait_ms + 1


def test_a_paused_member_samples_but_never_proposes() -> None:
    clock = Clock(Periodic(HOUR, 0, 1))
    clock.run(10 * HOUR)
    assert clock.proposed == []
    clock.policy.paused = False
    clock.run(10 * HOUR + 6 * MINUTE)
    assert clock.proposed == [(10 * HOUR + 6 * MINUTE, 66 * MINUTE)], "the first tick as a leader"


def test_a_new_leader_does_not_repeat_what_the_old_one_did() -> None:
    clock = Clock(Periodic(HOUR, 0, 1))
    clock.run(10 * HOUR)
    clock.policy.compaction_applied(clock.now_ms)
    clock.policy.paused = False
    clock.run(12 * HOUR)
    assert [when for when, _ in clock.proposed] == [11 * HOUR, 12 * HOUR]


def test_leadership_lost_and_won_back_keeps_the_pace() -> None:
    clock = Clock.leading(HOUR)
    clock.run(HOUR)
    clock.policy.paused = True
    clock.run(HOUR + 30 * MINUTE)
    clock.policy.paused = False
    clock.run(2 * HOUR)
    assert [when for when, _ in clock.proposed] == [HOUR, 2 * HOUR]


def test_a_compaction_by_hand_does_not_cut_history_short() -> None:
    clock = Clock.leading(24 * HOUR)
    clock.run(HOUR)
    clock.policy.compaction_applied(clock.now_ms)
    clock.run(24 * HOUR)
    assert clock.proposed == [(24 * HOUR, 24 * HOUR)]


def test_a_failure_is_retried_after_one_sample_at_a_newer_revision() -> None:
    clock = Clock.leading(HOUR)
    clock.answer = lambda target: len(clock.proposed) > 2
    clock.run(2 * HOUR + 12 * MINUTE)
    assert clock.proposed == [
        (HOUR, HOUR),
        (HOUR + 6 * MINUTE, 66 * MINUTE),
        (HOUR + 12 * MINUTE, 66 * MINUTE),
        (2 * HOUR + 12 * MINUTE, 66 * MINUTE),
    ]


def test_nothing_is_proposed_while_nothing_was_written() -> None:
    policy = Periodic(HOUR, 0, 7)
    policy.paused = False
    targets = []
    for tick in range(1, 101):
        target = policy.tick(tick * policy.wait_ms, 7)
        if target is not None:
            targets.append(target)
            policy.succeeded(target, tick * policy.wait_ms)
    assert targets == [7]


def test_a_burst_of_ticks_after_a_suspend_compacts_once() -> None:
    clock = Clock.leading(HOUR)
    clock.run(3 * HOUR)
    clock.proposed.clear()
    clock.now_ms += 20 * HOUR
    for _ in range(50):
        clock.tick()
    assert len(clock.proposed) == 1
    assert all(age >= HOUR for _, age in clock.proposed)
    clock.run(23 * HOUR + 54 * MINUTE)
    assert len(clock.proposed) == 1


def test_a_burst_never_makes_history_younger_than_the_retention() -> None:
    """A clock that stood still fills the window with samples of one moment."""
    clock = Clock.leading(HOUR)
    clock.run(30 * MINUTE)
    for _ in range(100):
        clock.tick()
    clock.run(3 * HOUR)
    assert clock.proposed
    assert all(age >= HOUR for _, age in clock.proposed)


# -- by revision


def test_by_revision() -> None:
    policy = ByRevision(1000)
    policy.paused = False
    assert policy.wait_ms == 5 * MINUTE == REVISION_CHECK_MS
    assert policy.tick(1, 1000) is None
    assert policy.tick(2, 1001) == 1
    assert policy.tick(3, 1001) == 1, "it was not done: again"
    policy.succeeded(1, 3)
    assert policy.tick(4, 1001) is None
    policy.compaction_applied(4)
    assert policy.tick(5, 5000) == 4000
    policy.paused = True
    assert policy.tick(6, 6000) is None


def test_new_policy() -> None:
    assert new_policy("periodic", 0, 0, 1) is None
    assert new_policy("revision", 0, 0, 1) is None
    assert isinstance(new_policy("periodic", HOUR, 0, 1), Periodic)
    assert isinstance(new_policy("revision", 5, 0, 1), ByRevision)


# -- the task


class Log:
    """Takes proposals; its sleep moves its clock and ends the task after so many."""

    def __init__(self, policy: Policy, sleeps: int) -> None:
        self.seconds = 0.0
        self.sleeps = sleeps
        self.proposed: list[int] = []
        self.error: Exception | None = None
        self.compactor = AutoCompactor(
            policy,
            revision=lambda: int(self.seconds) + 1,
            propose=self.propose,
            now=lambda: self.seconds,
            sleep=self.sleep,
        )

    async def propose(self, target: int) -> None:
        self.proposed.append(target)
        if self.error is not None:
            raise self.error

    async def sleep(self, seconds: float) -> None:
        if self.sleeps == 0:
            raise asyncio.CancelledError
        self.sleeps -= 1
        self.seconds += seconds

    async def run(self) -> None:
        with pytest.raises(asyncio.CancelledError):
            await self.compactor.run()


async def test_the_task_proposes_as_leader_only() -> None:
    log = Log(Periodic(10 * SECOND, 0, 1), sleeps=30)
    await log.run()
    assert log.proposed == []
    log.compactor.role_changed(True)
    log.sleeps = 11
    await log.run()
    assert log.proposed == [21, 31], "at 31 s and 41 s, each 11 s old"


async def test_already_compacted_is_success_and_other_refusals_are_not() -> None:
    log = Log(ByRevision(100), sleeps=3)
    log.compactor.role_changed(True)
    log.error = NoLeader()
    await log.run()
    assert log.proposed == [201, 501, 801]
    log.error = Compacted(801, 900)
    log.sleeps = 1
    await log.run()
    assert log.proposed[3:] == [1101]


async def test_an_applied_compaction_is_noted_with_the_present_time() -> None:
    log = Log(Periodic(10 * SECOND, 0, 1), sleeps=15)
    await log.run()
    log.compactor.compaction_applied()
    log.compactor.role_changed(True)
    log.sleeps = 9
    await log.run()
    assert log.proposed == []


async def test_an_error_of_ours_ends_the_task() -> None:
    log = Log(ByRevision(100), sleeps=3)
    log.compactor.role_changed(True)
    log.error = KeyError("ours")
    with pytest.raises(KeyError):
        await log.compactor.run()
