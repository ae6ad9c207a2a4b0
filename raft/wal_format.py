"""The bytes of one WAL segment: frames, their chained checksum, and what damage looks like.

A segment is preallocated with zeros and filled from the front with records aligned to 8 bytes:

    0        4       6      7       8       12                  end - 1
    | length | check | kind | flags | crc32 | data ... | zeros | 0xa5 |

`length` is that of `data`. `check` (16 bits) covers length, kind, flags and the offset in the file,
so a frame is believed before its data are read, and bytes that merely look like a frame (a client
may store a WAL as a value) are not. `crc32` runs over the first 8 bytes and the data of this and
*every earlier record of the chain*; each segment starts with a CRC record that carries the running
value over from the segment before. The last byte is never zero, so a record whose write stopped
short shows it. Zeros where a frame is due are the end.

Torn or damaged
---------------
A write that was under way when the power went leaves some of its 512-byte sectors unwritten, that
is zero. Such a tail is *torn*: nobody was told of it, and it is cut. Everything else is *damage*
and refused, for it may have eaten what was acknowledged:

- a record fails its crc: torn if a sector's share of it is all zero or it ends in a zero;
- a frame fails its check: torn if nothing but zeros follows (a frame never straddles two sectors);
- zeros where a frame is due and data behind them: torn if the zeros reach the end of the sector.

And none of these is torn if, behind it, a record says that everything before it had been synced
when it was written (`DURABLE`): then a sector was lost *after* the sync.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

SECTOR_BYTES = 512
DURABLE = 0x01
"""Flag: everything before this record was synced before this record was written."""

_FRAME = struct.Struct("<IHBBI")
_CHECKED = struct.Struct("<IBBQ")
_WORD = struct.Struct("<IHBB")
_CRC_BODY = struct.Struct("<8sI")
_MAGIC = b"ESKERW01"
_TAILS = [bytes(zeros) + b"\xa5" for zeros in range(8)]
_ZEROS = bytes(1 << 16)
LENGTH_MAX = 0xFFFFFFFF


class Kind(IntEnum):
    """What a record carries. The numbers are for ever."""

    CRC = 1
    METADATA = 2
    ENTRIES = 3
    HARD_STATE = 4
    SNAPSHOT = 5


_KINDS = frozenset(int(kind) for kind in Kind)


class Record(NamedTuple):
    """One record as read: its bytes are `[offset, end)`, `crc` the chain's value after it."""

    kind: int
    data: memoryview
    offset: int
    end: int
    crc: int


class Damage(Exception):
    """No good record at `offset`; `torn` when the shape is that of an unfinished last write."""

    def __init__(self, offset: int, why: str, *, torn: bool) -> None:
        super().__init__(f"offset {offset}: {why}")
        self.offset = offset
        self.why = why
        self.torn = torn


def record_bytes(length: int) -> int:
    """The room a record with `length` bytes of data takes."""
    return (_FRAME.size + length + 8) & ~7


def add_record(
    parts: list[bytes], kind: int, data: bytes, *, crc: int, offset: int, flags: int = 0
) -> int:
    """Appends to `parts` the record to be written at `offset`; returns the chain's new value."""
    length = len(data)
    assert length <= LENGTH_MAX, f"a record of {length} bytes"
    check = _check(length, kind, flags, offset)
    crc = zlib.crc32(data, zlib.crc32(_WORD.pack(length, check, kind, flags), crc))
    parts.append(_FRAME.pack(length, check, kind, flags, crc))
    parts.append(data)
    parts.append(_TAILS[-(_FRAME.size + length + 1) % 8])
    return crc


def crc_body(seed: int) -> bytes:
    """The data of the CRC record that opens a segment."""
    return _CRC_BODY.pack(_MAGIC, seed)


def _check(length: int, kind: int, flags: int, offset: int) -> int:
    return zlib.crc32(_CHECKED.pack(length, kind, flags, offset)) & 0xFFFF


def read_seed(data: bytes) -> int:
    """The chain's value that a segment starts from; Damage when it is no segment of ours."""
    start = _FRAME.size
    body = data[start : start + _CRC_BODY.size]
    if len(body) < _CRC_BODY.size or body[: len(_MAGIC)] != _MAGIC:
        raise Damage(0, "not a WAL segment of this version", torn=False)
    return int(_CRC_BODY.unpack(body)[1])


def scan(data: bytes, seed: int) -> Iterator[Record]:
    """The records of a segment in their order, until its end or Damage.

    `data` is the whole file; no length in it is believed beyond its end.
    """
    view = memoryview(data)
    used = _used(data)
    offset, crc = 0, seed
    while True:
        try:
            record = _read_record(view, offset, used, crc)
        except Damage as damage:
            witness = _durable_behind(view, offset, used) if damage.torn else None
            if witness is None:
                raise
            why = f"{damage.why}, and the record at {witness} was written after it was synced"
            raise Damage(offset, why, torn=False) from damage
        if record is None:
            return
        yield record
        offset, crc = record.end, record.crc


def _used(data: bytes) -> int:
    """Where the zeros at the end of `data` begin. Most of a segment is zeros: whole blocks of them
    are compared as fast as memory is read, which `rstrip` is twenty times slower than.
    """
    end, step = len(data), len(_ZEROS)
    while data.endswith(_ZEROS, 0, end) and end >= step:
        end -= step
    start = max(0, end - step)
    return start + len(data[start:end].rstrip(b"\0"))


def _read_record(view: memoryview, offset: int, used: int, crc: int) -> Record | None:
    """The record at `offset`, or None where zeros to the end of the file say that none is there."""
    if used <= offset:
        return None
    if offset + _FRAME.size > len(view):
        raise Damage(offset, "the file ends inside a frame", torn=True)
    length, check, kind, flags, stored = _FRAME.unpack_from(view, offset)
    if not any(view[offset : offset + _WORD.size]):
        sector_end = (offset // SECTOR_BYTES + 1) * SECTOR_BYTES
        lost = not any(view[offset:sector_end])
        raise Damage(offset, "zeros in place of a frame", torn=lost)
    if check != _check(length, kind, flags, offset) or kind not in _KINDS:
        raise Damage(offset, "frame checksum mismatch", torn=used <= offset + _WORD.size)
    end = offset + record_bytes(length)
    if end > len(view):
        raise Damage(offset, f"a record of {length} bytes in {len(view) - offset}", torn=True)
    data_start = offset + _FRAME.size
    data = view[data_start : data_start + length]
    crc = zlib.crc32(data, zlib.crc32(view[offset : offset + _WORD.size], crc))
    tail = view[data_start + length : end]
    if crc != stored or tail != _TAILS[len(tail) - 1]:
        raise Damage(offset, "checksum mismatch", torn=_looks_torn(view, offset, end))
    return Record(kind, data, offset, end, crc)


def _looks_torn(view: memoryview, offset: int, end: int) -> bool:
    """Whether the write of `[offset, end)` may have missed a sector or stopped short."""
    if view[end - 1] == 0:
        return True
    start = offset
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if not any(view[start:stop]):
            return True
        start = stop
    return False


def _durable_behind(view: memoryview, offset: int, used: int) -> int | None:
    """The offset of a DURABLE record behind the damage at `offset`, or None.

    A record counts when its crc continues that of the one before it, whatever came before both.
    The last one may be all that is left: it counts when it ends exactly where the zeros begin.
    """
    words = view[offset : offset + (used - offset) // 8 * 8]
    for number, (length, check, kind, flags) in enumerate(_WORD.iter_unpack(words)):
        if kind not in _KINDS or flags > DURABLE:
            continue
        start = offset + number * 8
        if check != _check(length, kind, flags, start):
            continue
        end = start + record_bytes(length)
        if end > used:
            continue
        if end == used and flags & DURABLE and start > offset:
            return start
        witness = _durable_in_chain(view, start, end, used)
        if witness is not None:
            return witness
    return None


def _durable_in_chain(view: memoryview, start: int, end: int, used: int) -> int | None:
    crc = _FRAME.unpack_from(view, start)[4]
    while True:
        try:
            record = _read_record(view, end, used, crc)
        except Damage:
            return None
        if record is None:
            return None
        if view[record.offset + 7] & DURABLE:
            return record.offset
        end, crc = record.end, record.crc
