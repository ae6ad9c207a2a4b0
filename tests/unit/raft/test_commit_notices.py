"""Bare commit notices: held for those who can wait, at once for those whose clients wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from raft import codec
from raft.commit_notices import CommitNotices
from raft.core.message import Message, MessageType

from .driver_fixture import StartNode, eventually


def notice(to: int, commit: int) -> Message:
    return Message(type=MessageType.APPEND, to=to, sender=1, term=1, commit=commit)


class Sent:
    """What a held notice is sent by."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.notices = CommitNotices(asyncio.get_running_loop(), self.send)

    def send(self, messages: Sequence[Message]) -> None:
        self.messages += messages


async def test_notices_wait_and_the_newest_says_it_all() -> None:
    sent = Sent()
    assert sent.notices.take([notice(2, 1), notice(3, 1)]) == []
    assert sent.notices.take([notice(2, 2)]) == []
    await eventually(lambda: sent.messages)
    assert [(message.to, message.commit) for message in sent.messages] == [(2, 2), (3, 1)]


async def test_members_whose_clients_watch_hear_at_once() -> None:
    sent = Sent()
    sent.notices.answered_by(2, eager=True)
    assert [message.to for message in sent.notices.take([notice(2, 1), notice(3, 1)])] == [2]
    sent.notices.answered_by(2, eager=False)
    assert sent.notices.take([notice(2, 2)]) == []
    await eventually(lambda: sent.messages)
    assert sorted(message.to for message in sent.messages) == [2, 3]


async def test_watching_follower_says_so_in_its_answers(
    start_node: StartNode, tmp_path: Path
) -> None:
    nodes = [await start_node(member, path=tmp_path / str(member)) for member in (1, 2, 3)]
    await eventually(lambda: any(node.leads for node in nodes))
    leader = next(node for node in nodes if node.leads)
    watching, other = (node for node in nodes if not node.leads)
    watching.driver.eager = True
    eager = leader.driver._notices._eager
    await eventually(lambda: eager == {watching.member})
    await leader.propose(b"line")
    watching.driver.eager = False
    await eventually(lambda: not eager)
    answers = (MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE)
    assert all(message.type in answers for message in watching.transport.sent if message.eager)
    assert not any(message.eager for message in other.transport.sent)


def test_answers_without_the_word_are_readable() -> None:
    answer = Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, sender=2, term=1, eager=True)
    fields = msgspec.msgpack.decode(codec.encode_message(answer))
    assert codec.decode_message(msgspec.msgpack.encode(fields)).eager
    shorter = codec.decode_message(msgspec.msgpack.encode(fields[:-1]))
    assert shorter == Message(type=MessageType.HEARTBEAT_RESPONSE, to=1, sender=2, term=1)
    assert codec.decode_message(msgspec.msgpack.encode([*fields, "later"])) == answer
