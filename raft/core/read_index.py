"""Linearizable reads: a leader proves that it leads, then names its commit index (thesis §6.4).

Pending reads are numbered; heartbeats carry the latest number, their responses echo it. A read is
confirmed when a quorum has echoed its number or a later one. It is positions that are confirmed,
not the callers' tokens: a token that is sent again after a pause must not be confirmed by the
quorum that answered its first sending.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from raft.core.message import Message, MessageType
from raft.core.quorum import joint_committed
from raft.core.types import ConfState, ReadState

if TYPE_CHECKING:
    from raft.core.raft import Raft


class PendingRead(msgspec.Struct, frozen=True):
    """A read that waits for a quorum; `reader` is the member that asked with `token`."""

    position: int
    index: int
    reader: int
    token: int


class ReadQueue:
    """A leader's reads.

    held      (reader, token) of reads that came before the first commit of this term
    pending   numbered, ascending
    position  the last number given; never moves back, over all terms of this process
    echoed    the greatest number that each member sent back
    due       numbers were given that no heartbeat carries yet
    """

    def __init__(self) -> None:
        self.held: list[tuple[int, int]] = []
        self.pending: deque[PendingRead] = deque()
        self.position = 0
        self.echoed: dict[int, int] = {}
        self.due = False

    def clear(self) -> None:
        """Leadership changed: whoever waits has to ask again."""
        self.held = []
        self.pending.clear()
        self.echoed = {}
        self.due = False

    def add(self, index: int, reader: int, token: int) -> None:
        self.position += 1
        self.pending.append(PendingRead(self.position, index, reader, token))
        self.due = True

    def echo(self, member: int, position: int) -> bool:
        """`member` sent `position` back; False when that is old news."""
        if position <= self.echoed.get(member, 0):
            return False
        self.echoed[member] = position
        return True

    def take_confirmed(self, conf: ConfState, own: int) -> list[PendingRead]:
        """The reads that a quorum of `conf` confirmed, in order; `own` confirms every one."""
        known = {**self.echoed, own: self.position}
        confirmed = joint_committed(
            [known.get(voter, 0) for voter in conf.voters],
            [known.get(voter, 0) for voter in conf.voters_outgoing],
        )
        reads = []
        while self.pending and self.pending[0].position <= confirmed:
            reads.append(self.pending.popleft())
        return reads


def read_index(raft: Raft, reader: int, token: int) -> None:
    """On a leader: a read of `reader`, which may be this member."""
    if not raft.committed_in_term():
        # Until it has committed in its own term a leader does not know what is committed. Nor does
        # the only voter: after a restart its log may be ahead of the commit that was on disk.
        raft.reads.held.append((reader, token))
    elif raft.tracker.is_only_voter(raft.id):
        answer(raft, reader, token, raft.log.committed)
    else:
        raft.reads.add(raft.log.committed, reader, token)


def release_held(raft: Raft) -> None:
    """After each commit: the first one of this term lets the held reads go on."""
    if raft.reads.held and raft.committed_in_term():
        held, raft.reads.held = raft.reads.held, []
        for reader, token in held:
            read_index(raft, reader, token)


def heartbeat_response(raft: Raft, message: Message) -> None:
    if raft.reads.pending and raft.reads.echo(message.sender, message.context):
        recheck(raft)


def recheck(raft: Raft) -> None:
    """Answers what is confirmed now; also after a change of the configuration."""
    for read in raft.reads.take_confirmed(raft.tracker.conf, raft.id):
        answer(raft, read.reader, read.token, read.index)


def answer(raft: Raft, reader: int, token: int, index: int) -> None:
    if reader == raft.id:
        raft.read_states.append(ReadState(index, token))
    else:
        raft.send(
            Message(
                type=MessageType.READ_INDEX_RESPONSE,
                to=reader,
                term=raft.term,
                index=index,
                context=token,
            )
        )


# --- handlers


def on_leader(raft: Raft, message: Message) -> None:
    read_index(raft, message.sender, message.context)


def on_response(raft: Raft, message: Message) -> None:
    """On a follower: its leader, in the present term, confirmed `index`."""
    raft.read_states.append(ReadState(message.index, message.context))
