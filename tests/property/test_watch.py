"""Watches against a list of everything that ever happened.

Every watcher hears exactly the matching events from its start on, in order, whole transactions
together, or one cancel that names a compaction beyond what it has heard. Queues are tiny and
readers slow, stores are replaced by newer and older ones.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mvcc.compaction import Compaction
from mvcc.kv import Event, EventType, KeyValue
from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.watchable_store import (
    Limits,
    WatchableStore,
    WatchOptions,
    WatchResponse,
    WatchStream,
)

KEYS = st.sampled_from([b"a", b"a\x00", b"ab", b"b", b"c", b"\xff"])
RANGES = st.one_of(
    st.tuples(KEYS, st.just(b"")),
    st.sampled_from(
        [
            (b"a", b"b"),
            (b"a\x00", b"c"),
            (b"ab", b"ac"),
            (b"", b"\x00"),
            (b"b", b"\x00"),
            (b"\xff", b"\x00"),
            (b"", b"b"),
        ]
    ),
)
PUT = st.tuples(st.just("put"), KEYS, st.binary(max_size=40))
DELETE = st.tuples(st.just("delete"), RANGES, st.none())
OPS = st.lists(st.one_of(PUT, PUT, DELETE), min_size=1, max_size=4)
TINY = st.builds(
    Limits,
    queue_bytes=st.sampled_from([1, 500, 4 << 20, 4 << 20]),
    queue_responses=st.sampled_from([1, 4, 8, 16]),
    stream_watchers=st.just(8),
    batch_watchers=st.integers(1, 3),
    slice_rows=st.integers(1, 4),
    slice_bytes=st.sampled_from([1, 200, 1 << 20]),
    slice_matches=st.integers(1, 5),
)
SELDOM = st.sampled_from([False, False, False, True])
WATCH = st.tuples(
    RANGES,
    st.one_of(st.just(0), st.integers(-8, 4)),
    st.sampled_from([0, 0, 0, 1, 7]),
    st.tuples(SELDOM, SELDOM, st.booleans(), st.booleans()),
)
"""Range, start, id, flags."""
WATCHES = st.lists(WATCH, min_size=1, max_size=4)
THEN = st.sampled_from(["", "", "take", "catch up"])


def inside(key: bytes, start: bytes, end: bytes) -> bool:
    start = start or b"\x00"
    if not end:
        return key == start
    return start <= key and (end == b"\x00" or key < end)


class Twin:
    """history[r] are the events of revision r, each with what it replaced; `log` made them."""

    def __init__(self) -> None:
        self.log: list[list[tuple] | int] = []
        self.history: dict[int, list[Event]] = {}
        self.states: dict[int, dict[bytes, KeyValue]] = {1: {}}

    def append(self, ops: list[tuple]) -> None:
        """A key is changed at most once by one transaction, as the API sees to it."""
        last = max(self.states)
        state, main, events = dict(self.states[last]), last + 1, []
        touched: list[bytes] = []
        kept = []
        for kind, what, value in ops:
            keys = [what] if kind == "put" else sorted(k for k in state if inside(k, *what))
            if any(key in touched for key in keys):
                continue
            kept.append((kind, what, value))
            touched += keys
            for key in keys:
                old = state.pop(key, None)
                if kind == "delete":
                    events.append(Event(EventType.DELETE, KeyValue(key, mod_revision=main), old))
                    continue
                created, version = (old.create_revision, old.version) if old else (main, 0)
                state[key] = KeyValue(key, value, created, main, version + 1)
                events.append(Event(EventType.PUT, state[key], old))
        self.log.append(kept)
        if events:
            self.history[main] = events
            self.states[main] = state

    def expected(self, options: WatchOptions, start: int, end: int) -> list[Event]:
        """What a watcher is to hear of start <= revision < end."""
        return [
            event
            for revision in range(start, end)
            for event in self.history.get(revision, [])
            if inside(event.kv.key, options.key, options.range_end)
            and not (options.no_put if event.type == EventType.PUT else options.no_delete)
        ]


class Reader:
    """What one client's watcher has heard: all it wants with revision < `next_rev`."""

    def __init__(self, options: WatchOptions, start: int) -> None:
        self.options = options
        self.next_rev = start
        self.created = False


class Client:
    """A stream, and the watchers it began, oldest first where an id came twice."""

    def __init__(self, machine: WatchMachine) -> None:
        self.machine = machine
        self.ready = False
        self.stream: WatchStream = machine.watches.open(self.on_ready)
        self.readers: dict[int, list[Reader]] = {}
        self.refusals: list[str] = []
        self.asked = 0
        self.answered = False

    def on_ready(self, stream: WatchStream) -> None:
        assert stream is self.stream and not self.ready
        self.ready = True

    def take(self) -> None:
        self.ready = False
        for response in self.stream.take():
            self.hear(response)

    def hear(self, response: WatchResponse) -> None:
        if response.watch_id == -1 and response.created:
            assert response.canceled and response.cancel_reason == self.refusals.pop(0)
        elif response.watch_id == -1:
            assert self.asked, "progress nobody asked for"
            self.asked -= 1
            self.answered = True
            for readers in self.readers.values():
                for reader in readers:
                    if reader.created:
                        self.nothing_missing(reader, response.revision)
        else:
            self.hear_one(self.readers[response.watch_id], response)

    def hear_one(self, readers: list[Reader], response: WatchResponse) -> None:
        reader = readers[0]
        assert reader.created != response.created
        if response.created:
            reader.created = True
        elif response.canceled:
            readers.pop(0)
            if response.compact_revision:
                assert response.compact_revision > reader.next_rev
                assert response.revision == 0
        elif response.notice is None:
            assert reader.options.progress_notify
            self.nothing_missing(reader, response.revision)
        else:
            self.hear_events(reader, response)

    def hear_events(self, reader: Reader, response: WatchResponse) -> None:
        assert response.notice is not None and response.notice.events
        given = response.notice.events
        last = given[-1].kv.mod_revision
        assert reader.next_rev <= given[0].kv.mod_revision
        assert last <= response.revision
        expected = self.machine.twin.expected(reader.options, reader.next_rev, last + 1)
        assert len(given) == len(expected)
        for event, true in zip(given, expected, strict=True):
            assert event[:2] == true[:2]
            if not reader.options.prev_kv:
                assert event.prev_kv is None
            elif event.prev_kv != true.prev_kv:
                # Compacted on some store this watcher heard it from.
                assert event.prev_kv is None and last <= self.machine.compacted_most
        reader.next_rev = last + 1

    def nothing_missing(self, reader: Reader, revision: int) -> None:
        assert self.machine.twin.expected(reader.options, reader.next_rev, revision + 1) == []

    def pick(self, number: int) -> int | None:
        alive = [watch_id for watch_id, readers in self.readers.items() if readers]
        return alive[number % len(alive)] if alive else None


class WatchMachine(RuleBasedStateMachine):
    """`position`: how much of the twin's log the store has applied."""

    def __init__(self) -> None:
        super().__init__()
        self.twin = Twin()
        self.position = 0
        self.compacted_most = -1
        self.jobs: list[Compaction] = []
        self.store = Store(MemoryBackend())
        self.due = False
        self.watches = WatchableStore(self.store)
        self.watches.on_behind = self.on_behind
        self.clients: list[Client] = []

    @initialize(
        limits=TINY,
        past=st.lists(OPS, min_size=3, max_size=10),
        watches=st.lists(WATCHES, min_size=1, max_size=3),
    )
    def begin(self, limits: Limits, past: list, watches: list[list[tuple]]) -> None:
        """Some history, and clients that watch."""
        self.watches.limits = limits
        for ops in past:
            self.write(ops)
        for who, wanted in enumerate(watches):
            self.clients.append(Client(self))
            self.watch(who, wanted)

    def on_behind(self) -> None:
        assert self.watches.behind and not self.due
        self.due = True

    def apply(self, store: Store, jobs: list[Compaction], entry: list[tuple] | int) -> None:
        if isinstance(entry, int):
            jobs.append(store.compact(entry))
            self.compacted_most = max(self.compacted_most, entry)
            return
        txn = store.write()
        for kind, what, value in entry:
            if kind == "put":
                txn.put(what, value)
            else:
                txn.delete_range(what[0] or b"\x00", what[1])
        txn.end()

    def advance(self) -> None:
        self.apply(self.store, self.jobs, self.twin.log[self.position])
        self.position += 1

    @rule(more=st.lists(st.tuples(OPS, THEN, st.integers(0, 2)), min_size=1, max_size=6))
    def writes(self, more: list[tuple[list[tuple], str, int]]) -> None:
        for ops, then, who in more:
            self.write(ops)
            if then == "take":
                self.clients[who % len(self.clients)].take()
            elif then == "catch up":
                self.catch_up()

    def write(self, ops: list[tuple]) -> None:
        """An older store first repeats what the newer one did."""
        if self.position == len(self.twin.log):
            self.twin.append(ops)
        self.advance()

    @rule(back=st.integers(0, 5))
    def compact(self, back: int) -> None:
        revision = self.store.current_rev - back
        if self.position == len(self.twin.log) and revision > self.store.compact_rev:
            self.twin.log.append(revision)
            self.advance()

    @precondition(lambda self: self.jobs)
    @rule(limit=st.integers(1, 3))
    def step_compaction(self, limit: int) -> None:
        if self.jobs[0].step(limit):
            del self.jobs[0]

    @rule(who=st.integers(0, 2), watches=WATCHES)
    def watch(self, who: int, watches: list[tuple]) -> None:
        client = self.clients[who % len(self.clients)]
        for one in watches:
            self.begin_watch(client, *one)

    def begin_watch(
        self, client: Client, span: tuple, start: int, watch_id: int, flags: tuple
    ) -> None:
        """`start` is relative to the current revision, 0 for none."""
        future = self.store.current_rev + 1
        absolute = start and self.store.current_rev + start
        options = WatchOptions(*span, absolute, watch_id, *flags)
        if watch_id in client.readers:
            client.take()
        begun = len(client.stream)
        given = client.stream.watch(options)
        if absolute < 0:
            reason = "etcdserver: mvcc: required revision has been compacted"
        elif watch_id and client.readers.get(watch_id):
            reason = "mvcc: duplicate watch ID provided on the WatchStream"
        elif begun == self.watches.limits.stream_watchers:
            reason = "etcdserver: too many requests"
        else:
            assert given >= 0 and watch_id in (0, given)
            client.readers.setdefault(given, []).append(Reader(options, absolute or future))
            return
        assert given == -1
        client.refusals.append(reason)

    @rule(who=st.integers(0, 2), which=st.integers(0, 3))
    def cancel(self, who: int, which: int) -> None:
        client = self.clients[who % len(self.clients)]
        watch_id = client.pick(which)
        if watch_id is None:
            assert not client.stream.cancel(5)
            return
        begun = len(client.stream)
        canceled = client.stream.cancel(watch_id)
        assert len(client.stream) == begun - canceled
        assert not client.stream.cancel(watch_id)

    @rule(who=st.integers(0, 2), everybody=st.booleans())
    def take(self, who: int, everybody: bool) -> None:
        for client in self.clients if everybody else [self.clients[who % len(self.clients)]]:
            client.take()

    @rule(who=st.integers(0, 2), of_each=st.booleans())
    def progress(self, who: int, of_each: bool) -> None:
        client = self.clients[who % len(self.clients)]
        if of_each:
            client.stream.notify_progress()
            return
        client.asked += 1
        client.stream.request_progress()

    @rule(who=st.integers(0, 2))
    def close(self, who: int) -> None:
        """Another client comes in its place."""
        who %= len(self.clients)
        stream = self.clients[who].stream
        stream.close()
        stream.close()
        assert stream.take() == []
        self.clients[who] = Client(self)

    @rule()
    def catch_up(self) -> None:
        more = self.watches.catch_up()
        assert more == self.watches.behind
        self.due = more

    @rule(position=st.integers(-4, 0), ops=st.lists(OPS, max_size=3))
    def replace(self, position: int, ops: list[list[tuple]]) -> None:
        """By a store at another place of the same history: behind, at, or ahead of everything."""
        for more in ops:
            self.twin.append(more)
        self.position = max(0, len(self.twin.log) + position)
        backend = MemoryBackend()
        jobs: list[Compaction] = []
        store = Store(backend)
        for entry in self.twin.log[: self.position]:
            self.apply(store, jobs, entry)
        self.store = Store(backend)
        for _ in self.store.restore():
            pass
        pending = self.store.pending_compaction()
        self.jobs = [pending] if pending else []
        self.watches.attach(self.store)

    @invariant()
    def agrees(self) -> None:
        self.watches.check_invariants()
        assert self.due or not self.watches.behind, "nobody was told that somebody is behind"
        self.due = self.watches.behind
        status = self.watches.status()
        assert status.streams == len(self.clients)
        assert status.watchers == sum(len(client.stream) for client in self.clients)

    def teardown(self) -> None:
        """Read everything: nobody may miss anything; then nothing is left."""
        while self.position < len(self.twin.log):
            self.advance()
        for client in self.clients:
            client.asked += 1
            client.answered = False
            client.stream.request_progress()
        busy = True
        while busy:
            self.catch_up()
            busy = self.due
            for client in self.clients:
                busy = busy or client.ready
                client.take()
        current = self.store.current_rev
        for client in self.clients:
            assert client.answered and not client.refusals
            assert sum(map(len, client.readers.values())) == len(client.stream)
            for readers in client.readers.values():
                for reader in readers:
                    client.nothing_missing(reader, current)
            client.stream.close()
        self.watches.check_invariants()
        status = self.watches.status()
        assert status[:3] == (0, 0, 0) and status.pending_events == 0


WatchMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestWatch = WatchMachine.TestCase
