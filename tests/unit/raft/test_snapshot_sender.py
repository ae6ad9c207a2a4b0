"""From a SNAPSHOT message to the transport: busy, not possible, no longer wanted, on its way."""

from __future__ import annotations

from raft.checkpoints import Checkpoints
from raft.core.message import Message, MessageType
from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Snapshot
from raft.snapshot_sender import SnapshotSender
from raft.transport import SnapshotSource

from .driver_fixture import Copy

NAMED = Message(type=MessageType.SNAPSHOT, to=2, sender=1, term=3, snapshot=Snapshot(5, 2))


class Bench:
    """A sender whose surroundings are this object."""

    def __init__(self) -> None:
        self.copies: list[Copy] = []
        self.sent: list[tuple[Message, SnapshotSource]] = []
        self.ended: list[tuple[int, bool]] = []
        self.wanted = True
        self.possible = True
        self.checkpoints = Checkpoints(
            MemoryStorage(),
            marker=0,
            applied=0,
            conf_state=ConfState(),
            snapshot_count=1,
            catch_up_entries=0,
            log_bytes_max=1,
            now=lambda: 0.0,
        )
        self.sender = SnapshotSender(
            self,
            self,
            self.checkpoints,
            wanted=lambda message: self.wanted,
            ended=lambda member, ok: self.ended.append((member, ok)),
        )

    async def open_snapshot(self) -> Copy:
        if not self.possible:
            raise OSError(28, "No space left on device")
        self.copies.append(Copy(Snapshot(9, 3), [b"line"]))
        return self.copies[-1]

    def send_snapshot(self, message: Message, source: SnapshotSource) -> None:
        self.sent.append((message, source))


async def test_copy_goes_out_under_its_own_name() -> None:
    bench = Bench()
    await bench.sender.send(NAMED)
    (message, source), *others = bench.sent
    assert (message.snapshot, message.term, others) == (Snapshot(9, 3), 3, [])
    assert source is bench.copies[0]
    assert not bench.copies[0].closed
    # How it ends is the transport's to say; until then this member gets no second one.
    assert bench.ended == []
    await bench.sender.send(NAMED)
    assert (len(bench.sent), bench.ended) == (1, [(2, False)])
    assert not bench.checkpoints.begin_sending(2)


async def test_copy_that_cannot_be_made() -> None:
    bench = Bench()
    bench.possible = False
    await bench.sender.send(NAMED)
    assert (bench.sent, bench.ended) == ([], [(2, False)])
    assert bench.checkpoints.begin_sending(2)


async def test_copy_that_nobody_wants_any_more_is_closed() -> None:
    bench = Bench()
    bench.wanted = False
    await bench.sender.send(NAMED)
    assert (bench.sent, bench.ended) == ([], [(2, False)])
    assert bench.copies[0].closed
    assert bench.checkpoints.begin_sending(2)
