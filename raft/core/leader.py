"""What a leader does: append, replicate, count, keep its quorum, hand over (paper §5.3, §5.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raft.core import read_index
from raft.core.conf_change import ConfChange, decode_conf_change
from raft.core.errors import (
    Compacted,
    ConfChangeRefused,
    ProposalDropped,
    SnapshotTemporarilyUnavailable,
    StepRefused,
)
from raft.core.message import Message, MessageType
from raft.core.progress import Progress, ProgressState
from raft.core.storage import entries_bytes
from raft.core.types import NONE, Entry, EntryType, Role

if TYPE_CHECKING:
    from raft.core.raft import Raft


# --- proposals


def propose_data(raft: Raft, data: Sequence[bytes]) -> None:
    """All of `data` become entries, and one append to each peer; or none does: ProposalDropped."""
    _admit(raft, sum(map(len, data)))
    term = raft.term
    first = raft.log.last_index() + 1
    raft.log.append([Entry(term, index, 0, each) for index, each in enumerate(data, first)])
    raft.append_due = True


def propose_entries(raft: Raft, entries: list[Entry]) -> None:
    """Proposed entries of any type; their term and index are given here.

    A configuration change that may not enter the log now becomes an empty entry: the proposer finds
    nothing applied in its place.
    """
    changes = [
        _decode_or_drop(entry.data) for entry in entries if entry.type == EntryType.CONF_CHANGE
    ]
    _admit(raft, sum([len(entry.data) for entry in entries]))
    leaves = iter([change.leaves_joint() for change in changes])
    appended = []
    for index, entry in enumerate(entries, raft.log.last_index() + 1):
        kind, data = entry.type, entry.data
        if kind == EntryType.CONF_CHANGE:
            refusal = _refuse_conf_change(raft, leaves_joint=next(leaves))
            if refusal:
                raft.note(f"ignored a configuration change at {index}: {refusal}")
                kind, data = EntryType.NORMAL, b""
            else:
                raft.pending_conf_index = index
        appended.append(Entry(raft.term, index, kind, data))
    raft.log.append(appended)
    raft.append_due = True


def _decode_or_drop(data: bytes) -> ConfChange:
    try:
        return decode_conf_change(data)
    except ConfChangeRefused as error:
        raise ProposalDropped(str(error)) from error


def _admit(raft: Raft, size: int) -> None:
    """Charges `size` bytes to the uncommitted tail; the first ones fit always, and so do none."""
    if not raft.tracker.is_voter(raft.id):
        raise ProposalDropped("this leader is no voter any more")
    if raft.transferee != NONE:
        raise ProposalDropped(f"leadership is on its way to {raft.transferee}")
    total = raft.uncommitted_bytes + size
    if raft.uncommitted_bytes and size and total > raft.config.max_uncommitted_bytes:
        raise ProposalDropped(f"{raft.uncommitted_bytes} bytes wait for a quorum")
    raft.uncommitted_bytes = total


def _refuse_conf_change(raft: Raft, *, leaves_joint: bool) -> str:
    """Why a change may not enter the log now; empty when it may."""
    if raft.pending_conf_index > raft.log.applied:
        return f"the one at {raft.pending_conf_index} is not applied"
    joint = bool(raft.tracker.conf.voters_outgoing)
    if joint and not leaves_joint:
        return "the joint configuration must be left first"
    if not joint and leaves_joint:
        return "the configuration is not joint"
    return ""


def maybe_auto_leave(raft: Raft) -> None:
    """Proposes to leave a joint configuration that wants it, once its change is applied."""
    if (
        raft.role == Role.LEADER
        and raft.tracker.conf.auto_leave
        and raft.tracker.is_voter(raft.id)
        and raft.log.applied >= raft.pending_conf_index
        and raft.transferee == NONE
    ):
        raft.note("leaves the joint configuration")
        propose_entries(raft, [Entry(0, 0, EntryType.CONF_CHANGE)])


# --- sending


def flush(raft: Raft) -> None:
    """Sends what came up since the last Ready.

    One round of heartbeats for all the reads; to each peer one append for all the proposals and the
    commit, or more where the limits of size cut it.
    """
    if raft.role != Role.LEADER:
        return
    if raft.reads.due:
        broadcast_heartbeat(raft)
    if not raft.append_due:
        return
    raft.append_due = False
    last = raft.log.last_index()
    for peer, progress in raft.tracker.progress.items():
        if peer != raft.id:
            news = progress.can_bump_commit(raft.log.committed)
            if (news or progress.next <= last) and send_append(
                raft, peer, progress, even_empty=news
            ):
                while progress.next <= last and send_append(raft, peer, progress, even_empty=False):
                    pass  # until the log ends or the window is full


def send_append(raft: Raft, peer: int, progress: Progress, *, even_empty: bool) -> bool:
    """One append, or a snapshot where the log begins too late; False when nothing was sent."""
    if progress.is_paused():
        return False
    log = raft.log
    previous = progress.next - 1
    entries: list[Entry] = []
    try:
        previous_term = log.term(previous)
        # Into a full window goes an empty append: its response frees what lost ones hold.
        if progress.state != ProgressState.REPLICATE or not progress.inflights.full():
            entries = log.entries(
                progress.next, log.last_index() + 1, raft.config.max_message_bytes
            )
    except Compacted:
        return _send_snapshot(raft, peer, progress)
    if not entries and not even_empty:
        return False
    raft.send(
        Message(
            type=MessageType.APPEND,
            to=peer,
            term=raft.term,
            index=previous,
            log_term=previous_term,
            entries=entries,
            commit=log.committed,
        )
    )
    progress.sent_entries(len(entries), entries_bytes(entries))
    progress.sent_commit = log.committed
    return True


def _send_snapshot(raft: Raft, peer: int, progress: Progress) -> bool:
    """A peer that is not there gets none: it would be built and kept for nobody."""
    if not progress.recent_active:
        return False
    try:
        snapshot = raft.log.snapshot()
    except SnapshotTemporarilyUnavailable as error:
        raft.note(f"no snapshot for {peer} yet: {error}")
        return False
    raft.note(f"sends {peer} the snapshot of {snapshot.index}, it has {progress.match}")
    progress.become_snapshot(snapshot.index)
    raft.send(Message(type=MessageType.SNAPSHOT, to=peer, term=raft.term, snapshot=snapshot))
    return True


def broadcast_heartbeat(raft: Raft) -> None:
    """Carries the latest read position, and the commit as far as the peer is known to follow."""
    reads = raft.reads
    reads.due = False
    position = reads.position if reads.pending else 0
    for peer, progress in raft.tracker.progress.items():
        if peer != raft.id:
            commit = min(progress.match, raft.log.committed)
            raft.send(
                Message(
                    type=MessageType.HEARTBEAT,
                    to=peer,
                    term=raft.term,
                    commit=commit,
                    context=position,
                )
            )
            progress.sent_commit = max(progress.sent_commit, commit)


# --- counting


def maybe_commit(raft: Raft) -> None:
    """Moves the commit index to what a quorum has, where that is of this term."""
    if raft.log.maybe_commit(raft.tracker.committed(), raft.term):
        raft.append_due = True
        read_index.release_held(raft)


def own_entries_durable(raft: Raft, index: int) -> None:
    """The leader's own disk is a member of the quorum like any other, and not sooner."""
    progress = raft.tracker.progress.get(raft.id)
    if progress is not None and progress.maybe_update(index):
        maybe_commit(raft)


def check_quorum(raft: Raft) -> None:
    """Once per election timeout: a leader that hears no quorum may long be deposed."""
    own = raft.tracker.progress.get(raft.id)
    if own is not None:
        own.recent_active = True
    if not raft.tracker.quorum_active():
        raft.note("steps down: no quorum was heard from")
        raft.become_follower(raft.term, NONE)
        return
    for peer, progress in raft.tracker.progress.items():
        if peer != raft.id:
            progress.recent_active = False


# --- transfer


def transfer_leader(raft: Raft, target: int) -> None:
    """Brings `target` up to date, then tells it to campaign; proposals are dropped meanwhile."""
    progress = raft.tracker.progress.get(target)
    if progress is None or raft.tracker.is_learner(target):
        raft.note(f"no transfer to {target}: not a voter")
        return
    if target in (raft.id, raft.transferee):
        return
    raft.begin_transfer(target)
    if progress.match == raft.log.last_index():
        _send_timeout_now(raft, target)
    else:
        progress.paused = False
        send_append(raft, target, progress, even_empty=True)


def _send_timeout_now(raft: Raft, target: int) -> None:
    raft.note(f"hands over to {target}")
    raft.send(Message(type=MessageType.TIMEOUT_NOW, to=target, term=raft.term))


def maybe_depart(raft: Raft) -> None:
    """A removed or demoted leader hands over once a quorum knows that its whole log is committed.

    Not sooner: who does not know yet that the change is committed needs votes of the old
    configuration, perhaps this member's, which is gone by then or has a longer log. Of two members
    that remove their leader, the other could never be elected.
    """
    if raft.tracker.is_voter(raft.id) or not raft.config.step_down_on_removal:
        return
    last = raft.log.last_index()
    if raft.tracker.known_committed() < last:
        return
    raft.note("steps down: it is no voter any more")
    heirs = [
        voter for voter in raft.tracker.voters() if raft.tracker.progress[voter].commit == last
    ]
    _send_timeout_now(raft, heirs[0])
    raft.become_follower(raft.term, NONE)


# --- handlers


def on_propose(raft: Raft, message: Message) -> None:
    propose_entries(raft, message.entries)


def on_transfer_leader(raft: Raft, message: Message) -> None:
    transfer_leader(raft, message.context)


def on_second_leader(raft: Raft, message: Message) -> None:
    raise StepRefused(f"{message.sender} claims to lead in term {raft.term}, as this member does")


def on_append_response(raft: Raft, message: Message) -> None:
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        return
    if not message.reject and message.index > raft.log.last_index():
        raise StepRefused(
            f"{message.sender} acknowledges {message.index}, the last is {raft.log.last_index()}"
        )
    progress.heard(message.commit)
    if message.reject:
        _rejected(raft, message, progress)
    else:
        _accepted(raft, message, progress)
    maybe_depart(raft)


def _rejected(raft: Raft, message: Message, progress: Progress) -> None:
    """Skips to where the logs may match: about one probe for each term in which they differ."""
    hint = message.reject_hint
    if message.log_term > 0:
        hint, _ = raft.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decrease(message.index, hint):
        if progress.state == ProgressState.REPLICATE:
            progress.become_probe()
        send_append(raft, message.sender, progress, even_empty=True)


def _accepted(raft: Raft, message: Message, progress: Progress) -> None:
    probed = progress.state == ProgressState.PROBE and progress.match == message.index
    if not progress.maybe_update(message.index) and not probed:
        return
    if progress.state == ProgressState.REPLICATE:
        progress.inflights.free_to(message.index)
    elif progress.state == ProgressState.PROBE:
        progress.become_replicate()
    elif progress.match + 1 >= raft.log.first_index():
        # Whatever snapshot it restored, it reaches our log; a later one than we sent is as good.
        raft.note(f"{message.sender} is back at {progress.match} after a snapshot")
        progress.become_replicate()
    maybe_commit(raft)
    if progress.next <= raft.log.last_index() or progress.can_bump_commit(raft.log.committed):
        raft.append_due = True
    if message.sender == raft.transferee and progress.match == raft.log.last_index():
        _send_timeout_now(raft, message.sender)


def on_heartbeat_response(raft: Raft, message: Message) -> None:
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        return
    progress.heard(message.commit)
    progress.paused = False
    # A probe or a whole window may have been lost; an append, though empty, finds out.
    if progress.match < raft.log.last_index() or progress.state == ProgressState.PROBE:
        send_append(raft, message.sender, progress, even_empty=True)
    read_index.heartbeat_response(raft, message)
    maybe_depart(raft)


def unreachable(raft: Raft, peer: int) -> None:
    """Messages to `peer` were lost: what was sent optimistically probably did not arrive."""
    progress = raft.tracker.progress.get(peer)
    if progress is not None and progress.state == ProgressState.REPLICATE:
        progress.become_probe()


def snapshot_reported(raft: Raft, peer: int, *, ok: bool) -> None:
    """The snapshot's stream ended. The peer may be restoring still: probed when it speaks next."""
    progress = raft.tracker.progress.get(peer)
    if progress is None or progress.state != ProgressState.SNAPSHOT:
        return
    if not ok:
        raft.note(f"the snapshot of {progress.pending_snapshot} did not reach {peer}")
        progress.pending_snapshot = 0
    progress.become_probe()
    progress.paused = True
