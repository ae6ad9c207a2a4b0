"""Names of the meta rows this package owns."""

from __future__ import annotations

import struct

SCHEDULED_COMPACTED_REV = b"scheduledCompactedRev"
"""The revision of the last accepted compaction; its rows may still be there."""
FINISHED_COMPACTED_REV = b"finishedCompactedRev"
"""The revision of the last compaction whose dead rows are all gone."""

_INT64 = struct.Struct(">q")


def encode_int(number: int) -> bytes:
    """
    >>> encode_int(258).hex()
    '0000000000000102'
    """
    return _INT64.pack(number)


def decode_int(row: bytes) -> int:
    """
    >>> decode_int(encode_int(258))
    258
    """
    return int(_INT64.unpack(row)[0])
