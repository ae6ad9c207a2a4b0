"""Raft: one member's protocol state, its one door `step()`, its clock `tick()`.

             election timeout        pre-vote won          vote won
    FOLLOWER ───────────► PRE_CANDIDATE ─────► CANDIDATE ─────────► LEADER
        ▲                      │ lost, leader      │ lost, leader      │ no quorum, removed,
        └──────────────────────┴───────────────────┴───────────────────┘ higher term

What each role does with a message stands in `election`, `leader`, `follower` and `read_index`; only
this file assigns role, term and vote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from raft.core import election, follower, leader, read_index
from raft.core.conf_change import Changer, ConfChange
from raft.core.config import Config
from raft.core.errors import StepRefused
from raft.core.log import RaftLog
from raft.core.message import Message, MessageType
from raft.core.storage import Storage, payload_bytes
from raft.core.tracker import Tracker
from raft.core.types import NONE, ConfState, Entry, HardState, ReadState, Role, Snapshot, SoftState

Logger = Callable[[str], None]
"""Takes one line about what the core does; never called per message in the good case."""

Handler = Callable[["Raft", Message], None]

FROM_LEADER = (MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT)
VOTE_REQUESTS = (MessageType.VOTE, MessageType.PRE_VOTE)
TERMLESS = (MessageType.PROPOSE, MessageType.READ_INDEX)

AFTER_APPEND = (
    *VOTE_REQUESTS,
    MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE_RESPONSE,
    MessageType.APPEND_RESPONSE,
)
"""These speak of this member's term, vote or log, so they wait until its disk has them."""

_CANDIDATE: dict[int, Handler] = {
    MessageType.PROPOSE: follower.on_propose,
    MessageType.APPEND: follower.on_append,
    MessageType.HEARTBEAT: follower.on_heartbeat,
    MessageType.SNAPSHOT: follower.on_snapshot,
}

HANDLERS: dict[Role, dict[int, Handler]] = {
    Role.FOLLOWER: {
        **_CANDIDATE,
        MessageType.READ_INDEX_RESPONSE: read_index.on_response,
        MessageType.TRANSFER_LEADER: follower.on_transfer_leader,
        MessageType.TIMEOUT_NOW: election.on_timeout_now,
    },
    Role.PRE_CANDIDATE: {
        **_CANDIDATE,
        MessageType.PRE_VOTE_RESPONSE: election.on_vote_response,
    },
    Role.CANDIDATE: {
        **_CANDIDATE,
        MessageType.VOTE_RESPONSE: election.on_vote_response,
    },
    Role.LEADER: {
        MessageType.PROPOSE: leader.on_propose,
        MessageType.APPEND: leader.on_second_leader,
        MessageType.HEARTBEAT: leader.on_second_leader,
        MessageType.SNAPSHOT: leader.on_second_leader,
        MessageType.APPEND_RESPONSE: leader.on_append_response,
        MessageType.HEARTBEAT_RESPONSE: leader.on_heartbeat_response,
        MessageType.READ_INDEX: read_index.on_leader,
        MessageType.TRANSFER_LEADER: leader.on_transfer_leader,
    },
}
"""What a role does with a message of its term; what is not here is late or lost, and ignored."""


class Raft:
    """One member.

    term, vote          of the hard state; term ascends, vote changes once per term
    role, leader        of the soft state; a leader's leader is itself
    election_elapsed    ticks since the leader was heard from; (leader) since it checked its quorum
    election_timeout    the present draw from [election_ticks, 2 * election_ticks)
    transferee          (leader) who is to lead next, or NONE
    append_due          (leader) the next Ready carries appends: there is news for the peers
    pending_conf_index  (leader) until it is applied no configuration change enters the log
    uncommitted_bytes   (leader) data of its own entries that were not handed out as committed yet
    restoring           snapshots that replaced the log and are not applied yet, ascending
    messages            to send at once
    after_append        to send once everything accepted before them is durable
    """

    def __init__(self, config: Config, storage: Storage, logger: Logger | None = None) -> None:
        config.validate()
        self.config = config
        self.id = config.id
        self._logger = logger
        hard_state, conf_state = storage.initial_state()
        self.log = RaftLog(storage, hard_state, config.applied, config.max_apply_bytes)
        self.tracker = Tracker(config.max_inflight, config.max_inflight_bytes)
        self.tracker.restore(conf_state, self.log.last_index() + 1)
        self.reads = read_index.ReadQueue()
        self.read_states: list[ReadState] = []
        self.restoring: deque[Snapshot] = deque()
        self.messages: list[Message] = []
        self.after_append: list[Message] = []
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.pending_conf_index = 0
        self.append_due = False
        self.uncommitted_bytes = 0
        self._uncommitted_first = 0
        self._heartbeat_elapsed = 0
        self.become_follower(self.term, NONE)

    # --- what it is

    def hard_state(self) -> HardState:
        return HardState(self.term, self.vote, self.log.committed)

    def soft_state(self) -> SoftState:
        return SoftState(self.leader, self.role)

    def committed_in_term(self) -> bool:
        """Only then does a leader know all that is committed (§5.4.2, §8)."""
        return self.log.match_term(self.log.committed, self.term)

    def note(self, text: str) -> None:
        if self._logger is not None:
            self._logger(f"raft {self.id} term {self.term}: {text}")

    # --- what it becomes

    def become_follower(self, term: int, leader: int) -> None:
        self._reset(term)
        self.role = Role.FOLLOWER
        self.leader = leader
        self.note("is a follower" + (f" of {leader}" if leader != NONE else ""))

    def become_pre_candidate(self) -> None:
        """Term and vote stay. It knows no leader, or it would refuse its rivals for ever."""
        assert self.role != Role.LEADER, "a leader does not campaign"
        self.tracker.reset_votes()
        self.role = Role.PRE_CANDIDATE
        self.leader = NONE
        self.note("is a pre-candidate")

    def become_candidate(self) -> None:
        assert self.role != Role.LEADER, "a leader does not campaign"
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = Role.CANDIDATE
        self.note("is a candidate")

    def become_leader(self) -> None:
        """Begins with an empty entry, whose commit commits all that came before (§5.4.2)."""
        assert self.role == Role.CANDIDATE, f"a {self.role.name} cannot be elected"
        self._reset(self.term)
        self.role = Role.LEADER
        self.leader = self.id
        own = self.tracker.progress[self.id]
        own.maybe_update(self.log.stable_index())
        own.become_replicate()
        own.recent_active = True
        last = self.log.last_index()
        # There may be a change among the entries that are not applied yet: as if there were.
        self.pending_conf_index = last
        self.uncommitted_bytes = 0
        self._uncommitted_first = last + 1
        self.note(f"is the leader, from {last + 1}")
        self.log.append([Entry(self.term, last + 1)])
        self.append_due = True

    def follow(self, leader: int) -> None:
        """A leader of the present term spoke."""
        if self.role != Role.FOLLOWER:
            self.become_follower(self.term, leader)
        self.leader = leader
        self.election_elapsed = 0

    def grant_vote(self, candidate: int) -> None:
        self.vote = candidate
        self.election_elapsed = 0
        self.note(f"votes for {candidate}")

    def begin_transfer(self, target: int) -> None:
        """`target` has one election timeout."""
        self.transferee = target
        self.election_elapsed = 0

    def forget_leader(self) -> None:
        """Outside knowledge says that the leader is gone: grant votes at once, in the same term."""
        if self.role == Role.FOLLOWER and self.leader != NONE:
            self.note(f"forgets its leader {self.leader}")
            self.leader = NONE

    def leader_gone(self, member: int) -> None:
        """Outside knowledge says that the process of `member` has ended: if it leads, do not wait
        for its silence.

        The survivors learn this at about the same time. So that they do not split the votes, each
        waits one tick more than the voter before it. Who is wrong disturbs nobody: it asks for
        pre-votes, which all refuse who still hear the leader, and follows again when it hears it.
        Reads ask a quorum who leads, so nothing rests on how long a follower is patient.
        """
        if self.role != Role.FOLLOWER or self.leader != member or member == NONE:
            return
        self.forget_leader()
        before = sum(1 for voter in self.tracker.voters() if voter < self.id and voter != member)
        soon = self.election_timeout - 1 - before
        self.election_elapsed = max(self.election_elapsed, soon)

    def hasten_election(self) -> None:
        """All but the random part of the election timeout counts as passed."""
        if self.role == Role.FOLLOWER and self.leader == NONE:
            self.election_elapsed = max(self.election_elapsed, self.config.election_ticks - 1)

    def _reset(self, term: int) -> None:
        if term != self.term:
            assert term > self.term, f"term {self.term} moves back to {term}"
            self.term = term
            self.vote = NONE
        self.leader = NONE
        self.election_elapsed = 0
        self._heartbeat_elapsed = 0
        ticks = self.config.election_ticks
        self.election_timeout = ticks + self.config.jitter(ticks)
        self.transferee = NONE
        self.append_due = False
        self.reads.clear()
        # What the last leader confirmed is true, but who waits for it may have given up with it.
        self.read_states = []
        tracker = self.tracker
        tracker.reset_votes()
        following = self.log.last_index() + 1
        tracker.progress = {member: tracker.new_progress(following) for member in tracker.progress}

    # --- time

    def tick(self) -> None:
        self.election_elapsed += 1
        if self.role == Role.LEADER:
            self._tick_leader()
        elif self.election_elapsed >= self.election_timeout and self.tracker.is_voter(self.id):
            self.election_elapsed = 0
            election.hup(self)

    def _tick_leader(self) -> None:
        self._heartbeat_elapsed += 1
        if self.election_elapsed >= self.config.election_ticks:
            self.election_elapsed = 0
            leader.check_quorum(self)
            if self.role != Role.LEADER:
                return
            if self.transferee != NONE:
                self.note(f"gives up the transfer to {self.transferee}")
                self.transferee = NONE
                leader.maybe_auto_leave(self)
        if self._heartbeat_elapsed >= self.config.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            leader.broadcast_heartbeat(self)

    # --- messages

    def send(self, message: Message) -> None:
        message.sender = self.id
        if message.type in AFTER_APPEND:
            self.after_append.append(message)
        else:
            self.messages.append(message)

    def step(self, message: Message) -> None:
        """The one door. StepRefused and ProposalDropped leave everything as it was."""
        check_message(message, self.id)
        if message.term > self.term:
            if self._ignores_campaign(message):
                return
            self._see_higher_term(message)
        elif 0 < message.term < self.term:
            self._answer_lower_term(message)
            return
        if message.type in VOTE_REQUESTS:
            election.on_vote_request(self, message)
            return
        handler = HANDLERS[self.role].get(message.type)
        if handler is not None:
            handler(self, message)

    def _ignores_campaign(self, message: Message) -> bool:
        """Who heard from a leader within an election timeout lets nobody depose it (thesis §4.2.3),
        unless that leader itself hands over.
        """
        return (
            message.type in VOTE_REQUESTS
            and message.context != election.FORCED
            and self.leader != NONE
            and self.election_elapsed < self.config.election_ticks
        )

    def _see_higher_term(self, message: Message) -> None:
        """A pre-vote and its grant speak of a term that nobody has entered yet."""
        if message.type == MessageType.PRE_VOTE:
            return
        if message.type == MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return
        self.become_follower(message.term, message.sender if message.type in FROM_LEADER else NONE)

    def _answer_lower_term(self, message: Message) -> None:
        """Mostly late, and ignored; but two who ask would wait for ever.

        A leader of a lower term: this member may be alone in its term, with a leader that cannot be
        deposed by asking for votes; our term pulls it down. A pre-candidate of a lower term learns
        ours, or members that each hold back for the other might never elect anybody.
        """
        if message.type in (MessageType.APPEND, MessageType.HEARTBEAT):
            self.send(Message(type=MessageType.APPEND_RESPONSE, to=message.sender, term=self.term))
        elif message.type == MessageType.PRE_VOTE:
            self.send(election.refusal(self, MessageType.PRE_VOTE_RESPONSE, message.sender))

    # --- configuration

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """The entry with `change` is applied. ConfChangeRefused leaves everything as it was."""
        tracker = self.tracker
        conf, progress = Changer(tracker, self.log.last_index()).change(change)
        tracker.conf, tracker.progress = conf, progress
        self.note(
            f"has voters {conf.voters}, outgoing {conf.voters_outgoing}, learners {conf.learners}"
        )
        if self.role != Role.LEADER:
            return conf
        if self.transferee != NONE and not tracker.is_voter(self.transferee):
            self.transferee = NONE
        # The quorum may have become smaller, and who is new has everything to receive.
        self.append_due = True
        leader.maybe_commit(self)
        read_index.recheck(self)
        leader.maybe_depart(self)
        return conf

    # --- what the shell reports

    def count_committed(self, entries: list[Entry]) -> None:
        """`entries` are handed out as committed: a leader's own ones leave its uncommitted tail."""
        if self.role == Role.LEADER and self.uncommitted_bytes:
            own = entries[max(0, self._uncommitted_first - entries[0].index) :]
            self.uncommitted_bytes -= payload_bytes(own)

    def applied_to(self, index: int) -> None:
        """The configuration of a snapshot, too, takes effect when it is applied.

        Entries from before it may still be applied meanwhile, and bring changes of the old one.
        """
        self.log.applied_to(index)
        while self.restoring and self.restoring[0].index <= index:
            assert self.role == Role.FOLLOWER, f"a {self.role.name} restores a snapshot"
            conf = self.restoring.popleft().conf_state
            self.tracker.restore(conf, self.log.last_index() + 1)
        leader.maybe_auto_leave(self)

    def check_invariants(self) -> None:
        self.log.check_invariants()
        self.tracker.check_invariants()
        assert self.uncommitted_bytes >= 0
        assert (self.role == Role.LEADER) == (self.leader == self.id)
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            assert self.leader == NONE
        if self.role in (Role.CANDIDATE, Role.LEADER):
            assert self.vote == self.id


def check_message(message: Message, own: int) -> None:
    """Refuses what no correct peer sends to `own`; what passes is trusted from here on."""
    kind = message.type
    if message.to != own:
        raise StepRefused(f"a message for {message.to} came to {own}")
    if message.sender in (NONE, own):
        raise StepRefused(f"a message from {message.sender} came to {own}")
    if (message.term == 0) != (kind in TERMLESS):
        raise StepRefused(f"message type {kind} of term {message.term}")
    if kind == MessageType.APPEND:
        entries = message.entries
        if entries and (
            entries[0].index != message.index + 1
            or entries[-1].index != message.index + len(entries)
            or not 0 < entries[0].term <= entries[-1].term <= message.term
        ):
            raise StepRefused(f"entries after {message.index} do not follow one another")
        if message.index < 0 or message.log_term > message.term:
            raise StepRefused(f"append after {message.index} of term {message.log_term}")
    elif kind == MessageType.SNAPSHOT:
        if message.snapshot is None or message.snapshot.index < 1:
            raise StepRefused("a snapshot message without a snapshot")
    elif kind == MessageType.PROPOSE:
        if not message.entries:
            raise StepRefused("a proposal without entries")
    elif not MessageType.PROPOSE <= kind <= MessageType.TIMEOUT_NOW:
        raise StepRefused(f"unknown message type {kind}")
