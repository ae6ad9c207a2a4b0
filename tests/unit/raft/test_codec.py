"""Bytes of messages and durable state: there and back, and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft import codec
from raft.core.errors import StepRefused
from raft.core.message import Message, MessageType
from raft.core.types import ConfState, Entry, HardState, Snapshot

UINT64 = st.integers(0, 2**64 - 1)
ENTRIES = st.lists(
    st.builds(Entry, term=UINT64, index=UINT64, type=st.integers(0, 1), data=st.binary(max_size=9))
)
SNAPSHOTS = st.builds(
    Snapshot,
    index=UINT64,
    term=UINT64,
    conf_state=st.builds(ConfState, voters=st.lists(UINT64).map(tuple), auto_leave=st.booleans()),
)


def append(entries: list[Entry]) -> Message:
    return Message(type=MessageType.APPEND, to=2, sender=1, term=3, index=10, entries=entries)


@given(
    type_=st.sampled_from(list(MessageType)).filter(lambda type_: type_ != MessageType.APPEND),
    number=UINT64,
    entries=ENTRIES,
    snapshot=st.none() | SNAPSHOTS,
    reject=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_message_survives(
    type_: MessageType, number: int, entries: list[Entry], snapshot: Snapshot | None, reject: bool
) -> None:
    message = Message(
        type=type_,
        to=number,
        sender=1,
        term=number,
        entries=entries,
        snapshot=snapshot,
        reject=reject,
        context=number,
    )
    assert codec.decode_message(codec.encode_message(message)) == message


def test_append_survives() -> None:
    message = append([Entry(3, 11, 0, b"a"), Entry(3, 12, 1, b"")])
    assert codec.decode_message(codec.encode_message(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Message(type=99),
        Message(type=MessageType.VOTE, term=-1),
        Message(type=MessageType.HEARTBEAT, context=-1),
        Message(type=MessageType.SNAPSHOT, snapshot=Snapshot(-1, 0)),
        append([Entry(3, 12)]),
        append([Entry(3, 11), Entry(3, 13)]),
        append([Entry(-1, 11)]),
    ],
)
def test_impossible_message_is_refused(message: Message) -> None:
    with pytest.raises(StepRefused):
        codec.decode_message(codec.encode_message(message))


@given(st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused_or_a_message(data: bytes) -> None:
    try:
        message = codec.decode_message(data)
    except StepRefused:
        return
    assert isinstance(message, Message)


def test_depth_is_refused() -> None:
    """Also where a field stands that this version does not know."""
    fields = msgspec.msgpack.encode([2] + [0] * 5 + [[], 0, None, False, 0, 0, False])
    deep = b"\xdc\x00\x0e" + fields[1:] + b"\x91" * 50_000 + b"\x90"
    assert codec.decode_message(fields) == Message(type=2)
    with pytest.raises(StepRefused, match="recursion"):
        codec.decode_message(deep)


def test_every_prefix_of_a_message_is_refused() -> None:
    data = codec.encode_message(append([Entry(3, 11, 0, b"value")]))
    for size in range(len(data)):
        with pytest.raises(StepRefused):
            codec.decode_message(data[:size])


@given(entries=ENTRIES, snapshot=SNAPSHOTS, state=st.tuples(UINT64, UINT64, UINT64))
@settings(max_examples=40, deadline=None)
def test_durable_state_survives(
    entries: list[Entry], snapshot: Snapshot, state: tuple[int, int, int]
) -> None:
    assert codec.decode_entries(codec.encode_entries(entries)) == entries
    assert codec.decode_snapshot(codec.encode_snapshot(snapshot)) == snapshot
    hard_state = HardState(*state)
    assert codec.decode_hard_state(codec.encode_hard_state(hard_state)) == hard_state


def test_damaged_durable_state_is_a_value_error() -> None:
    for decode in (codec.decode_entries, codec.decode_snapshot, codec.decode_hard_state):
        with pytest.raises(ValueError):
            decode(b"\xc1")


def test_fields_are_positional_and_later_ones_optional() -> None:
    # What an older version wrote, with fewer fields, is still an entry.
    old = msgspec.msgpack.encode([[5, 1], [5, 2, 1]])
    assert codec.decode_entries(old) == [Entry(5, 1), Entry(5, 2, 1)]
