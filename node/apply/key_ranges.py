"""Unions of half-open key ranges, as permissions and txns add them up.

add [a, c)   add [c, e)   add [x, no end)      ->   [a, e) [x, no end)
covers [b, d)   not [b, f)   not [e, x)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise


class _NoEnd(bytes):
    """The bound above every key: compares as no bytes can."""

    def __lt__(self, other: bytes) -> bool:
        return False

    def __le__(self, other: bytes) -> bool:
        return other is self

    def __gt__(self, other: bytes) -> bool:
        return other is not self

    def __ge__(self, other: bytes) -> bool:
        return True


NO_END = _NoEnd()


def end_of(key: bytes, range_end: bytes) -> bytes:
    """The bound that a request or permission means: an empty `range_end` is behind one key, a zero
    byte is no bound.
    """
    if not range_end:
        return key + b"\0"
    return NO_END if range_end == b"\0" else range_end


class KeyRanges:
    """A union of ranges, kept disjoint and never touching: starts and ends ascend together."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def add(self, start: bytes, end: bytes) -> None:
        """O(log n) to find the place, and it swallows the ranges it touches. Empty ones are
        nothing.
        """
        if start >= end:
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def update(self, other: KeyRanges) -> None:
        """Take in another union, which is not to be used afterwards: the smaller one is added."""
        if len(other._starts) > len(self._starts):
            self._starts, other._starts = other._starts, self._starts
            self._ends, other._ends = other._ends, self._ends
        for start, end in zip(other._starts, other._ends, strict=True):
            self.add(start, end)

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key) - 1
        return at >= 0 and key < self._ends[at]

    def meets(self, keys: Sequence[bytes]) -> bool:
        """Whether any of these keys, ascending, is in the union; O(log) of the longer per each of
        the shorter.
        """
        if len(keys) <= len(self._starts):
            return any(key in self for key in keys)
        for start, end in zip(self._starts, self._ends, strict=True):
            at = bisect_left(keys, start)
            if at < len(keys) and keys[at] < end:
                return True
        return False

    def covers(self, start: bytes, end: bytes) -> bool:
        """Whether all of [start, end) is in the union; of an empty range, whether `start` is."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and start < self._ends[at] and end <= self._ends[at]

    def check_invariants(self) -> None:
        bounds = [bound for pair in zip(self._starts, self._ends, strict=True) for bound in pair]
        assert all(a < b for a, b in pairwise(bounds)), bounds
