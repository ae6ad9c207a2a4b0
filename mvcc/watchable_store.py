"""WatchableStore: every watcher gets every matching event once, in order.

    write txn ends ─► synced watchers that match ─► their streams' queues ─► shell takes, writes
                                     queue full ─► victim ─► (room again) unsynced
    watch from the past ─► unsynced ─► catch_up() reads history ─► synced

Invariant of a watcher: it was given every matching event with revision < min_rev, and none from
min_rev on. Plain calls, no clock, no task: the shell says when to catch up and when to notify
progress.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .kv import Event
from .store import Store


class Notice:
    """Events to deliver, shared by all watchers that get the same ones.

    `events` are all of whole transactions, in order; `revision` is for the header. `size` in bytes.
    `encoded` is scratch room for the shell, so that it encodes once for all of them.
    """

    __slots__ = ("encoded", "events", "revision", "size")

    def __init__(self, revision: int, events: tuple[Event, ...], size: int) -> None:
        self.revision = revision
        self.events = events
        self.size = size
        self.encoded: dict[int, bytes] = {}


class WatchResponse(NamedTuple):
    """What one watcher is to hear. `notice` is None for created, canceled and progress.

    `watch_id` -1 belongs to no watcher (a refused creation, progress of the whole stream).
    `compact_revision` is set when a watcher is canceled since its start was compacted.
    """

    watch_id: int
    revision: int
    notice: Notice | None = None
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""


class WatchOptions(NamedTuple):
    """What to watch: [key, range_end) as in a range; empty key: b"\\0"."""

    key: bytes
    range_end: bytes = b""
    start_rev: int = 0
    watch_id: int = 0
    no_put: bool = False
    no_delete: bool = False
    prev_kv: bool = False
    progress_notify: bool = False
    fragment: bool = False


class WatchStream:
    """The watchers of one client's stream and the queue of what they are to hear."""

    def watch(self, options: WatchOptions) -> int:
        """Begin one; its id, or -1. Either way the answer is in the queue: created comes before
        any event, a refusal is created and canceled with its reason (EmptyRange, duplicate id,
        negative start).
        """
        raise NotImplementedError

    def cancel(self, watch_id: int) -> bool:
        """End one and queue its canceled; False (and nothing queued) for an unknown id."""
        raise NotImplementedError

    def request_progress(self) -> None:
        """Queue a progress answer (id -1) once every watcher of this stream is synced."""
        raise NotImplementedError

    def notify_progress(self) -> None:
        """Queue a progress answer for each synced watcher that asked for them and had no response
        since the last call.
        """
        raise NotImplementedError

    def take(self) -> list[WatchResponse]:
        """Everything queued, in order; the queue is empty and has room afterwards."""
        raise NotImplementedError

    def close(self) -> None:
        """Free everything; idempotent."""
        raise NotImplementedError


class WatchStatus(NamedTuple):
    streams: int
    watchers: int
    slow_watchers: int
    events_total: int
    pending_events: int


class WatchableStore:
    """Watches over one store; `attach` moves them to another one after a snapshot.

    `on_behind()` is called whenever `behind` becomes true (a watch from the past, room for a
    victim, attach), from inside whatever caused it: it only notes that catch_up is due.
    """

    def __init__(self, store: Store) -> None:
        self.on_behind: Callable[[], None] = lambda: None
        raise NotImplementedError

    def open(self, on_ready: Callable[[WatchStream], None]) -> WatchStream:
        """A new stream. `on_ready(stream)` is called when its queue stops being empty, from inside
        whatever filled it (a write's end, too): it only notes that the stream is to be taken.
        """
        raise NotImplementedError

    def attach(self, store: Store) -> None:
        """A snapshot replaced the store: everybody is unsynced, from their own min_rev on."""
        raise NotImplementedError

    @property
    def behind(self) -> bool:
        """Whether catch_up has anything to do now (victims wait for room and do not count)."""
        raise NotImplementedError

    def catch_up(self) -> bool:
        """One slice (about 1000 rows, 2 ms) of reading history for unsynced watchers; True while
        there is more to do.
        """
        raise NotImplementedError

    def status(self) -> WatchStatus:
        raise NotImplementedError
