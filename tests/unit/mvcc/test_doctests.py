"""The examples in this package's docstrings run."""

from __future__ import annotations

import doctest

import pytest

from mvcc import key_index, range_tree, record, revision, schema, store, tree_index, watcher

MODULES = [key_index, range_tree, record, revision, schema, store, tree_index, watcher]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0
