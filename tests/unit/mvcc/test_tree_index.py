"""Keys in order, and the journal of what is to compact."""

from __future__ import annotations

import pytest

from mvcc.key_index import KeyIndex
from mvcc.revision import Revision, row_key, tombstone_key
from mvcc.tree_index import Journal, Span, TreeIndex

ALL = Span(b"\0", b"\0")


def index_of(*changes: str) -> TreeIndex:
    """`a` puts, `-a` deletes; the mains are 2, 3, ..."""
    index = TreeIndex()
    for main, change in enumerate(changes, 2):
        name = change.lstrip("-").encode()
        if change.startswith("-"):
            entry = index.get(name)
            assert entry is not None
            index.tombstone(entry, main, 0)
        else:
            index.put(name, main, 0)
    index.check_invariants()
    return index


def names(entries: list[KeyIndex]) -> list[bytes]:
    return [entry.key for entry in entries]


def test_live_and_gone_are_apart():
    index = index_of("b", "a", "c", "-a", "-c", "c")
    assert (list(index.live), list(index.gone)) == ([b"b", b"c"], [b"a"])
    assert names(index.present(ALL, None)) == [b"b", b"c"]
    assert names(index.present(ALL, 1)) == [b"b"]
    assert names(index.present(ALL, 1, reverse=True)) == [b"c"]
    assert index.get(b"a") is None
    assert index.modified == 7


@pytest.mark.parametrize(
    ("key", "end", "count"),
    [(b"a", b"\0", 3), (b"b", b"d", 2), (b"b", b"", 1), (b"x", b"", 0), (b"c", b"a", 0)],
)
def test_count(key, end, count):
    index = index_of("a", "b", "c", "x", "-x")
    assert index.count(Span(key, end)) == count


def test_the_past_is_walked_in_slices_over_live_and_gone():
    index = index_of("b", "a", "c", "-a", "c")
    states, cursor = index.past(ALL, 4, 2)
    assert (states, cursor) == ([Revision(3, 0), Revision(2, 0)], b"b\0")
    assert index.past(Span(cursor, b"\0"), 4, 2) == ([Revision(4, 0)], None)
    assert index.past(Span(b"a", b"b"), 4, None) == ([Revision(3, 0)], None)
    assert index.past(Span(b"b", b"a"), 4, None) == ([], None)


def test_compaction_forgets_a_deleted_key():
    index = index_of("a", "b", "-a", "b")
    assert index.compact(5, 10) == [row_key(2, 0), tombstone_key(4, 0), row_key(3, 0)]
    assert index.compact(5, 10) is None
    assert (list(index.entries), list(index.gone)) == ([b"b"], [])
    index.check_invariants()


def test_a_tombstone_at_the_revision_waits_for_the_next_compaction():
    index = index_of("a", "-a", "b")
    assert index.compact(3, 10) == [row_key(2, 0)]
    assert index.compact(3, 10) is None
    assert len(index.journal) == 1
    index.put(b"a", 5, 0)
    assert index.compact(4, 10) == [tombstone_key(3, 0)]
    assert [entry.key for entry in index.present(ALL, None)] == [b"a", b"b"]
    assert len(index.journal) == 0
    index.check_invariants()


def test_the_journal_hands_out_due_visits_in_order():
    journal = Journal()
    entries = [KeyIndex(b"%d" % i, 2, 0, 2, 1) for i in range(5)]
    for main, entry in zip((3, 3, 5, 8, 9), entries, strict=True):
        journal.note(main, entry)
    assert [main for main, _ in journal.take(8, 3)] == [3, 3, 5]
    journal.keep(8, entries[0])
    assert [entry.key for _, entry in journal.take(8, 3)] == [b"3"]
    assert journal.take(8, 3) == []
    assert [(main, entry.key) for main, entry in journal.take(9, 3)] == [(8, b"0")]
    assert [(main, entry.key) for main, entry in journal.take(9, 3)] == [(9, b"4")]
    assert len(journal) == 0


def test_order_is_restored_in_slices():
    index = TreeIndex()
    for i in range(7):
        index.restore_row(KeyIndex(b"%d" % (9 - i), i + 2, 0, i % 2, i % 2))
    index.modified = 9
    assert len(list(index.restore_order(3))) == 3
    index.check_invariants()
    assert (len(index.live), len(index.gone)) == (3, 4)
