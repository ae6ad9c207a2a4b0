"""What happened, as the checkers read it: the log as it was applied, what clients asked and heard.

Entries are checked as they come: whoever applies one, at whatever time, in whatever life, must
apply the same one to the same effect as the first who did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from node.apply.requests import decode
from node.server import Server
from raft.core.types import Entry, EntryType, Role, SoftState
from tests.simulation.journal import Journal
from tests.simulation.promises import Promises
from tests.simulation.sim_cluster import SimMember


class Violation(Exception):
    """An invariant that does not hold; the text names it and says what was seen."""


@dataclass(slots=True)
class Applied:
    """One committed entry, as the first member that applied it saw it."""

    index: int
    term: int
    type: EntryType
    data: bytes
    at: float
    number: int
    """Of the event, to be compared with those of operations."""
    result: Any = None
    effects: int = 0
    revision: int = 0
    compacted: int = 0
    executed: bool = False
    members: list[str] = field(default_factory=list)
    """Who has applied it so far."""


@dataclass(slots=True)
class Operation:
    """One request of one client. `ended` is None while there is no answer: it may or may not have
    taken effect. Numbers are those of events: smaller is earlier.
    """

    number: int
    client: str
    member: str
    name: str
    request: Any
    begun: int
    begun_at: float
    ended: int | None = None
    ended_at: float = 0.0
    result: Any = None


class History:
    """The one history of a run. Implements `sim_cluster.Observer` but for the ends of processes."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.entries: dict[int, Applied] = {}
        self.last_index = 0
        self._ids: dict[int, int] = {}
        self.kinds: Counter[str] = Counter()
        """Of the entries."""
        self.leaders: dict[int, tuple[int, str]] = {}
        self.operations: list[Operation] = []
        self.now: Callable[[], float] = lambda: 0.0
        self.stop: Callable[[], None] = lambda: None
        self.violation: Violation | None = None
        self._promises = Promises(self.violated)

    def violated(self, what: str) -> NoReturn:
        """The run ends here, whatever the member makes of the error."""
        if self.violation is None:
            self.violation = Violation(what)
        self.stop()
        raise Violation(what)

    @property
    def compacted(self) -> int:
        """The newest compacted revision that anybody has applied; -1: none."""
        last = self.entries.get(self.last_index)
        return last.compacted if last is not None and last.executed else -1

    # -- from the members

    def opened(self, member: SimMember, server: Server) -> None:
        """Listen to a new process."""
        self._promises.opened(member, server)
        replica = server.replica
        apply, normal, change = (
            replica.apply,
            replica.applier.apply_normal,
            replica._apply_conf_change,
        )
        backend: Any = server.backend

        def role_changed(soft: SoftState, term: int) -> None:
            self._role_changed(member, soft, term)
            Role_changed(soft, term)

        Role_changed = replica.role_changed

        def apply_batch(entries: Sequence[Entry]) -> None:
            for entry in entries:
                self._committed(member, entry)
            apply(entries)

        def apply_normal(index: int, term: int, data: bytes, request: Any = None) -> Any:
            backend.effects = 0
            result = normal(index, term, data, request)
            self._executed(member, index, result, backend.effects)
            return result

        def apply_conf_change(entry: Entry) -> None:
            backend.effects = 0
            change(entry)
            self._executed(member, entry.index, None, backend.effects)
            try:
                check_membership(member, server)
            except Violation as error:
                self.violated(str(error))

        replica.role_changed = role_changed  # type: ignore[method-assign]
        replica.apply = apply_batch  # type: ignore[method-assign]
        replica.applier.apply_normal = apply_normal  # type: ignore[method-assign]
        replica._apply_conf_change = apply_conf_change  # type: ignore[method-assign]

    def _committed(self, member: SimMember, entry: Entry) -> None:
        index = entry.index
        first = self.entries.get(index)
        if first is None:
            number = self.journal.note("commit", member.name, index, entry.term, entry.data)
            first = self.entries[index] = Applied(
                index, entry.term, entry.type, entry.data, self.now(), number
            )
            self.last_index = max(self.last_index, index)
            self._check_id(entry)
        elif (first.term, first.type, first.data) != (entry.term, entry.type, entry.data):
            self.violated(
                f"log matching: entry {index} of {member.name} is of term {entry.term}:"
                f" {entry.data!r}; {first.members} have term {first.term}: {first.data!r}"
            )
        first.members.append(member.name)

    def _check_id(self, entry: Entry) -> None:
        """An id names one request for ever: who waits for it must not be given another's answer."""
        if entry.type != EntryType.NORMAL or not entry.data:
            self.kinds[EntryType(entry.type).name] += 1
            return
        number, request = decode(entry.data)
        self.kinds[type(request).__name__.removesuffix("Request")] += 1
        first = self._ids.setdefault(number, entry.index)
        if first != entry.index:
            self.violated(
                f"request ids: entry {entry.index}, {request}, has the id {number:x},"
                f" as entry {first} has"
            )

    def _executed(self, member: SimMember, index: int, result: Any, effects: int) -> None:
        store = member.server.store
        first = self.entries[index]
        seen = (effects, store.current_rev, store.compact_rev)
        self.journal.note("apply", member.name, index, type(result).__name__, *seen)
        if not first.executed:
            first.executed = True
            first.result, (first.effects, first.revision, first.compacted) = result, seen
        elif seen != (first.effects, first.revision, first.compacted) or not same(
            result, first.result
        ):
            self.violated(
                f"state machines: {member.name} applies entry {index} to {seen}, {result!r};"
                f" {first.members[0]} had {first.effects, first.revision, first.compacted},"
                f" {first.result!r}"
            )

    def _role_changed(self, member: SimMember, soft: SoftState, term: int) -> None:
        self.journal.note("role", member.name, soft.role.name, term, soft.leader)
        if soft.role != Role.LEADER:
            return
        number = member.server.member_id
        leader = self.leaders.setdefault(term, (number, member.name))
        if leader[0] != number:
            self.violated(f"election safety: {member.name} leads term {term}, as {leader[1]} does")
        self._check_complete(member, term)

    def _check_complete(self, member: SimMember, term: int) -> None:
        """A leader has every entry that was committed in an earlier term."""
        log = member.server.driver._node.raft.log
        for index in range(max(self.last_index - 20, log.first_index()), self.last_index + 1):
            entry = self.entries.get(index)
            if entry is None or entry.term >= term:
                continue
            if index > log.last_index() or log.term(index) != entry.term:
                self.violated(
                    f"leader completeness: {member.name} leads term {term} without entry"
                    f" {index} of term {entry.term}, which {entry.members} have applied"
                )

    # -- from the clients

    def begin(self, client: str, member: str, name: str, request: Any) -> Operation:
        begun = self.journal.note("ask", client, member, name, request)
        number = len(self.operations)
        operation = Operation(number, client, member, name, request, begun, self.now())
        self.operations.append(operation)
        return operation

    def end(self, operation: Operation, result: Any) -> None:
        """An answer, or an error that says that nothing has changed."""
        told = repr(result) if not isinstance(result, Exception) else _error(result)
        operation.ended = self.journal.note("answer", operation.client, operation.number, told)
        operation.ended_at = self.now()
        operation.result = result


def check_membership(member: SimMember, server: Server) -> None:
    """The rows, the configuration stored beside them, and raft's are one."""
    members = server.members
    voters = tuple(sorted(each.ID for each in members.list() if not each.isLearner))
    learners = tuple(sorted(each.ID for each in members.list() if each.isLearner))
    in_force = server.driver._node.raft.tracker.conf
    for of, conf in (
        ("stored", members.conf_state),
        ("raft's", server.driver.conf_state),
        ("counting", in_force),
    ):
        if (tuple(sorted(conf.voters)), tuple(sorted(conf.learners))) != (voters, learners):
            raise Violation(
                f"membership: {member.name} lists voters {voters}, learners {learners};"
                f" the {of} configuration is {conf}"
            )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Exception):
        return _error(one) == _error(other)
    return bool(one == other)


def _error(error: Any) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, Exception) else ""
