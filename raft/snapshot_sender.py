"""SnapshotSender: from the core's wish to send a snapshot to the stream that carries it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from raft.checkpoints import Checkpoints
from raft.core.message import Message
from raft.state_machine import StateMachine
from raft.transport import Transport

log = logging.getLogger("esker.raft")


class SnapshotSender:
    """Opens a copy of the state machine for each SNAPSHOT message and hands both to the transport.

    The copy is newer than what the message names, so its own name goes out. `wanted(message)` says
    whether the message still makes sense once the copy is there, `ended(member, ok)` is told
    exactly once about each message that never reaches the transport.
    """

    def __init__(
        self,
        machine: StateMachine,
        transport: Transport,
        checkpoints: Checkpoints,
        *,
        wanted: Callable[[Message], bool],
        ended: Callable[[int, bool], None],
    ) -> None:
        self._machine = machine
        self._transport = transport
        self._checkpoints = checkpoints
        self._wanted = wanted
        self._ended = ended

    async def send(self, message: Message) -> None:
        """Returns when the transport has it, or it has failed."""
        member = message.to
        if not self._checkpoints.begin_sending(member):
            self._ended(member, False)
            return
        source = None
        try:
            source = await self._machine.open_snapshot()
        except OSError as error:
            log.warning("no snapshot for member %x: %s", member, error)
        if source is None or not self._wanted(message):
            if source is not None:
                await asyncio.get_running_loop().run_in_executor(None, source.close)
            self._checkpoints.ended_sending(member)
            self._ended(member, False)
            return
        index, size = source.snapshot.index, source.size
        log.info("sending a snapshot of index %d (%d bytes) to member %x", index, size, member)
        message = msgspec.structs.replace(message, snapshot=source.snapshot)
        self._transport.send_snapshot(message, source)
