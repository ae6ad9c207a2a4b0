"""Restore, status, and what the store keeps for leases."""

from __future__ import annotations

import gc
import random

import pytest

from mvcc.backend import KEY
from mvcc.errors import CorruptionError
from mvcc.kv import KeyValue, RangeOptions
from mvcc.memory_backend import MemoryBackend
from mvcc.record import encode_put
from mvcc.revision import row_key, tombstone_key
from mvcc.store import Store, StoreStatus
from tests.unit.mvcc.backends import LmdbRig, MemoryRig, Rig, quick_folder


def restored(backend: MemoryBackend) -> Store:
    store = Store(backend)
    for _ in store.restore():
        pass
    store.check_invariants()
    return store


def filled() -> Store:
    store = Store(MemoryBackend())
    txn = store.write()
    txn.put(b"a", b"1", 7)
    txn.put(b"b", b"1", 7)
    txn.put(b"c", b"1")
    txn.end()
    txn = store.write()
    txn.put(b"a", b"2", 8)
    txn.delete_range(b"b")
    txn.end()
    return store


def test_restore_of_an_empty_backend():
    store = restored(MemoryBackend())
    assert store.status() == StoreStatus(1, -1, -1, 0, 0, 0)
    assert store.pending_compaction() is None


def test_restore_gives_the_same_store():
    store = filled()
    again = restored(store.backend)
    assert again.status() == store.status() == StoreStatus(3, -1, -1, 2, 1, 2)
    assert again.leases == store.leases == {b"a": 8}
    assert again.index.entries == store.index.entries
    for revision in (1, 2, 3):
        options = RangeOptions(revision=revision)
        assert again.range(b"\0", b"\0", options) == store.range(b"\0", b"\0", options)


def test_the_store_stays_as_it_was_until_the_last_step_of_a_restore():
    store, source = Store(MemoryBackend()), filled().backend
    txn = store.write()
    txn.put(b"z", b"")
    txn.end()
    steps = store.restore(source)
    next(steps)
    assert [kv.key for kv in store.range(b"\0", b"\0").kvs] == [b"z"]
    for _ in steps:
        pass
    assert [kv.key for kv in store.range(b"\0", b"\0").kvs] == [b"a", b"c"]
    assert store.backend is source
    txn = store.write()
    txn.put(b"d", b"")
    assert txn.end() == 4


def test_version_and_create_revision_come_from_the_first_row_left():
    store = filled()
    job = store.compact(3)
    while not job.step(10):
        pass
    again = restored(store.backend)
    txn = again.write()
    txn.put(b"a", b"3")
    txn.put(b"b", b"again")
    txn.end()
    assert again.get(b"a") == KeyValue(b"a", b"3", 2, 4, 3, 0)
    assert again.get(b"b") == KeyValue(b"b", b"again", 4, 4, 1, 0)
    again.check_invariants()


@pytest.mark.parametrize(
    "rows",
    [
        [(b"not a revision", b"")],
        [(row_key(2, 0), b"cut")],
        [(row_key(2, 0), encode_put(2, 1, 0, b"k", b"")), (tombstone_key(2, 0), b"k")],
        [(tombstone_key(2, 0), b"k"), (tombstone_key(3, 0), b"k")],
        [
            (row_key(2, 0), encode_put(2, 1, 0, b"k", b"")),
            (row_key(3, 0), encode_put(2, 3, 0, b"k", b"")),
        ],
        [
            (row_key(2, 0), encode_put(2, 1, 0, b"k", b"")),
            (row_key(3, 0), encode_put(3, 1, 0, b"k", b"")),
        ],
    ],
    ids=["key", "record", "twice", "double delete", "version", "create revision"],
)
def test_rows_that_cannot_be_are_corruption(rows):
    backend = MemoryBackend()
    for key, row in rows:
        backend.put(KEY, key, row)
    store = Store(backend)
    with pytest.raises(CorruptionError):
        for _ in store.restore():
            pass
    assert store.current_rev == 1


def test_events_between_revisions():
    store = filled()
    assert [e.kv.key for e in store.events(2, 3, 0)] == [b"a", b"b", b"c"]
    assert [e.kv.key for e in store.events(3, 4, 0)] == [b"a", b"b"]
    assert [e.kv.key for e in store.events(2, 4, 4)] == [b"a", b"b", b"c", b"a"]
    assert store.events(4, 9, 0) == []


def test_nothing_per_key_is_seen_by_the_cyclic_collector():
    store = filled()
    assert not gc.is_tracked(store.index.entries)
    for entry in store.index.entries.values():
        assert not gc.is_tracked(entry)
        assert not gc.is_tracked(entry.past)


def lived_through(rig: Rig, seed: int) -> list[object]:
    """What a store tells over a random life with restarts, each after everything is on disk."""
    chance, told = random.Random(seed), []
    store, job = Store(rig.backend), None
    for index in range(1, 121):
        kind = chance.choice("pppppddcssfr")
        if kind in "pd":
            txn = store.write()
            for _ in range(chance.randint(1, 3)):
                name = b"%d" % chance.randrange(8)
                if kind == "p":
                    txn.put(name, b"v" * chance.randrange(40), chance.choice([0, 0, 5]))
                else:
                    txn.delete_range(name)
            txn.end()
        elif kind == "c" and job is None and store.current_rev > store.compact_rev:
            job = store.compact(chance.randint(store.compact_rev + 1, store.current_rev))
        elif kind == "s" and job is not None and job.step(2):
            job = None
        store.backend.end_entries(index, 1)
        if kind in "fr":
            rig.flush()
        if kind == "r":
            rig.reopen()
            store = restored(rig.backend)
            job = store.pending_compaction()
        told.append((store.status(), store.range(b"\0", b"\0"), dict(store.leases)))
    rig.flush()
    view = store.backend.snapshot()
    told.append(list(store.hash_kv(view))[-1])
    view.close()
    return [*told, store.backend.range(KEY, b"\0", b"\xff", 0)]


@pytest.mark.parametrize("seed", range(4))
def test_both_backends_carry_the_same_store(seed):
    with quick_folder() as folder:
        rig = LmdbRig(folder)
        on_disk = lived_through(rig, seed)
        rig.close()
    assert on_disk == lived_through(MemoryRig(), seed)


def test_a_replaced_store_is_freed_in_bounded_steps() -> None:
    store = Store(MemoryBackend())
    for number in range(25):
        txn = store.write()
        txn.put(b"%02d" % number, b"v")
        txn.put(b"%02d" % number, b"w")
        txn.end()
    txn = store.write()
    txn.delete_range(b"0", b"1")
    txn.end()
    held = [len(store.index.entries)]
    for _ in store.index.dismantle(10):
        held.append(len(store.index.entries))
        assert held[-2] - held[-1] <= 10
    assert not (store.index.entries or store.index.live or store.index.gone)
    assert len(store.index.journal) == 0
