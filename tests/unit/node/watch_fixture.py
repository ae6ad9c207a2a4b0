"""A server whose store and watches are real, around which everything else is faked."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from mvcc.memory_backend import MemoryBackend
from mvcc.store import Store
from node.api.errors import Refusal
from node.api.kv_json import Header
from node.api.methods import Credentials
from node.api.watch import WatchSession
from node.apply.errors import PermissionDenied, UserEmpty
from node.apply.requests import Identity
from node.watches import Watches
from tests.unit.node.fake_server import FakeConfig, FakeServer
from tests.unit.node.test_door import FakeLoop


class FakeAuth:
    """Users are their own tokens; `may` is who may read which keys. At revision `logins_from` they
    all got new passwords.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.logins_from = 0
        self.store = SimpleNamespace(
            revision=1, login_holds=lambda user, revision: revision >= self.logins_from
        )
        self.may: dict[str, set[bytes]] = {}

    def identify(self, token: str, _common_name: str) -> Identity:
        if not token:
            raise UserEmpty
        return Identity(token, self.store.revision)

    def check_range(self, identity: Identity, key: bytes, _range_end: bytes) -> None:
        assert identity.revision == self.store.revision
        if key not in self.may.get(identity.user, ()):
            raise PermissionDenied


class FakeSink:
    def __init__(self) -> None:
        self.full = False
        self.messages: list[bytes] = []
        self.sends = 0
        self.finished: list[Refusal | None] = []

    def send(self, messages: Any) -> None:
        self.messages += messages
        self.sends += 1

    def finish(self, told: Refusal | None = None) -> None:
        self.finished.append(told)

    def results(self) -> list[dict[str, Any]]:
        """Everything so far, without headers but for their revision under "at"."""
        found = []
        for message in self.messages:
            assert message.endswith(b"\n")
            result = json.loads(message)["result"]
            header = result.pop("header")
            found.append({"at": int(header.get("revision", 0)), **result})
        self.messages.clear()
        return found


class WatchBench:
    """`put` and `delete` write to the store; `turn` lets the loop run."""

    def __init__(self, **config: Any) -> None:
        self.loop = FakeLoop()
        self.server: Any = FakeServer(FakeConfig(**config))
        self.store = Store(MemoryBackend())
        for _ in self.store.restore():
            pass
        self.server.store = self.store
        self.auth = self.server.auth = FakeAuth()
        self.watches = self.server.watches = Watches(
            self.store,
            call_soon=self.loop.call_soon,
            stamp=lambda: (self.auth.enabled, self.auth.store.revision, self.server.leaderless),
        )

    def put(self, *keys: bytes, value: bytes = b"v") -> int:
        txn = self.store.write()
        for key in keys:
            txn.put(key, value)
        return txn.end()

    def delete(self, key: bytes) -> int:
        txn = self.store.write()
        txn.delete_range(key)
        return txn.end()

    def session(
        self, token: str = "", sink: FakeSink | None = None, *, needs_leader: bool = False
    ) -> tuple[Any, FakeSink]:
        sink = sink or FakeSink()
        header = Header(self.server.cluster_id, self.server.member_id)
        credentials = Credentials(token, needs_leader=needs_leader)
        return WatchSession(self.server, header, sink, credentials), sink

    def turn(self) -> None:
        while self.watches.store.behind:
            self.watches.store.catch_up()
        self.loop.run()
