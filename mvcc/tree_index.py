"""TreeIndex: every key's history, the keys in order, and what compaction will have to visit.

`live` and `gone` are apart so that the present is read and counted without meeting deleted keys, of
which a queue leaves many. The journal makes the cost of a compaction the number of dead rows, not
the number of keys.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from heapq import merge
from itertools import islice

from sortedcontainers import SortedList

from .key_index import KeyIndex
from .revision import Revision

_INT64 = struct.Struct("=q")
_WIDTH = _INT64.size

_ENDLESS = b"\x00"
_REVISION_MAX = 2**63 - 1


class Span:
    """The half-open span of keys [start, end) that a request names; `end` None: to the last key.

    A `range_end` of b"" names the one key, b"\\0" all keys from `key` on, and one not above `key`
    nothing.

    >>> Span(b"a", b"").single, Span(b"a", b"\\0").end, Span(b"b", b"a").empty
    (True, None, True)
    """

    __slots__ = ("empty", "end", "single", "start")

    def __init__(self, key: bytes, range_end: bytes) -> None:
        self.start = key
        self.single = not range_end
        self.end = key + b"\x00" if not range_end else None if range_end == _ENDLESS else range_end
        self.empty = self.end is not None and self.end <= key


class Journal:
    """Keys with something to compact, in the order of the revisions that made it so.

    Each overwrite and each delete notes (main, entry): from compact(main) on the revision before it
    is dead, and a tombstone itself from main + 1 on. A tombstone met by a compaction at its very
    revision waits in `kept`.
    """

    __slots__ = ("_entries", "_kept", "_mains")

    def __init__(self) -> None:
        self._mains = bytearray()
        self._entries: deque[KeyIndex] = deque()
        self._kept: list[tuple[int, KeyIndex]] = []

    def __len__(self) -> int:
        return len(self._entries) + len(self._kept)

    def note(self, main: int, entry: KeyIndex) -> None:
        """Mains never decrease."""
        self._mains += _INT64.pack(main)
        self._entries.append(entry)

    def keep(self, main: int, entry: KeyIndex) -> None:
        """Hand this visit to the next compaction."""
        self._kept.append((main, entry))

    def take(self, revision: int, limit: int) -> list[tuple[int, KeyIndex]]:
        """Remove and return at most `limit` visits due at `revision`, oldest first."""
        if self._kept and self._kept[0][0] < revision:
            due = [visit for visit in self._kept[:limit] if visit[0] < revision]
            del self._kept[: len(due)]
            return due
        due = []
        entries, mains = self._entries, self._mains
        taken = 0
        while taken < limit and entries:
            main = _INT64.unpack_from(mains, taken * _WIDTH)[0]
            if main > revision:
                break
            due.append((main, entries.popleft()))
            taken += 1
        del mains[: taken * _WIDTH]
        return due


class TreeIndex:
    """All keys of the store.

    - `entries`: key -> KeyIndex, also of deleted keys until a compaction forgets them. One put in
      each doubling pays for a larger table: 9 ms at 175,000 keys, 35 ms at 700,000.
    - `live`, `gone`: the same keys in order, by whether the newest revision is a put or a
      tombstone.
    - `modified`: main of the newest change; a read at or above it is a read of the present.
    """

    __slots__ = ("entries", "gone", "journal", "live", "modified")

    def __init__(self) -> None:
        self.entries: dict[bytes, KeyIndex] = {}
        self.live: SortedList = SortedList()
        self.gone: SortedList = SortedList()
        self.journal = Journal()
        self.modified = 0

    def put(self, key: bytes, main: int, sub: int) -> KeyIndex:
        """Note a put; the entry then tells the record's create revision and version."""
        self.modified = main
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = KeyIndex(key, main, sub, main, 1)
            self.live.add(key)
            return entry
        if entry.created:
            self.journal.note(main, entry)
        else:
            self.gone.remove(key)
            self.live.add(key)
        entry.put(main, sub)
        return entry

    def tombstone(self, entry: KeyIndex, main: int, sub: int) -> None:
        """Note a delete of a live key."""
        self.modified = main
        entry.tombstone(main, sub)
        self.journal.note(main, entry)
        self.live.remove(entry.key)
        self.gone.add(entry.key)

    def get(self, key: bytes) -> KeyIndex | None:
        """The entry of a key that is alive now."""
        entry = self.entries.get(key)
        return entry if entry is not None and entry.created else None

    def count(self, span: Span) -> int:
        """Keys alive now, in O(log n)."""
        if span.single:
            return int(self.get(span.start) is not None)
        if span.empty:
            return 0
        end = len(self.live) if span.end is None else self.live.bisect_left(span.end)
        return int(end - self.live.bisect_left(span.start))

    def present(self, span: Span, limit: int | None, reverse: bool = False) -> list[KeyIndex]:
        """Entries alive now, at most `limit`, in key order (the last ones first with `reverse`)."""
        if span.single:
            entry = self.get(span.start)
            return [] if entry is None else [entry]
        if span.empty:
            return []
        keys = self.live.irange(span.start, span.end, (True, False), reverse)
        entries = self.entries
        return [entries[key] for key in islice(keys, limit)]

    def past(
        self, span: Span, revision: int, limit: int | None
    ) -> tuple[list[Revision], bytes | None]:
        """States at `revision` of those of the next `limit` keys that were alive; the next start.

        The start is None when the span is done.
        """
        states: list[Revision] = []
        seen = 0
        key = b""
        for key in islice(self._keys(span), limit):
            seen += 1
            found = self.entries[key].at(revision)
            if found is not None:
                states.append(found)
        return states, key + b"\x00" if seen == limit else None

    def _keys(self, span: Span) -> Iterator[bytes]:
        if span.empty:
            return iter([])
        live = self.live.irange(span.start, span.end, (True, False))
        gone = self.gone.irange(span.start, span.end, (True, False))
        return merge(live, gone)

    def compact(self, revision: int, visits: int) -> list[bytes] | None:
        """Make the next `visits` visits of compact(revision): dead row keys, None when all is done.

        Visits come in revision order, so each finds a row or two. Visiting (main, entry) compacts
        that key only up to main + 1: compactions compose, its later visits do the rest.
        """
        due = self.journal.take(revision, visits)
        if not due:
            return None
        dead: list[bytes] = []
        for main, entry in due:
            if self.entries.get(entry.key) is not entry:
                continue
            bound = min(main + 1, revision)
            dead += entry.compact(bound)
            if entry.vanishes(bound):
                del self.entries[entry.key]
                self.gone.remove(entry.key)
            elif main == revision and entry.starts_dead_at(revision):
                self.journal.keep(revision, entry)
        return dead

    def restore_row(self, entry: KeyIndex) -> None:
        """A key's first row met by a restore; the sorted lists are filled by `restore_order`."""
        self.entries[entry.key] = entry
        if not entry.created:
            self.journal.note(entry.main, entry)

    def restore_order(self, slice_keys: int) -> Iterator[None]:
        """Fill `live` and `gone` from `entries`, a step per slice."""
        entries = iter(self.entries.values())
        while part := list(islice(entries, slice_keys)):
            self.live.update(entry.key for entry in part if entry.created)
            self.gone.update(entry.key for entry in part if not entry.created)
            yield

    def dismantle(self, slice_keys: int) -> Iterator[None]:
        """Forget everything, a step per slice: freed at once, a million keys take 0.2 s."""
        for keys in (self.live, self.gone):
            while keys:
                for _ in range(min(slice_keys, len(keys))):
                    keys.pop()
                yield
        while self.journal.take(_REVISION_MAX, slice_keys):
            yield
        while self.entries:
            for _ in range(min(slice_keys, len(self.entries))):
                self.entries.popitem()
            yield

    def check_invariants(self) -> None:
        """The lines of the class docstring, asserted."""
        assert list(self.live) == sorted(k for k, e in self.entries.items() if e.created)
        assert list(self.gone) == sorted(k for k, e in self.entries.items() if not e.created)
        for key, entry in self.entries.items():
            assert entry.key == key, (entry.key, key)
            assert entry.main <= self.modified, (key, entry.main, self.modified)
            entry.check_invariants()
