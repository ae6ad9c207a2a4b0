"""Corruption checks: do the members hold the same history?

Each hashes its rows up to one revision, and the leader compares (`mvcc.hash_kv`). Hashes may be
compared when revision and compact revision are equal. Three checks ask for them, all off by
default, because a hash reads every row:

    initial         before this member serves clients: who differs from any other does not start
    periodic        the leader, of all members as of now
    compact hash    the leader, of the state that a compaction left

After a finished compaction a member hashes what is left and keeps the hash, so a comparison does
not depend on who has written or compacted what since. Whether the job ran through or was resumed
after a crash is all the same, for what is hashed is not what it visited but what it kept.

Who differs from a majority of all members is named by a CORRUPT alarm; without a majority the alarm
names member 0. A member that does not answer, or has not that revision, is passed over and logged.
The transport lets only members of this cluster ask and answer (its hello carries the cluster's id),
so a wrong address cannot look like corruption.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mvcc.errors import Compacted, FutureRevision, SnapshotExpired
from mvcc.hash_kv import HashKV
from node.apply import errors
from node.apply.requests import CLUSTER, AlarmAction, AlarmRequest, AlarmType
from node.bootstrap import BootstrapError
from node.peer_calls import PeerCall
from node.waiting import answer_of
from raft.core.types import NONE
from raft.transport import CallFailed, PeerUnavailable

if TYPE_CHECKING:
    from node.server import Server

log = logging.getLogger("esker.corruption")

HASHES_MAX = 10
"""Compactions whose hash is kept: as etcd does, ten minutes of one a minute."""
_ASK_SECONDS = 60.0
"""For an answer: a peer reads all its rows for it."""
_CONNECT_SECONDS = 3.0
"""For a peer to be reached at the start, when all members may just be starting."""
_RETRY_SECONDS = 0.1
_UNHASHABLE = (Compacted, FutureRevision, SnapshotExpired)


class CorruptMember(BootstrapError):
    """This member's data differ from another's; it must not serve them."""


class HashQuestion(msgspec.Struct):
    """The hash of your history up to `revision`."""

    revision: int


class HashAnswer(msgspec.Struct):
    """`hash` None: that revision cannot be read there. `compact_revision` is the hash's; the last
    two are as of the answer.
    """

    hash: int | None
    compact_revision: int
    current_rev: int
    compact_rev: int


class Comparison(NamedTuple):
    """`hashes` by member, this one among them; `ahead` have seen more than this one by then."""

    hashes: dict[int, int]
    ahead: list[int]
    complete: bool


class CorruptionCheck:
    """One member's part in all three checks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._store = server.store
        self._hashes: deque[HashKV] = deque(maxlen=HASHES_MAX)
        self._compacted_to = 0
        self._compacted = asyncio.Event()
        self._checked_to = 0
        server.peer_calls.answer(PeerCall.HASH_KV, HashQuestion, self._answer)

    def compaction_finished(self, revision: int) -> None:
        """The compactor's: the rows of this compaction are gone."""
        self._compacted_to = revision
        self._compacted.set()

    async def run(self) -> None:
        """The task: ends only by cancellation. Does what the settings ask for."""
        config = self._server.config
        async with asyncio.TaskGroup() as tasks:
            if config.corrupt_check_time:
                tasks.create_task(_every(config.corrupt_check_time, self.check_now))
            if config.compact_hash_check_enabled:
                tasks.create_task(self._hash_compactions())
                tasks.create_task(_every(config.compact_hash_check_time, self.check_compactions))

    # -- the checks

    async def check_at_start(self) -> None:
        """CorruptMember when another member holds another history."""
        own = await self._hash(0)
        if own is None:
            return
        compared = await self._compare(own, patience=_CONNECT_SECONDS)
        others = {member: value for member, value in compared.hashes.items() if value != own.hash}
        if others:
            raise CorruptMember(
                f"the data of this member differ at revision {own.revision} from those of"
                f" {', '.join(f'{member:x}' for member in others)} (hash {own.hash}, theirs"
                f" {', '.join(map(str, others.values()))}). If most others agree with each other,"
                " remove this member, empty its data directory, and add it again"
            )
        log.info(
            "this member's data are those of the others",
            extra={"rev": own.revision, "compared": len(compared.hashes) - 1},
        )

    async def check_now(self) -> None:
        """The periodic check; nothing on a member that does not lead."""
        if not self._server.is_leader:
            return
        own = await self._hash(0)
        if own is None:
            return
        compared = await self._compare(own)
        suspects = differing(compared.hashes, len(self._server.members.list()))
        again = await self._hash(own.revision)
        if again is not None and _comparable(again, own) and again.hash != own.hash:
            suspects.append(self._server.member_id)
        self._alarm([*suspects, *compared.ahead], own)

    async def check_compactions(self) -> None:
        """The newest compaction that all members could be asked about, once."""
        # While the others are asked, another compaction may end.
        for own in reversed(list(self._kept())):
            if not self._server.is_leader or own.revision <= self._checked_to:
                return
            compared = await self._compare(own)
            suspects = differing(compared.hashes, len(self._server.members.list()))
            self._alarm([*suspects, *compared.ahead], own)
            if compared.complete or suspects:
                self._checked_to = own.revision
                return

    def _alarm(self, suspects: list[int], own: HashKV) -> None:
        for member in sorted(set(suspects)):
            if self._server.alarms.raised(member, AlarmType.CORRUPT):
                continue
            where = {"rev": own.revision, "compacted": own.compact_revision}
            log.error("members hold different data", extra={"member": f"{member:x}", **where})
            request = AlarmRequest(AlarmAction.ACTIVATE, member, AlarmType.CORRUPT)
            self._server.propose(request, _log_refusal, CLUSTER)

    # -- hashes

    async def _hash_compactions(self) -> None:
        """Hash what each compaction leaves, but for one that the next has already replaced."""
        while True:
            await self._compacted.wait()
            self._compacted.clear()
            revision = self._compacted_to
            value = await self._hash(revision)
            if value is not None and value.compact_revision == revision:
                self._kept().append(value)

    def _kept(self) -> deque[HashKV]:
        """The hashes of the present store; an installed snapshot brings another."""
        if self._store is not self._server.store:
            self._store = self._server.store
            self._hashes.clear()
        return self._hashes

    async def _hash(self, revision: int) -> HashKV | None:
        """This member's hash; None when a compaction or a snapshot came between."""
        try:
            return await self._server.maintenance.hash_kv(revision)
        except _UNHASHABLE as error:
            log.info("not hashed", extra={"rev": revision, "why": str(error)})
            return None

    async def _answer(self, _sender: int, question: HashQuestion) -> HashAnswer:
        if question.revision < 1:
            raise CallFailed(f"revision {question.revision} has no hash")
        kept = (value for value in self._kept() if value.revision == question.revision)
        value = next(kept, None) or await self._hash(question.revision)
        store = self._server.store
        if value is None:
            return HashAnswer(None, 0, store.current_rev, store.compact_rev)
        return HashAnswer(value.hash, value.compact_revision, store.current_rev, store.compact_rev)

    # -- asking the others

    async def _compare(self, own: HashKV, patience: float = 0.0) -> Comparison:
        """Ask all other members. `patience` seconds for those that are not reached yet."""
        server = self._server
        others = [each.ID for each in server.members.list() if server.member_id != each.ID]
        answers = dict(
            zip(
                others,
                await asyncio.gather(*(self._ask(each, own, patience) for each in others)),
                strict=True,
            )
        )
        hashes = {server.member_id: own.hash}
        for member, answer in answers.items():
            if answer is not None and answer.hash is not None:
                if answer.compact_revision == own.compact_revision:
                    hashes[member] = answer.hash
                else:
                    log.info("not comparable", extra={"peer": f"{member:x}", "rev": own.revision})
        return Comparison(hashes, await self._ahead(answers), len(hashes) == len(others) + 1)

    async def _ahead(self, answers: Mapping[int, HashAnswer | None]) -> list[int]:
        """Members that had seen a revision or a compaction that a linearizable read does not see
        now: no log they share with this leader can have brought it.
        """
        server = self._server
        if not server.is_leader:
            return []
        try:
            await answer_of(server.linearizable)
        except errors.ApplyError as error:
            log.info("no longer sure to lead", extra={"why": repr(error)})
            return []
        store = server.store
        return [
            member
            for member, answer in answers.items()
            if answer is not None
            and (answer.current_rev > store.current_rev or answer.compact_rev > store.compact_rev)
        ]

    async def _ask(self, member: int, own: HashKV, patience: float) -> HashAnswer | None:
        calls = self._server.peer_calls
        question = HashQuestion(own.revision)
        deadline = self._loop.time() + patience
        while True:
            try:
                return await calls.ask(member, PeerCall.HASH_KV, question, HashAnswer, _ASK_SECONDS)
            except (PeerUnavailable, CallFailed) as error:
                if self._loop.time() >= deadline:
                    why = {"peer": f"{member:x}", "why": str(error)}
                    log.warning("a member gives no hash and is passed over", extra=why)
                    return None
            await asyncio.sleep(_RETRY_SECONDS)


def differing(hashes: Mapping[int, int], members: int) -> list[int]:
    """Whose hash is not the one that a majority of all `members` has; [0] when none has one.

    >>> differing({1: 5, 2: 5, 3: 6}, 3), differing({1: 5, 2: 6}, 3), differing({1: 5, 2: 5}, 3)
    ([3], [0], [])
    """
    counts = Counter(hashes.values()).most_common(1)
    (value, count) = counts[0]
    if count == len(hashes):
        return []
    if count <= members // 2:
        return [NONE]
    return sorted(member for member, other in hashes.items() if other != value)


def _comparable(one: HashKV, other: HashKV) -> bool:
    return (one.revision, one.compact_revision) == (other.revision, other.compact_revision)


def _log_refusal(result: object) -> None:
    if isinstance(result, Exception):
        log.warning("the alarm was not raised", extra={"why": repr(result)})


async def _every(interval_ms: int, check: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_ms / 1e3)
        await check()
