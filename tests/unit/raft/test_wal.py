"""The WAL's directory, its duties to the disk, and what it refuses."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from raft.core.types import ConfState, Entry, HardState, Snapshot
from raft.disk import OsDisk
from raft.wal import CorruptWal, Wal, WalFailed, WalJob, WalLocked, WalState, verify
from tests.faulty_disk import FaultyDisk

PATH = "/member/wal"
SEGMENT_BYTES = 2048


@pytest.fixture
def disk() -> FaultyDisk:
    disk = FaultyDisk()
    disk.make_dir("/member")
    disk.sync_dir("/")
    return disk


def create(disk: FaultyDisk, reserve_bytes: int = 0) -> Wal:
    return Wal.create(disk, PATH, b"meta", segment_bytes=SEGMENT_BYTES, reserve_bytes=reserve_bytes)


def reopen(disk: FaultyDisk) -> tuple[Wal, WalState]:
    return Wal.open(disk, PATH, segment_bytes=SEGMENT_BYTES, reserve_bytes=0)


def entries(first: int, last: int, term: int = 1, size: int = 0) -> list[Entry]:
    return [Entry(term, index, 0, bytes([index % 256]) * size) for index in range(first, last + 1)]


def segments(disk: FaultyDisk) -> list[str]:
    return [name for name in disk.list(PATH) if name.endswith(".wal")]


def filled(disk: FaultyDisk, last: int = 20) -> Wal:
    """Two entries in each segment, all committed."""
    wal = create(disk)
    for index in range(1, last + 1):
        wal.append(HardState(1, 1, index), entries(index, index, size=700), None, sync=True)
    return wal


def test_a_new_log_is_empty_and_remembers_whose_it_is(disk: FaultyDisk) -> None:
    create(disk).close()
    disk.crash()
    wal, state = reopen(disk)
    assert state == WalState(b"meta", HardState(), Snapshot(), [])
    assert segments(disk) == [f"{0:016x}-{1:016x}.wal"]
    wal.close()
    with pytest.raises(FileExistsError):
        create(disk)


def test_half_a_creation_is_none(disk: FaultyDisk) -> None:
    disk.make_dir(PATH + ".tmp")
    disk.open(PATH + ".tmp/next.tmp", create=True)
    assert not Wal.exists(disk, PATH)
    create(disk)
    assert Wal.exists(disk, PATH)
    assert not disk.exists(PATH + ".tmp")


def test_a_group_of_jobs_is_one_write_and_one_sync(disk: FaultyDisk) -> None:
    wal = create(disk)
    writes, syncs = disk.writes, disk.syncs
    jobs = [WalJob(HardState(1, 1, number), entries(number, number)) for number in range(1, 9)]
    wal.append_jobs(jobs, sync=True)
    assert (disk.writes - writes, disk.syncs - syncs) == (1, 1)
    wal.append(None, [], None, sync=True)
    assert (disk.writes - writes, disk.syncs - syncs) == (1, 1), "nothing new, nothing to sync"
    disk.crash()
    assert reopen(disk)[1][1:] == (HardState(1, 1, 8), Snapshot(), entries(1, 8))


def test_what_was_not_to_be_synced_may_be_lost_and_is_synced_by_the_next(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 2), None, sync=True)
    wal.append(HardState(1, 1, 2), [], None, sync=False)
    disk.crash()
    wal, state = reopen(disk)
    assert state.hard_state == HardState(1, 1, 0)
    wal.append(HardState(1, 1, 2), [], None, sync=False)
    wal.append(None, [], None, sync=True)
    disk.crash()
    assert reopen(disk)[1].hard_state == HardState(1, 1, 2)


def test_entries_overwrite_what_was_at_and_after_them(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 5), None, sync=True)
    wal.append(HardState(2, 0, 0), entries(3, 4, term=2), None, sync=True)
    wal.close()
    assert reopen(disk)[1].entries == entries(1, 2) + entries(3, 4, term=2)


def test_a_marker_starts_the_log_behind_it(disk: FaultyDisk) -> None:
    wal = create(disk)
    marker = Snapshot(3, 1, ConfState((1, 2, 3), (4,)))
    wal.append(HardState(1, 1, 4), entries(1, 5), None, sync=True)
    wal.append(None, [], marker, sync=True)
    wal.close()
    assert reopen(disk)[1] == WalState(b"meta", HardState(1, 1, 4), marker, entries(4, 5))


def test_a_received_snapshot_replaces_a_log_without_its_entry(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 1), entries(1, 9), None, sync=True)
    inside = Snapshot(5, 2)
    wal.append(HardState(2, 0, 5), [], inside, sync=True)
    beyond = Snapshot(100, 2)
    wal.append(HardState(2, 0, 100), entries(101, 102, term=2), beyond, sync=True)
    wal.close()
    assert reopen(disk)[1][2:] == (beyond, entries(101, 102, term=2))


def test_a_marker_whose_hard_state_was_torn_off_never_was(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 1), entries(1, 2), None, sync=True)
    path = f"{PATH}/{segments(disk)[0]}"
    wal.append(HardState(2, 0, 9), entries(10, 11, term=2), Snapshot(9, 2), sync=True)
    data = disk.read(path)
    torn = data.rstrip(b"\0")[:-36]  # the last record, less its first word
    disk.crash()
    disk.replace(path, torn.ljust(len(data), b"\0"))
    wal, state = reopen(disk)
    assert state == WalState(b"meta", HardState(1, 1, 1), Snapshot(), entries(1, 2))
    wal.append(None, entries(3, 3), None, sync=True)
    wal.close()
    assert reopen(disk)[1].entries == entries(1, 3)


def test_entries_of_a_term_whose_hard_state_was_torn_off_raise_the_term(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 1), None, sync=True)
    path = f"{PATH}/{segments(disk)[0]}"
    wal.append(HardState(2, 3, 0), entries(2, 2, term=2), None, sync=True)
    data = disk.read(path)
    disk.crash()
    disk.replace(path, data.rstrip(b"\0")[:-40].ljust(len(data), b"\0"))
    assert reopen(disk)[1].hard_state == HardState(2, 0, 0)


def test_a_torn_tail_is_kept_aside_and_said(
    disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 1), None, sync=True)
    wal.append(HardState(1, 1, 1), entries(2, 2, size=900), None, sync=True)
    wal.close()
    path = f"{PATH}/{segments(disk)[0]}"
    data = disk.read(path)
    cut = data[:900]
    disk.replace(path, cut)
    assert "torn tail" in verify(disk, PATH)[0]
    assert len(disk.read(path)) == 900, "verify only reads"
    with caplog.at_level(logging.WARNING):
        _, state = reopen(disk)
    assert state.entries == entries(1, 1)
    assert disk.read(path + ".broken") == cut.rstrip(b"\0")
    assert path in caplog.text
    assert verify(disk, PATH) == []


def test_what_was_read_is_durable_before_it_is_told(disk: FaultyDisk) -> None:
    # A process that died left bytes in the page cache; the next one answers for them.
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 3), None, sync=False)
    wal.close()
    _, state = reopen(disk)
    disk.crash()
    assert reopen(disk)[1] == state
    assert state.entries == entries(1, 3)


def test_segments_follow_each_other(disk: FaultyDisk) -> None:
    wal = filled(disk)
    assert segments(disk)[:3] == [
        f"{0:016x}-{1:016x}.wal",
        f"{1:016x}-{3:016x}.wal",
        f"{2:016x}-{5:016x}.wal",
    ]
    wal.close()
    assert reopen(disk)[1].entries == entries(1, 20, size=700)


def test_a_batch_larger_than_a_segment_has_its_own(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 3, size=SEGMENT_BYTES), None, sync=True)
    wal.append(HardState(1, 1, 3), entries(4, 4), None, sync=True)
    wal.close()
    assert reopen(disk)[1].entries == entries(1, 3, size=SEGMENT_BYTES) + entries(4, 4)


def test_preparing_ends_and_saves_the_cut_its_work(disk: FaultyDisk) -> None:
    wal = create(disk)
    assert wal.prepare()
    assert not wal.prepare(), "this segment is empty: no need of the next"
    wal.append(HardState(1, 1, 0), entries(1, 1, size=1500), None, sync=True)
    while wal.prepare():
        pass
    assert "next.tmp" in disk.list(PATH)
    wal.append(HardState(1, 1, 1), entries(2, 2, size=1500), None, sync=True)
    assert "next.tmp" not in disk.list(PATH)
    disk.crash()
    assert reopen(disk)[1].entries == entries(1, 2, size=1500)


def test_preparing_a_full_segment_does_not_forget_its_sync(disk: FaultyDisk) -> None:
    # Zeros ahead: none to write. The append before was not synced, and the cut must do it.
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 1, size=1911), None, sync=False)
    wal.prepare()
    wal.append(HardState(1, 1, 1), entries(2, 2), None, sync=True)
    disk.crash()
    assert reopen(disk)[1].entries == entries(1, 1, size=1911) + entries(2, 2)


def test_release_keeps_the_segment_of_the_index_and_one_before(disk: FaultyDisk) -> None:
    wal = filled(disk)
    wal.release(20)
    assert len(segments(disk)) == 10, "nothing goes without a marker"
    wal.append(None, [], Snapshot(11, 1), sync=True)
    wal.release(20)
    firsts = [int(name[17:33], 16) for name in segments(disk)]
    assert firsts[:3] == [9, 11, 13]
    wal.close()
    assert reopen(disk)[1].entries == entries(12, 20, size=700)


def test_release_waits_for_the_marker_to_be_durable(disk: FaultyDisk) -> None:
    wal = filled(disk)
    wal.append(None, [], Snapshot(11, 1), sync=False)
    wal.release(12)
    disk.crash()
    assert reopen(disk)[1].snapshot == Snapshot(11, 1)


def test_a_log_that_starts_with_overwritten_entries(disk: FaultyDisk) -> None:
    # The oldest segment left holds 8 and 9, which two received snapshots replaced; both are older
    # than anything in it, and only the batch behind the second says so.
    wal = create(disk)
    wal.append(HardState(1, 1, 1), entries(1, 1), None, sync=True)
    for index in range(2, 10):
        wal.append(None, entries(index, index, size=700), None, sync=True)
    wal.append(HardState(2, 0, 4), [], Snapshot(4, 2), sync=True)
    wal.close()
    wal, _ = reopen(disk)
    wal.append(HardState(3, 0, 6), entries(7, 8, term=3, size=700), Snapshot(6, 3), sync=True)
    wal.release(7)
    assert int(segments(disk)[0][:16], 16) > 0
    wal.close()
    assert reopen(disk)[1][2:] == (Snapshot(6, 3), entries(7, 8, term=3, size=700))


def test_leftovers_are_removed_on_opening(disk: FaultyDisk) -> None:
    create(disk).close()
    disk.open(f"{PATH}/next.tmp", create=True)
    reopen(disk)
    assert "next.tmp" not in disk.list(PATH)


@pytest.mark.parametrize("missing", [0, 3])
def test_a_missing_segment_is_refused(disk: FaultyDisk, missing: int) -> None:
    filled(disk).close()
    disk.remove(f"{PATH}/{segments(disk)[missing]}")
    with pytest.raises(CorruptWal, match=r"hole|missing"):
        reopen(disk)
    assert len(verify(disk, PATH)) == 1


def test_a_torn_segment_that_is_not_the_last_is_refused(disk: FaultyDisk) -> None:
    filled(disk).close()
    name = segments(disk)[3]
    data = disk.read(f"{PATH}/{name}")
    for damaged in (data[:1000], data[:512] + bytes(len(data) - 512), b""):
        disk.replace(f"{PATH}/{name}", damaged)
        with pytest.raises(CorruptWal) as caught:
            reopen(disk)
        assert name in caught.value.file
        assert verify(disk, PATH) == [str(caught.value)]


@pytest.mark.parametrize("sync", [True, False])
def test_a_lost_sector_is_torn_only_if_nothing_after_it_was_synced(
    disk: FaultyDisk, sync: bool
) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 1), None, sync=True)
    for index in range(2, 6):
        wal.append(None, entries(index, index, size=300), None, sync=sync)
    wal.close()
    path = f"{PATH}/{segments(disk)[0]}"
    data = disk.read(path)
    disk.replace(path, data[:512] + bytes(512) + data[1024:])
    if sync:
        with pytest.raises(CorruptWal, match="after it was synced") as caught:
            reopen(disk)
        assert caught.value.file == path
        assert caught.value.offset < 512 + 300
    else:
        assert reopen(disk)[1].entries[:1] == entries(1, 1)


def test_segments_of_another_log_are_refused(disk: FaultyDisk) -> None:
    filled(disk).close()
    disk.rename(PATH, "/member/other")
    wal = Wal.create(disk, PATH, b"other", segment_bytes=SEGMENT_BYTES, reserve_bytes=0)
    wal.close()
    name = segments(disk)[0]
    disk.replace(f"/member/other/{name}", disk.read(f"{PATH}/{name}"))
    with pytest.raises(CorruptWal, match="does not continue"):
        Wal.open(disk, "/member/other")


def test_an_empty_directory_is_refused(disk: FaultyDisk) -> None:
    disk.make_dir(PATH)
    with pytest.raises(CorruptWal, match="no segment"):
        reopen(disk)
    assert verify(disk, "/nowhere") != []


def test_a_commit_beyond_the_log_is_refused(disk: FaultyDisk) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 7), entries(1, 6), None, sync=True)
    wal.close()
    with pytest.raises(CorruptWal, match="commit 7 beyond the last entry 6"):
        reopen(disk)


def test_our_own_mistakes_are_not_written(disk: FaultyDisk) -> None:
    wal = create(disk)
    with pytest.raises(AssertionError, match="hole"):
        wal.append(None, entries(2, 2), None, sync=True)
    with pytest.raises(AssertionError, match="marker"):
        wal.append(None, [], Snapshot(1, 1), sync=True)
    wal.close()
    assert reopen(disk)[1].entries == []


@pytest.mark.parametrize("fault", ["sync_error", "write_error"])
def test_an_error_is_final(disk: FaultyDisk, fault: str) -> None:
    wal = create(disk)
    wal.append(HardState(1, 1, 0), entries(1, 1), None, sync=True)
    setattr(disk, fault, errno.EIO)
    with pytest.raises(WalFailed, match="Input/output"):
        wal.append(HardState(1, 1, 1), entries(2, 2), None, sync=True)
    setattr(disk, fault, None)
    with pytest.raises(WalFailed, match="earlier"):
        wal.append(HardState(1, 1, 1), entries(2, 2), None, sync=True)
    with pytest.raises(WalFailed):
        wal.release(1)
    wal.close()
    wal.close()
    assert reopen(disk)[1].entries[:1] == entries(1, 1)


def test_a_full_disk_gives_up_the_reserve(disk: FaultyDisk) -> None:
    wal = create(disk, reserve_bytes=5000)
    assert "reserve" in disk.list(PATH)
    disk.free = 100
    with pytest.raises(WalFailed, match="No space"):
        for index in range(1, 9):
            wal.append(HardState(1, 1, 0), entries(index, index, size=900), None, sync=True)
    assert "reserve" not in disk.list(PATH)
    assert disk.free >= 5000
    wal.close()
    disk.crash()
    assert reopen(disk)[1].entries == entries(1, 2, size=900)


def test_no_room_for_the_reserve_is_no_reason_not_to_start(
    disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    create(disk).close()
    disk.free = 10
    wal, _ = Wal.open(disk, PATH, segment_bytes=SEGMENT_BYTES, reserve_bytes=5000)
    assert "reserve" not in disk.list(PATH)
    assert "no room" in caplog.text
    wal.close()


def test_a_directory_has_one_user(tmp_path: Path) -> None:
    disk, path = OsDisk(), f"{tmp_path}/wal"
    wal = Wal.create(disk, path, b"", segment_bytes=SEGMENT_BYTES, reserve_bytes=100)
    with pytest.raises(WalLocked, match=path):
        Wal.open(disk, path)
    wal.append(HardState(1, 1, 1), entries(1, 4), None, sync=True)
    wal.close()
    wal, state = Wal.open(disk, path, segment_bytes=SEGMENT_BYTES, reserve_bytes=0)
    assert state.entries == entries(1, 4)
    while wal.prepare():
        pass
    wal.close()
    assert verify(disk, path) == []
