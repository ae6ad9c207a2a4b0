"""Sentences of the Raft paper (extended version) as tests, section by section.

Each docstring is the claim in short; where this core leaves the paper, it says so.
"""

from __future__ import annotations

import pytest

from raft.core.message import Message, MessageType
from raft.core.types import Entry, HardState, Role
from tests.unit.raft.core_fixture import ELECTION_TICKS, Core, of_type

# --- §5.1 terms


@pytest.mark.parametrize("role", ["follower", "candidate", "leader"])
def test_5_1_a_higher_term_makes_everybody_a_follower(role: str) -> None:
    core = Core()
    if role == "candidate":
        core.campaign()
    elif role == "leader":
        core.lead()
    core.step(MessageType.APPEND, 3, 9)
    assert (core.role, core.term) == (Role.FOLLOWER, 9)
    assert core.storage.initial_state()[0].term == 9


def test_5_1_a_lower_term_is_refused() -> None:
    """The append is not applied; the answer only carries our term, so that its sender learns it."""
    core = Core(terms=(2,))
    sent = core.step(MessageType.APPEND, 2, 1, index=0, entries=[Entry(1, 1, 0, b"x")])
    assert core.log_terms() == [2]
    assert [(m.type, m.term, m.index) for m in sent] == [(MessageType.APPEND_RESPONSE, 2, 0)]


# --- §5.2 leader election


def test_5_2_everybody_starts_as_follower() -> None:
    assert Core().role == Role.FOLLOWER


def test_5_2_a_leader_sends_heartbeats() -> None:
    core = Core()
    core.lead()
    beats = of_type(core.tick(), MessageType.HEARTBEAT)
    assert [beat.to for beat in beats] == [2, 3]


def test_5_2_without_word_of_a_leader_a_follower_starts_an_election() -> None:
    """With a pre-vote first, which is thesis 9.6."""
    core = Core()
    assert core.tick(ELECTION_TICKS - 1) == []
    sent = core.tick()
    assert core.role == Role.PRE_CANDIDATE
    assert [(m.type, m.to, m.term) for m in sent] == [
        (MessageType.PRE_VOTE, 2, 1),
        (MessageType.PRE_VOTE, 3, 1),
    ]
    assert core.term == 0


def test_5_2_the_election_timeout_is_randomised() -> None:
    for jitter in range(ELECTION_TICKS):
        core = Core(jitter=jitter)
        core.tick(ELECTION_TICKS + jitter - 1)
        assert core.role == Role.FOLLOWER
        core.tick()
        assert core.role == Role.PRE_CANDIDATE


def test_5_2_a_candidate_increments_its_term_votes_for_itself_and_asks_in_parallel() -> None:
    core = Core()
    sent = core.campaign()
    assert [(m.type, m.to, m.term) for m in sent] == [
        (MessageType.VOTE, 2, 1),
        (MessageType.VOTE, 3, 1),
    ]
    assert core.storage.initial_state()[0] == HardState(1, 1, 0)


@pytest.mark.parametrize(
    ("voters", "grants", "refusals", "role"),
    [
        ((1, 2, 3), 0, 0, Role.CANDIDATE),
        ((1, 2, 3), 1, 0, Role.LEADER),
        ((1, 2, 3), 0, 1, Role.CANDIDATE),
        ((1, 2, 3), 0, 2, Role.FOLLOWER),
        ((1, 2, 3), 1, 1, Role.LEADER),
        ((1, 2, 3, 4, 5), 1, 0, Role.CANDIDATE),
        ((1, 2, 3, 4, 5), 2, 0, Role.LEADER),
        ((1, 2, 3, 4, 5), 1, 2, Role.CANDIDATE),
        ((1, 2, 3, 4, 5), 1, 3, Role.FOLLOWER),
        ((1, 2, 3, 4, 5), 2, 2, Role.LEADER),
    ],
)
def test_5_2_a_majority_of_votes_wins(
    voters: tuple[int, ...], grants: int, refusals: int, role: Role
) -> None:
    core = Core(voters=voters)
    core.campaign()
    if len(voters) == 5:
        core.step(MessageType.PRE_VOTE_RESPONSE, 3, core.term + 1)
    others = iter(range(2, 6))
    for _ in range(refusals):
        core.step(MessageType.VOTE_RESPONSE, next(others), 1, reject=True)
    for _ in range(grants):
        core.step(MessageType.VOTE_RESPONSE, next(others), 1)
    assert (core.role, core.term) == (role, 1)


def test_5_2_each_member_votes_once_per_term_first_come_first_served() -> None:
    core = Core()
    for candidate, granted in ((2, True), (3, False), (2, True)):
        (answer,) = core.step(MessageType.VOTE, candidate, 1)
        assert answer.reject is not granted
    assert core.storage.initial_state()[0].vote == 2


def test_5_2_the_vote_survives_a_restart() -> None:
    core = Core(hard_state=HardState(term=1, vote=2))
    (answer,) = core.step(MessageType.VOTE, 3, 1)
    assert answer.reject


def test_5_2_a_candidate_accepts_a_leader_of_its_own_term() -> None:
    core = Core()
    core.campaign()
    core.step(MessageType.APPEND, 3, 1)
    assert (core.role, core.node.status().leader) == (Role.FOLLOWER, 3)


# --- §5.3 log replication


def test_5_3_a_leader_appends_then_replicates_in_parallel() -> None:
    core = Core()
    core.lead()
    core.node.propose([b"a", b"b"])
    ready = core.take()
    assert [entry.data for entry in ready.entries] == [b"a", b"b"]
    # 3 has not answered the first append of the term yet, nor has 2: both are probed.
    assert ready.messages == []
    core.node.appended(ready.mark)
    sent = core.step(MessageType.APPEND_RESPONSE, 2, 1, index=1)
    assert [entry.data for entry in of_type(sent, MessageType.APPEND)[0].entries] == [b"a", b"b"]


def test_5_3_an_entry_on_a_majority_is_committed_and_all_before_it() -> None:
    core = Core(terms=(1, 1))
    core.lead()
    core.step(MessageType.APPEND_RESPONSE, 2, 2, index=3)
    assert [(entry.term, entry.index) for entry in core.applied] == [(1, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("voters", "acknowledge", "committed"),
    [
        ((1,), (), True),
        ((1, 2, 3), (), False),
        ((1, 2, 3), (2,), True),
        ((1, 2, 3, 4, 5), (2,), False),
        ((1, 2, 3, 4, 5), (2, 3), True),
    ],
)
def test_5_3_commit_needs_a_majority(
    voters: tuple[int, ...], acknowledge: tuple[int, ...], committed: bool
) -> None:
    core = Core(voters=voters)
    core.node.campaign()
    core.finish()
    for voter in voters[1:]:
        core.step(MessageType.PRE_VOTE_RESPONSE, voter, core.term + 1)
    for voter in voters[1:]:
        core.step(MessageType.VOTE_RESPONSE, voter, 1)
    assert core.role == Role.LEADER
    for voter in acknowledge:
        core.step(MessageType.APPEND_RESPONSE, voter, 1, index=1)
    assert (core.node.status().commit == 1) is committed


def test_5_3_a_follower_learns_of_commits_and_applies_in_log_order() -> None:
    core = Core()
    entries = [Entry(1, 1, 0, b"a"), Entry(1, 2, 0, b"b")]
    core.step(MessageType.APPEND, 2, 1, entries=entries, commit=1)
    assert core.applied == entries[:1]
    core.step(MessageType.APPEND, 2, 1, index=2, log_term=1, commit=2)
    assert core.applied == entries


def test_5_3_commit_is_bound_by_the_last_new_entry() -> None:
    """Entries behind the append's are unconfirmed: they may not be the leader's."""
    core = Core(terms=(1, 1, 1))
    core.step(MessageType.APPEND, 2, 2, index=1, log_term=1, commit=3)
    assert core.node.status().commit == 1


@pytest.mark.parametrize(
    ("log_term", "index", "reject"),
    [(0, 0, False), (1, 1, False), (2, 2, False), (1, 2, True), (3, 3, True), (2, 9, True)],
)
def test_5_3_the_consistency_check(log_term: int, index: int, reject: bool) -> None:
    core = Core(terms=(1, 2))
    (answer,) = core.step(MessageType.APPEND, 2, 3, log_term=log_term, index=index)
    assert answer.reject is reject
    assert answer.index == index


@pytest.mark.parametrize(
    ("log_term", "index", "brought", "expected"),
    [
        (2, 2, (3,), [1, 2, 3]),
        (1, 1, (3, 4), [1, 3, 4]),
        (0, 0, (1,), [1, 2]),
        (0, 0, (3,), [3]),
        (0, 0, (1, 2, 2), [1, 2, 2]),
    ],
)
def test_5_3_conflicting_entries_are_deleted_and_others_kept(
    log_term: int, index: int, brought: tuple[int, ...], expected: list[int]
) -> None:
    core = Core(terms=(1, 2))
    entries = [Entry(term, index + 1 + at) for at, term in enumerate(brought)]
    core.step(MessageType.APPEND, 2, 4, log_term=log_term, index=index, entries=entries)
    assert core.log_terms() == expected


@pytest.mark.parametrize(
    "terms",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
    ids="abcdef",
)
def test_5_3_figure_7_every_follower_is_brought_to_the_leaders_log(terms: tuple[int, ...]) -> None:
    """With as many rejections as there are terms that differ, at most."""
    leader_terms = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    leader = Core(terms=leader_terms, hard_state=HardState(term=7))
    follower = Core(terms=terms, hard_state=HardState(term=7))
    appends = of_type(leader.lead(), MessageType.APPEND)
    to_two = [message for message in appends if message.to == 2]
    rejections = 0
    for _ in range(10):
        for message in to_two:
            answers = follower.step(
                MessageType.APPEND,
                2,
                8,
                index=message.index,
                log_term=message.log_term,
                entries=message.entries,
                commit=message.commit,
            )
            (answer,) = answers
            rejections += answer.reject
            to_two = of_type(
                leader.step(
                    MessageType.APPEND_RESPONSE,
                    2,
                    8,
                    index=answer.index,
                    reject=answer.reject,
                    reject_hint=answer.reject_hint,
                    log_term=answer.log_term,
                ),
                MessageType.APPEND,
            )
            to_two = [each for each in to_two if each.to == 2]
    assert follower.log_terms() == leader.log_terms() == [*leader_terms, 8]
    assert rejections <= 3


# --- §5.4 safety


@pytest.mark.parametrize(
    ("last_term", "last_index", "granted"),
    [(2, 2, True), (2, 3, True), (3, 1, True), (2, 1, False), (1, 2, False), (1, 9, False)],
)
def test_5_4_1_a_vote_needs_a_log_at_least_as_complete(
    last_term: int, last_index: int, granted: bool
) -> None:
    core = Core(terms=(1, 2))
    (answer,) = core.step(MessageType.VOTE, 2, 3, log_term=last_term, index=last_index)
    assert answer.reject is not granted


def test_5_4_2_only_entries_of_the_own_term_are_committed_by_counting() -> None:
    core = Core(terms=(1, 1))
    core.lead()
    core.step(MessageType.APPEND_RESPONSE, 2, 2, index=2)
    assert core.node.status().commit == 0
    core.step(MessageType.APPEND_RESPONSE, 2, 2, index=3)
    assert core.node.status().commit == 3


# --- §6 and thesis 4.2.3: disruptive members


def test_6_votes_are_ignored_while_a_leader_is_believed_to_exist() -> None:
    core = Core()
    core.step(MessageType.HEARTBEAT, 2, 1)
    assert core.step(MessageType.VOTE, 3, 5) == []
    assert core.term == 1
    core.tick(ELECTION_TICKS - 1)
    assert core.step(MessageType.VOTE, 3, 5, context=1) != []
    assert core.term == 5


# --- §8 and thesis 6.4: reads


def test_8_a_leader_begins_its_term_with_an_empty_entry() -> None:
    core = Core(terms=(1,))
    appends = of_type(core.lead(), MessageType.APPEND)
    assert [entry for message in appends for entry in message.entries] == [Entry(2, 2)] * 2


def test_8_a_read_waits_for_a_heartbeat_round_of_a_majority() -> None:
    core = Core()
    core.lead()
    core.step(MessageType.APPEND_RESPONSE, 2, 1, index=1)
    core.node.read_index(5)
    ready = core.take()
    beats = of_type(ready.messages, MessageType.HEARTBEAT)
    assert ready.read_states == []
    assert [beat.context for beat in beats] == [1, 1]
    core.node.appended(ready.mark)
    core.node.step(Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, sender=2, term=1, context=1))
    assert [(read.index, read.token) for read in core.node.ready().read_states] == [(1, 5)]
