"""bcrypt in threads."""

from __future__ import annotations

import asyncio

import pytest

from node import passwords
from node.apply.errors import InvalidArgument, TooManyRequests
from node.passwords import Passwords


async def test_a_hash_is_of_its_password_only() -> None:
    worker = Passwords(4)
    hashed = await worker.hash("p\0ss é")
    assert hashed.startswith(b"$2b$04$")
    assert await worker.matches("p\0ss é", hashed)
    assert not await worker.matches("p\0ss e", hashed)
    assert await worker.hash("p\0ss é") != hashed, "salted"
    worker.close()


async def test_an_empty_password_is_a_password() -> None:
    worker = Passwords(4)
    hashed = await worker.hash("")
    assert await worker.matches("", hashed)
    assert not await worker.matches(" ", hashed)
    worker.close()


@pytest.mark.parametrize("password", ["", "x", "." * 100])
async def test_nobody_has_no_password(password: str) -> None:
    worker = Passwords(4)
    assert not await worker.matches(password, b"")
    worker.close()


async def test_a_hash_that_nothing_has_matches_nothing() -> None:
    worker = Passwords(4)
    for hashed in (b"$2b$99$" + b"a" * 53, b"$2b$04$" + b"~" * 53, b"junk"):
        assert not await worker.matches("x", hashed)
    worker.close()


@pytest.mark.parametrize("cost", ["03", "17", "31", "99", "xx"])
async def test_what_others_have_hashed_is_looked_at(cost: str) -> None:
    worker = Passwords(4)
    worker.check_foreign(b"$2y$16$" + b"a" * 53)
    with pytest.raises(InvalidArgument, match="cost 4 to 16"):
        worker.check_foreign(b"$2b$" + cost.encode() + b"$" + b"a" * 53)
    worker.close()


async def test_nobody_takes_as_long_as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work: one comparison with a hash of the same cost."""
    costs = []

    def checkpw(password: bytes, hashed: bytes) -> bool:
        costs.append(hashed[:7])
        return False

    worker = Passwords(5)
    hashed = await worker.hash("p")
    monkeypatch.setattr(passwords.bcrypt, "checkpw", checkpw)
    for against in (hashed, b""):
        for password in ("x", "x" * 73):
            await worker.matches(password, against)
    assert costs == [b"$2b$05$"] * 4
    worker.close()


async def test_a_password_is_not_cut() -> None:
    worker = Passwords(4)
    longest = await worker.hash("x" * 72)
    assert await worker.matches("x" * 72, longest)
    assert not await worker.matches("x" * 73, longest)
    with pytest.raises(InvalidArgument, match="72 bytes"):
        await worker.hash("é" * 37)
    worker.close()


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "WAITING_MAX", 3)
    worker = Passwords(4)
    running = [asyncio.ensure_future(worker.matches("x", b"")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await worker.matches("x", b"")
    assert await asyncio.gather(*running) == [False] * 3
    assert not await worker.matches("x", b""), "there is room again"
    worker.close()
