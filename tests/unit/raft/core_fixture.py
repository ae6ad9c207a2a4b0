"""One core with a disk that writes at once, for tests of what it answers."""

from __future__ import annotations

from raft.core.config import Config
from raft.core.message import Message, MessageType
from raft.core.raw_node import RawNode, Ready
from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Entry, HardState, Role, Snapshot

ELECTION_TICKS = 5


class Core:
    """Member 1 of `voters`, with a log whose entries have `terms` (from index 1 on)."""

    def __init__(
        self,
        *,
        voters: tuple[int, ...] = (1, 2, 3),
        learners: tuple[int, ...] = (),
        terms: tuple[int, ...] = (),
        hard_state: HardState | None = None,
        jitter: int = 0,
    ) -> None:
        self.storage = MemoryStorage()
        self.storage.apply_snapshot(Snapshot(0, 0, ConfState(voters=voters, learners=learners)))
        self.storage.append([Entry(term, index) for index, term in enumerate(terms, 1)])
        self.storage.set_hard_state(hard_state or HardState(max(terms, default=0)))
        config = Config(id=1, jitter=lambda ticks: jitter, election_ticks=ELECTION_TICKS)
        self.node = RawNode(config, self.storage)
        self.applied: list[Entry] = []

    @property
    def term(self) -> int:
        return self.node.status().term

    @property
    def role(self) -> Role:
        return self.node.status().role

    def take(self) -> Ready:
        ready = self.node.ready()
        self.storage.append(ready.entries)
        if ready.hard_state is not None:
            self.storage.set_hard_state(ready.hard_state)
        return ready

    def finish(self) -> list[Message]:
        """Writes and applies all there is; what was sent meanwhile."""
        sent: list[Message] = []
        while self.node.has_ready():
            ready = self.take()
            sent += ready.messages + ready.messages_after_append
            self.node.appended(ready.mark)
            if ready.committed:
                self.applied += ready.committed
                self.node.applied(ready.committed[-1].index)
            self.node.check_invariants()
        return sent

    def step(self, kind: MessageType, sender: int, term: int, **fields: object) -> list[Message]:
        """A message comes in; what goes out."""
        self.node.step(Message(type=kind, to=1, sender=sender, term=term, **fields))
        return self.finish()

    def tick(self, times: int = 1) -> list[Message]:
        for _ in range(times):
            self.node.tick()
        return self.finish()

    def campaign(self) -> list[Message]:
        """Up to the vote requests: the pre-vote is granted by 2."""
        self.node.campaign()
        self.finish()
        return self.step(MessageType.PRE_VOTE_RESPONSE, 2, self.term + 1)

    def lead(self) -> list[Message]:
        """Elected by 2; the first appends of the term."""
        self.campaign()
        return self.step(MessageType.VOTE_RESPONSE, 2, self.term)

    def log_terms(self) -> list[int]:
        first, last = self.storage.first_index(), self.storage.last_index()
        return [self.storage.term(index) for index in range(first, last + 1)]


def of_type(messages: list[Message], kind: MessageType) -> list[Message]:
    return [message for message in messages if message.type == kind]
