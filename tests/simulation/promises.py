"""What members have said to each other and may never take back, also not over a crash: the term
that they are in, their votes, and the entries that they hold; and by what a leader may commit.

Clients would notice a broken promise only if the members that are left happen to need it. Here it
is noticed when the member that made it comes back, or says the opposite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.server import Server
from raft.core.message import Message, MessageType
from raft.core.raft import Raft
from raft.core.types import Role
from tests.simulation.sim_cluster import SimMember

_GIVEN = (MessageType.VOTE, MessageType.VOTE_RESPONSE, MessageType.APPEND_RESPONSE)


class Promises:
    """Of all members, over their lives. A disk whose bits were flipped keeps nobody's promises.

    - `_terms`: the last that a member spoke in.
    - `_votes`: by member and term.
    - `_held`: (term, index) of the greatest acknowledgement in the last term with one.
    - `_acknowledged`: the greatest index by member and term.
    - `_bases`: by member and term, what was committed when it was elected.
    - `_counted`: by member and term, what was committed, and by which voters, at the last look.
    """

    def __init__(self, violated: Callable[[str], object]) -> None:
        self._violated = violated
        self._terms: dict[str, int] = {}
        self._votes: dict[tuple[str, int], int] = {}
        self._held: dict[str, tuple[int, int]] = {}
        self._acknowledged: dict[tuple[str, int], int] = {}
        self._bases: dict[tuple[str, int], int] = {}
        self._counted: dict[tuple[str, int], tuple[int, frozenset[int]]] = {}
        self._names: dict[int, str] = {}

    def opened(self, member: SimMember, server: Server) -> None:
        """A process has read its disk: what it has said in earlier lives must be there."""
        raft, name = server.driver._node.raft, member.name
        self._names[server.member_id] = name
        if raft.term < self._terms.get(name, 0) and not member.disk.flipped:
            self._violated(
                f"promises: {name} starts in term {raft.term},"
                f" and has spoken in term {self._terms[name]}"
            )
        vote = self._votes.get((name, raft.term), raft.vote)
        if raft.vote != vote and not member.disk.flipped:
            self._violated(
                f"promises: {name} starts in term {raft.term} with its vote for {raft.vote:x},"
                f" and has voted for {vote:x}"
            )
        self._check_held(member, raft)
        self._listen(member, server)

    def _check_held(self, member: SimMember, raft: Raft) -> None:
        term, held = self._held.get(member.name, (0, 0))
        last = raft.log.last_index()
        if raft.term == term and last < held and not member.disk.flipped:
            self._violated(
                f"promises: {member.name} has a log up to {last},"
                f" and has acknowledged {held} in the same term {term}"
            )

    def _listen(self, member: SimMember, server: Server) -> None:
        transport, raft = server.driver._transport, server.driver._node.raft
        send = transport.send

        def heard(messages: Sequence[Message]) -> None:
            self._check_held(member, raft)
            if raft.role == Role.LEADER:
                self._leads(member.name, raft)
            for message in messages:
                if message.type in _GIVEN and not message.reject:
                    self._given(member.name, server.member_id, message)
            send(messages)

        transport.send = heard  # type: ignore[method-assign]

    def _given(self, name: str, own: int, message: Message) -> None:
        term = message.term
        self._terms[name] = max(term, self._terms.get(name, 0))
        if message.type == MessageType.APPEND_RESPONSE:
            self._held[name] = max(self._held.get(name, (0, 0)), (term, message.index))
            before = self._acknowledged.get((name, term), 0)
            self._acknowledged[name, term] = max(before, message.index)
            return
        candidate = own if message.type == MessageType.VOTE else message.to
        vote = self._votes.setdefault((name, term), candidate)
        if vote != candidate:
            self._violated(
                f"promises: {name} votes for {candidate:x} in term {term}, as it did for {vote:x}"
            )

    def _leads(self, name: str, raft: Raft) -> None:
        """It commits by entries of its own term only, and its own disk counts like any other."""
        log, committed = raft.log, raft.log.committed
        base = self._bases.setdefault((name, raft.term), committed)
        if committed > base and log.term(committed) != raft.term:
            self._violated(
                f"promises: {name}, elected at {base}, commits {committed} of term"
                f" {log.term(committed)} in term {raft.term}"
            )
        self._check_quorum(name, raft)
        own = raft.tracker.progress.get(raft.id)
        if own is not None and own.match > log.stable_index():
            self._violated(
                f"promises: {name} counts itself up to {own.match},"
                f" its disk has {log.stable_index()}"
            )

    def _check_quorum(self, name: str, raft: Raft) -> None:
        """What is newly committed is on the disks of most voters. Not looked at in the moment in
        which the voters change.
        """
        committed, voters = raft.log.committed, frozenset(raft.tracker.conf.voters)
        before = self._counted.get((name, raft.term))
        self._counted[name, raft.term] = committed, voters
        if before is None or committed == before[0] or voters != before[1]:
            return
        held = [
            voter
            for voter in sorted(voters)
            if self._acknowledged.get((self._names.get(voter, ""), raft.term), 0) >= committed
            or (voter == raft.id and raft.log.stable_index() >= committed)
        ]
        if len(held) <= len(voters) // 2:
            self._violated(
                f"promises: {name} commits {committed} in term {raft.term}, and of the voters"
                f" {sorted(voters)} only {held} have it"
            )
