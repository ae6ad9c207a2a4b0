"""Any request to any route: an answer in the contract's words, and a member that goes on.

Bodies are made from the types of the messages, each field right in most cases and junk in some, and
sent to a lone member one after the other: so what one request made of users, leases, claims and
watches the next ones meet.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import logging
import typing
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.api.methods import Duplex, Stream, Unary
from node.apply.requests import (
    AuthEnableRequest,
    DeleteRangeRequest,
    Permission,
    PermissionType,
    PutRequest,
    RangeRequest,
    RoleAddRequest,
    RoleGrantPermissionRequest,
    TxnRequest,
    UserAddRequest,
    UserGrantRoleRequest,
)
from tests.unit.node.auth_fixture import HASH
from tests.unit.node.lone_member import LoneMember

FAST = {
    "KV/Range": RangeRequest,
    "KV/Put": PutRequest,
    "KV/DeleteRange": DeleteRangeRequest,
    "KV/Txn": TxnRequest,
}
"""Read by functions of their own."""
UNKNOWN = 2
"""What locks and elections answer with, whatever it is, and who has no password."""
NEVER = (12, 13)
DEPTH_MAX = 3
WHO = ["", "root", "ann", "bogus"]
USERS = [
    *(UserAddRequest("root", HASH), UserGrantRoleRequest("root", "root")),
    *(UserAddRequest("ann", HASH), RoleAddRequest("own"), UserGrantRoleRequest("ann", "own")),
    RoleGrantPermissionRequest("own", Permission(PermissionType.READWRITE, b"a", b"b")),
    AuthEnableRequest(),
]

KEYS = st.sampled_from([b"", b"\0", b"a", b"b", b"a/7", b"z" * 300])
TEXTS = st.sampled_from(["", "root", "ann", "x" * 256, "\0", "\ud800", "é", "http://a:1", "3.5.0"])
NUMBERS = st.sampled_from([0, 1, 2, 7, -1, 60, 2**31, 2**63 - 1, -(2**63), "1", "7", "-1"])
JUNK = st.sampled_from(
    [None, True, 1.5, 2**64, -(2**70), "x", "*", [], {}, [None], [[]], {"key": {}}, "9" * 400]
)


def values(kind: Any, depth: int = 0) -> st.SearchStrategy[Any]:
    """JSON that a field of this type takes."""
    arms = [arm for arm in typing.get_args(kind) if arm is not type(None)]
    if typing.get_origin(kind) is list:
        return st.lists(fields(arms[0], depth), max_size=3)
    if arms:
        return fields(arms[0], depth)
    if kind is bytes:
        return KEYS.map(lambda key: base64.b64encode(key).decode())
    if kind is bool:
        return st.booleans()
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return st.sampled_from([0, 1, 2, 9, *(each.name for each in kind)])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return messages(kind, depth + 1)
    return NUMBERS if kind is int else TEXTS


def fields(kind: Any, depth: int) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda die: JUNK if die == 0 else values(kind, depth))


def messages(kind: type, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    if depth > DEPTH_MAX:
        return st.just({})
    types = typing.get_type_hints(kind)
    return st.fixed_dictionaries(
        {}, optional={name: fields(types[name], depth) for name in kind.__struct_fields__}
    )


async def routes() -> dict[str, tuple[type, type]]:
    """path > (kind of method, type of its message), one path for each method."""
    found: dict[str, tuple[type, type]] = {}
    face = LoneMember().face.routes
    for path, method in (*face.unary.items(), *face.streams.items(), *face.duplexes.items()):
        if path.startswith(b"/v3/"):
            read = inspect.getclosurevars(method.decode).nonlocals
            found[path.decode()[3:]] = type(method), FAST.get(method.name) or read["message"]
    return found


ROUTES = asyncio.run(routes())
CALLS = st.sampled_from(sorted(ROUTES)).flatmap(
    lambda path: st.tuples(
        st.just(path), messages(ROUTES[path][1]), st.booleans(), st.sampled_from(WHO)
    )
)


async def heard(member: LoneMember, path: str, body: Any, *, simple: bool, token: str) -> None:
    """Ask, and judge the answer. A stream or a lock may give none for as long as one listens."""
    try:
        async with asyncio.timeout(0.05):
            headers = {} if simple else {"Connection": "close"}
            status, answer = await member.ask(path, body, token, **headers)
    except (TimeoutError, asyncio.IncompleteReadError):
        return
    error = answer.get("error")
    if status == 200:
        assert error is None or ROUTES[path][0] is not Unary, answer
        return
    code = error["code"] if isinstance(error, dict) else answer["code"]
    assert code not in NEVER, (path, body, answer)
    assert 400 <= status < 500 or code in (UNKNOWN, 14), (path, body, answer)


def test_every_route_is_asked() -> None:
    kinds = [kind for kind, _ in ROUTES.values()]
    assert (kinds.count(Duplex), kinds.count(Stream)) == (2, 2)
    assert kinds.count(Unary) > 40


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(calls=st.lists(CALLS, min_size=1, max_size=12), auth=st.booleans())
def test_any_requests(calls: list[tuple[str, Any, bool, str]], auth: bool) -> None:
    complaints: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = complaints.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)

    async def run() -> None:
        strange: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: strange.append(what))
        member = LoneMember()
        await member.start()
        tokens = {"": "", "bogus": "bogus.7"}
        if auth:
            await member.change(*USERS)
            tokens |= {user: await member.let_in(user) for user in ("root", "ann")}
        for path, body, simple, who in calls:
            await heard(member, path, body, simple=simple, token=tokens.get(who, ""))
        await asyncio.sleep(0.01)
        await member.stop()
        assert strange == []

    try:
        asyncio.run(run())
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in complaints] == []
