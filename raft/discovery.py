"""Asking a cluster who it is, before one belongs to it.

A member that joins, or that has lost its disk, knows addresses and nothing else. It says hello with
kind DISCOVER and no ids, and gets the answering member's cluster and, in one frame, a description
that the state machine wrote. Nothing it sends is believed, and nothing of it is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from raft.framing import HEAD_BYTES, FrameError, FrameType, unpack_head
from raft.handshake import Identity, NotAPeer, StreamKind, Verdict, pack_hello
from raft.peer_stream import HANDSHAKE_SECONDS, PeerUrl, read_answer, write
from raft.tls_port import Tls

DESCRIPTION_BYTES_MAX = 1 << 20

_NOBODY = Identity(0, 0, lambda member: False, lambda member: False)


class Discovered(NamedTuple):
    """What one member says of its cluster."""

    cluster: int
    member: int
    description: bytes


async def discover(
    urls: Iterable[str], client_tls: Tls | None, *, seconds: float = HANDSHAKE_SECONDS
) -> list[Discovered]:
    """Ask every URL at once; the answers that came in time, in the order of the URLs.

    ValueError for a URL that is not http(s)://host:port. Silence is no error: whoever is asked may
    not have started yet.
    """
    asked = [_ask(PeerUrl.parse(url), client_tls, seconds) for url in urls]
    return [found for found in await asyncio.gather(*asked) if found is not None]


async def _ask(url: PeerUrl, client_tls: Tls | None, seconds: float) -> Discovered | None:
    try:
        async with asyncio.timeout(seconds):
            return await _describe(url, client_tls)
    except (OSError, TimeoutError, EOFError, NotAPeer, FrameError):
        return None


async def _describe(url: PeerUrl, client_tls: Tls | None) -> Discovered | None:
    tls = client_tls.context() if client_tls is not None and url.tls else None
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
    try:
        write(writer, pack_hello(_NOBODY, StreamKind.DISCOVER, 0))
        answer = await read_answer(reader)
        if answer.verdict != Verdict.ACCEPTED:
            return None
        kind, length = unpack_head(await reader.readexactly(HEAD_BYTES), DESCRIPTION_BYTES_MAX)
        if kind != FrameType.DESCRIPTION:
            raise FrameError(f"an unexpected frame of type {kind}")
        return Discovered(answer.cluster, answer.member, await reader.readexactly(length))
    finally:
        writer.transport.abort()
