"""The state as one file, for a lagging or new peer: a `raft.transport.SnapshotSource`."""

from __future__ import annotations

import msgspec

from mvcc.backend import META
from mvcc.errors import BackendFailed
from mvcc.generations import open_file
from mvcc.lmdb_backend import LmdbBackend
from mvcc.lmdb_view import Copy
from node.apply.schema import CONF_STATE
from raft.core.types import ConfState, Snapshot


class StateCopy:
    """A synced copy of one commit, open for reading; `close` removes it. A pool thread's work
    throughout.
    """

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._file = open(copy.path, "rb")  # noqa: SIM115 - closed by close()
        self.size = copy.size
        self.snapshot = Snapshot(copy.index, copy.term, _conf_state_in(copy.path))

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes from where the last read ended; empty at the end."""
        return self._file.read(limit)

    def close(self) -> None:
        self._file.close()
        self._copy.close()


def copy_state(backend: LmdbBackend) -> StateCopy:
    """Blocks for seconds per gigabyte. OSError when there is no room: the peer has to wait."""
    try:
        return StateCopy(backend.open_copy("snapshot for a peer"))
    except BackendFailed as error:
        raise OSError(str(error)) from error


def _conf_state_in(path: str) -> ConfState:
    """The configuration as of the copy's own index, which may be later than what the caller last
    heard of.
    """
    with open_file(path) as env, env.begin() as txn:
        row = txn.get(CONF_STATE, db=env.open_db(META.encode(), txn=txn, create=False))
    return msgspec.msgpack.decode(row, type=ConfState) if row else ConfState()
