"""Membership under faults: the table of members and raft's configuration say the same at every
index on every member, whatever crashes, and no change that was let through loses the quorum.

The leader asks what `node.membership` asks before it proposes; what a change means to the rows is
`node.apply`'s own code, on a store that forgets what was not durable.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvcc.memory_backend import MemoryBackend
from node.apply.applier import Applier
from node.apply.errors import ApplyError, LearnerNotReady, MemberExists, PeerUrlExists
from node.apply.members import ChangeKind, MemberChange, Members, decode_change, encode_change
from node.apply.requests import MemberAttributesRequest, MemberUpdateRequest, decode, encode
from node.apply.responses import Member as Row
from node.apply.schema import CLUSTER, END, MEMBERS, MEMBERS_REMOVED, META
from node.apply.schema import FIRST as LOWEST
from node.membership import Standing, check_adding, check_promoting, check_removing
from raft.core.conf_change import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    decode_conf_change,
    encode_conf_change,
)
from raft.core.errors import ConfChangeRefused, ProposalDropped
from raft.core.types import Entry, EntryType, Role, Snapshot
from tests.property.raft_cluster import FIRST, Member, World
from tests.property.test_raft_cluster import converge

MEMBERS_MAX = 9
TABLES = (MEMBERS, MEMBERS_REMOVED, CLUSTER, META)
RAFT_KIND = {
    ChangeKind.ADD: ConfChangeType.ADD_VOTER,
    ChangeKind.REMOVE: ConfChangeType.REMOVE,
    ChangeKind.PROMOTE: ConfChangeType.ADD_VOTER,
}

Rows = tuple[tuple[str, bytes, bytes], ...]


def rows_of(backend: MemoryBackend) -> Rows:
    return tuple(
        (table, bytes(key), bytes(row))
        for table in TABLES
        for key, row in backend.range(table, LOWEST, END, 0)
    )


def first_rows() -> Rows:
    backend = MemoryBackend()
    first = [Row(number, f"n{number}", [f"http://n{number}:1"]) for number in (1, 2, 3)]
    Members(backend).bootstrap(first, "token")
    return rows_of(backend)


class Replica(Member):
    """A member whose state machine is the table of members."""

    world: Town

    def __init__(self, number: int, world: Town, start: Snapshot) -> None:
        self.durable_rows: Rows = world.rows.get(start.index, ())
        super().__init__(number, world, start)

    def start(self) -> None:
        super().start()
        self._load(self.durable_rows)

    def _load(self, rows: Rows) -> None:
        self.backend = MemoryBackend()
        for table, key, row in rows:
            self.backend.put(table, key, row)
        self.table = Members(self.backend)
        self.table.restore()

    def write(self) -> None:
        snapshot = self.writes[0].snapshot
        super().write()
        if snapshot is not None:
            self.durable_rows = self.world.rows[snapshot.index]

    def checkpoint(self, keep: int) -> None:
        super().checkpoint(keep)
        if self.durable_applied == self.applied:
            self.durable_rows = rows_of(self.backend)

    def apply(self) -> None:
        item = self.to_apply.popleft()
        if isinstance(item, Snapshot):
            self.applied, self.conf = item.index, item.conf_state
            self._load(self.world.rows[item.index])
        elif item.index > self.applied:
            assert item.index == self.applied + 1, f"{item.index} after {self.applied}"
            self.applied = item.index
            if item.type == EntryType.CONF_CHANGE:
                self._apply_change(item)
            elif item.data and item.data[0] < 32:
                self._apply_request(item.data)
            self._compare()
        self.core.applied(self.applied)

    def _apply_change(self, entry: Entry) -> None:
        change = decode_conf_change(entry.data)
        applier: Any = SimpleNamespace(members=self.table, _hit=lambda name: None)

        def advance(accepted: bool) -> Any:
            return self.core.apply_conf_change(change) if accepted else self.table.conf_state

        try:
            result = Applier.apply_conf_change(applier, change.context, advance)
        except ConfChangeRefused as error:
            result = error
        self.conf = self.table.conf_state
        if change.context:
            self.world.changed(decode_change(change.context), result)

    def _apply_request(self, data: bytes) -> None:
        _, request = decode(data)
        try:
            if isinstance(request, MemberUpdateRequest):
                self.table.update(request)
            elif isinstance(request, MemberAttributesRequest):
                self.table.publish(request)
        except ApplyError:
            self.world.refused += 1

    def _compare(self) -> None:
        """With raft's own view, and with every other member at the same index."""
        status = self.core.status().conf_state
        listed = self.table.list()
        assert status == self.table.conf_state, (status, self.table.conf_state)
        voters = [row.ID for row in listed if not row.isLearner]
        assert sorted(status.voters) == voters, (status, voters)
        assert sorted(status.learners) == [row.ID for row in listed if row.isLearner]
        self.table.check_invariants()
        rows = rows_of(self.backend)
        assert self.world.rows.setdefault(self.applied, rows) == rows, f"differ at {self.applied}"


class Town(World):
    """Members 1 to 3 are voters at first; the others wait to be added, each once at most."""

    def __init__(self, seed: int) -> None:
        self.rows: dict[int, Rows] = {FIRST.index: first_rows()}
        super().__init__(seed)
        self.standing: dict[int, set[int]] = {}
        self.gone: set[int] = set()
        self.accepted: dict[ChangeKind, int] = dict.fromkeys(ChangeKind, 0)
        self.refused = self.requests = 0
        self.faults = self.random.choice([0.1, 0.5])
        self.members = {number: Replica(number, self, FIRST) for number in (1, 2, 3)}  # type: ignore[assignment]
        for number in range(4, MEMBERS_MAX + 1):
            self.members[number] = Replica(number, self, Snapshot())

    def change(self) -> ConfChange:
        """What the world would do at random; here every change is asked for by `ask`."""
        return ConfChange([])

    def ask(self, member: Member) -> None:
        kind = self.random.choice(["world", "change", "change", "publish", "update"])
        if kind == "change":
            member = self.leader() or member
        assert isinstance(member, Replica)
        try:
            if kind == "world":
                super().ask(member)
            elif kind == "change":
                self._ask_change(member)
            else:
                self._ask_request(member, kind)
        except (ProposalDropped, ApplyError):
            self.refused += 1

    def _ask_request(self, member: Replica, kind: str) -> None:
        self.requests += 1
        if kind == "publish":
            rows = member.table.list()
            unnamed = [each for each in rows if not each.name]
            row = self.random.choice(unnamed or rows or [Row(1)])
            request: Any = MemberAttributesRequest(row.ID, f"n{row.ID}", ["http://c:1"])
        else:
            url = f"http://n{self.random.randint(1, MEMBERS_MAX)}:{self.random.randint(1, 3)}"
            request = MemberUpdateRequest(self.random.randint(1, MEMBERS_MAX), [url])
        member.core.propose([encode(self.requests, request)])

    def _ask_change(self, member: Replica) -> None:
        """As the leader does: ask what is wise, then propose; never while another is under way."""
        if member.core.status().role != Role.LEADER or member.core.conf_change_pending():
            return
        learners = [each.ID for each in member.table.list() if each.isLearner]
        kind = self.random.choice([*ChangeKind, *[ChangeKind.PROMOTE] * bool(learners)])
        number = self.random.choice([*range(1, MEMBERS_MAX + 1), *learners * 9])
        row = Row(number, "", [f"http://n{number}:1"], isLearner=self.random.random() < 0.5)
        reachable = self._reachable(member)
        raft_kind = RAFT_KIND[kind]
        if kind == ChangeKind.ADD and row.isLearner:
            raft_kind = ConfChangeType.ADD_LEARNER
        self.requests += 1
        if raft_kind != ConfChangeType.ADD_LEARNER and not (
            kind == ChangeKind.REMOVE and number in learners
        ):
            self._check(kind, number, member.table, reachable)
            self.standing[self.requests] = reachable
        change = ConfChange(
            [ConfChangeSingle(raft_kind, number)],
            context=encode_change(MemberChange(self.requests, kind, row)),
        )
        member.core.propose_conf_change(encode_conf_change(change))

    def _reachable(self, leader: Replica) -> set[int]:
        side = self.cut.get(leader.number, False)
        return {number for number in self.members if self.cut.get(number, False) == side}

    def _check(self, kind: ChangeKind, number: int, table: Members, reachable: set[int]) -> None:
        voters = [row for row in table.list() if not row.isLearner]
        standings = {row.ID: Standing(bool(row.name), row.ID in reachable) for row in voters}
        if kind == ChangeKind.ADD:
            check_adding(list(standings.values()))
        elif kind == ChangeKind.PROMOTE:
            learner = table.get(number)
            if learner is None or not learner.name:
                raise LearnerNotReady
            check_promoting(list(standings.values()), reachable=number in reachable)
        else:
            rest = [each for voter, each in standings.items() if voter != number]
            check_removing(rest)

    def changed(self, change: MemberChange, result: object) -> None:
        """A member has applied `change`: what it found, and whether a quorum is left."""
        number = change.member.ID
        if isinstance(result, Exception):
            if number in self.gone and change.kind == ChangeKind.ADD:
                # Its address may have found another owner meanwhile.
                assert isinstance(result, MemberExists | PeerUrlExists), "an id was used again"
            return
        self.accepted[change.kind] += 1
        if change.kind == ChangeKind.REMOVE:
            self.gone.add(number)
        after = result.members  # type: ignore[attr-defined]
        voters = {row.ID for row in after if not row.isLearner}
        left = voters & self.standing.get(change.request_id, voters)
        grows_from_one = change.kind == ChangeKind.ADD and len(voters) == 2
        assert grows_from_one or len(left) > len(voters) // 2, f"{change} leaves {left} of {voters}"


def run(seed: int, steps: int) -> Town:
    town = Town(seed)
    for step in range(steps):
        town.step()
        if step % 200 == 0:
            town.check_logs()
    return town


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=10, deadline=None)
def test_one_membership_whatever_fails(seed: int) -> None:
    converge(run(seed, 2000))


@pytest.mark.slow
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_one_membership_whatever_fails_at_length(seed: int) -> None:
    converge(run(seed, 6000))


def test_changes_of_every_kind_are_made_and_refused() -> None:
    """A town in which nobody comes or goes would pass everything."""
    towns = [run(seed, 4000) for seed in (1, 7, 8)]
    for kind in ChangeKind:
        assert sum(town.accepted[kind] for town in towns) > 3, kind
    assert sum(town.refused for town in towns) > 10
    assert sum(len(town.judge.leaders) for town in towns) > 3
