"""HashKV: a checksum of history up to a revision, to compare replicas.

Two members may be compared when their hash revisions and their compact revisions are equal and no
compaction was unfinished on either: then the rows at or below the compact revision are exactly
those a compaction keeps. The tombstone at the compact revision itself is left out: it changes no
read, and histories are compared by what they let read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .backend import KEY, ReadSnapshot
from .revision import decode_row_key, first_row_key, is_tombstone

SLICE_ROWS = 1000


class HashKV(NamedTuple):
    """CRC-32 of all rows up to `revision`, and what it depends on."""

    hash: int
    revision: int
    compact_revision: int
    current_revision: int


def hash_rows(
    snapshot: ReadSnapshot, revision: int, compact_revision: int, slice_rows: int = SLICE_ROWS
) -> Iterator[int | None]:
    """Yields None after each slice of rows, the hash last. Touches only the snapshot: any thread
    may drive it.

    CRC-32 over key and value of every row with main <= `revision`, in revision order.
    """
    crc = 0
    start, end = b"\x00", first_row_key(revision + 1)
    while rows := snapshot.range(KEY, start, end, slice_rows):
        for key, row in rows:
            if is_tombstone(key) and decode_row_key(key).main == compact_revision:
                continue
            crc = zlib.crc32(row, zlib.crc32(key, crc))
        if len(rows) < slice_rows:
            break
        start = rows[-1][0] + b"\x00"
        yield None
    yield crc
