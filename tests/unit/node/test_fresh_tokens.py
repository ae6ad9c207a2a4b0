"""A token that another member has just given out: who has not applied its entry, waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from node.apply.requests import (
    CLUSTER,
    AuthEnableRequest,
    AuthTokenRequest,
    PutRequest,
    UserAddRequest,
    UserGrantRoleRequest,
)
from node.tokens import digest_of, new_letters
from raft.core.types import Entry
from tests.unit.node.auth_fixture import HASH
from tests.unit.node.lone_member import LoneMember

RANGE = {"key": "aw=="}
CALLS = [
    ("/kv/range", RANGE, {}),
    ("/kv/range", {**RANGE, "serializable": True}, {}),
    ("/kv/range", RANGE, {"Origin": "http://elsewhere"}),
    ("/maintenance/alarm", {}, {}),
    ("/watch", {"create_request": RANGE}, {}),
    ("/watch", {"create_request": RANGE}, {"Origin": "http://elsewhere"}),
    ("/lease/keepalive", {"ID": "1"}, {}),
    ("/election/observe", {"name": "aw=="}, {}),
]


class Lagging(LoneMember):
    """Authentication is on, and users are known; what is committed later waits until `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Entry] = []

    async def prepare(self) -> None:
        await self.start()
        await self.change(
            UserAddRequest("root", HASH),
            UserGrantRoleRequest("root", "root"),
            AuthEnableRequest(),
            PutRequest(b"k", b"v"),
            PutRequest(b"k/1", b"v"),
        )
        self.driver._apply = self.waiting.append  # type: ignore[method-assign,assignment]

    def fresh_token(self) -> str:
        letters = new_letters()
        request = AuthTokenRequest("root", digest_of(letters), self.auth.revision)
        self.server.propose(request, lambda result: None, CLUSTER)
        return f"{letters}.{self.driver.commit_index}"

    def go_on(self) -> None:
        waiting, self.waiting[:] = self.waiting[:], []
        del self.driver._apply
        for entry in waiting:
            self.driver._apply(entry)


@pytest.fixture
async def member() -> AsyncIterator[Lagging]:
    member = Lagging()
    await member.prepare()
    yield member
    await member.stop()


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("path", "body", "headers"), CALLS)
async def test_a_fresh_token_is_waited_for(
    member: Lagging, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    asked = asyncio.create_task(member.ask(path, body, member.fresh_token(), **headers))
    await asyncio.sleep(0.02)
    assert not asked.done()
    member.go_on()
    status, answer = await asked
    assert (status, answer.get("error")) == (200, None)
    assert not answer.get("result", {}).get("canceled")


async def test_a_websocket_waits_for_its_token(member: Lagging) -> None:
    token = member.fresh_token()
    host, port = member.address
    asyncio.get_running_loop().call_later(0.02, member.go_on)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{host}:{port}/v3/watch", protocols=("Bearer", token)) as socket,
    ):
        await socket.send_str(json.dumps({"create_request": RANGE}))
        answer = json.loads((await socket.receive(5)).data)
    assert answer["result"]["created"] and "canceled" not in answer["result"]


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://elsewhere"}])
@pytest.mark.parametrize("index", [0, 1, 10**18])
async def test_a_forged_token_is_refused_once_leadership_is_confirmed(
    member: Lagging, index: int, headers: dict[str, str]
) -> None:
    forged = f"{new_letters()}.{member.driver.commit_index + index}"
    status, answer = await member.ask("/kv/range", RANGE, forged, **headers)
    assert (status, answer["code"]) == (401, 16)


async def test_who_leaves_meanwhile_is_not_served(member: Lagging) -> None:
    token = member.fresh_token()
    started = member.face.routes.unary[b"/v3/kv/put"].started
    asked = asyncio.create_task(member.ask("/kv/put", {**RANGE, "value": "bmV3"}, token))
    await asyncio.sleep(0.02)
    asked.cancel()
    await asyncio.sleep(0.02)
    member.go_on()
    await turns()
    assert member.face.routes.unary[b"/v3/kv/put"].started == started + 1
    assert member.server.store.range(b"k").kvs[0].value == b"v"


async def test_without_a_leader_it_is_refused_in_the_end(member: Lagging) -> None:
    member.driver.read_index = lambda token: None  # type: ignore[method-assign]
    asked = asyncio.create_task(member.ask("/kv/range", RANGE, member.fresh_token()))
    await asyncio.sleep(0.02)
    member.server.reads.sweep(member.server._loop.time() + 60, TimeoutError)
    status, answer = await asked
    assert (status, answer["code"]) == (401, 16)
    member.go_on()
