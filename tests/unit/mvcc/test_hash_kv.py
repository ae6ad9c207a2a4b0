"""Hashes agree where histories do, whatever the timing of compactions."""

from __future__ import annotations

import zlib

import pytest

from mvcc.backend import KEY
from mvcc.errors import Compacted, FutureRevision
from mvcc.hash_kv import HashKV, hash_rows
from mvcc.memory_backend import MemoryBackend
from mvcc.revision import row_key, tombstone_key
from mvcc.store import Store


def filled() -> Store:
    store = Store(MemoryBackend())
    for value in (b"1", b"2"):
        txn = store.write()
        txn.put(b"a", value)
        txn.put(b"b", value)
        txn.end()
    txn = store.write()
    txn.delete_range(b"a")
    txn.end()
    txn = store.write()
    txn.put(b"a", b"3")
    txn.end()
    return store


def hash_of(store: Store, revision: int = 0, slice_rows: int = 1000) -> HashKV:
    store.backend.end_entries(1, 1)
    store.backend.commit()
    *pauses, result = store.hash_kv(store.backend.snapshot(), revision, slice_rows=slice_rows)
    assert pauses == [None] * len(pauses)
    return result


def compact(store: Store, revision: int, limit: int = 1000) -> None:
    job = store.compact(revision)
    while not job.step(limit):
        pass


def test_it_is_the_crc_of_keys_and_rows():
    store = filled()
    crc = 0
    for key, row in store.backend.range(KEY, b"\0", b"\xff", 5):
        crc = zlib.crc32(key + row, crc)
    assert hash_of(store, 4) == HashKV(crc, 4, -1, 5)


@pytest.mark.parametrize("revision", [1, 2, 3, 4, 5])
def test_slices_do_not_matter(revision):
    store = filled()
    results = {hash_of(store, revision, slice_rows) for slice_rows in (1, 2, 3, 1000)}
    assert len(results) == 1


def test_every_revision_has_its_own():
    store = filled()
    hashes = [hash_of(store, revision).hash for revision in range(1, 6)]
    assert len(set(hashes)) == 5
    assert hashes[0] == 0
    assert hash_of(store) == hash_of(store, 5)


def test_the_way_to_a_compaction_does_not_matter():
    straight, slow = filled(), filled()
    compact(straight, 4)
    for revision in (2, 3, 4):
        compact(slow, revision, 1)
    assert hash_of(straight, 4) == hash_of(slow, 4)
    assert hash_of(straight) == hash_of(slow)
    assert hash_of(straight) != hash_of(filled())


@pytest.mark.parametrize("revision", range(2, 6))
def test_how_far_a_compaction_is_does_not_matter(revision):
    store, finished = filled(), filled()
    compact(finished, revision)
    expected = hash_of(finished)
    job = store.compact(revision)
    assert hash_of(store) == expected
    while not job.step(1):
        assert hash_of(store, slice_rows=1)[:3] == expected[:3]
    assert hash_of(store) == expected


class Rows:
    """A view of these rows."""

    def __init__(self, rows: list[tuple[bytes, bytes]]) -> None:
        self.rows = rows

    def range(self, table: str, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return [row for row in self.rows if start <= row[0] < end][:limit]

    def close(self) -> None: ...


@pytest.mark.parametrize("offset", [0, 1, 9, 30])
def test_a_damaged_row_makes_another_hash_also_while_a_compaction_is_under_way(offset):
    rows = filled().backend.range(KEY, b"\0", b"\xff", 10)
    *_, right = hash_rows(Rows(rows), 5, 3, compacting=True)
    (place,) = (i for i, (key, _) in enumerate(rows) if key == row_key(3, 1))
    flipped = bytearray(rows[place][1])
    flipped[offset] ^= 0x40
    rows[place] = (rows[place][0], bytes(flipped))
    *_, wrong = hash_rows(Rows(rows), 5, 3, compacting=True)
    assert wrong != right


def test_the_tombstone_at_the_compacted_revision_does_not_count():
    kept, dropped = filled(), filled()
    compact(kept, 4)
    compact(dropped, 4)
    dropped.backend.delete(KEY, tombstone_key(4, 0))
    assert hash_of(kept) == hash_of(dropped)


def test_a_tombstone_above_counts():
    store = filled()
    compact(store, 3)
    before = hash_of(store)
    store.backend.delete(KEY, tombstone_key(4, 0))
    assert hash_of(store) != before


def test_revisions_refused_at_once():
    store = filled()
    compact(store, 3)
    snapshot = store.backend.snapshot()
    with pytest.raises(Compacted):
        store.hash_kv(snapshot, 2)
    with pytest.raises(FutureRevision):
        store.hash_kv(snapshot, 6)


def test_a_running_hash_is_not_disturbed_by_later_work():
    store = filled()
    expected = hash_of(store)
    steps = store.hash_kv(store.backend.snapshot(), slice_rows=2)
    next(steps)
    txn = store.write()
    txn.put(b"b", b"later")
    txn.end()
    compact(store, 6)
    *_, result = steps
    assert result == expected


def test_the_rows_alone():
    store = filled()
    expected = hash_of(store, 3).hash
    assert list(hash_rows(store.backend.snapshot(), 3, -1, 3)) == [None, None, expected]
