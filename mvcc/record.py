"""Rows of the key table. User keys live in the rows, so a store's key length limit does not bind
them.

    put        format 1 | create_revision 8 | version 8 | lease 8 | key length 4 | key | value
    tombstone  key

Big endian, signed. The mod revision is the row's own key. Restoring the index reads only the head
and the key.
"""

from __future__ import annotations

import struct

from .errors import CorruptionError
from .kv import Event, EventType, KeyValue
from .revision import decode_row_key, is_tombstone

FORMAT = 1

_HEAD = struct.Struct(">BqqqI")


def encode_put(create_revision: int, version: int, lease: int, key: bytes, value: bytes) -> bytes:
    """
    >>> len(encode_put(2, 1, 0, b"key", b"value")) - len(b"key" + b"value")
    29
    """
    return _HEAD.pack(FORMAT, create_revision, version, lease, len(key)) + key + value


def decode_head(row: bytes) -> tuple[int, int, int, bytes]:
    """What the index keeps of a put: (create revision, version, lease, key). CorruptionError when
    the row is no put.

    >>> decode_head(encode_put(2, 1, 7, b"key", b"value"))
    (2, 1, 7, b'key')
    """
    create_revision, version, lease, end = _head(row)
    return create_revision, version, lease, row[_HEAD.size : end]


def decode_put(mod_revision: int, row: bytes) -> KeyValue:
    """
    >>> decode_put(3, encode_put(2, 2, 0, b"key", b"value")).value
    b'value'
    """
    create_revision, version, lease, end = _head(row)
    return KeyValue(row[_HEAD.size : end], row[end:], create_revision, mod_revision, version, lease)


def _head(row: bytes) -> tuple[int, int, int, int]:
    """(create revision, version, lease, offset of the value)"""
    if len(row) >= _HEAD.size:
        format_, create_revision, version, lease, key_bytes = _HEAD.unpack_from(row)
        end = _HEAD.size + key_bytes
        if format_ == FORMAT and end <= len(row):
            return create_revision, version, lease, end
    raise CorruptionError(f"not the row of a put: {len(row)} bytes, {row[:32].hex()}")


def decode_event(key: bytes, row: bytes) -> Event:
    """The change that a row of the key table records; `prev_kv` stays None.

    >>> from mvcc.revision import tombstone_key
    >>> decode_event(tombstone_key(4, 0), b"key").type
    <EventType.DELETE: 1>
    """
    main = decode_row_key(key).main
    if is_tombstone(key):
        return Event(EventType.DELETE, KeyValue(row, mod_revision=main))
    return Event(EventType.PUT, decode_put(main, row))
