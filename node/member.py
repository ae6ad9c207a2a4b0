"""Member: one running node, from its data directory to its listeners, and back.

Start order: disk, store, apply, server, raft, peers, clients. Stop order is the reverse, after
leadership was handed over. Every long-lived task belongs to one task group: a part that fails ends
the member, loudly, before it can speak again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from mvcc.errors import BackendFailed
from mvcc.lmdb_backend import CommitStats, LmdbBackend
from mvcc.store import Store
from node import logs
from node.apply import errors
from node.apply.alarm import Alarms
from node.apply.applier import Applier
from node.apply.auth_store import AuthStore
from node.apply.lessor import Lessor
from node.apply.members import Members
from node.apply.requests import CompactionRequest, MemberAttributesRequest
from node.auto_compactor import AutoCompactor, new_policy
from node.bootstrap import Opened, Opener, open_data
from node.config import NO_QUOTA_BYTES, NodeConfig
from node.corruption_check import CorruptMember
from node.joining import describe
from node.metrics import Metrics
from node.proposals import COUNTER_BITS
from node.seams import Seams
from node.server import Server
from node.tls import client_listener, peer_dialer, peer_listener
from raft.core.config import Config
from raft.core.types import NONE
from raft.driver import DriverConfig, RaftDriver
from raft.tcp_transport import FRAME_BYTES_MAX, TcpTransport
from raft.wal import WalError
from raft.wal_thread import WalThread

log = logging.getLogger("esker.member")

_SWEEP_SECONDS = 0.05
_PUBLISH_RETRY_SECONDS = 0.05
_PUBLISH_WAIT_SECONDS = 5.0
_TRANSFER_SECONDS = 2.0
_DEPARTURE_POLL_SECONDS = 0.01
_MAP_SPARE_BYTES = 8 << 30


class Member:
    """One member of a cluster. `run` returns after `stop`, or raises what ended it."""

    def __init__(self, config: NodeConfig, seams: Seams) -> None:
        self.config = config
        self._seams = seams
        self._hit = seams.hit
        self._stop = asyncio.Event()
        self._published = asyncio.Event()
        self._failure: BaseException | None = None
        self._peers: dict[int, list[str]] = {}
        self._newcomers: dict[int, list[str]] = {}
        self.metrics = Metrics()

    def stop(self) -> None:
        """Ask for a graceful end; `run` returns when it is done."""
        self._stop.set()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            # Where in the program a disk fails says nothing; where an assertion does, says all.
            worldly = isinstance(error, OSError | WalError | BackendFailed | CorruptMember)
            log.critical(
                "the member stops",
                exc_info=None if worldly else error,
                extra={"why": logs.reason(error)},
            )
        self._stop.set()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback failed that nobody waits for: a broken invariant ends the member, the rest is
        logged.
        """
        error = context.get("exception")
        if isinstance(error, AssertionError):
            self._fail(error)
        else:
            loop.default_exception_handler(context)

    async def run(self) -> None:
        """Serve until stopped. OSError, BootstrapError and the like before anything is served."""
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        await self._open()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(self.server.compactor.run()),
                    tasks.create_task(self.server.watches.run()),
                    tasks.create_task(self._sweep()),
                    tasks.create_task(self.server.leases.run()),
                    tasks.create_task(self._publish()),
                    tasks.create_task(self._meet_newcomers()),
                    tasks.create_task(self._serve_clients()),
                    tasks.create_task(self.server.corruption_check.run()),
                ]
                if self.server.replica.auto_compactor is not None:
                    running.append(tasks.create_task(self.server.replica.auto_compactor.run()))
                await self._stop.wait()
                if self._failure is None:
                    await self._hand_over()
                    # Not before: during a transfer a leader would drop what withdraws the claims.
                    self.server.claims.stop()
                    await self.face.stop()
                for task in running:
                    task.cancel()
        finally:
            await self._close()
        if self._failure is not None:
            raise self._failure

    # -- start

    async def _open(self) -> None:
        config, seams = self.config, self._seams
        loop = asyncio.get_running_loop()
        # Files that cannot be used are found before anything is begun.
        self._client_tls = client_listener(config)
        self._peer_tls = peer_listener(config), peer_dialer(config)
        joining = await seams.find_place(config, self._peer_tls[1])
        opener = Opener(seams.disk, self._open_backend, seams.wal, seams.faults)
        opened = await open_data(config, opener, joining=joining)
        store = Store(opened.backend, hit=self._hit)
        for _ in store.restore():
            await asyncio.sleep(0)
        backend = opened.backend
        lessor = Lessor(backend)
        applier = Applier(
            store,
            backend,
            lessor,
            Alarms(backend),
            Members(backend),
            auth=AuthStore(backend, lessor),
            hit=self._hit,
        )
        applier.restore(store)
        self.backend = backend
        self.server = Server(
            config,
            member_id=opened.identity.member_id,
            cluster_id=opened.identity.cluster_id,
            backend=backend,
            store=store,
            applier=applier,
            copy_state=seams.copy_state,
            hit=self._hit,
            first_id=seams.jitter(1 << COUNTER_BITS),
        )
        self.metrics.watch_server(self.server)
        self.server.observe_compaction = self.metrics.compaction_pause.observe
        self.server.leases.observe_ttl = self.metrics.lease_ttl.observe
        self._start_auto_compactor(loop)
        self._connect_raft(opened, loop)
        seams.settle()
        self.face = seams.face(self.server, self.metrics)
        self.wal.start()
        await self.driver.start()

    def _open_backend(self, path: str) -> LmdbBackend:
        loop = asyncio.get_running_loop()
        config = self.config
        quota = 0 if config.quota_backend_bytes == NO_QUOTA_BYTES else config.quota_backend_bytes
        backend: LmdbBackend = self._seams.backend(
            path,
            map_size=max(4 * quota, quota + _MAP_SPARE_BYTES),
            post=loop.call_soon_threadsafe,
            clock=loop.time,
            batch_seconds=config.backend_batch_interval / 1e3,
            batch_ops=config.backend_batch_limit,
            on_commit=self._committed,
            on_drained=self._drained,
            on_fatal=self._fail,
            hit=self._hit,
        )
        return backend

    def _wal_failed(self, error: BaseException) -> None:
        """Silence first: what is not on disk must not be promised to anybody."""
        self.driver.fail(error)

    def _drained(self) -> None:
        self.driver.resume()

    def _committed(self, stats: CommitStats) -> None:
        self.metrics.backend_commit.observe(stats.seconds)
        self.driver.checkpoint(stats.durable_index)

    def _start_auto_compactor(self, loop: asyncio.AbstractEventLoop) -> None:
        server, config = self.server, self.config
        policy = new_policy(
            config.auto_compaction_mode,
            config.retention,
            loop.time() * 1e3,
            server.store.current_rev,
        )
        if policy is not None:
            server.replica.auto_compactor = AutoCompactor(
                policy,
                revision=lambda: server.store.current_rev,
                propose=lambda rev: server.call(server.compact, CompactionRequest(rev)),
                now=loop.time,
                sleep=asyncio.sleep,
            )

    def _connect_raft(self, opened: Opened, loop: asyncio.AbstractEventLoop) -> None:
        config, server = self.config, self.server
        identity, (server_tls, client_tls) = opened.identity, self._peer_tls
        opened.wal.hit = self._hit
        self.metrics.wal_written = lambda: opened.wal.written_bytes
        self.wal: WalThread = self._seams.wal_thread(
            opened.wal, loop, failed=self._wal_failed, observe=self.metrics.wal_fsync.observe
        )
        self.transport: TcpTransport = self._seams.transport(
            cluster=identity.cluster_id,
            member=identity.member_id,
            listen_urls=config.listen_peer_urls,
            knows=self._knows,
            removed=server.members.is_removed,
            observe=self.metrics.observe_round_trip,
            told_removed=self._told_removed,
            describe=lambda: describe(server.members),
            server_tls=server_tls,
            client_tls=client_tls,
            frame_bytes_max=max(FRAME_BYTES_MAX, 2 * config.max_request_bytes),
        )
        heartbeat = config.heartbeat_interval
        core = Config(
            id=identity.member_id,
            election_ticks=max(2, config.election_timeout // heartbeat),
            heartbeat_ticks=1,
            jitter=self._seams.jitter,
        )
        self.driver = RaftDriver(
            DriverConfig(
                core=core,
                tick_seconds=heartbeat / 1e3,
                snapshot_count=config.snapshot_count,
                catch_up_entries=config.snapshot_catchup_entries,
                hasten_first_election=config.initial_election_tick_advance,
            ),
            state=opened.wal_state,
            applied=opened.backend.applied()[0],
            conf_state=server.members.conf_state,
            wal=self.wal,
            transport=self.transport,
            snapshots=opened.snapshotter,
            state_machine=server.replica,
            on_fatal=self._fail,
            serve=server.peer_calls.serve,
            hit=self._hit,
        )
        self.driver.observe_marker = self.metrics.marker_fsync.observe
        opened.snapshotter.observe = self.metrics.observe_snapshot
        server.connect(self.driver, self.transport)
        server.replica.members_changed = self._follow_members
        self._joining = dict(identity.peers)
        self._follow_members()

    def _knows(self, member: int) -> bool:
        return member in self._peers

    def _follow_members(self) -> None:
        """Talk to exactly the present members, and to those that they vouch for; a member that
        finds itself removed stops.
        """
        own = self.server.member_id
        members = {member.ID: member.peerURLs for member in self.server.members.list()}
        if own in members:
            self._joining = {}
        self._newcomers = {
            number: urls
            for number, urls in self._newcomers.items()
            if number not in members and not self.server.members.is_removed(number)
        }
        known = self._newcomers | (members or self._joining)
        wanted = {number: urls for number, urls in known.items() if number != own}
        for number in self._peers.keys() - wanted.keys():
            self.transport.remove_peer(number)
        for number, urls in wanted.items():
            if number not in self._peers:
                self.transport.add_peer(number, urls)
            elif self._peers[number] != urls:
                self.transport.update_peer(number, urls)
        self._peers = wanted
        if self.server.members.is_removed(own):
            self._told_removed(own)

    def _told_removed(self, _member: int) -> None:
        own = f"{self.server.member_id:x}"
        log.error("this member was removed from the cluster and stops", extra={"member": own})
        self._stop.set()

    # -- while it runs

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.server.sweep()

    async def _meet_newcomers(self) -> None:
        """While no leader is known, ask the other members who else there is.

        A member that was added while this one was away may lead. Here it is a stranger, and
        refused, until the log says who it is; which only it can bring.
        """
        server = self.server
        while True:
            await asyncio.sleep(2 * self.config.election_timeout / 1e3)
            if server.leader != NONE or not self._peers:
                continue
            urls = [url for urls in self._peers.values() for url in urls]
            listed = await self._seams.members_known_to(urls, self._peer_tls[1], server.cluster_id)
            self._newcomers |= {each.ID: each.peerURLs for each in listed}
            self._follow_members()

    async def _serve_clients(self) -> None:
        """Clients are let in when the cluster knows this member, or when that takes too long: one
        without a quorum still serves what it has.
        """
        if self.config.initial_corrupt_check:
            try:
                await self.server.corruption_check.check_at_start()
            except CorruptMember as error:
                self._fail(error)
                return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PUBLISH_WAIT_SECONDS):
                await self._published.wait()
        config, tls = self.config, self._client_tls
        try:
            await self.face.start(config.listen_client_urls, tls)
            if config.listen_metrics_urls:
                await self.face.start(config.listen_metrics_urls, tls, metrics_only=True)
        except OSError as error:
            self._fail(error)
            return
        log.info(
            "serving",
            extra={
                "member": f"{self.server.member_id:x}",
                "cluster": f"{self.server.cluster_id:x}",
                "clients": ",".join(config.listen_client_urls),
                "peers": ",".join(config.listen_peer_urls),
            },
        )

    async def _publish(self) -> None:
        """Tell the cluster this member's name and client URLs, until it has heard them."""
        server, config = self.server, self.config
        urls = list(config.advertise_client_urls)
        request = MemberAttributesRequest(server.member_id, config.name, urls)
        while True:
            present = server.members.get(server.member_id)
            if present is not None and (present.name, present.clientURLs) == (config.name, urls):
                self._published.set()
                return
            if server.leader != NONE:
                try:
                    await server.call(server.publish, request)
                except errors.ApplyError as error:
                    log.info("could not publish this member yet", extra={"why": repr(error)})
            await asyncio.sleep(_PUBLISH_RETRY_SECONDS)

    # -- stop

    async def _hand_over(self) -> None:
        """A leader passes its office on, so that nobody waits for an election. One that was removed
        leaves it as soon as the others know that it was: asked to campaign sooner, they would need
        its vote, and it may be gone by then.
        """
        server, loop = self.server, asyncio.get_running_loop()
        deadline = loop.time() + _TRANSFER_SECONDS
        while server.is_leader and server.members.is_removed(server.member_id):
            if loop.time() > deadline:
                log.warning("stopping as leader: the others do not answer")
                return
            await asyncio.sleep(_DEPARTURE_POLL_SECONDS)
        if not server.is_leader:
            return
        target = self.driver.successor()
        if target == NONE:
            return
        try:
            async with asyncio.timeout(_TRANSFER_SECONDS):
                await server.maintenance.transfer_leadership(target)
        except (errors.ApplyError, TimeoutError) as error:
            log.warning("stopping as leader", extra={"why": repr(error)})

    async def _close(self) -> None:
        self.server.refuse_all()
        if self._failure is not None:
            await self.face.stop(0.0)
        await self.driver.stop()
        await self.wal.stop()
        try:
            self.backend.close()
        except BackendFailed as error:
            self._fail(error)
        log.info("stopped")
