"""Opening a data directory: the first start of a new cluster, joining one, and every start after
that.

    <data-dir>/member/wal/        the log; its metadata say which member of which cluster this is
    <data-dir>/member/snap/       received snapshots that are not adopted yet
    <data-dir>/member/backend/    the database

A new cluster's members are all born from the same state: index 1 of term 1 holds the membership,
and nothing else. It is in the backend before the log is created, so a member that dies in between
starts again from nothing; a log that exists always has its state beside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from mvcc.errors import BackendFailed
from mvcc.generations import applied_in_file, check
from mvcc.lmdb_backend import LmdbBackend
from node.apply.members import Members, first_members, new_cluster_id
from node.config import NodeConfig
from node.sole_survivor import go_on_alone
from node.waiting import answer_of
from raft.core.types import ConfState, HardState, Snapshot
from raft.disk import Disk
from raft.snapshotter import SnapshotFile, Snapshotter
from raft.wal import Wal, WalState

log = logging.getLogger("esker.bootstrap")

FIRST_INDEX = 1
FIRST_TERM = 1


class BootstrapError(Exception):
    """This member cannot start from this data directory with these settings; the text says why and
    what to do.
    """


class Identity(NamedTuple):
    """Who a data directory belongs to: the log's metadata.

    `peers` are (member id, peer URLs) of the members that a joining one found: whom to talk to
    until a snapshot has brought it the membership.
    """

    member_id: int
    cluster_id: int
    token: str
    peers: list[tuple[int, list[str]]]

    def pack(self) -> bytes:
        return bytes(msgpack.packb(self._asdict()))

    @classmethod
    def unpack(cls, data: bytes) -> Identity:
        """BootstrapError when these are no metadata of ours."""
        try:
            return cls(**msgpack.unpackb(data))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise BootstrapError(f"the log's metadata cannot be read: {error}") from error


class Opened(NamedTuple):
    """A data directory in use."""

    identity: Identity
    wal: Wal
    wal_state: WalState
    backend: LmdbBackend
    snapshotter: Snapshotter


class Directories(NamedTuple):
    """Where the parts of one member live."""

    wal: str
    snap: str
    backend: str

    @classmethod
    def of(cls, config: NodeConfig) -> Directories:
        member = os.path.join(config.data_dir, "member")
        return cls(
            config.wal_dir or os.path.join(member, "wal"),
            os.path.join(member, "snap"),
            os.path.join(member, "backend"),
        )


class Opener(NamedTuple):
    """How the parts are opened; `faults(path, snapshot)` is what is wrong with a received
    database. A simulation opens others.
    """

    disk: Disk
    backend: Callable[[str], LmdbBackend]
    wal: Any
    faults: Callable[[str, Snapshot], list[str]]

    def snapshotter(self, directories: Directories) -> Snapshotter:
        return Snapshotter(self.disk, directories.snap, faults=self.faults)


async def open_data(config: NodeConfig, opener: Opener, *, joining: Identity | None) -> Opened:
    """Open what is there, or create it. BootstrapError, CorruptWal, OSError; then nothing was lost.

    `joining` is who this member is to be in a cluster that runs already; only read when there is
    no log yet. The directory is locked until the log, which has a lock of its own, is open: two
    processes cannot found one member.
    """
    disk, directories = opener.disk, Directories.of(config)
    _make_directory(disk, os.path.dirname(directories.wal))
    _make_directory(disk, directories.backend)
    try:
        lock = disk.lock(os.path.dirname(directories.backend))
    except BlockingIOError as error:
        raise BootstrapError(f"another process uses {config.data_dir}") from error
    try:
        if disk.exists(directories.wal):
            return await _reopen(config, opener, directories)
        return _create(config, opener, directories, joining)
    finally:
        lock.close()


def _make_directory(disk: Disk, path: str) -> None:
    """With those above it; each name is durable on return, or a synced log in it could vanish."""
    path = os.path.abspath(path)
    if disk.exists(path):
        return
    parent = os.path.dirname(path)
    _make_directory(disk, parent)
    with contextlib.suppress(FileExistsError):  # a second process founds the same member
        disk.make_dir(path)
    disk.sync_dir(parent)


def _create(
    config: NodeConfig, opener: Opener, directories: Directories, joining: Identity | None
) -> Opened:
    disk = opener.disk
    backend = opener.backend(directories.backend)
    if backend.applied()[0] > FIRST_INDEX:
        index = backend.applied()[0]
        backend.close()
        raise BootstrapError(
            f"{directories.backend} holds a database at index {index}, but there is no log in"
            f" {directories.wal}: was the log lost? Remove the member, empty its data directory,"
            " and add it again"
        )
    if joining is not None:
        identity = joining
        wal = opener.wal.create(disk, directories.wal, identity.pack())
        state = WalState(identity.pack(), HardState(), Snapshot(), [])
    else:
        identity, first = _found(config, backend)
        # Closing writes and syncs; what is read afterwards is what a crash would leave.
        backend.close()
        backend = opener.backend(directories.backend)
        if backend.applied() != (FIRST_INDEX, FIRST_TERM):
            raise BootstrapError(f"the first state could not be written to {directories.backend}")
        wal = opener.wal.create(disk, directories.wal, identity.pack())
        wal.append(first.hard_state, [], first.snapshot, sync=True)
        state = first
    return Opened(identity, wal, state, backend, opener.snapshotter(directories))


def _found(config: NodeConfig, backend: LmdbBackend) -> tuple[Identity, WalState]:
    """Write the state every first member is born from; durable when this returns."""
    token = config.initial_cluster_token
    members = Members(backend)
    members.restore()
    first = first_members(config.initial_cluster, token)
    if not members.list():
        members.bootstrap(first, token)
        backend.end_entries(FIRST_INDEX, FIRST_TERM)
    elif members.list() != first:
        raise BootstrapError(
            f"an earlier start with another --initial-cluster was cut short in {config.data_dir};"
            " empty the data directory and start again"
        )
    own = sorted(config.initial_cluster[config.name])
    member_id = next(member.ID for member in first if member.peerURLs == own)
    identity = Identity(member_id, new_cluster_id(first, token), token, [])
    conf_state = ConfState(voters=tuple(member.ID for member in first))
    snapshot = Snapshot(FIRST_INDEX, FIRST_TERM, conf_state)
    return identity, WalState(identity.pack(), HardState(FIRST_TERM, 0, FIRST_INDEX), snapshot, [])


async def _reopen(config: NodeConfig, opener: Opener, directories: Directories) -> Opened:
    wal, state = opener.wal.open(opener.disk, directories.wal)
    identity = Identity.unpack(state.metadata)
    if config.initial_cluster_token != identity.token:
        wal.close()
        raise BootstrapError(
            f"{config.data_dir} belongs to a cluster with token {identity.token!r}"
            f" (id {identity.cluster_id:x}), not to {config.initial_cluster_token!r}"
        )
    backend = opener.backend(directories.backend)
    snapshotter = opener.snapshotter(directories)
    try:
        await _adopt_snapshot(state, directories, backend, snapshotter)
    except BaseException:
        wal.close()
        with contextlib.suppress(BackendFailed):  # What ends the start is told already.
            backend.close()
        raise
    members = Members(backend)
    members.restore()
    if members.cluster_id not in (0, identity.cluster_id):
        wal.close()
        backend.close()
        raise BootstrapError(
            f"{directories.backend} belongs to cluster {members.cluster_id:x}, but the log in"
            f" {directories.wal} to {identity.cluster_id:x}"
        )
    if state.snapshot.index == 0 and backend.applied()[0] == FIRST_INDEX and not state.entries:
        # The first start ended between creating the log and its first mark.
        snapshot = Snapshot(FIRST_INDEX, FIRST_TERM, members.conf_state)
        hard_state = HardState(FIRST_TERM, 0, FIRST_INDEX)
        wal.append(hard_state, [], snapshot, sync=True)
        state = state._replace(hard_state=hard_state, snapshot=snapshot)
    if config.force_new_cluster:
        if members.get(identity.member_id) is None:
            wal.close()
            backend.close()
            raise BootstrapError(
                f"--force-new-cluster: {config.data_dir} belongs to member {identity.member_id:x},"
                " which is no member of its cluster any more"
            )
        state = go_on_alone(wal, state, backend, members, identity.member_id)
        # Closing writes and syncs.
        backend.close()
        backend = opener.backend(directories.backend)
    return Opened(identity, wal, state, backend, snapshotter)


def faults_in_file(path: str, snapshot: Snapshot) -> list[str]:
    """What is wrong with a received database, in words."""
    faults = check(path)
    if not faults and applied_in_file(path) != (snapshot.index, snapshot.term):
        index, term = applied_in_file(path)
        faults = [f"it holds the state of {index}, term {term}, not of {snapshot.index}"]
    return faults


async def _adopt_snapshot(
    state: WalState, directories: Directories, backend: LmdbBackend, snapshotter: Snapshotter
) -> None:
    """Finish an installation that a crash cut short between the log's mark and the database, and
    remove what else was received. BootstrapError; then nothing has changed.
    """
    index = backend.applied()[0]
    wanted = state.snapshot.index
    if index < wanted:
        file = _received(wanted, index, directories, snapshotter)
        await answer_of(lambda done: backend.install(file.path, done))
        log.info("adopted the snapshot of an earlier life", extra={"index": wanted})
    newest = snapshotter.newest()
    if newest is not None:
        # The log has no mark of what is left, so the same state may be received again; a file that
        # was damaged meanwhile must not be installed in its place.
        snapshotter.purge(newest.index)


def _received(
    wanted: int, index: int, directories: Directories, snapshotter: Snapshotter
) -> SnapshotFile:
    """The snapshot of index `wanted` for the database at `index`; BootstrapError."""
    files = snapshotter.files_of(wanted)
    if not files:
        raise BootstrapError(
            f"the log begins after the snapshot of index {wanted}, but the database in"
            f" {directories.backend} is at index {index}, and {directories.snap} does not hold that"
            " snapshot: the database is older than its log. Remove the member, empty its data"
            " directory, and add it again (`eskerctl member replace`)"
        )
    for file in files:
        if snapshotter.intact(file):
            return file
    raise BootstrapError(
        f"the log begins after the snapshot of index {wanted}, which is damaged: the bytes of"
        f" {files[0].path} are not those that were received. Remove the member, empty its data"
        " directory, and add it again (`eskerctl member replace`)"
    )
