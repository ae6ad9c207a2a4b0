"""Unions of key ranges: what joins, what covers what, and the bound above every key."""

from __future__ import annotations

import operator

import pytest

from node.apply.key_ranges import NO_END, KeyRanges, end_of

Span = tuple[bytes, bytes]


def union(*spans: Span) -> KeyRanges:
    """Spans as a permission says them: an empty end is one key, a zero byte no bound."""
    ranges = KeyRanges()
    for key, range_end in spans:
        ranges.add(key, end_of(key, range_end))
        ranges.check_invariants()
    return ranges


def test_the_drawn_example() -> None:
    ranges = union((b"a", b"c"), (b"c", b"e"), (b"x", b"\0"))
    assert ranges.covers(b"b", b"d")
    assert not ranges.covers(b"b", b"f")
    assert not ranges.covers(b"e", b"x")
    assert ranges.covers(b"y", NO_END)


@pytest.mark.parametrize(
    ("spans", "asked", "covered"),
    [
        ([], (b"a", b""), False),
        ([(b"a", b"")], (b"a", b""), True),
        ([(b"a", b"")], (b"a\0", b""), False),
        ([(b"a", b"")], (b"a", b"a\0"), True),
        ([(b"a", b"")], (b"a", b"b"), False),
        ([(b"a", b""), (b"a\0", b"b")], (b"a", b"b"), True),
        ([(b"a", b"c")], (b"c", b""), False),
        ([(b"a", b"c")], (b"a", b"c"), True),
        ([(b"a", b"c")], (b"a", b"c\0"), False),
        ([(b"c", b"e"), (b"a", b"c")], (b"b", b"d"), True),
        ([(b"a", b"d"), (b"b", b"c")], (b"a", b"d"), True),
        ([(b"a", b"b"), (b"c", b"d")], (b"a", b"d"), False),
        ([(b"a", b"b"), (b"c", b"d"), (b"b", b"c")], (b"a", b"d"), True),
        ([(b"a", b"c")], (b"a", b"\0"), False),
        ([(b"b", b"\0")], (b"b", b"\0"), True),
        ([(b"b", b"\0")], (b"a", b"\0"), False),
        ([(b"b", b"\0")], (b"\xff" * 100, b""), True),
        ([(b"a", b"b"), (b"b", b"\0")], (b"a", b"\0"), True),
        ([(b"b", b"\0"), (b"a", b"c")], (b"a", b"\0"), True),
        ([(b"b", b"\0"), (b"c", b"\0"), (b"d", b"e")], (b"b", b"\0"), True),
        ([(b"\0", b"\0")], (b"\0", b"\0"), True),
        ([(b"a", b"c")], (b"b", b"a"), True),
        ([(b"a", b"c")], (b"d", b"a"), False),
        ([(b"c", b"a")], (b"c", b""), False),
    ],
)
def test_covers(spans: list[Span], asked: Span, covered: bool) -> None:
    key, range_end = asked
    assert union(*spans).covers(key, end_of(key, range_end)) == covered


def test_a_key_is_in_the_union_or_not() -> None:
    ranges = union((b"a", b"c"), (b"x", b"\0"))
    assert [key for key in (b"", b"a", b"b\xff", b"c", b"w\xff", b"x", b"z") if key in ranges] == [
        b"a",
        b"b\xff",
        b"x",
        b"z",
    ]


@pytest.mark.parametrize("key", [b"", b"\0", b"\xff" * 1000])
def test_no_end_is_above_every_key(key: bytes) -> None:
    comparisons = (operator.lt, operator.le, operator.gt, operator.ge)
    assert [each(key, NO_END) for each in comparisons] == [True, True, False, False]
    assert [each(NO_END, key) for each in comparisons] == [False, False, True, True]
    assert [each(NO_END, NO_END) for each in comparisons] == [False, True, False, True]
    assert max(key, NO_END) is NO_END
    assert min(NO_END, key) is key
