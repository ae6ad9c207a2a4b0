"""Frames on a peer connection: u32 big-endian length of the rest, one byte of type, the body.

| 00 00 00 06 | 02 | body, 5 bytes |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum


class FrameType(IntEnum):
    """The wire numbers are for ever: add at the end, never reuse. The side that dials sends the odd
    ones."""

    MESSAGE = 1
    PONG = 2
    PING = 3
    REPLY = 4
    CALL = 5
    SNAPSHOT_RESULT = 6
    SNAPSHOT_HEADER = 7
    DESCRIPTION = 8
    SNAPSHOT_CHUNK = 9
    SNAPSHOT_END = 11


class FrameError(Exception):
    """The peer broke the rules of the stream; the connection is of no use any more."""


_HEAD = struct.Struct(">IB")
HEAD_BYTES = _HEAD.size
_LENGTH_BYTES = 4


def pack_frame(kind: int, body: bytes) -> bytes:
    """One frame, ready for the wire."""
    return _HEAD.pack(len(body) + 1, kind) + body


def unpack_head(head: bytes, frame_bytes_max: int) -> tuple[int, int]:
    """(type, length of the body) from HEAD_BYTES bytes. FrameError when the length is out of
    bounds."""
    length, kind = _HEAD.unpack(head)
    if not 1 <= length <= frame_bytes_max:
        raise FrameError(f"a frame of {length} bytes, at most {frame_bytes_max} are allowed")
    return kind, length - 1


class FrameParser:
    """Cuts a byte stream into frames; holds at most one incomplete frame.

    `_pending` are the bytes of that frame that have come, in the pieces in which they came, `_held`
    their sum, and `_needed` the bytes to have before it is worth looking again: joining happens
    once per frame, not once per piece.
    """

    __slots__ = ("_frame_bytes_max", "_held", "_needed", "_pending")

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._pending: list[bytes] = []
        self._held = 0
        self._needed = HEAD_BYTES

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The (type, body) of every frame that `data` completes, in order. FrameError at the first
        bad length.

        Iterate to the end before feeding again.
        """
        if self._held:
            self._pending.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._pending)
            self._pending.clear()
            self._held = 0
        at, size = 0, len(data)
        unpack = _HEAD.unpack_from
        while size - at >= HEAD_BYTES:
            length, kind = unpack(data, at)
            if not 1 <= length <= self._frame_bytes_max:
                raise FrameError(
                    f"a frame of {length} bytes, at most {self._frame_bytes_max} are allowed"
                )
            end = at + _LENGTH_BYTES + length
            if end > size:
                break
            yield kind, data[at + HEAD_BYTES : end]
            at = end
        if at < size:
            rest = data[at:] if at else data
            self._pending.append(rest)
            self._held = len(rest)
            self._needed = HEAD_BYTES
            if self._held >= HEAD_BYTES:
                self._needed = _LENGTH_BYTES + unpack(rest)[0]
