"""Reads right after a restart: what a leader may not answer yet."""

from __future__ import annotations

from raft.core.config import Config
from raft.core.raw_node import RawNode
from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Entry, HardState, ReadState, Snapshot


def test_the_only_voter_holds_reads_until_its_whole_log_is_committed_again() -> None:
    """The commit on disk may trail what was acknowledged: only entries are synced, not commits."""
    storage = MemoryStorage()
    storage.apply_snapshot(Snapshot(1, 1, ConfState(voters=(1,))))
    storage.append([Entry(2, 2, 0, b"acknowledged"), Entry(2, 3, 0, b"acknowledged, too")])
    storage.set_hard_state(HardState(term=2, vote=1, commit=1))
    node = RawNode(Config(id=1, jitter=lambda n: 0, applied=1), storage)
    node.campaign()
    node.read_index(7)
    answered: list[ReadState] = []
    for _ in range(10):
        if not node.has_ready():
            break
        ready = node.ready()
        storage.append(ready.entries)
        answered += ready.read_states
        if not answered:
            node.read_index(8)
        if ready.mark is not None:
            node.appended(ready.mark)
        if ready.committed:
            node.applied(ready.committed[-1].index)
    assert answered, "the reads were never answered"
    assert min(read.index for read in answered) >= 3
