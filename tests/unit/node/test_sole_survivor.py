"""--force-new-cluster: what becomes of the membership and of the log's tail."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from mvcc.lmdb_backend import LmdbBackend
from node.apply.members import ChangeKind, MemberChange, Members, encode_change, first_members
from node.apply.responses import Member
from node.bootstrap import BootstrapError, Opened, Opener, faults_in_file, open_data
from node.config import load
from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType, encode_conf_change
from raft.core.types import ConfState, Entry, EntryType, HardState
from raft.disk import OsDisk
from raft.wal import Wal

INITIAL = "a=http://a:1,b=http://b:1,c=http://c:1"
TOKEN = "etcd-cluster"
OWN, B, C = (first_members({name: [f"http://{name}:1"]}, TOKEN)[0].ID for name in ("a", "b", "c"))


def open_backend(path: str) -> LmdbBackend:
    post = asyncio.get_running_loop().call_soon_threadsafe
    return LmdbBackend(path, map_size=1 << 24, post=post, clock=time.monotonic)


async def opened(directory: Path, *flags: str) -> Opened:
    config = load(
        [
            "--name=a",
            f"--data-dir={directory}",
            "--initial-advertise-peer-urls=http://a:1",
            f"--initial-cluster={INITIAL}",
            *flags,
        ],
        {},
    )
    opener = Opener(OsDisk(), open_backend, Wal, faults_in_file)
    return await open_data(config, opener, joining=None)


def close(member: Opened) -> None:
    member.wal.close()
    member.backend.close()


def adding(index: int, number: int) -> Entry:
    change = MemberChange(index, ChangeKind.ADD, Member(number, peerURLs=["http://d:1"]))
    single = ConfChangeSingle(ConfChangeType.ADD_VOTER, number)
    data = encode_conf_change(ConfChange([single], context=encode_change(change)))
    return Entry(1, index, EntryType.CONF_CHANGE, data)


async def test_all_of_the_log_stays_but_for_changes_of_the_membership(tmp_path: Path) -> None:
    first = await opened(tmp_path)
    log = [Entry(1, 2), Entry(1, 3, EntryType.NORMAL, b"put"), adding(4, 77), Entry(1, 5, 0, b"x")]
    first.wal.append(HardState(1, B, 3), log, None, sync=True)
    close(first)
    alone = await opened(tmp_path, "--force-new-cluster")
    close(alone)
    again = await opened(tmp_path)
    for member in (alone, again):
        kept = [(entry.index, entry.type, bytes(entry.data)) for entry in member.wal_state.entries]
        assert kept == [(2, 0, b""), (3, 0, b"put"), (4, 0, b""), (5, 0, b"x")]
    members = Members(again.backend)
    members.restore()
    assert [member.ID for member in members.list()] == [OWN]
    assert members.conf_state == ConfState(voters=(OWN,))
    assert members.is_removed(B)
    assert members.is_removed(C)
    assert again.identity == first.identity
    close(again)


async def test_a_learner_becomes_the_voter_and_nothing_happens_twice(tmp_path: Path) -> None:
    first = await opened(tmp_path)
    members = Members(first.backend)
    members.restore()
    learner = Member(OWN, peerURLs=["http://a:1"], isLearner=True)
    members.apply(MemberChange(1, ChangeKind.ADD, learner))
    first.backend.end_entries(1, 1)
    assert members.is_learner(OWN)
    close(first)
    for _ in range(2):
        alone = await opened(tmp_path, "--force-new-cluster")
        members = Members(alone.backend)
        members.restore()
        assert members.is_voter(OWN)
        assert len(members.list()) == 1
        close(alone)


async def test_one_that_was_removed_does_not_come_back_so(tmp_path: Path) -> None:
    first = await opened(tmp_path)
    members = Members(first.backend)
    members.restore()
    members.apply(MemberChange(1, ChangeKind.REMOVE, Member(OWN)))
    first.backend.end_entries(1, 1)
    close(first)
    with pytest.raises(BootstrapError, match="no member of its cluster any more"):
        await opened(tmp_path, "--force-new-cluster")
