"""Users, roles and permissions, each change as an entry of the log."""

from __future__ import annotations

import pytest

from mvcc.memory_backend import MemoryBackend
from node.apply import errors
from node.apply.auth_store import EVERYTHING
from node.apply.requests import (
    CLUSTER,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    Permission,
    Request,
    RoleAddRequest,
    RoleDeleteRequest,
    RoleGrantPermissionRequest,
    RoleRevokePermissionRequest,
    UserAddRequest,
    UserChangePasswordRequest,
    UserDeleteRequest,
    UserGrantRoleRequest,
    UserRevokeRoleRequest,
)
from node.apply.responses import AuthResponse, AuthTokenResponse, PutResponse

from .apply_fixture import Machine, refused
from .auth_fixture import HASH, READ, READWRITE, WRITE, as_user, done, switch_on

OTHER_HASH = b"$2a$04$" + b"b" * 53
DIGEST = b"d" * 32


@pytest.fixture
def machine() -> Machine:
    """Authentication is off; alice has the role editor, which may write [a, c)."""
    machine = Machine()
    done(
        machine,
        UserAddRequest("alice", HASH),
        RoleAddRequest("editor"),
        UserGrantRoleRequest("alice", "editor"),
        RoleGrantPermissionRequest("editor", Permission(WRITE, b"a", b"c")),
    )
    return machine


# -- on and off


def test_a_new_cluster_is_open_at_revision_one() -> None:
    machine = Machine()
    assert (machine.auth.enabled, machine.auth.revision) == (False, 1)
    assert machine.backend.range("auth", b"", b"\xff", 0) == []
    assert machine.put(b"a") == PutResponse(2)


def test_it_takes_a_user_root_with_the_role_root(machine: Machine) -> None:
    assert refused(machine.apply(AuthEnableRequest())) is errors.RootUserMissing
    done(machine, UserAddRequest("root", HASH))
    assert refused(machine.apply(AuthEnableRequest())) is errors.RootRoleMissing
    done(machine, UserGrantRoleRequest("root", "root"))
    assert not machine.auth.enabled
    assert machine.apply(AuthEnableRequest()) == AuthResponse(1)
    assert machine.auth.enabled


def test_on_twice_is_once_and_no_change(machine: Machine) -> None:
    switch_on(machine)
    revision = machine.auth.revision
    done(machine, AuthEnableRequest())
    assert (machine.auth.enabled, machine.auth.revision) == (True, revision)


def test_off_counts_as_a_change_but_only_once(machine: Machine) -> None:
    done(machine, AuthDisableRequest())
    switch_on(machine)
    revision = machine.auth.revision
    done(machine, AuthDisableRequest(), AuthDisableRequest())
    assert (machine.auth.enabled, machine.auth.revision) == (False, revision + 1)
    assert machine.put(b"a") == PutResponse(2)
    machine.check()


# -- what is refused


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (UserAddRequest("", HASH), errors.UserEmpty),
        (UserAddRequest("alice", HASH), errors.UserExists),
        (UserAddRequest("n" * 256, HASH), errors.InvalidArgument),
        (UserAddRequest("\N{EURO SIGN}" * 86, HASH), errors.InvalidArgument),
        (UserAddRequest("bob", b"secret"), errors.InvalidArgument),
        (UserDeleteRequest("bob"), errors.UserNotFound),
        (UserDeleteRequest(""), errors.UserNotFound),
        (UserChangePasswordRequest("bob", HASH), errors.UserNotFound),
        (UserChangePasswordRequest("alice", HASH + b"a"), errors.InvalidArgument),
        (UserGrantRoleRequest("bob", "editor"), errors.UserNotFound),
        (UserGrantRoleRequest("bob", "nothing"), errors.UserNotFound),
        (UserGrantRoleRequest("alice", "nothing"), errors.RoleNotFound),
        (UserGrantRoleRequest("alice", ""), errors.RoleNotFound),
        (UserRevokeRoleRequest("bob", "editor"), errors.UserNotFound),
        (UserRevokeRoleRequest("alice", "nothing"), errors.RoleNotGranted),
        (UserRevokeRoleRequest("alice", "root"), errors.RoleNotGranted),
        (RoleAddRequest(""), errors.RoleEmpty),
        (RoleAddRequest("editor"), errors.RoleExists),
        (RoleAddRequest("n" * 256), errors.InvalidArgument),
        (RoleDeleteRequest("nothing"), errors.RoleNotFound),
        (RoleDeleteRequest("root"), errors.RoleNotFound),
        (RoleGrantPermissionRequest("editor"), errors.PermissionMissing),
        (RoleGrantPermissionRequest("nothing"), errors.PermissionMissing),
        (
            RoleGrantPermissionRequest("nothing", Permission(READ, b"", b"z")),
            errors.InvalidAuthManagement,
        ),
        (
            RoleGrantPermissionRequest("editor", Permission(READ, b"b", b"b")),
            errors.InvalidAuthManagement,
        ),
        (
            RoleGrantPermissionRequest("editor", Permission(READ, b"b", b"a")),
            errors.InvalidAuthManagement,
        ),
        (RoleGrantPermissionRequest("editor", Permission(3, b"b")), errors.InvalidArgument),
        (RoleGrantPermissionRequest("editor", Permission(-1, b"b")), errors.InvalidArgument),
        (RoleGrantPermissionRequest("nothing", Permission(READ, b"b")), errors.RoleNotFound),
        (RoleRevokePermissionRequest("nothing", b"a", b"c"), errors.RoleNotFound),
        (RoleRevokePermissionRequest("editor", b"a", b""), errors.PermissionNotGranted),
        (RoleRevokePermissionRequest("editor", b"b", b"c"), errors.PermissionNotGranted),
        (AuthTokenRequest("alice", DIGEST, 5), errors.AuthNotEnabled),
        (AuthTokenRequest("alice", b"short", 5), errors.InvalidArgument),
    ],
)
def test_a_refused_change_is_none(
    machine: Machine, request_: Request, error: type[Exception]
) -> None:
    revision = machine.auth.revision
    assert refused(machine.apply(request_, decoded=False)) is error
    assert machine.auth.revision == revision
    assert machine.auth.users() == ["alice"]
    assert machine.auth.roles_of("alice") == ["editor"]
    assert machine.auth.permissions_of("editor") == [Permission(WRITE, b"a", b"c")]
    machine.check()


@pytest.mark.parametrize(
    "request_",
    [
        UserDeleteRequest("root"),
        RoleDeleteRequest("root"),
        UserRevokeRoleRequest("root", "root"),
    ],
)
@pytest.mark.parametrize("with_role", [False, True])
def test_root_stays_while_it_is_needed(
    machine: Machine, request_: Request, with_role: bool
) -> None:
    if with_role:
        done(machine, RoleAddRequest("root"))
    switch_on(machine)
    root = as_user(machine, "root")
    assert refused(machine.apply(request_, root)) is errors.InvalidAuthManagement
    machine.check()
    done(machine, AuthDisableRequest())
    if with_role or not isinstance(request_, RoleDeleteRequest):
        done(machine, request_)
        assert refused(machine.apply(AuthEnableRequest())) in (
            errors.RootUserMissing,
            errors.RootRoleMissing,
        )
    machine.check()


def test_other_users_can_lose_the_role_root(machine: Machine) -> None:
    switch_on(machine)
    done(machine, UserGrantRoleRequest("alice", "root"))
    assert machine.auth.is_root("alice")
    alice = as_user(machine, "alice")
    assert machine.apply(UserRevokeRoleRequest("alice", "root"), alice) == AuthResponse(1)
    assert not machine.auth.is_root("alice")


# -- what a change does


@pytest.mark.parametrize(
    ("request_", "counts"),
    [
        (UserAddRequest("bob", HASH), 1),
        (UserAddRequest("bob"), 1),
        (UserDeleteRequest("alice"), 1),
        (UserChangePasswordRequest("alice", OTHER_HASH), 1),
        (UserGrantRoleRequest("alice", "root"), 1),
        (UserGrantRoleRequest("alice", "editor"), 0),
        (UserRevokeRoleRequest("alice", "editor"), 1),
        (RoleAddRequest("viewer"), 1),
        (RoleDeleteRequest("editor"), 1),
        (RoleGrantPermissionRequest("editor", Permission(READ, b"a", b"c")), 1),
        (RoleRevokePermissionRequest("editor", b"a", b"c"), 1),
    ],
)
def test_each_change_counts_and_none_moves_the_store(
    machine: Machine, request_: Request, counts: int
) -> None:
    revision = machine.auth.revision
    assert machine.apply(request_, decoded=False) == AuthResponse(1)
    assert machine.auth.revision == revision + counts
    machine.check()


def test_names_and_roles_are_listed_in_order(machine: Machine) -> None:
    done(machine, UserAddRequest("\N{EURO SIGN}" * 85), UserAddRequest("Zoe"), RoleAddRequest("a"))
    done(machine, UserGrantRoleRequest("alice", "root"), UserGrantRoleRequest("alice", "a"))
    assert machine.auth.users() == ["Zoe", "alice", "\N{EURO SIGN}" * 85]
    assert machine.auth.roles() == ["a", "editor"]
    assert machine.auth.roles_of("alice") == ["a", "editor", "root"]
    machine.check()


def test_views_of_what_is_not_there(machine: Machine) -> None:
    auth = machine.auth
    assert auth.has_user("alice")
    assert not auth.has_user("bob")
    with pytest.raises(errors.UserNotFound):
        auth.roles_of("bob")
    with pytest.raises(errors.UserNotFound):
        auth.hashed_password_of("bob")
    with pytest.raises(errors.RoleNotFound):
        auth.permissions_of("root")
    assert not auth.may_read("bob", b"a")
    assert not auth.is_root("bob")


def test_permissions_keep_the_order_of_keys_and_replace_the_same_range(machine: Machine) -> None:
    for type_, key, end in [(READ, b"m", b"z"), (READ, b"b", b"\0"), (READ, b"m", b"n")]:
        done(machine, RoleGrantPermissionRequest("editor", Permission(type_, key, end)))
    done(machine, RoleGrantPermissionRequest("editor", Permission(READWRITE, b"m", b"n")))
    assert machine.auth.permissions_of("editor") == [
        Permission(WRITE, b"a", b"c"),
        Permission(READ, b"b", b"\0"),
        Permission(READ, b"m", b"z"),
        Permission(READWRITE, b"m", b"n"),
    ]
    done(machine, RoleRevokePermissionRequest("editor", b"m", b"z"))
    assert [each.key for each in machine.auth.permissions_of("editor")] == [b"a", b"b", b"m"]
    machine.check()


def test_the_role_root_shows_everything_whatever_it_was_granted(machine: Machine) -> None:
    done(machine, RoleAddRequest("root"))
    done(machine, RoleGrantPermissionRequest("root", Permission(READ, b"a")))
    assert machine.auth.permissions_of("root") == [EVERYTHING]


def test_a_deleted_role_leaves_its_users(machine: Machine) -> None:
    done(machine, UserAddRequest("bob", HASH), UserGrantRoleRequest("bob", "editor"))
    done(machine, RoleDeleteRequest("editor"))
    assert machine.auth.roles_of("alice") == machine.auth.roles_of("bob") == []
    done(machine, RoleAddRequest("editor"))
    assert not machine.auth.may_write("alice", b"a")
    machine.check()


def test_passwords_are_hashes_and_whoever_has_none_gets_none(machine: Machine) -> None:
    done(machine, UserAddRequest("bot"), UserChangePasswordRequest("bot", HASH))
    done(machine, UserChangePasswordRequest("alice", OTHER_HASH))
    assert machine.auth.hashed_password_of("bot") == b""
    assert machine.auth.hashed_password_of("alice") == OTHER_HASH
    assert machine.auth.roles_of("alice") == ["editor"]


# -- tokens and logins


def test_a_token_reaches_the_members_table_with_its_place_in_the_log(machine: Machine) -> None:
    switch_on(machine)
    heard: list[tuple[str, bytes, int]] = []
    machine.auth.on_token = lambda *token: heard.append(token)
    request = AuthTokenRequest("alice", DIGEST, machine.auth.revision)
    assert machine.apply(request, CLUSTER, decoded=False) == AuthTokenResponse(machine.index)
    assert heard == [("alice", DIGEST, machine.index)]


def test_a_token_is_void_when_anything_has_changed_or_nobody_can_have_it(
    machine: Machine,
) -> None:
    done(machine, UserAddRequest("bot"))
    switch_on(machine)
    heard: list[tuple[str, bytes, int]] = []
    machine.auth.on_token = lambda *token: heard.append(token)
    now = machine.auth.revision
    for name, revision, error in [
        ("alice", now - 1, errors.AuthOldRevision),
        ("alice", now + 1, errors.AuthOldRevision),
        ("bob", now, errors.AuthFailed),
        ("bot", now, errors.AuthFailed),
    ]:
        request = AuthTokenRequest(name, DIGEST, revision)
        assert refused(machine.apply(request, CLUSTER)) is error
    for asker in (None, as_user(machine, "alice"), as_user(machine, "root")):
        request = AuthTokenRequest("alice", DIGEST, now)
        assert refused(machine.apply(request, asker)) in (
            errors.UserEmpty,
            errors.PermissionDenied,
        )
    assert heard == []


@pytest.mark.parametrize(
    ("requests", "holds"),
    [
        ([], True),
        ([RoleDeleteRequest("editor"), UserAddRequest("bob")], True),
        ([UserChangePasswordRequest("root", OTHER_HASH)], True),
        ([UserRevokeRoleRequest("alice", "editor")], True),
        ([AuthEnableRequest()], True),
        ([UserChangePasswordRequest("alice", OTHER_HASH)], False),
        ([UserDeleteRequest("alice")], False),
        ([UserDeleteRequest("alice"), UserAddRequest("alice", HASH)], False),
        ([AuthDisableRequest()], False),
        ([AuthDisableRequest(), AuthEnableRequest()], False),
    ],
)
def test_a_login_ends_with_its_user_password_or_authentication(
    machine: Machine, requests: list[Request], holds: bool
) -> None:
    switch_on(machine)
    revision = machine.auth.revision
    done(machine, *requests)
    assert machine.auth.login_holds("alice", revision) == holds
    assert Machine(machine.backend).auth.login_holds("alice", revision) == holds
    if machine.auth.enabled and machine.auth.has_user("alice"):
        assert machine.auth.login_holds("alice", machine.auth.revision)


# -- restarts and snapshots


def test_everything_survives_a_restart(machine: Machine) -> None:
    switch_on(machine)
    again = Machine(machine.backend)
    again.check()
    assert (again.auth.enabled, again.auth.revision) == (True, machine.auth.revision)
    assert again.auth.hashed_password_of("alice") == HASH
    assert again.auth.may_write("alice", b"a", b"c")
    assert again.auth.is_root("root")
    assert refused(again.put(b"a")) is errors.UserEmpty


def test_a_change_of_users_is_lost_and_replayed_with_its_index(machine: Machine) -> None:
    backend = MemoryBackend(hold=True)
    member = Machine(backend)
    done(member, UserAddRequest("alice", HASH))
    backend.force_commit()
    backend.commit()
    done(member, UserAddRequest("bob", HASH))
    member = Machine(backend.crash())
    assert (member.index, member.auth.users(), member.auth.revision) == (1, ["alice"], 2)
    done(member, UserAddRequest("bob", HASH))
    assert (member.auth.users(), member.auth.revision) == (["alice", "bob"], 3)
    member.check()


def copy_rows(source: MemoryBackend, target: MemoryBackend) -> None:
    """The tables of users and roles, as a snapshot brings them."""
    for table in ("auth", "auth_users", "auth_roles"):
        for key, _ in target.range(table, b"", b"\xff", 0):
            target.delete(table, key)
        for key, row in source.range(table, b"", b"\xff", 0):
            target.put(table, key, row)


def test_a_snapshot_replaces_what_was_summed_up_of_permissions(machine: Machine) -> None:
    switch_on(machine)
    behind = Machine()
    copy_rows(machine.backend, behind.backend)
    behind.applier.restore(behind.store)
    assert behind.auth.may_write("alice", b"a")
    done(machine, RoleRevokePermissionRequest("editor", b"a", b"c"))
    done(machine, RoleGrantPermissionRequest("editor", Permission(READ, b"x", b"\0")))
    copy_rows(machine.backend, behind.backend)
    behind.applier.restore(behind.store)
    behind.check()
    assert behind.auth.revision == machine.auth.revision
    assert not behind.auth.may_write("alice", b"a")
    assert behind.auth.may_read("alice", b"y", b"\0")
