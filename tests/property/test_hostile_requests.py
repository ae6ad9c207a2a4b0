"""Any bytes to any path, over real connections: an answer of etcd's kind, and no trace of what was
refused.

Bodies are drawn from the fields of each path's message, then damaged; they go the fast way, by
aiohttp, in chunks and over WebSockets. A path that is not in the table fails the first test.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.api import messages as m
from node.api.errors import HTTP_STATUS
from node.apply import requests as r
from tests.property.test_json_codec import texts
from tests.unit.node.lone_member import LoneMember

EXAMPLES = settings.default.max_examples // 4  # type: ignore[union-attr]
SECONDS = 5.0
MOMENT = 0.02

MESSAGES: dict[str, dict[str, type]] = {
    "kv": {
        "range": r.RangeRequest,
        "put": r.PutRequest,
        "deleterange": r.DeleteRangeRequest,
        "txn": r.TxnRequest,
        "compaction": r.CompactionRequest,
        "lease/revoke": r.LeaseRevokeRequest,
        "lease/timetolive": m.LeaseTimeToLiveRequest,
        "lease/leases": m.EmptyMessage,
    },
    "lease": {
        "grant": r.LeaseGrantRequest,
        "revoke": r.LeaseRevokeRequest,
        "timetolive": m.LeaseTimeToLiveRequest,
        "leases": m.EmptyMessage,
        "keepalive": m.LeaseKeepAliveRequest,
    },
    "cluster": {
        "member/add": m.MemberAddRequest,
        "member/list": m.MemberListRequest,
        "member/promote": m.MemberPromoteRequest,
        "member/remove": m.MemberRemoveRequest,
        "member/update": r.MemberUpdateRequest,
    },
    "maintenance": {
        "alarm": r.AlarmRequest,
        "status": m.EmptyMessage,
        "defragment": m.EmptyMessage,
        "hash": m.EmptyMessage,
        "hashkv": m.HashKvRequest,
        "downgrade": r.DowngradeRequest,
        "transfer-leadership": m.MoveLeaderRequest,
        "snapshot": m.EmptyMessage,
    },
    "auth": {
        "enable": r.AuthEnableRequest,
        "disable": r.AuthDisableRequest,
        "status": m.EmptyMessage,
        "authenticate": m.AuthenticateRequest,
        "user/add": m.AuthUserAddRequest,
        "user/get": m.UserGetRequest,
        "user/list": m.EmptyMessage,
        "user/delete": r.UserDeleteRequest,
        "user/changepw": m.AuthUserChangePasswordRequest,
        "user/grant": r.UserGrantRoleRequest,
        "user/revoke": r.UserRevokeRoleRequest,
        "role/add": r.RoleAddRequest,
        "role/get": m.RoleGetRequest,
        "role/list": m.EmptyMessage,
        "role/delete": r.RoleDeleteRequest,
        "role/grant": r.RoleGrantPermissionRequest,
        "role/revoke": r.RoleRevokePermissionRequest,
    },
    "lock": {"lock": m.LockRequest, "unlock": m.UnlockRequest},
    "election": {
        "campaign": m.CampaignRequest,
        "proclaim": m.ProclaimRequest,
        "leader": m.LeaderRequest,
        "resign": m.ResignRequest,
        "observe": m.LeaderRequest,
    },
    "watch": {"": m.WatchRequest},
}
WAIT = ("/v3/lock/lock", "/v3/election/campaign", "/v3/election/observe", "/v3/kv/compaction")
"""They may wait for others without a word; the rows of a compaction are gone from a backend in
memory when the next entry ends.
"""
STREAMS = ("/v3/watch", "/v3/lease/keepalive", "/v3/election/observe", "/v3/maintenance/snapshot")

UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

ODD = [
    b"",
    b"{",
    b"[" * 5000,
    b'{"a":' * 5000,
    b'{"x":' + b"[" * 900 + b"]" * 900 + b"}",
    b"\xef\xbb\xbf{}",
    b"\xed\xa0\x80",
    b'{"key":"\\ud800"}',
    b'{"name":"\\ud83d"}',
    b'{"name":"\\u0000","password":"\\u0000"}',
    b"{}{}",
    b"null",
    b"0",
    b'"' + b"x" * 3000,
    b"{} " * 300,
]
NUMBERS = [
    b"1e" + b"9" * 30,
    b'"-1e' + b"9" * 30 + b'"',
    b"9" * 5000,
    b"-0.0",
    b"NaN",
    b"1E-999999",
]


def path_of(service: str, name: str) -> str:
    return f"/v3/{service}/{name}".rstrip("/")


@cache
def bodies(message: type) -> st.SearchStrategy[bytes]:
    whole = texts(message)
    return st.one_of(
        whole,
        st.sampled_from(ODD),
        st.builds(lambda body, at: body[: at % (len(body) + 1)], whole, st.integers(0, 999)),
        st.builds(nested, whole, st.integers(1, 2000)),
        st.builds(
            numbered, st.sampled_from(message.__struct_fields__ or ("x",)), st.sampled_from(NUMBERS)
        ),
        st.builds(twice, whole),
        st.binary(max_size=30),
    )


def nested(body: bytes, depth: int) -> bytes:
    return b'{"unknown":' * depth + body + b"}" * depth


def numbered(field: str, number: bytes) -> bytes:
    return b'{"%b":%b}' % (field.encode(), number)


def twice(body: bytes) -> bytes:
    """Each member a second time: the later one counts, wherever JSON is read."""
    inner = body.strip()[1:-1]
    return b"{%b,%b}" % (inner, inner) if inner else body


class Answer(NamedTuple):
    status: int
    body: Any


class Stage:
    """One member for all examples, in a loop that runs only while one of them does."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.member = self.runner.run(self._start())
        self.faults: list[str] = []
        self.runner.get_loop().set_exception_handler(
            lambda _, context: self.faults.append(repr(context))
        )

    async def _start(self) -> LoneMember:
        member = LoneMember()
        await member.start()
        self._compactor = asyncio.create_task(member.server.compactor.run())
        return member

    def state(self) -> tuple[Any, ...]:
        """What no refused request may change."""
        server = self.member.server
        store = server.store
        rows = [(kv.key, kv.value, kv.mod_revision) for kv in store.range(b"\0", b"\0").kvs]
        leases = [(number, server.lessor.time_to_live(number)) for number in server.lessor.leases()]
        auth = server.auth.store
        return (
            store.current_rev,
            store.compact_rev,
            hash(tuple(rows)),
            repr(leases),
            server.alarms.get(),
            (auth.revision, auth.enabled),
        )

    def ask(self, path: str, raw: bytes) -> Answer | None:
        """None: it waits for others, or is a stream with nothing to say."""
        return self.runner.run(self._ask(path, raw))

    async def _ask(self, path: str, raw: bytes) -> Answer | None:
        reader, writer = await asyncio.open_connection(*self.member.address)
        patience = MOMENT if path in (*WAIT, *STREAMS) else SECONDS
        try:
            writer.write(raw)
            async with asyncio.timeout(patience):
                return await first_answer(reader)
        except TimeoutError:
            assert patience < SECONDS, f"no answer to {path}"
            return None
        finally:
            writer.transport.abort()

    def send(self, raw: bytes) -> bytes:
        """What is answered to these bytes, which need not be a whole request, in a moment."""
        return self.runner.run(self._send(raw))

    async def _send(self, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self.member.address)
        said = b""
        try:
            writer.write(raw)
            async with asyncio.timeout(MOMENT):
                while data := await reader.read(65536):
                    said += data
        except (TimeoutError, ConnectionResetError):
            pass  # It waits for more, or has had enough.
        finally:
            writer.transport.abort()
        return said

    def converse(self, path: str, frames: list[bytes]) -> bytes:
        """What a WebSocket says to these bytes, until it has nothing more to say."""
        return self.runner.run(self._converse(path, frames))

    async def _converse(self, path: str, frames: list[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection(*self.member.address)
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), UPGRADE))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
        assert head.startswith(b"HTTP/1.1 101"), head
        said = b""
        try:
            writer.writelines(frames)
            async with asyncio.timeout(MOMENT):
                while data := await reader.read(65536):
                    said += data
        except (TimeoutError, ConnectionResetError):
            pass  # It listens on, or has left.
        finally:
            writer.transport.abort()
        return said

    def settle(self) -> None:
        """Nothing is left behind by whoever has left, and the member goes on."""

        async def settled() -> tuple[int, Any]:
            await self.member.change(r.AlarmRequest(r.AlarmAction.DEACTIVATE, 0, r.AlarmType.NONE))
            alarms = self.member.server.alarms.get()
            for alarm in alarms:
                done = r.AlarmRequest(r.AlarmAction.DEACTIVATE, alarm.memberID, alarm.alarm)
                await self.member.change(done)
            return await self.member.ask("/kv/range", {"key": "YQ==", "serializable": True})

        assert self.runner.run(settled())[0] == 200
        assert self.member.driver.failed == []
        assert self.faults == []

    def close(self) -> None:
        self._compactor.cancel()
        self.runner.run(self.member.stop())
        self.runner.close()


def request(path: str, body: bytes, way: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n"
    if way == "chunked":
        framed = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + framed + b"0\r\n\r\n"
    more = "Origin: x\r\n" if way == "aiohttp" else ""
    return f"{head}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def first_answer(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"content-length" in fields:
        size = int(fields[b"content-length"])
    else:
        size = int(await reader.readline(), 16)
    return Answer(status, json.loads(await reader.readexactly(size) or b"null"))


def frame(kind: int, body: bytes) -> bytes:
    """A WebSocket frame, masked with zeros."""
    if len(body) < 126:
        length = bytes([0x80 | len(body)])
    else:
        length = bytes([0x80 | 126]) + struct.pack(">H", len(body))
    return bytes([kind]) + length + bytes(4) + body


@contextmanager
def staged() -> Iterator[Stage]:
    stage = Stage()
    watched = [logging.getLogger(name) for name in ("esker.api", "esker.aiohttp", "asyncio")]
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: stage.faults.append(repr(record.exc_info))  # type: ignore[method-assign]
    for logger in watched:
        logger.addHandler(handler)
    try:
        yield stage
    finally:
        stage.close()
        for logger in watched:
            logger.removeHandler(handler)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


def check_refused(path: str, answer: Answer) -> None:
    """An error as etcd words it, and none of ours."""
    body = answer.body
    if "error" in body and isinstance(body["error"], dict):  # the last message of a stream
        body = {**body["error"], "error": body["error"]["message"]}
    assert body["error"] == body["message"], body
    code = body["code"]
    assert answer.status == HTTP_STATUS[code], answer
    if answer.status >= 500:
        opaque = path.startswith(("/v3/lock/", "/v3/election/"))
        assert code == 15 or (code == 2 and opaque), answer


def test_the_table_is_whole(stage: Stage) -> None:
    routes = stage.member.face.routes
    known = {*routes.unary, *routes.streams, *routes.duplexes}
    ours = {path_of(s, name).encode() for s, names in MESSAGES.items() for name in names}
    assert {path for path in known if path.startswith(b"/v3/")} == ours


@pytest.mark.parametrize("service", MESSAGES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_any_body(service: str, stage: Stage, data: st.DataObject) -> None:
    name, message = data.draw(st.sampled_from(sorted(MESSAGES[service].items())), label="call")
    body = data.draw(bodies(message), label="body")
    way = data.draw(st.sampled_from(["fast", "fast", "aiohttp", "chunked"]), label="way")
    path = path_of(service, name)
    before = stage.state()
    answer = stage.ask(path, request(path, body, way))
    if answer is not None and answer.status != 200:
        check_refused(path, answer)
        assert stage.state() == before
    stage.settle()


FRAMES = st.one_of(
    st.builds(
        frame, st.sampled_from([0x81, 0x82, 0x81, 0x01, 0x80, 0x89, 0x8A]), bodies(m.WatchRequest)
    ),
    st.builds(frame, st.integers(0, 255), st.binary(max_size=10)),
    st.binary(max_size=20),
)


@pytest.mark.parametrize("path", STREAMS)
@settings(max_examples=EXAMPLES // 3)
@given(st.lists(FRAMES, min_size=1, max_size=4))
def test_any_frames(path: str, stage: Stage, frames: list[bytes]) -> None:
    before = stage.state()
    said = stage.converse(path, frames)
    assert b"internal error" not in said
    assert stage.state() == before
    stage.settle()


@pytest.fixture(scope="module")
def locked() -> Iterator[Stage]:
    """A member with authentication on."""
    switch_on = (
        r.UserAddRequest("root"),
        r.RoleAddRequest("root"),
        r.UserGrantRoleRequest("root", "root"),
        r.AuthEnableRequest(),
    )
    with staged() as stage:
        stage.runner.run(stage.member.change(*switch_on))
        yield stage


TOKENS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"Bearer ", b"root.7", b"a" * 16 + b".7", b"e30.e30.e30", b"A" * 1000]),
    st.integers(1, 4000).map(lambda digits: b"a" * 16 + b"." + b"9" * digits),
)


@settings(max_examples=EXAMPLES)
@given(TOKENS, st.sampled_from(["fast", "aiohttp"]))
def test_any_token(locked: Stage, token: bytes, way: str) -> None:
    path = "/v3/kv/put"
    shown = b"\r\nAuthorization: %b\r\n\r\n" % re.sub(rb"[\x00-\x1f\x7f]", b"x", token)
    raw = request(path, b'{"key":"YQ=="}', way).replace(b"\r\n\r\n", shown)
    before = locked.state()
    answer = locked.ask(path, raw)
    assert answer is not None and answer.status in (400, 401)
    check_refused(path, answer)
    assert locked.state() == before
    assert locked.faults == []


TARGETS = [b"/v3/kv/put", b"/v3/%ff", b"//", b"*", b"http://[::1/v3", b"/v3/../..", b"/\xff"]
FIELDS = [b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"Cookie"]
FIELDS += [b"Authorization", b"Content-Encoding", b"Connection", b"Grpc-Timeout", b"Origin"]
VALUES = [b"gzip", b"chunked", b"-1", b"1" * 400, b"100-continue", b"websocket", b"[", b"x" * 9000]


HEADS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda *parts: b"POST %b HTTP/1.1\r\nHost: x\r\n%b: %b\r\n\r\n{}" % parts,
        st.sampled_from(TARGETS),
        st.sampled_from(FIELDS),
        st.one_of(st.binary(max_size=20), st.sampled_from(VALUES)),
    ),
)


@settings(max_examples=EXAMPLES)
@given(HEADS)
def test_any_head(stage: Stage, head: bytes) -> None:
    before = stage.state()
    said = stage.send(head)
    for line in re.findall(rb"HTTP/1\.[01] (\d+)", said):
        assert line[:1] in b"1234" or line == b"501", said
    if b" 200 " not in said:
        assert stage.state() == before
    stage.settle()
