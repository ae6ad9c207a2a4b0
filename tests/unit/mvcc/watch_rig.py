"""A store, its watches and one stream, for tests."""

from __future__ import annotations

from mvcc.kv import Event
from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from mvcc.watchable_store import (
    Limits,
    WatchableStore,
    WatchOptions,
    WatchResponse,
    WatchStream,
)

A = WatchOptions(b"a")
EVERYTHING = WatchOptions(b"", b"\x00")
TIGHT = Limits(queue_responses=2)


class Rig:
    """A store, its watches, and one stream."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.backend = MemoryBackend()
        self.store = Store(self.backend)
        self.watches = WatchableStore(self.store, limits)
        self.ready: list[WatchStream] = []
        self.stream = self.watches.open(self.ready.append)

    def put(self, *keys: bytes, value: bytes = b"v") -> int:
        """All in one txn."""
        txn = self.store.write()
        for key in keys:
            txn.put(key, value)
        return txn.end()

    def puts(self, count: int, key: bytes = b"a") -> None:
        for _ in range(count):
            self.put(key)

    def delete(self, key: bytes, range_end: bytes = b"") -> int:
        txn = self.store.write()
        txn.delete_range(key, range_end)
        return txn.end()

    def compact(self, revision: int) -> None:
        job = self.store.compact(revision)
        while not job.step(100):
            pass

    def watch(self, key: bytes, range_end: bytes = b"", **options: object) -> int:
        """Begin one; its created is taken."""
        watch_id = self.stream.watch(WatchOptions(key, range_end, **options))
        created = self.stream.take()[-1]
        assert created.created and not created.canceled and created.watch_id == watch_id
        return watch_id

    def settle(self) -> list[WatchResponse]:
        """Catch up and take until nothing more comes."""
        heard = self.stream.take()
        while self.watches.behind:
            self.watches.catch_up()
            self.watches.check_invariants()
            heard += self.stream.take()
        return heard

    def restart(self, store: Store | None = None) -> None:
        """Another store over the same rows (or `store`) takes over."""
        if store is None:
            store = Store(self.backend)
            for _ in store.restore():
                pass
        self.store = store
        self.watches.attach(store)
        self.watches.check_invariants()


def events(responses: list[WatchResponse]) -> list[Event]:
    return [event for r in responses if r.notice is not None for event in r.notice.events]


def revisions(responses: list[WatchResponse]) -> list[int]:
    return [event.kv.mod_revision for event in events(responses)]


def brief(responses: list[WatchResponse]) -> list[tuple[str, bytes, int]]:
    return [(e.type.name, e.kv.key, e.kv.mod_revision) for e in events(responses)]
