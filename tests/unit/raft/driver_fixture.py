"""Drivers without sockets: a network in memory, a WAL on disk or by hand, a list as state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from raft.core.conf_change import ConfChange, decode_conf_change
from raft.core.config import Config
from raft.core.errors import ConfChangeRefused, ProposalDropped
from raft.core.message import Message, MessageType
from raft.core.types import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    Snapshot,
    SoftState,
)
from raft.disk import OsDisk
from raft.driver import DriverConfig, RaftDriver
from raft.snapshotter import Snapshotter
from raft.transport import Receiver, SnapshotSource
from raft.wal import Wal, WalJob, WalState
from raft.wal_thread import WalThread

TICK_SECONDS = 0.005


async def eventually(condition: Callable[[], object]) -> None:
    """Let the loop run until it is so; the test's time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class Network:
    """Delivers in the next turn, in order. `cut` holds members that nothing reaches or leaves."""

    def __init__(self) -> None:
        self.receivers: dict[int, Receiver] = {}
        self.cut: set[int] = set()
        self.snapshots = 0

    def between(self, one: int, other: int) -> Receiver | None:
        if one in self.cut or other in self.cut:
            return None
        return self.receivers.get(other)


class MemoryTransport:
    """A Transport whose messages are recorded in `sent` as they leave."""

    def __init__(self, network: Network, member: int) -> None:
        self.network = network
        self.member = member
        self.sent: list[Message] = []
        self.batches = 0
        self.since: dict[int, float] = {}

    async def start(self, receiver: Receiver) -> None:
        self.network.receivers[self.member] = receiver

    async def stop(self) -> None:
        self.network.receivers.pop(self.member, None)

    def send(self, messages: Sequence[Message]) -> None:
        assert messages, "a send of nothing"
        assert all(message.type != MessageType.SNAPSHOT for message in messages)
        self.batches += 1
        self.sent += messages
        loop = asyncio.get_running_loop()
        for message in messages:
            loop.call_soon(self._deliver, message)

    def _deliver(self, message: Message) -> None:
        receiver = self.network.between(self.member, message.to)
        if receiver is not None:
            receiver.receive(message)
        elif self.member in self.network.receivers:
            self.network.receivers[self.member].unreachable(message.to)

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        self.sent.append(message)
        asyncio.get_running_loop().call_soon(self._copy, message, source)

    def _copy(self, message: Message, source: SnapshotSource) -> None:
        receiver = self.network.between(self.member, message.to)
        if receiver is not None:
            sink = receiver.begin_snapshot(message, source.size)
            sink.write(source.read(source.size))
            sink.finish()
            receiver.receive(message)
            self.network.snapshots += 1
        source.close()
        mine = self.network.receivers.get(self.member)
        if mine is not None:
            mine.snapshot_sent(message.to, receiver is not None)

    def active_since(self, member: int) -> float | None:
        return self.since.get(member)


class Copy:
    """A SnapshotSource over the lines of a Machine."""

    def __init__(self, snapshot: Snapshot, lines: list[bytes]) -> None:
        self.snapshot = snapshot
        self._data = b"\n".join(lines)
        self.size = len(self._data)
        self.closed = False

    def read(self, limit: int) -> bytes:
        return self._data[:limit]

    def close(self) -> None:
        self.closed = True


class Machine:
    """A StateMachine that appends lines to a list, durable at `durable` when a test says so."""

    def __init__(self) -> None:
        self.driver: RaftDriver
        self.lines: list[bytes] = []
        self.batches: list[list[int]] = []
        self.index = 0
        self.term = 0
        self.blocked = False
        self.roles: list[tuple[SoftState, int]] = []
        self.leaders_gone: list[int] = []
        self.reads: list[tuple[int, int]] = []
        self.refused: list[int] = []
        self.installed: list[int] = []
        self.install_gate: asyncio.Event | None = None
        self.no_snapshot = False
        self.on_apply: Callable[[Entry], None] = lambda entry: None

    def apply(self, entries: Sequence[Entry]) -> None:
        assert entries[0].index == self.index + 1, (entries[0].index, self.index)
        self.batches.append([entry.index for entry in entries])
        for entry in entries:
            self.index, self.term = entry.index, entry.term
            if entry.type == EntryType.CONF_CHANGE:
                assert len(entries) == 1
                try:
                    self.driver.apply_conf_change(decode_conf_change(entry.data))
                except ConfChangeRefused:
                    self.lines.append(b"refused")
            elif entry.data:
                self.lines.append(entry.data)
            self.on_apply(entry)

    def apply_blocked(self) -> bool:
        return self.blocked

    def admit(self, data: bytes) -> None:
        if data.startswith(b"bad"):
            raise ValueError("a bad line")

    def require_readable(self, data: bytes) -> None:
        if data.startswith(b"unreadable"):
            raise ValueError("an unreadable line")

    def admit_conf_change(self, change: ConfChange) -> None:
        self.admit(change.context)

    def role_changed(self, soft: SoftState, term: int) -> None:
        self.roles.append((soft, term))

    def leader_gone(self, term: int) -> None:
        self.leaders_gone.append(term)

    def read_ready(self, token: int, index: int) -> None:
        self.reads.append((token, index))

    def dropped(self, ids: Sequence[int], error: ProposalDropped) -> None:
        self.refused += ids

    async def open_snapshot(self) -> Copy:
        if self.no_snapshot:
            raise OSError(28, "No space left on device")
        snapshot = Snapshot(self.index, self.term, self.driver.conf_state)
        return Copy(snapshot, self.lines)

    async def install_snapshot(self, snapshot: Snapshot, path: str) -> None:
        if self.install_gate is not None:
            await self.install_gate.wait()
        data = await asyncio.to_thread(Path(path).read_bytes)
        self.lines = data.split(b"\n") if data else []
        self.index, self.term = snapshot.index, snapshot.term
        self.installed.append(snapshot.index)


class RecordingWal:
    """A WalWriter that keeps jobs until the test says that they are written."""

    def __init__(self) -> None:
        self.jobs: list[tuple[WalJob, bool]] = []
        self.waiting: list[Callable[[], None]] = []
        self.released: list[int] = []
        self.at_once = False

    def submit(self, job: WalJob, on_done: Callable[[], None], *, sync: bool) -> None:
        self.jobs.append((job, sync))
        self.waiting.append(on_done)
        if self.at_once:
            asyncio.get_running_loop().call_soon(self.write, 1)

    def release(self, before: int) -> None:
        self.released.append(before)

    def write(self, count: int | None = None) -> None:
        """The oldest `count` jobs (all by default) are durable now."""
        done = self.waiting[:count]
        del self.waiting[:count]
        for on_done in done:
            on_done()


class Node:
    """A driver with its machine; kept on disk under `path`, or nowhere with a RecordingWal."""

    def __init__(
        self,
        network: Network,
        member: int,
        voters: tuple[int, ...],
        *,
        path: Path | None = None,
        machine: Machine | None = None,
        **options: object,
    ) -> None:
        self.network = network
        self.member = member
        self.voters = voters
        self.path = path
        self.core_options = {
            key: options.pop(key)
            for key in ("max_uncommitted_bytes", "max_apply_bytes", "max_message_bytes")
            if key in options
        }
        self.options = {"tick_seconds": TICK_SECONDS, **options}
        self.machine = machine or Machine()
        self.errors: list[BaseException] = []
        self.syncs = 0
        self.wal: WalThread | RecordingWal
        self._open()

    def _open(self) -> None:
        conf_state = ConfState(voters=self.voters)
        state = WalState(b"", HardState(), Snapshot(0, 0, conf_state), [])
        snapshots = None
        if self.path is None:
            self.wal = RecordingWal()
        else:
            disk = OsDisk()
            wal_path = str(self.path / "wal")
            if not Wal.exists(disk, wal_path):
                self.path.mkdir(exist_ok=True)
                Wal.create(disk, wal_path, b"", segment_bytes=1 << 16, reserve_bytes=0).close()
            wal, opened = Wal.open(disk, wal_path, segment_bytes=1 << 16, reserve_bytes=0)
            if opened.snapshot.index:
                conf_state = opened.snapshot.conf_state
            state = opened
            self.wal = WalThread(
                wal,
                asyncio.get_running_loop(),
                failed=self._wal_failed,
            )
            self._count_syncs(wal)
            self.wal.start()
            snapshots = Snapshotter(disk, str(self.path / "snap"))
        self.transport = MemoryTransport(self.network, self.member)
        jitter = random.Random(self.member).randrange
        core = Config(id=self.member, jitter=jitter, **self.core_options)
        self.driver = RaftDriver(
            DriverConfig(core=core, **self.options),
            state=state,
            applied=self.machine.index,
            conf_state=conf_state,
            wal=self.wal,
            transport=self.transport,
            snapshots=snapshots,
            state_machine=self.machine,
            on_fatal=self.errors.append,
        )
        self.machine.driver = self.driver

    def _wal_failed(self, error: Exception) -> None:
        self.driver.fail(error)

    def _count_syncs(self, wal: Wal) -> None:
        append_jobs = wal.append_jobs

        def counted(jobs: Sequence[WalJob], *, sync: bool) -> None:
            append_jobs(jobs, sync=sync)
            self.syncs += sync

        wal.append_jobs = counted

    async def start(self) -> None:
        await self.driver.start()

    async def stop(self) -> None:
        await self.driver.stop()
        if isinstance(self.wal, WalThread):
            await self.wal.stop()

    async def restart(self) -> None:
        """Stop, and start from the disk with the machine as it is."""
        await self.stop()
        self._open()
        await self.start()

    @property
    def leads(self) -> bool:
        return self.driver.is_leader

    async def propose(self, *lines: bytes) -> None:
        """Propose, and wait until they are applied here."""
        for line in lines:
            self.driver.propose(line, len(line))
        await eventually(lambda: lines[-1] in self.machine.lines)


StartNode = Callable[..., "asyncio.Future[Node]"]
"""The fixture `start_node`: (member, voters, **options of Node)."""
