"""Passwords: hashed and compared with bcrypt, in threads of their own.

bcrypt is slow on purpose and releases the interpreter lock, so the loop goes on meanwhile. Whoever
is not let in at all, because nobody has that name, waits as long as one with a wrong password.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from node.apply.errors import InvalidArgument, TooManyRequests

Result = TypeVar("Result")

PASSWORD_BYTES_MAX = 72
"""bcrypt looks at no more, and some versions of it silently."""

FOREIGN_COST_MAX = 16
"""About four seconds. Nothing ends a comparison that has begun, and few can be made at a time."""

_WORKERS = 2
WAITING_MAX = 200
"""Two at a time, 60 ms each at the default cost: who comes later would wait past the request
timeout. Authenticating is open to everybody, and must not fill the memory.
"""


_HASH = re.compile(rb"\$2[aby]\$\d\d\$[./0-9A-Za-z]{53}")


class Passwords:
    """bcrypt at one cost, a bounded number of jobs at a time. TooManyRequests beyond that."""

    def __init__(self, cost: int) -> None:
        self._cost = cost
        # The hash of nothing: a salt and a digest of the right form that no password has.
        self._nobodys = b"$2b$%02d$" % cost + b"." * 53
        self._pool = ThreadPoolExecutor(_WORKERS, "esker-bcrypt")
        self._waiting = 0

    async def hash(self, password: str) -> bytes:
        """A new hash, salted. InvalidArgument for a password that bcrypt would cut."""
        text = password.encode()
        if len(text) > PASSWORD_BYTES_MAX:
            raise InvalidArgument(f"a password has at most {PASSWORD_BYTES_MAX} bytes")
        return await self._run(lambda: bcrypt.hashpw(text, bcrypt.gensalt(self._cost)))

    async def matches(self, password: str, hashed: bytes) -> bool:
        """Whether `hashed` is of `password`; empty, it is of none, which is not said sooner."""
        text = password.encode()
        against = hashed or self._nobodys
        # Too long, it was never accepted; cut, it may be somebody's.
        fits = len(text) <= PASSWORD_BYTES_MAX
        same = await self._run(lambda: _is_of(text[:PASSWORD_BYTES_MAX], against))
        return same and fits and bool(hashed)

    def check_foreign(self, hashed: bytes) -> None:
        """InvalidArgument for a hash that is not bcrypt's, or that takes too long to compare."""
        if not _HASH.fullmatch(hashed) or not 4 <= int(hashed[4:6]) <= FOREIGN_COST_MAX:
            raise InvalidArgument(f"a hash that is not bcrypt's, of cost 4 to {FOREIGN_COST_MAX}")

    async def _run(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= WAITING_MAX:
            raise TooManyRequests
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """What has not begun never will."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _is_of(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:
        return False  # It has the form of a hash, but no password can have it.
