"""What the driver owes a Ready, one member at a time; then members among themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raft.core.conf_change import ConfChange, ConfChangeSingle, ConfChangeType, encode_conf_change
from raft.core.config import Config
from raft.core.errors import ProposalDropped
from raft.core.message import Message, MessageType
from raft.core.types import ConfState, Entry, EntryType, HardState, Snapshot
from raft.driver import DriverConfig, RaftDriver
from raft.wal import WalFailed, WalJob, WalState

from .driver_fixture import (
    Copy,
    Machine,
    MemoryTransport,
    Network,
    Node,
    RecordingWal,
    StartNode,
    eventually,
)

NEVER = 3600.0
"""Seconds per tick for tests that tick by hand, or not at all."""


async def turn() -> None:
    """Let everything happen that was to happen in this turn of the loop and the next."""
    for _ in range(4):
        await asyncio.sleep(0)


def types(transport: MemoryTransport) -> list[MessageType]:
    """What was sent since the last look."""
    sent = [MessageType(message.type) for message in transport.sent]
    transport.sent.clear()
    return sent


def append(*entries: Entry, commit: int = 0, index: int | None = None) -> Message:
    """From member 2, the leader of term 1."""
    before = entries[0].index - 1 if entries else (index or 0)
    return Message(
        type=MessageType.APPEND,
        to=1,
        sender=2,
        term=1,
        index=before,
        log_term=1 if before else 0,
        entries=list(entries),
        commit=commit,
    )


def line(index: int, data: bytes = b"x") -> Entry:
    return Entry(1, index, EntryType.NORMAL, data)


async def lead(
    start_node: StartNode, voters: tuple[int, ...] = (1, 2, 3), **options: object
) -> Node:
    """Member 1 as leader of term 1; the others are played by hand. Nothing is written yet."""
    node = await start_node(1, voters, tick_seconds=NEVER, **options)
    node.driver._node.campaign()
    node.driver.resume()
    await turn()
    for type_ in (MessageType.PRE_VOTE_RESPONSE, MessageType.VOTE_RESPONSE):
        node.wal.write()
        await turn()
        for voter in voters[1:]:
            node.driver.receive(Message(type=type_, to=1, sender=voter, term=1))
        await turn()
    assert node.leads
    types(node.transport)
    return node


def acknowledge(node: Node, index: int, sender: int = 2) -> None:
    node.driver.receive(
        Message(type=MessageType.APPEND_RESPONSE, to=1, sender=sender, term=1, index=index)
    )


# -- what must be durable before what


async def test_vote_leaves_after_it_is_durable(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.driver.receive(Message(type=MessageType.VOTE, to=1, sender=2, term=5))
    await turn()
    assert node.wal.jobs == [(WalJob(HardState(5, 2, 0), [], None), True)]
    assert node.transport.sent == []
    node.wal.write()
    assert types(node.transport) == [MessageType.VOTE_RESPONSE]
    assert node.driver.term == 5


async def test_entries_are_acknowledged_and_applied_after_they_are_durable(
    start_node: StartNode,
) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.driver.receive(append(line(1), line(2), commit=2))
    await turn()
    (job, sync), *others = node.wal.jobs
    assert ([entry.index for entry in job.entries], sync, others) == ([1, 2], True, [])
    assert node.transport.sent == []
    assert node.machine.batches == []
    node.wal.write()
    assert types(node.transport) == [MessageType.APPEND_RESPONSE]
    assert node.machine.batches == [[1, 2]]
    assert (node.driver.applied_index, node.driver.commit_index) == (2, 2)


async def test_responses_keep_the_order_of_the_writes(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.driver.receive(append(line(1)))
    await turn()
    # This one has nothing to write, but it speaks of what is still being written.
    node.driver.receive(append(line(1)))
    await turn()
    node.driver.receive(append(line(2)))
    await turn()
    assert node.transport.sent == []
    for expected in (1, 1, 2):
        node.wal.write(1)
        assert [message.index for message in node.transport.sent] == [expected]
        types(node.transport)
    assert [sync for _, sync in node.wal.jobs] == [True, False, True]


async def test_what_promises_nothing_leaves_at_once(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.driver.receive(append(line(1)))
    await turn()
    heartbeat = Message(type=MessageType.HEARTBEAT, to=1, sender=2, term=1)
    node.driver.receive(heartbeat)
    await turn()
    assert types(node.transport) == [MessageType.HEARTBEAT_RESPONSE]


async def test_leader_sends_while_it_writes_and_counts_itself_afterwards(
    start_node: StartNode,
) -> None:
    node = await lead(start_node)
    assert node.wal.waiting
    node.wal.write()
    acknowledge(node, 1)
    acknowledge(node, 1, sender=3)
    await turn()
    assert node.machine.index == 1
    types(node.transport)
    node.driver.propose(b"line", 7)
    await turn()
    assert types(node.transport) == [MessageType.APPEND, MessageType.APPEND]
    assert len(node.wal.waiting) == 1
    acknowledge(node, 2)
    acknowledge(node, 2, sender=3)
    await turn()
    # Committed by the two others, but not durable here.
    assert node.driver.commit_index == 2
    assert node.machine.lines == []
    node.wal.write()
    await turn()
    assert node.machine.lines == [b"line"]


async def test_single_member_applies_nothing_before_its_write(start_node: StartNode) -> None:
    node = await start_node(1, (1,), tick_seconds=NEVER)
    node.wal.write()
    await turn()
    node.wal.write()
    await turn()
    node.driver.propose(b"line", 1)
    await turn()
    assert node.driver.is_leader
    assert node.machine.lines == []
    node.wal.write()
    assert node.machine.lines == [b"line"]


async def test_commit_alone_is_not_written_but_rides_along(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.driver.receive(append(line(1)))
    await turn()
    node.wal.write()
    jobs = len(node.wal.jobs)
    node.driver.receive(Message(type=MessageType.HEARTBEAT, to=1, sender=2, term=1, commit=1))
    await turn()
    assert node.machine.index == 1
    assert len(node.wal.jobs) == jobs
    node.driver.receive(append(line(2)))
    await turn()
    assert node.wal.jobs[-1][0].hard_state == HardState(1, 0, 1)


async def test_owed_commit_is_written_on_stop(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.driver.receive(append(line(1)))
    await turn()
    node.wal.write()
    node.driver.receive(Message(type=MessageType.HEARTBEAT, to=1, sender=2, term=1, commit=1))
    await turn()
    node.wal.at_once = True
    await node.driver.stop()
    assert node.wal.jobs[-1] == (WalJob(HardState(1, 0, 1)), True)


async def test_proposals_of_a_turn_are_one_batch(start_node: StartNode) -> None:
    node = await lead(start_node)
    node.wal.write()
    acknowledge(node, 1)
    acknowledge(node, 1, sender=3)
    await turn()
    jobs, batches = len(node.wal.jobs), node.transport.batches
    for number in range(100):
        node.driver.propose(b"line", number)
    await turn()
    assert len(node.wal.jobs) == jobs + 1
    assert len(node.wal.jobs[-1][0].entries) == 100
    assert node.transport.batches == batches + 1


# -- proposals


async def test_without_a_leader_proposals_are_dropped_at_once(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    with pytest.raises(ProposalDropped):
        node.driver.propose(b"line", 1)
    with pytest.raises(ProposalDropped):
        node.driver.propose_conf_change(ConfChange())


async def test_refused_batches_are_told_by_their_ids(start_node: StartNode) -> None:
    node = await lead(start_node, max_uncommitted_bytes=1000, max_message_bytes=400)
    for number in range(5):
        node.driver.propose(bytes(300), number)
    await turn()
    # In batches of one: the first 900 bytes fit, what follows does not.
    assert node.machine.refused == [3, 4]
    assert node.driver.counters.proposals_dropped == 2
    assert node.driver.counters.proposals == 5


async def test_forwarded_batches_fit_into_a_message(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER, max_message_bytes=1000)
    node.driver.receive(append(line(1)))
    await turn()
    node.wal.write()
    types(node.transport)
    for size in (400, 400, 400, 3000, 10):
        node.driver.propose(bytes(size), size)
    await turn()
    sizes = [[len(entry.data) for entry in message.entries] for message in node.transport.sent]
    assert sizes == [[400, 400], [400], [3000], [10]]
    assert types(node.transport) == [MessageType.PROPOSE] * 4


BAD_CHANGE = ConfChange([ConfChangeSingle(ConfChangeType.ADD_VOTER, 4)], context=b"bad")


@pytest.mark.parametrize(
    "entry",
    [
        Entry(0, 0, EntryType.NORMAL, b"bad line"),
        Entry(0, 0, EntryType.CONF_CHANGE, b"\xc1"),
        Entry(0, 0, EntryType.CONF_CHANGE, encode_conf_change(BAD_CHANGE)),
        Entry(0, 0, 2, b"good"),
    ],
)
async def test_forwarded_proposals_are_admitted_whole_or_not(
    start_node: StartNode, entry: Entry
) -> None:
    node = await lead(start_node)
    node.wal.write()
    good = Entry(0, 0, EntryType.NORMAL, b"good")
    last = node.driver.status().last_index
    node.driver.receive(Message(type=MessageType.PROPOSE, to=1, sender=2, entries=[good, entry]))
    await turn()
    assert node.driver.status().last_index == last
    assert node.driver.counters.proposals_refused == 2
    assert node.driver.counters.messages_refused == 1
    node.driver.receive(Message(type=MessageType.PROPOSE, to=1, sender=2, entries=[good]))
    await turn()
    assert node.driver.status().last_index == last + 1


async def test_messages_no_peer_sends_are_refused_and_logged_once(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    for _ in range(3):
        node.driver.receive(Message(type=MessageType.APPEND, to=9, sender=2))
    assert node.driver.counters.messages_refused == 3
    assert caplog.text.count("refused a message of member 2") == 1


# -- applying


async def test_blocked_machine_gets_entries_after_resume(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    node.machine.blocked = True
    node.driver.receive(append(line(1), line(2), commit=2))
    await turn()
    node.wal.write()
    node.driver.receive(append(line(3), commit=3))
    await turn()
    node.wal.write()
    assert node.machine.batches == []
    assert node.driver.commit_index == 3
    assert [message.type for message in node.transport.sent] == [MessageType.APPEND_RESPONSE] * 2
    node.machine.blocked = False
    node.driver.resume()
    await turn()
    assert node.machine.batches == [[1, 2], [3]]
    assert node.driver.applied_index == 3


async def test_configuration_changes_are_applied_alone(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)
    change = encode_conf_change(ConfChange([ConfChangeSingle(ConfChangeType.ADD_LEARNER, 4)]))
    bad = encode_conf_change(ConfChange([ConfChangeSingle(ConfChangeType.REMOVE, 0)]))
    entries = [
        line(1),
        Entry(1, 2, EntryType.CONF_CHANGE, change),
        line(3),
        line(4),
        Entry(1, 5, EntryType.CONF_CHANGE, bad),
    ]
    node.driver.receive(append(*entries, commit=5))
    await turn()
    node.wal.write()
    assert node.machine.batches == [[1], [2], [3, 4], [5]]
    assert node.machine.lines == [b"x", b"x", b"x", b"refused"]
    assert node.driver.conf_state == ConfState(voters=(1, 2, 3), learners=(4,))


async def test_long_applies_come_in_bounded_batches(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER, max_apply_bytes=1000)
    node.driver.receive(append(*[line(i, bytes(300)) for i in range(1, 11)], commit=10))
    await turn()
    node.wal.write()
    assert node.driver.applied_index < 10
    await eventually(lambda: node.driver.applied_index == 10)
    assert max(len(batch) for batch in node.machine.batches) == 3
    assert [i for batch in node.machine.batches for i in batch] == list(range(1, 11))


# -- reads


async def test_reads_of_a_turn_share_one_round(start_node: StartNode) -> None:
    node = await lead(start_node)
    node.wal.write()
    acknowledge(node, 1)
    await turn()
    types(node.transport)
    node.driver.read_index(11)
    node.driver.read_index(12)
    await turn()
    beats = [m for m in node.transport.sent if m.type == MessageType.HEARTBEAT]
    assert len(beats) == 2
    node.driver.receive(
        Message(
            type=MessageType.HEARTBEAT_RESPONSE,
            to=1,
            sender=2,
            term=1,
            context=beats[0].context,
        )
    )
    await turn()
    assert node.machine.reads == [(11, 1), (12, 1)]


# -- failure


async def test_broken_machine_silences_the_driver_once(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER)

    def burst(entry: Entry) -> None:
        raise RuntimeError("cannot apply")

    node.machine.on_apply = burst
    node.driver.receive(append(line(1), commit=1))
    await turn()
    types(node.transport)
    node.wal.write()
    node.driver.receive(append(line(2), commit=2))
    node.driver.resume()
    node.driver.fail(RuntimeError("later"))
    await turn()
    assert [str(error) for error in node.errors] == ["cannot apply"]
    assert types(node.transport) == [MessageType.APPEND_RESPONSE]
    with pytest.raises(ProposalDropped):
        node.driver.propose(b"line", 1)
    node.errors.clear()


async def test_failed_wal_is_fatal_and_nothing_more_is_said(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    node = await lead(start_node)
    try:
        raise WalFailed("no space left")
    except WalFailed as error:
        node.driver.fail(error)
    types(node.transport)
    node.wal.write()
    acknowledge(node, 1)
    await turn()
    assert node.transport.sent == []
    assert [type(error) for error in node.errors] == [WalFailed]
    assert "raft stops: no space left" in caplog.text
    assert "Traceback" not in caplog.text, "where in the program a disk fails says nothing"
    node.errors.clear()


async def test_full_disk_is_fatal_once_and_lets_the_member_stop(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = await start_node(1, (1,), path=tmp_path / "1")
    await eventually(lambda: node.leads)
    await node.propose(b"line")

    def full(jobs: object, *, sync: bool) -> None:
        raise WalFailed("the WAL cannot be written: no space left on device")

    node.wal._wal.append_jobs = full
    node.driver.propose(b"lost", 1)
    await eventually(lambda: node.errors)
    with pytest.raises(ProposalDropped):
        node.driver.propose(b"never", 2)
    await node.driver.stop()
    assert [type(error) for error in node.errors] == [WalFailed]
    assert node.machine.lines == [b"line"]
    node.errors.clear()


async def test_stop_does_not_wait_for_a_dead_disk(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raft.wal_queue.FLUSH_SECONDS", 0.01)
    node = await lead(start_node)
    await node.driver.stop()
    assert "not waiting for it" in caplog.text


@pytest.mark.parametrize("applied", [4, 8])
async def test_machine_without_its_entries_is_refused(applied: int) -> None:
    state = WalState(b"", HardState(1, 0, 7), Snapshot(5, 1), [line(6), line(7)])
    with pytest.raises(ValueError, match=f"index {applied}, but the log has 5 to 7"):
        RaftDriver(
            DriverConfig(core=Config(id=1, jitter=lambda n: 0)),
            state=state,
            applied=applied,
            conf_state=ConfState((1,)),
            wal=RecordingWal(),
            transport=MemoryTransport(Network(), 1),
            snapshots=None,
            state_machine=Machine(),
            on_fatal=lambda error: None,
        )


# -- the clock


async def test_leader_with_a_stalled_disk_hands_over(start_node: StartNode) -> None:
    node = await lead(start_node)
    node.wal.write()
    acknowledge(node, 1, sender=3)
    await turn()
    node.driver.propose(b"line", 1)
    await turn()
    acknowledge(node, 2, sender=3)
    await turn()
    types(node.transport)
    node.transport.since = {2: 20.0, 3: 10.0}
    assert node.driver.successor() == 3
    node.driver._wal._started[0] -= 11 * NEVER
    node.driver._tick(1)
    await turn()
    assert MessageType.TIMEOUT_NOW in types(node.transport)
    assert node.driver.counters.wal_stalls == 1
    assert node.driver.status().lead_transferee == 3


# -- the log's length


async def apply_lines(node: Node, first: int, last: int) -> None:
    node.driver.receive(append(*[line(i, b"%d" % i) for i in range(first, last + 1)], commit=last))
    await turn()
    node.wal.write()
    assert node.machine.index == last


async def test_checkpoints_mark_and_truncate(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER, snapshot_count=10, catch_up_entries=4)
    storage = node.driver._storage
    await apply_lines(node, 1, 25)
    node.driver.checkpoint(9)
    assert node.wal.jobs[-1][0].snapshot is None
    node.driver.checkpoint(12)
    job, sync = node.wal.jobs[-1]
    assert sync
    assert job == WalJob(HardState(1, 0, 25), (), Snapshot(12, 1, ConfState((1, 2, 3))))
    assert storage.first_index() == 9
    assert node.wal.released == []
    node.wal.write()
    assert node.wal.released == [13]
    jobs = len(node.wal.jobs)
    node.driver.checkpoint(21)
    assert len(node.wal.jobs) == jobs
    node.driver.checkpoint(22)
    assert node.wal.jobs[-1][0].snapshot.index == 22
    assert storage.first_index() == 19
    # What a machine says before its driver counts it as applied waits for the next time.
    node.driver.checkpoint(40)
    assert node.wal.jobs[-1][0].snapshot.index == 22


async def test_marker_has_the_configuration_of_its_index(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER, snapshot_count=1)
    change = encode_conf_change(ConfChange([ConfChangeSingle(ConfChangeType.ADD_LEARNER, 4)]))
    await apply_lines(node, 1, 2)
    node.driver.receive(append(Entry(1, 3, EntryType.CONF_CHANGE, change), commit=3))
    await turn()
    node.wal.write()
    await apply_lines(node, 4, 5)
    for index, learners in ((2, ()), (3, (4,)), (5, (4,))):
        node.driver.checkpoint(index)
        marker = node.wal.jobs[-1][0].snapshot
        assert (marker.index, marker.conf_state.learners) == (index, learners)


async def test_log_of_too_many_bytes_is_truncated_early(start_node: StartNode) -> None:
    node = await start_node(1, tick_seconds=NEVER, log_bytes_max=2000, catch_up_entries=100)
    storage = node.driver._storage
    node.driver.receive(append(*[line(i, bytes(500)) for i in range(1, 9)], commit=8))
    await turn()
    node.wal.write()
    node.driver.checkpoint(8)
    assert node.wal.jobs[-1][0].snapshot.index == 8
    assert storage.first_index() == 6


# -- snapshots out


async def test_snapshot_of_a_past_leadership_is_not_sent(start_node: StartNode) -> None:
    node = await lead(start_node)
    node.wal.write()
    opened: list[Copy] = []
    open_snapshot = node.machine.open_snapshot

    async def slowly() -> Copy:
        node.driver.receive(Message(type=MessageType.HEARTBEAT, to=1, sender=3, term=9))
        await turn()
        opened.append(await open_snapshot())
        return opened[0]

    node.machine.open_snapshot = slowly
    node.driver._send([snapshot_to(2)])
    await eventually(lambda: opened and opened[0].closed)
    assert MessageType.SNAPSHOT not in types(node.transport)
    assert node.driver._checkpoints.begin_sending(2)


def snapshot_to(member: int) -> Message:
    return Message(type=MessageType.SNAPSHOT, to=member, sender=1, term=1, snapshot=Snapshot(1, 1))


async def test_one_snapshot_per_peer_at_a_time(start_node: StartNode) -> None:
    node = await lead(start_node)
    node.wal.write()
    node.driver._send([snapshot_to(2), snapshot_to(2)])
    await turn()
    assert types(node.transport).count(MessageType.SNAPSHOT) == 1
