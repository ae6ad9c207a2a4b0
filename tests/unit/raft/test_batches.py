"""Portions of proposals and of committed entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.batches import ProposalBatch, conf_changes_apart
from raft.core.types import Entry, EntryType


@pytest.mark.parametrize(
    ("sizes", "portions"),
    [
        ([], []),
        ([5], [[5]]),
        ([50, 50], [[50, 50]]),
        ([50, 50, 1], [[50, 50], [1]]),
        ([500], [[500]]),
        ([1, 500, 1, 1], [[1], [500], [1, 1]]),
        ([0, 100, 0], [[0, 100, 0]]),
    ],
)
def test_portions_fit_into_a_message(sizes: list[int], portions: list[list[int]]) -> None:
    batch = ProposalBatch(100)
    for size in sizes:
        batch.add(bytes(size), size)
    assert len(batch) == len(sizes)
    taken = list(batch.take())
    assert [ids for _, ids in taken] == portions
    assert [[len(each) for each in data] for data, _ in taken] == portions
    assert len(batch) == 0


def entries(kinds: str) -> list[Entry]:
    return [
        Entry(1, at, EntryType.CONF_CHANGE if kind == "c" else EntryType.NORMAL)
        for at, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kinds", "slices"),
    [
        ("nnn", ["nnn"]),
        ("c", ["c"]),
        ("cc", ["c", "c"]),
        ("ncn", ["n", "c", "n"]),
        ("cnnc", ["c", "nn", "c"]),
        ("nnc", ["nn", "c"]),
    ],
)
def test_configuration_changes_go_alone(kinds: str, slices: list[str]) -> None:
    found = list(conf_changes_apart(entries(kinds)))
    assert ["".join("nc"[entry.type] for entry in each) for each in found] == slices


@given(st.text("nc", min_size=1, max_size=12))
def test_nothing_is_lost_or_moved(kinds: str) -> None:
    found = list(conf_changes_apart(entries(kinds)))
    assert all(found)
    assert [entry for each in found for entry in each] == entries(kinds)
