"""One key's history: the tables of what compaction keeps, for every revision."""

from __future__ import annotations

import pytest

from mvcc.key_index import KeyIndex
from mvcc.revision import Revision, decode_row_key, is_tombstone


def entry_of(history: str) -> KeyIndex:
    """`2 4 6t 8` : puts at 2, 4 and 8, a delete at 6."""
    first, *rest = history.split()
    entry = KeyIndex(b"k", int(first), 0, int(first), 1)
    for change in rest:
        if change.endswith("t"):
            entry.tombstone(int(change[:-1]), 0)
        else:
            entry.put(int(change), 0)
    return entry


def drawn(entry: KeyIndex) -> str:
    """The generations as in the tables: {2 4 6t} {8}"""
    lives = entry.generations()
    return " ".join(
        "{"
        + " ".join(
            f"{r.main}t" if i < len(lives) - 1 and r is life[-1] else str(r.main) for r in life
        )
        + "}"
        for i, life in enumerate(lives)
    )


def names(rows: list[bytes]) -> list[str]:
    return [f"{decode_row_key(row).main}{'t' if is_tombstone(row) else ''}" for row in rows]


A = "2 4 6t 8 9 11t 14"
TABLE_A = [
    # revision, generations afterwards, kept, read at the revision
    (1, "{2 4 6t} {8 9 11t} {14}", None, None),
    (2, "{2 4 6t} {8 9 11t} {14}", 2, 2),
    (3, "{2 4 6t} {8 9 11t} {14}", 2, 2),
    (4, "{4 6t} {8 9 11t} {14}", 4, 4),
    (5, "{4 6t} {8 9 11t} {14}", 4, 4),
    (6, "{6t} {8 9 11t} {14}", 6, None),
    (7, "{8 9 11t} {14}", None, None),
    (8, "{8 9 11t} {14}", 8, 8),
    (9, "{9 11t} {14}", 9, 9),
    (10, "{9 11t} {14}", 9, 9),
    (11, "{11t} {14}", 11, None),
    (12, "{14}", None, None),
    (13, "{14}", None, None),
    (14, "{14}", 14, 14),
    (15, "{14}", 14, 14),
]
B = "3 5t"
TABLE_B = [
    (1, "{3 5t} {}", None, None),
    (2, "{3 5t} {}", None, None),
    (3, "{3 5t} {}", 3, 3),
    (4, "{3 5t} {}", 3, 3),
    (5, "{5t} {}", 5, None),
]
C = "7"
TABLE_C = [(6, "{7}", None, None), (7, "{7}", 7, 7), (8, "{7}", 7, 7)]
D = "2 5 6t"
TABLE_D = [(5, "{5 6t} {}", 5, 5), (6, "{6t} {}", 6, None)]
ROWS = [
    (history, *row)
    for history, table in ((A, TABLE_A), (B, TABLE_B), (C, TABLE_C), (D, TABLE_D))
    for row in table
]


@pytest.mark.parametrize(("history", "revision", "after", "kept", "read"), ROWS)
def test_tables(history, revision, after, kept, read):
    entry = entry_of(history)
    assert entry.keep(revision) == (kept and Revision(kept, 0))
    assert entry.at(revision) == (read and Revision(read, 0))
    assert not entry.vanishes(revision)
    dead = names(entry.compact(revision))
    assert drawn(entry) == after
    left = after.replace("{", "").replace("}", "").split()
    assert dead + left == history.split()
    assert entry.at(revision) == (read and Revision(read, 0))
    assert entry.starts_dead_at(revision) == (kept is not None and read is None)
    entry.check_invariants()


@pytest.mark.parametrize(("history", "revision"), [(B, 6), (B, 9), (D, 7)])
def test_a_deleted_key_vanishes_above_its_tombstone(history, revision):
    entry = entry_of(history)
    assert entry.vanishes(revision)
    assert entry.keep(revision) is None
    assert names(entry.compact(revision)) == history.split()


def test_compactions_compose():
    once, twice = entry_of(A), entry_of(A)
    dead = twice.compact(4) + twice.compact(6)
    assert dead == once.compact(6)
    assert twice == once


def test_version_and_create_revision_survive_compaction():
    entry = entry_of("2 4 6")
    entry.compact(6)
    entry.put(9, 0)
    assert (entry.created, entry.version) == (2, 4)


def test_a_new_life_starts_at_version_one():
    entry = entry_of("2 4 6t")
    assert (entry.created, entry.version) == (0, 0)
    entry.put(8, 3)
    assert (entry.created, entry.version, entry.sub) == (8, 1, 3)


def test_of_one_transaction_the_last_change_counts():
    entry = KeyIndex(b"k", 2, 0, 2, 1)
    entry.put(2, 3)
    entry.put(5, 0)
    entry.tombstone(5, 1)
    entry.put(5, 2)
    assert entry.at(2) == Revision(2, 3)
    assert entry.at(5) == Revision(5, 2)
    assert entry.since(2) == [Revision(2, 3), Revision(5, 2)]
    assert names(entry.compact(5)) == ["2", "2", "5", "5t"]
    assert entry.generations() == [[Revision(5, 2)]]


@pytest.mark.parametrize(
    ("revision", "expected"),
    [(1, [2, 4, 6, 8, 9, 11, 14]), (6, [6, 8, 9, 11, 14]), (10, [11, 14]), (14, [14]), (15, [])],
)
def test_since(revision, expected):
    assert [r.main for r in entry_of(A).since(revision)] == expected


@pytest.mark.parametrize(
    ("main", "expected"), [(2, None), (4, 2), (6, 4), (8, None), (9, 8), (14, None), (5, None)]
)
def test_before(main, expected):
    assert entry_of(A).before(main, 0) == (expected and Revision(expected, 0))


def test_what_a_compaction_took_is_not_before_anything():
    entry = entry_of("2 4 6")
    entry.compact(5)
    assert entry.before(6, 0) == Revision(4, 0)
    entry.compact(6)
    assert entry.before(6, 0) is None


def test_out_of_order_and_double_deletes_are_our_fault():
    entry = entry_of("2 4")
    for main, sub in ((4, 0), (3, 1)):
        with pytest.raises(AssertionError):
            entry.put(main, sub)
    entry.tombstone(5, 0)
    with pytest.raises(AssertionError):
        entry.tombstone(6, 0)
    assert drawn(entry) == "{2 4 5t} {}"


def test_one_revision_is_held_without_a_past():
    entry = entry_of("2 4")
    assert entry.past is not None
    entry.compact(4)
    assert entry.past is None
