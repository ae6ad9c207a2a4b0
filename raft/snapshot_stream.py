"""Snapshots between members: a connection of their own, a header, checksummed chunks, one answer.

    sender    HEADER (u64 size, SNAPSHOT message) | CHUNK ... | END (SHA-256 of all chunks)
    receiver  RESULT (1, "") once the file is durable and raft has the message; (0, why) otherwise

Both sides hold a few chunks at most: the sender waits for its write buffer to drain, the receiver
stops reading while its disk is behind. File reads and writes happen in a pool.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from concurrent.futures import Executor
from contextlib import suppress

from raft.codec import decode_message, encode_message
from raft.core.errors import RaftError
from raft.core.message import Message, MessageType
from raft.core.types import Snapshot
from raft.framing import HEAD_BYTES, FrameError, FrameType, pack_frame, unpack_head
from raft.peer_stream import write
from raft.transport import Receiver, SnapshotSink, SnapshotSource

CHUNK_BYTES = 256 * 1024
READER_BYTES = 4 * CHUNK_BYTES
"""Where the receiving side stops reading its socket."""
IDLE_SECONDS = 30.0
"""Without a byte for so long, either side gives up."""
RESULT_SECONDS = 300.0
"""For the receiver to sync a large file."""
_HEADER_BYTES_MAX = 1024 * 1024
_SIZE = struct.Struct(">Q")


class SnapshotRefused(Exception):
    """The receiver could not take the snapshot; its words."""


async def _read_frame(
    reader: asyncio.StreamReader, bytes_max: int, seconds: float
) -> tuple[int, bytes]:
    async with asyncio.timeout(seconds):
        kind, length = unpack_head(await reader.readexactly(HEAD_BYTES), bytes_max)
        return kind, await reader.readexactly(length)


async def _write(writer: asyncio.StreamWriter, kind: FrameType, body: bytes) -> None:
    write(writer, pack_frame(kind, body))
    async with asyncio.timeout(IDLE_SECONDS):
        await writer.drain()


async def stream_snapshot(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    message: Message,
    source: SnapshotSource,
    pool: Executor | None,
) -> None:
    """Send all of `source` over an accepted connection; returns when the receiver has it durably.

    OSError (a timeout among them), EOFError, FrameError or SnapshotRefused when it did not come to
    that.
    """
    loop = asyncio.get_running_loop()
    header = _SIZE.pack(source.size) + encode_message(message)
    await _write(writer, FrameType.SNAPSHOT_HEADER, header)
    digest = hashlib.sha256()

    def read() -> bytes:
        chunk = source.read(CHUNK_BYTES)
        digest.update(chunk)
        return chunk

    while chunk := await loop.run_in_executor(pool, read):
        await _write(writer, FrameType.SNAPSHOT_CHUNK, chunk)
    await _write(writer, FrameType.SNAPSHOT_END, digest.digest())
    kind, body = await _read_frame(reader, _HEADER_BYTES_MAX, RESULT_SECONDS)
    if kind != FrameType.SNAPSHOT_RESULT or not body:
        raise FrameError(f"an unexpected frame of type {kind}")
    if not body[0]:
        raise SnapshotRefused(body[1:].decode(errors="replace"))


async def receive_snapshot(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    receiver: Receiver,
    *,
    sender: int,
    to: int,
    size_max: int,
    pool: Executor | None,
) -> Snapshot:
    """Take a snapshot from an authenticated connection, hand its message to the receiver, answer.

    Returns its name. OSError, EOFError, FrameError or RaftError when it did not come to that:
    the file is gone then, the receiver has not seen the message, and the sender was told if it
    still listens.
    """
    try:
        message, size = await _read_header(reader, sender, to, size_max)
        sink = receiver.begin_snapshot(message, size)
        await _read_file(reader, sink, size, pool)
    except (OSError, EOFError, FrameError, RaftError) as error:
        why = str(error) or type(error).__name__
        with suppress(ConnectionResetError):
            write(writer, pack_frame(FrameType.SNAPSHOT_RESULT, b"\x00" + why.encode()))
        raise
    receiver.receive(message)
    await _write(writer, FrameType.SNAPSHOT_RESULT, b"\x01")
    assert message.snapshot is not None, "looked at with the header"
    return message.snapshot


async def _read_header(
    reader: asyncio.StreamReader, sender: int, to: int, size_max: int
) -> tuple[Message, int]:
    kind, body = await _read_frame(reader, _HEADER_BYTES_MAX, IDLE_SECONDS)
    if kind != FrameType.SNAPSHOT_HEADER or len(body) < _SIZE.size:
        raise FrameError(f"a frame of type {kind} where the header should be")
    size = _SIZE.unpack_from(body)[0]
    message = decode_message(body[_SIZE.size :])
    if message.type != MessageType.SNAPSHOT or message.snapshot is None:
        raise FrameError("the header holds no snapshot message")
    if message.sender != sender or message.to != to:
        raise FrameError(f"a snapshot from {message.sender:x} to {message.to:x}")
    if size > size_max:
        raise FrameError(f"a snapshot of {size} bytes, at most {size_max} are allowed")
    return message, size


async def _read_file(
    reader: asyncio.StreamReader, sink: SnapshotSink, size: int, pool: Executor | None
) -> None:
    """Chunks into the sink until the end frame; the sink is finished or aborted on return."""
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()
    received = 0
    finished = False

    def write(chunk: bytes) -> None:
        digest.update(chunk)
        sink.write(chunk)

    try:
        while True:
            kind, body = await _read_frame(reader, CHUNK_BYTES + 1, IDLE_SECONDS)
            if kind != FrameType.SNAPSHOT_CHUNK:
                break
            received += len(body)
            if received > size:
                raise FrameError(f"more than the {size} bytes that were announced")
            await loop.run_in_executor(pool, write, body)
        if kind != FrameType.SNAPSHOT_END:
            raise FrameError(f"an unexpected frame of type {kind}")
        if received != size:
            raise FrameError(f"{received} bytes came, {size} were announced")
        if body != digest.digest():
            raise FrameError("the checksum is not the sender's")
        await loop.run_in_executor(pool, sink.finish)
        finished = True
    finally:
        if not finished:
            await loop.run_in_executor(pool, sink.abort)
