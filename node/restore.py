"""A snapshot file becomes the data directory of one member of a new cluster.

Keys, history and leases stay; who belonged to the old cluster, its alarms and its place in the log
go. What is left is founded like any new cluster, by the same code: every member restored from the
same file with the same --initial-cluster and token is born in the same state. The directory appears
under its name only when it is complete.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time

import lmdb

from mvcc.backend import META
from mvcc.errors import MvccError
from mvcc.generations import CONSISTENT_INDEX, sync_path
from mvcc.lmdb_backend import LmdbBackend
from node.apply.schema import ALARM, CLUSTER, CONF_STATE, MEMBERS, MEMBERS_REMOVED
from node.bootstrap import BootstrapError, Directories, Opener, faults_in_file, open_data
from node.config import ConfigError, NodeConfig, load
from raft.disk import OsDisk
from raft.wal import Wal

GENERATION = "00000001"
PAGE_BYTES = 512
"""Data files are whole pages; what exceeds them is the digest that a snapshot ends with."""
SPARE_BYTES = 1 << 30
TABLES_MAX = 32


class RestoreError(Exception):
    """Nothing was restored; the text says why."""


def restore_snapshot(
    path: str,
    *,
    name: str,
    data_dir: str,
    wal_dir: str,
    initial_cluster: str,
    initial_cluster_token: str,
    initial_advertise_peer_urls: str,
) -> None:
    """Make `data_dir` (and `wal_dir`, if not empty) from the snapshot; durable on return.

    Settings as the flags have them. Raises RestoreError or OSError; `data_dir` does not exist then.
    """
    settings = {
        "name": name,
        "data-dir": f"{data_dir}.restoring",
        "wal-dir": wal_dir,
        "initial-cluster": initial_cluster,
        "initial-cluster-token": initial_cluster_token,
        "initial-advertise-peer-urls": initial_advertise_peer_urls,
    }
    if wal_dir and os.path.exists(wal_dir):
        raise RestoreError(f"wal-dir {wal_dir} exists")
    try:
        config = load([f"--{flag}={text}" for flag, text in settings.items()], {})
    except ConfigError as error:
        raise RestoreError(str(error)) from error
    shutil.rmtree(config.data_dir, ignore_errors=True)
    try:
        _place(path, Directories.of(config).backend)
        asyncio.run(_found(config))
        if os.path.isdir(data_dir):
            os.rmdir(data_dir)
        os.rename(config.data_dir, data_dir)
    except (BootstrapError, MvccError, lmdb.Error) as error:
        raise RestoreError(str(error)) from error
    finally:
        # Nothing has this name any more, unless the above failed.
        shutil.rmtree(config.data_dir, ignore_errors=True)
    sync_path(os.path.dirname(os.path.abspath(data_dir)))


def _place(path: str, backend: str) -> None:
    """The database of the file as the first generation of `backend`, without its old cluster."""
    directory = os.path.join(backend, GENERATION)
    os.makedirs(directory, mode=0o700)
    data = os.path.join(directory, "data.mdb")
    shutil.copyfile(path, data)
    size = os.path.getsize(data)
    os.truncate(data, size - size % PAGE_BYTES)
    with lmdb.open(directory, map_size=2 * size + SPARE_BYTES, max_dbs=TABLES_MAX) as environment:
        _forget_cluster(environment, path)
        environment.sync(True)
    current = os.path.join(backend, "CURRENT")
    with open(current, "w") as file:
        file.write(f"{GENERATION}\n")
    member = os.path.dirname(backend)
    for written in (current, directory, backend, member, os.path.dirname(member)):
        sync_path(written)


def _forget_cluster(environment: lmdb.Environment, path: str) -> None:
    with environment.begin(write=True) as txn:
        names = {bytes(name).decode() for name in txn.cursor().iternext(values=False)}
        needed = {META, ALARM, CLUSTER, MEMBERS, MEMBERS_REMOVED}
        if not needed <= names:
            raise RestoreError(f"{path} is not a snapshot of esker")
        for name in needed - {META}:
            txn.drop(environment.open_db(name.encode(), txn=txn), delete=False)
        meta = environment.open_db(META.encode(), txn=txn)
        for key in (CONSISTENT_INDEX, CONF_STATE):
            txn.delete(key, db=meta)


async def _found(config: NodeConfig) -> None:
    """Found the new cluster on the placed database: membership, first index, log."""
    loop = asyncio.get_running_loop()

    def open_backend(path: str) -> LmdbBackend:
        return LmdbBackend(
            path,
            map_size=os.path.getsize(os.path.join(path, GENERATION, "data.mdb")) + SPARE_BYTES,
            post=loop.call_soon_threadsafe,
            clock=time.monotonic,
        )

    opener = Opener(OsDisk(), open_backend, Wal, faults_in_file)
    opened = await open_data(config, opener, joining=None)
    opened.wal.close()
    opened.backend.close()
