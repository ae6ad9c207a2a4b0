"""A cluster of cores on a network and disks that misbehave as a seed says; what must hold anyway.

Messages are lost, doubled, delayed and reordered, members are cut off, crash between any two steps
and come back with what their disk had: entries, term and vote were synced, a bare commit perhaps
not. Members come and go by configuration changes. `Judge` keeps what has been seen of all of them.
"""

from __future__ import annotations

from collections import deque
from random import Random

from raft.core.conf_change import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Transition,
    decode_conf_change,
    encode_conf_change,
)
from raft.core.config import Config
from raft.core.errors import ConfChangeRefused, ProposalDropped
from raft.core.message import Message, MessageType
from raft.core.raw_node import RawNode, Ready
from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Entry, EntryType, HardState, Role, Snapshot

FIRST = Snapshot(1, 1, ConfState(voters=(1, 2, 3)))
"""Where every cluster begins: entry 1 is not in any log, so that a new member needs a snapshot."""


class Judge:
    """What all members together have shown, and the properties of the paper's figure 3."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, Entry] = {}
        self.last_committed = FIRST.index
        self.reads: dict[int, int] = {}
        self.reads_confirmed = 0

    def leads(self, member: int, term: int, storage: MemoryStorage) -> None:
        """Election safety, and leader completeness when a member is first seen to lead."""
        known = self.leaders.setdefault(term, member)
        assert known == member, f"{known} and {member} both lead term {term}"
        first, last = storage.first_index(), storage.last_index()
        assert last >= self.last_committed, f"leader {member} lacks {last + 1}, committed"
        for index in range(first, self.last_committed + 1):
            seen = self.committed.get(index)
            if seen is not None:
                assert storage.term(index) == seen.term, f"leader {member} has another {index}"

    def commits(self, member: int, entry: Entry) -> None:
        """State machine safety."""
        seen = self.committed.setdefault(entry.index, entry)
        assert seen == entry, f"{member} applies {entry}, another member applied {seen}"
        self.last_committed = max(self.last_committed, entry.index)

    def asks(self, token: int) -> None:
        self.reads[token] = self.last_committed

    def may_read(self, token: int, index: int) -> None:
        """A read sees at least what was committed anywhere when it was asked for."""
        assert index >= self.reads[token], f"read {token} at {index}, before {self.reads[token]}"
        self.reads_confirmed += 1


def check_log_matching(one: MemoryStorage, other: MemoryStorage) -> None:
    """Two logs that agree on the term at an index agree on everything before it."""
    first = max(one.first_index(), other.first_index())
    last = min(one.last_index(), other.last_index())
    agree = False
    for index in range(last, first - 1, -1):
        mine, its = one.entries(index, index + 1, 0)[0], other.entries(index, index + 1, 0)[0]
        agree = agree or mine.term == its.term
        assert not agree or mine == its, f"{mine} and {its} before an entry in common"


class Member:
    """One core with its disk (`durable_*`), its write queue and its state machine."""

    def __init__(self, number: int, world: World, start: Snapshot) -> None:
        self.number = number
        self.world = world
        self.durable_log = MemoryStorage()
        self.durable_log.apply_snapshot(start)
        self.durable_hard_state = HardState(start.term, 0, start.index)
        self.owed: HardState | None = None
        self.durable_applied = start.index
        self.durable_conf = start.conf_state
        self.start()

    def start(self) -> None:
        """From the disk alone."""
        disk = self.durable_log
        first, last = disk.first_index(), disk.last_index()
        self.storage = MemoryStorage()
        base = Snapshot(first - 1, disk.term(first - 1), self.durable_conf)
        self.storage.apply_snapshot(base)
        if last >= first:
            self.storage.append(disk.entries(first, last + 1, 1 << 30))
        self.storage.set_hard_state(self.durable_hard_state)
        if self.durable_applied > base.index:
            self.storage.create_snapshot(self.durable_applied, self.durable_conf)
        config = Config(
            id=self.number,
            jitter=self.world.random.randrange,
            election_ticks=5,
            max_message_bytes=self.world.message_bytes,
            max_inflight=self.world.inflight,
            max_apply_bytes=200,
            applied=self.durable_applied,
        )
        self.core = RawNode(config, self.storage)
        self.applied = self.durable_applied
        self.conf = self.durable_conf
        self.writes: deque[Ready] = deque()
        self.to_apply: deque[Entry | Snapshot] = deque()

    def crash(self) -> None:
        if self.owed is not None and self.world.random.random() < 0.5:
            self.durable_hard_state = self.owed
        self.owed = None
        self.start()

    def take(self) -> None:
        ready = self.core.ready()
        assert not (ready.snapshot and ready.committed)
        if ready.snapshot is not None:
            self.storage.apply_snapshot(ready.snapshot)
            self.to_apply.append(ready.snapshot)
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        self.world.send(ready.messages)
        self.writes.append(ready)
        self.to_apply += ready.committed
        for entry in ready.committed:
            assert entry.index <= self.durable_log.last_index(), "handed out before it is durable"
            self.world.judge.commits(self.number, entry)
        for read in ready.read_states:
            self.world.judge.may_read(read.token, read.index)
        if ready.soft_state is not None and ready.soft_state.role == Role.LEADER:
            self.world.judge.leads(self.number, self.core.status().term, self.storage)

    def write(self) -> None:
        ready = self.writes.popleft()
        if ready.snapshot is not None:
            self.durable_log.apply_snapshot(ready.snapshot)
            self.durable_applied = ready.snapshot.index
            self.durable_conf = ready.snapshot.conf_state
        self.durable_log.append(ready.entries)
        self.owed = ready.hard_state or self.owed
        if ready.must_sync and self.owed is not None:
            self.durable_hard_state, self.owed = self.owed, None
        for message in ready.messages_after_append:
            self._check_promise(message)
        self.world.send(ready.messages_after_append)
        self.core.appended(ready.mark)

    def _check_promise(self, message: Message) -> None:
        """What leaves now, the disk has."""
        assert self.durable_hard_state.term >= message.term or message.type in (
            MessageType.PRE_VOTE,
            MessageType.PRE_VOTE_RESPONSE,
        )
        if message.type == MessageType.APPEND_RESPONSE and not message.reject:
            assert message.index <= self.durable_log.last_index()
        granted = message.type == MessageType.VOTE_RESPONSE and not message.reject
        if granted and message.term == self.durable_hard_state.term:
            assert self.durable_hard_state.vote == message.to

    def apply(self) -> None:
        """One entry, or one snapshot."""
        item = self.to_apply.popleft()
        if isinstance(item, Snapshot):
            self.applied, self.conf = item.index, item.conf_state
        elif item.index <= self.applied:
            return  # a snapshot came before it could be applied
        else:
            assert item.index == self.applied + 1, f"{item.index} after {self.applied}"
            self.applied = item.index
            if item.type == EntryType.CONF_CHANGE:
                try:
                    change = decode_conf_change(item.data)
                    self.conf = self.core.apply_conf_change(change)
                except ConfChangeRefused:
                    assert self.conf == self.core.status().conf_state
        self.core.applied(self.applied)

    def checkpoint(self, keep: int) -> None:
        """The state machine syncs; the log may go, but for `keep` entries."""
        if self.durable_applied >= self.applied or self.writes:
            return
        self.durable_applied, self.durable_conf = self.applied, self.conf
        self.storage.create_snapshot(self.applied, self.conf)
        cut = self.applied - keep
        if cut >= self.storage.first_index():
            self.storage.compact(cut)
            if cut >= self.durable_log.first_index():
                self.durable_log.compact(cut)

    def settle(self) -> None:
        while self.core.has_ready() or self.writes or self.to_apply:
            if self.core.has_ready():
                self.take()
            while self.writes:
                self.write()
            while self.to_apply:
                self.apply()


class World:
    """Members 1 to 3 are voters at first; 4 and 5 start empty and may be added."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.judge = Judge()
        self.network: list[Message] = []
        self.cut: dict[int, bool] = {}
        self.loss = self.random.choice([0.0, 0.05, 0.3])
        self.message_bytes = self.random.choice([1, 60, 1 << 20])
        self.inflight = self.random.choice([1, 3, 256])
        self.crashes = self.random.choice([0, 3, 50])
        self.faults = self.random.choice([0.3, 1.0])
        self.ticks = self.random.choice([4, 12])
        self.members = {number: Member(number, self, FIRST) for number in (1, 2, 3)}
        for number in (4, 5):
            self.members[number] = Member(number, self, Snapshot())
        self.proposed = 0

    # --- network

    def send(self, messages: list[Message]) -> None:
        for message in messages:
            lost = self.random.random() < self.loss or self.cut.get(
                message.to, False
            ) != self.cut.get(message.sender, False)
            if not lost:
                self.network.append(message)
                if self.loss and self.random.random() < 0.05:
                    self.network.append(message)
            elif message.type == MessageType.SNAPSHOT:
                self.members[message.sender].core.report_snapshot(message.to, False)
            elif self.random.random() < 0.2:
                self.members[message.sender].core.report_unreachable(message.to)

    def deliver(self, position: int) -> None:
        message = self.network.pop(position)
        if message.type == MessageType.SNAPSHOT:
            self.members[message.sender].core.report_snapshot(message.to, True)
        try:
            self.members[message.to].core.step(message)
        except ProposalDropped:
            assert message.type == MessageType.PROPOSE

    # --- one step

    def step(self) -> None:
        """Mostly progress, now and then a fault."""
        random = self.random
        kind = random.choices(
            ["tick", "deliver", "take", "write", "apply", "ask", "fault"],
            [self.ticks, 20, 20, 15, 15, 4, self.faults],
        )[0]
        able = self.able(kind)
        if not able:
            return
        member = random.choice(able)
        if kind == "tick":
            member.core.tick()
        elif kind == "deliver":
            # Mostly in order, else nothing but elections would ever happen.
            late = random.random() < 0.2
            self.deliver(random.randrange(len(self.network)) if late else 0)
        elif kind == "take":
            member.take()
        elif kind == "write":
            member.write()
        elif kind == "apply":
            member.apply()
        elif kind == "ask":
            self.ask(member)
        else:
            self.fault(member)
        member.core.check_invariants()

    def able(self, kind: str) -> list[Member]:
        """The members that have something of this kind to do."""
        members = list(self.members.values())
        if kind == "deliver":
            return members if self.network else []
        if kind == "take":
            return [member for member in members if member.core.has_ready()]
        if kind == "write":
            return [member for member in members if member.writes]
        if kind == "apply":
            return [member for member in members if member.to_apply]
        return members

    def ask(self, member: Member) -> None:
        """What a client or an operator wants."""
        kind = self.random.choices(
            ["propose", "read", "change", "transfer", "forget", "gone", "checkpoint"],
            [10, 6, 3, 1, 1, 3, 3],
        )[0]
        try:
            if kind == "propose":
                count = self.random.randint(1, 4)
                self.proposed += count
                member.core.propose([b"%d-%d" % (self.proposed, each) for each in range(count)])
            elif kind == "read":
                token = len(self.judge.reads) + 1
                self.judge.asks(token)
                member.core.read_index(token)
            elif kind == "change":
                member.core.propose_conf_change(encode_conf_change(self.change()))
        except ProposalDropped:
            return
        if kind == "transfer":
            member.core.transfer_leader(self.random.randint(1, len(self.members)))
        elif kind == "forget":
            member.core.forget_leader()
        elif kind == "gone":
            # Mostly by mistake; for those who are right, so much the better.
            member.core.leader_gone(member.core.status().leader)
        elif kind == "checkpoint":
            member.checkpoint(self.random.choice([0, 5]))

    def change(self) -> ConfChange:
        count = self.random.choice([0, 1, 1, 1, 2, 3])
        parts = [
            ConfChangeSingle(self.random.choice(list(ConfChangeType)), self.random.randint(1, 5))
            for _ in range(count)
        ]
        return ConfChange(parts, self.random.choice(list(Transition)) if count else Transition.AUTO)

    def fault(self, member: Member) -> None:
        kind = self.random.choice(["crash", "cut", "depose", "heal"])
        if kind == "crash" and self.crashes:
            self.crashes -= 1
            member.crash()
        elif kind == "cut":
            self.cut = {number: self.random.random() < 0.4 for number in self.members}
        elif kind == "depose":
            leader = self.leader()
            if leader is not None:
                self.cut = {leader.number: True, self.random.randint(1, 5): True}
        elif kind == "heal":
            self.cut = {}

    # --- the end

    def heal(self) -> None:
        """No fault any more: everybody is heard, everything is done, time passes evenly."""
        self.cut, self.loss = {}, 0.0

    def round(self) -> None:
        """One tick of everybody, and all that follows from it."""
        for member in self.members.values():
            member.core.tick()
        self.settle()

    def settle(self) -> None:
        for _ in range(10_000):
            for member in self.members.values():
                member.settle()
            if not self.network:
                return
            self.deliver(0)
        raise AssertionError("the network never falls silent")

    def leader(self) -> Member | None:
        leaders = [m for m in self.members.values() if m.core.status().role == Role.LEADER]
        return max(leaders, key=lambda m: m.core.status().term, default=None)

    def check_logs(self) -> None:
        members = list(self.members.values())
        for position, one in enumerate(members):
            for other in members[position + 1 :]:
                check_log_matching(one.storage, other.storage)
