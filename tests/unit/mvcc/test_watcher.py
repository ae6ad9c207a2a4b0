"""Watchers and their group: who is found for a key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mvcc.memory_backend import MemoryBackend
from mvcc.range_tree import RangeTree
from mvcc.store import Store
from mvcc.watchable_store import WatchableStore, WatchOptions
from mvcc.watcher import Watcher, WatcherGroup, is_prefix, prefix_end

STREAM = WatchableStore(Store(MemoryBackend())).open(lambda stream: None)


def watcher(serial: int, key: bytes, range_end: bytes = b"") -> Watcher:
    return Watcher(STREAM, serial, serial, WatchOptions(key, range_end))


def group_of(*ranges: tuple[bytes, bytes]) -> WatcherGroup:
    group = WatcherGroup()
    for serial, (key, range_end) in enumerate(ranges):
        group.add(watcher(serial, key, range_end))
    group.check_invariants()
    return group


def found(group: WatcherGroup, key: bytes) -> list[int]:
    return [serial for audience in group.find(key) for serial in audience.watchers]


DRAWN = ((b"a/1", b""), (b"a/", b"a0"), (b"a/0", b"a/2"), (b"b", b"\x00"), (b"a/1", b""))


def test_the_drawn_example() -> None:
    group = group_of(*DRAWN)
    assert found(group, b"a/1") == [0, 4, 1, 2]
    assert found(group, b"a/9") == [1]
    assert found(group, b"c") == [3]
    assert found(group, b"a") == []


def test_a_group_forgets_who_left() -> None:
    group = group_of(*DRAWN)
    for gone in list(group):
        group.remove(gone)
        group.check_invariants()
        assert gone.serial not in found(group, b"a/1") + found(group, b"b")
    assert len(group) == 0


def test_the_whole_store_and_from_a_key_on() -> None:
    group = group_of((b"\x00", b"\x00"), (b"m", b"\x00"), (b"\xff", b"\x00"))
    assert found(group, b"\x00") == [0]
    assert found(group, b"m") == [0, 1]
    assert found(group, b"\xff\xff") == [0, 1, 2]


def test_the_end_of_a_prefix() -> None:
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff\xff") == b"\x00"
    assert is_prefix(b"a", b"b") and not is_prefix(b"a", b"c")
    assert not is_prefix(b"\xff", b"\x00")


def test_prefixes_inside_prefixes() -> None:
    group = group_of((b"a", b"b"), (b"ab", b"ac"), (b"a\xff", b"b"), (b"abc", b"abd"))
    assert found(group, b"a") == [0]
    assert found(group, b"abcd") == [0, 1, 3]
    assert found(group, b"a\xff\xff") == [0, 2]


BYTES = st.binary(max_size=3).map(lambda raw: bytes(b"\x00ab\xff"[byte % 4] for byte in raw))


@given(st.lists(st.tuples(BYTES, BYTES), max_size=20), st.lists(BYTES, max_size=8), st.data())
def test_group_finds_what_a_walk_over_all_finds(
    ranges: list[tuple[bytes, bytes]], keys: list[bytes], data: st.DataObject
) -> None:
    ranges = [(key, end) for key, end in ranges if key and (end in (b"", b"\x00") or end > key)]
    group = group_of(*ranges)
    for gone in data.draw(
        st.lists(st.sampled_from(list(group)), unique=True) if ranges else st.just([])
    ):
        group.remove(gone)
    group.check_invariants()
    for key in keys:
        walked = [
            w.serial
            for w in group
            if (key == w.key if not w.range_end else w.key <= key)
            and (w.range_end in (b"", b"\x00") or key < w.range_end)
        ]
        assert sorted(found(group, key)) == walked


@given(st.lists(st.tuples(BYTES, st.one_of(st.none(), BYTES)), unique=True), st.data())
def test_tree_finds_ranges_in_their_order(
    ranges: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    tree: RangeTree[tuple] = RangeTree()
    for start, end in ranges:
        tree.add(start, end, (start, end))
    gone = data.draw(st.lists(st.sampled_from(ranges), unique=True) if ranges else st.just([]))
    for start, end in gone:
        tree.remove(start, end)
    left = [span for span in ranges if span not in gone]
    assert tree.check_invariants() == len(left) and bool(tree) == bool(left)
    for key in (b"", b"a", b"ab", b"\xff"):
        hit = [(s, e) for s, e in left if s <= key and (e is None or key < e)]
        assert tree.find(key) == sorted(hit, key=lambda span: (span[0], span[1] is None, span[1]))


def test_ten_thousand_ranges_are_no_chain() -> None:
    tree: RangeTree[int] = RangeTree()
    for i in range(10_000):
        tree.add(b"%05d" % i, b"%05d" % (i + 2), i)
    assert tree.find(b"05000") == [4999, 5000]
    assert tree.depth() < 50
