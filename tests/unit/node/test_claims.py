"""Claims on a lone member: whoever leaves, in whatever moment, leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from node.apply.errors import (
    AuthOldRevision,
    ClaimFailed,
    KeyNotProvided,
    PermissionDenied,
    StoppedWaiting,
    UserEmpty,
)
from node.apply.requests import (
    CLUSTER,
    AuthDisableRequest,
    AuthEnableRequest,
    Identity,
    LeaseGrantRequest,
    Permission,
    PermissionType,
    PutRequest,
    Request,
    RoleAddRequest,
    RoleDeleteRequest,
    RoleGrantPermissionRequest,
    UserAddRequest,
    UserChangePasswordRequest,
    UserDeleteRequest,
    UserGrantRoleRequest,
)
from node.claims import Claim
from tests.unit.node.auth_fixture import HASH
from tests.unit.node.lone_member import LoneMember

TURNS = 12
"""More turns of the loop than a claim takes."""


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def one_waits() -> tuple[LoneMember, Claim, asyncio.Task[Claim]]:
    """A member, who holds the lock "m" there with lease 7, and who waits for it with lease 8."""
    member = LoneMember()
    claims = member.server.claims
    await member.change(LeaseGrantRequest(60, 7), LeaseGrantRequest(60, 8))
    first = await claims.lock(b"m", 7, None)
    waiting = asyncio.create_task(claims.lock(b"m", 8, None))
    await turns(TURNS)
    return member, first, waiting


@pytest.mark.parametrize("lease", [7, 0])
@pytest.mark.parametrize("after", range(TURNS))
async def test_a_lock_that_is_given_up_in_any_moment(after: int, lease: int) -> None:
    member = LoneMember()
    await member.change(LeaseGrantRequest(60, 7))
    locking = asyncio.create_task(member.server.claims.lock(b"m", lease, None))
    await turns(after)
    locking.cancel()
    await turns(TURNS)
    assert member.driver.failed == []
    held = member.server.store.range(b"m/", b"m0").kvs
    assert len(held) == (not locking.cancelled())


@pytest.mark.parametrize("after", range(TURNS + 6))
async def test_a_place_in_the_queue_that_is_given_up_in_any_moment(after: int) -> None:
    member = LoneMember()
    claims = member.server.claims
    await member.change(LeaseGrantRequest(60, 7), LeaseGrantRequest(60, 8))
    first = await claims.lock(b"m", 7, None)
    waiting = asyncio.create_task(claims.lock(b"m", 8, None))
    await turns(after)
    waiting.cancel()
    await turns(TURNS)
    assert waiting.cancelled()
    assert member.driver.failed == []
    assert [kv.key for kv in member.server.store.range(b"m/", b"m0").kvs] == [first.key]


async def test_who_waits_goes_on_when_the_first_one_leaves() -> None:
    member, first, waiting = await one_waits()
    claims = member.server.claims
    await claims.unlock(first.key, None)
    second = await asyncio.wait_for(waiting, 1)
    assert (second.key, second.rev) == (b"m/8", first.rev + 1)


async def test_whose_key_was_deleted_waits_no_longer() -> None:
    member, _, waiting = await one_waits()
    claims = member.server.claims
    await claims.unlock(b"m/8", None)
    with pytest.raises(ClaimFailed, match="expired"):
        await asyncio.wait_for(waiting, 1)


async def test_a_claim_without_a_key_is_refused_before_the_log() -> None:
    """A leader passes over what is forwarded to it and cannot be applied: nobody would answer."""
    member = LoneMember()
    await member.change(PutRequest(b"k", b"v"))
    before = member.driver.commit_index
    for asked in (
        member.server.claims.proclaim(b"", 1, 0, b"v", None),
        member.server.claims.resign(b"", 1, None),
        member.server.claims.unlock(b"", None),
    ):
        with pytest.raises(KeyNotProvided):
            await asked
    assert member.driver.commit_index == before


# -- a member that stops


@pytest.mark.parametrize("lease", [8, 0])
@pytest.mark.parametrize("after", range(TURNS + 6))
async def test_who_waits_when_the_member_stops_is_told_and_in_nobodys_way(
    after: int, lease: int
) -> None:
    member = LoneMember()
    claims = member.server.claims
    await member.change(LeaseGrantRequest(60, 7), LeaseGrantRequest(60, 8))
    first = await claims.lock(b"m", 7, None)
    waiting = asyncio.create_task(claims.lock(b"m", lease, None))
    await turns(after)
    claims.stop()
    with pytest.raises(StoppedWaiting):
        await asyncio.wait_for(waiting, 1)
    await turns(TURNS)
    assert member.driver.failed == []
    assert [kv.key for kv in member.server.store.range(b"m/", b"m0").kvs] == [first.key]
    assert member.server.lessor.leases() == [7, 8]


@pytest.mark.parametrize("told_first", [True, False])
async def test_a_client_that_leaves_while_the_member_stops(told_first: bool) -> None:
    member, _, waiting = await one_waits()
    claims = member.server.claims
    for end in (claims.stop, waiting.cancel)[:: 1 if told_first else -1]:
        end()
    await turns(TURNS)
    assert waiting.cancelled()
    assert len(member.server.store.range(b"m/", b"m0").kvs) == 1


@pytest.mark.parametrize("led", [True, False])
async def test_an_observer_hears_that_the_member_stops(led: bool) -> None:
    member = LoneMember()
    claims = member.server.claims
    await member.change(LeaseGrantRequest(60, 7))
    heard = claims.observe(b"m", None)
    if led:
        await claims.campaign(b"m", 7, b"one", None)
        await anext(heard)
    following = asyncio.create_task(anext(heard))
    await turns(TURNS)
    claims.stop()
    with pytest.raises(StoppedWaiting):
        await asyncio.wait_for(following, 1)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/lock/lock", {}),
        ("/election/campaign", {}),
        ("/election/observe", {}),
        ("/lock/lock", {"Origin": "http://elsewhere"}),
    ],
)
async def test_a_face_that_stops_answers_who_waits(path: str, headers: dict[str, str]) -> None:
    member = LoneMember()
    await member.start()
    if path != "/election/observe":
        await member.server.claims.lock(b"m", 0, None)
    asked = asyncio.create_task(member.ask(path, {"name": "bQ=="}, **headers))
    while not member.server.watches.store.status().streams:  # noqa: ASYNC110 (nothing tells it)
        await asyncio.sleep(0)
    member.server.claims.stop()
    await member.face.stop(grace=3600)
    status, told = await asked
    assert status == 500
    assert "etcdserver: server stopped" in str(told)


# -- users and roles that change while somebody waits


RIGHTS = Permission(PermissionType.READWRITE, b"m/", b"m0")
GONE = (
    UserDeleteRequest("alice"),
    UserAddRequest("alice", HASH),
    UserGrantRoleRequest("alice", "m"),
)
"""Another alice, who may do the same."""


async def guarded() -> LoneMember:
    """Authentication is on, and alice may claim `m`."""
    member = LoneMember()
    await member.change(
        *(UserAddRequest(name, HASH) for name in ("root", "alice")),
        RoleAddRequest("m"),
        RoleGrantPermissionRequest("m", RIGHTS),
        UserGrantRoleRequest("root", "root"),
        UserGrantRoleRequest("alice", "m"),
        *(LeaseGrantRequest(60, number) for number in (7, 8)),
        AuthEnableRequest(),
    )
    return member


async def test_who_waits_goes_on_waiting_when_roles_change() -> None:
    member = await guarded()
    claims, alice = member.server.claims, Identity("alice", member.auth.revision)
    first = await claims.lock(b"m", 7, alice)
    waiting = asyncio.create_task(claims.lock(b"m", 8, alice))
    await turns(TURNS)
    await member.change(RoleAddRequest("other"))
    await claims.unlock(first.key, CLUSTER)
    assert (await asyncio.wait_for(waiting, 1)).key == b"m/8"


@pytest.mark.parametrize("lease", [8, 0])
@pytest.mark.parametrize(
    "change", [GONE, (UserChangePasswordRequest("alice", HASH),), (RoleDeleteRequest("m"),)]
)
async def test_who_is_no_longer_let_in_gets_no_lock_and_is_in_nobodys_way(
    change: tuple[Request, ...], lease: int
) -> None:
    member = await guarded()
    claims, alice = member.server.claims, Identity("alice", member.auth.revision)
    first = await claims.lock(b"m", 7, alice)
    waiting = asyncio.create_task(claims.lock(b"m", lease, alice))
    await turns(TURNS)
    await member.change(*change)
    await claims.unlock(first.key, CLUSTER)
    with pytest.raises((AuthOldRevision, PermissionDenied)):
        await asyncio.wait_for(waiting, 1)
    await turns(TURNS)
    assert member.server.store.range(b"m/", b"m0").kvs == []
    await member.stop()


@pytest.mark.parametrize(
    "change", [GONE, (UserChangePasswordRequest("alice", HASH),), (RoleDeleteRequest("m"),)]
)
async def test_an_observer_that_is_no_longer_let_in_hears_no_more(
    change: tuple[Request, ...],
) -> None:
    member = await guarded()
    claims, alice = member.server.claims, Identity("alice", member.auth.revision)
    leader = await claims.campaign(b"m", 7, b"one", alice)
    heard = claims.observe(b"m", alice)
    assert (await anext(heard))[1].value == b"one"
    await member.change(*change)
    following = asyncio.create_task(anext(heard))
    await turns(TURNS)
    await claims.proclaim(leader.key, leader.rev, 7, b"two", CLUSTER)
    with pytest.raises((AuthOldRevision, PermissionDenied)):
        await asyncio.wait_for(following, 1)


async def test_an_observer_from_before_it_was_switched_on_hears_no_more() -> None:
    member = await guarded()
    await member.change(AuthDisableRequest())
    claims = member.server.claims
    leader = await claims.campaign(b"m", 7, b"one", None)
    heard = claims.observe(b"m", None)
    assert (await anext(heard))[1].value == b"one"
    await member.change(AuthEnableRequest())
    following = asyncio.create_task(anext(heard))
    await turns(TURNS)
    await claims.proclaim(leader.key, leader.rev, 7, b"two", CLUSTER)
    with pytest.raises(UserEmpty):
        await asyncio.wait_for(following, 1)
