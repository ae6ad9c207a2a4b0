"""The directory of generations: what a start makes of whatever a crash or a person left there."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from mvcc.errors import BackendFailed, CorruptionError
from mvcc.generations import Generations, applied_in_file, check, encode_index, sync_path

MAP_BYTES = 16 << 20


def generations(path: Path) -> Generations:
    return Generations(str(path), MAP_BYTES)


def start(path: Path) -> tuple[int, tuple[int, int]]:
    """Open and close: the number of the generation in service, and its applied index and term."""
    generation = generations(path).open()
    result = generation.number, generation.applied()
    generation.env.close()
    return result


def make(path: Path, index: int) -> None:
    """A database in its first generation that applied entries up to `index`."""
    generation = generations(path).open()
    with generation.env.begin(write=True) as txn:
        txn.put(b"consistentIndex", encode_index(index, 2), db=generation.tables["meta"])
    generation.env.close()


def names(path: Path) -> set[str]:
    return {child.name for child in path.iterdir()}


def test_fresh_start_makes_the_first_generation(tmp_path: Path) -> None:
    assert start(tmp_path / "backend") == (1, (0, 0))
    assert (tmp_path / "backend" / "CURRENT").read_text() == "00000001\n"
    assert names(tmp_path / "backend") == {"CURRENT", "00000001"}


def test_leftovers_of_every_kind_are_removed(tmp_path: Path) -> None:
    make(tmp_path, 7)
    make(tmp_path / "other", 9)
    (tmp_path / "other" / "00000001").rename(tmp_path / "00000002")
    (tmp_path / "00000003").mkdir()
    (tmp_path / "00000004").mkdir()
    (tmp_path / "00000004" / "data.mdb").write_bytes(b"torn" * 500)
    (tmp_path / "CURRENT.tmp").write_text("000")
    (tmp_path / "copy-0.tmp").write_bytes(b"\xff" * 100)
    (tmp_path / "received.tmp").mkdir()
    (tmp_path / "received.tmp" / "part").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("not ours")
    assert start(tmp_path) == (1, (7, 2))
    assert names(tmp_path) == {"CURRENT", "00000001", "notes.txt", "other"}


def test_current_decides_also_against_a_newer_generation(tmp_path: Path) -> None:
    make(tmp_path, 7)
    (tmp_path / "00000001").rename(tmp_path / "00000005")
    (tmp_path / "CURRENT").write_text("00000005\n")
    make(tmp_path / "other", 9)
    (tmp_path / "other" / "00000001").rename(tmp_path / "00000006")
    assert start(tmp_path) == (5, (7, 2))


def test_crash_before_the_first_current_starts_afresh(tmp_path: Path) -> None:
    assert start(tmp_path) == (1, (0, 0))
    (tmp_path / "CURRENT").rename(tmp_path / "CURRENT.tmp")
    assert start(tmp_path) == (1, (0, 0))
    assert names(tmp_path) == {"CURRENT", "00000001"}


def test_missing_current_never_costs_a_database(tmp_path: Path) -> None:
    make(tmp_path, 7)
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(CorruptionError, match="00000001 holds data up to index 7"):
        start(tmp_path)
    assert names(tmp_path) == {"00000001"}


@pytest.mark.parametrize("text", ["", "1", "0000000x\n", "00000001\nmore", "\udcff"])
def test_damaged_current_is_refused(tmp_path: Path, text: str) -> None:
    make(tmp_path, 7)
    (tmp_path / "CURRENT").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptionError, match="CURRENT"):
        start(tmp_path)
    assert "00000001" in names(tmp_path)


def test_current_that_names_nothing_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 7)
    (tmp_path / "CURRENT").write_text("00000002\n")
    with pytest.raises(CorruptionError, match="has no data"):
        start(tmp_path)
    assert "00000001" in names(tmp_path)


def test_file_the_engine_refuses_is_an_error_and_stays(tmp_path: Path) -> None:
    make(tmp_path, 7)
    (tmp_path / "00000001" / "data.mdb").write_bytes(b"not a database" * 1000)
    (tmp_path / "00000002").mkdir()
    with pytest.raises(BackendFailed, match="00000001"):
        start(tmp_path)
    assert names(tmp_path) == {"CURRENT", "00000001", "00000002"}


def test_failed_sync_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    make(tmp_path, 3)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=re.escape(f"'{tmp_path}'")):
        sync_path(str(tmp_path))
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "CURRENT.tmp"))):
        Generations(str(tmp_path), 1 << 20).stage(2)


def test_check_finds_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    make(tmp_path, 7)
    data = tmp_path / "00000001" / "data.mdb"
    assert check(str(data)) == []
    assert applied_in_file(str(data)) == (7, 2)

    torn = tmp_path / "torn"
    torn.write_bytes(data.read_bytes()[:-4096])
    assert check(str(torn))

    damaged = tmp_path / "damaged"
    content = bytearray(data.read_bytes())
    content[3 * 4096 + 12] ^= 0xFF
    damaged.write_bytes(content)
    assert check(str(damaged))

    assert check(str(tmp_path / "missing"))
    (tmp_path / "empty").write_bytes(b"")
    assert check(str(tmp_path / "empty"))


def test_check_wants_an_applied_index(tmp_path: Path) -> None:
    start(tmp_path)
    (fault,) = check(str(tmp_path / "00000001" / "data.mdb"))
    assert "consistentIndex" in fault
