"""OsDisk on a real directory; the faulty disk must agree with it while no fault is set."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from raft.disk import Disk, OsDisk, OsFile
from tests.faulty_disk import FaultyDisk, PowerCut


@pytest.fixture(params=["os", "faulty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    if request.param == "os":
        return OsDisk(), str(tmp_path)
    disk = FaultyDisk()
    disk.make_dir("/here")
    return disk, "/here"


def test_file_holds_what_was_written_where_it_was_written(place: tuple[Disk, str]) -> None:
    disk, path = place
    file = disk.open(f"{path}/a", create=True)
    file.write_at(0, b"hello")
    file.write_at(8, b"world")
    file.write_at(1, b"E")
    file.sync_data()
    file.sync()
    assert file.read_at(0, 100) == b"hEllo\0\0\0world"
    assert file.read_at(3, 2) == b"lo"
    assert file.read_at(100, 1) == b""
    file.truncate(3)
    assert file.size() == disk.size(f"{path}/a") == 3
    file.close()
    assert disk.read(f"{path}/a") == b"hEl"


def test_preallocation_grows_with_zeros_and_never_shrinks(place: tuple[Disk, str]) -> None:
    disk, path = place
    file = disk.open(f"{path}/a", create=True)
    file.write_at(0, b"x")
    file.preallocate(5000)
    file.preallocate(10)
    assert disk.read(f"{path}/a") == b"x" + bytes(4999)
    file.close()


def test_names(place: tuple[Disk, str]) -> None:
    disk, path = place
    for name in ("b", "a"):
        disk.open(f"{path}/{name}", create=True).close()
    with pytest.raises(FileExistsError):
        disk.open(f"{path}/a", create=True)
    with pytest.raises(FileNotFoundError):
        disk.open(f"{path}/missing")
    disk.make_dir(f"{path}/folder")
    assert disk.list(path) == ["a", "b", "folder"]
    disk.rename(f"{path}/b", f"{path}/a")
    disk.remove_dir(f"{path}/folder")
    disk.sync_dir(path)
    assert disk.list(path) == ["a"]
    disk.remove(f"{path}/a")
    assert not disk.exists(f"{path}/a")
    assert disk.exists(path)
    assert disk.free_bytes(path) > 0


def test_a_directory_is_locked_once(place: tuple[Disk, str]) -> None:
    disk, path = place
    lock = disk.lock(path)
    with pytest.raises(BlockingIOError):
        disk.lock(path)
    lock.close()
    disk.lock(path).close()


def test_preallocation_without_support_writes_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    file = OsDisk().open(f"{tmp_path}/a", create=True)
    file.preallocate((1 << 20) + 7)
    assert file.read_at(0, 1 << 22) == bytes((1 << 20) + 7)
    file.close()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:3], at))
    file: OsFile = OsDisk().open(f"{tmp_path}/a", create=True)
    file.write_at(2, b"0123456789")
    assert file.read_at(0, 99) == b"\0\x000123456789"
    file.close()


@pytest.mark.parametrize("call", ["pread", "pwrite", "ftruncate", "posix_fallocate", "fsync"])
def test_errors_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Of an open file the system says only what is wrong."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    uses: dict[str, Callable[[OsFile], object]] = {
        "pread": lambda file: file.read_at(0, 1),
        "pwrite": lambda file: file.write_at(0, b"x"),
        "ftruncate": lambda file: file.truncate(0),
        "posix_fallocate": lambda file: file.preallocate(1),
        "fsync": lambda file: file.sync(),
    }
    disk = OsDisk()
    file = disk.open(f"{tmp_path}/a", create=True)
    monkeypatch.setattr(os, call, fail)
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match=re.escape(f"Input/output error: '{tmp_path}/a'")):
        uses[call](file)
    if call == "fsync":
        with pytest.raises(OSError, match=re.escape(f"'{tmp_path}/a'")):
            file.sync_data()
        with pytest.raises(OSError, match=re.escape(f"'{tmp_path}'")):
            disk.sync_dir(str(tmp_path))
    file.close()


def test_faulty_disk_forgets_what_was_not_synced() -> None:
    disk = FaultyDisk()
    file = disk.open("/a", create=True)
    file.write_at(0, b"synced")
    file.sync()
    disk.sync_dir("/")
    file.write_at(0, b"forgot")
    disk.open("/b", create=True)
    disk.crash()
    assert disk.list("/") == ["a"]
    assert disk.read("/a") == b"synced"


def test_faulty_disk_tears_at_sectors() -> None:
    seen = set()
    for seed in range(60):
        disk = FaultyDisk()
        file = disk.open("/a", create=True)
        file.preallocate(1536)
        file.sync()
        disk.sync_dir("/")
        file.write_at(0, b"x" * 1536)
        disk.crash(Random(seed))
        seen.add(tuple(disk.read("/a")[start] for start in (0, 512, 1024)))
    assert len(seen) == 8, "each of three sectors is kept or not"


def test_faulty_disk_loses_power_in_the_middle_of_a_write() -> None:
    disk = FaultyDisk()
    file = disk.open("/a", create=True)
    disk.cut_at = disk.operations
    with pytest.raises(PowerCut):
        file.write_at(0, b"abcd")
    assert disk.read("/a") == b"ab"
    with pytest.raises(PowerCut):
        file.sync()


def test_faulty_disk_fills_up() -> None:
    disk = FaultyDisk()
    file = disk.open("/a", create=True)
    disk.free = 3
    with pytest.raises(OSError, match="No space"):
        file.write_at(0, b"abcd")
    assert disk.read("/a") == b"abc"
