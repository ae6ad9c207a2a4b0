"""Fixtures of the raft tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from .driver_fixture import Network, Node, RecordingWal, StartNode
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


@pytest_asyncio.fixture
async def start_node() -> AsyncIterator[StartNode]:
    """Starts nodes on one network; stops them and checks that none has failed."""
    nodes: list[Node] = []
    network = Network()

    async def start(member: int, voters: tuple[int, ...] = (1, 2, 3), **options: object) -> Node:
        node = Node(network, member, voters, **options)
        nodes.append(node)
        await node.start()
        return node

    yield start
    for node in nodes:
        if isinstance(node.wal, RecordingWal):
            node.wal.at_once = True
            node.wal.write()
        await node.stop()
    assert [error for node in nodes for error in node.errors] == []
