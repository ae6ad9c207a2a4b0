"""Elections: who campaigns, who grants, who counts (paper §5.2, §5.4.1; thesis §3.10, §9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core.message import Message, MessageType
from raft.core.quorum import VoteResult
from raft.core.types import NONE, EntryType, Role

if TYPE_CHECKING:
    from raft.core.raft import Raft

FORCED = 1
"""The context of a vote request that a leader asked for: trust in that leader is no obstacle."""


def hup(raft: Raft, *, forced: bool = False) -> None:
    """The election timer fired, or a leader hands over (`forced`): campaign, if this member may."""
    if raft.role == Role.LEADER:
        return
    if not promotable(raft):
        raft.note("does not campaign: no voter, or a snapshot is pending")
        return
    if unapplied_conf_change(raft):
        raft.note("does not campaign: a configuration change is committed but not applied")
        return
    campaign(raft, forced=forced, pre=not forced)


def promotable(raft: Raft) -> bool:
    """A voter, and no snapshot waits to be durable and applied: only then its conf holds."""
    pending = raft.restoring or raft.log.unstable.snapshot is not None
    return raft.tracker.is_voter(raft.id) and not pending


def unapplied_conf_change(raft: Raft) -> bool:
    """Its configuration may not be the one that holds: neither may it count votes by it."""
    log = raft.log
    lo = max(log.applied + 1, log.first_index())
    while lo <= log.committed:
        page = log.entries(lo, log.committed + 1, raft.config.max_message_bytes)
        if any(entry.type == EntryType.CONF_CHANGE for entry in page):
            return True
        lo += len(page)
    return False


def campaign(raft: Raft, *, pre: bool, forced: bool = False) -> None:
    """Asks all voters.

    A pre-vote asks for the next term and changes nothing; the own one counts at once, for it
    promises nothing. In the election itself the own vote counts when it is durable.
    """
    if pre:
        raft.become_pre_candidate()
        kind, term = MessageType.PRE_VOTE, raft.term + 1
    else:
        raft.become_candidate()
        kind, term = MessageType.VOTE, raft.term
    last = raft.log.last_index()
    last_term = raft.log.last_term()
    for voter in raft.tracker.voters():
        if voter != raft.id:
            raft.send(
                Message(
                    type=kind,
                    to=voter,
                    term=term,
                    index=last,
                    log_term=last_term,
                    context=FORCED if forced else 0,
                )
            )
    if pre:
        count_vote(raft, raft.id, granted=True)


def count_vote(raft: Raft, voter: int, *, granted: bool) -> None:
    raft.tracker.record_vote(voter, granted)
    result = raft.tracker.vote_result()
    if result == VoteResult.LOST:
        raft.note("lost the election")
        raft.become_follower(raft.term, NONE)
    elif result == VoteResult.WON:
        if raft.role == Role.PRE_CANDIDATE:
            campaign(raft, pre=False)
        else:
            raft.become_leader()


def own_vote_durable(raft: Raft) -> None:
    """The term and the vote of a candidate are on its disk: its own vote counts."""
    if raft.role == Role.CANDIDATE and raft.id not in raft.tracker.votes:
        count_vote(raft, raft.id, granted=True)


# --- handlers


def on_vote_request(raft: Raft, message: Message) -> None:
    """VOTE and PRE_VOTE, in any role; a learner answers too: it may be a voter without knowing.

    A grant answers with the term asked for, a refusal with the own one. A pre-vote changes neither
    term nor vote.
    """
    pre = message.type == MessageType.PRE_VOTE
    may_grant = (
        raft.vote == message.sender
        or (raft.vote == NONE and raft.leader == NONE)
        or (pre and message.term > raft.term)
    )
    kind = MessageType.PRE_VOTE_RESPONSE if pre else MessageType.VOTE_RESPONSE
    if may_grant and raft.log.is_up_to_date(message.index, message.log_term):
        raft.send(Message(type=kind, to=message.sender, term=message.term))
        if not pre:
            raft.grant_vote(message.sender)
    else:
        raft.send(refusal(raft, kind, message.sender))


def refusal(raft: Raft, kind: MessageType, to: int) -> Message:
    """A refused vote, which also tells what is committed as far as known here."""
    committed = raft.log.committed
    return Message(
        type=kind,
        to=to,
        term=raft.term,
        reject=True,
        commit=committed,
        log_term=raft.log.term(committed),
    )


def on_vote_response(raft: Raft, message: Message) -> None:
    """On a candidate for VOTE_RESPONSE, on a pre-candidate for PRE_VOTE_RESPONSE."""
    if message.reject and learn_commit(raft, message):
        raft.note("gives up the election: a configuration change turns out to be committed")
        raft.become_follower(raft.term, NONE)
        return
    count_vote(raft, message.sender, granted=not message.reject)


def learn_commit(raft: Raft, message: Message) -> bool:
    """Moves the commit index to what who refuses knows, where the logs agree on that entry.

    A member that was removed, or made a learner, while it led may have the longest log: it refuses
    all who do not know of the change and think that they need its vote, and it will not campaign
    itself. So it tells them. True when that leaves a configuration change to be applied first.
    """
    if not raft.log.match_term(message.commit, message.log_term):
        return False
    raft.log.commit_to(message.commit)
    return unapplied_conf_change(raft)


def on_timeout_now(raft: Raft, message: Message) -> None:
    """The leader found this member up to date: an election without pre-vote and without waiting."""
    raft.note(f"campaigns for {message.sender}, which hands over")
    hup(raft, forced=True)
