"""Auth: who a token or a certificate is, on this member, and what they may read of it.

Users, roles and permissions are replicated (`node.apply.auth_store`); a change is judged at its
place in the log. Here are the shell's parts: passwords, tokens, and the checks around reads that no
log sees. Such a read is checked, done, and checked again: its answer is good only if the auth
revision has not moved meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from node.apply import errors
from node.apply.auth_store import AuthStore
from node.apply.requests import (
    CLUSTER,
    Asker,
    AuthTokenRequest,
    Identity,
    RangeRequest,
    TxnRequest,
)
from node.passwords import Passwords
from node.tokens import SimpleTokens, digest_of, new_letters
from node.waiting import answer_of

log = logging.getLogger("esker.auth")

if TYPE_CHECKING:
    from node.config import NodeConfig
    from node.proposals import Done
    from node.server import Server
    from node.signed_tokens import SignedTokens


class Auth:
    """Authentication of one member's clients."""

    def __init__(self, server: Server, store: AuthStore) -> None:
        config = server.config
        self.store = store
        self.passwords = Passwords(config.bcrypt_cost)
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._simple = SimpleTokens(
            store, config.auth_token_ttl, self._loop.time, lambda: server.applied_index
        )
        self._signed = _signed_tokens(config, store)
        self._tokens = self._signed or self._simple
        store.on_token = self._simple.admit

    @property
    def enabled(self) -> bool:
        return self.store.enabled

    @property
    def revision(self) -> int:
        """How often users, roles or permissions have changed."""
        return self.store.revision

    def sweep(self) -> None:
        """Forget expired tokens; call it now and then."""
        self._simple.sweep()

    def close(self) -> None:
        self.passwords.close()

    # -- who asks

    def identify(self, token: str, common_name: str) -> Identity:
        """Who shows this token, or (without one) this certificate.

        UserEmpty, InvalidAuthToken, AuthOldRevision, PermissionDenied.
        """
        if token:
            return self._tokens.identify(token)
        if not common_name:
            raise errors.UserEmpty
        if not self.store.has_user(common_name):
            raise errors.PermissionDenied
        return Identity(common_name, self.store.revision)

    def ahead(self, token: str) -> bool:
        """Whether nothing can be said of that token before this member has caught up."""
        return bool(token) and self._tokens.ahead(token)

    def current(self, asker: Asker) -> Asker:
        """`asker` as of now: what a token outlives, a request that it came with outlives, too.

        AuthOldRevision when it does not.
        """
        store = self.store
        if asker is None or not asker.user or asker.revision >= store.revision:
            return asker
        if not self._tokens.lasting or not store.login_holds(*asker):
            raise errors.AuthOldRevision
        return Identity(asker.user, store.revision)

    async def authenticate(self, name: str, password: str) -> str:
        """A token for who knows the password. AuthNotEnabled, AuthFailed, NoPasswordUser.

        What was seen of a user is worth nothing when users have changed meanwhile: then again.
        """
        await answer_of(self._server.linearizable)
        while True:
            revision = self.store.revision
            await self._verify(name, password)
            if revision != self.store.revision:
                continue
            if self._signed is not None:
                return self._signed.sign(name, revision)
            letters = new_letters()
            request = AuthTokenRequest(name, digest_of(letters), revision)
            try:
                response = await self._server.call(self._server.propose, request, CLUSTER)
            except errors.AuthOldRevision:
                continue
            return f"{letters}.{response.index}"

    async def _verify(self, name: str, password: str) -> None:
        """An unknown user takes as long as a wrong password."""
        store = self.store
        if not store.enabled:
            raise errors.AuthNotEnabled
        known = store.has_user(name)
        hashed = store.hashed_password_of(name) if known else b""
        if known and not hashed:
            raise errors.NoPasswordUser
        if not await self.passwords.matches(password, hashed):
            raise errors.AuthFailed

    # -- what they may do, outside the log

    def require_root(self, identity: Asker) -> None:
        """PermissionDenied unless the user has the role root."""
        if not self.enabled:
            return
        if identity is None:
            raise errors.UserEmpty
        if not self.is_root(identity):
            raise errors.PermissionDenied

    def is_root(self, identity: Identity) -> bool:
        """The members themselves are, too."""
        return not identity.user or self.store.is_root(identity.user)

    def check_read(self, asker: Asker, request: RangeRequest | TxnRequest) -> None:
        """Raise unless `asker` may read that now. UserEmpty, AuthOldRevision, PermissionDenied."""
        self.store.check(self.current(asker), request)

    def check_range(self, identity: Asker, key: bytes, range_end: bytes) -> None:
        """Raise unless they may read all of [key, range_end)."""
        self.check_read(identity, RangeRequest(key, range_end))

    def check_keys(self, identity: Asker, keys: Iterable[bytes], *, write: bool) -> None:
        """Raise unless they may write (or read) every one of `keys`."""
        store = self.store
        if not store.enabled:
            return
        if identity is None:
            raise errors.UserEmpty
        if not identity.user:
            return
        if identity.revision < store.revision:
            raise errors.AuthOldRevision
        may = store.may_write if write else store.may_read
        if not all(may(identity.user, key) for key in keys):
            raise errors.PermissionDenied

    def unmoved(self, done: Done) -> Done:
        """`done`, but with AuthOldRevision for a result if the auth revision moves before."""
        store = self.store
        if not store.enabled:
            return done
        revision = store.revision

        def checked(result: object) -> None:
            done(result if store.revision == revision else errors.AuthOldRevision())

        return checked

    def persistent(self, asker: Identity, done: Done, again: Callable[[Asker], None]) -> Done:
        """`done` of a proposal, but when users or roles changed on its way through the log, and
        whoever asks still is who they were, `again(asker as of now)` proposes it anew.
        """

        def answered(result: object) -> None:
            if isinstance(result, errors.AuthOldRevision):
                try:
                    now = self.current(asker)
                except errors.AuthOldRevision as error:
                    result = error
                else:
                    if now is not asker:
                        # Not at once: this is the middle of an applied batch.
                        self._loop.call_soon(again, now)
                        return
            done(result)

        return answered


def _signed_tokens(config: NodeConfig, store: AuthStore) -> SignedTokens | None:
    if config.auth_token == "simple":
        return None
    from node.signed_tokens import SignedTokens, read_signing

    signing = read_signing(config.auth_token)
    if signing.guessable:
        log.warning("the secret that signs tokens is short", extra={"method": signing.method})
    return SignedTokens(store, signing, time.time)
