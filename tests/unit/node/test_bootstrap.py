"""Bootstrap: what must be durable before a member's first promise."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from mvcc.lmdb_backend import LmdbBackend
from node.bootstrap import Opener, faults_in_file, open_data
from node.config import load
from raft.disk import OsDisk
from raft.wal import Wal


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


async def test_every_new_name_on_the_way_to_the_data_is_durable(tmp_path: Path) -> None:
    data, wal = tmp_path / "new" / "data", tmp_path / "logs" / "a" / "wal"
    config = load(["--name=a", f"--data-dir={data}", f"--wal-dir={wal}"], {})
    disk = WatchedDisk()
    opener = Opener(disk, open_backend, Wal, faults_in_file)
    opened = await open_data(config, opener, joining=None)
    opened.wal.close()
    opened.backend.close()
    named = [tmp_path, data.parent, data, data / "member", wal.parent.parent, wal.parent]
    assert {str(path) for path in named} <= disk.synced
