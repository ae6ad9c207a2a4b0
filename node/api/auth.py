"""The auth service: users, roles, and the token that stands for a password.

Changes go through the log, where it is judged whether whoever asks may make them. Reads confirm
leadership first, as etcd's do. A password is hashed or compared here and goes no further.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.api.messages import (
    AuthenticateRequest,
    AuthenticateResponse,
    AuthStatusResponse,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    EmptyMessage,
    RoleGetRequest,
    RoleGetResponse,
    RoleListResponse,
    UserGetRequest,
    UserGetResponse,
    UserListResponse,
)
from node.apply.checks import check
from node.apply.errors import ApplyError, InvalidArgument
from node.apply.requests import AuthRequest, UserAddRequest, UserChangePasswordRequest

if TYPE_CHECKING:
    from node.api.maintenance import Spawn
    from node.apply.requests import Asker
    from node.proposals import Done
    from node.server import Server


class Auth:
    """Methods raise the RequestError a request deserves, or call `done` exactly once."""

    def __init__(self, server: Server, spawn: Spawn) -> None:
        self._server = server
        self._auth = server.auth
        self._spawn = spawn

    def change(self, request: AuthRequest, asker: Asker, done: Done) -> None:
        """Whatever the log takes as it came from the client."""
        check(request)
        self._server.propose(request, done, asker)

    def authenticate(self, request: AuthenticateRequest, _asker: Asker, done: Done) -> None:
        self._spawn(self._authenticate(request.name, request.password), done)

    async def _authenticate(self, name: str, password: str) -> AuthenticateResponse:
        token = await self._auth.authenticate(name, password)
        return AuthenticateResponse(self._server.store.current_rev, token)

    # -- passwords

    def user_add(self, request: AuthUserAddRequest, asker: Asker, done: Done) -> None:
        check(UserAddRequest(request.name))
        without = request.options is not None and request.options.no_password
        self._spawn(self._add(request, asker, without=without), done)

    async def _add(self, request: AuthUserAddRequest, asker: Asker, *, without: bool) -> Any:
        hashed = b"" if without else await self._hashed(request)
        return await self._propose(UserAddRequest(request.name, hashed), asker)

    def user_change_password(
        self, request: AuthUserChangePasswordRequest, asker: Asker, done: Done
    ) -> None:
        check(UserChangePasswordRequest(request.name))
        self._spawn(self._change_password(request, asker), done)

    async def _change_password(self, request: AuthUserChangePasswordRequest, asker: Asker) -> Any:
        hashed = await self._hashed(request)
        return await self._propose(UserChangePasswordRequest(request.name, hashed), asker)

    async def _hashed(self, request: AuthUserAddRequest | AuthUserChangePasswordRequest) -> bytes:
        """The password's hash, or the one that the client brings instead: bcrypt, in base64. An
        empty password is one, too.
        """
        if request.password or not request.hashedPassword:
            return await self._auth.passwords.hash(request.password)
        try:
            hashed = b64decode(request.hashedPassword, validate=True)
        except (Base64Error, ValueError):
            raise InvalidArgument("a hashed password that is not base64") from None
        self._auth.passwords.check_foreign(hashed)
        return hashed

    async def _propose(self, request: AuthRequest, asker: Asker) -> Any:
        check(request)
        return await self._server.call(self._server.propose, request, asker)

    # -- reads

    def status(self, _request: EmptyMessage, _asker: Asker, done: Done) -> None:
        """Open to everybody: who signs tokens elsewhere must learn the auth revision."""
        store = self._auth.store
        self._read(done, lambda now: AuthStatusResponse(now, store.enabled, store.revision))

    def user_get(self, request: UserGetRequest, asker: Asker, done: Done) -> None:
        """Everybody may look at themselves."""

        def read(revision: int) -> UserGetResponse:
            if asker is None or asker.user != request.name:
                self._auth.require_root(asker)
            return UserGetResponse(revision, self._auth.store.roles_of(request.name))

        self._read(done, read)

    def role_get(self, request: RoleGetRequest, asker: Asker, done: Done) -> None:
        """Everybody may look at their roles."""
        store = self._auth.store

        def read(revision: int) -> RoleGetResponse:
            if asker is None or request.role not in store.roles_of(asker.user):
                self._auth.require_root(asker)
            return RoleGetResponse(revision, store.permissions_of(request.role))

        self._read(done, read)

    def user_list(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        def read(revision: int) -> UserListResponse:
            self._auth.require_root(asker)
            return UserListResponse(revision, self._auth.store.users())

        self._read(done, read)

    def role_list(self, _request: EmptyMessage, asker: Asker, done: Done) -> None:
        def read(revision: int) -> RoleListResponse:
            self._auth.require_root(asker)
            return RoleListResponse(revision, self._auth.store.roles())

        self._read(done, read)

    def _read(self, done: Done, read: Callable[[int], Any]) -> None:
        """Answer with `read(revision)`, permission asked and given in the same turn of the loop."""

        def confirmed(error: object) -> None:
            if error is not None:
                done(error)
                return
            try:
                answer = read(self._server.store.current_rev)
            except ApplyError as refusal:
                answer = refusal
            done(answer)

        self._server.linearizable(confirmed)
