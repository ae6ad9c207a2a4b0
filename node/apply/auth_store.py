"""Users, roles and permissions: the replicated half of authentication.

    auth        state    AuthState: enabled, revision
    auth_users  alice    User: password's hash, roles ascending
    auth_roles  editor   Role: permissions ascending by key

Whoever asks was let in at an auth revision; here, at the entry's place in the log, it is decided
whether that still holds and what they may do. What the asked member checked before is a courtesy.
Passwords are seen by that member alone: only their hashes get here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from mvcc.backend import Backend

from .errors import (
    AuthFailed,
    AuthNotEnabled,
    AuthOldRevision,
    InvalidAuthManagement,
    PermissionDenied,
    PermissionMissing,
    PermissionNotGranted,
    RoleEmpty,
    RoleExists,
    RoleNotFound,
    RoleNotGranted,
    RootRoleMissing,
    RootUserMissing,
    UserEmpty,
    UserExists,
    UserNotFound,
)
from .key_ranges import end_of
from .lessor import Lessor
from .permissions import NO_RIGHTS, Rights, permits
from .requests import (
    Asker,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    Permission,
    PermissionType,
    RangeRequest,
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
from .schema import AUTH, AUTH_ROLES, AUTH_STATE, AUTH_USERS, END, FIRST

ROOT = "root"
"""The user that must exist while authentication is on, and the role that may do everything."""
EVERYTHING = Permission(PermissionType.READWRITE, b"", b"\0")
"""What the role root shows as its permissions, whatever was granted to it."""

FIRST_REVISION = 1


class AuthState(msgspec.Struct, omit_defaults=True, frozen=True):
    """`revision` grows with every change of users, roles and permissions, and when authentication
    is switched off. `logins_from`: the revision of the latter; older logins ended then.
    """

    enabled: bool = False
    revision: int = FIRST_REVISION
    logins_from: int = 0


class User(msgspec.Struct, omit_defaults=True, frozen=True):
    """`hashed_password` is empty for a user without one, who comes with a certificate. Logins older
    than `logins_from`, the revision of that password, have ended.
    """

    hashed_password: bytes = b""
    roles: tuple[str, ...] = ()
    logins_from: int = 0


class Role(msgspec.Struct, omit_defaults=True, frozen=True):
    """At most one permission for the same key and end."""

    permissions: tuple[Permission, ...] = ()


_ENCODE = msgspec.msgpack.Encoder().encode


class AuthStore:
    """All users and roles, the same on every member.

    `enabled`, `revision`: plain attributes for the hot path; moved together with their row.
    `on_token(name, digest, index)` hears of every token that the log hands out, at `revision`.
    Nobody hears of its end, for a snapshot may have skipped that entry: ask `login_holds`.
    """

    def __init__(self, backend: Backend, lessor: Lessor) -> None:
        self._backend = backend
        self._lessor = lessor
        self.on_token: Callable[[str, bytes, int], None] = lambda name, digest, index: None
        self.operations: Mapping[type[Any], Callable[[Any], None]] = {
            AuthEnableRequest: self._enable,
            AuthDisableRequest: self._disable,
            UserAddRequest: self._user_add,
            UserDeleteRequest: self._user_delete,
            UserChangePasswordRequest: self._user_change_password,
            UserGrantRoleRequest: self._user_grant_role,
            UserRevokeRoleRequest: self._user_revoke_role,
            RoleAddRequest: self._role_add,
            RoleDeleteRequest: self._role_delete,
            RoleGrantPermissionRequest: self._role_grant,
            RoleRevokePermissionRequest: self._role_revoke,
        }
        """What changes users, roles and the state. Each raises its RequestError before it has
        changed anything.
        """
        self._take(AuthState(), {}, {})

    def restore(self) -> None:
        """Load the rows; nothing derived from the former ones is kept."""
        users = msgspec.msgpack.Decoder(User).decode
        roles = msgspec.msgpack.Decoder(Role).decode
        state = self._backend.get(AUTH, AUTH_STATE)
        self._take(
            AuthState() if state is None else msgspec.msgpack.decode(state, type=AuthState),
            {key.decode(): users(row) for key, row in self._rows(AUTH_USERS)},
            {key.decode(): roles(row) for key, row in self._rows(AUTH_ROLES)},
        )

    # -- decisions

    def check(self, asker: Asker, request: Request | RangeRequest) -> None:
        """Raise unless `asker` may have `request` executed now; nothing is asked while off.

        UserEmpty, AuthOldRevision, PermissionDenied. A read outside the log is checked before, and
        its answer is good if `revision` has not moved meanwhile.
        """
        if not self.enabled:
            return
        if asker is None:
            raise UserEmpty
        if not asker.user:
            return
        if asker.revision < self.revision:
            raise AuthOldRevision
        rights = self.rights_of(asker.user)
        if asker.user not in self._users or not permits(rights, request, self._lessor):
            raise PermissionDenied

    def rights_of(self, user: str) -> Rights:
        """What `user` may do at present; none for an unknown one."""
        rights = self._rights.get(user)
        if rights is None:
            rights = NO_RIGHTS
            if user in self._users:
                rights = self._rights[user] = self._sum_up(self._users[user])
        return rights

    def may_read(self, user: str, key: bytes, range_end: bytes = b"") -> bool:
        return self.rights_of(user).may_read(key, range_end)

    def may_write(self, user: str, key: bytes, range_end: bytes = b"") -> bool:
        return self.rights_of(user).may_write(key, range_end)

    def is_root(self, user: str) -> bool:
        return self.rights_of(user).root

    def login_holds(self, user: str, revision: int) -> bool:
        """Whether who came as `user` at an auth revision is still let in: the user is the same, has
        the same password, and authentication was never off since.
        """
        known = self._users.get(user)
        return (
            self.enabled
            and known is not None
            and revision >= max(known.logins_from, self._state.logins_from)
        )

    # -- views

    def users(self) -> list[str]:
        """All names, ascending."""
        return sorted(self._users)

    def roles(self) -> list[str]:
        """All names, ascending."""
        return sorted(self._roles)

    def has_user(self, name: str) -> bool:
        return name in self._users

    def roles_of(self, user: str) -> list[str]:
        """Ascending; some may be `root` without a role of that name. UserNotFound."""
        return list(self._user(user).roles)

    def permissions_of(self, role: str) -> list[Permission]:
        """Ascending by key. RoleNotFound."""
        permissions = self._role(role).permissions
        return [EVERYTHING] if role == ROOT else list(permissions)

    def hashed_password_of(self, user: str) -> bytes:
        """Empty for a user without a password. UserNotFound."""
        return self._user(user).hashed_password

    # -- the log

    def let_in(self, request: AuthTokenRequest, index: int) -> None:
        """Hand a token to this member's table. AuthNotEnabled; AuthOldRevision when anything has
        changed since the password was seen; AuthFailed.
        """
        if not self.enabled:
            raise AuthNotEnabled
        if request.revision != self.revision:
            raise AuthOldRevision
        user = self._users.get(request.name)
        if user is None or not user.hashed_password:
            raise AuthFailed
        self.on_token(request.name, request.digest, index)

    def _enable(self, request: AuthEnableRequest) -> None:
        """Twice is once."""
        if self.enabled:
            return
        root = self._users.get(ROOT)
        if root is None:
            raise RootUserMissing
        if ROOT not in root.roles:
            raise RootRoleMissing
        self._put_state(replace(self._state, enabled=True))

    def _disable(self, request: AuthDisableRequest) -> None:
        if self.enabled:
            revision = self.revision + 1
            self._put_state(AuthState(enabled=False, revision=revision, logins_from=revision))

    def _user_add(self, request: UserAddRequest) -> None:
        if not request.name:
            raise UserEmpty
        if request.name in self._users:
            raise UserExists
        self._changed()
        self._put_user(request.name, User(request.hashed_password, (), self.revision))

    def _user_delete(self, request: UserDeleteRequest) -> None:
        if self.enabled and request.name == ROOT:
            raise InvalidAuthManagement
        self._user(request.name)
        self._changed()
        del self._users[request.name]
        self._backend.delete(AUTH_USERS, request.name.encode())

    def _user_change_password(self, request: UserChangePasswordRequest) -> None:
        """A user without a password stays one."""
        user = self._user(request.name)
        self._changed()
        hashed = request.hashed_password if user.hashed_password else b""
        self._put_user(
            request.name, replace(user, hashed_password=hashed, logins_from=self.revision)
        )

    def _user_grant_role(self, request: UserGrantRoleRequest) -> None:
        """Twice is once. The role root need not exist."""
        user = self._user(request.user)
        if request.role != ROOT:
            self._role(request.role)
        if request.role not in user.roles:
            self._changed()
            roles = tuple(sorted((*user.roles, request.role)))
            self._put_user(request.user, replace(user, roles=roles))

    def _user_revoke_role(self, request: UserRevokeRoleRequest) -> None:
        if self.enabled and request.name == ROOT and request.role == ROOT:
            raise InvalidAuthManagement
        user = self._user(request.name)
        if request.role not in user.roles:
            raise RoleNotGranted
        self._changed()
        self._take_role(request.name, request.role)

    def _role_add(self, request: RoleAddRequest) -> None:
        if not request.name:
            raise RoleEmpty
        if request.name in self._roles:
            raise RoleExists
        self._changed()
        self._put_role(request.name, Role())

    def _role_delete(self, request: RoleDeleteRequest) -> None:
        """Its users lose it."""
        if self.enabled and request.role == ROOT:
            raise InvalidAuthManagement
        self._role(request.role)
        self._changed()
        del self._roles[request.role]
        self._backend.delete(AUTH_ROLES, request.role.encode())
        for name in self.users():
            if request.role in self._users[name].roles:
                self._take_role(name, request.role)

    def _role_grant(self, request: RoleGrantPermissionRequest) -> None:
        """What was granted for the same key and end is replaced."""
        granted = request.perm
        if granted is None:
            raise PermissionMissing
        if not granted.key or granted.key >= end_of(granted.key, granted.range_end):
            raise InvalidAuthManagement
        # The proposer's object may hold an enum where others decoded a number: rows are alike.
        granted = Permission(int(granted.permType), granted.key, granted.range_end)
        permissions = list(self._role(request.name).permissions)
        at = _place(permissions, granted.key, granted.range_end)
        if at is None:
            at = bisect_right(permissions, granted.key, key=lambda each: each.key)
            permissions.insert(at, granted)
        else:
            permissions[at] = granted
        self._changed()
        self._put_role(request.name, Role(tuple(permissions)))

    def _role_revoke(self, request: RoleRevokePermissionRequest) -> None:
        permissions = list(self._role(request.role).permissions)
        at = _place(permissions, request.key, request.range_end)
        if at is None:
            raise PermissionNotGranted
        del permissions[at]
        self._changed()
        self._put_role(request.role, Role(tuple(permissions)))

    # -- rows

    def check_invariants(self) -> None:
        rows = AuthStore(self._backend, self._lessor)
        rows.restore()
        assert (self._state, self._users, self._roles) == (rows._state, rows._users, rows._roles)
        assert (self.enabled, self.revision) == (self._state.enabled, self._state.revision)
        for name, user in self._users.items():
            assert list(user.roles) == sorted({*user.roles}), (name, user.roles)
            assert {*user.roles} <= {ROOT, *self._roles}, (name, user.roles)
            assert user.logins_from <= self.revision, (name, user.logins_from, self.revision)
        if self.enabled:
            assert ROOT in self._users[ROOT].roles, "nobody could administer this cluster"

    def _take(self, state: AuthState, users: dict[str, User], roles: dict[str, Role]) -> None:
        self._state = state
        self.enabled = state.enabled
        self.revision = state.revision
        self._users = users
        self._roles = roles
        self._rights: dict[str, Rights] = {}

    def _rows(self, table: str) -> list[tuple[bytes, bytes]]:
        return self._backend.range(table, FIRST, END, 0)

    def _user(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise UserNotFound
        return user

    def _role(self, name: str) -> Role:
        role = self._roles.get(name)
        if role is None:
            raise RoleNotFound
        return role

    def _sum_up(self, user: User) -> Rights:
        if ROOT in user.roles:
            return Rights(root=True)
        return Rights(each for role in user.roles for each in self._roles[role].permissions)

    def _changed(self) -> None:
        """Count a change that nothing can refuse any more; all summed up before is void."""
        self._put_state(replace(self._state, revision=self.revision + 1))

    def _put_state(self, state: AuthState) -> None:
        self._take(state, self._users, self._roles)
        self._backend.put(AUTH, AUTH_STATE, _ENCODE(state))

    def _put_user(self, name: str, user: User) -> None:
        self._users[name] = user
        self._backend.put(AUTH_USERS, name.encode(), _ENCODE(user))

    def _put_role(self, name: str, role: Role) -> None:
        self._roles[name] = role
        self._backend.put(AUTH_ROLES, name.encode(), _ENCODE(role))

    def _take_role(self, user: str, role: str) -> None:
        known = self._users[user]
        roles = tuple(each for each in known.roles if each != role)
        self._put_user(user, replace(known, roles=roles))


def _place(permissions: list[Permission], key: bytes, range_end: bytes) -> int | None:
    """Where the permission for exactly this range is."""
    for at, each in enumerate(permissions):
        if (each.key, each.range_end) == (key, range_end):
            return at
    return None
