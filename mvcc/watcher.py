"""Watcher, and WatcherGroup: who watches this key, without looking at those who do not.

Watchers of exactly the same range are one audience. Five watchers, and how a put finds them:

    w0 [b"a/1"]           keys       b"a/1"  > {w0, w4}
    w1 [b"a/", b"a0")     prefixes   2       > b"a/" > {w1}         one dict per length of prefix
    w2 [b"a/0", b"a/2")   ranges     a tree of [b"a/0", b"a/2") > {w2}, [b"b", open) > {w3}
    w3 [b"b", open)
    w4 [b"a/1"]

    put b"a/1"    keys: w0 w4; prefixes: b"a/" w1; ranges: w2
    put b"a/9"    prefixes: b"a/" w1
    put b"c"      ranges: w3
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

from .range_tree import RangeTree
from .tree_index import Span

if TYPE_CHECKING:
    from .watchable_store import WatchOptions, WatchStream

_OPEN = b"\x00"


class State(IntEnum):
    """Where a watcher is kept; WatchableStore alone moves it.

    synced ─ no room in its stream ─► victim ─ stream was taken ─► unsynced ─ caught up ─► synced
    """

    ENDED = 0
    SYNCED = 1
    UNSYNCED = 2
    VICTIM = 3


class Watcher:
    """One watch of one stream.

    - `min_rev`: it was given every matching event with revision < min_rev and none from there on.
      WatchableStore moves it, only up; never below the start asked for. While the watcher is synced
      everything up to the current revision counts as given too, and min_rev may trail.
    - `state`: synced: nothing at or below the current revision is missing. unsynced: min_rev <=
      current revision, but right after a change of stores. victim: its stream had no room at
      min_rev. ended: it gets nothing any more, for good. WatchableStore moves it.
    - `quiet`: no events since the stream's last notify_progress; WatchStream moves it.
    - `serial`: its number among all watchers of the store, for a stable order.
    """

    __slots__ = (
        "fragment",
        "key",
        "min_rev",
        "no_delete",
        "no_put",
        "prev_kv",
        "progress_notify",
        "quiet",
        "range_end",
        "serial",
        "state",
        "stream",
        "watch_id",
    )

    def __init__(
        self, stream: WatchStream, watch_id: int, serial: int, options: WatchOptions
    ) -> None:
        self.stream = stream
        self.watch_id = watch_id
        self.serial = serial
        self.key = options.key or _OPEN
        self.range_end = options.range_end
        self.no_put = options.no_put
        self.no_delete = options.no_delete
        self.prev_kv = options.prev_kv
        self.progress_notify = options.progress_notify
        self.fragment = options.fragment
        self.quiet = True
        self.min_rev = 0
        self.state = State.ENDED


class Audience:
    """The watchers of exactly one range, by serial in the order they came; never empty."""

    __slots__ = ("key", "range_end", "watchers")

    def __init__(self, key: bytes, range_end: bytes) -> None:
        self.key = key
        self.range_end = range_end
        self.watchers: dict[int, Watcher] = {}


class WatcherGroup:
    """Watchers, found by a key they watch. Orders depend on the calls made and on nothing else.

    Each audience is in `_audiences` and in exactly one of `_keys`, `_prefixes` and `_ranges`.
    """

    __slots__ = ("_audiences", "_keys", "_prefixes", "_ranges", "_watchers")

    def __init__(self) -> None:
        self._watchers: dict[int, Watcher] = {}
        self._audiences: dict[tuple[bytes, bytes], Audience] = {}
        self._keys: dict[bytes, Audience] = {}
        self._prefixes: dict[int, dict[bytes, Audience]] = {}
        self._ranges: RangeTree[Audience] = RangeTree()

    def __len__(self) -> int:
        return len(self._watchers)

    def __iter__(self) -> Iterator[Watcher]:
        return iter(self._watchers.values())

    def add(self, watcher: Watcher) -> None:
        assert watcher.serial not in self._watchers, f"watcher {watcher.serial} is here already"
        self._watchers[watcher.serial] = watcher
        span = watcher.key, watcher.range_end
        audience = self._audiences.get(span)
        if audience is None:
            audience = self._audiences[span] = Audience(*span)
            self._admit(audience)
        audience.watchers[watcher.serial] = watcher

    def remove(self, watcher: Watcher) -> None:
        """It must be here."""
        del self._watchers[watcher.serial]
        span = watcher.key, watcher.range_end
        audience = self._audiences[span]
        del audience.watchers[watcher.serial]
        if not audience.watchers:
            del self._audiences[span]
            self._dismiss(audience)

    def find(self, key: bytes) -> list[Audience]:
        """Whoever watches the key. Costs a dict per length of prefix, the depth of the tree, and
        what is found.
        """
        found = []
        single = self._keys.get(key)
        if single is not None:
            found.append(single)
        for length, prefixes in self._prefixes.items():
            audience = prefixes.get(key[:length])
            if audience is not None:
                found.append(audience)
        if self._ranges:
            found += self._ranges.find(key)
        return found

    def _admit(self, audience: Audience) -> None:
        key, range_end = audience.key, audience.range_end
        if not range_end:
            self._keys[key] = audience
        elif is_prefix(key, range_end):
            self._prefixes.setdefault(len(key), {})[key] = audience
        else:
            self._ranges.add(key, Span(key, range_end).end, audience)

    def _dismiss(self, audience: Audience) -> None:
        key, range_end = audience.key, audience.range_end
        if not range_end:
            del self._keys[key]
        elif is_prefix(key, range_end):
            prefixes = self._prefixes[len(key)]
            del prefixes[key]
            if not prefixes:
                del self._prefixes[len(key)]
        else:
            self._ranges.remove(key, Span(key, range_end).end)

    def check_invariants(self) -> None:
        """The lines of the class docstrings, asserted."""
        prefixes = sum(len(found) for found in self._prefixes.values())
        ranges = self._ranges.check_invariants()
        assert len(self._keys) + prefixes + ranges == len(self._audiences)
        assert all(self._prefixes.values()), "a length without a prefix"
        seen = {}
        for (key, range_end), audience in self._audiences.items():
            assert audience.watchers, f"nobody watches [{key!r}, {range_end!r})"
            assert audience in self.find(key), f"[{key!r}, {range_end!r}) is not found"
            for serial, watcher in audience.watchers.items():
                assert (watcher.key, watcher.range_end) == (key, range_end)
                seen[serial] = watcher
        assert seen == self._watchers


def prefix_end(prefix: bytes) -> bytes:
    """The range_end that makes a range of everything that begins with `prefix`.

    >>> prefix_end(b"a/"), prefix_end(b"a\\xff"), prefix_end(b"\\xff")
    (b'a0', b'b', b'\\x00')
    """
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else _OPEN


def is_prefix(key: bytes, range_end: bytes) -> bool:
    """Whether [key, range_end) is what begins with `key`; a range to the last key is none."""
    return range_end != _OPEN and prefix_end(key) == range_end
