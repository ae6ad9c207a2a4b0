"""What a follower does for its leader: append, acknowledge, restore, forward (paper §5.3, §7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.core.errors import ProposalDropped
from raft.core.message import Message, MessageType
from raft.core.types import NONE, Entry, Snapshot

if TYPE_CHECKING:
    from raft.core.raft import Raft


def forward_proposal(raft: Raft, entries: list[Entry]) -> None:
    """Hands `entries` to the leader; nobody knows if they arrive. ProposalDropped without one.

    Also what another follower forwarded here. It cannot go round in circles: whoever is known as
    leader is in that term or a later one, so terms ascend along the way.
    """
    if raft.leader == NONE:
        raise ProposalDropped("no leader")
    raft.send(Message(type=MessageType.PROPOSE, to=raft.leader, entries=entries))


def forward_read(raft: Raft, token: int) -> None:
    if raft.leader == NONE:
        raft.note(f"read {token} dropped: no leader")
        return
    raft.send(Message(type=MessageType.READ_INDEX, to=raft.leader, context=token))


def forward_transfer(raft: Raft, target: int) -> None:
    if raft.leader == NONE:
        raft.note(f"transfer to {target} dropped: no leader")
        return
    raft.send(
        Message(type=MessageType.TRANSFER_LEADER, to=raft.leader, term=raft.term, context=target)
    )


def _acknowledge(raft: Raft, to: int, index: int) -> None:
    raft.send(
        Message(
            type=MessageType.APPEND_RESPONSE,
            to=to,
            term=raft.term,
            index=index,
            commit=raft.log.committed,
        )
    )


def _restore(raft: Raft, snapshot: Snapshot) -> bool:
    """Takes the snapshot for its log; False where the log needs none.

    It may not know this member: the change that added it can stand behind the snapshot.
    """
    log = raft.log
    if snapshot.index <= log.committed:
        return False
    if log.match_term(snapshot.index, snapshot.term):
        # The entries are here already: the snapshot only tells that they are committed.
        log.commit_to(snapshot.index)
        return False
    log.restore(snapshot)
    raft.restoring.append(snapshot)
    raft.note(f"restores the snapshot of {snapshot.index}, term {snapshot.term}")
    return True


# --- handlers


def on_propose(raft: Raft, message: Message) -> None:
    forward_proposal(raft, message.entries)


def on_append(raft: Raft, message: Message) -> None:
    raft.follow(message.sender)
    log = raft.log
    if message.index < log.committed:
        # An old append: everything it brings is known, and committed.
        _acknowledge(raft, message.sender, log.committed)
        return
    last = log.maybe_append(message.index, message.log_term, message.entries, message.commit)
    if last is not None:
        _acknowledge(raft, message.sender, last)
        return
    hint = min(message.index, log.last_index())
    hint, hint_term = log.find_conflict_by_term(hint, message.log_term)
    raft.note(
        f"rejected an append after {message.index} of term {message.log_term}, "
        f"may match at {hint} of term {hint_term}"
    )
    raft.send(
        Message(
            type=MessageType.APPEND_RESPONSE,
            to=message.sender,
            term=raft.term,
            index=message.index,
            reject=True,
            reject_hint=hint,
            log_term=hint_term,
        )
    )


def on_heartbeat(raft: Raft, message: Message) -> None:
    raft.follow(message.sender)
    raft.log.commit_to(message.commit)
    raft.send(
        Message(
            type=MessageType.HEARTBEAT_RESPONSE,
            to=message.sender,
            term=raft.term,
            commit=raft.log.committed,
            context=message.context,
        )
    )


def on_snapshot(raft: Raft, message: Message) -> None:
    raft.follow(message.sender)
    assert message.snapshot is not None, "step() lets no SNAPSHOT without snapshot in"
    if _restore(raft, message.snapshot):
        _acknowledge(raft, message.sender, raft.log.last_index())
    else:
        _acknowledge(raft, message.sender, raft.log.committed)


def on_transfer_leader(raft: Raft, message: Message) -> None:
    forward_transfer(raft, message.context)
