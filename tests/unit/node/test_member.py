"""Member: what ends it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from node.config import load
from node.member import Member
from node.seams import Seams


async def test_a_broken_invariant_in_a_callback_ends_the_member(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member = Member(load([], {}), Seams(hit=lambda name: None))
    loop = asyncio.get_running_loop()

    def handle(error: Exception) -> None:
        member._unhandled(loop, {"message": "in a callback", "exception": error})

    with caplog.at_level(logging.CRITICAL, "esker"):
        handle(ConnectionResetError("a client's doing"))
        assert not member._stop.is_set()
        handle(AssertionError("two and two are five"))
    assert member._stop.is_set()
    assert "two and two are five" in caplog.text
