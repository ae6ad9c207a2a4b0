"""The watchdog: what must hold at any moment, looked at several times a second."""

from __future__ import annotations

import asyncio
from typing import Any

from mvcc.store import Store
from node.apply.requests import AlarmType
from tests.simulation.history import History, Violation, check_membership
from tests.simulation.sim_cluster import SimCluster, SimMember

PERIOD_SECONDS = 0.25


class Watchdog:
    """Looks into the living members. `_seen` is by process: what may only grow there."""

    def __init__(self, cluster: SimCluster, history: History) -> None:
        self._cluster = cluster
        self._history = history
        self._seen: dict[tuple[str, int, str], int] = {}
        self._finished: dict[str, tuple[Store, int]] = {}

    async def run(self) -> None:
        """Until cancelled. A Violation ends the run."""
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            self.look()

    def look(self) -> None:
        living = [each for each in self._cluster.living() if not each.server.driver._installing]
        for member in living:
            self._check_growth(member)
            self._check_structures(member)
            self._check_alarms(member)
        self._check_logs(living)

    def _check_growth(self, member: SimMember) -> None:
        """Within a process nothing falls. Over its end what was not yet durable may."""
        server = member.server
        store = server.store
        for what, value in (
            ("commit index", server.driver.commit_index),
            ("applied index", server.applied_index),
            ("revision", store.current_rev),
            ("compacted revision", store.compact_rev),
        ):
            self._grows((member.name, member.lives, what), value, self._seen)
        # An installed snapshot may be of a member that is not as far with its compaction.
        known, finished = self._finished.get(member.name, (store, -1))
        if known is store and store.finished_compact_rev < finished:
            raise Violation(
                f"finished compacted revision of {member.name} fell from {finished}"
                f" to {store.finished_compact_rev}"
            )
        self._finished[member.name] = store, store.finished_compact_rev
        if store.compact_rev < store.finished_compact_rev:
            raise Violation(f"{member.name}: finished a compaction that it has not scheduled")
        unfinished = store.compact_rev > store.finished_compact_rev
        if unfinished and member.listening and server.compactor.idle:
            raise Violation(
                f"{member.name}: nobody works on the compaction at {store.compact_rev},"
                f" of which {store.finished_compact_rev} is finished"
            )

    @staticmethod
    def _grows(what: Any, value: int, seen: dict[Any, int]) -> None:
        if value < seen.get(what, value):
            raise Violation(f"{what} fell from {seen[what]} to {value}")
        seen[what] = value

    def _check_structures(self, member: SimMember) -> None:
        server = member.server
        try:
            server.store.check_invariants()
            server.lessor.check_invariants(server.store.leases)
            server.members.check_invariants()
            server.alarms.check_invariants()
            server.watches.store.check_invariants()
            server.driver._node.check_invariants()
        except AssertionError as error:
            raise Violation(f"{member.name}: a structure is not sound: {error!r}") from error
        check_membership(member, server)

    def _check_alarms(self, member: SimMember) -> None:
        corrupt = member.server.alarms.get(AlarmType.CORRUPT)
        if corrupt:
            raise Violation(f"{member.name} knows a CORRUPT alarm: {corrupt}")

    def _check_logs(self, living: list[SimMember]) -> None:
        """Where two logs have an entry of one term, they are equal up to there."""
        logs = [(member, _entries(member)) for member in living]
        for place, (one, ours) in enumerate(logs):
            for other, theirs in logs[place + 1 :]:
                shared = sorted(ours.keys() & theirs.keys(), reverse=True)
                matching = False
                for index in shared:
                    if ours[index][0] == theirs[index][0]:
                        matching = True
                    if matching and ours[index] != theirs[index]:
                        raise Violation(
                            f"log matching: {one.name} has {ours[index]} at {index},"
                            f" {other.name} {theirs[index]}"
                        )


def _entries(member: SimMember) -> dict[int, tuple[int, bytes]]:
    """The latest of the log."""
    log = member.server.driver._node.raft.log
    last = log.last_index()
    first = max(log.first_index(), last - 60)
    found = log.entries(first, last + 1, 1 << 20) if first <= last else []
    return {entry.index: (entry.term, entry.data) for entry in found}
