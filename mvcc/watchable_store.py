"""WatchableStore: every watcher gets every matching event once, in order.

    write txn ends ─► synced watchers that match ─► their streams' queues ─► shell takes, writes
                                     queue full ─► victim ─► (room again) unsynced
    watch from the past ─► unsynced ─► catch_up() reads history ─► synced

Invariant of a watcher: it was given every matching event with revision < min_rev, and none from
min_rev on. Plain calls, no clock, no task: the shell says when to catch up and when to notify
progress. Nobody who is behind pins anything in memory: what it missed is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from sortedcontainers import SortedDict

from .notices import Notice, Slice, read_history
from .store import Store
from .tree_index import Span
from .txn import WriteTxn
from .watcher import State, Watcher, WatcherGroup

__all__ = [
    "Limits",
    "Notice",
    "WatchOptions",
    "WatchResponse",
    "WatchStatus",
    "WatchStream",
    "WatchableStore",
]

EMPTY_RANGE = "mvcc: watcher range is empty"
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
TOO_MANY = "etcdserver: too many requests"


class Limits(NamedTuple):
    """- `queue_bytes`: of notices in one stream's queue; it is full from there on, so it holds at
      most one notice more. 4 MiB are 20,000 events of 200 bytes: at 10,000 writes/s a client may be
      away for two seconds before history is read for it again. 1000 such streams are 4 GB at worst,
      but what they share is there only once.
    - `queue_responses`: full by number; 4096 x 100 bytes are what the tuples weigh.
    - `stream_watchers`: 100,000 x 500 bytes are 50 MB for one client.
    - `batch_watchers`: that one slice serves; moving each costs about 10 us.
    - `slice_rows`, `slice_bytes`: of history read in one call: about 2 ms, about 1 ms.
    - `slice_matches`: 20,000 x 0.1 us: rows times ranges that watch them.
    """

    queue_bytes: int = 4 << 20
    queue_responses: int = 4096
    stream_watchers: int = 100_000
    batch_watchers: int = 512
    slice_rows: int = 1000
    slice_bytes: int = 1 << 20
    slice_matches: int = 20_000


class WatchResponse(NamedTuple):
    """What one watcher is to hear. `notice` is None for created, canceled and progress.

    `watch_id` -1 belongs to no watcher (a refused creation, progress of the whole stream).
    `compact_revision` is set when a watcher is canceled since its start was compacted; `revision`,
    which is for the header, is 0 then.
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
    """The watchers of one client's stream and the queue of what they are to hear.

    - `_watchers`: by id, all that have not ended.
    - `_lagging` <= len(_watchers): those that are not synced. WatchableStore moves it.
    - `_victims`: those of them that wait for room, by serial.
    - `_bytes`, `_events`: of the notices in `_queue`.
    - `_asked`: a progress answer is owed; never while it could be given.
    """

    def __init__(
        self, watches: WatchableStore, number: int, on_ready: Callable[[WatchStream], None]
    ) -> None:
        self.number = number
        self._watches = watches
        self._on_ready = on_ready
        self._watchers: dict[int, Watcher] = {}
        self._victims: dict[int, Watcher] = {}
        self._queue: list[WatchResponse] = []
        self._lagging = self._bytes = self._events = self._next_id = 0
        self._asked = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._watchers)

    @property
    def full(self) -> bool:
        """No room for events until the next take. Answers to the client's own requests are queued
        all the same, so the shell reads no further request while this is True: that bounds them.
        """
        limits = self._watches.limits
        return self._bytes >= limits.queue_bytes or len(self._queue) >= limits.queue_responses

    def watched(self) -> list[tuple[int, bytes, bytes]]:
        """(watch id, key, range_end) of each watcher that has not ended."""
        return [(each.watch_id, each.key, each.range_end) for each in self._watchers.values()]

    def fragment(self, watch_id: int) -> bool:
        """Whether this watcher asked that large answers be split; False for an unknown id."""
        watcher = self._watchers.get(watch_id)
        return watcher is not None and watcher.fragment

    def watch(self, options: WatchOptions) -> int:
        """Begin one; its id, or -1. Either way the answer is in the queue: created comes before
        any event, a refusal is created and canceled with its reason (empty range, duplicate id,
        negative start, too many watchers on this stream).
        """
        assert not self._closed, "the stream is closed"
        revision = self._watches.store.current_rev
        reason = self._refusal(options)
        if reason:
            self._push(WatchResponse(-1, revision, None, True, True, 0, reason))
            return -1
        watch_id = options.watch_id or self._free_id()
        self._push(WatchResponse(watch_id, revision, created=True))
        self._watchers[watch_id] = self._watches.begin(self, watch_id, options)
        return watch_id

    def _refusal(self, options: WatchOptions) -> str:
        if options.start_rev < 0:
            return COMPACTED
        if Span(options.key or b"\x00", options.range_end).empty:
            return EMPTY_RANGE
        if options.watch_id in self._watchers and options.watch_id:
            return DUPLICATE_ID
        return TOO_MANY if len(self) >= self._watches.limits.stream_watchers else ""

    def _free_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def cancel(self, watch_id: int) -> bool:
        """End one and queue its canceled; False (and nothing queued) for an unknown id."""
        watcher = self._watchers.get(watch_id)
        if watcher is None:
            return False
        canceled = WatchResponse(watch_id, self._watches.store.current_rev, canceled=True)
        self._watches.end(watcher, canceled)
        return True

    def request_progress(self) -> None:
        """Queue a progress answer (id -1) once every watcher of this stream is synced and there is
        room. Asked again before it is given, there is one answer.
        """
        self._asked = True
        self._answer_progress()

    def _answer_progress(self) -> None:
        if self._asked and not self._lagging and not self.full:
            self._asked = False
            self._push(WatchResponse(-1, self._watches.store.current_rev))

    def notify_progress(self) -> None:
        """Queue a progress answer for each synced watcher that asked for them and had no events
        since the last call. None while the queue is full.
        """
        revision = self._watches.store.current_rev
        for watcher in self._watchers.values():
            if watcher.progress_notify and watcher.state == State.SYNCED and not self.full:
                if watcher.quiet:
                    self._push(WatchResponse(watcher.watch_id, revision))
                watcher.quiet = True

    def take(self) -> list[WatchResponse]:
        """Everything queued, in order; the queue is empty and has room afterwards.

        Watchers that waited for room are unsynced then: look at WatchableStore.behind.
        """
        taken, self._queue = self._queue, []
        self._bytes = self._events = 0
        for watcher in list(self._victims.values()):
            self._watches.retry(watcher)
        self._answer_progress()
        return taken

    def close(self) -> None:
        """Free everything; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._asked = False
        for watcher in list(self._watchers.values()):
            self._watches.end(watcher, None)
        self._queue = []
        self._bytes = self._events = 0
        self._watches.forget(self)

    def _push(self, response: WatchResponse) -> None:
        self._queue.append(response)
        if response.notice is not None:
            self._bytes += response.notice.size
            self._events += len(response.notice.events)
        if len(self._queue) == 1:
            self._on_ready(self)

    def check_invariants(self) -> None:
        """The lines of the class docstring, asserted."""
        states = [watcher.state for watcher in self._watchers.values()]
        assert State.ENDED not in states, "an ended watcher is kept"
        assert self._lagging == len(states) - states.count(State.SYNCED), (self._lagging, states)
        victims = [w.serial for w in self._watchers.values() if w.state == State.VICTIM]
        assert sorted(self._victims) == sorted(victims), (self._victims, victims)
        assert not victims or self.full, "victims, and room for them"
        notices = [response.notice for response in self._queue if response.notice is not None]
        assert self._bytes == sum(notice.size for notice in notices)
        assert self._events == sum(len(notice.events) for notice in notices)
        assert not self._asked or self._lagging or self.full, "a progress answer is held back"


class WatchStatus(NamedTuple):
    """`slow_watchers` are unsynced or victims; `pending_events` are queued, not yet taken."""

    streams: int
    watchers: int
    slow_watchers: int
    events_total: int
    pending_events: int


class WatchableStore:
    """Watches over one store; `attach` moves them to another one after a snapshot.

    - `_synced`: the store calls `_on_write` exactly while there are some, and then `_revision` is
      its current one: all they match up to there was given to them.
    - `_unsynced`: by (min_rev, serial).
    - Every watcher is in one of these or among the victims of its stream, as its state says.

    `on_behind()` is called whenever `behind` becomes true (a watch from the past, room for a
    victim, attach), from inside whatever caused it: it only notes that catch_up is due.
    """

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self.store = store
        self.limits = limits or Limits()
        self.on_behind: Callable[[], None] = lambda: None
        self._streams: dict[int, WatchStream] = {}
        self._synced = WatcherGroup()
        self._unsynced: SortedDict[tuple[int, int], Watcher] = SortedDict()
        self._revision = store.current_rev
        self._opened = self._begun = self._events_total = 0
        self._near_turn = False

    def open(self, on_ready: Callable[[WatchStream], None]) -> WatchStream:
        """A new stream. `on_ready(stream)` is called when its queue stops being empty, from inside
        whatever filled it (a write's end, too): it only notes that the stream is to be taken.
        """
        stream = WatchStream(self, self._opened, on_ready)
        self._streams[self._opened] = stream
        self._opened += 1
        return stream

    def attach(self, store: Store) -> None:
        """A snapshot replaced the store: everybody is unsynced, from their own min_rev on.

        A min_rev above the new store's revision is legal for an unsynced watcher only now: the
        next catch_up makes it a synced one that waits for its revision.
        """
        synced = list(self._synced)
        for watcher in synced:
            self._move(watcher, State.UNSYNCED, max(watcher.min_rev, self._revision + 1))
        assert self.store.on_write is None, "nobody is synced, but the store still calls"
        self.store = store
        self._revision = store.current_rev

    @property
    def behind(self) -> bool:
        """Whether catch_up has anything to do now (victims wait for room and do not count)."""
        return bool(self._unsynced)

    def catch_up(self) -> bool:
        """One slice (about 1000 rows, 2 ms) of reading history for unsynced watchers; True while
        there is more to do.
        """
        self._join_ahead()
        self._cancel_compacted()
        if self._unsynced and self._lowest() >= self.store.compact_rev:
            self._replay(self._next_start())
        return self.behind

    def status(self) -> WatchStatus:
        streams = self._streams.values()
        slow = len(self._unsynced) + sum(len(stream._victims) for stream in streams)
        return WatchStatus(
            len(self._streams),
            len(self._synced) + slow,
            slow,
            self._events_total,
            sum(stream._events for stream in streams),
        )

    # For WatchStream

    def begin(self, stream: WatchStream, watch_id: int, options: WatchOptions) -> Watcher:
        """A new watcher; one that wants nothing of the past is synced."""
        watcher = Watcher(stream, watch_id, self._begun, options)
        self._begun += 1
        future = self.store.current_rev + 1
        start = options.start_rev or future
        self._move(watcher, State.SYNCED if start >= future else State.UNSYNCED, start)
        return watcher

    def end(self, watcher: Watcher, canceled: WatchResponse | None) -> None:
        """Free it in whatever state it is, and tell."""
        del watcher.stream._watchers[watcher.watch_id]
        if canceled is not None:
            watcher.stream._push(canceled)
        self._move(watcher, State.ENDED, watcher.min_rev)

    def retry(self, victim: Watcher) -> None:
        """Its stream has room again."""
        self._move(victim, State.UNSYNCED, victim.min_rev)

    def forget(self, stream: WatchStream) -> None:
        """It is closed."""
        del self._streams[stream.number]

    # The only place where a watcher's state and min_rev change

    def _move(self, watcher: Watcher, state: State, min_rev: int) -> None:
        assert min_rev >= watcher.min_rev, f"min_rev from {watcher.min_rev} down to {min_rev}"
        stream, behind = watcher.stream, self.behind
        self._leave(watcher)
        watcher.state = state
        watcher.min_rev = min_rev
        if state == State.SYNCED:
            self._synced.add(watcher)
            self._revision = self.store.current_rev
            self.store.on_write = self._on_write
        elif state == State.UNSYNCED:
            self._unsynced[min_rev, watcher.serial] = watcher
        elif state == State.VICTIM:
            stream._victims[watcher.serial] = watcher
        stream._lagging += state in (State.UNSYNCED, State.VICTIM)
        stream._answer_progress()
        if self.behind and not behind:
            self.on_behind()

    def _leave(self, watcher: Watcher) -> None:
        if watcher.state == State.SYNCED:
            self._synced.remove(watcher)
            if not len(self._synced):
                self.store.on_write = None
        elif watcher.state == State.UNSYNCED:
            del self._unsynced[watcher.min_rev, watcher.serial]
        elif watcher.state == State.VICTIM:
            del watcher.stream._victims[watcher.serial]
        watcher.stream._lagging -= watcher.state in (State.UNSYNCED, State.VICTIM)

    # The present

    def _on_write(self, txn: WriteTxn) -> None:
        """Called by the store where the txn's revision becomes current."""
        revision = self._revision = txn.revision
        if not any(map(self._synced.find, txn.changed_keys())):
            return
        new = Slice(self.store, txn.changes(), revision)
        for audience, indices in new.matches(self._synced).items():
            for watcher in list(audience.watchers.values()):
                notice = new.notice(audience, indices, watcher)
                if notice is not None and not self._give(watcher, notice):
                    self._move(watcher, State.VICTIM, revision)

    def _give(self, watcher: Watcher, notice: Notice) -> bool:
        """False: there is no room."""
        stream = watcher.stream
        if stream.full:
            return False
        stream._push(WatchResponse(watcher.watch_id, notice.revision, notice))
        watcher.quiet = False
        self._events_total += len(notice.events)
        return True

    # The past

    def _lowest(self) -> int:
        lowest: int = self._unsynced.peekitem(0)[0][0]
        return lowest

    def _join_ahead(self) -> None:
        """Who needs nothing of this store's past is synced: after an attach only."""
        for _ in range(self.limits.batch_watchers):
            if not self._unsynced:
                return
            (min_rev, _), watcher = self._unsynced.peekitem(-1)
            if min_rev <= self.store.current_rev:
                return
            self._move(watcher, State.SYNCED, min_rev)

    def _cancel_compacted(self) -> None:
        """One cancel each, and it is gone; who has no room for it waits, where it is."""
        compacted = self.store.compact_rev
        for _ in range(self.limits.batch_watchers):
            if not self._unsynced or self._lowest() >= compacted:
                return
            watcher = self._unsynced.peekitem(0)[1]
            if watcher.stream.full:
                self._move(watcher, State.VICTIM, watcher.min_rev)
            else:
                canceled = WatchResponse(watcher.watch_id, 0, None, False, True, compacted)
                self.end(watcher, canceled)

    def _next_start(self) -> int:
        """Where the next slice begins: in turn at the lowest min_rev, and at those who are nearly
        there, or else nearest. So one who asks for all of history does not hold up the many who
        missed a second of it, nor they him.
        """
        self._near_turn = not self._near_turn
        if not self._near_turn:
            return self._lowest()
        near = (self.store.current_rev - self.limits.slice_rows, -1)
        first = next(self._unsynced.irange(near), None)
        start: int = (first or self._unsynced.peekitem(-1)[0])[0]
        return start

    def _replay(self, start: int) -> None:
        limits = self.limits
        events, reached = read_history(
            self.store, start, rows_max=limits.slice_rows, bytes_max=limits.slice_bytes
        )
        keys = self._unsynced.irange((start, -1), (reached, -1))
        batch = [self._unsynced[key] for key in islice(keys, limits.batch_watchers)]
        group = WatcherGroup()
        for watcher in batch:
            group.add(watcher)
        past = Slice(self.store, events, self.store.current_rev)
        matches = past.matches(group, limits.slice_matches)
        if len(past.events) < len(events):
            reached = events[len(past.events)].kv.mod_revision
        for audience, indices in matches.items():
            for watcher in audience.watchers.values():
                notice = past.notice(audience, indices, watcher)
                if notice is not None and not self._give(watcher, notice):
                    self._move(watcher, State.VICTIM, watcher.min_rev)
        for watcher in batch:
            if watcher.state == State.UNSYNCED and watcher.min_rev < reached:
                done = reached > self.store.current_rev
                self._move(watcher, State.SYNCED if done else State.UNSYNCED, reached)

    def check_invariants(self) -> None:
        """The lines of the class docstring, asserted."""
        self._synced.check_invariants()
        assert (self.store.on_write is not None) == bool(len(self._synced))
        if len(self._synced):
            assert self._revision == self.store.current_rev
        assert all(watcher.state == State.SYNCED for watcher in self._synced)
        for (min_rev, serial), watcher in self._unsynced.items():
            assert watcher.state == State.UNSYNCED, watcher.state
            assert (min_rev, serial) == (watcher.min_rev, watcher.serial)
        for stream in self._streams.values():
            stream.check_invariants()
        assert self.status().watchers == sum(len(stream) for stream in self._streams.values())
