"""RawNode's contract: what is refused, what is handed out once, what counts as durable."""

from __future__ import annotations

import pytest

from raft.core.conf_change import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Transition,
    decode_conf_change,
    encode_conf_change,
)
from raft.core.config import Config
from raft.core.errors import ConfChangeRefused, ProposalDropped, StepRefused
from raft.core.message import Message, MessageType
from raft.core.types import ConfState, Entry, HardState, Role, Snapshot
from tests.unit.raft.core_fixture import Core, of_type


def append(term: int, index: int, log_term: int, entries: list[Entry], commit: int = 0) -> Message:
    return Message(
        type=MessageType.APPEND,
        to=1,
        sender=2,
        term=term,
        index=index,
        log_term=log_term,
        entries=entries,
        commit=commit,
    )


@pytest.mark.parametrize(
    "message",
    [
        Message(type=MessageType.HEARTBEAT, to=2, sender=3, term=1),
        Message(type=MessageType.HEARTBEAT, to=1, sender=1, term=1),
        Message(type=MessageType.HEARTBEAT, to=1, sender=0, term=1),
        Message(type=MessageType.HEARTBEAT, to=1, sender=2, term=0),
        Message(type=MessageType.PROPOSE, to=1, sender=2, term=4, entries=[Entry(0, 0)]),
        Message(type=MessageType.PROPOSE, to=1, sender=2),
        Message(type=MessageType.SNAPSHOT, to=1, sender=2, term=1),
        Message(type=MessageType.SNAPSHOT, to=1, sender=2, term=1, snapshot=Snapshot()),
        Message(type=99, to=1, sender=2, term=1),
        Message(type=0, to=1, sender=2, term=1),
        append(1, 0, 0, [Entry(1, 2)]),
        append(1, 0, 0, [Entry(1, 1), Entry(1, 3)]),
        append(1, 0, 0, [Entry(2, 1)]),
        append(2, 0, 0, [Entry(2, 1), Entry(1, 2)]),
        append(1, 1, 2, []),
        append(1, -1, 0, []),
    ],
)
def test_an_impossible_message_is_refused_and_changes_nothing(message: Message) -> None:
    core = Core()
    before = core.node.status()
    with pytest.raises(StepRefused):
        core.node.step(message)
    assert core.node.status() == before
    assert not core.node.has_ready()


def test_a_second_leader_in_a_term_is_refused() -> None:
    core = Core()
    core.lead()
    with pytest.raises(StepRefused):
        core.step(MessageType.HEARTBEAT, 2, 1)
    assert core.role == Role.LEADER


def test_an_acknowledgement_past_the_end_is_refused() -> None:
    core = Core()
    core.lead()
    with pytest.raises(StepRefused):
        core.step(MessageType.APPEND_RESPONSE, 2, 1, index=50)
    assert core.node.status().commit == 0


def test_a_commit_past_the_last_index_stops_the_member() -> None:
    """The leader knows that this member had acknowledged entries: its log has lost them."""
    core = Core(terms=(1,))
    with pytest.raises(AssertionError, match="past the last index"):
        core.step(MessageType.HEARTBEAT, 2, 1, commit=2)


def test_a_state_machine_ahead_of_the_saved_commit_is_believed() -> None:
    """A bare commit is not synced, the state machine's own disk may be ahead of it."""
    core = Core(terms=(1, 1, 1))
    config = Config(id=1, jitter=lambda ticks: 0, applied=2)
    node = type(core.node)(config, core.storage)
    assert (node.status().commit, node.status().applied) == (2, 2)


def test_an_entry_overwritten_twice_is_not_durable_by_its_first_write() -> None:
    """x of term 1, y of term 2, x of term 1 again: what was written first is soon gone."""
    core = Core()
    marks = []
    for message in (
        append(1, 0, 0, [Entry(1, 1, 0, b"base"), Entry(1, 2, 0, b"x")]),
        append(2, 1, 1, [Entry(2, 2, 0, b"y")]),
        append(3, 1, 1, [Entry(1, 2, 0, b"x"), Entry(3, 3)], commit=3),
    ):
        core.node.step(message)
        ready = core.take()
        marks.append(ready.mark)
        assert not ready.committed
    for mark in marks[:2]:
        core.node.appended(mark)
        assert not core.node.has_ready(), "nothing of this is durable"
    core.node.appended(marks[2])
    assert [entry.data for entry in core.node.ready().committed] == [b"base", b"x", b""]


def test_each_fact_is_handed_out_once() -> None:
    core = Core(voters=(1,))
    core.node.campaign()
    core.finish()
    core.node.propose([b"a"])
    first = core.take()
    assert [entry.data for entry in first.entries] == [b"a"]
    assert not core.node.has_ready()
    core.node.propose([b"b"])
    second = core.take()
    assert [entry.data for entry in second.entries] == [b"b"]
    core.node.appended(first.mark)
    assert [entry.data for entry in core.take().committed] == [b"a"]
    core.node.appended(second.mark)
    assert [entry.data for entry in core.take().committed] == [b"b"]


def test_must_sync_for_entries_term_and_vote_but_not_for_a_commit() -> None:
    core = Core()
    core.node.step(append(1, 0, 0, [Entry(1, 1)]))
    ready = core.take()
    assert ready.must_sync
    core.node.appended(ready.mark)
    core.node.step(append(1, 1, 1, [], commit=1))
    ready = core.take()
    assert ready.hard_state == HardState(1, 0, 1)
    assert not ready.must_sync


def test_answers_wait_for_the_disk_but_not_those_to_heartbeats() -> None:
    core = Core()
    core.node.step(append(1, 0, 0, [Entry(1, 1)]))
    core.node.step(Message(type=MessageType.HEARTBEAT, to=1, sender=2, term=1))
    ready = core.take()
    assert [m.type for m in ready.messages] == [MessageType.HEARTBEAT_RESPONSE]
    assert [m.type for m in ready.messages_after_append] == [MessageType.APPEND_RESPONSE]


def test_proposals_of_one_turn_are_one_append_to_each_peer() -> None:
    core = Core()
    core.lead()
    for peer in (2, 3):
        core.step(MessageType.APPEND_RESPONSE, peer, 1, index=1)
    core.node.propose([b"a", b"b"])
    core.node.propose([b"c"])
    core.node.step(
        Message(type=MessageType.PROPOSE, to=1, sender=2, entries=[Entry(0, 0, 0, b"d")])
    )
    appends = of_type(core.finish(), MessageType.APPEND)
    assert [message.to for message in appends] == [2, 3]
    assert [entry.data for entry in appends[0].entries] == [b"a", b"b", b"c", b"d"]


def test_a_dropped_proposal_leaves_no_trace() -> None:
    core = Core()
    with pytest.raises(ProposalDropped):
        core.node.propose([b"a", b"b"])
    assert not core.node.has_ready()
    core.lead()
    before = core.node.status()
    with pytest.raises(ProposalDropped):
        core.node.propose_conf_change(b"\xc1 not a change")
    assert core.node.status() == before


def test_a_change_of_configuration_round_trips() -> None:
    change = ConfChange(
        [ConfChangeSingle(ConfChangeType.ADD_LEARNER, 4)], Transition.JOINT_EXPLICIT, b"who"
    )
    assert decode_conf_change(encode_conf_change(change)) == change
    assert decode_conf_change(b"") == ConfChange()
    with pytest.raises(ConfChangeRefused):
        decode_conf_change(b"\x93\x91\x92\x09\x04\x00\xa0")


V, L, R = ConfChangeType.ADD_VOTER, ConfChangeType.ADD_LEARNER, ConfChangeType.REMOVE


@pytest.mark.parametrize(
    ("parts", "way", "expected"),
    [
        ([(V, 4)], Transition.AUTO, ConfState((1, 2, 3, 4))),
        ([(L, 4)], Transition.AUTO, ConfState((1, 2, 3), (4,))),
        ([(L, 3)], Transition.AUTO, ConfState((1, 2), (3,))),
        ([(R, 3)], Transition.AUTO, ConfState((1, 2))),
        ([(R, 9)], Transition.AUTO, ConfState((1, 2, 3))),
        ([(V, 4), (R, 3)], Transition.AUTO, ConfState((1, 2, 4), (), (1, 2, 3), (), True)),
        ([(L, 3)], Transition.JOINT_EXPLICIT, ConfState((1, 2), (), (1, 2, 3), (3,), False)),
        ([(L, 3), (V, 3)], Transition.AUTO, ConfState((1, 2, 3), (), (1, 2, 3), (), True)),
    ],
)
def test_configurations(
    parts: list[tuple[ConfChangeType, int]], way: Transition, expected: ConfState
) -> None:
    core = Core()
    changes = [ConfChangeSingle(kind, member) for kind, member in parts]
    assert core.node.apply_conf_change(ConfChange(changes, way)) == expected
    core.node.check_invariants()
    assert core.node.status().conf_state == expected


@pytest.mark.parametrize(
    "change",
    [
        ConfChange(),
        ConfChange([ConfChangeSingle(V, 0)]),
        ConfChange([ConfChangeSingle(R, member) for member in (1, 2, 3)]),
    ],
)
def test_a_refused_change_leaves_the_configuration(change: ConfChange) -> None:
    core = Core()
    with pytest.raises(ConfChangeRefused):
        core.node.apply_conf_change(change)
    assert core.node.status().conf_state == ConfState((1, 2, 3))
    core.node.check_invariants()


def test_a_snapshot_takes_effect_when_it_is_applied() -> None:
    """Until then entries from before it may still be applied, and change the old configuration."""
    core = Core(terms=(1,))
    snapshot = Snapshot(9, 2, ConfState((1, 4)))
    core.node.step(Message(type=MessageType.SNAPSHOT, to=1, sender=2, term=2, snapshot=snapshot))
    ready = core.node.ready()
    assert ready.snapshot == snapshot
    assert not ready.committed
    core.storage.apply_snapshot(snapshot)
    core.node.appended(ready.mark)
    assert core.node.status().conf_state == ConfState((1, 2, 3))
    core.node.campaign()
    assert core.role == Role.FOLLOWER, "it does not know its configuration yet"
    core.node.applied(9)
    assert core.node.status().conf_state == snapshot.conf_state


def test_who_refuses_a_vote_tells_what_is_committed() -> None:
    """A removed member with the longest log would block for ever those who did not hear of it."""
    core = Core(terms=(1, 1, 1), hard_state=HardState(1, 0, 1))
    core.node.campaign()
    core.finish()
    core.step(MessageType.PRE_VOTE_RESPONSE, 2, 1, reject=True, commit=3, log_term=1)
    assert core.node.status().commit == 3
    core.step(MessageType.PRE_VOTE_RESPONSE, 3, 1, reject=True, commit=9, log_term=1)
    assert core.node.status().commit == 3, "what this log does not have"


def test_every_fault_of_a_config_is_named() -> None:
    config = Config(id=0, jitter=lambda ticks: 0, election_ticks=1, max_inflight=0, applied=-1)
    with pytest.raises(ValueError, match=r"id .*election_ticks .*max_inflight .*applied"):
        config.validate()
