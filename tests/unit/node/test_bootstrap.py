"""Bootstrap: what must be durable before a member's first promise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mvcc.lmdb_backend import LmdbBackend
from node.bootstrap import (
    BootstrapError,
    Directories,
    Opened,
    Opener,
    faults_in_file,
    open_data,
)
from node.config import NodeConfig, load
from raft.core.types import ConfState, Snapshot
from raft.disk import OsDisk
from raft.snapshotter import SnapshotFile
from raft.wal import Wal
from tests.unit.mvcc.backends import quick_folder


class WatchedDisk(OsDisk):
    """Keeps the directories whose names were made durable."""

    def __init__(self) -> None:
        self.synced: set[str] = set()

    def sync_dir(self, path: str) -> None:
        super().sync_dir(path)
        self.synced.add(path)


def open_backend(path: str) -> LmdbBackend:
    post = asyncio.get_running_loop().call_soon_threadsafe
    return LmdbBackend(path, map_size=1 << 24, post=post, clock=time.monotonic)


def opener(disk: OsDisk) -> Opener:
    return Opener(disk, open_backend, Wal, faults_in_file)


def close(opened: Opened) -> None:
    opened.wal.close()
    opened.backend.close()


async def test_every_new_name_on_the_way_to_the_data_is_durable(tmp_path: Path) -> None:
    data, wal = tmp_path / "new" / "data", tmp_path / "logs" / "a" / "wal"
    config = load(["--name=a", f"--data-dir={data}", f"--wal-dir={wal}"], {})
    disk = WatchedDisk()
    close(await open_data(config, opener(disk), joining=None))
    named = [tmp_path, data.parent, data, data / "member", wal.parent.parent, wal.parent]
    assert {str(path) for path in named} <= disk.synced


# -- a received snapshot that a crash kept from the database

LEASE = "lease"
RECEIVED = Snapshot(900, 4, ConfState(voters=(1,)))

Unadopted = Callable[..., list[SnapshotFile]]


@pytest.fixture
def data() -> Iterator[Path]:
    with quick_folder() as path:
        yield path


@pytest.fixture
async def unadopted(data: Path) -> Unadopted:
    """`unadopted(*values)` leaves a member that died between the log's mark and the database, with
    one received file of RECEIVED for each value.
    """
    close(await reopened(data))
    wal, state = Wal.open(OsDisk(), str(data / "member" / "wal"))
    wal.append(state.hard_state._replace(term=4, commit=900), [], RECEIVED, sync=True)
    wal.close()
    snapshotter = opener(OsDisk()).snapshotter(Directories.of(config_of(data)))

    def receive(*values: bytes) -> list[SnapshotFile]:
        for value in values:
            directory = data / f"donor of {value!r}"
            donor = open_backend(str(directory))
            donor.put(LEASE, b"lease", value)
            donor.end_entries(RECEIVED.index, RECEIVED.term)
            donor.close()
            writer = snapshotter.begin(RECEIVED)
            writer.write(next(directory.glob("*/data.mdb")).read_bytes())
            writer.finish()
        return snapshotter.files()

    return receive


def config_of(data: Path) -> NodeConfig:
    return load(["--name=a", f"--data-dir={data}"], {})


async def reopened(data: Path) -> Opened:
    return await open_data(config_of(data), opener(OsDisk()), joining=None)


def flip(file: SnapshotFile) -> None:
    content = bytearray(Path(file.path).read_bytes())
    content[-1] ^= 1
    Path(file.path).write_bytes(content)


def contents(data: Path) -> dict[str, bytes]:
    """But for the engine's table of readers."""
    files = [path for path in (data / "member").rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if path.name != "lock.mdb"}


async def test_received_snapshot_is_adopted(data: Path, unadopted: Unadopted) -> None:
    unadopted(b"1")
    opened = await reopened(data)
    assert opened.backend.applied() == (900, 4)
    assert opened.backend.range(LEASE, b"", b"z", 0) == [(b"lease", b"1")]
    assert opened.snapshotter.files() == []
    close(opened)


async def test_damaged_one_is_refused_and_nothing_changes(data: Path, unadopted: Unadopted) -> None:
    (file,) = unadopted(b"1")
    flip(file)
    before = contents(data)
    with pytest.raises(BootstrapError) as refusal:
        await reopened(data)
    assert contents(data) == before
    for told in (file.path, "damaged", "eskerctl member replace"):
        assert told in str(refusal.value)
    flip(file)
    close(await reopened(data))


async def test_one_whole_file_of_two_is_enough(data: Path, unadopted: Unadopted) -> None:
    """Two leaders sent the same state, each in bytes of its own."""
    files = unadopted(b"1", b"2")
    assert len(files) == 2
    flip(files[0])
    opened = await reopened(data)
    assert opened.backend.applied() == (900, 4)
    assert opened.snapshotter.files() == []
    close(opened)


async def test_what_the_log_does_not_know_is_removed(data: Path, unadopted: Unadopted) -> None:
    """The same state may be received again, and is not looked at again then."""
    unadopted(b"1")
    opened = await reopened(data)
    later = opened.snapshotter.begin(Snapshot(1000, 4))
    opened.snapshotter.faults = lambda path, snapshot: []
    later.write(b"received")
    later.finish()
    close(opened)
    opened = await reopened(data)
    assert opened.snapshotter.files() == []
    assert opened.backend.applied() == (900, 4)
    close(opened)
