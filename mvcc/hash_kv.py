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
from .errors import CorruptionError
from .record import decode_head
from .revision import first_row_key, is_tombstone

SLICE_ROWS = 1000
SHARDS = 512


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
    the compact revision are in memory meanwhile, about 300 bytes each.
    """
    crc = 0
    compacted = first_row_key(compact_revision + 1)
    newest = _Newest()
    if compacting:
        for rows in _slices(snapshot, compacted, slice_rows):
            for key, row in rows:
                newest.note(key, row)
            yield None
    for rows in _slices(snapshot, first_row_key(revision + 1), slice_rows):
        for key, row in rows:
            if key < compacted and (
                (compacting and newest.outlived(key, row)) or is_tombstone(key)
            ):
                continue
            crc = zlib.crc32(row, zlib.crc32(key, crc))
        yield None
    yield crc


class _Newest:
    """The newest row of each key. In shards: a large dict would grow, and be freed, in one go that
    holds the interpreter's lock.
    """

    def __init__(self) -> None:
        self._shards: list[dict[bytes, bytes]] = [{} for _ in range(SHARDS)]

    def note(self, row_key: bytes, row: bytes) -> None:
        """Rows come in revision order."""
        key = _key_of(row_key, row)
        if key is not None:
            self._shards[zlib.crc32(key) % SHARDS][key] = row_key

    def outlived(self, row_key: bytes, row: bytes) -> bool:
        """Whether a newer one was noted; its key is forgotten when it was not."""
        key = _key_of(row_key, row)
        if key is None:
            return False
        shard = self._shards[zlib.crc32(key) % SHARDS]
        if shard[key] != row_key:
            return True
        del shard[key]
        return False


def _slices(snapshot: ReadSnapshot, end: bytes, limit: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """The rows below `end`, at most `limit` at a time."""
    start = b"\x00"
    while rows := snapshot.range(KEY, start, end, limit):
        yield rows
        if len(rows) < limit:
            break
        start = rows[-1][0] + b"\x00"


def _key_of(row_key: bytes, row: bytes) -> bytes | None:
    """Whose revision it is; None for a damaged row, which counts: the hash is to differ by it."""
    if is_tombstone(row_key):
        return row
    try:
        return decode_head(row)[3]
    except CorruptionError:
        return None
