"""RawNode: the only face of the core (contract in the package's docstring)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from raft.core import election, follower, leader, read_index
from raft.core.conf_change import ConfChange
from raft.core.config import Config
from raft.core.message import Message
from raft.core.progress import PeerStatus
from raft.core.raft import Logger, Raft
from raft.core.storage import Storage
from raft.core.types import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    ReadState,
    Role,
    Snapshot,
    SoftState,
)


class AppendMark(msgspec.Struct, frozen=True):
    """Names what is durable once a Ready and all before it are.

    That is the log up to (index, log_term) as it was in `term`, and the snapshot of
    `snapshot_index` (0: none).
    """

    term: int
    index: int
    log_term: int
    snapshot_index: int


class Ready(NamedTuple):
    """What is to be done; each fact is handed out once. Lists belong to the receiver.

    soft_state, hard_state: None while unchanged.  entries: contiguous, may replace earlier ones.
    committed: ascending without gaps from one Ready to the next (or from a snapshot on).
    """

    soft_state: SoftState | None
    hard_state: HardState | None
    snapshot: Snapshot | None
    entries: list[Entry]
    must_sync: bool
    messages: list[Message]
    messages_after_append: list[Message]
    committed: list[Entry]
    read_states: list[ReadState]
    mark: AppendMark


class Status(NamedTuple):
    """A member at one moment; `progress` is empty unless it leads."""

    id: int
    term: int
    vote: int
    commit: int
    applied: int
    last_index: int
    leader: int
    role: Role
    progress: Mapping[int, PeerStatus]
    lead_transferee: int
    conf_state: ConfState


class RawNode:
    """One member's core, for one thread; it never blocks, and calls nothing back but the logger."""

    def __init__(self, config: Config, storage: Storage, logger: Logger | None = None) -> None:
        """Continues from what `storage` and `config.applied` hold. ValueError for a bad config."""
        self.raft = Raft(config, storage, logger)
        self._hard_state, _ = storage.initial_state()
        self._soft_state = SoftState()

    # --- in

    def tick(self) -> None:
        self.raft.tick()

    def step(self, message: Message) -> None:
        """A message from a peer. StepRefused or ProposalDropped, and nothing has changed."""
        self.raft.step(message)

    def propose(self, data: Sequence[bytes]) -> None:
        """Appends `data` (or forwards them to the leader), one entry each, as one batch.

        ProposalDropped: none of them was, and the caller may tell so. Without an error they may
        still get lost, with their leader or on the way to it.
        """
        if not data:
            return
        raft = self.raft
        if raft.role == Role.LEADER:
            leader.propose_data(raft, data)
        else:
            follower.forward_proposal(raft, [Entry(0, 0, EntryType.NORMAL, each) for each in data])

    def propose_conf_change(self, data: bytes) -> None:
        """`data` is an encoded ConfChange. ProposalDropped as with `propose()`, or not decodable.

        While another change is under way the leader puts an empty entry in its place.
        """
        raft = self.raft
        entries = [Entry(0, 0, EntryType.CONF_CHANGE, data)]
        if raft.role == Role.LEADER:
            leader.propose_entries(raft, entries)
        else:
            follower.forward_proposal(raft, entries)

    def conf_change_pending(self) -> bool:
        """Whether a leader would put an empty entry in the place of a change proposed now."""
        return self.raft.pending_conf_index > self.raft.log.applied

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """To be called when the entry with `change` is applied, before any later entry is.

        ConfChangeRefused leaves the configuration as it is: to the log it is an empty entry.
        """
        return self.raft.apply_conf_change(change)

    def read_index(self, token: int) -> None:
        """Asks for a ReadState with `token`. It never comes if the leader changes or a message is
        lost: ask again with a fresh token."""
        if self.raft.role == Role.LEADER:
            read_index.read_index(self.raft, self.raft.id, token)
        else:
            follower.forward_read(self.raft, token)

    def transfer_leader(self, target: int) -> None:
        """Asks the leader to hand over to `target`; only success shows, as a new leader."""
        if self.raft.role == Role.LEADER:
            leader.transfer_leader(self.raft, target)
        else:
            follower.forward_transfer(self.raft, target)

    def forget_leader(self) -> None:
        self.raft.forget_leader()

    def leader_gone(self, member: int) -> None:
        """The process of `member` has ended; of no interest unless it leads."""
        self.raft.leader_gone(member)

    def hasten_election(self) -> None:
        """Who can hear the others, and hears of no leader at its start, need not wait for one in
        full: what is left of the election timeout is its random part, so that rarely two campaign
        at once. A leader that lives is heard meanwhile, and who has heard it grants no pre-vote.
        """
        self.raft.hasten_election()

    def campaign(self) -> None:
        """As if the election timer had fired."""
        election.hup(self.raft)

    def report_unreachable(self, peer: int) -> None:
        """Messages to `peer` were dropped."""
        if self.raft.role == Role.LEADER:
            leader.unreachable(self.raft, peer)

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """The stream that a SNAPSHOT message started has ended; owed for every such message."""
        if self.raft.role == Role.LEADER:
            leader.snapshot_reported(self.raft, peer, ok=ok)

    # --- out

    def has_ready(self) -> bool:
        raft = self.raft
        return bool(
            raft.messages
            or raft.after_append
            or raft.read_states
            or raft.reads.due
            or raft.append_due
            or raft.log.unstable.has_next()
            or raft.log.has_next_committed()
            or (raft.leader, raft.role) != self._soft_state
            or (raft.term, raft.vote, raft.log.committed) != self._hard_state
        )

    def ready(self) -> Ready:
        """Everything that came up since the last one."""
        raft = self.raft
        leader.flush(raft)
        snapshot, entries = raft.log.unstable.take()
        committed = raft.log.take_committed()
        if committed:
            raft.count_committed(committed)
        soft_state, hard_state = raft.soft_state(), raft.hard_state()
        before = self._hard_state
        ready = Ready(
            soft_state=soft_state if soft_state != self._soft_state else None,
            hard_state=hard_state if hard_state != before else None,
            snapshot=snapshot,
            entries=entries,
            must_sync=bool(entries)
            or snapshot is not None
            or (hard_state.term, hard_state.vote) != (before.term, before.vote),
            messages=raft.messages,
            messages_after_append=raft.after_append,
            committed=committed,
            read_states=raft.read_states,
            mark=self._mark(),
        )
        self._soft_state, self._hard_state = soft_state, hard_state
        raft.messages, raft.after_append, raft.read_states = [], [], []
        return ready

    def _mark(self) -> AppendMark:
        log = self.raft.log
        pending = log.unstable.snapshot
        return AppendMark(
            self.raft.term,
            log.last_index(),
            log.last_term(),
            pending.index if pending is not None else 0,
        )

    def appended(self, mark: AppendMark) -> None:
        """The Ready with `mark` and all before it are durable.

        The same term means that whatever stands in the log at mark.index with mark.log_term is what
        was written then: within a term entries are only replaced by that term's leader, and never
        by something else a second time. After a change of term a later Ready carries a new mark.
        """
        raft = self.raft
        if mark.snapshot_index:
            raft.log.stable_snapshot(mark.snapshot_index)
        if mark.term != raft.term:
            return
        raft.log.stable_to(mark.index, mark.log_term)
        if raft.role == Role.LEADER:
            leader.own_entries_durable(raft, raft.log.stable_index())
        else:
            election.own_vote_durable(raft)

    def applied(self, index: int) -> None:
        """The state machine holds everything up to `index`: an entry handed out as committed, or a
        snapshot that it has installed, whose configuration takes effect now."""
        self.raft.applied_to(index)

    def status(self) -> Status:
        raft = self.raft
        progress = {}
        if raft.role == Role.LEADER:
            progress = {
                member: peer.status(learner=raft.tracker.is_learner(member))
                for member, peer in raft.tracker.progress.items()
            }
        return Status(
            id=raft.id,
            term=raft.term,
            vote=raft.vote,
            commit=raft.log.committed,
            applied=raft.log.applied,
            last_index=raft.log.last_index(),
            leader=raft.leader,
            role=raft.role,
            progress=progress,
            lead_transferee=raft.transferee,
            conf_state=raft.tracker.conf,
        )

    def check_invariants(self) -> None:
        self.raft.check_invariants()
