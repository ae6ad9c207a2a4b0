"""What clients asked and heard, as it happened: one list for all threads, kept as lines of JSON.

Times are nanoseconds of one monotonic clock. An operation has one of three outcomes: "ok" with its
answer and the revision it was answered at, "refused" where the member promised that nothing
happened, or "unknown", which has no end.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.model import Action, Answer, Compare, Request, Row


def now() -> int:
    return time.monotonic_ns()


@dataclass(slots=True)
class Operation:
    """One request and what became of it."""

    number: int
    client: str
    member: str
    request: Request
    called: int
    serializable: bool = False
    returned: int | None = None
    outcome: str = "unknown"
    answer: Answer | None = None
    revision: int = 0
    error: str = ""


class Event(NamedTuple):
    """`row` None: the key was deleted."""

    key: bytes
    row: Row | None
    revision: int


class Heard(NamedTuple):
    """One message of a watch. `kind`: created, events, progress, or compacted, whose revision is
    the compaction's.
    """

    at: int
    member: str
    kind: str
    revision: int
    events: tuple[Event, ...] = ()


@dataclass(slots=True)
class WatchLog:
    """All that one watcher of all keys was told, over its connections; it began at `start`."""

    name: str
    start: int
    heard: list[Heard] = field(default_factory=list)

    @property
    def due(self) -> int:
        """The revision that comes next."""
        last = (heard.events[-1].revision + 1 for heard in reversed(self.heard) if heard.events)
        return next(last, self.start)


@dataclass(slots=True)
class LeaseLog:
    """One lease with one key. `renewed` are the calls that were answered with a TTL, the grant
    among them, by the time they were made; `revoked` is when its end was asked for.
    """

    number: int
    key: bytes
    ttl_seconds: int
    renewed: list[int] = field(default_factory=list)
    revoked: int | None = None


@dataclass(slots=True)
class Ending:
    """One member when everything is healed and quiet: all its rows at its revision."""

    member: str
    revision: int
    rows: tuple[tuple[bytes, Row], ...]
    hash: tuple[int, int, int]
    alarms: tuple[str, ...] = ()


@dataclass
class History:
    """All of it; `add` and `end` may be called from any thread."""

    operations: list[Operation] = field(default_factory=list)
    watches: list[WatchLog] = field(default_factory=list)
    leases: list[LeaseLog] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, client: str, member: str, request: Request, *, serializable: bool = False
    ) -> Operation:
        with self._lock:
            number = len(self.operations)
            operation = Operation(number, client, member, request, now(), serializable)
            self.operations.append(operation)
            return operation

    def acknowledged(self) -> list[Operation]:
        return [each for each in self.operations if each.outcome == "ok"]

    def save(self, path: Path) -> None:
        with path.open("w") as file:
            for kind, items in (
                ("operation", self.operations),
                ("watch", self.watches),
                ("lease", self.leases),
                ("ending", self.endings),
            ):
                for item in items:
                    row = {name: _plain(getattr(item, name)) for name in item.__slots__}
                    file.write(json.dumps({"kind": kind, **row}) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        history = cls()
        for row in map(json.loads, path.read_text().splitlines()):
            match row.pop("kind"):
                case "operation":
                    row["request"] = _request(row["request"])
                    row["answer"] = _answer(row["answer"])
                    history.operations.append(Operation(**row))
                case "watch":
                    row["heard"] = [_heard(each) for each in row["heard"]]
                    history.watches.append(WatchLog(**row))
                case "lease":
                    history.leases.append(LeaseLog(**{**row, "key": _bytes(row["key"])}))
                case "ending":
                    history.endings.append(_ending(row))
        return history


def _plain(item: Any) -> Any:
    """Tuples as lists, bytes as {"b": base64}."""
    match item:
        case bytes():
            return {"b": base64.b64encode(item).decode()}
        case tuple() | list():
            return [_plain(each) for each in item]
    return item


def _bytes(item: Any) -> Any:
    return base64.b64decode(item["b"]) if isinstance(item, dict) else item


def _fields(items: Iterable[Any]) -> Iterator[Any]:
    return (_bytes(item) for item in items)


def _request(item: list[Any]) -> Request:
    compare, success, failure = item
    return Request(
        tuple(Compare(*_fields(each)) for each in compare),
        tuple(Action(*_fields(each)) for each in success),
        tuple(Action(*_fields(each)) for each in failure),
    )


def _answer(item: list[Any] | None) -> Answer | None:
    if item is None:
        return None
    rows = (Row(*_fields(each)) if isinstance(each, list) else each for each in item[1])
    return Answer(item[0], tuple(rows))


def _ending(row: dict[str, Any]) -> Ending:
    rows = tuple((_bytes(key), Row(*_fields(each))) for key, each in row["rows"])
    return Ending(row["member"], row["revision"], rows, tuple(row["hash"]), tuple(row["alarms"]))


def _heard(item: list[Any]) -> Heard:
    *head, events = item
    return Heard(
        *head,
        tuple(
            Event(_bytes(key), row and Row(*_fields(row)), revision)
            for key, row, revision in events
        ),
    )
