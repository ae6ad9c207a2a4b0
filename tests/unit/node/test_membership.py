"""Membership: what is refused, and what becomes of a change whose caller is gone before the answer
comes.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from node.apply.errors import MemberNotFound, MemberUrlsInvalid, Stopped
from node.apply.responses import Member, MembersResponse
from node.membership import Membership
from node.proposals import Done

URLS = ["http://b:1"]


class Server:
    """Takes one change and keeps who waits for it."""

    def __init__(self) -> None:
        self.waiting: list[Done] = []
        self.member_id = 1
        member = Member(1, "a", peerURLs=["http://a:1"])
        self.members = SimpleNamespace(list=lambda: [member], get={1: member}.get)
        self.config = SimpleNamespace(strict_reconfig_check=True, initial_cluster_token="t")
        self.driver = SimpleNamespace(propose_conf_change=lambda change: None)

    def request_id(self) -> int:
        return 7

    def propose_change(self, propose: Any, done: Done) -> None:
        propose(7)
        self.waiting.append(done)


async def start_adding(server: Any) -> asyncio.Task[MembersResponse]:
    task = asyncio.create_task(Membership(server).add(URLS, is_learner=True))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("result", [Stopped(), MembersResponse([])])
async def test_answer_to_nobody_is_dropped(result: object) -> None:
    server = Server()
    task = await start_adding(server)
    task.cancel()
    await asyncio.wait([task])
    server.waiting[0](result)
    assert task.cancelled()


@pytest.mark.parametrize(("number", "error"), [(1, MemberUrlsInvalid), (5, MemberNotFound)])
async def test_an_update_asks_for_the_member_before_its_urls(
    number: int, error: type[Exception]
) -> None:
    server: Any = Server()
    with pytest.raises(error):
        await Membership(server).update(number, [])
