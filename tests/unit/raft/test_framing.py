"""Frames: any split of the bytes gives the same frames; a bad length is the end."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.framing import (
    HEAD_BYTES,
    FrameError,
    FrameParser,
    FrameType,
    pack_frame,
    unpack_head,
)

FRAMES = [
    (FrameType.PING, b"12345678"),
    (FrameType.MESSAGE, b""),
    (FrameType.CALL, bytes(1000)),
    (FrameType.MESSAGE, b"x" * 70),
]
STREAM = b"".join(pack_frame(kind, body) for kind, body in FRAMES)


def test_layout() -> None:
    assert pack_frame(FrameType.PONG, b"ab") == b"\x00\x00\x00\x03\x02ab"
    assert unpack_head(b"\x00\x00\x00\x03\x02", 16) == (FrameType.PONG, 2)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_gives_the_same_frames(cuts: list[int]) -> None:
    parser = FrameParser(2000)
    edges = [0, *sorted(cuts), len(STREAM)]
    found = []
    for start, end in itertools.pairwise(edges):
        found += parser.feed(STREAM[start:end])
    assert found == FRAMES


def test_byte_by_byte() -> None:
    parser = FrameParser(2000)
    found = []
    for at in range(len(STREAM)):
        found += parser.feed(STREAM[at : at + 1])
    assert found == FRAMES


@pytest.mark.parametrize("length", [0, 101, 0xFFFFFFFF])
def test_bad_length_is_refused_before_its_body_comes(length: int) -> None:
    head = struct.pack(">IB", length, FrameType.MESSAGE)
    with pytest.raises(FrameError):
        list(FrameParser(100).feed(head))
    with pytest.raises(FrameError):
        unpack_head(head, 100)


def test_longest_permitted_frame() -> None:
    frame = pack_frame(FrameType.MESSAGE, bytes(99))
    assert list(FrameParser(100).feed(frame)) == [(FrameType.MESSAGE, bytes(99))]


def test_frames_before_a_bad_one_are_delivered() -> None:
    parser = FrameParser(100)
    frames = parser.feed(pack_frame(FrameType.PING, b"") + bytes(HEAD_BYTES))
    assert next(frames) == (FrameType.PING, b"")
    with pytest.raises(FrameError):
        next(frames)
