"""Seams: everything of the outside world that a member is built on, in one value.

The defaults are the real things. A simulation brings its own of each and runs the same member.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mvcc.lmdb_backend import LmdbBackend
from node.api.http import HttpFace
from node.bootstrap import faults_in_file
from node.interpreter import settle
from node.joining import find_place, members_known_to
from node.peer_snapshot import copy_state
from raft.core.types import Snapshot
from raft.disk import Disk, OsDisk
from raft.tcp_transport import TcpTransport
from raft.transport import SnapshotSource
from raft.wal import Wal
from raft.wal_thread import WalThread


class Seams(NamedTuple):
    """Each field is called as the class or function that is its default.

    `copy_state(backend)` is a frozen copy of the state for a peer, `faults(path, snapshot)` what is
    wrong with a received one; both block. `wall_seconds` is a clock that may be set back.
    """

    hit: Callable[[str], None]
    disk: Disk = OsDisk()
    jitter: Callable[[int], int] = random.SystemRandom().randrange
    wall_seconds: Callable[[], float] = time.time
    backend: Callable[..., Any] = LmdbBackend
    wal_thread: Callable[..., Any] = WalThread
    transport: Callable[..., Any] = TcpTransport
    wal: Any = Wal
    copy_state: Callable[[Any], SnapshotSource] = copy_state
    faults: Callable[[str, Snapshot], list[str]] = faults_in_file
    find_place: Callable[..., Any] = find_place
    members_known_to: Callable[..., Any] = members_known_to
    face: Callable[..., Any] = HttpFace
    settle: Callable[[], None] = settle
