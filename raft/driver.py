"""RaftDriver: gives the core its clock, disk, network and state machine, a batch per loop turn.

    receive(), propose(), tick ─► core
    end of the turn:  Ready ─┬─► MemoryStorage; a leader's messages to the transport
                             └─► WAL thread: one write and one sync for all that waits
    WAL done:         messages after append ─► core: durable ─► next Ready
    committed:        state machine, a plain call

Everything but the WAL and file transfers happens on the loop's thread. What a Ready promises and in
which order is in the package's docstring; this file is the caller that owes it. Any error that is
not foreseen here is ours: the driver falls silent at once and tells `on_fatal`, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from raft.batches import ProposalBatch, conf_changes_apart
from raft.checkpoints import Checkpoints
from raft.commit_notices import CommitNotices
from raft.core.conf_change import ConfChange, decode_conf_change, encode_conf_change
from raft.core.config import Config
from raft.core.errors import ConfChangeRefused, ProposalDropped, StepRefused
from raft.core.message import Message, MessageType
from raft.core.raw_node import RawNode, Ready, Status
from raft.core.storage import MemoryStorage
from raft.core.types import (
    NONE,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Role,
    Snapshot,
)
from raft.snapshot_sender import SnapshotSender
from raft.state_machine import Snapshots, StateMachine, WalWriter
from raft.ticker import Ticker
from raft.transport import CallFailed, SnapshotSink, Transport
from raft.wal import WalError, WalJob, WalState
from raft.wal_queue import WalQueue

log = logging.getLogger("esker.raft")

_ANSWERS = (MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE)
REFUSALS_LOGGED_SECONDS = 10.0
TERM_LEAP_MAX = 1 << 32
"""How far ahead of ours a term may be. Terms count elections: no cluster gets there while a member
is away, and a term from the end of the 64 bits would be its last.
"""


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    """Settings around the core; those of the core are `core`, whose `applied` the driver sets
    itself."""

    core: Config
    tick_seconds: float = 0.1
    snapshot_count: int = 10_000
    """Entries between two WAL markers: as many may have to be replayed on start. etcd's default."""
    catch_up_entries: int = 5_000
    """Entries kept in memory behind the marker for slow followers, who need no snapshot then.
    etcd's default."""
    hasten_first_election: bool = True
    """Whoever starts, reaches a quorum and hears no leader waits only for the random part of the
    election timeout."""
    log_bytes_max: int = 256 * 1024 * 1024
    """Of the log in memory: above it, a marker is set earlier and nothing is kept behind it."""


class DriverCounters(msgspec.Struct):
    """Totals since the start, for the metrics."""

    ticks: int = 0
    late_ticks: int = 0
    readies: int = 0
    wal_jobs: int = 0
    proposals: int = 0
    proposals_dropped: int = 0
    messages_refused: int = 0
    proposals_refused: int = 0
    entries_applied: int = 0
    wal_stalls: int = 0
    snapshots_installed: int = 0


class RaftDriver:
    """One member's raft. Not to be used after `on_fatal`.

    `eager` is the server's to set: its clients watch, so a leader elsewhere shall tell of each
    commit at once (see raft.commit_notices).
    `_committed` is what is to be applied next, in order: entries, or a snapshot to install.
    durable index of the state machine <= applied_index <= commit_index.
    """

    def __init__(
        self,
        config: DriverConfig,
        *,
        state: WalState,
        applied: int,
        conf_state: ConfState,
        wal: WalWriter,
        transport: Transport,
        snapshots: Snapshots,
        state_machine: StateMachine,
        on_fatal: Callable[[BaseException], None],
        serve: Callable[[int, int, bytes], Coroutine[Any, Any, bytes]] | None = None,
        hit: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`applied` and `conf_state` are what the state machine holds durably; `state` is what the
        WAL says.

        ValueError when the state machine is behind the WAL's marker, or ahead of its last entry:
        entries are missing.
        """
        storage = _storage_of(state, applied, conf_state)
        self.leader = NONE
        self.role = Role.FOLLOWER
        self.term = state.hard_state.term
        self.applied_index = applied
        self.commit_index = max(state.hard_state.commit, applied)
        self.counters = DriverCounters()
        self.eager = False
        self._config = config
        self._storage = storage
        self._node = RawNode(replace(config.core, applied=applied), storage, log.debug)
        self._wal = WalQueue(wal, self.fail)
        self._transport = transport
        self._snapshots = snapshots
        self._machine = state_machine
        self._on_fatal = on_fatal
        self._serve = serve
        self._hit = hit
        self._notices = CommitNotices(asyncio.get_running_loop(), transport.send)
        self._loop = asyncio.get_running_loop()
        self._hard_state = state.hard_state
        self._checkpoints = Checkpoints(
            storage,
            marker=state.snapshot.index,
            applied=applied,
            conf_state=conf_state,
            snapshot_count=config.snapshot_count,
            catch_up_entries=config.catch_up_entries,
            log_bytes_max=config.log_bytes_max,
            now=self._loop.time,
        )
        self._snapshot_sender = SnapshotSender(
            state_machine,
            transport,
            self._checkpoints,
            wanted=lambda message: self.is_leader and self.term == message.term,
            ended=self._report_snapshot,
        )
        self._ticker = Ticker(config.tick_seconds, self._tick)
        self._proposals = ProposalBatch(config.core.max_message_bytes)
        self._scheduled = False
        self._committed: deque[Sequence[Entry] | Snapshot] = deque()
        self._applying_index = applied
        self._installing = False
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._handed_over_at = self._refusals_log_at = 0.0
        self._running = False
        self._failed = False
        self.observe_marker: Callable[[float], None] = lambda seconds: None

    # -- life

    async def start(self) -> None:
        """Listen, tick, take part. The only voter of its cluster does not wait for an election
        timeout."""
        self._running = True
        self._hastens = self._config.hasten_first_election
        await self._transport.start(self)
        self._ticker.start()
        if (
            self.conf_state.voters == (self._config.core.id,)
            and not self.conf_state.voters_outgoing
        ):
            self._node.campaign()
        self._wake()

    async def stop(self) -> None:
        """Fall silent, and wait until what was handed to the WAL is written. The WAL stays open."""
        self._running = False
        self._ticker.stop()
        self._notices.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transport.stop()
        if not self._failed:
            await self._wal.flush()

    def fail(self, error: BaseException) -> None:
        """Something that must not happen has happened: be silent from now on, and say so once."""
        if self._failed:
            return
        self._failed = True
        self._running = False
        self._wal.abandon()
        self._ticker.stop()
        self._notices.stop()
        # Where in the program a disk fails says nothing.
        worldly = isinstance(error, OSError | WalError)
        log.critical("raft stops: %s", error, exc_info=None if worldly else error)
        self._on_fatal(error)

    # -- what the server asks

    @property
    def is_leader(self) -> bool:
        """Whether this member believes to lead; it may have been deposed without knowing yet."""
        return self.role == Role.LEADER

    @property
    def conf_state(self) -> ConfState:
        """The configuration that was applied last."""
        return self._checkpoints.conf_state

    def status(self) -> Status:
        """The core's own view; not free, so not for every request."""
        return self._node.status()

    def propose(self, data: bytes, request_id: int) -> None:
        """Propose with all that come in this turn. ProposalDropped when no leader is known; later
        refusals go to StateMachine.dropped(). On the way to a leader elsewhere a proposal may be
        lost without a word."""
        if not self._running or self.leader == NONE:
            raise ProposalDropped("no leader is known")
        self._proposals.add(data, request_id)
        self._wake()

    def propose_conf_change(self, change: ConfChange) -> None:
        """Propose a change of the configuration. ProposalDropped, also while another is under way
        here; elsewhere it would be lost without a word."""
        if not self._running or self.leader == NONE:
            raise ProposalDropped("no leader is known")
        if self.is_leader and self._node.conf_change_pending():
            raise ProposalDropped("another change is not applied yet")
        self._node.propose_conf_change(encode_conf_change(change))
        self._wake()

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """From within StateMachine.apply(), for the entry being applied. ConfChangeRefused changes
        nothing."""
        conf_state = self._node.apply_conf_change(change)
        self._checkpoints.reconfigured(self._applying_index, conf_state)
        return conf_state

    def read_index(self, token: int) -> None:
        """Ask for a linearizable index; the answer, if one comes, goes to
        StateMachine.read_ready()."""
        self._node.read_index(token)
        self._wake()

    def transfer_leader(self, target: int) -> None:
        """Hand leadership to a voter; given up after an election timeout."""
        self._node.transfer_leader(target)
        self._wake()

    def successor(self) -> int:
        """The voter whose stream is open for longest, the one to hand leadership to; NONE when none
        is open."""
        since = [
            (started, member)
            for member in self.conf_state.voters
            if member != self._config.core.id
            and (started := self._transport.active_since(member)) is not None
        ]
        return min(since)[1] if since else NONE

    def resume(self) -> None:
        """The state machine takes entries again."""
        self._wake()

    # -- what the transport hands in

    def receive(self, message: Message) -> None:
        """Step the core. What a correct peer would not have sent is refused, counted and logged."""
        if not self._running:
            return
        try:
            if message.term > self.term + TERM_LEAP_MAX:
                raise StepRefused(f"term {message.term}, ours is {self.term}")
            if message.type == MessageType.APPEND:
                _require_readable(self._machine, message.entries)
            elif message.type == MessageType.PROPOSE:
                _admit(self._machine, message.entries)
                self._notices.forwarded_by(message.sender)
            elif message.type == MessageType.READ_INDEX:
                self._notices.forwarded_by(message.sender)
            elif message.type in _ANSWERS:
                self._notices.answered_by(message.sender, eager=message.eager)
            elif message.type == MessageType.SNAPSHOT:
                self._hit("install.after_receive")
            self._node.step(message)
        except StepRefused as refusal:
            self._refused(message, refusal)
        except ProposalDropped:
            self.counters.proposals_dropped += len(message.entries)
        except Exception as error:
            self.fail(error)
        else:
            self._wake()

    def _refused(self, message: Message, refusal: StepRefused) -> None:
        self.counters.messages_refused += 1
        if message.type == MessageType.PROPOSE:
            self.counters.proposals_refused += len(message.entries)
        now = self._loop.time()
        if now >= self._refusals_log_at:
            self._refusals_log_at = now + REFUSALS_LOGGED_SECONDS
            log.warning("refused a message of member %x: %s", message.sender, refusal)

    def unreachable(self, member: int) -> None:
        """Messages to `member` were lost."""
        if self._running:
            self._node.report_unreachable(member)
            self._wake()

    def gone(self, member: int) -> None:
        """The process of `member` seems to have ended."""
        if not self._running:
            return
        if member == self.leader:
            log.info("the leader, member %x, is gone", member)
            self._machine.leader_gone(self.term)
        self._node.leader_gone(member)
        self._wake()

    def begin_snapshot(self, message: Message, size: int) -> SnapshotSink:
        """Where an incoming snapshot goes."""
        snapshot = message.snapshot
        assert snapshot is not None, "a SNAPSHOT message without its snapshot"
        log.info(
            "receiving a snapshot of index %d (%d bytes) from member %x",
            snapshot.index,
            size,
            message.sender,
        )
        self._hit("install.before_receive")
        return self._snapshots.begin(snapshot, size)

    async def serve(self, sender: int, kind: int, body: bytes) -> bytes:
        """Questions of peers are the server's."""
        if self._serve is None or not self._running:
            raise CallFailed("not serving")
        return await self._serve(sender, kind, body)

    # -- the turn

    def _wake(self) -> None:
        """Collect at the end of this turn of the loop, once for all that happens in it."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if not self._running:
            return
        try:
            if self._proposals:
                self._propose()
            self._collect()
        except Exception as error:
            self.fail(error)

    def _propose(self) -> None:
        for proposals, ids in self._proposals.take():
            self.counters.proposals += len(ids)
            try:
                self._node.propose(proposals)
            except ProposalDropped as error:
                self.counters.proposals_dropped += len(ids)
                self._machine.dropped(ids, error)

    def _collect(self) -> None:
        node = self._node
        while node.has_ready():
            self._take(node.ready())
        if self._committed:
            self._apply()
            if node.has_ready():
                # Applying made room for more: after whoever else wants the loop.
                self._wake()

    def _take(self, ready: Ready) -> None:
        """Do what the package's docstring says, in its order."""
        self.counters.readies += 1
        storage = self._storage
        hard_state = ready.hard_state
        if hard_state is not None:
            storage.set_hard_state(hard_state)
            self._hard_state = hard_state
            self.term, self.commit_index = hard_state.term, hard_state.commit
        if ready.snapshot is not None:
            storage.apply_snapshot(ready.snapshot)
        if ready.entries:
            storage.append(ready.entries)
        if ready.messages:
            self._send(ready.messages)
        self._write(ready)
        if ready.soft_state is not None:
            self.leader, self.role = ready.soft_state
            self._machine.role_changed(ready.soft_state, self.term)
        for state in ready.read_states:
            self._machine.read_ready(state.token, state.index)
        if ready.committed:
            self._committed.append(ready.committed)

    def _write(self, ready: Ready) -> None:
        if not (ready.entries or ready.snapshot is not None or ready.must_sync):
            if ready.hard_state is not None:
                self._wal.owe(ready.hard_state)
            if not self._wal.busy:
                self._durable(ready)
                return
        # What has nothing to write still waits for its turn behind what is being written.
        job = WalJob(ready.hard_state, ready.entries, ready.snapshot)
        self._submit(job, lambda: self._written(ready), sync=ready.must_sync)

    def _submit(self, job: WalJob, on_done: Callable[[], None], *, sync: bool) -> None:
        self.counters.wal_jobs += 1
        self._wal.submit(job, on_done, sync=sync)

    def _written(self, ready: Ready) -> None:
        if not self._running:
            return
        self._durable(ready)
        if self._wal.busy:
            # More will be written in a moment: one Ready for this and for what else this turn
            # brings.
            self._wake()
        else:
            self._collect()

    def _durable(self, ready: Ready) -> None:
        """This Ready's writes and all before it are on disk: its promises may be spoken."""
        if ready.messages_after_append:
            self._send(ready.messages_after_append)
        if ready.snapshot is not None:
            # It replaces whatever still waited to be applied before it.
            self._committed.clear()
            self._committed.append(ready.snapshot)
        if ready.mark is not None:
            self._node.appended(ready.mark)

    def _send(self, messages: list[Message]) -> None:
        snapshots = [message for message in messages if message.type == MessageType.SNAPSHOT]
        if snapshots:
            messages = [message for message in messages if message.type != MessageType.SNAPSHOT]
            for message in snapshots:
                self._spawn(self._snapshot_sender.send(message))
        if self.eager:
            for message in messages:
                message.eager = message.type in _ANSWERS
        messages = self._notices.take(messages)
        if messages:
            self._transport.send(messages)

    # -- applying

    def _apply(self) -> None:
        """Hand over what is committed, unless the state machine is busy; oldest first."""
        machine = self._machine
        while self._committed and not self._installing and not machine.apply_blocked():
            batch = self._committed.popleft()
            if isinstance(batch, Snapshot):
                self._installing = True
                self._spawn(self._install(batch))
                return
            for entries in conf_changes_apart(batch):
                self._apply_batch(entries)
            self._node.applied(batch[-1].index)

    def _apply_batch(self, entries: Sequence[Entry]) -> None:
        assert entries[0].index == self.applied_index + 1, (entries[0].index, self.applied_index)
        self._applying_index = entries[-1].index
        self._machine.apply(entries)
        self.applied_index = self._applying_index
        self.counters.entries_applied += len(entries)

    async def _install(self, snapshot: Snapshot) -> None:
        log.info("installing a snapshot of index %d", snapshot.index)
        await self._machine.install_snapshot(snapshot, self._snapshots.path(snapshot))
        await self._loop.run_in_executor(None, self._snapshots.purge, snapshot.index)
        self._installing = False
        self.applied_index = snapshot.index
        self._checkpoints.installed(snapshot)
        self.counters.snapshots_installed += 1
        self._node.applied(snapshot.index)
        self._wal.release(snapshot.index + 1)
        self._wake()

    # -- the log's length

    def checkpoint(self, durable_index: int) -> None:
        """The state machine has everything up to `durable_index` on disk: shorten the logs if it
        is time."""
        if self._installing or not self._running or durable_index > self.applied_index:
            return
        marker = self._checkpoints.mark(durable_index)
        if marker is not None:
            self._write_marker(marker)
        self._checkpoints.truncate()

    def _write_marker(self, marker: Snapshot) -> None:
        """From here a restart begins. It counts once a hard state has committed its index."""
        index = marker.index
        term, vote, commit = self._hard_state
        job = WalJob(HardState(term, vote, max(commit, index)), (), marker)
        begun = self._loop.time()

        def written() -> None:
            self.observe_marker(self._loop.time() - begun)
            self._wal.release(index + 1)

        self._submit(job, written, sync=True)
        log.info("log marked at index %d", index)

    # -- snapshots out

    def snapshot_sent(self, member: int, ok: bool) -> None:
        """A stream that send_snapshot() began has ended."""
        self._checkpoints.ended_sending(member)
        self._report_snapshot(member, ok)

    def _report_snapshot(self, member: int, ok: bool) -> None:
        if self._running:
            self._node.report_snapshot(member, ok)
            self._wake()

    # -- the clock

    def _tick(self, count: int) -> None:
        try:
            if self._hastens:
                self._hasten()
            for _ in range(count):
                self._node.tick()
            self._watch_wal()
        except Exception as error:
            self.fail(error)
        else:
            self.counters.ticks += count
            self.counters.late_ticks += count - 1
            self._wake()

    def _hasten(self) -> None:
        """Once after the start, as soon as an election could be won and if no leader was heard."""
        conf = self.conf_state
        active_since = self._transport.active_since
        reached = sum(
            member == self._config.core.id or active_since(member) is not None
            for member in conf.voters
        )
        if self.leader != NONE or reached > len(conf.voters) // 2:
            self._hastens = False
            self._node.hasten_election()

    def _watch_wal(self) -> None:
        """A leader whose disk stalls for an election timeout acknowledges nothing: another should
        lead."""
        timeout = self._config.core.election_ticks * self._config.tick_seconds
        waiting = self._wal.waiting_seconds()
        now = self._loop.time()
        if waiting < timeout or now < self._handed_over_at:
            return
        self._handed_over_at = now + timeout
        self.counters.wal_stalls += 1
        log.warning("the WAL has not answered for %.1f s", waiting)
        target = self.successor() if self.is_leader else NONE
        if target != NONE:
            log.warning("handing leadership to member %x", target)
            self._node.transfer_leader(target)

    # -- tasks

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)


def _storage_of(state: WalState, applied: int, conf_state: ConfState) -> MemoryStorage:
    """The log as it stands in memory at the start."""
    marker = state.snapshot
    last = state.entries[-1].index if state.entries else marker.index
    if not marker.index <= applied <= last:
        raise ValueError(
            f"the state machine is at index {applied}, but the log has {marker.index} to {last}"
        )
    storage = MemoryStorage()
    # The configuration is the state machine's: later than the marker's where entries were applied
    # behind it.
    storage.apply_snapshot(Snapshot(marker.index, marker.term, conf_state))
    storage.append(state.entries)
    storage.set_hard_state(state.hard_state)
    return storage


def _require_readable(machine: StateMachine, entries: Sequence[Entry]) -> None:
    """StepRefused for a leader's entries that apply could not even decode: a leader of ours has
    none. This member would fail on them at each start; so it lags behind, and says why."""
    for entry in entries:
        try:
            if entry.type == EntryType.CONF_CHANGE:
                decode_conf_change(entry.data)
            elif entry.type != EntryType.NORMAL:
                raise ValueError(f"unknown entry type {entry.type}")
            elif entry.data:
                machine.require_readable(entry.data)
        except (ValueError, ConfChangeRefused) as error:
            raise StepRefused(f"entry {entry.index}: {error}") from error


def _admit(machine: StateMachine, entries: Sequence[Entry]) -> None:
    """StepRefused unless apply can handle every forwarded entry: once in the log, a bad one would
    kill each member at each start."""
    for entry in entries:
        try:
            if entry.type == EntryType.CONF_CHANGE:
                machine.admit_conf_change(decode_conf_change(entry.data))
            elif entry.type != EntryType.NORMAL:
                raise ValueError(f"unknown entry type {entry.type}")
            elif entry.data:
                machine.admit(entry.data)
        except (ValueError, ConfChangeRefused) as error:
            raise StepRefused(f"forwarded proposal: {error}") from error
