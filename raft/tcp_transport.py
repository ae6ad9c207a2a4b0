"""TcpTransport: peer streams over TCP or TLS, the Transport that members use.

One connection per peer and direction for messages, another one for each snapshot. A connection says
hello before anything else of it is read; with TLS its certificate was checked before that.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any

from raft.core.errors import RaftError
from raft.core.message import Message
from raft.framing import FrameError
from raft.handshake import (
    Identity,
    NotAPeer,
    StreamKind,
    Verdict,
    explain_refusal,
    pack_hello,
)
from raft.peer_stream import (
    HANDSHAKE_SECONDS,
    AcceptedStream,
    Complaints,
    Peer,
    PeerCounters,
    PeerUrl,
    Refused,
    context_for,
    read_answer,
    refuse,
    tune_socket,
    write,
)
from raft.snapshot_stream import (
    READER_BYTES,
    SnapshotRefused,
    receive_snapshot,
    stream_snapshot,
)
from raft.tls_port import Tls, TlsPort, listen_tls
from raft.transport import PeerUnavailable, Receiver, SnapshotSource

log = logging.getLogger("esker.peer")

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""Above the greatest message: an append holds up to 1 MiB of entries, or one entry of any permitted
size."""
BUFFER_BYTES_MAX = 64 * 1024 * 1024
"""Unsent bytes to one peer before its messages are dropped. Appends behind them still count as
signs of life at the peer, so a long queue causes no election; 64 MiB are half a second of a 1
Gbit/s network."""
STRANGERS_MAX = 64
"""Connections that have not said hello; each lives HANDSHAKE_SECONDS at most, and one more costs
the oldest its place. Those in their TLS handshake are not seen here yet, but live no longer."""
SNAPSHOT_BYTES_MAX = 1 << 40


class TcpTransport:
    """See `raft.transport.Transport`. `listen_urls` may use port 0; `addresses` then tells the
    ports.

    `describe()` is what a stranger who asks is told of the cluster (see raft.discovery).
    `observe(member, seconds)` gets round-trip times. Counters of a peer are in `counters[member]`.
    """

    def __init__(
        self,
        *,
        cluster: int,
        member: int,
        listen_urls: Sequence[str],
        knows: Callable[[int], bool],
        removed: Callable[[int], bool] = lambda member: False,
        server_tls: Tls | None = None,
        client_tls: Tls | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
        pool: Executor | None = None,
        observe: Callable[[int, float], None] = lambda member, seconds: None,
        told_removed: Callable[[int], None] = lambda member: None,
        describe: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self.identity = Identity(cluster, member, knows, removed)
        self._describe = describe
        self.frame_bytes_max = frame_bytes_max
        self.counters: dict[int, PeerCounters] = {}
        self.strangers_refused = 0
        self.addresses: list[tuple[str, int]] = []
        self.receiver: Receiver
        self._listen_urls = [PeerUrl.parse(url) for url in listen_urls]
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._buffer_bytes_max = buffer_bytes_max
        self._snapshot_bytes_max = snapshot_bytes_max
        self._pool = pool
        self._observe = observe
        self._told_removed = told_removed
        self._loop: asyncio.AbstractEventLoop
        self._complaints: Complaints
        self._servers: list[asyncio.Server | TlsPort] = []
        self._urls: dict[int, list[str]] = {}
        self._peers: dict[int, Peer] = {}
        self._dialers: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: dict[AcceptedStream, None] = {}
        self._accepted: dict[tuple[int, int], AcceptedStream] = {}
        self._running = False

    # -- Transport

    async def start(self, receiver: Receiver) -> None:
        """Listen and dial. OSError when an address is taken, ValueError for https without
        certificates."""
        self.receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._complaints = Complaints(self._loop.time)
        for url in self._listen_urls:
            try:
                server = await self._listen(url)
            except OSError as error:
                # The loop's own text names the address a second time.
                reason = os.strerror(error.errno) if (error.errno or 0) > 0 else error
                raise OSError(error.errno, f"cannot listen for peers on {url}: {reason}") from error
            self._servers.append(server)
            self.addresses += [sock.getsockname()[:2] for sock in server.sockets]
        self._running = True
        for member, urls in self._urls.items():
            self._dial(member, urls)

    async def _listen(self, url: PeerUrl) -> asyncio.Server | TlsPort:
        def accept() -> AcceptedStream:
            return AcceptedStream(self)

        if not url.tls:
            return await self._loop.create_server(accept, url.host, url.port)
        if self._server_tls is None:
            raise ValueError(f"https://{url} is to be listened on, but there is no certificate")
        return await listen_tls(self._server_tls, accept, url.host, url.port)

    async def stop(self) -> None:
        """Close every connection and wait for the tasks."""
        self._running = False
        for server in self._servers:
            server.close()
        tasks = [*self._dialers.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        for stream in list(self._connections):
            stream.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):
            # An aborted socket is closed in the loop's next turn, one with TLS some turns later.
            await asyncio.sleep(0)
        self._peers.clear()
        self._dialers.clear()

    def send(self, messages: Sequence[Message]) -> None:
        """Put messages on their way; one write per peer. Messages to unknown members vanish."""
        if len(messages) == 1:
            peer = self._peers.get(messages[0].to)
            if peer is not None:
                peer.send(messages)
            return
        batches: dict[int, list[Message]] = {}
        for message in messages:
            batches.setdefault(message.to, []).append(message)
        for member, batch in batches.items():
            peer = self._peers.get(member)
            if peer is not None:
                peer.send(batch)

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        """Stream in the background; the end is told to receiver.snapshot_sent()."""
        self.spawn(self._send_snapshot(message, source))

    async def call(self, member: int, kind: int, body: bytes, seconds: float = 5.0) -> bytes:
        """Ask `member`'s serve(): PeerUnavailable, CallFailed; ValueError for more than 1 MiB."""
        peer = self._peers.get(member)
        if peer is None:
            raise PeerUnavailable(f"member {member:x} is not a peer")
        return await peer.call(kind, body, seconds)

    def add_peer(self, member: int, urls: Sequence[str]) -> None:
        """Dial `member` from now on (from start() on, before it)."""
        for url in urls:
            PeerUrl.parse(url)
        if not urls or member in self._urls or member == self.identity.member:
            raise ValueError(f"member {member:x} without URLs, added twice, or this one")
        self._urls[member] = list(urls)
        if self._running:
            self._dial(member, urls)

    def update_peer(self, member: int, urls: Sequence[str]) -> None:
        """Dial `member` at other URLs."""
        for url in urls:
            PeerUrl.parse(url)
        if not urls or member not in self._urls:
            raise ValueError(f"member {member:x} without URLs, or not a peer")
        if self._urls[member] != list(urls):
            self._urls[member] = list(urls)
            self._hang_up(member)
            if self._running:
                self._dial(member, urls)

    def remove_peer(self, member: int) -> None:
        """Close what is open to and from `member`, and forget it."""
        self._urls.pop(member, None)
        self._hang_up(member)
        for stream in list(self._connections):
            if stream.member == member:
                stream.transport.abort()

    def active_since(self, member: int) -> float | None:
        """Loop time since which our stream to `member` is open."""
        peer = self._peers.get(member)
        return None if peer is None else peer.active_since

    # -- our own connections

    def _dial(self, member: int, urls: Sequence[str]) -> None:
        peer = Peer(
            member,
            urls,
            identity=self.identity,
            receiver=self.receiver,
            tls=self._client_tls,
            frame_bytes_max=self.frame_bytes_max,
            buffer_bytes_max=self._buffer_bytes_max,
            counters=self.counters_of(member),
            observe=self._observe,
            told_removed=self._told_removed,
            gone=self._gone,
        )
        self._peers[member] = peer
        task = self._loop.create_task(peer.run())
        task.add_done_callback(self._ended)
        self._dialers[member] = task

    def _gone(self, member: int) -> None:
        """Whose listener is closed may still speak: while its stream to us is open it is there."""
        if (member, StreamKind.MESSAGES) not in self._accepted:
            self.receiver.gone(member)

    def _hang_up(self, member: int) -> None:
        self._peers.pop(member, None)
        task = self._dialers.pop(member, None)
        if task is not None:
            task.cancel()
            self._tasks.add(task)

    async def _send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        member = message.to
        counters = self.counters_of(member)
        started = self._loop.time()
        ok = False
        try:
            await self._dial_snapshot(message, source)
            ok = True
        except (OSError, EOFError, NotAPeer, Refused, FrameError, SnapshotRefused) as error:
            log.warning(
                "snapshot to member %x failed: %s", member, str(error) or type(error).__name__
            )
        finally:
            await self._loop.run_in_executor(self._pool, source.close)
        if ok:
            counters.snapshots_sent += 1
            log.info(
                "snapshot of index %d (%d bytes) sent to member %x in %.1f s",
                source.snapshot.index,
                source.size,
                member,
                self._loop.time() - started,
            )
        else:
            counters.snapshot_send_failures += 1
        self.receiver.snapshot_sent(member, ok)

    async def _dial_snapshot(self, message: Message, source: SnapshotSource) -> None:
        member = message.to
        peer = self._peers.get(member)
        if peer is None:
            raise Refused(f"member {member:x} is not a peer")
        url = peer.url
        tls = context_for(url, self._client_tls)
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            reader, writer = await asyncio.open_connection(
                url.host, url.port, ssl=tls, server_hostname=url.host if tls else None
            )
        try:
            tune_socket(writer.transport)
            refuse(writer.transport, url, self._client_tls)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                write(writer, pack_hello(self.identity, StreamKind.SNAPSHOT, member))
                answer = await read_answer(reader)
            if answer.verdict != Verdict.ACCEPTED:
                raise Refused(explain_refusal(self.identity, answer, str(url), member))
            await stream_snapshot(reader, writer, message, source, self._pool)
        finally:
            writer.transport.abort()

    # -- connections of others: what AcceptedStream asks

    def admit(self, stream: AcceptedStream) -> bool:
        """Count a new connection in. If too many have not said hello, it costs the oldest of them
        its place: members say it at once, and must get in whoever else stands at the door."""
        self._connections[stream] = None
        strangers = [other for other in self._connections if not other.member]
        for stranger in strangers[:-STRANGERS_MAX]:
            stranger.push_out()
        return self._running

    def verdict(self, stream: AcceptedStream, kind: int, member: int) -> Verdict:
        """The newest message stream of a member replaces the older one, which is dead or soon will
        be."""
        older = self._accepted.get((member, kind))
        if older is not None:
            if kind == StreamKind.SNAPSHOT:
                return Verdict.BUSY
            older.transport.abort()
        self._accepted[member, kind] = stream
        if member in self._peers:
            self._peers[member].hasten()
        return Verdict.ACCEPTED

    def closed(self, stream: AcceptedStream) -> None:
        """Forget a connection."""
        self._connections.pop(stream, None)
        if self._accepted.get((stream.member, stream.kind)) is stream:
            del self._accepted[stream.member, stream.kind]
            peer = self._peers.get(stream.member)
            if peer is not None and peer.refused and self._running:
                self._gone(stream.member)

    def counters_of(self, member: int) -> PeerCounters:
        """The member's totals; they survive a change of its URLs."""
        counters = self.counters.get(member)
        if counters is None:
            counters = self.counters[member] = PeerCounters()
        return counters

    def describe(self) -> bytes:
        """The cluster as its members know it, for somebody who has no id yet."""
        return self._describe()

    def complain(self, text: str) -> None:
        """Count a stranger, and log one line about it."""
        self.strangers_refused += 1
        self._complaints.warn(text)

    def hand_over_snapshot(self, stream: AcceptedStream, rest: bytes) -> None:
        """From here on the connection is read with back-pressure, by a task of its own."""
        reader = asyncio.StreamReader(limit=READER_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        stream.transport.set_protocol(protocol)
        protocol.connection_made(stream.transport)
        if rest:
            reader.feed_data(rest)
        writer = asyncio.StreamWriter(stream.transport, protocol, reader, self._loop)
        self.spawn(self._receive_snapshot(stream, reader, writer))

    async def _receive_snapshot(
        self, stream: AcceptedStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        counters = self.counters_of(stream.member)
        try:
            snapshot = await receive_snapshot(
                reader,
                writer,
                self.receiver,
                sender=stream.member,
                to=self.identity.member,
                size_max=self._snapshot_bytes_max,
                pool=self._pool,
            )
        except (OSError, EOFError, FrameError, RaftError) as error:
            counters.snapshot_receive_failures += 1
            log.warning(
                "snapshot from member %x failed: %s",
                stream.member,
                str(error) or type(error).__name__,
            )
        else:
            counters.snapshots_received += 1
            log.info("snapshot of index %d received", snapshot.index)
        finally:
            self.closed(stream)
            writer.close()

    # -- tasks

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that the transport owns: stop() ends it, its error is the member's
        end."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.receiver.fail(error)
