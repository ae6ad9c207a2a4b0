"""RangeTree: which of many half-open ranges hold a key, in O(log n) plus what is found.

A treap in the order of the starts; each node knows the farthest end below it:

        [d, k) reach: open
       /               \\
    [a, e) reach e    [f, open)           find(b"c"): the left node; below [d, k) all ends are
                                          looked at, but nothing that starts after c

Its shape comes from a counter, not from chance: the same calls give the same tree.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Generic, TypeVar

Item = TypeVar("Item")

_STEP = 6364136223846793005
_ADD = 1442695040888963407
_MASK = 2**64 - 1


class _Node(Generic[Item]):
    """- `end` None: open.
    - `reach`: the greatest end of this node and all below it, None when one of them is open.
    - `weight`: not below those of its children.
    """

    __slots__ = ("end", "item", "left", "order", "reach", "right", "start", "weight")

    def __init__(self, start: bytes, end: bytes | None, item: Item, weight: int) -> None:
        self.start = start
        self.end = self.reach = end
        self.order = _order(start, end)
        self.item = item
        self.weight = weight
        self.left: _Node[Item] | None = None
        self.right: _Node[Item] | None = None

    def settle(self) -> _Node[Item]:
        """The reach, after a child changed."""
        reach = self.end
        for child in (self.left, self.right):
            if child is not None and reach is not None:
                reach = None if child.reach is None else max(reach, child.reach)
        self.reach = reach
        return self


class RangeTree(Generic[Item]):
    """Items by the range [start, end), each range at most once; `end` None: to the last key.

    >>> tree = RangeTree()
    >>> tree.add(b"a", b"e", "early"); tree.add(b"d", None, "late")
    >>> tree.find(b"d"), tree.find(b"e")
    (['early', 'late'], ['late'])
    """

    __slots__ = ("_root", "_weight")

    def __init__(self) -> None:
        self._root: _Node[Item] | None = None
        self._weight = 1

    def __bool__(self) -> bool:
        return self._root is not None

    def add(self, start: bytes, end: bytes | None, item: Item) -> None:
        self._weight = (self._weight * _STEP + _ADD) & _MASK
        self._root = _add(self._root, _Node(start, end, item, self._weight))

    def remove(self, start: bytes, end: bytes | None) -> None:
        """The range must be there."""
        self._root = _remove(self._root, _order(start, end))

    def find(self, key: bytes) -> list[Item]:
        """The items whose range holds the key, by start."""
        found: list[Item] = []
        _find(self._root, key, found)
        return found

    def depth(self) -> int:
        """About twice the logarithm of the number of ranges, whatever their order."""
        return _depth(self._root)

    def check_invariants(self) -> int:
        """The lines of the node's docstring, and the order; how many ranges there are."""
        nodes: list[_Node[Item]] = []
        _check(self._root, nodes)
        orders = [node.order for node in nodes]
        assert orders == sorted(orders), "ranges out of order"
        assert all(a != b for a, b in pairwise(orders)), "a range twice"
        return len(nodes)


def _order(start: bytes, end: bytes | None) -> tuple[bytes, bool, bytes]:
    return start, end is None, end or b""


def _add(node: _Node[Item] | None, new: _Node[Item]) -> _Node[Item]:
    if node is None:
        return new
    if new.weight > node.weight:
        new.left, new.right = _split(node, new.order)
        return new.settle()
    if new.order < node.order:
        node.left = _add(node.left, new)
    else:
        node.right = _add(node.right, new)
    return node.settle()


def _remove(node: _Node[Item] | None, order: tuple[bytes, bool, bytes]) -> _Node[Item] | None:
    assert node is not None, f"no range {order}"
    if order == node.order:
        return _join(node.left, node.right)
    if order < node.order:
        node.left = _remove(node.left, order)
    else:
        node.right = _remove(node.right, order)
    return node.settle()


def _split(
    node: _Node[Item] | None, order: tuple[bytes, bool, bytes]
) -> tuple[_Node[Item] | None, _Node[Item] | None]:
    """(what is below `order`, the rest)"""
    if node is None:
        return None, None
    if node.order < order:
        node.right, rest = _split(node.right, order)
        return node.settle(), rest
    below, node.left = _split(node.left, order)
    return below, node.settle()


def _join(left: _Node[Item] | None, right: _Node[Item] | None) -> _Node[Item] | None:
    """Everything in `left` is below everything in `right`."""
    if left is None or right is None:
        return left or right
    if left.weight > right.weight:
        left.right = _join(left.right, right)
        return left.settle()
    right.left = _join(left, right.left)
    return right.settle()


def _find(node: _Node[Item] | None, key: bytes, found: list[Item]) -> None:
    while node is not None and (node.reach is None or key < node.reach):
        if node.left is not None:
            _find(node.left, key, found)
        if key < node.start:
            return
        if node.end is None or key < node.end:
            found.append(node.item)
        node = node.right


def _depth(node: _Node[Item] | None) -> int:
    return 0 if node is None else 1 + max(_depth(node.left), _depth(node.right))


def _check(node: _Node[Item] | None, nodes: list[_Node[Item]]) -> None:
    if node is None:
        return
    reach = node.reach
    assert node.settle().reach == reach, f"reach of [{node.start!r}, {node.end!r}) is {reach!r}"
    for child in (node.left, node.right):
        assert child is None or child.weight <= node.weight, "a child outweighs its parent"
    _check(node.left, nodes)
    nodes.append(node)
    _check(node.right, nodes)
