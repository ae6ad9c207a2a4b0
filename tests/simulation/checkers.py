"""What must hold, each on its own. Those of one entry or one moment stand in `history.py` and
`watchdog.py`; these read the whole history when the run is over.
"""

from __future__ import annotations

import bisect
from typing import Any, NamedTuple

import msgspec

from mvcc.errors import Compacted, FutureRevision
from mvcc.kv import Event, EventType
from mvcc.revision import decode_row_key, row_key, tombstone_key
from node.apply.requests import (
    CompactionRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
    decode,
)
from node.apply.responses import LeaseRevokeResponse
from raft.core.types import EntryType
from tests.simulation.history import Applied, History, Operation, Violation
from tests.simulation.model import Model, Refused
from tests.simulation.watching import WatchLog

_WRITES = ("put", "delete", "txn", "compact", "grant", "revoke")
_FRESH = (*_WRITES, "range", "read txn")
"""Operations that see everything that was complete before they began."""


class Story:
    """The log as the model tells it: responses by index, and what became of each request."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.model = Model()
        self.responses: dict[int, Any] = {}
        self.indices: dict[bytes, list[int]] = {}
        self.compactions: list[tuple[int, int]] = []
        """(index, revision) of those that were accepted."""
        self.values: dict[bytes, int] = {}
        entries = history.entries
        for index in sorted(entries):
            entry = entries[index]
            if entry.type == EntryType.NORMAL and entry.data:
                self._take(entry)
        self._revisions = [event.kv.mod_revision for event in self.model.events]

    def _take(self, entry: Applied) -> None:
        model = self.model
        response = self.responses[entry.index] = model.apply(entry.term, entry.data)
        _, request = decode(entry.data)
        self.indices.setdefault(_body(request), []).append(entry.index)
        if isinstance(request, CompactionRequest) and not isinstance(response, str):
            self.compactions.append((entry.index, request.revision))
        if (entry.revision, entry.compacted) != (model.revision, model.compacted):
            raise Violation(
                f"model: entry {entry.index}, {request}, leaves revision {entry.revision},"
                f" compacted {entry.compacted}; it should be {model.revision}, {model.compacted}"
            )
        if response is not None and not _agree(entry.result, response):
            raise Violation(
                f"model: entry {entry.index}, {request}, is answered {entry.result!r};"
                f" it should be {response!r}"
            )

    def events(self, start: int, end: int) -> list[Event]:
        """With start <= revision < end."""
        low = bisect.bisect_left(self._revisions, start)
        high = bisect.bisect_left(self._revisions, end)
        return self.model.events[low:high]


def _body(request: Any) -> bytes:
    return type(request).__name__.encode() + msgspec.msgpack.encode(request)


def _agree(result: Any, response: Any) -> bool:
    if isinstance(response, str):
        return type(result).__name__ == response
    return bool(result == response)


# -- linearizability by revisions


def check_operations(story: Story) -> None:
    """Every answer is the one that the one history gives, and it is not older than what had been
    heard before it was asked for.
    """
    for operation in story.history.operations:
        if operation.name in _WRITES:
            _check_write(story, operation)
        elif operation.name == "lock":
            _check_lock(story, operation)
        elif operation.ended is not None:
            _check_read(story, operation)
    _check_real_time(story)


def _check_write(story: Story, operation: Operation) -> None:
    """It is in the log at most once; acknowledged, exactly once, and between question and answer;
    refused, without effect.
    """
    indices = story.indices.get(_body(_as_proposed(operation)), [])
    repeatable = operation.name in ("compact", "revoke")
    if len(indices) > 1 and not repeatable:
        raise Violation(f"{_told(operation)} was applied {len(indices)} times, at {indices}")
    if operation.ended is None:
        return
    result = operation.result
    answers = [story.responses[index] for index in indices]
    if isinstance(result, Exception):
        wrong = [each for each in answers if not isinstance(each, str)]
        if wrong and not repeatable:
            raise Violation(f"{_told(operation)} was refused with {result!r}, and yet: {wrong[0]}")
        return
    if not any(_agree(result, answer) for answer in answers):
        raise Violation(f"{_told(operation)} was answered {result!r}; the log says {answers}")
    entry = story.history.entries[indices[0]]
    if not repeatable and not operation.begun < entry.number < operation.ended:
        raise Violation(f"{_told(operation)} took effect outside of its time, in entry {entry}")


def _as_proposed(operation: Operation) -> Any:
    """What the log has of it: the lease service fills in the least TTL, which is never above."""
    return operation.request


def _check_read(story: Story, operation: Operation) -> None:
    request, result = operation.request, operation.result
    if isinstance(result, FutureRevision | Compacted):
        _check_refused_read(story, operation)
        return
    if isinstance(result, Exception) or operation.name in ("unlock", "renew"):
        return
    model = story.model
    try:
        if isinstance(request, RangeRequest):
            expected: Any = model.range(request, result.revision)
        else:
            expected = model.read_txn(request, result.revision)
    except Refused as refused:
        raise Violation(f"{_told(operation)} was answered {result!r}, not {refused}") from refused
    if result != expected:
        raise Violation(f"{_told(operation)} was answered {result!r}; it should be {expected!r}")


def _check_refused_read(story: Story, operation: Operation) -> None:
    """Nobody may be told of a compaction that nobody has asked for."""
    request, result = operation.request, operation.result
    if isinstance(result, Compacted) and isinstance(request, RangeRequest):
        if not any(revision > request.revision for _, revision in story.compactions):
            raise Violation(f"{_told(operation)} was answered {result!r}; nothing was compacted")
    elif isinstance(request, RangeRequest) and request.revision < 2:
        raise Violation(f"{_told(operation)} was answered {result!r}")


def _check_lock(story: Story, operation: Operation) -> None:
    """Who got the lock was the first of its queue at some time until then."""
    claim = operation.result
    if operation.ended is None or isinstance(claim, Exception):
        return
    times = range(claim.rev, claim.revision + 1)
    if not any(story.model.holds_lock(claim.key, b"lock/", now) for now in times):
        raise Violation(f"{_told(operation)} got the lock out of turn: {claim}")


def _check_real_time(story: Story) -> None:
    """What was complete before another began is seen by it: revisions, places in the log,
    compactions.
    """
    moments: list[tuple[int, bool, Operation]] = []
    for operation in story.history.operations:
        if operation.ended is not None and not isinstance(operation.result, Exception):
            moments.append((operation.begun, False, operation))
            moments.append((operation.ended, True, operation))
    moments.sort(key=lambda moment: moment[:2])
    revision, compacted, latest = 1, -1, None
    floors: dict[int, tuple[int, int, Operation | None]] = {}
    for _, complete, operation in moments:
        if not complete:
            floors[operation.number] = (revision, compacted, latest)
            continue
        floor, floor_compacted, before = floors.pop(operation.number)
        seen = getattr(operation.result, "revision", None)
        if seen is None:
            continue
        if operation.name in _FRESH:
            if seen < floor:
                raise Violation(
                    f"stale: {_told(operation)} saw revision {seen}, but {_told(before)} was"
                    f" answered before with {floor}"
                )
            at = getattr(operation.request, "revision", 0)
            if operation.name == "range" and 0 < at < floor_compacted:
                raise Violation(
                    f"{_told(operation)} reads below {floor_compacted}, compacted before"
                )
        if seen > revision:
            revision, latest = seen, operation
        if operation.name == "compact":
            compacted = max(compacted, operation.request.revision)


def _told(operation: Operation | None) -> str:
    if operation is None:
        return "nobody"
    return (
        f"operation {operation.number} ({operation.name} {operation.request} of {operation.client}"
        f" at {operation.member}, {operation.begun_at:.4f} to {operation.ended_at:.4f})"
    )


# -- watches


def check_watches(story: Story, logs: list[WatchLog], final: int) -> None:
    """Every matching event once, in order, whole transactions, over all reconnections."""
    for log in logs:
        due = 0
        for what, revision, events in log.heard:
            due = _check_heard(story, log, due, (what, revision, events))
        if log.last and due and (missing := _matching(story, log, due, final + 1)):
            raise Violation(f"watch {_watch(log)} was never told of {missing[:3]}, from {due} on")


def _check_heard(
    story: Story, log: WatchLog, due: int, heard: tuple[str, int, tuple[Event, ...]]
) -> int:
    """The revision that is due next."""
    what, revision, events = heard
    if what == "created":
        return due or revision + 1
    if what == "compacted":
        if due >= revision or revision not in [at for _, at in story.compactions]:
            raise Violation(f"watch {_watch(log)}, due {due}, ended as compacted at {revision}")
        return revision
    if what == "progress":
        missing = _matching(story, log, due, revision + 1)
        if missing:
            raise Violation(f"watch {_watch(log)} is told progress {revision} without {missing}")
        return max(due, revision + 1)
    if what != "events":
        return revision
    end = events[-1].kv.mod_revision + 1
    expected = _matching(story, log, due, end)
    given = [event._replace(prev_kv=None) for event in events]
    if given != [event._replace(prev_kv=None) for event in expected]:
        raise Violation(f"watch {_watch(log)}, due {due}, is given {given}; not {expected}")
    for event, wanted in zip(events, expected, strict=True):
        _check_prev(story, log, event, wanted)
    if end > revision + 1:
        raise Violation(f"watch {_watch(log)}: events up to {end - 1} under header {revision}")
    return end


def _check_prev(story: Story, log: WatchLog, event: Event, wanted: Event) -> None:
    before = wanted.prev_kv if log.prev_kv else None
    gone = event.prev_kv is None and event.kv.mod_revision <= story.model.compacted
    if event.prev_kv != before and not gone:
        raise Violation(f"watch {_watch(log)}: {event} should have replaced {before}")


def _matching(story: Story, log: WatchLog, start: int, end: int) -> list[Event]:
    found = []
    for event in story.events(start, end):
        key = event.kv.key
        inside = key == log.key if not log.range_end else log.key <= key
        inside = inside and (log.range_end in (b"", b"\0") or key < log.range_end)
        filtered = log.no_put if event.type == EventType.PUT else log.no_delete
        if inside and not filtered:
            found.append(event)
    return found


def _watch(log: WatchLog) -> str:
    return f"of {log.client} on [{log.key!r}, {log.range_end!r})"


# -- what compactions leave


class Rest(NamedTuple):
    """A member when all compactions are finished; `rows` are the keys of its table of revisions."""

    revision: int
    compacted: int
    rows: list[bytes]


def check_rows(story: Story, rest: Rest) -> None:
    """The rows are those of the history after the compacted revision, of what lived at it, and of
    what was deleted in just this revision.
    """
    compacted = rest.compacted
    expected = set()
    for every in story.model.versions.values():
        versions = [version for version in every if version.main <= rest.revision]
        old = [version for version in versions if version.main <= compacted]
        kept = [each for each in old[-1:] if each.kv is not None or each.main == compacted]
        for version in kept + versions[len(old) :]:
            key = row_key if version.kv is not None else tombstone_key
            expected.add(key(version.main, version.sub))
    found = set(rest.rows)
    if found != expected:
        lost = [decode_row_key(key) for key in sorted(expected - found)]
        left = [decode_row_key(key) for key in sorted(found - expected)]
        raise Violation(f"rows: compaction at {compacted} took {lost[:4]} and left {left[:4]}")


# -- leases


def check_leases(story: Story, *, margin: float = 0.002) -> None:
    """No lease ends by time before its time has passed since it was last renewed."""
    ends = _expiries(story)
    ttls = {
        request.ID: request.TTL
        for entry in story.history.entries.values()
        if entry.type == EntryType.NORMAL and entry.data
        for _, request in (decode(entry.data),)
        if isinstance(request, LeaseGrantRequest)
    }
    for operation in story.history.operations:
        if operation.name == "grant":
            number, granted = operation.request.ID, not isinstance(operation.result, Exception)
        elif operation.name == "renew":
            number, granted = operation.request, operation.result not in (0, None)
        else:
            continue
        if operation.ended is None or not granted or number not in ends:
            continue
        lived = ends[number] - operation.begun_at
        if lived + margin < ttls[number]:
            raise Violation(
                f"lease {number} of {ttls[number]} s ended {lived:.3f} s after {_told(operation)}"
            )


def _expiries(story: Story) -> dict[int, float]:
    """When each lease ended that was not revoked by its client."""
    ends: dict[int, float] = {}
    for entry in story.history.entries.values():
        if entry.type == EntryType.NORMAL and isinstance(entry.result, LeaseRevokeResponse):
            _, request = decode(entry.data)
            if isinstance(request, LeaseExpireRequest):
                ends[request.ID] = entry.at
    return ends


def forgotten_leases(story_model: Model) -> list[int]:
    """Leases that nobody renews and that still exist."""
    return sorted(story_model.leases)


__all__ = [
    "LeaseRevokeRequest",
    "PutRequest",
    "Story",
    "TxnRequest",
    "check_leases",
    "check_operations",
    "check_watches",
]
