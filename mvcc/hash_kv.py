"""HashKV: a checksum of history up to a revision, to compare replicas.

Two members may be compared when their hash revisions and their compact revisions are equal, however
far the compaction is on either: of the rows at or below the compact revision only those count that
it keeps. The tombstone at the compact revision itself is left out: it changes no read, and
histories are compared by what they let read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .backend import KEY, ReadSnapshot
from .record import decode_head
from .revision import first_row_key, is_tombstone

SLICE_ROWS = 1000


class HashKV(NamedTuple):
    """CRC-32 of all rows up to `revision`, and what it depends on."""

    hash: int
    revision: int
    compact_revision: int
    current_revision: int


def hash_rows(
    snapshot: ReadSnapshot,
    revision: int,
    compact_revision: int,
    slice_rows: int = SLICE_ROWS,
    *,
    compacting: bool = False,
) -> Iterator[int | None]:
    """Yields None after each slice of rows, the hash last. Touches only the snapshot: any thread
    may drive it.

    CRC-32 over key and value of every row with main <= `revision`, in revision order. `compacting`:
    the snapshot holds rows that the compaction will delete; they are left out, and the keys up to
    the compact revision are in memory meanwhile.
    """
    crc = 0
    compacted = first_row_key(compact_revision + 1)
    kept: set[bytes] = set()
    if compacting:
        newest: dict[bytes, bytes] = {}
        for rows in _slices(snapshot, compacted, slice_rows):
            newest.update((_key_of(key, row), key) for key, row in rows)
            yield None
        kept = set(newest.values())
    for rows in _slices(snapshot, first_row_key(revision + 1), slice_rows):
        for key, row in rows:
            if key < compacted and (is_tombstone(key) or (compacting and key not in kept)):
                continue
            crc = zlib.crc32(row, zlib.crc32(key, crc))
        yield None
    yield crc


def _slices(snapshot: ReadSnapshot, end: bytes, limit: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """The rows below `end`, at most `limit` at a time."""
    start = b"\x00"
    while rows := snapshot.range(KEY, start, end, limit):
        yield rows
        if len(rows) < limit:
            break
        start = rows[-1][0] + b"\x00"


def _key_of(row_key: bytes, row: bytes) -> bytes:
    """Whose revision it is."""
    return row if is_tombstone(row_key) else decode_head(row)[3]
