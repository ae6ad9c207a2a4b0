"""Received snapshot files: whole and durable under their name, or not there."""

from __future__ import annotations

import errno
from contextlib import suppress
from random import Random

import pytest

from raft.core.types import Snapshot
from raft.snapshotter import PIECE_BYTES, NoRoom, ReceptionEnded, Snapshotter
from tests.faulty_disk import FaultyDisk, PowerCut

PATH = "/member/snap"
TEN = Snapshot(10, 3)


@pytest.fixture
def disk() -> FaultyDisk:
    disk = FaultyDisk()
    disk.make_dir("/member")
    disk.sync_dir("/")
    return disk


def receive(snapshotter: Snapshotter, snapshot: Snapshot, *chunks: bytes) -> None:
    writer = snapshotter.begin(snapshot, sum(map(len, chunks)))
    for chunk in chunks:
        writer.write(chunk)
    writer.finish()


def test_a_finished_reception_survives_a_power_cut(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    receive(snapshotter, TEN, b"ab", b"", b"cde")
    disk.crash()
    newest = Snapshotter(disk, PATH).newest()
    assert newest == (10, 0x8587D865, f"{PATH}/000000000000000a-8587d865.snap.db")
    assert newest.path == snapshotter.path(TEN)
    assert disk.read(newest.path) == b"abcde"


def test_an_unfinished_one_is_removed_on_start(disk: FaultyDisk) -> None:
    writer = Snapshotter(disk, PATH).begin(TEN, 5)
    writer.write(b"ab")
    assert disk.list(PATH) == ["000000000000000a-3.snap.tmp"]
    assert Snapshotter(disk, PATH).newest() is None
    assert disk.list(PATH) == []


def test_power_cut_at_any_operation_leaves_the_whole_file_or_none(disk: FaultyDisk) -> None:
    Snapshotter(disk, PATH)
    start = disk.operations
    receive(Snapshotter(disk, PATH), TEN, b"ab" * 600, b"cd")
    end = disk.operations
    for cut_at in range(end - start):
        for seed in range(5):
            fresh = FaultyDisk()
            fresh.make_dir("/member")
            fresh.sync_dir("/")
            snapshotter = Snapshotter(fresh, PATH)
            fresh.cut_at = fresh.operations + cut_at
            with pytest.raises(PowerCut):
                receive(snapshotter, TEN, b"ab" * 600, b"cd")
            fresh.crash(Random(seed))
            newest = Snapshotter(fresh, PATH).newest()
            assert newest is None or fresh.read(newest.path) == b"ab" * 600 + b"cd"


def test_a_changed_bit_or_length_is_noticed(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    data = b"0123456789abcdef" * (3 << 13)
    receive(snapshotter, TEN, data[:100_000], data[100_000:])
    file = snapshotter.files()[0]
    assert snapshotter.intact(file)
    for offset in (0, PIECE_BYTES - 1, PIECE_BYTES, len(data) - 1):
        disk.flip(file.path, offset, 3)
        assert not snapshotter.intact(file)
        disk.flip(file.path, offset, 3)
    for other in (data[:-1], data + b"0", b""):
        disk.replace(file.path, other)
        assert not snapshotter.intact(file)
    disk.replace(file.path, data)
    assert snapshotter.intact(file)


def test_other_bytes_of_the_same_state_take_nothing_away(disk: FaultyDisk) -> None:
    """The first file may be in the middle of its installation."""
    snapshotter = Snapshotter(disk, PATH)
    receive(snapshotter, TEN, b"one")
    first = snapshotter.path(TEN)
    receive(snapshotter, TEN, b"other")
    receive(snapshotter, TEN, b"one")
    assert disk.read(first) == b"one"
    files = snapshotter.files_of(10)
    assert sorted(disk.read(file.path) for file in files) == [b"one", b"other"]
    assert all(snapshotter.intact(file) for file in files)
    snapshotter.purge(10)
    assert disk.list(PATH) == []


def test_power_cut_in_a_second_reception_keeps_the_first() -> None:
    for cut_at in range(6):
        for seed in range(5):
            fresh = FaultyDisk()
            fresh.make_dir("/member")
            fresh.sync_dir("/")
            snapshotter = Snapshotter(fresh, PATH)
            receive(snapshotter, TEN, b"one" * 600)
            fresh.cut_at = fresh.operations + cut_at
            with suppress(PowerCut):
                receive(snapshotter, TEN, b"other" * 600)
            fresh.crash(Random(seed))
            files = Snapshotter(fresh, PATH).files_of(10)
            assert b"one" * 600 in [fresh.read(file.path) for file in files]
            assert all(snapshotter.intact(file) for file in files)


def test_abort_leaves_nothing_and_may_be_repeated(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    writer = snapshotter.begin(TEN, 5)
    writer.write(b"ab")
    writer.abort()
    writer.abort()
    assert disk.list(PATH) == []
    for late in (lambda: writer.write(b"c"), writer.finish):
        with pytest.raises(ReceptionEnded):
            late()


def test_a_second_reception_ends_the_first(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    first = snapshotter.begin(TEN, 4)
    first.write(b"ab")
    receive(snapshotter, TEN, b"wxyz")
    with pytest.raises(ReceptionEnded):
        first.write(b"cd")
    first.abort()
    assert disk.read(snapshotter.path(TEN)) == b"wxyz"


def test_no_room(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH, spare_bytes=100)
    disk.free = 1000
    snapshotter.begin(Snapshot(1, 1), 900).abort()
    with pytest.raises(NoRoom):
        snapshotter.begin(TEN, 901)
    assert disk.list(PATH) == []


def test_a_full_disk_ends_the_reception(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    writer = snapshotter.begin(TEN)
    disk.free = 3
    with pytest.raises(OSError, match="No space"):
        writer.write(b"abcd")
    assert disk.list(PATH) == []


def test_a_failed_sync_ends_the_reception(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    writer = snapshotter.begin(TEN, 2)
    writer.write(b"ab")
    disk.sync_error = errno.EIO
    with pytest.raises(OSError):
        writer.finish()
    assert disk.list(PATH) == []


def test_purge_keeps_what_is_later(disk: FaultyDisk) -> None:
    snapshotter = Snapshotter(disk, PATH)
    for index in (30, 10, 20):
        receive(snapshotter, Snapshot(index, 1), b"x")
    snapshotter.purge(10)
    assert [file.index for file in snapshotter.files()] == [20, 30]
    snapshotter.purge(30)
    assert snapshotter.newest() is None
