"""Fixtures of the raft tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from .transport_fixture import Member, StartMember


@pytest_asyncio.fixture
async def start_member() -> AsyncIterator[StartMember]:
    """Starts members; stops them all afterwards and checks that none of their tasks broke."""
    members: list[Member] = []

    async def start(number: int, **options: object) -> Member:
        member = Member(number, {1, 2, 3}, **options)
        members.append(member)
        await member.transport.start(member.recorder)
        return member

    yield start
    for member in members:
        await member.transport.stop()
    assert [member.recorder.errors for member in members] == [[] for _ in members]
