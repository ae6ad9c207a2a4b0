"""When the log is marked and truncated, and which configuration a marker carries."""

from __future__ import annotations

import pytest

from raft.checkpoints import PAUSE_SECONDS, SENDING_MAX, Checkpoints
from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Entry, EntryType, Snapshot

FIRST = ConfState(voters=(1, 2, 3))
SECOND = ConfState(voters=(1, 2, 3), learners=(4,))


class Log:
    """Checkpoints over a log of `count` entries of 84 bytes (100 with what they cost)."""

    def __init__(self, count: int = 100, **options: int) -> None:
        self.now = 0.0
        self.storage = MemoryStorage()
        self.storage.append([Entry(1, i, EntryType.NORMAL, bytes(84)) for i in range(1, count + 1)])
        settings = {"snapshot_count": 10, "catch_up_entries": 5, "log_bytes_max": 1 << 20}
        self.checkpoints = Checkpoints(
            self.storage,
            marker=0,
            applied=0,
            conf_state=FIRST,
            now=lambda: self.now,
            **{**settings, **options},
        )

    def checkpoint(self, durable_index: int) -> tuple[int, int]:
        """(index of the marker or 0, first index kept)."""
        marker = self.checkpoints.mark(durable_index)
        self.checkpoints.truncate()
        return (0 if marker is None else marker.index), self.storage.first_index()


def test_marks_come_after_so_many_entries() -> None:
    log = Log()
    assert [log.checkpoint(index) for index in (4, 9, 10, 19, 25, 25)] == [
        (0, 1),
        (0, 1),
        (10, 6),
        (0, 6),
        (25, 21),
        (0, 21),
    ]


def test_marker_names_term_and_configuration() -> None:
    log = Log()
    log.checkpoints.reconfigured(12, SECOND)
    assert log.checkpoints.conf_state == SECOND
    assert log.checkpoints.conf_state_at(11) == FIRST
    assert log.checkpoints.mark(11) == Snapshot(11, 1, FIRST)
    assert log.checkpoints.mark(40) == Snapshot(40, 1, SECOND)
    assert log.checkpoints.conf_state_at(40) == SECOND


def test_nothing_is_truncated_while_a_snapshot_travels_and_a_while_after() -> None:
    log = Log()
    assert log.checkpoints.begin_sending(2)
    assert not log.checkpoints.begin_sending(2)
    assert log.checkpoint(50) == (50, 1)
    log.checkpoints.ended_sending(2)
    log.now = PAUSE_SECONDS - 1
    assert log.checkpoint(50) == (0, 1)
    log.now = PAUSE_SECONDS
    assert log.checkpoint(50) == (0, 46)


def test_snapshots_on_their_way_are_bounded() -> None:
    log = Log()
    assert [log.checkpoints.begin_sending(member) for member in range(SENDING_MAX + 1)] == [
        *[True] * SENDING_MAX,
        False,
    ]
    log.checkpoints.ended_sending(0)
    assert log.checkpoints.begin_sending(99)


@pytest.mark.parametrize(("durable", "expected"), [(100, (100, 52)), (3, (3, 1))])
def test_long_log_is_marked_early_and_keeps_half(durable: int, expected: tuple[int, int]) -> None:
    log = Log(snapshot_count=1000, catch_up_entries=1000, log_bytes_max=5000)
    assert log.checkpoint(durable) == expected


def test_long_log_stays_while_a_snapshot_travels() -> None:
    log = Log(snapshot_count=1000, catch_up_entries=1000, log_bytes_max=5000)
    assert log.checkpoints.begin_sending(2)
    assert log.checkpoint(100) == (0, 1)


def test_installed_snapshot_is_a_new_beginning() -> None:
    log = Log()
    snapshot = Snapshot(200, 3, SECOND)
    log.storage.apply_snapshot(snapshot)
    log.checkpoints.installed(snapshot)
    assert log.checkpoints.conf_state == SECOND
    assert log.checkpoint(205) == (0, 201)


def test_nothing_is_marked_behind_a_snapshot_that_waits_to_be_installed() -> None:
    """The log begins with it from the moment it is accepted; what commits meanwhile is older."""
    log = Log()
    log.storage.apply_snapshot(Snapshot(200, 3, SECOND))
    assert log.checkpoint(90) == (0, 201)
    assert log.checkpoints.conf_state == FIRST
