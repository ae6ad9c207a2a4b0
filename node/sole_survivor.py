"""--force-new-cluster: the data of a member that lost the majority of its cluster become those of a
cluster of one.

Keys, history, leases, alarms and users stay, and so do the cluster's id and this member's. The
other members count as removed from now on: their ids never come back, and should one of them still
run, nobody listens to it. Of the log all is kept, also what no majority is known to have: the
majority that could tell is gone, and among it may be what clients were promised. Only changes of
the membership that were not applied yet are struck out, for they would bring others back.

Two members of one cluster that are started so are two clusters with the same ids: that is for the
operator to prevent.
"""

from __future__ import annotations

import logging

from mvcc.lmdb_backend import LmdbBackend
from node.apply.members import Members
from raft.core.types import Entry, EntryType
from raft.wal import Wal, WalState

log = logging.getLogger("esker.bootstrap")


def go_on_alone(
    wal: Wal, state: WalState, backend: LmdbBackend, members: Members, own: int
) -> WalState:
    """What the log says afterwards, durable on return; the rows are, once the backend was closed.

    A crash in between leaves a member of the old cluster, to be started so again.
    """
    state = _strike_out_changes(wal, state, backend.applied()[0])
    others = [member.ID for member in members.list() if own != member.ID]
    members.keep_only(own)
    backend.end_entries(*backend.applied())
    log.warning(
        "this member goes on alone",
        extra={"member": f"{own:x}", "removed": ",".join(f"{number:x}" for number in others)},
    )
    return state


def _strike_out_changes(wal: Wal, state: WalState, applied: int) -> WalState:
    """Empty entries in the place of membership changes after `applied`."""
    struck = [
        Entry(entry.term, entry.index, EntryType.NORMAL, b"")
        if entry.type == EntryType.CONF_CHANGE and entry.index > applied
        else entry
        for entry in state.entries
    ]
    changed = [at for at, entry in enumerate(state.entries) if entry.type != struck[at].type]
    if changed:
        wal.append(None, struck[changed[0] :], None, sync=True)
    return state._replace(entries=struck)
