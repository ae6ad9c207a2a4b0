"""Every route with every method: one table of answers, whatever serves the route."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from node.api.routes import Routes
from node.metrics import Metrics
from tests.unit.node.fake_server import FakeConfig, FakeServer
from tests.unit.node.test_http import SLOW_WAY, Answer, Client, started
from tests.unit.node.wire import post


def paths(version: str = "/v3/") -> list[str]:
    """Of all calls, in the order of the table."""
    routes = Routes(FakeServer(), lambda work, done: work.close(), Metrics())  # type: ignore[arg-type]
    found = [*routes.unary, *routes.streams, *routes.duplexes]
    return [path.decode() for path in found if path.startswith(version.encode())]


PATHS = paths()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = await started(FakeServer())
    yield client
    await client.face.stop(0.1)


async def ask_all(client: Client, method: str, targets: list[str], *headers: str) -> list[Answer]:
    """On one connection, one after the other."""
    more = "".join(f"{header}\r\n" for header in ("Host: here", *headers))
    raw = "".join(f"{method} {target} HTTP/1.1\r\n{more}\r\n" for target in targets)
    return await client.ask(raw.encode(), answers=len(targets))


def test_the_alias_has_every_call() -> None:
    assert len(PATHS) > 45
    assert [path.replace("/v3beta/", "/v3/") for path in paths("/v3beta/")] == PATHS


@pytest.mark.parametrize("version", ["/v3/", "/v3beta/"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_every_call_is_a_post(client: Client, method: str, version: str) -> None:
    for answer in await ask_all(client, method, paths(version)):
        assert answer.status == 501
        assert answer.json() == {
            "error": "Method Not Allowed",
            "message": "Method Not Allowed",
            "code": 12,
        }
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_no_call_has_a_trailing_slash_or_another_prefix(client: Client, method: str) -> None:
    wrong = [path + "/" for path in PATHS]
    wrong += [path.replace("/v3/", "/v3//") for path in PATHS]
    wrong += [path.upper().replace("/V3/", "/v3/") for path in PATHS]
    for answer in await ask_all(client, method, wrong, "Content-Length: 0"):
        assert (answer.status, answer.json()["code"]) == (404, 5)
    alpha = [path.replace("/v3/", "/v3alpha/") for path in PATHS]
    for answer in await ask_all(client, method, alpha, "Content-Length: 0"):
        assert answer.status == 404


async def test_options_are_answered_everywhere(client: Client) -> None:
    asked = [*PATHS, "/", "/nothing", "/health", "/version", "/metrics", "/v3"]
    for answer in await ask_all(client, "OPTIONS", asked, "Origin: http://browser"):
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Allow-Headers"]


async def test_the_whitelist_of_hosts_is_for_everything() -> None:
    client = await started(FakeServer(FakeConfig(host_whitelist=("good.example",))))
    asked = [*PATHS, "/", "/nothing", "/health", "/version", "/metrics", "/v3"]
    for method in ("POST", "GET", "OPTIONS"):
        for answer in await ask_all(client, method, asked, "Content-Length: 0"):
            assert answer.status == 421
    assert client.server.asked == []
    await client.face.stop(0.1)


@pytest.mark.parametrize("way", [(), (SLOW_WAY,)], ids=["fast", "slow"])
@pytest.mark.parametrize(
    "kind",
    ["application/json", "text/plain", "application/x-www-form-urlencoded", "x", "a/b; c=\xe9", ""],
)
async def test_the_content_type_is_not_looked_at(
    client: Client, kind: str, way: tuple[str, ...]
) -> None:
    asked = post("/v3/kv/range", {"key": "YQ=="}, f"Content-Type: {kind}", *way)
    (answer,) = await client.ask(asked)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(answer.body)["header"]


@pytest.mark.parametrize("way", [(), (SLOW_WAY,)], ids=["fast", "slow"])
async def test_what_follows_the_message_is_not_looked_at(
    client: Client, way: tuple[str, ...]
) -> None:
    (answer,) = await client.ask(post("/v3/kv/range", b'{"key":"YQ=="} junk', *way))
    assert answer.status == 200


async def test_heads_beyond_the_limit_are_refused(client: Client) -> None:
    for header in ("X-Long: " + "a" * 9000, "a" * 9000 + ": x"):
        answer = await client.until_closed(post("/v3/kv/range", {"key": "YQ=="}, header))
        assert answer.split(b" ", 2)[1] == b"400"
    line = f"POST /v3/kv/range?{'a' * 9000} HTTP/1.1\r\nHost: x\r\n\r\n"
    assert (await client.until_closed(line.encode())).split(b" ", 2)[1] == b"400"
    assert client.server.asked == []
