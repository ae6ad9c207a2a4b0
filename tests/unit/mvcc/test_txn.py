"""Ranges and write transactions over a small store."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mvcc.errors import Compacted, CorruptionError, FutureRevision
from mvcc.kv import EventType, KeyValue, RangeOptions, SortOrder, SortTarget
from mvcc.memory_backend import MemoryBackend
from mvcc.revision import Revision, row_key
from mvcc.store import Store
from mvcc.txn import LeaseChange

ALL = (b"\0", b"\0")


class CountingBackend(MemoryBackend):
    """Counts the rows read."""

    reads = 0

    def get_many(self, table, keys):
        self.reads += len(keys)
        return super().get_many(table, keys)


@pytest.fixture
def store() -> Store:
    return Store(CountingBackend())


def put(store: Store, key: bytes, value: bytes = b"", lease: int = 0) -> int:
    txn = store.write()
    txn.put(key, value, lease)
    return txn.end()


def delete(store: Store, key: bytes, end: bytes = b"") -> int:
    txn = store.write()
    txn.delete_range(key, end)
    return txn.end()


def keys(result) -> list[bytes]:
    return [kv.key for kv in result.kvs]


# Ranges


@pytest.mark.parametrize(
    ("key", "end", "expected"),
    [
        (b"b", b"", [b"b"]),
        (b"bb", b"", []),
        (b"b", b"d", [b"b", b"b\0", b"c"]),
        (b"b", b"\0", [b"b", b"b\0", b"c", b"d\xff"]),
        (b"\0", b"\0", [b"a", b"b", b"b\0", b"c", b"d\xff"]),
        (b"c", b"b", []),
        (b"c", b"c", []),
        (b"d", b"e", [b"d\xff"]),
        (b"e", b"\0", []),
    ],
)
def test_spans_now_and_in_the_past(store, key, end, expected):
    for name in (b"c", b"a", b"d\xff", b"b", b"b\0"):
        past = put(store, name)
    now = store.range(key, end)
    assert (keys(now), now.count, now.more) == (expected, len(expected), False)
    delete(store, *ALL)
    assert store.range(key, end).kvs == []
    then = store.range(key, end, RangeOptions(revision=past))
    assert (then.kvs, then.count, then.revision) == (now.kvs, now.count, past + 1)


def test_a_fresh_store_is_at_revision_one(store):
    assert store.range(b"a") == ([], 0, False, 1)
    assert put(store, b"a") == 2


@pytest.mark.parametrize("limit", [0, -1, 1, 2, 3, 4])
@pytest.mark.parametrize("revision", [0, 4])
def test_limit_cuts_and_says_more(store, limit, revision):
    for name in (b"a", b"b", b"c"):
        put(store, name)
    if revision:
        delete(store, b"b")
    result = store.range(*ALL, RangeOptions(limit=limit, revision=revision))
    expected = [b"a", b"b", b"c"][: limit if limit > 0 else None]
    assert (keys(result), result.count, result.more) == (expected, 3, 0 < limit < 3)


def test_a_limit_reads_one_row_more(store):
    for i in range(9):
        put(store, b"%d" % i)
    store.range(*ALL, RangeOptions(limit=2))
    assert store.backend.reads == 3


def test_the_last_keys_by_name_are_read_from_the_end(store):
    for i in range(9):
        put(store, b"%d" % i)
    result = store.range(*ALL, RangeOptions(limit=2, sort_order=SortOrder.DESCEND))
    assert (keys(result), result.count, result.more) == ([b"8", b"7"], 9, True)
    assert store.backend.reads == 3


def sorted_store(store: Store) -> Store:
    """s1 created and written first, s0 created last, s2 written last and twice."""
    for name, value in ((b"s1", b"2"), (b"s2", b"9"), (b"s0", b"3"), (b"s2", b"1")):
        put(store, name, value)
    return store


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        (SortTarget.KEY, [b"s0", b"s1", b"s2"]),
        (SortTarget.VERSION, [b"s0", b"s1", b"s2"]),
        (SortTarget.CREATE, [b"s1", b"s2", b"s0"]),
        (SortTarget.MOD, [b"s1", b"s0", b"s2"]),
        (SortTarget.VALUE, [b"s2", b"s1", b"s0"]),
    ],
)
def test_sorting(store, target, ascending):
    sorted_store(store)
    for order in (SortOrder.NONE, SortOrder.ASCEND):
        options = RangeOptions(sort_order=order, sort_target=target)
        assert keys(store.range(*ALL, options)) == ascending
    down = store.range(*ALL, RangeOptions(sort_order=SortOrder.DESCEND, sort_target=target))
    if target != SortTarget.VERSION:
        assert keys(down) == ascending[::-1]
    one = store.range(*ALL, RangeOptions(limit=1, sort_order=SortOrder.DESCEND, sort_target=target))
    assert (one.kvs, one.more, one.count) == (down.kvs[:1], True, 3)


def test_a_sort_target_without_order_sorts_only_what_the_limit_reads(store):
    for name, value in ((b"l0", b"3"), (b"l1", b"2"), (b"l2", b"1")):
        put(store, name, value)
    by_value = RangeOptions(limit=1, sort_target=SortTarget.VALUE)
    assert keys(store.range(*ALL, by_value)) == [b"l1"]
    ordered = by_value._replace(sort_order=SortOrder.ASCEND)
    assert keys(store.range(*ALL, ordered)) == [b"l2"]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("min_mod_revision", [b"s0", b"s2"]),
        ("max_mod_revision", [b"s0", b"s1"]),
        ("min_create_revision", [b"s0"]),
        ("max_create_revision", [b"s0", b"s1", b"s2"]),
    ],
)
def test_filters_do_not_change_the_count(store, field, expected):
    sorted_store(store)
    options = RangeOptions(**{field: 4})
    result = store.range(*ALL, options)
    assert (keys(result), result.count, result.more) == (expected, 3, False)
    cut = store.range(*ALL, options._replace(limit=1))
    assert (keys(cut), cut.more) == (expected[:1], len(expected) > 1)


def test_count_only_reads_no_row(store):
    for name in (b"a", b"b", b"c"):
        put(store, name)
    delete(store, b"b")
    for revision, count in ((0, 2), (4, 3), (3, 2)):
        options = RangeOptions(count_only=True, revision=revision, limit=1, min_mod_revision=99)
        assert store.range(*ALL, options) == ([], count, False, 5)
    assert store.backend.reads == 0


@pytest.mark.parametrize("revision", [0, 3])
def test_keys_only(store, revision):
    put(store, b"a", b"2", lease=7)
    put(store, b"b", b"1")
    put(store, b"c", b"0")
    options = RangeOptions(keys_only=True, revision=revision)
    a, b, *_ = store.range(*ALL, options).kvs
    assert a == KeyValue(b"a", b"", 2, 2, 1, 7)
    assert b == KeyValue(b"b", b"", 3, 3, 1, 0)
    by_value = store.range(*ALL, options._replace(sort_target=SortTarget.VALUE))
    assert by_value.kvs[-1] == a
    assert [kv.value for kv in by_value.kvs] == [b""] * len(by_value.kvs)


def test_keys_only_now_is_answered_by_the_index(store):
    put(store, b"a", b"x")
    store.range(*ALL, RangeOptions(keys_only=True))
    assert store.backend.reads == 0


def test_revisions_refused(store):
    for value in (b"1", b"2", b"3"):
        put(store, b"k", value)
    store.compact(3)
    assert store.range(b"k", b"", RangeOptions(revision=3)).kvs[0].value == b"2"
    with pytest.raises(Compacted) as compacted:
        store.range(b"k", b"", RangeOptions(revision=2))
    assert (compacted.value.revision, compacted.value.compact_revision) == (2, 3)
    with pytest.raises(FutureRevision) as future:
        store.range(b"k", b"", RangeOptions(revision=5, count_only=True))
    assert (future.value.revision, future.value.current_revision) == (5, 4)
    assert store.range(b"k", b"", RangeOptions(revision=-1)).kvs[0].value == b"3"


# Ranges in steps


def fill(store: Store, count: int) -> list[bytes]:
    names = [b"%03d" % i for i in range(count)]
    for name in names:
        put(store, name, name)
    return names


def test_steps_pause_after_each_slice(store):
    names = fill(store, 7)
    *pauses, result = store.range_steps(*ALL, slice_keys=2)
    assert pauses == [None] * 3
    assert (keys(result), result.count, result.more) == (names, 7, False)


@pytest.mark.parametrize("limit", [0, 4])
def test_writes_between_steps_do_not_show(store, limit):
    names = fill(store, 7)
    before = store.range(*ALL, RangeOptions(limit=limit))
    steps = store.range_steps(*ALL, RangeOptions(limit=limit), slice_keys=2)
    assert next(steps) is None
    put(store, names[0], b"changed")
    put(store, names[3], b"changed")
    put(store, b"0021", b"new")
    delete(store, names[2])
    delete(store, names[6])
    *_, result = steps
    assert result == before


def test_a_compaction_between_steps_refuses_the_rest(store):
    fill(store, 5)
    steps = store.range_steps(*ALL, slice_keys=2)
    next(steps)
    put(store, b"x")
    job = store.compact(store.current_rev)
    assert job.step(100)
    with pytest.raises(Compacted):
        next(steps)


def test_a_row_the_index_names_but_the_backend_lost_is_corruption(store):
    put(store, b"k", b"v")
    store.backend.delete("key", row_key(2, 0))
    for end in (b"", b"\0"):
        with pytest.raises(CorruptionError):
            store.range(b"k", end)


def test_options_on_one_key(store):
    put(store, b"k", b"1", 7)
    put(store, b"k", b"2")
    found = KeyValue(b"k", b"1", 2, 2, 1, 7)
    options = RangeOptions(revision=2)
    assert store.range(b"k", b"", options) == ([found], 1, False, 3)
    assert list(store.range_steps(b"k", b"", options)) == [([found], 1, False, 3)]
    short = store.range(b"k", b"", options._replace(keys_only=True, limit=1))
    assert short == ([replace(found, value=b"")], 1, False, 3)
    assert store.range(b"k", b"", options._replace(count_only=True)) == ([], 1, False, 3)
    assert store.range(b"k", b"", options._replace(min_mod_revision=3)) == ([], 1, False, 3)
    assert store.range(b"k", b"", RangeOptions(revision=1)) == ([], 0, False, 3)


# Writing


def test_fields_over_a_life(store):
    put(store, b"k", b"1", lease=5)
    put(store, b"k", b"2")
    assert store.get(b"k") == KeyValue(b"k", b"2", 2, 3, 2, 0)
    delete(store, b"k")
    assert store.get(b"k") is None
    put(store, b"k", b"3")
    assert store.get(b"k") == KeyValue(b"k", b"3", 5, 5, 1, 0)


def test_an_equal_value_is_a_revision_and_an_empty_txn_is_none(store):
    assert put(store, b"k", b"v") == 2
    assert put(store, b"k", b"v") == 3
    assert delete(store, b"missing") == 3
    assert store.write().end() == 3
    assert delete(store, b"k") == 4


def test_a_txn_sees_its_own_changes_at_one_revision(store):
    put(store, b"a", b"old")
    txn = store.write()
    assert (txn.revision, txn.range(b"a").revision) == (2, 2)
    txn.put(b"a", b"new")
    txn.put(b"b", b"b")
    assert txn.range(*ALL) == ([txn.get(b"a"), txn.get(b"b")], 2, False, 3)
    assert txn.get(b"a") == KeyValue(b"a", b"new", 2, 3, 2, 0)
    assert txn.range(b"a", b"", RangeOptions(revision=2)).kvs[0].value == b"old"
    assert txn.delete_range(*ALL) == [(b"a", Revision(3, 0)), (b"b", Revision(3, 1))]
    assert txn.range(*ALL).count == 0
    assert store.current_rev == 2
    assert txn.end() == 3


def test_a_read_of_the_store_inside_a_txn_sees_the_state_before(store):
    put(store, b"a", b"old")
    txn = store.write()
    txn.put(b"a", b"new")
    txn.delete_range(b"a")
    for end in (b"", b"\0"):
        assert store.range(b"a", end) == ([KeyValue(b"a", b"old", 2, 2, 1, 0)], 1, False, 2)
    txn.end()
    assert store.range(b"a").kvs == []


def test_the_future_of_a_txn_begins_after_its_first_change(store):
    txn = store.write()
    with pytest.raises(FutureRevision):
        txn.check_revision(2)
    txn.put(b"k", b"")
    assert txn.check_revision(2) == 2


def test_deleted_states_stay_readable(store):
    put(store, b"a", b"1")
    put(store, b"b", b"2")
    txn = store.write()
    deleted = txn.delete_range(b"a", b"\0")
    txn.end()
    states = store.read_many([revision for _, revision in deleted])
    assert [(kv.key, kv.value) for kv in states] == [(b"a", b"1"), (b"b", b"2")]


def test_changes_are_the_events_that_history_tells(store):
    put(store, b"a", b"1", lease=4)
    txn = store.write()
    txn.put(b"b", b"2")
    txn.put(b"b", b"3")
    txn.delete_range(b"a")
    events = txn.changes()
    with_prev = txn.changes(prev_kv=True)
    txn.end()
    assert store.events(3, 4, 0) == events
    assert [e.type for e in events] == [EventType.PUT, EventType.PUT, EventType.DELETE]
    assert events[2].kv == KeyValue(b"a", mod_revision=3)
    assert [e.prev_kv for e in with_prev] == [
        None,
        KeyValue(b"b", b"2", 3, 3, 1, 0),
        KeyValue(b"a", b"1", 2, 2, 1, 4),
    ]


def test_one_writer_at_a_time(store):
    txn = store.write()
    with pytest.raises(AssertionError):
        store.write()
    txn.end()
    with pytest.raises(AssertionError):
        txn.end()


def test_lease_moves(store):
    txn = store.write()
    txn.put(b"a", b"", 7)
    txn.put(b"a", b"", 7)
    txn.put(b"a", b"", 8)
    txn.put(b"b", b"", 8)
    txn.put(b"b", b"", 0)
    txn.delete_range(b"a")
    txn.end()
    assert txn.lease_changes == [
        LeaseChange(b"a", 0, 7),
        LeaseChange(b"a", 7, 8),
        LeaseChange(b"b", 0, 8),
        LeaseChange(b"b", 8, 0),
        LeaseChange(b"a", 8, 0),
    ]
    assert store.leases == {}
    put(store, b"c", b"", 9)
    assert (store.lease_of(b"c"), store.lease_of(b"a")) == (9, 0)


@pytest.mark.parametrize("limit", [0, 1, 12, 39, 40])
@pytest.mark.parametrize("order", SortOrder)
@pytest.mark.parametrize("target", SortTarget)
def test_a_long_range_is_sorted_in_steps_as_at_once(
    monkeypatch: pytest.MonkeyPatch, target: SortTarget, order: SortOrder, limit: int
) -> None:
    monkeypatch.setattr("mvcc.txn.SORT_KEYS", 7)
    store = Store(MemoryBackend())
    for number in range(60):
        txn = store.write()
        txn.put(b"%02d" % (number * 7 % 40), b"%d" % (number % 3))
        txn.end()
    options = RangeOptions(limit=limit, sort_order=order, sort_target=target, max_mod_revision=61)
    *steps, result = store.range_steps(b"\0", b"\0", options, slice_keys=3)
    assert result == store.range(b"\0", b"\0", options)
    assert len(steps) >= 12 and not any(steps)
