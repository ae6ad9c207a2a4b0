"""Histories made by hand, each with one broken promise that must be found, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.history import Ending, Event, Heard, History, LeaseLog, Operation, WatchLog
from tests.chaos.linearizability import Verdict, check
from tests.chaos.model import Action, Answer, Compare, Request, Row, cas, delete, get, put, step
from tests.chaos.verdict import as_call, judge

A, B, L = b"e/1/a", b"e/1/b", b"lease/x"
SECOND = 1_000_000_000
STEPS = 25
"""Enough for the healthy history's ten operations, not for the tries that eight more make."""
DONE = Answer(True, (None,))


def operation(number: int, request: Request, answer: Answer, revision: int) -> Operation:
    """The operation `number` of one client, each after the one before, a second long."""
    called = number * SECOND
    return Operation(number, "w", "n1", request, called, False, called + SECOND - 1, "ok", answer,
                     revision)  # fmt: skip


def unknown(number: int, request: Request) -> Operation:
    return Operation(number, "w", "n1", request, number * SECOND)


ROWS = {
    2: Row(b"1", 1, 2, 2),
    3: Row(b"2", 2, 2, 3),
    4: Row(b"3", 3, 2, 4),
    6: Row(b"4", 1, 6, 6),
    7: Row(b"5", 1, 7, 7),
}
BOTH = Request((), (Action("get", A), Action("get", B)), ())
MOVED = Request((Compare("mod", A, 3),), (Action("put", A, b"x"),), (Action("get", A),))


def healthy() -> History:
    """A put, one whose answer was lost, a swap that succeeds and one that fails, a delete, and the
    key of a lease.
    """
    operations = [
        operation(0, put(A, b"1"), DONE, 2),
        operation(1, get(A), Answer(True, (ROWS[2],)), 2),
        unknown(2, put(A, b"2")),
        operation(3, cas(A, b"2", b"3"), DONE, 4),
        operation(4, MOVED, Answer(False, (ROWS[4],)), 4),
        operation(5, delete(A), Answer(True, (1,)), 5),
        operation(6, BOTH, Answer(True, (None, None)), 5),
        operation(7, put(B, b"4"), DONE, 6),
        operation(8, put(L, b"5"), DONE, 7),
        unknown(9, delete(B)),
        operation(14, get(B), Answer(True, (ROWS[6],)), 8),
    ]
    events = [
        Event(A, ROWS[2], 2),
        Event(A, ROWS[3], 3),
        Event(A, ROWS[4], 4),
        Event(A, None, 5),
        Event(B, ROWS[6], 6),
        Event(L, ROWS[7], 7),
        Event(L, None, 8),
    ]
    times = [1, 3, 4, 6, 8, 9, 13]
    logs = [WatchLog(name, 2) for name in ("watch-n1", "watch-n2")]
    for log in logs:
        log.heard.append(Heard(0, "n1", "created", 1))
        for at, event in zip(times, events, strict=True):
            log.heard.append(Heard(at * SECOND, "n1", "events", event.revision, (event,)))
        log.heard.append(Heard(14 * SECOND, "n1", "progress", 8))
    lease = LeaseLog(7, L, 3, [8 * SECOND, 9 * SECOND])
    endings = [Ending(name, 8, ((B, ROWS[6]),), (1, 0, 8)) for name in ("n1", "n2", "n3")]
    return History(operations, logs, [lease], endings)


def test_a_healthy_history_is_legal() -> None:
    findings = judge(healthy())
    assert findings.anomalies == []
    assert findings.verdict == "legal"
    assert findings.checked["unknown outcomes that took effect"] == 1
    assert findings.checked["searched operations"] == 10


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = healthy()
    history.save(tmp_path / "history.jsonl")
    again = History.load(tmp_path / "history.jsonl")
    for part in ("operations", "watches", "leases", "endings"):
        assert getattr(again, part) == getattr(history, part)


def answer(number: int, **fields: object) -> Callable[[History], None]:
    def change(history: History) -> None:
        for name, value in fields.items():
            setattr(history.operations[number], name, value)

    return change


def hear(place: int, heard: Heard | None, watch: int = 0) -> Callable[[History], None]:
    """Replace a message of a watch, or leave it out."""

    def change(history: History) -> None:
        history.watches[watch].heard[place : place + 1] = [heard] if heard else []

    return change


def everywhere(place: int, heard: Heard) -> Callable[[History], None]:
    def change(history: History) -> None:
        for watch in range(len(history.watches)):
            hear(place, heard, watch)(history)

    return change


def ending(**fields: object) -> Callable[[History], None]:
    def change(history: History) -> None:
        for name, value in fields.items():
            setattr(history.endings[1], name, value)

    return change


def add(*operations: Operation) -> Callable[[History], None]:
    return lambda history: history.operations.extend(operations)


OTHER = Row(b"?", 1, 2, 2)
BROKEN: dict[str, tuple[str, Callable[[History], None]]] = {
    "an acknowledged write that nobody heard of": (
        "lost",
        add(operation(15, put(A, b"9"), DONE, 9)),
    ),
    "an acknowledged write whose revision is another's": (
        "lost",
        add(operation(15, put(A, b"9"), DONE, 6)),
    ),
    "a delete that two were told": (
        "twice",
        add(operation(5, delete(A), Answer(True, (1,)), 5)),
    ),
    "a get of what was not there": ("wrong answer", answer(1, answer=Answer(True, (OTHER,)))),
    "a get of the past": (
        "stale",
        add(operation(15, get(A), Answer(True, (ROWS[4],)), 4)),
    ),
    "a swap that should have failed": (
        "wrong answer",
        add(operation(15, cas(B, b"no", b"9"), DONE, 8)),
    ),
    "a swap that should not have failed": (
        "lost",
        answer(3, answer=Answer(False, (ROWS[3],)), revision=3),
    ),
    "a write that was refused and yet happened": ("no cause", answer(2, outcome="refused")),
    "a write that nobody asked for": (
        "no cause",
        lambda history: history.operations.pop(2) and None,
    ),
    "a write that was seen before it was asked for": ("no cause", answer(2, called=5 * SECOND)),
    "an acknowledged write seen before it was asked for": (
        "real time",
        answer(7, called=12 * SECOND, returned=13 * SECOND),
    ),
    "a revision that a watcher was not told": ("watch", hear(3, None)),
    "a revision told twice": (
        "watch",
        hear(3, Heard(4, "n1", "events", 3, (Event(A, ROWS[3], 3),))),
    ),
    "two watchers told different things": (
        "watch",
        hear(2, Heard(3 * SECOND, "n1", "events", 3, (Event(A, None, 3),)), watch=1),
    ),
    "progress before all was told": ("watch", hear(5, Heard(9, "n1", "progress", 8))),
    "a watch that was compacted away": ("watch", hear(8, Heard(15, "n1", "compacted", 5))),
    "a version that jumps": (
        "rows",
        everywhere(2, Heard(3, "n1", "events", 3, (Event(A, ROWS[3]._replace(version=3), 3),))),
    ),
    "a lease that ends too soon": (
        "lease",
        everywhere(7, Heard(11 * SECOND, "n1", "events", 8, (Event(L, None, 8),))),
    ),
    "a key that one member does not hold": ("end", ending(rows=())),
    "a value that one member has otherwise": ("end", ending(rows=((B, OTHER),))),
    "a hash that differs": ("hash", ending(hash=(2, 0, 8))),
    "an alarm": ("alarm", ending(alarms=("CORRUPT",))),
    "only times and answers tell": (
        "linearizability",
        answer(1, answer=Answer(True, (None,)), revision=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_promise_is_named(name: str) -> None:
    check, spoil = BROKEN[name]
    history = healthy()
    spoil(history)
    findings = judge(history)
    assert check in {anomaly.check for anomaly in findings.anomalies}, findings.anomalies
    assert findings.verdict == "illegal"


def test_a_search_that_was_given_up_is_tried_without_what_never_was() -> None:
    """Deletes without an answer multiply the orders; the watchers know that none of them was."""
    history = healthy()
    for called in range(8):
        history.operations.append(unknown(20 + called, delete(A)))
        history.operations[-1].called = called
    calls = [as_call(each) for each in history.operations if each.request.keys <= {A, B}]
    assert check(calls, step, (), STEPS).verdict is Verdict.UNKNOWN
    assert judge(history, STEPS).verdict == "legal"
    assert judge(history, 5).verdict == "unknown"


def test_a_lease_that_was_revoked_may_end_at_once() -> None:
    history = healthy()
    history.leases[0].revoked = 9 * SECOND
    everywhere(7, Heard(10 * SECOND, "n1", "events", 8, (Event(L, None, 8),)))(history)
    assert judge(history).anomalies == []


def test_a_lease_that_never_ends_is_found() -> None:
    history = healthy()
    for log in history.watches:
        del log.heard[7:]
    history.operations.pop()
    for each in history.endings:
        each.rows = ((B, ROWS[6]), (L, ROWS[7]))
    assert [anomaly.check for anomaly in judge(history).anomalies] == ["lease"]
