"""A whole server without raft: what is proposed is committed at the next turn of the loop.

Everything between a client's bytes and the applied entry is the real thing: face, gate, routes,
services, server, apply, and a store over a backend in memory.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from node.api.http import HttpFace
from node.apply.errors import MemberNotFound, NotLeader
from node.apply.requests import CLUSTER, AuthTokenRequest, Identity, Request
from node.config import NodeConfig
from node.metrics import Metrics
from node.server import Server
from node.tokens import digest_of, new_letters
from raft.core.types import Entry, EntryType, Role, SoftState
from tests.unit.node.apply_fixture import Machine

MEMBER = 5
TERM = 2


class LoneDriver:
    """Raft's face to a server, of a cluster that always agrees."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self.term, self.leader, self.is_leader, self.commit_index = TERM, MEMBER, True, 0
        self.counters = SimpleNamespace(late_ticks=0)
        self.failed: list[BaseException] = []

    def propose(self, data: bytes, _request_id: int) -> None:
        self.commit_index += 1
        entry = Entry(index=self.commit_index, term=TERM, type=EntryType.NORMAL, data=data)
        self._loop.call_soon(self._apply, entry)

    def _apply(self, entry: Entry) -> None:
        try:
            self._server.replica.apply([entry])
        except BaseException as error:
            self.failed.append(error)
            raise

    def read_index(self, token: int) -> None:
        self._loop.call_soon(self._server.replica.read_ready, token, self.commit_index)

    def fail(self, error: BaseException) -> None:
        self.failed.append(error)


class LoneMember:
    """`server` behind `face`; `address` once it has started."""

    def __init__(self, **settings: Any) -> None:
        machine = Machine()
        self.server = Server(
            NodeConfig(bcrypt_cost=4, **settings),
            member_id=MEMBER,
            cluster_id=17,
            backend=machine.backend,  # type: ignore[arg-type]
            store=machine.store,
            applier=machine.applier,
            copy_state=lambda backend: None,  # type: ignore[arg-type,return-value]
            hit=lambda name: None,
            first_id=1,
        )
        self.driver = LoneDriver(self.server)
        self.server.connect(self.driver, SimpleNamespace(counters={}))  # type: ignore[arg-type]
        self.server.replica.role_changed(SoftState(leader=MEMBER, role=Role.LEADER), TERM)
        self.server.maintenance = self.server.membership = _Elsewhere()  # type: ignore[assignment]
        self.auth = self.server.auth
        self.face = HttpFace(self.server, Metrics())
        self.address = ("", 0)

    async def start(self) -> None:
        (self.address,) = await self.face.start(["http://127.0.0.1:0"])

    async def stop(self) -> None:
        self.server.refuse_all()
        await self.face.stop(0.0)
        assert self.driver.failed == []

    async def change(self, *requests: Request, asker: Identity = CLUSTER) -> None:
        """Apply requests that are not refused."""
        for request in requests:
            await self.server.call(self.server.propose, request, asker)

    async def let_in(self, user: str) -> str:
        """A token of `user`, without their password."""
        letters = new_letters()
        request = AuthTokenRequest(user, digest_of(letters), self.auth.revision)
        response = await self.server.call(self.server.propose, request)
        return f"{letters}.{response.index}"

    async def ask(self, path: str, body: Any = None, token: str = "", **headers: str) -> Any:
        """(status, JSON) of one call; of a stream its first message."""
        raw = json.dumps(body or {}).encode()
        lines = [f"POST /v3{path} HTTP/1.1", "Host: x", f"Content-Length: {len(raw)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if token:
            lines.append(f"Authorization: {token}")
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
            async with asyncio.timeout(5):
                return await _first(reader)
        finally:
            writer.close()


async def _first(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" in head.lower():
        size = int(await reader.readline(), 16)
    else:
        names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        size = int(names[b"content-length"])
    return status, json.loads(await reader.readexactly(size))


class _Elsewhere:
    """Work on files and members, which a lone member has not: whoever is let in hears so."""

    async def _no_member(self, *_arguments: object, **_options: object) -> None:
        raise MemberNotFound

    async def _not_here(self, *_arguments: object) -> None:
        raise NotLeader

    add = remove = update = promote = _no_member
    defragment = hash = hash_kv = open_copy = transfer_leadership = _not_here
