"""The network between members: a relay before each peer port, which knows who is calling.

Members are given the relays' URLs as their addresses, so every peer connection goes through here,
and nothing needs privileges. The caller of an accepted connection is found by its socket: the
kernel lists the inode of its end, and one of the members' processes has it open. So each direction
of each pair is a link of its own, whoever dialled.

Bytes on a cut link are held, not lost, as TCP would send them again: once it is healed they arrive,
late, or their connection is reset. A connection made meanwhile is accepted and hears nothing, as
behind a firewall that drops. Loss on a link shows as TCP shows it: pauses of a retransmission's
length, and now and then a reset.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.harness import free_port

CHUNK_BYTES = 16 * 1024
RETRANSMISSION_SECONDS = 0.2
CALL_SECONDS = 10.0
STRANGER = ""
"""Whose process is not among the members: a joining member asking around, or one already gone."""

Pair = tuple[str, str]
Connecting = Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]
Connect = Callable[[], Connecting]


@dataclass
class Link:
    """One direction between two members. `open` is cleared while it is cut."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_seconds: float = 0.0
    loss: float = 0.0
    reset: float = 0.0

    def __post_init__(self) -> None:
        self.open.set()


class Links:
    """All relays, served by a thread of their own; the methods may be called from any other.

    `processes()` gives the members' process ids by name, as of now.
    """

    def __init__(self, processes: Callable[[], Mapping[str, int]], seed: int = 0) -> None:
        self._processes = processes
        self._chance = random.Random(seed)
        self._links: dict[Pair, Link] = {}
        self._writers: dict[asyncio.StreamWriter, Pair] = {}
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.relayed_bytes = 0

    def _call(self, work: Callable[[], Any]) -> Any:
        result: Future[Any] = Future()

        def run() -> None:
            try:
                result.set_result(work())
            except Exception as error:
                result.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return result.result(CALL_SECONDS)

    def add(self, name: str, url: str) -> str:
        """A relay to the member `name`, which listens at `url`; where others reach it."""
        target = urlsplit(url)
        assert target.hostname and target.port, url
        host, port = target.hostname, target.port
        outside = free_port()

        def connect() -> Connecting:
            return asyncio.open_connection(host, port)

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._relay(name, connect, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        async def serve() -> None:
            self._servers.append(await asyncio.start_server(accepted, "127.0.0.1", outside))

        asyncio.run_coroutine_threadsafe(serve(), self._loop).result(CALL_SECONDS)
        return f"http://127.0.0.1:{outside}"

    # -- faults

    def cut(self, pairs: Iterable[Pair]) -> None:
        """Nothing comes through in these directions until `heal`."""
        chosen = list(pairs)
        self._call(lambda: [self._link(pair).open.clear() for pair in chosen])

    def slow(self, pairs: Iterable[Pair], seconds: float) -> None:
        """Each piece takes up to `seconds` longer, half as long at least."""
        chosen = list(pairs)
        self._call(lambda: [setattr(self._link(pair), "delay_seconds", seconds) for pair in chosen])

    def lose(self, pairs: Iterable[Pair], loss: float, reset: float) -> None:
        """Each piece is lost first with the chance `loss`, or its connection with `reset`."""
        chosen = list(pairs)

        def work() -> None:
            for pair in chosen:
                link = self._link(pair)
                link.loss, link.reset = loss, reset

        self._call(work)

    def reset(self) -> int:
        """End every connection at once; how many that were."""
        return int(self._call(lambda: self._abort(lambda _: True)))

    def heal(self, *, late: bool = True) -> None:
        """All links as new. Unless `late`, what was held is lost with its connection."""

        def work() -> None:
            held = {pair for pair, link in self._links.items() if not link.open.is_set()}
            if not late:
                self._abort(lambda pair: pair in held or pair[::-1] in held)
            for link in self._links.values():
                link.delay_seconds = link.loss = link.reset = 0.0
                link.open.set()

        self._call(work)

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            self._abort(lambda _: True)
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(CALL_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()

    # -- the relays

    def _link(self, pair: Pair) -> Link:
        return self._links.setdefault(pair, Link())

    def _abort(self, chosen: Callable[[Pair], bool]) -> int:
        writers = [writer for writer, pair in self._writers.items() if chosen(pair)]
        for writer in writers:
            writer.transport.abort()
        return len(writers)

    async def _relay(
        self,
        name: str,
        connect: Connect,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        caller = self._caller(writer.get_extra_info("peername")[1])
        there: asyncio.StreamWriter | None = None
        self._writers[writer] = (name, caller)
        try:
            await self._link((caller, name)).open.wait()
            back, there = await connect()
            self._writers[there] = (caller, name)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, there))
                pumps.create_task(self._pump(back, writer))
        except* (OSError, EOFError):
            # An end that is gone takes the other with it.
            pass
        finally:
            for each in (writer, there):
                if each is not None:
                    del self._writers[each]
                    each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From one to the other until one ends, which ends both."""
        link = self._link(self._writers[writer])
        while data := await reader.read(CHUNK_BYTES):
            if link.delay_seconds:
                await asyncio.sleep(link.delay_seconds * self._chance.uniform(0.5, 1.0))
            if link.loss and self._chance.random() < link.loss:
                await asyncio.sleep(RETRANSMISSION_SECONDS)
            if link.reset and self._chance.random() < link.reset:
                break
            await link.open.wait()
            writer.write(data)
            self.relayed_bytes += len(data)
            await writer.drain()
        raise EOFError

    def _caller(self, port: int) -> str:
        """Who has the loopback socket with this port open."""
        wanted = f"socket:[{_inode(port)}]"
        for name, pid in self._processes().items():
            # A process, or one of its files, may go while they are listed.
            with suppress(OSError):
                for number in os.listdir(f"/proc/{pid}/fd"):
                    with suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{number}") == wanted:
                            return name
        return STRANGER


def _inode(port: int) -> str:
    """Of the socket on 127.0.0.1 with this local port."""
    local = f"0100007F:{port:04X}"
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = row.split()
        if fields[1] == local:
            return fields[9]
    return ""
