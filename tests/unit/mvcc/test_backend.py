"""What every Backend promises: the sentences of the protocol, for both of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mvcc.backend import KEY, META, TABLES
from tests.unit.mvcc.backends import END, LmdbRig, MemoryRig, Rig, quick_folder

LEASE = "lease"


@pytest.fixture(params=["memory", "lmdb"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with quick_folder() as folder:
        rig: Rig = MemoryRig() if request.param == "memory" else LmdbRig(folder)
        yield rig
        rig.close()


def row(number: int) -> bytes:
    return number.to_bytes(17, "big")


def test_fresh_backend_is_empty(rig: Rig) -> None:
    assert rig.backend.applied() == (0, 0)
    assert rig.backend.durable_index == 0
    assert not rig.backend.blocked()
    for table in TABLES:
        assert rig.backend.range(table, b"", END, 0) == []
        assert rig.backend.get(table, b"key") is None


def test_open_batch_is_read_at_once(rig: Rig) -> None:
    rig.backend.put(META, b"a", b"")
    rig.backend.put(META, b"b", b"2")
    rig.backend.delete(META, b"b")
    rig.backend.delete(META, b"c")
    assert rig.backend.get(META, b"a") == b""
    assert rig.backend.get_many(META, [b"c", b"a", b"b", b"a"]) == [None, b"", None, b""]


def test_range_is_half_open_ascending_and_limited(rig: Rig) -> None:
    for number in (1, 2, 3):
        rig.backend.put(KEY, row(number), b"v%d" % number)
    rig.backend.end_entries(1, 1)
    rig.flush()
    rig.backend.put(KEY, row(3) + b"t", b"v3t")
    rig.backend.put(KEY, row(4), b"v4")
    rig.backend.delete_many(KEY, [row(1), row(3)])
    values = lambda start, end, limit: [  # noqa: E731
        value for _, value in rig.backend.range(KEY, start, end, limit)
    ]
    assert values(b"", END, 0) == [b"v2", b"v3t", b"v4"]
    assert values(b"", END, 2) == [b"v2", b"v3t"]
    assert values(row(2), row(4), 0) == [b"v2", b"v3t"]
    assert values(row(2), row(2), 0) == []
    assert values(row(4), row(2), 0) == []
    assert values(row(5), END, 0) == []


def test_tables_do_not_see_each_other(rig: Rig) -> None:
    for number, table in enumerate(TABLES):
        rig.backend.put(table, b"same key", b"%d" % number)
    rig.backend.end_entries(1, 1)
    rig.flush()
    for number, table in enumerate(TABLES):
        assert rig.backend.get(table, b"same key") == b"%d" % number


def test_forced_commit_survives_and_later_rows_do_not(rig: Rig) -> None:
    rig.backend.put(LEASE, b"a", b"1")
    rig.backend.end_entries(4, 2)
    rig.flush()
    rig.backend.put(LEASE, b"a", b"2")
    rig.backend.put(LEASE, b"b", b"2")
    rig.backend.end_entries(5, 2)
    assert rig.backend.applied() == (5, 2)
    assert rig.backend.durable_index == 4
    rig.kill("backend.before_commit")
    assert rig.backend.applied() == (4, 2)
    assert rig.backend.range(LEASE, b"", END, 0) == [(b"a", b"1")]


def test_half_an_entry_is_never_committed(rig: Rig) -> None:
    rig.backend.put(LEASE, b"a", b"1")
    rig.backend.end_entries(1, 1)
    rig.flush()
    rig.backend.put(LEASE, b"a", b"half")
    rig.kill("backend.before_commit")
    assert rig.backend.get(LEASE, b"a") == b"1"


def test_snapshot_does_not_move(rig: Rig) -> None:
    rig.backend.put(LEASE, b"a", b"1")
    rig.backend.end_entries(1, 1)
    rig.flush()
    view = rig.backend.snapshot()
    rig.backend.put(LEASE, b"a", b"2")
    rig.backend.end_entries(2, 1)
    rig.flush()
    assert view.range(LEASE, b"", END, 0) == [(b"a", b"1")]
    assert view.range(LEASE, b"a", END, 1) == [(b"a", b"1")]
    view.close()


def test_size_counts_what_is_there(rig: Rig) -> None:
    for number in range(1, 101):
        rig.backend.put(KEY, row(number), b"x" * 1000)
    rig.backend.end_entries(1, 1)
    rig.flush()
    full = rig.backend.size()
    assert 100_000 < full.in_use <= full.size
    rig.backend.delete_many(KEY, [row(number) for number in range(1, 101)])
    rig.backend.end_entries(2, 1)
    rig.flush()
    empty = rig.backend.size()
    assert empty.in_use < full.in_use // 2
    assert empty.size >= full.size
