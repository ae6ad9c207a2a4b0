"""Frames, their chain, and where damage is told from a torn tail."""

from __future__ import annotations

import pytest

from raft.wal_format import (
    DURABLE,
    SECTOR_BYTES,
    Damage,
    Kind,
    add_record,
    crc_body,
    read_seed,
    record_bytes,
    scan,
)

SIZE = 4096


def segment(*data: bytes, flags: tuple[int, ...] = (), seed: int = 7) -> bytes:
    """A file with an ENTRIES record for each of `data`, preallocated."""
    parts: list[bytes] = []
    offset, crc = 0, seed
    for number, body in enumerate(data):
        flag = flags[number] if number < len(flags) else 0
        crc = add_record(parts, Kind.ENTRIES, body, crc=crc, offset=offset, flags=flag)
        offset += record_bytes(len(body))
    return b"".join(parts).ljust(SIZE, b"\0")


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def read(data: bytes, seed: int = 7) -> list[bytes]:
    return [bytes(record.data) for record in scan(data, seed)]


def damage_of(data: bytes) -> Damage:
    with pytest.raises(Damage) as caught:
        read(data)
    return caught.value


def test_the_drawn_example() -> None:
    parts: list[bytes] = []
    add_record(parts, Kind.ENTRIES, b"abc", crc=0, offset=0)
    data = b"".join(parts)
    assert data[0:4] == b"\x03\0\0\0", "length"
    assert data[6:8] == bytes([Kind.ENTRIES, 0]), "kind, flags"
    assert data[12:] == b"abc\xa5", "data, no zeros needed, the last byte"
    assert len(data) == record_bytes(3) == 16


@pytest.mark.parametrize("size", range(18))
def test_records_are_aligned_and_end_in_no_zero(size: int) -> None:
    parts: list[bytes] = []
    add_record(parts, Kind.ENTRIES, bytes(size), crc=0, offset=0)
    data = b"".join(parts)
    assert len(data) == record_bytes(size)
    assert len(data) % 8 == 0
    assert data[-1] != 0


def test_records_come_back_up_to_the_zeros() -> None:
    bodies = [b"", b"a", b"bb" * 300, bytes(2000)]
    assert read(segment(*bodies)) == bodies
    assert read(bytes(SIZE)) == []
    assert read(b"") == []


@pytest.mark.parametrize("short", [0, 1, 8, 15, 16, 17])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_the_end_is_found_before_any_number_of_zeros(blocks: int, short: int) -> None:
    parts: list[bytes] = []
    add_record(parts, Kind.ENTRIES, b"abc", crc=7, offset=0)
    record = b"".join(parts)
    size = max(len(record), (blocks << 16) + len(record) - short)
    assert read(record.ljust(size, b"\0")) == [b"abc"]
    stray = record.ljust(size, b"\0") + b"x"
    assert size == len(record) or damage_of(stray).offset == len(record)


def test_the_chain_covers_what_came_before() -> None:
    assert damage_of(segment(b"first", b"second", seed=8)).offset == 0
    other = segment(b"fIrst", b"second")
    mixed = put(segment(b"first", b"second"), 0, other[: record_bytes(5)])
    assert damage_of(mixed).offset == record_bytes(5)


def test_a_frame_is_good_at_its_own_place_only() -> None:
    # A client may store a WAL as a value: its frames must not be taken for ours.
    data = segment(b"x" * 100, b"y")
    moved = put(data, 8, data[: record_bytes(100)])
    assert damage_of(put(moved, 0, bytes(8))).torn is False


def test_a_length_beyond_the_file_is_torn_in_a_file_cut_short() -> None:
    data = segment(b"x" * 1000)
    damage = damage_of(data[:800])
    assert damage.torn
    assert "1000 bytes in 800" in damage.why
    assert damage_of(data[:9]).torn


def test_a_sector_of_a_record_that_was_never_written_is_torn() -> None:
    data = segment(b"a", b"x" * 2000)
    for sector in (1, 2, 3):
        damage = damage_of(put(data, sector * SECTOR_BYTES, bytes(SECTOR_BYTES)))
        assert damage.torn
        assert damage.offset == record_bytes(1)


def test_a_lost_sector_before_a_witness_is_damage() -> None:
    data = segment(b"a", b"x" * 2000, b"c", flags=(DURABLE, DURABLE, DURABLE))
    damage = damage_of(put(data, 2 * SECTOR_BYTES, bytes(SECTOR_BYTES)))
    assert not damage.torn
    assert "after it was synced" in damage.why


def test_lost_frames_before_a_witness_are_damage() -> None:
    bodies = [bytes([65 + number]) * 400 for number in range(6)]
    data = segment(*bodies, flags=(DURABLE,) * 6)
    damage = damage_of(put(data, SECTOR_BYTES, bytes(SECTOR_BYTES)))
    assert not damage.torn
    assert damage.offset == record_bytes(400)


def test_zeros_inside_a_sector_are_damage() -> None:
    data = segment(b"a" * 50, b"b" * 50, b"c" * 50)
    damage = damage_of(put(data, record_bytes(50), bytes(8)))
    assert not damage.torn
    assert damage.why == "zeros in place of a frame"


def test_the_seed_of_a_segment() -> None:
    parts: list[bytes] = []
    add_record(parts, Kind.CRC, crc_body(0xDEADBEEF), crc=0xDEADBEEF, offset=0)
    assert read_seed(b"".join(parts)) == 0xDEADBEEF
    for other in (b"", bytes(100), segment(b"something else altogether")):
        with pytest.raises(Damage):
            read_seed(other)
