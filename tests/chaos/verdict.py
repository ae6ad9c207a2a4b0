"""Does the history keep the promises? Judged from what clients saw alone.

The watchers of all keys tell every revision, so the whole history can be laid out as one timeline
and replayed: each answered operation must have happened exactly as the model says at the revision
it was answered with, and between its call and its return as far as revisions tell. That costs
O(n log n) for histories of any length. What it believes (header revisions, watches) is then left
aside: pieces of the history are judged again by search (`linearizability`), by their times and
answers alone.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos import linearizability
from tests.chaos.history import Event, Heard, History, LeaseLog, Operation, WatchLog
from tests.chaos.linearizability import STEPS_MAX, Call, Judgement, Verdict
from tests.chaos.model import Changes, Row, groups, run, step, without_revisions

SEARCHED = b"e/"
"""Keys that live for an epoch of the load: their histories are short enough to be searched."""
LEASED = b"lease/"
FIRST_REVISION = 1
EXIT_CODES = {"legal": 0, "illegal": 1, "unknown": 3}
"""Of every program that judges: what is not known is no pass."""


class Anomaly(NamedTuple):
    """`check` names the promise that is broken."""

    check: str
    text: str


@dataclass
class Findings:
    """All that was judged. `unknown` are searches that were given up."""

    anomalies: list[Anomaly] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    unknown: int = 0

    @property
    def verdict(self) -> str:
        if self.anomalies:
            return "illegal"
        return "unknown" if self.unknown else "legal"

    def add(self, check: str, text: str) -> None:
        self.anomalies.append(Anomaly(check, text))


def judge(history: History, steps_max: int = STEPS_MAX) -> Findings:
    """Every check over the whole history; `steps_max` of each search."""
    findings = Findings()
    for log in history.watches:
        check_watch(log, findings)
    timeline = Timeline(history, findings)
    timeline.check_rows()
    timeline.check_operations()
    check_leases(history, findings)
    check_endings(history, timeline.rows, findings)
    search(history, timeline.effective, findings, steps_max)
    return findings


# -- watches


def check_watch(log: WatchLog, findings: Findings) -> None:
    """Every revision once, in order, whole; nothing is left out when progress is told."""
    due = log.start
    for heard in log.heard:
        findings.checked[f"watch {heard.kind}"] += 1
        where = f"{log.name} at {heard.member}, due {due}"
        match heard.kind:
            case "events":
                for revision in dict.fromkeys(event.revision for event in heard.events):
                    if revision != due:
                        word = "again" if revision < due else "too early"
                        findings.add("watch", f"{where}: was told revision {revision} {word}")
                    due = max(due, revision + 1)
                if heard.revision < due - 1:
                    findings.add("watch", f"{where}: header {heard.revision} is behind its events")
            case "progress" if heard.revision >= due:
                findings.add("watch", f"{where}: progress {heard.revision}, not all told")
            case "compacted":
                findings.add("watch", f"{where}: ended as compacted at {heard.revision}")


# -- the timeline


class Timeline:
    """The one history of the store, as all watchers tell it together.

    `events[revision]` in their order; `rows` is the state up to where the replay has come.
    """

    def __init__(self, history: History, findings: Findings) -> None:
        self.history = history
        self.findings = findings
        self.events: dict[int, tuple[Event, ...]] = {}
        self.rows: dict[bytes, Row] = {}
        for log in history.watches:
            self._merge(log)
        self.last = max(self.events, default=FIRST_REVISION)
        self._seen = _Seen(history)
        self._claims: dict[int, Operation] = {}

    @property
    def effective(self) -> set[int]:
        """The operations that wrote something, with an answer or without."""
        return {operation.number for operation in self._claims.values()}

    def _merge(self, log: WatchLog) -> None:
        told: dict[int, list[Event]] = defaultdict(list)
        for event in itertools.chain.from_iterable(heard.events for heard in log.heard):
            told[event.revision].append(event)
        for revision, events in told.items():
            first = self.events.setdefault(revision, tuple(events))
            if first != tuple(events):
                text = f"{log.name} was told {events} at {revision}, another watcher {first}"
                self.findings.add("watch", text)

    def check_rows(self) -> None:
        """Rows' versions and revisions follow from one event to the next; no revision is empty."""
        rows: dict[bytes, Row] = {}
        for revision in range(FIRST_REVISION + 1, self.last + 1):
            events = self.events.get(revision, ())
            if not events:
                self.findings.add("watch", f"nobody was told anything of revision {revision}")
            for key, row, _ in events:
                before = rows.get(key)
                if row is None:
                    if before is None:
                        self.findings.add("rows", f"{revision} deletes {key!r}, which is not there")
                    rows.pop(key, None)
                    continue
                create, version = (before.create, before.version + 1) if before else (revision, 1)
                if row != Row(row.value, version, create, revision):
                    self.findings.add("rows", f"{revision} puts {key!r} {row} after {before}")
                rows[key] = row

    def check_operations(self) -> None:
        """Every answer is the timeline's, in real time; every event has a cause."""
        answered: dict[int, list[Operation]] = defaultdict(list)
        for operation in self.history.operations:
            self.findings.checked[f"operations {operation.outcome}"] += 1
            if operation.outcome == "ok":
                answered[operation.revision].append(operation)
                self._check_real_time(operation)
        causes = _Causes(self.history)
        for revision in range(FIRST_REVISION, self.last + 1):
            rest = [each for each in answered.pop(revision, ()) if not self._wrote(each)]
            events = self.events.get(revision, ())
            if events and revision not in self._claims:
                self._explain(revision, events, causes)
            self._advance(events)
            for operation in rest:
                self._check_read(operation)
        for operation in itertools.chain.from_iterable(answered.values()):
            self.findings.add("lost", f"{told(operation)}: no watcher was told that revision")

    def _advance(self, events: Iterable[Event]) -> None:
        for key, row, _ in events:
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def _wrote(self, operation: Operation) -> bool:
        """Whether this is the write of its revision. The state is the one before it."""
        answer, changes = run(operation.request, self.rows.get, operation.revision)
        events = self.events.get(operation.revision, ())
        if not changes or answer != operation.answer or _events(changes, operation) != events:
            return False
        if operation.revision in self._claims:
            other = told(self._claims[operation.revision])
            self.findings.add("twice", f"{told(operation)} claims the revision of {other}")
        self._claims[operation.revision] = operation
        if self._seen.before(operation.called) >= operation.revision:
            self.findings.add("real time", f"{told(operation)}: was seen before it began")
        return True

    def _check_read(self, operation: Operation) -> None:
        answer, changes = run(operation.request, self.rows.get, operation.revision)
        if changes:
            found = self.events.get(operation.revision)
            self.findings.add("lost", f"{told(operation)}: that revision is {found}")
        elif answer != operation.answer:
            self.findings.add("wrong answer", f"{told(operation)}: the timeline says {answer}")

    def _check_real_time(self, operation: Operation) -> None:
        floor = self._seen.before(operation.called)
        if not operation.serializable and operation.revision < floor:
            self.findings.add("stale", f"{told(operation)}: {floor} had been seen before it began")

    def _explain(self, revision: int, events: tuple[Event, ...], causes: _Causes) -> None:
        """Nobody was told that this happened, so somebody must not know, or a lease has ended."""
        if all(row is None and key in causes.leased for key, row, _ in events):
            return
        for operation in causes.unknown(events):
            _, changes = run(operation.request, self.rows.get, revision)
            if _as_events(changes, revision) == events and (
                self._seen.before(operation.called) < revision
            ):
                causes.use(operation)
                self._claims[revision] = operation
                self.findings.checked["unknown outcomes that took effect"] += 1
                return
        guilty = [told(each) for each in causes.refused(events)]
        why = f"refused, and yet: {guilty}" if guilty else "nobody asked for it"
        self.findings.add("no cause", f"revision {revision} is {events}; {why}")


class _Seen:
    """The highest revision that anybody had been shown by some time."""

    def __init__(self, history: History) -> None:
        shown = [(each.returned or 0, each.revision) for each in history.acknowledged()]
        for log in history.watches:
            shown += [(heard.at, heard.events[-1].revision) for heard in log.heard if heard.events]
        shown.sort()
        self._times = [at for at, _ in shown]
        self._highest = list(itertools.accumulate((revision for _, revision in shown), max))

    def before(self, time: int) -> int:
        """By all that returned strictly before."""
        place = bisect.bisect_left(self._times, time)
        return self._highest[place - 1] if place else 0


class _Causes:
    """Operations without an answer that may have written a key; each at most once."""

    def __init__(self, history: History) -> None:
        self.leased = {lease.key for lease in history.leases}
        self._used: set[int] = set()
        self._by_key: dict[tuple[str, bytes], list[Operation]] = defaultdict(list)
        for operation in history.operations:
            if operation.outcome != "ok" and operation.request.writes:
                for key in operation.request.keys:
                    self._by_key[operation.outcome, key].append(operation)

    def unknown(self, events: tuple[Event, ...]) -> list[Operation]:
        found = self._by_key["unknown", events[0].key]
        return [each for each in found if each.number not in self._used]

    def use(self, operation: Operation) -> None:
        self._used.add(operation.number)

    def refused(self, events: tuple[Event, ...]) -> Iterator[Operation]:
        written = {(key, row.value if row else b"") for key, row, _ in events}
        for operation in self._by_key["refused", events[0].key]:
            request = operation.request
            actions = (*request.success, *request.failure)
            if written <= {(each.key, each.value) for each in actions if each.name != "get"}:
                yield operation


def _as_events(changes: Changes, revision: int) -> tuple[Event, ...]:
    return tuple(Event(key, row, revision) for key, row in changes.items())


def _events(changes: Changes, operation: Operation) -> tuple[Event, ...]:
    return _as_events(changes, operation.revision)


def told(operation: Operation) -> str:
    """An operation in a sentence about it; its number finds it in the history."""
    returned = "" if operation.returned is None else f" to {operation.returned / 1e9:.3f}"
    return (
        f"operation {operation.number} of {operation.client} at {operation.member}"
        f" ({operation.called / 1e9:.3f}{returned}), {operation.request}, {operation.outcome}"
        f" {operation.answer} at revision {operation.revision}"
    )


# -- leases, and the end


def check_leases(history: History, findings: Findings) -> None:
    """No key of a lease goes before its time; who asked for its end is not surprised."""
    gone: dict[bytes, Heard] = {}
    for log in history.watches:
        for heard in log.heard:
            for event in heard.events:
                if event.row is None and event.key.startswith(LEASED):
                    known = gone.setdefault(event.key, heard)
                    gone[event.key] = min(known, heard, key=lambda each: each.at)
    for lease in history.leases:
        findings.checked["leases"] += 1
        if lease.key in gone:
            _check_end(lease, gone[lease.key], findings)


def _check_end(lease: LeaseLog, end: Heard, findings: Findings) -> None:
    if lease.revoked is not None and lease.revoked < end.at:
        return
    last = max((at for at in lease.renewed if at < end.at), default=None)
    if last is not None and end.at - last < lease.ttl_seconds * 1_000_000_000:
        lived = (end.at - last) / 1e9
        text = f"lease {lease.number} of {lease.ttl_seconds} s ended {lived:.3f} s after a renewal"
        findings.add("lease", f"{text} asked for at {last / 1e9:.3f}")


def check_endings(history: History, rows: dict[bytes, Row], findings: Findings) -> None:
    """All members hold the state that the timeline leaves, with one hash and without an alarm."""
    if len({ending.hash for ending in history.endings}) > 1:
        hashes = {ending.member: ending.hash for ending in history.endings}
        findings.add("hash", f"members differ: {hashes}")
    for ending in history.endings:
        findings.checked["rows at the end"] += len(ending.rows)
        if ending.alarms:
            findings.add("alarm", f"{ending.member}: {', '.join(ending.alarms)}")
        held = dict(ending.rows)
        wrong = [key for key in rows.keys() | held.keys() if rows.get(key) != held.get(key)]
        for key in sorted(wrong)[:5]:
            text = f"{ending.member} holds {key!r} as {held.get(key)}, not {rows.get(key)}"
            findings.add("end", text)
    findings.checked["members at the end"] = len(history.endings)
    left = sorted(key for key in rows if key.startswith(LEASED))
    if left and history.endings:
        findings.add("lease", f"nobody renews the leases of {left}, and they are still there")


# -- search


def search(
    history: History, effective: Collection[int], findings: Findings, steps_max: int
) -> None:
    """Every group of keys of an epoch on its own, without believing any revision."""
    chosen = [each for each in history.operations if _searched(each)]
    root = groups(operation.request for operation in chosen)
    parts: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in chosen:
        parts[root[next(iter(operation.request.keys))]].append(operation)
    for key, operations in sorted(parts.items()):
        judgement = _order(operations, steps_max)
        if judgement.verdict is Verdict.UNKNOWN:
            judgement = _order_without(operations, effective, steps_max)
        findings.checked["searched groups"] += 1
        findings.checked["searched operations"] += len(operations)
        findings.unknown += judgement.verdict is Verdict.UNKNOWN
        if judgement.verdict is Verdict.ILLEGAL:
            fitted = set(judgement.longest)
            missing = next(
                each
                for place, each in enumerate(operations)
                if place not in fitted and each.outcome == "ok"
            )
            text = f"no order of the {len(operations)} operations on {key!r} fits"
            findings.add("linearizability", f"{text}; first without a place: {told(missing)}")


def _order(operations: Iterable[Operation], steps_max: int) -> Judgement:
    return linearizability.check([as_call(each) for each in operations], step, (), steps_max)


def _order_without(
    operations: Iterable[Operation], effective: Collection[int], steps_max: int
) -> Judgement:
    """A second try without the unknown outcomes that, as the watchers tell, never were. An order of
    the others is one of all, for they need not be in it; that there is none proves nothing.
    """
    rest = [each for each in operations if each.outcome == "ok" or each.number in effective]
    judgement = _order(rest, steps_max)
    if judgement.verdict is Verdict.LEGAL:
        return judgement
    return judgement._replace(verdict=Verdict.UNKNOWN)


def _searched(operation: Operation) -> bool:
    """Who was refused is left out: whoever sees its effect then finds no place."""
    if operation.serializable or operation.outcome == "refused":
        return False
    if operation.outcome == "unknown" and not operation.request.writes:
        return False
    return all(key.startswith(SEARCHED) for key in operation.request.keys)


def as_call(operation: Operation) -> Call:
    request, answer = without_revisions(operation.request, operation.answer)
    return Call(operation.called, operation.returned, request, answer)
