"""Clients: what they ask, how long they wait, and what they write down of the answers.

A client is outside of every life: it hears nothing of a process that has died, and gives up by its
own clock. Nobody asks twice for the same thing: what has no answer may have happened, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from node.api.kv import Kv
from node.api.lease import Lease
from node.apply.checks import check
from node.apply.errors import ApplyError, OutcomeUnknown, RequestError
from node.apply.requests import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.apply.responses import LeaseGrantResponse
from node.apply.txn import is_read_only, is_serializable
from node.server import Server
from tests.simulation.history import History
from tests.simulation.sim_cluster import SimCluster, SimMember
from tests.simulation.swarm import Options

_WIRE_SECONDS = 0.001
_REST_SECONDS = 0.1

Done = Callable[[Any], None]
Method = Callable[[Server, Done], Any]


class Refused(Exception):
    """Nobody listens: the request was not even sent."""


class Lost:
    """No answer came."""


LOST = Lost()


class Client:
    """One client, who asks one thing at a time."""

    def __init__(self, cluster: SimCluster, history: History, random: Random, name: str) -> None:
        self.cluster = cluster
        self.history = history
        self.random = random
        self.name = name
        self.timeout = 2.0

    def pick(self) -> SimMember:
        """Some member, as a client with a list of addresses does."""
        return self.random.choice(list(self.cluster.members.values()))

    async def ask(self, member: SimMember, name: str, request: Any, method: Method) -> Any:
        """The response, the error, or LOST; written down as an operation."""
        operation = self.history.begin(self.name, member.name, name, request)
        result = await self.call(member, method)
        if result is LOST or isinstance(result, OutcomeUnknown):
            self.history.journal.note("no answer", self.name, operation.number)
        else:
            self.history.end(operation, result)
        return result

    async def call(self, member: SimMember, method: Method) -> Any:
        """The same, not written down."""
        loop = self.cluster.loop
        answer: asyncio.Future[Any] = loop.create_future()
        context = self.cluster.network.context

        def answered(result: Any) -> None:
            if not answer.done():
                answer.set_result(result)

        def done(result: Any) -> None:
            loop.call_later(_WIRE_SECONDS, answered, result, context=context)

        def arrived() -> None:
            if not member.listening:
                done(Refused())
            else:
                member.call(serve)

        def serve() -> None:
            try:
                method(member.server, done)
            except RequestError as error:
                done(error)

        loop.call_later(_WIRE_SECONDS, arrived, context=context)
        try:
            async with asyncio.timeout(self.timeout):
                return await answer
        except TimeoutError:
            return LOST

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds * 2 * self.random.random())


class KvClient(Client):
    """Puts, reads, deletes, txns and compactions over a few keys."""

    def __init__(
        self, cluster: SimCluster, history: History, random: Random, name: str, options: Options
    ) -> None:
        super().__init__(cluster, history, random, name)
        self.timeout = options.client_timeout
        self._think = options.think
        self._keys = [b"k%02d" % number for number in range(options.keys)]
        self._made = 0
        self._revision = 1
        self._known: dict[bytes, tuple[int, int]] = {}
        self.running = True

    async def run(self) -> None:
        random = self.random
        kinds = (self._put, self._get, self._range, self._delete, self._txn, self._read_txn)
        # Who writes waits, where nobody leads; who only reads sees what a deposed leader says.
        weights = random.choice(((8, 5, 4, 2, 5, 1), (8, 5, 4, 2, 5, 1), (1, 20, 4, 0, 0, 4)))
        while self.running:
            member = self.pick()
            for _ in range(random.randint(1, 10)):
                (kind,) = random.choices(kinds, weights)
                result = await kind(member)
                if isinstance(result, Refused | Lost | ApplyError):
                    await self.rest(_REST_SECONDS)
                    break
                self._learn(result)
                await self.rest(self._think)

    def _learn(self, result: Any) -> None:
        self._revision = max(self._revision, getattr(result, "revision", 0))
        for kv in getattr(result, "kvs", ()):
            self._known[kv.key] = kv.mod_revision, kv.version

    # -- what is asked

    def _put(self, member: SimMember) -> Awaitable[Any]:
        request = self._a_put(self._key())
        return self.ask(member, "put", request, lambda s, done: Kv(s).put(request, None, done))

    def _get(self, member: SimMember) -> Awaitable[Any]:
        return self._read(member, self._a_range(self._key(), b""))

    def _range(self, member: SimMember) -> Awaitable[Any]:
        return self._read(member, self._a_range(*self._span()))

    def _read(self, member: SimMember, request: RangeRequest) -> Awaitable[Any]:
        name = "serializable" if request.serializable else "range"
        return self.ask(member, name, request, lambda s, done: Kv(s).range(request, None, done))

    def _delete(self, member: SimMember) -> Awaitable[Any]:
        request = self._a_delete()
        return self.ask(
            member, "delete", request, lambda s, done: Kv(s).delete_range(request, None, done)
        )

    def _txn(self, member: SimMember) -> Awaitable[Any]:
        request = self._a_txn(1)
        name = "txn"
        if is_read_only(request):
            name = "serializable txn" if is_serializable(request) else "read txn"
        return self.ask(member, name, request, lambda s, done: Kv(s).txn(request, None, done))

    def _read_txn(self, member: SimMember) -> Awaitable[Any]:
        serializable = self.random.random() < 0.3
        ops = [self._a_range(self._key(), b""), self._a_range(*self._span())]
        for each in ops:
            each.serializable, each.revision = serializable, 0
        compare = [self._a_compare()]
        branches = [[RequestOp(request_range=each)] for each in ops]
        request = TxnRequest(compare, *branches)
        name = "serializable txn" if serializable else "read txn"
        return self.ask(member, name, request, lambda s, done: Kv(s).txn(request, None, done))

    async def compact(self, member: SimMember, *, physical: bool) -> Any:
        """History up to some revision seen."""
        back = self.random.choice((0, 0, 1, 5, 50))
        request = CompactionRequest(max(1, self._revision - back), physical)
        return await self.ask(
            member, "compact", request, lambda s, done: Kv(s).compact(request, None, done)
        )

    # -- requests; every one that writes is told from all others by what it says

    def _unique(self) -> bytes:
        self._made += 1
        return b"%s-%d" % (self.name.encode(), self._made)

    def _key(self) -> bytes:
        return self.random.choice(self._keys)

    def _span(self) -> tuple[bytes, bytes]:
        start, end = sorted((self._key(), self._key()))
        return start, self.random.choice((end + b"\0", b"\0"))

    def _a_put(self, key: bytes) -> PutRequest:
        random = self.random
        value = self._unique() + b"." * random.choice((0, 0, 0, 300))
        put = PutRequest(key, value, prev_kv=random.random() < 0.3)
        if random.random() < 0.1:
            put.ignore_lease = True
        return put

    def _a_range(self, key: bytes, range_end: bytes) -> RangeRequest:
        random = self.random
        request = RangeRequest(key, range_end, serializable=random.random() < 0.3)
        if random.random() < 0.2:
            back = random.choice((-3, 0, 1, 5, 30))
            past = random.choice((self._revision - back, self.history.compacted))
            request.revision = max(1, past)
        if random.random() < 0.2:
            request.limit = random.randint(1, 3)
        if random.random() < 0.2:
            request.sort_order, request.sort_target = random.randint(1, 2), random.randint(0, 4)
        if random.random() < 0.1:
            request.keys_only = True
        elif random.random() < 0.1:
            request.count_only = True
        if random.random() < 0.1:
            request.min_mod_revision = max(1, self._revision - 20)
        return request

    def _a_delete(self) -> DeleteRangeRequest:
        key, end = self._key(), b""
        if self.random.random() < 0.3:
            key, last = sorted((key, self._key()))
            end = last
        # No key lies between: the bytes only tell this request from others.
        end = (end or key) + b"\0" + self._unique()
        return DeleteRangeRequest(key, end, prev_kv=self.random.random() < 0.5)

    def _a_compare(self) -> Compare:
        random = self.random
        key = self._key()
        mod, version = self._known.get(key, (0, 0))
        compare = Compare(random.choice((0, 0, 0, 1, 2, 3)), random.randint(0, 4), key)
        compare.mod_revision = compare.create_revision = mod
        compare.version = version
        compare.value = self._unique()
        if random.random() < 0.2:
            compare.range_end = b"\0"
        return compare

    def _a_txn(self, depth: int) -> TxnRequest:
        """Some that are refused for writing a key twice are drawn again."""
        while True:
            request = TxnRequest(
                [self._a_compare() for _ in range(self.random.randint(1, 2))],
                [self._an_op(depth) for _ in range(self.random.randint(1, 3))],
                [self._an_op(depth) for _ in range(self.random.randint(0, 2))],
            )
            try:
                check(request)
            except RequestError:
                continue
            return request

    def _an_op(self, depth: int) -> RequestOp:
        random = self.random
        kind = random.choice(("put", "put", "put", "range", "delete", "txn"))
        if kind == "txn" and depth < 3:
            return RequestOp(request_txn=self._a_txn(depth + 1))
        if kind == "delete":
            return RequestOp(request_delete_range=self._a_delete())
        if kind == "range":
            return RequestOp(request_range=self._a_range(*self._span()))
        return RequestOp(request_put=self._a_put(self._key()))


class Lessee(Client):
    """Grants leases, ties keys to them, renews them for a while, then revokes or forgets them."""

    ttls = (2, 2, 4)

    def __init__(
        self, cluster: SimCluster, history: History, random: Random, name: str, options: Options
    ) -> None:
        super().__init__(cluster, history, random, name)
        self.timeout = options.client_timeout
        self._made = 0
        self.running = True

    async def run(self) -> None:
        while self.running:
            granted = await self.grant(self.pick(), self.random.choice(self.ttls))
            if isinstance(granted, LeaseGrantResponse):
                await self._use(granted)
            await self.rest(_REST_SECONDS)

    async def grant(self, member: SimMember, ttl: int) -> Any:
        """A lease that nobody had before."""
        self._made += 1
        number = (int.from_bytes(self.name.encode()) << 20) + self._made
        request = LeaseGrantRequest(ttl, number)
        return await self.ask(
            member, "grant", request, lambda s, done: _lease(s).grant(request, None, done)
        )

    async def _use(self, lease: LeaseGrantResponse) -> None:
        random = self.random
        for number in range(random.randint(0, 3)):
            key = b"l/%s/%d" % (self.name.encode(), number % 2)
            value = b"%d-%d" % (lease.ID, number)
            put = PutRequest(key, value, lease.ID)
            if random.random() < 0.3:
                # What it keeps is a lease, if the key was put before.
                put = PutRequest(key, value, ignore_lease=True)
            await self.ask(self.pick(), "put", put, lambda s, done, p=put: Kv(s).put(p, None, done))
        renewals = random.choice((0, 1, 3, 6))
        for _ in range(renewals):
            if not self.running:
                return
            await self.rest(lease.TTL / 3)
            if await self.renew(self.pick(), lease.ID) == 0:
                return
        if random.random() < 0.4:
            revoke = LeaseRevokeRequest(lease.ID)
            await self.ask(
                self.pick(), "revoke", revoke, lambda s, done: _lease(s).revoke(revoke, None, done)
            )

    async def renew(self, member: SimMember, number: int) -> Any:
        """The TTL, 0, an error, or LOST."""
        operation = self.history.begin(self.name, member.name, "renew", number)

        def method(server: Server, done: Done) -> None:
            ttl = server.leases.renew_now(number)
            if ttl is not None:
                done(ttl)
            else:
                member.spawn(lambda: server.leases.renew([number]), done)

        result = await self.call(member, method)
        ttl = result[0] if isinstance(result, list) else result
        if isinstance(ttl, int):
            self.history.end(operation, ttl)
        return ttl


class Locker(Lessee):
    """Takes a lock with a lease of its own, holds it for a moment, lets go."""

    ttls = (4,)

    async def run(self) -> None:
        self.timeout = 4.0
        await super().run()

    async def _use(self, lease: LeaseGrantResponse) -> None:
        number = lease.ID
        claim = await self._spawned(
            self.pick(), "lock", number, lambda server: server.claims.lock(b"lock", number, None)
        )
        key = getattr(claim, "key", None)
        if key is None:
            return
        await self.rest(_REST_SECONDS)
        await self._spawned(
            self.pick(), "unlock", key, lambda server: server.claims.unlock(key, None)
        )

    def _spawned(self, member: SimMember, name: str, request: Any, method: Any) -> Awaitable[Any]:
        return self.ask(
            member, name, request, lambda server, done: member.spawn(lambda: method(server), done)
        )


def _lease(server: Server) -> Lease:
    return Lease(server, lambda coroutine, done: None, new_id=lambda: 1)
