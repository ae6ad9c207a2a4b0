"""A member that cannot start as it was told says why in one plain line, and loses nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster.harness import ROOT, Cluster, Member, wait_until

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]

KEYS = 60
VALUE = b"v" * 2000
PAGE_BYTES = 4096
WRONG_FLAGS = [
    ({"initial-cluster": "other=http://127.0.0.1:1"}, ["--initial-cluster", "'n1'", "other"]),
    ({"initial-cluster": "n1=http://127.0.0.1:1"}, ["--initial-cluster", "127.0.0.1:1"]),
    ({"initial-cluster": "n1"}, ["--initial-cluster"]),
    ({"heartbeat-interval": "many"}, ["--heartbeat-interval", "many"]),
    ({"election-timeout": "100"}, ["--election-timeout", "100 ms"]),
    ({"listen-client-urls": "ftp://127.0.0.1:1"}, ["--listen-client-urls", "ftp://"]),
    ({"listen-peer-urls": "http://example.org:1"}, ["--listen-peer-urls", "example.org"]),
    ({"auto-compaction-retention": "soon"}, ["--auto-compaction-retention", "soon"]),
    ({"frobnicate": "yes"}, ["--frobnicate"]),
    ({"cert-file": "/nowhere/cert.pem", "key-file": "/nowhere/key.pem"}, ["/nowhere/cert.pem"]),
    ({"config-file": "/nowhere/esker.toml"}, ["/nowhere/esker.toml"]),
]


def last_words(member: Member, *, codes: tuple[int, ...] = (1,)) -> str:
    """Start `member`, which must end by itself at once; what it says about why."""
    before = len(member.log())
    member.start()
    code = member.wait_exit()
    said = member.log()[before:]
    assert code in codes, f"ended with {code}: {said}"
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if "level=fatal" in line or line[:6] == "esker:"]
    assert lines, said
    return "\n".join(lines)


def fill(member: Member) -> None:
    for number in range(KEYS):
        member.client.put(b"key/%03d" % number, VALUE)


def check_filled(member: Member) -> None:
    """Everything that was acknowledged is there, and the member takes writes."""
    rows = member.client.prefix(b"key/").kvs
    assert [row.key for row in rows] == [b"key/%03d" % number for number in range(KEYS)]
    assert {row.value for row in rows} == {VALUE}
    member.client.put(b"after", b"x")


@pytest.fixture
def filled(new_cluster: NewCluster) -> Iterator[Member]:
    """A member of a cluster of one, stopped, its data saved as `saved` beside them."""
    member = new_cluster(1).start()[0]
    fill(member)
    assert member.stop() == 0
    shutil.copytree(member.data_dir, member.directory / "saved")
    yield member


def restore(member: Member) -> None:
    """What an operator does with a backup: the saved data in place of the damaged ones."""
    shutil.rmtree(member.data_dir)
    shutil.copytree(member.directory / "saved", member.data_dir)


def check_starts(member: Member) -> None:
    member.start()
    member.wait_healthy()
    check_filled(member)


def wal_of(member: Member) -> Path:
    return member.data_dir / "member" / "wal"


def backend_of(member: Member) -> Path:
    return member.data_dir / "member" / "backend"


def segment_of(member: Member) -> Path:
    (segment,) = wal_of(member).glob("*.wal")
    return segment


def database_of(member: Member) -> Path:
    (database,) = backend_of(member).glob("*/data.mdb")
    return database


# Settings


@pytest.mark.parametrize("cases", [WRONG_FLAGS[::2], WRONG_FLAGS[1::2]], ids=["even", "odd"])
def test_wrong_flags(cases: list[tuple[dict[str, str], list[str]]], tmp_path: Path) -> None:
    member = Member("n1", tmp_path / "n1")
    for flags, names in cases:
        member.flags = {"initial-cluster": f"n1={member.peer_url}", **flags}
        done = subprocess.run(
            member.arguments(), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 2, done
        lines = done.stderr.splitlines()
        assert lines and all(line.startswith("esker: ") for line in lines), done.stderr
        assert [name for name in names if name not in done.stderr] == [], done.stderr
    assert not member.data_dir.exists(), "a refused start leaves nothing behind"


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("this is no certificate\n")
    member = Member("n1", tmp_path / "n1")
    for prefix in ("", "peer-"):
        member.flags = {
            "initial-cluster": f"n1={member.peer_url}",
            f"{prefix}cert-file": str(garbage),
            f"{prefix}key-file": str(garbage),
        }
        said = last_words(member)
        assert str(garbage) in said
        assert f"--{prefix}cert-file" in said


@pytest.mark.parametrize("which", ["client_url", "peer_url"])
def test_address_in_use(which: str, filled: Member) -> None:
    url = urlsplit(getattr(filled, which))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((url.hostname, url.port))
        other.listen()
        said = last_words(filled)
    assert f"{url.hostname}:{url.port}" in said
    assert "in use" in said and "Errno" not in said
    check_starts(filled)


# Two at once


def test_two_processes_on_one_data_directory(filled: Member, tmp_path: Path) -> None:
    filled.start()
    filled.wait_healthy()
    second = Member("n1", tmp_path / "second")
    second.data_dir = filled.data_dir
    second.flags = dict(filled.flags)
    said = last_words(second)
    assert str(filled.data_dir) in said
    assert "another process" in said
    check_filled(filled)


def test_two_processes_found_one_data_directory(tmp_path: Path) -> None:
    """Also before there is a log: one of them founds the cluster, the other says what is wrong."""
    first, second = Member("n1", tmp_path / "one"), Member("n1", tmp_path / "two")
    second.data_dir, second.peer_url = first.data_dir, first.peer_url
    first.flags = second.flags = {"initial-cluster": f"n1={first.peer_url}"}
    try:
        first.start()
        second.start()
        wait_until("one of two gives up", lambda: not (first.running and second.running))
        loser, winner = (first, second) if second.running else (second, first)
        loser.wait_exit()
        winner.wait_healthy()
        fill(winner)
        check_filled(winner)
        assert "Traceback" not in loser.log()
        assert "another process" in loser.log()
    finally:
        first.end()
        second.end()


# Data that are gone, damaged, or somebody else's


def lose_log(member: Member) -> list[object]:
    shutil.rmtree(wal_of(member))
    return [wal_of(member), backend_of(member), "was the log lost?"]


def lose_database(member: Member) -> list[object]:
    shutil.rmtree(backend_of(member))
    return [backend_of(member), "older than its log"]


def empty_segment(member: Member) -> list[object]:
    segment = segment_of(member)
    segment.write_bytes(b"")
    return [segment, "offset 0"]


def lose_segment(member: Member) -> list[object]:
    segment = segment_of(member)
    segment.rename(segment.with_name(f"{7:016x}-{1000:016x}.wal"))
    segment.write_bytes(segment.with_name(f"{7:016x}-{1000:016x}.wal").read_bytes())
    return [wal_of(member), "the segment before it is missing"]


def flip_bit_in_log(member: Member) -> list[object]:
    segment = segment_of(member)
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 0x10
    segment.write_bytes(data)
    return [segment, "at offset", "checksum mismatch"]


def damage_database(change: Callable[[bytes], bytes]) -> Callable[[Member], list[object]]:
    def damage(member: Member) -> list[object]:
        database = database_of(member)
        database.write_bytes(change(database.read_bytes()))
        return [database.parent]

    return damage


def random_meta_pages(data: bytes) -> bytes:
    return os.urandom(2 * PAGE_BYTES) + data[2 * PAGE_BYTES :]


def random_other_pages(data: bytes) -> bytes:
    return data[: 2 * PAGE_BYTES] + os.urandom(len(data) - 2 * PAGE_BYTES)


def random_rows(data: bytes) -> bytes:
    """Only the pages that hold rows of ours."""
    pages = [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
    return b"".join(os.urandom(PAGE_BYTES) if VALUE in page else page for page in pages)


def cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_in_meta_pages(data: bytes) -> bytes:
    return data[: PAGE_BYTES + 10]


def change_current(text: str) -> Callable[[Member], list[object]]:
    def damage(member: Member) -> list[object]:
        current = backend_of(member) / "CURRENT"
        current.write_text(text)
        return [current]

    return damage


def lose_current(member: Member) -> list[object]:
    current = backend_of(member) / "CURRENT"
    current.unlink()
    return [current, "is missing"]


DAMAGES = [
    lose_log,
    lose_database,
    empty_segment,
    lose_segment,
    flip_bit_in_log,
    damage_database(random_meta_pages),
    damage_database(random_other_pages),
    damage_database(random_rows),
    damage_database(cut_in_half),
    damage_database(cut_in_meta_pages),
    change_current("00000007\n"),
    change_current("nonsense"),
    change_current(""),
    lose_current,
]


@pytest.mark.parametrize("damages", [DAMAGES[::2], DAMAGES[1::2]], ids=["even", "odd"])
def test_damage_is_named(damages: list[Callable[[Member], list[object]]], filled: Member) -> None:
    """Refused, with the name of what is wrong; and the backup is as good as ever."""
    for damage in damages:
        names = damage(filled)
        said = last_words(filled)
        assert [name for name in names if str(name) not in said] == [], said
        restore(filled)
    check_starts(filled)


def test_torn_tail_is_cut(filled: Member) -> None:
    """A write that the power cut short was promised to nobody: the member starts without it."""
    segment = segment_of(filled)
    data = segment.read_bytes()
    end = len(data.rstrip(b"\0"))
    end += -end % 8
    segment.write_bytes(data[:end] + b"\x40\0\0\0" + bytes(len(data) - end - 4))
    check_starts(filled)
    assert "torn tail cut" in filled.log()


def test_data_of_another_cluster(filled: Member, new_cluster: NewCluster) -> None:
    other = new_cluster(1).start()[0]
    fill(other)
    assert other.stop() == 0
    filled.flags["initial-cluster-token"] = "another"
    said = last_words(filled)
    assert str(filled.data_dir) in said
    assert "'test'" in said and "'another'" in said
    filled.flags["initial-cluster-token"] = "test"

    shutil.rmtree(backend_of(filled))
    shutil.copytree(backend_of(other), backend_of(filled))
    said = last_words(filled)
    assert str(backend_of(filled)) in said and str(wal_of(filled)) in said
    assert "belongs to cluster" in said
    restore(filled)
    check_starts(filled)
