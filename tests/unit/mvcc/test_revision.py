"""Row keys: byte order is revision order, and nothing else is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvcc.errors import CorruptionError
from mvcc.revision import (
    Revision,
    decode_row_key,
    first_row_key,
    is_tombstone,
    row_key,
    tombstone_key,
)

INT64 = st.integers(0, 2**63 - 1)
REVISIONS = st.builds(Revision, INT64, INT64)


def test_bytes_of_a_row_key():
    assert row_key(258, 3) == b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03"
    assert tombstone_key(258, 3) == row_key(258, 3) + b"t"


@given(REVISIONS, REVISIONS)
def test_byte_order_is_revision_order(a, b):
    assert (row_key(*a) < row_key(*b)) == (a < b)
    assert (tombstone_key(*a) < row_key(*b)) == (a < b)


@given(REVISIONS)
def test_decoding_returns_what_was_encoded(revision):
    assert decode_row_key(row_key(*revision)) == revision
    assert decode_row_key(tombstone_key(*revision)) == revision
    assert not is_tombstone(row_key(*revision))
    assert is_tombstone(tombstone_key(*revision))


@given(REVISIONS)
def test_a_scan_bound_parts_the_rows_of_two_mains(revision):
    bound = first_row_key(revision.main)
    assert bound < row_key(*revision)
    if revision.main:
        assert tombstone_key(revision.main - 1, 2**63 - 1) < bound


@pytest.mark.parametrize(
    "key",
    [
        b"",
        row_key(1, 1)[:-1],
        row_key(1, 1) + b"x",
        tombstone_key(1, 1) + b"t",
        row_key(1, 1).replace(b"_", b"-"),
        b"\xff" + row_key(1, 1)[1:],
        row_key(1, 1)[:9] + b"\xff" * 8,
    ],
)
def test_other_keys_are_corruption(key):
    with pytest.raises(CorruptionError):
        decode_row_key(key)
