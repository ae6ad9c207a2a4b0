"""Every route, asked by everybody: who is let in is derived from one table.

A route without a line in the table fails the first test: whoever adds one says here what it needs.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from enum import Enum, auto
from typing import Any, NamedTuple

import pytest

from node.apply.requests import (
    AuthDisableRequest,
    AuthEnableRequest,
    LeaseGrantRequest,
    Permission,
    PermissionType,
    PutRequest,
    RoleAddRequest,
    RoleGrantPermissionRequest,
    UserAddRequest,
    UserGrantRoleRequest,
)
from tests.unit.node.auth_fixture import HASH
from tests.unit.node.lone_member import LoneMember


class Need(Enum):
    """What a request takes."""

    NOTHING = auto()
    TOKEN = auto()
    READ = auto()
    WRITE = auto()
    BOTH = auto()
    ROOT = auto()


N = Need
RIGHTS = {
    "plain": {N.NOTHING, N.TOKEN},
    "reader": {N.NOTHING, N.TOKEN, N.READ},
    "writer": {N.NOTHING, N.TOKEN, N.WRITE},
    "both": {N.NOTHING, N.TOKEN, N.READ, N.WRITE, N.BOTH},
    "root": set(Need),
}
"""Who may what. Keys are those below `k`; `plain` has no role at all."""

EMPTY = "etcdserver: user name is empty"
BAD = "etcdserver: invalid auth token"
DENIED = "etcdserver: permission denied"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


K, OTHER, END, ALL = b64("k"), b64("z"), b64("l"), b64("\0")
LEASE, OWN_LEASE = "7", "8"
PUT = {"key": K, "value": K}


class Row(NamedTuple):
    need: Need
    path: str
    body: dict[str, Any] = {}


def txn(**fields: Any) -> dict[str, Any]:
    return fields


def nested(depth: int, op: dict[str, Any], branch: str = "success") -> dict[str, Any]:
    """A txn with `op` so many levels down, in a branch that is or is not taken."""
    for _ in range(depth):
        op = {"request_txn": {branch: [op]}}
    return {branch: [op]}


def perm(key: str = K) -> dict[str, Any]:
    return {"permType": "READ", "key": key}


RANGE, DELETE = {"request_range": {"key": K}}, {"request_delete_range": {"key": K}}
ELSEWHERE = {"request_put": {"key": OTHER, "value": K}}

TABLE = [
    Row(N.READ, "/kv/range", {"key": K}),
    Row(N.READ, "/kv/range", {"key": K, "serializable": True}),
    Row(N.READ, "/kv/range", {"key": K, "range_end": END, "count_only": True}),
    Row(N.READ, "/kv/range", {"key": K, "range_end": END, "revision": "1"}),
    Row(N.ROOT, "/kv/range", {"key": K, "range_end": ALL}),
    Row(N.ROOT, "/kv/range", {"key": OTHER}),
    Row(N.WRITE, "/kv/put", PUT),
    Row(N.BOTH, "/kv/put", {**PUT, "prev_kv": True}),
    Row(N.WRITE, "/kv/put", {**PUT, "lease": OWN_LEASE}),
    Row(N.ROOT, "/kv/put", {**PUT, "lease": LEASE}),
    Row(N.ROOT, "/kv/put", {"key": OTHER, "value": K}),
    Row(N.WRITE, "/kv/deleterange", {"key": K, "range_end": END}),
    Row(N.BOTH, "/kv/deleterange", {"key": K, "prev_kv": True}),
    Row(N.ROOT, "/kv/deleterange", {"key": ALL, "range_end": ALL}),
    Row(N.TOKEN, "/kv/txn"),
    Row(N.READ, "/kv/txn", {"compare": [{"key": K, "target": "VERSION", "version": "0"}]}),
    Row(N.ROOT, "/kv/txn", {"compare": [{"key": K, "range_end": ALL}]}),
    *(
        Row(need, "/kv/txn", nested(depth, op, branch))
        for depth in (0, 1, 3)
        for branch in ("success", "failure")
        for need, op in (
            (N.READ, RANGE),
            (N.WRITE, {"request_put": PUT}),
            (N.BOTH, {"request_put": {**PUT, "prev_kv": True}}),
            (N.ROOT, {"request_put": {**PUT, "lease": LEASE}}),
            (N.WRITE, DELETE),
            (N.ROOT, ELSEWHERE),
        )
    ),
    Row(N.ROOT, "/kv/compaction", {"revision": "1"}),
    Row(N.TOKEN, "/lease/grant", {"TTL": "60"}),
    Row(N.WRITE, "/lease/revoke", {"ID": OWN_LEASE}),
    Row(N.ROOT, "/lease/revoke", {"ID": LEASE}),
    Row(N.WRITE, "/kv/lease/revoke", {"ID": OWN_LEASE}),
    Row(N.TOKEN, "/lease/timetolive", {"ID": LEASE}),
    Row(N.READ, "/lease/timetolive", {"ID": OWN_LEASE, "keys": True}),
    Row(N.ROOT, "/lease/timetolive", {"ID": LEASE, "keys": True}),
    Row(N.ROOT, "/kv/lease/timetolive", {"ID": LEASE, "keys": True}),
    Row(N.ROOT, "/lease/leases"),
    Row(N.ROOT, "/kv/lease/leases"),
    Row(N.WRITE, "/lease/keepalive", {"ID": OWN_LEASE}),
    Row(N.ROOT, "/lease/keepalive", {"ID": LEASE}),
    Row(N.READ, "/watch", {"create_request": {"key": K}}),
    Row(N.READ, "/watch", {"create_request": {"key": K, "range_end": END}}),
    Row(N.ROOT, "/watch", {"create_request": {"key": K, "range_end": ALL}}),
    Row(N.ROOT, "/watch", {"create_request": {}}),
    Row(N.TOKEN, "/cluster/member/list"),
    Row(N.ROOT, "/cluster/member/add", {"peerURLs": ["http://127.0.0.1:1"]}),
    Row(N.ROOT, "/cluster/member/promote", {"ID": "1"}),
    Row(N.ROOT, "/cluster/member/remove", {"ID": "1"}),
    Row(N.ROOT, "/cluster/member/update", {"ID": "1", "peerURLs": ["http://127.0.0.1:1"]}),
    Row(N.TOKEN, "/maintenance/alarm"),
    Row(N.ROOT, "/maintenance/alarm", {"action": "ACTIVATE", "alarm": "NOSPACE"}),
    Row(N.ROOT, "/maintenance/alarm", {"action": "DEACTIVATE", "alarm": "NOSPACE"}),
    Row(N.TOKEN, "/maintenance/status"),
    Row(N.ROOT, "/maintenance/defragment"),
    Row(N.ROOT, "/maintenance/downgrade", {"action": "VALIDATE", "version": "3.5"}),
    Row(N.ROOT, "/maintenance/hash"),
    Row(N.ROOT, "/maintenance/hashkv"),
    Row(N.ROOT, "/maintenance/snapshot"),
    Row(N.ROOT, "/maintenance/transfer-leadership", {"targetID": "1"}),
    Row(N.ROOT, "/auth/enable"),
    Row(N.ROOT, "/auth/disable"),
    Row(N.NOTHING, "/auth/status"),
    Row(N.NOTHING, "/auth/authenticate", {"name": "plain", "password": "no"}),
    Row(N.ROOT, "/auth/user/add", {"name": "new", "password": "p"}),
    Row(N.TOKEN, "/auth/user/get", {"name": "<oneself>"}),
    Row(N.ROOT, "/auth/user/get", {"name": "other"}),
    Row(N.ROOT, "/auth/user/list"),
    Row(N.ROOT, "/auth/user/delete", {"name": "other"}),
    Row(N.ROOT, "/auth/user/changepw", {"name": "other", "password": "p"}),
    Row(N.ROOT, "/auth/user/changepw", {"name": "<oneself>", "password": "p"}),
    Row(N.ROOT, "/auth/user/grant", {"user": "<oneself>", "role": "root"}),
    Row(N.ROOT, "/auth/user/revoke", {"name": "other", "role": "own"}),
    Row(N.ROOT, "/auth/role/add", {"name": "new"}),
    Row(N.ROOT, "/auth/role/get", {"role": "other"}),
    Row(N.ROOT, "/auth/role/list"),
    Row(N.ROOT, "/auth/role/delete", {"role": "other"}),
    Row(N.ROOT, "/auth/role/grant", {"name": "other", "perm": perm()}),
    Row(N.ROOT, "/auth/role/revoke", {"role": "other", "key": K}),
    Row(N.BOTH, "/lock/lock", {"name": b64("k/l"), "lease": OWN_LEASE}),
    Row(N.ROOT, "/lock/lock", {"name": OTHER, "lease": OWN_LEASE}),
    Row(N.WRITE, "/lock/unlock", {"key": K}),
    Row(N.BOTH, "/election/campaign", {"name": b64("k/e"), "lease": OWN_LEASE}),
    Row(N.BOTH, "/election/resign", {"leader": {"name": K, "key": K, "rev": "1", "lease": "8"}}),
    Row(N.BOTH, "/election/proclaim", {"leader": {"name": K, "key": K, "rev": "1"}, "value": K}),
    Row(N.READ, "/election/leader", {"name": b64("k/led")}),
    Row(N.READ, "/election/observe", {"name": b64("k/led")}),
]

ROLES = {
    "reader": [PermissionType.READ],
    "writer": [PermissionType.WRITE],
    "both": [PermissionType.READ, PermissionType.WRITE],
    "other": [PermissionType.READ],
}


@pytest.fixture
async def member() -> AsyncIterator[LoneMember]:
    """Leases: 7 holds the keys z and ka, 8 only kb."""
    member = LoneMember()
    await member.change(UserAddRequest("root", HASH), UserGrantRoleRequest("root", "root"))
    await member.change(UserAddRequest("plain", HASH))
    for role, types in ROLES.items():
        await member.change(
            UserAddRequest(role, HASH),
            RoleAddRequest(role),
            *(RoleGrantPermissionRequest(role, Permission(each, b"k", b"l")) for each in types),
            UserGrantRoleRequest(role, role),
        )
    # The same range is granted once: reading and writing it are two grants of two ranges.
    await member.change(
        RoleGrantPermissionRequest("both", Permission(PermissionType.READ, b"k", b"kk")),
        RoleGrantPermissionRequest("both", Permission(PermissionType.READ, b"kk", b"l")),
        LeaseGrantRequest(60, 7),
        LeaseGrantRequest(60, 8),
        PutRequest(b"ka", b"", 7),
        PutRequest(b"z", b"", 7),
        PutRequest(b"kb", b"", 8),
        PutRequest(b"k/led/8", b""),
        AuthEnableRequest(),
    )
    await member.start()
    yield member
    await member.stop()


def told(answer: tuple[int, Any]) -> str:
    """Why a request was not let in, as far as that is a question of who asks; else nothing."""
    status, body = answer
    error = body.get("error", body)
    text = error["message"] if isinstance(error, dict) and "message" in error else str(error)
    text = body.get("message", text) + body.get("result", {}).get("cancel_reason", "")
    for reason in (EMPTY, BAD, DENIED):
        if reason in text:
            return reason
    assert "result" in body or "header" in body or status >= 400, answer
    return ""


def asked_by(row: Row, user: str) -> dict[str, Any]:
    return {k: user if v == "<oneself>" else v for k, v in row.body.items()}


def test_every_route_is_in_the_table(member: LoneMember) -> None:
    routes = member.face.routes
    known = {f"/{version}{row.path}".encode() for row in TABLE for version in ("v3", "v3beta")}
    assert known == {*routes.unary, *routes.streams, *routes.duplexes}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.path[1:]}-{row.need.name}")
async def test_who_is_let_in(member: LoneMember, row: Row) -> None:
    outcomes = {}
    expected = {}
    for name, token in (("no token", ""), ("bad token", "root.8"), ("forged", "Bearer a.b.c")):
        outcomes[name] = told(await member.ask(row.path, row.body, token))
        expected[name] = BAD if token else EMPTY
    if row.need is Need.NOTHING:
        expected["no token"] = ""
    for user, rights in RIGHTS.items():
        token = await member.let_in(user)
        outcomes[user] = told(await member.ask(row.path, asked_by(row, user), token))
        expected[user] = "" if row.need in rights else DENIED
    assert outcomes == expected


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.path[1:]}-{row.need.name}")
async def test_who_is_not_let_in_changes_nothing(member: LoneMember, row: Row) -> None:
    def state() -> object:
        server, store = member.server, member.auth.store
        return (
            server.store.current_rev,
            server.store.compact_rev,
            server.alarms.get(),
            sorted(server.lessor.leases()),
            (store.enabled, store.revision),
        )

    before = state()
    for user, rights in RIGHTS.items():
        if row.need in rights:
            continue
        assert told(await member.ask(row.path, asked_by(row, user), await member.let_in(user)))
        assert told(await member.ask(row.path, row.body)) or row.need is Need.NOTHING
        assert state() == before
    assert state() == before


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.path[1:]}-{row.need.name}")
async def test_while_off_nobody_is_asked(member: LoneMember, row: Row) -> None:
    for token in ("", "root.8"):
        await member.change(AuthDisableRequest())
        assert told(await member.ask(row.path, row.body, token)) == ""
