"""Revision: when a change happened, and the key of its row.

main  8 bytes   '_'   sub  8 bytes   ['t']        big endian, so byte order is revision order
00 00 00 00 00 00 00 05  5f  00 00 00 00 00 00 00 00       the first change of transaction 5
00 00 00 00 00 00 00 05  5f  00 00 00 00 00 00 00 01  74   its second change, a delete (tombstone)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .errors import CorruptionError

ROW_KEY_BYTES = 17
TOMBSTONE_MARK = b"t"

_ROW_KEY = struct.Struct(">qcq")
_MAIN = struct.Struct(">q")


class Revision(NamedTuple):
    """The `sub`-th change (from 0) of the `main`-th transaction; ordered by main, then sub.

    >>> Revision(5, 0) < Revision(5, 1) < Revision(6, 0)
    True
    """

    main: int
    sub: int


def row_key(main: int, sub: int) -> bytes:
    """The key of a put's row: 17 bytes.

    >>> row_key(5, 1).hex()
    '00000000000000055f0000000000000001'
    """
    return _ROW_KEY.pack(main, b"_", sub)


def tombstone_key(main: int, sub: int) -> bytes:
    """The key of a delete's row: 18 bytes.

    >>> is_tombstone(tombstone_key(5, 1)), is_tombstone(row_key(5, 1))
    (True, False)
    """
    return _ROW_KEY.pack(main, b"_", sub) + TOMBSTONE_MARK


def is_tombstone(key: bytes) -> bool:
    """Of a key that `decode_row_key` accepts."""
    return len(key) != ROW_KEY_BYTES


def decode_row_key(key: bytes) -> Revision:
    """The revision of a row, with or without the tombstone mark; CorruptionError for anything else.

    >>> decode_row_key(tombstone_key(5, 1))
    Revision(main=5, sub=1)
    """
    if len(key) == ROW_KEY_BYTES or (
        len(key) == ROW_KEY_BYTES + 1 and key.endswith(TOMBSTONE_MARK)
    ):
        main, mark, sub = _ROW_KEY.unpack_from(key)
        if mark == b"_" and main >= 0 and sub >= 0:
            return Revision(main, sub)
    raise CorruptionError(f"not the key of a revision: {key.hex()}")


def first_row_key(main: int) -> bytes:
    """Not above any row of `main` and above every row before it: a bound for scans.

    >>> row_key(4, 9) < first_row_key(5) < row_key(5, 0)
    True
    """
    return _MAIN.pack(main)
