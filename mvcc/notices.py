"""Notice: events as watchers get them; and the making of notices that many watchers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .kv import Event, EventType
from .revision import Revision
from .watcher import Audience, Watcher, WatcherGroup

if TYPE_CHECKING:
    from .store import Store

EVENT_BYTES = 64
"""What an event weighs besides keys and values: revisions, version, lease, names and brackets."""
_FIRST_ROWS = 16
"""Rows first read of a slice: of the largest ones (1.5 MiB each) no more than 24 MiB come at once.
"""


class Notice:
    """Events to deliver, shared by all watchers that get the same ones.

    `events` are all of whole transactions, in order; `revision` is for the header. `size` in bytes.
    `encoded` is scratch room for the shell, so that it encodes once for all of them: whole messages
    by watch id, which may be any number, and under None what they share.
    """

    __slots__ = ("encoded", "events", "revision", "size")

    def __init__(self, revision: int, events: tuple[Event, ...], size: int) -> None:
        self.revision = revision
        self.events = events
        self.size = size
        self.encoded: dict[int | None, bytes] = {}


class Slice:
    """Whole transactions, and the notices made of them: equal ones only once.

    `events` ascend; `revision` is for the headers.
    """

    __slots__ = ("_by_wish", "_notices", "_prevs", "_store", "_subs", "events", "revision")

    def __init__(self, store: Store, events: Sequence[Event], revision: int) -> None:
        self._store = store
        self.events = events
        self.revision = revision
        self._subs: list[int] = []
        self._prevs: dict[int, Event] = {}
        self._by_wish: dict[tuple[Audience, int, bool, bool, bool], Notice | None] = {}
        self._notices: dict[tuple[bool, tuple[int, ...]], Notice] = {}

    def matches(self, group: WatcherGroup, most: int = 0) -> dict[Audience, list[int]]:
        """Who watches which events, by their index. With `most`: the events are cut, between two
        transactions, where that many matches are reached.
        """
        found: dict[Audience, list[int]] = {}
        count, last = 0, 0
        for i, event in enumerate(self.events):
            kv = event.kv
            if most and count >= most and kv.mod_revision != last:
                self.events = self.events[:i]
                break
            last = kv.mod_revision
            for audience in group.find(kv.key):
                found.setdefault(audience, []).append(i)
                count += 1
        return found

    def notice(self, audience: Audience, indices: list[int], watcher: Watcher) -> Notice | None:
        """What the watcher, one of the audience, is to hear of the events it matches, from its
        min_rev on; None when its filters leave nothing.
        """
        wish = audience, watcher.min_rev, watcher.no_put, watcher.no_delete, watcher.prev_kv
        if wish not in self._by_wish:
            self._by_wish[wish] = self._make(indices, watcher)
        return self._by_wish[wish]

    def _make(self, indices: list[int], watcher: Watcher) -> Notice | None:
        events, min_rev = self.events, watcher.min_rev
        wanted = tuple(
            i
            for i in indices
            if events[i].kv.mod_revision >= min_rev
            and not (watcher.no_put if events[i].type == EventType.PUT else watcher.no_delete)
        )
        if not wanted:
            return None
        same = watcher.prev_kv, wanted
        if same not in self._notices:
            given = tuple((self._with_prev(i) if watcher.prev_kv else events[i]) for i in wanted)
            self._notices[same] = Notice(self.revision, given, sum(map(event_bytes, given)))
        return self._notices[same]

    def _with_prev(self, i: int) -> Event:
        """As if read one revision before: what was compacted is absent, also while its row is
        still there on this member.
        """
        event = self.events[i]
        main = event.kv.mod_revision
        if main <= self._store.compact_rev:
            return event
        if i not in self._prevs:
            self._subs = self._subs or _subs(self.events)
            before = self._store.read_before(event.kv.key, Revision(main, self._subs[i]))
            self._prevs[i] = event._replace(prev_kv=before)
        return self._prevs[i]


def event_bytes(event: Event) -> int:
    kv, prev = event.kv, event.prev_kv
    size = EVENT_BYTES + len(kv.key) + len(kv.value)
    return size if prev is None else size + EVENT_BYTES + len(prev.key) + len(prev.value)


def _subs(events: Sequence[Event]) -> list[int]:
    """The sub of each event, of transactions above the compacted revision: none misses a row."""
    subs, main, sub = [], 0, 0
    for event in events:
        sub = sub + 1 if event.kv.mod_revision == main else 0
        main = event.kv.mod_revision
        subs.append(sub)
    return subs


def read_history(
    store: Store, start_rev: int, *, rows_max: int, bytes_max: int
) -> tuple[list[Event], int]:
    """Whole transactions from `start_rev` to at most the present, and the revision they reach,
    excluded.

    At most `rows_max` rows, unless one transaction alone has more; about `bytes_max` bytes, at
    most twice that and the first few rows.
    """
    events: list[Event] = []
    end_rev = store.current_rev + 1
    limit = min(_FIRST_ROWS, rows_max)
    size = 0
    while start_rev < end_rev and len(events) < rows_max and size < bytes_max:
        part = store.events(start_rev, end_rev, limit)
        cut = part[-1].kv.mod_revision if len(part) == limit else end_rev
        if part and part[0].kv.mod_revision == cut:
            if events:
                break
            limit *= 4
            continue
        if limit > rows_max + 1:
            # It grew for the sake of one large transaction: that is enough for one slice.
            cut = part[0].kv.mod_revision + 1
        part = [event for event in part if event.kv.mod_revision < cut]
        events += part
        size += sum(map(event_bytes, part))
        limit = min(2 * limit, rows_max - len(events) + 1)
        start_rev = cut
    return events, start_rev
