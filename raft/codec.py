"""Entries, messages and durable state as bytes: MessagePack arrays, for the wire and for the WAL.

Fields are positional, in the order of the Structs in `raft.core`; a new field goes to the end with
a default, so that older bytes stay readable. Pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from raft.core.errors import StepRefused
from raft.core.message import Message, MessageType
from raft.core.types import Entry, HardState, Snapshot

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(Message)
_entries_decoder = msgspec.msgpack.Decoder(list[Entry])
_snapshot_decoder = msgspec.msgpack.Decoder(Snapshot)
_hard_state = struct.Struct("<QQQ")
_types = frozenset(int(type_) for type_ in MessageType)

encode_message = _encoder.encode


def decode_message(data: bytes | memoryview) -> Message:
    """The message, checked in form: a known type, no negative number, appended entries in a row.

    Raises StepRefused for anything else; what the message may *say* is the core's to judge.
    """
    try:
        message = _message_decoder.decode(data)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise StepRefused(f"malformed message: {error}") from error
    if message.type not in _types:
        raise StepRefused(f"unknown message type {message.type}")
    numbers = (
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.reject_hint,
        message.context,
    )
    if min(numbers) < 0:
        raise StepRefused(f"negative number in a message of type {message.type}")
    if message.type == MessageType.APPEND:
        _check_in_a_row(message.index, message.entries)
    snapshot = message.snapshot
    if snapshot is not None and (snapshot.index < 0 or snapshot.term < 0):
        raise StepRefused("negative number in a snapshot")
    return message


def _check_in_a_row(index: int, entries: Sequence[Entry]) -> None:
    for entry in entries:
        index += 1
        if entry.index != index or entry.term < 0:
            raise StepRefused(f"entry {entry.index} of term {entry.term} where {index} is due")


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """A batch, in its order."""
    return _encoder.encode(entries)


def decode_entries(data: bytes | memoryview) -> list[Entry]:
    """The inverse of `encode_entries`; ValueError on anything else."""
    return _entries_decoder.decode(data)


def encode_hard_state(state: HardState) -> bytes:
    """24 bytes: term, vote, commit, little-endian."""
    return _hard_state.pack(*state)


def decode_hard_state(data: bytes | memoryview) -> HardState:
    """The inverse of `encode_hard_state`; ValueError on anything else."""
    if len(data) != _hard_state.size:
        raise ValueError(f"a hard state of {len(data)} bytes")
    return HardState(*_hard_state.unpack(data))


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A snapshot's name: index, term, configuration."""
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes | memoryview) -> Snapshot:
    """The inverse of `encode_snapshot`; ValueError on anything else."""
    return _snapshot_decoder.decode(data)
