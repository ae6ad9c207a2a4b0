"""Authentication on the asked member: letting in, and what happens when users change meanwhile."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import bcrypt
import pytest

from node.api.messages import AuthenticateRequest, AuthUserAddRequest
from node.apply import errors
from node.apply.requests import (
    CLUSTER,
    AuthDisableRequest,
    AuthEnableRequest,
    Identity,
    Permission,
    PermissionType,
    PutRequest,
    RangeRequest,
    RequestOp,
    RoleAddRequest,
    RoleGrantPermissionRequest,
    RoleRevokePermissionRequest,
    TxnRequest,
    UserAddRequest,
    UserDeleteRequest,
    UserGrantRoleRequest,
    UserRevokeRoleRequest,
)
from tests.unit.node.auth_fixture import HASH
from tests.unit.node.lone_member import LoneMember

ROOT_PASSWORD, ALICE_PASSWORD = "r00t-secret", "alice-secret"


@pytest.fixture
async def member() -> AsyncIterator[LoneMember]:
    """Authentication is on; alice may read and write `a`, bob has no password."""
    member = LoneMember()
    await member.start()
    for path, body in (
        ("user/add", {"name": "root", "password": ROOT_PASSWORD}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "alice", "password": ALICE_PASSWORD}),
        ("user/add", {"name": "bob", "options": {"no_password": True}}),
        ("role/add", {"name": "a"}),
        ("role/grant", {"name": "a", "perm": {"permType": "READWRITE", "key": "YQ=="}}),
        ("user/grant", {"user": "alice", "role": "a"}),
        ("enable", {}),
    ):
        assert (await member.ask("/auth/" + path, body))[0] == 200
    yield member
    await member.stop()


async def authenticate(member: LoneMember, name: str, password: str) -> tuple[int, str]:
    """(status, token or the error's text)."""
    status, body = await member.ask("/auth/authenticate", {"name": name, "password": password})
    return status, body.get("token") or body["message"]


FAILED = (400, "etcdserver: authentication failed, invalid user ID or password")


async def test_a_password_is_worth_a_token(member: LoneMember) -> None:
    status, token = await authenticate(member, "alice", ALICE_PASSWORD)
    assert status == 200
    for text in (token, "Bearer " + token):
        assert (await member.ask("/kv/put", {"key": "YQ==", "value": ""}, text))[0] == 200
    assert await member.ask("/auth/user/get", {"name": "alice"}, token) == (
        200,
        {
            "header": {"cluster_id": "17", "member_id": "5", "revision": "3", "raft_term": "2"},
            "roles": ["a"],
        },
    )


@pytest.mark.parametrize(
    ("name", "password", "answer"),
    [
        ("alice", "wrong", FAILED),
        ("alice", "", FAILED),
        ("nobody", "", FAILED),
        ("", "", FAILED),
        ("alice", ALICE_PASSWORD + "x" * 100, FAILED),
        ("n" * 300, "x", FAILED),
        ("bob", "", (500, "auth: authentication failed, password was given for no password user")),
    ],
)
async def test_who_is_not_let_in(
    member: LoneMember, name: str, password: str, answer: tuple[int, str]
) -> None:
    assert await authenticate(member, name, password) == answer


async def test_nobody_authenticates_while_it_is_off(member: LoneMember) -> None:
    await member.change(AuthDisableRequest())
    answer = (400, "etcdserver: authentication is not enabled")
    assert await authenticate(member, "alice", ALICE_PASSWORD) == answer


def changing_meanwhile(member: LoneMember, *changes: Any) -> None:
    """The next passwords are compared while these changes are applied, one by each."""
    matches = member.auth.passwords.matches
    left = list(changes)

    async def slow(password: str, hashed: bytes) -> bool:
        same = await matches(password, hashed)
        if left:
            await member.change(left.pop(0))
        return same

    member.auth.passwords.matches = slow  # type: ignore[method-assign]


async def test_users_that_change_meanwhile_are_looked_at_again(member: LoneMember) -> None:
    changing_meanwhile(member, RoleAddRequest("b"), RoleAddRequest("c"))
    assert (await authenticate(member, "alice", ALICE_PASSWORD))[0] == 200


async def test_a_user_that_is_deleted_meanwhile_is_not_let_in(member: LoneMember) -> None:
    changing_meanwhile(member, UserDeleteRequest("alice"))
    assert await authenticate(member, "alice", ALICE_PASSWORD) == FAILED


async def test_a_change_between_password_and_log_is_seen(member: LoneMember) -> None:
    """The entry that lets in was written before the change, and comes after it."""
    propose = member.driver.propose
    changes = [RoleAddRequest("b")]
    running = []

    def later(data: bytes, request_id: int) -> None:
        if changes and data[0] & 0x7F == 13:
            running.append(asyncio.ensure_future(member.change(changes.pop())))
            asyncio.get_running_loop().call_later(0.02, propose, data, request_id)
        else:
            propose(data, request_id)

    member.driver.propose = later  # type: ignore[method-assign]
    status, token = await authenticate(member, "alice", ALICE_PASSWORD)
    assert status == 200
    assert changes == []
    assert member.auth.identify(token, "").user == "alice"


async def test_a_hash_may_be_brought_along(member: LoneMember) -> None:
    token = await member.let_in("root")
    hashed = b64encode(bcrypt.hashpw(b"brought", bcrypt.gensalt(4))).decode()
    body = {"name": "carol", "hashedPassword": hashed}
    assert (await member.ask("/auth/user/add", body, token))[0] == 200
    assert (await authenticate(member, "carol", "brought"))[0] == 200
    costly = b64encode(b"$2b$31$" + b"a" * 53).decode()
    for text in ("%%%", "YQ==", "é", costly, hashed[:-4]):
        body = {"name": "dave", "hashedPassword": text}
        assert (await member.ask("/auth/user/add", body, token))[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("user/add", {"name": "x", "password": "p" * 73}, "a password has at most 72 bytes"),
        ("user/add", {"name": "x" * 256, "password": "p"}, "a name of more than 255 bytes"),
        ("user/add", {"name": "", "password": "p"}, "user name is empty"),
        ("user/add", {"name": "alice", "password": "p"}, "user name already exists"),
        ("user/changepw", {"name": "x", "password": "p"}, "user name not found"),
        ("user/changepw", {"name": "alice", "password": "é" * 37}, "at most 72 bytes"),
        ("user/get", {"name": "x"}, "user name not found"),
        ("role/get", {"role": "x"}, "role name not found"),
        ("role/grant", {"name": "a"}, "permission not given"),
        ("role/grant", {"name": "a", "perm": {}}, "invalid auth management"),
        ("role/grant", {"name": "a", "perm": {"key": "Yg==", "range_end": "YQ=="}}, "management"),
        ("role/grant", {"name": "a", "perm": {"key": "YQ==", "permType": 7}}, "7"),
        ("role/grant", {"name": "a", "perm": {"key": "YQ==", "permType": "ALL"}}, "ALL"),
    ],
)
async def test_what_is_refused_changes_nothing(
    member: LoneMember, path: str, body: dict[str, Any], text: str
) -> None:
    token = await member.let_in("root")
    before = member.auth.revision
    status, answer = await member.ask("/auth/" + path, body, token)
    assert status == 400
    assert text in answer["message"]
    assert member.auth.revision == before


async def test_half_a_character_is_malformed(member: LoneMember) -> None:
    for body in ({"name": "\ud800"}, {"name": "alice", "password": "\udfff"}):
        status, answer = await member.ask("/auth/authenticate", body)
        assert (status, answer["code"]) == (400, 3)


async def test_status_and_lists(member: LoneMember) -> None:
    _, status = await member.ask("/auth/status")
    assert (status["enabled"], status["authRevision"]) == (True, str(member.auth.revision))
    token = await member.let_in("root")
    assert (await member.ask("/auth/user/list", {}, token))[1]["users"] == ["alice", "bob", "root"]
    assert (await member.ask("/auth/role/list", {}, token))[1]["roles"] == ["a"]
    _, role = await member.ask("/auth/role/get", {"role": "a"}, await member.let_in("alice"))
    assert role["perm"] == [{"permType": "READWRITE", "key": "YQ=="}]
    await member.change(AuthDisableRequest())
    assert "enabled" not in (await member.ask("/auth/status"))[1]


# -- who asks


async def test_a_certificate_stands_for_its_user(member: LoneMember) -> None:
    auth = member.auth
    assert auth.identify("", "bob") == Identity("bob", auth.revision)
    with pytest.raises(errors.PermissionDenied):
        auth.identify("", "mallory")
    with pytest.raises(errors.PermissionDenied):
        auth.identify("", "x" * 1000)
    with pytest.raises(errors.InvalidAuthToken):
        auth.identify("bogus", "bob")
    with pytest.raises(errors.UserEmpty):
        auth.identify("", "")


@pytest.mark.parametrize(
    ("origin", "status"),
    [({}, 200), ({"Origin": "http://console"}, 200), ({"Origin": "http://evil"}, 400)],
)
async def test_a_web_page_has_no_use_of_its_readers_certificate(
    origin: dict[str, str], status: int
) -> None:
    member = LoneMember(cors=("*", "http://console"))
    await member.start()
    member.face.lobby.user_of = lambda transport: "root"
    await member.change(
        UserAddRequest("root"), UserGrantRoleRequest("root", "root"), AuthEnableRequest()
    )
    assert (await member.ask("/kv/put", {"key": "aw=="}, **origin))[0] == status
    assert (await member.ask("/auth/user/list", {}, **origin))[0] == status
    assert len(member.server.store.range(b"k").kvs) == (status == 200)
    await member.stop()


async def test_an_asker_is_who_they_were_after_a_role_change(member: LoneMember) -> None:
    auth = member.auth
    token = await member.let_in("alice")
    asker = auth.identify(token, "")
    assert auth.current(asker) is asker
    assert auth.current(None) is None
    await member.change(RoleAddRequest("b"))
    assert auth.current(asker) == asker._replace(revision=asker.revision + 1)
    assert auth.current(CLUSTER) is CLUSTER
    await member.change(UserDeleteRequest("alice"), UserAddRequest("alice", HASH))
    with pytest.raises(errors.AuthOldRevision):
        auth.current(asker)


@pytest.mark.parametrize("write", [False, True])
async def test_checked_keys(member: LoneMember, write: bool) -> None:
    auth = member.auth
    asker = auth.identify(await member.let_in("alice"), "")
    auth.check_keys(asker, [b"a", b"a"], write=write)
    auth.check_keys(CLUSTER, [b"z"], write=write)
    with pytest.raises(errors.PermissionDenied):
        auth.check_keys(asker, [b"a", b"z"], write=write)
    with pytest.raises(errors.UserEmpty):
        auth.check_keys(None, [], write=write)
    with pytest.raises(errors.AuthOldRevision):
        auth.check_keys(asker._replace(revision=1), [b"a"], write=write)
    await member.change(AuthDisableRequest())
    auth.check_keys(None, [b"z"], write=write)


# -- reads that no log sees


async def answer_of(ask: Callable[..., None], request: Any, asker: Identity | None) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    ask(request, future.set_result, asker)
    return await future


READS = [
    RangeRequest(b"a"),
    RangeRequest(b"a", serializable=True),
    TxnRequest(success=[RequestOp(request_range=RangeRequest(b"a"))]),
    TxnRequest(success=[RequestOp(request_range=RangeRequest(b"a", serializable=True))]),
]


@pytest.mark.parametrize("request_", READS)
async def test_a_read_is_judged_when_it_is_done(member: LoneMember, request_: Any) -> None:
    server = member.server
    ask = server.range if isinstance(request_, RangeRequest) else server.txn
    asker = member.auth.identify(await member.let_in("alice"), "")
    assert (await answer_of(ask, request_, asker)).revision == 1
    assert isinstance(await answer_of(ask, request_, None), errors.UserEmpty)
    await member.change(RoleAddRequest("b"))
    assert (await answer_of(ask, request_, asker)).revision == 1, "the token outlives it"
    await member.change(UserRevokeRoleRequest("alice", "a"))
    assert isinstance(await answer_of(ask, request_, asker), errors.PermissionDenied)
    await member.change(UserDeleteRequest("alice"))
    assert isinstance(await answer_of(ask, request_, asker), errors.AuthOldRevision)


async def test_a_long_read_during_which_rights_change_is_no_answer(member: LoneMember) -> None:
    everything = Permission(PermissionType.READ, b"a", b"\0")
    await member.change(
        RoleGrantPermissionRequest("a", everything),
        *(PutRequest(b"b%05d" % number, b"x" * 100) for number in range(3000)),
    )
    asker = member.auth.identify(await member.let_in("alice"), "")
    request = RangeRequest(b"a", b"\0", serializable=True)
    whole = await answer_of(member.server.range, request, asker)
    assert whole.count == 3000
    reading = asyncio.ensure_future(answer_of(member.server.range, request, asker))
    await asyncio.sleep(0)
    await member.change(RoleRevokePermissionRequest("a", b"a", b"\0"))
    assert isinstance(await reading, errors.AuthOldRevision)


async def test_a_read_begun_before_it_was_switched_on_is_refused(member: LoneMember) -> None:
    await member.change(AuthDisableRequest())
    confirm, tokens = member.driver.read_index, []
    member.driver.read_index = tokens.append  # type: ignore[method-assign]
    reading = asyncio.ensure_future(answer_of(member.server.range, RangeRequest(b"a"), None))
    await asyncio.sleep(0)
    await member.change(AuthEnableRequest())
    confirm(*tokens)
    assert isinstance(await reading, errors.UserEmpty)


# -- changes


async def test_a_put_that_a_role_change_overtakes_is_proposed_again(member: LoneMember) -> None:
    server = member.server
    asker = member.auth.identify(await member.let_in("alice"), "")
    await member.change(RoleAddRequest("b"))
    answer = await server.call(server.propose, PutRequest(b"a", b"1"), asker)
    assert answer.revision == 2
    with pytest.raises(errors.PermissionDenied):
        await server.call(server.propose, PutRequest(b"z", b"1"), asker)
    await member.change(UserDeleteRequest("alice"))
    with pytest.raises(errors.AuthOldRevision):
        await server.call(server.propose, PutRequest(b"a", b"2"), asker)
    assert server.store.current_rev == 2


async def test_roles_change_under_ten_writers(member: LoneMember) -> None:
    """Each token outlives the changes, so nobody hears of them; and no right lasts longer."""
    token, root = await member.let_in("alice"), await member.let_in("root")

    async def write(number: int) -> set[int]:
        body = {"key": "YQ==", "value": ""}
        return {(await member.ask("/kv/put", body, token))[0] for _ in range(4)}

    async def administer() -> set[int]:
        return {
            (await member.ask("/auth/role/add", {"name": f"r{number}"}, root))[0]
            for number in range(8)
        }

    statuses = await asyncio.gather(administer(), administer(), *map(write, range(10)))
    assert set().union(*statuses[2:]) == {200}
    assert set().union(*statuses[:2]) <= {200, 400}, "only that the name exists"
    await member.change(UserGrantRoleRequest("bob", "a"))
    assert member.server.store.current_rev == 41


def test_messages_with_passwords_show_none() -> None:
    for message in (
        AuthenticateRequest("alice", ALICE_PASSWORD),
        AuthUserAddRequest("alice", ALICE_PASSWORD, None, "hash-secret"),
    ):
        assert "secret" not in repr(message)
        assert "alice" in repr(message)
