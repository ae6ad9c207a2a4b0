"""Rows of the key table: what is written is read, and a cut or foreign row is corruption."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvcc.errors import CorruptionError
from mvcc.kv import Event, EventType, KeyValue
from mvcc.record import FORMAT, decode_event, decode_head, decode_put, encode_put
from mvcc.revision import row_key, tombstone_key

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(INT64, INT64, INT64, st.binary(max_size=40), st.binary(max_size=40))
def test_a_put_comes_back(create, version, lease, key, value):
    row = encode_put(create, version, lease, key, value)
    assert decode_put(9, row) == KeyValue(key, value, create, 9, version, lease)
    assert decode_head(row) == (create, version, lease, key)


def test_bytes_of_a_put():
    row = encode_put(2, 3, 4, b"kk", b"v")
    assert row == bytes([FORMAT]) + b"".join(n.to_bytes(8, "big") for n in (2, 3, 4)) + (
        b"\0\0\0\2kkv"
    )


def test_events():
    put = decode_event(row_key(7, 1), encode_put(5, 2, 0, b"k", b"v"))
    assert put == Event(EventType.PUT, KeyValue(b"k", b"v", 5, 7, 2, 0))
    delete = decode_event(tombstone_key(8, 0), b"k")
    assert delete == Event(EventType.DELETE, KeyValue(b"k", mod_revision=8))


@pytest.mark.parametrize("cut", range(31))
def test_a_row_cut_in_head_or_key_is_corruption(cut):
    row = encode_put(2, 1, 0, b"kk", b"")
    with pytest.raises(CorruptionError):
        decode_head(row[:cut])


def test_an_unknown_format_is_corruption():
    row = encode_put(2, 1, 0, b"k", b"v")
    with pytest.raises(CorruptionError):
        decode_put(2, bytes([FORMAT + 1]) + row[1:])
