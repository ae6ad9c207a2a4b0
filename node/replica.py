"""Replica: the state machine that raft drives (`raft.state_machine`): committed entries in, answers
out, whole states when the log can no longer help.

Plain calls on the loop, but for the two that move whole states.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from mvcc.compaction import Compaction
from mvcc.lmdb_backend import LmdbBackend
from mvcc.store import Store
from node.apply import errors
from node.apply.applier import Applier
from node.apply.checks import admit
from node.apply.members import decode_change
from node.apply.requests import decode, request_id_of
from node.auto_compactor import AutoCompactor
from node.compactor import Compactor
from node.proposals import Proposals
from node.reads import LinearizableReads
from node.waiting import answer_of
from raft.core.conf_change import ConfChange, decode_conf_change
from raft.core.errors import ConfChangeRefused, ProposalDropped
from raft.core.types import NONE, ConfState, Entry, EntryType, Role, Snapshot, SoftState
from raft.driver import RaftDriver
from raft.transport import SnapshotSource

log = logging.getLogger("esker.replica")

ENTRY_BYTES_MAX = 8 << 20
"""Of a forwarded proposal, where --max-request-bytes is not above it: half of what a frame between
members holds, so that whatever a leader accepts can be sent on.
"""
SLOW_APPLY_SECONDS = 0.1
"""A batch that takes longer is counted, as etcd counts it: every client of this member waits."""


class Replica:
    """One member's copy of the state, as far as the log has been applied.

    `store` is replaced when a snapshot is installed; `installing` meanwhile: no entry is applied
    and no range begun. `members_changed()` follows every change of the membership, `on_role(leads,
    term)` of the role or the leader, `on_term(term)` the first batch applied that ends in a term.
    """

    def __init__(
        self,
        *,
        backend: LmdbBackend,
        store: Store,
        applier: Applier,
        proposals: Proposals,
        reads: LinearizableReads,
        compactor: Compactor,
        request_bytes_max: int,
        copy_state: Callable[[LmdbBackend], SnapshotSource],
        hit: Callable[[str], None],
    ) -> None:
        self.backend = backend
        self.store = store
        self.applier = applier
        self.proposals = proposals
        self.reads = reads
        self.compactor = compactor
        self.driver: RaftDriver
        self.auto_compactor: AutoCompactor | None = None
        self.members_changed: Callable[[], None] = lambda: None
        self.store_replaced: Callable[[Store], None] = lambda store: None
        self._lost_term = 0
        self.on_role: Callable[[bool, int], None] = lambda leads, term: None
        self.on_term: Callable[[int], None] = lambda term: None
        self.applied_index = backend.applied()[0]
        self.leader_changes = 0
        self.slow_applies = 0
        self.installing = False
        self._request_bytes_max = request_bytes_max
        self._copy_state = copy_state
        self._hit = hit
        self._loop = asyncio.get_running_loop()
        self._known_leader = NONE
        self._applied_term = 0
        applier.on_compaction = self._compaction_applied

    def resume_compaction(self) -> None:
        """Go on with what a crash or a snapshot left unfinished."""
        pending = self.store.pending_compaction()
        if pending is not None:
            log.info("going on with a compaction", extra={"rev": pending.revision})
            self.compactor.submit(pending)

    def _compaction_applied(self, job: Compaction) -> None:
        self.compactor.submit(job)
        if self.auto_compactor is not None:
            self.auto_compactor.compaction_applied()

    def apply(self, entries: Sequence[Entry]) -> None:
        """Execute committed entries in order, answer their proposers, close the batch's books."""
        started = self._loop.time()
        try:
            self._execute(entries)
        except BaseException:
            # Half an entry may be in the open batch: none of it may reach the disk.
            self.backend.abandon()
            raise
        last = entries[-1]
        self.backend.end_entries(last.index, last.term)
        self.applied_index = last.index
        if last.term != self._applied_term:
            self._applied_term = last.term
            if last.term > self._lost_term:
                self._give_up_lost()
            self.on_term(last.term)
        self.reads.applied(last.index)
        if self._loop.time() - started > SLOW_APPLY_SECONDS:
            self.slow_applies += 1

    def _execute(self, entries: Sequence[Entry]) -> None:
        take = self.proposals.take
        execute = self.applier.apply_normal
        for entry in entries:
            data = entry.data
            if entry.type == EntryType.CONF_CHANGE:
                self._apply_conf_change(entry)
            elif data:
                waiting = take(request_id_of(data))
                if waiting is None:
                    execute(entry.index, entry.term, data, None)
                else:
                    waiting[1](execute(entry.index, entry.term, data, waiting[0]))

    def leader_gone(self, term: int) -> None:
        """What was forwarded to the leader of `term` was appended by it, or is lost: the next
        leader's first entry comes after all that it appended and that counts.
        """
        self._lost_term = term
        self.proposals.leader_gone()

    def _give_up_lost(self) -> None:
        """Its clients need not wait for their timeout, though it is theirs to find out what
        happened: a leader that was gone by mistake may hand on what it was sent.
        """
        for done in self.proposals.lost():
            self.proposals.failed_total += 1
            done(errors.LeaderFailed())

    def apply_blocked(self) -> bool:
        return self.installing or self.backend.blocked()

    def admit(self, data: bytes) -> None:
        """ValueError for a forwarded proposal that apply could not execute, or whose entry would
        not fit into a frame between members.
        """
        limit = max(ENTRY_BYTES_MAX, self._request_bytes_max)
        if len(data) > limit:
            raise ValueError(f"a request of {len(data)} bytes, at most {limit} are allowed")
        admit(data)

    def require_readable(self, data: bytes) -> None:
        """ValueError for bytes that are no request of this version of the program."""
        try:
            decode(data)
        except RecursionError:
            raise ValueError("a request nested too deeply") from None

    def admit_conf_change(self, change: ConfChange) -> None:
        """ValueError for a forwarded membership change that is not one of ours: raft's part of it
        must be about the member that the context is about.
        """
        if change.context:
            members = [decode_change(change.context).member.ID]
        else:
            members = []
        if [single.member for single in change.changes] != members:
            raise ValueError("a membership change whose two halves differ")

    def role_changed(self, soft: SoftState, term: int) -> None:
        """Raft sees another leader, or this member has another role."""
        if soft.leader != self._known_leader:
            self._known_leader = soft.leader
            if soft.leader != NONE:
                self.leader_changes += 1
                self.reads.leader_changed()
        log.info(
            "role changed",
            extra={"role": soft.role.name, "term": term, "leader": f"{soft.leader:x}"},
        )
        self.on_role(soft.role == Role.LEADER, term)
        if self.auto_compactor is not None:
            self.auto_compactor.role_changed(soft.role == Role.LEADER)

    def read_ready(self, token: int, index: int) -> None:
        self.reads.ready(token, index)

    def dropped(self, ids: Sequence[int], error: ProposalDropped) -> None:
        """Raft did not take these: nothing changed, and their clients hear it now."""
        for request_id in ids:
            waiting = self.proposals.take(request_id)
            if waiting is not None:
                self.proposals.failed_total += 1
                waiting[1](errors.NoLeader())

    async def open_snapshot(self) -> SnapshotSource:
        """The database as of its last commit, to be streamed to a peer that the log can no longer
        help.
        """
        return await self._loop.run_in_executor(None, self._copy_state, self.backend)

    async def install_snapshot(self, snapshot: Snapshot, path: str) -> None:
        """Replace this member's state by a received database. No entry is applied meanwhile."""
        self.installing = True
        self.compactor.reset()
        await answer_of(lambda done: self.backend.install(path, done))
        store = Store(self.backend, hit=self._hit)
        for _ in store.restore():
            await asyncio.sleep(0)
        replaced, self.store = self.store, store
        self.applier.restore(store)
        self.store_replaced(store)
        index, _ = self.backend.applied()
        assert index == snapshot.index, f"snapshot of index {snapshot.index} holds index {index}"
        self.applied_index = index
        self.resume_compaction()
        self.installing = False
        self.members_changed()
        self.reads.applied(index)
        log.info("installed a snapshot", extra={"index": index, "rev": store.current_rev})
        self._free(replaced.dismantle())

    def _free(self, steps: Iterator[None]) -> None:
        """One step per turn of the loop; nobody waits for it."""
        for _ in steps:
            self._loop.call_soon(self._free, steps)
            return

    def _apply_conf_change(self, entry: Entry) -> None:
        change = decode_conf_change(entry.data)

        def advance(accepted: bool) -> ConfState:
            return (
                self.driver.apply_conf_change(change)
                if accepted
                else self.applier.members.conf_state
            )

        result: object = None
        request_id = 0
        try:
            if change.context:
                request_id = decode_change(change.context).request_id
            result = self.applier.apply_conf_change(change.context, advance)
        except ConfChangeRefused as error:
            result = errors.InvalidArgument(str(error))
        except ValueError as error:
            # The bytes are the same everywhere, so every member passes them over alike.
            log.error("passed over a change", extra={"index": entry.index, "why": error})
        waiting = self.proposals.take(request_id)
        self.members_changed()
        if waiting is not None:
            # The answer waits until raft has seen this entry applied, or the next change could be
            # refused.
            self._loop.call_soon(waiting[1], result)
