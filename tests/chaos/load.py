"""Clients of all kinds, each in a thread: registers, transactions, leases, watches with resume.

They speak to one member at a time over HTTP, go to the next when it does not answer, and write down
everything. Values are unique, so that whoever reads one names its write.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from tests.chaos.history import Event, Heard, History, LeaseLog, Operation, WatchLog, now
from tests.chaos.model import (
    Action,
    Answer,
    Compare,
    Request,
    Row,
    cas,
    delete,
    get,
    put,
)
from tests.cluster.client import NO_ANSWER, ApiError, Client, b64, key_value

TIMEOUT_SECONDS = 2.5
"""Less than a member takes to give up: clients learn less, so more outcomes are unknown."""
EPOCH_SECONDS = 3.0
EPOCH_KEYS = 4
LONG_KEYS = 6
SILENCE_SECONDS = 5.0
"""A watch asks for progress every second or so; a stream silent for this long is left."""
LEASE_TTL_SECONDS = 3
NOTHING_HAPPENED = (
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "etcdserver: mvcc: database space exceeded",
    "etcdserver: requested lease not found",
)
"""Refusals that are promises. All other errors leave the outcome open."""

OPEN = {"key": b64(b"\0"), "range_end": b64(b"\0")}


class Addresses:
    """Where the members are at present; membership changes put others in their place."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.urls = dict(urls)

    def choose(self, chance: random.Random, not_this: str = "") -> tuple[str, str]:
        names = [name for name in sorted(self.urls) if name != not_this] or sorted(self.urls)
        name = chance.choice(names)
        return name, self.urls[name]


class Worker(threading.Thread):
    """Some client; subclasses say what one turn does."""

    def __init__(self, name: str, seed: str, addresses: Addresses, history: History) -> None:
        super().__init__(name=name, daemon=True)
        self.history = history
        self.chance = random.Random(seed)
        self.addresses = addresses
        self.over = threading.Event()
        self.reconnect = threading.Event()
        self.failure: Exception | None = None
        self.member = ""
        self._client: Client | None = None

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.turn()
        except Exception as error:
            # Told by `Load.stop`: a client that is wrong must not pass for a quiet one.
            self.failure = error
        finally:
            self.move()

    def turn(self) -> None:
        raise NotImplementedError

    def client(self) -> Client:
        if self.reconnect.is_set():
            self.reconnect.clear()
            self.move()
        if self._client is None:
            self.member, url = self.addresses.choose(self.chance, self.member)
            self._client = Client(url, TIMEOUT_SECONDS)
        return self._client

    def move(self) -> None:
        """To another member, by the next call."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def ask(self, request: Request, *, serializable: bool = False) -> Operation:
        """One operation, written down from its call to its end."""
        client = self.client()
        operation = self.history.add(self.name, self.member, request, serializable=serializable)
        try:
            answer, revision = perform(client, request, serializable=serializable)
        except ApiError as error:
            operation.error = error.message
            if error.message in NOTHING_HAPPENED or error.status == 404:
                operation.outcome = "refused"
            self.move()
        except NO_ANSWER as error:
            operation.error = repr(error)
            self.move()
        else:
            operation.returned = now()
            operation.answer, operation.revision, operation.outcome = answer, revision, "ok"
        if operation.outcome != "ok":
            self.over.wait(0.05)
        return operation


def perform(client: Client, request: Request, *, serializable: bool) -> tuple[Answer, int]:
    """Ask in the plainest call that there is for it; the answer in the model's words."""
    match request:
        case Request((), (Action("get", key),), ()):
            body = {"key": b64(key), "serializable": serializable}
            answer = client.call("kv/range", body)
            return Answer(True, (_row(answer),)), _revision(answer)
        case Request((), (Action("put", key, value, lease),), ()):
            body = {"key": b64(key), "value": b64(value), "lease": lease}
            return Answer(True, (None,)), _revision(client.call("kv/put", body))
        case Request((), (Action("delete", key),), ()):
            answer = client.call("kv/deleterange", {"key": b64(key)})
            return Answer(True, (int(answer.get("deleted", 0)),)), _revision(answer)
    answer = client.txn(
        [_compare(each) for each in request.compare],
        [_action(each) for each in request.success],
        [_action(each) for each in request.failure],
    )
    succeeded = answer.get("succeeded", False)
    taken = request.success if succeeded else request.failure
    responses = answer.get("responses", [])
    assert len(responses) == len(taken), answer
    results = tuple(map(_result, taken, responses))
    return Answer(succeeded, results), _revision(answer)


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer["header"]["revision"])


def _row(answer: Mapping[str, Any]) -> Row | None:
    rows = answer.get("kvs", [])
    return row_of(rows[0]) if rows else None


def row_of(kv: Mapping[str, Any]) -> Row:
    found = key_value(kv)
    return Row(found.value, found.version, found.create_revision, found.mod_revision)


def _compare(compare: Compare) -> dict[str, Any]:
    body = {"key": b64(compare.key), "result": "EQUAL", "target": compare.target.upper()}
    if isinstance(compare.operand, bytes):
        return {**body, "value": b64(compare.operand)}
    field = {"version": "version", "mod": "mod_revision"}[compare.target]
    return {**body, field: compare.operand}


def _action(action: Action) -> dict[str, Any]:
    key = {"key": b64(action.key)}
    match action.name:
        case "get":
            return {"request_range": key}
        case "put":
            return {"request_put": {**key, "value": b64(action.value), "lease": action.lease}}
    return {"request_delete_range": key}


def _result(action: Action, response: Mapping[str, Any]) -> Row | int | None:
    match action.name:
        case "get":
            return _row(response["response_range"])
        case "delete":
            return int(response["response_delete_range"].get("deleted", 0))
    return None


class Writer(Worker):
    """Gets, puts, deletes, compare-and-swaps and transactions over several keys."""

    def __init__(self, *arguments: Any, pause_seconds: float, epochs: int) -> None:
        super().__init__(*arguments)
        self._pause_seconds = pause_seconds
        self._epochs = epochs
        self._known: dict[bytes, Row | None] = {}
        self._count = 0

    def value(self) -> bytes:
        self._count += 1
        return f"{self.name} {self._count}".encode()

    def epoch(self) -> bytes:
        """The prefix of the keys that are written now."""
        number = int(time.monotonic() / EPOCH_SECONDS)
        return b"again/%d" % (number % self._epochs) if self._epochs else b"e/%d" % number

    def turn(self) -> None:
        epoch = self.epoch()
        if self.chance.random() < 0.5:
            self.register(b"%s/r%d" % (epoch, self.chance.randrange(EPOCH_KEYS)))
        elif self.chance.random() < 0.6:
            keys = [b"%s/m%d" % (epoch, number) for number in range(EPOCH_KEYS)]
            self.transaction(self.chance.sample(keys, 2))
        else:
            self.register(b"long/%d" % self.chance.randrange(LONG_KEYS))
        self.over.wait(self._pause_seconds * self.chance.uniform(0.5, 1.5))

    def register(self, key: bytes) -> None:
        seen = self._known.get(key)
        match self.chance.randrange(10):
            case 0 | 1 | 2:
                operation = self.ask(get(key))
            case 3:
                operation = self.ask(get(key), serializable=True)
            case 4 | 5 | 6:
                operation = self.ask(put(key, self.value()))
            case 7:
                operation = self.ask(delete(key))
            case 8:
                operation = self.ask(cas(key, seen.value if seen else b"", self.value()))
            case _:
                operation = self.ask(self.put_if_unmoved(key, seen))
        if operation.answer and isinstance(row := operation.answer.results[0], Row):
            self._known[key] = row

    def put_if_unmoved(self, key: bytes, seen: Row | None) -> Request:
        compare = Compare("mod", key, seen.mod if seen else 0)
        return Request((compare,), (Action("put", key, self.value()),), (Action("get", key),))

    def transaction(self, keys: Sequence[bytes]) -> None:
        one, other = keys
        match self.chance.randrange(4):
            case 0:
                request = Request(success=(Action("get", one), Action("get", other)))
            case 1:
                value = self.value()
                request = Request(success=(Action("put", one, value), Action("put", other, value)))
            case 2:
                request = Request(
                    (Compare("version", one, 0),),
                    (Action("put", one, self.value()), Action("get", other)),
                    (Action("delete", one), Action("put", other, self.value())),
                )
            case _:
                request = Request(success=(Action("get", one), Action("put", other, self.value())))
        self.ask(request)


class Lessee(Worker):
    """One lease after the other: some are renewed for a while, some revoked, all must end."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._count = 0

    def turn(self) -> None:
        self._count += 1
        log = self.grant()
        if log is None:
            self.over.wait(0.2)
            return
        self.ask(put(log.key, log.key, log.number))
        for _ in range(self.chance.randrange(4)):
            if self.over.wait(self.chance.uniform(0.2, 1.2)):
                return
            self.renew(log)
        if self.chance.random() < 0.3:
            log.revoked = now()
            with suppress(ApiError, *NO_ANSWER):
                self.client().call("lease/revoke", {"ID": log.number})

    def grant(self) -> LeaseLog | None:
        called = now()
        try:
            answer = self.client().call("lease/grant", {"TTL": LEASE_TTL_SECONDS})
        except (ApiError, *NO_ANSWER):
            self.move()
            return None
        key = b"lease/%s/%d" % (self.name.encode(), self._count)
        log = LeaseLog(int(answer["ID"]), key, int(answer["TTL"]), [called])
        self.history.leases.append(log)
        return log

    def renew(self, log: LeaseLog) -> None:
        called = now()
        try:
            _, body = self.client().send(
                "POST", "/v3/lease/keepalive", json.dumps({"ID": log.number}).encode()
            )
        except NO_ANSWER:
            self.move()
            return
        lines = body.splitlines()
        answer = json.loads(lines[0]) if lines else {}
        if int(answer.get("result", {}).get("TTL", 0)) > 0:
            log.renewed.append(called)
        else:
            self.move()


class Watcher(Worker):
    """All keys from a revision on, over as many connections as it takes."""

    def __init__(self, *arguments: Any, home: str, start: int) -> None:
        super().__init__(*arguments)
        self._home = home
        self.log = WatchLog(self.name, start)
        self.history.watches.append(self.log)
        self.streams = 0

    def turn(self) -> None:
        name = self._home
        if name not in self.addresses.urls or self.streams % 2:
            name, _ = self.addresses.choose(self.chance, name)
        self.streams += 1
        with suppress(OSError, ValueError):
            self._listen(name, self.addresses.urls[name])
        self.over.wait(0.1)

    def _listen(self, name: str, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        create = {**OPEN, "start_revision": self.log.due, "progress_notify": True}
        body = json.dumps({"create_request": create}).encode()
        head = f"POST /v3/watch HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}"
        with socket.create_connection((parts.hostname, parts.port), TIMEOUT_SECONDS) as stream:
            stream.settimeout(SILENCE_SECONDS)
            stream.sendall(head.encode() + b"\r\n\r\n" + body)
            with stream.makefile("rb") as file:
                while file.readline().strip():
                    continue
                while not self._ends() and (size := int(file.readline(), 16)):
                    if not self._hear(name, json.loads(file.read(size))):
                        return
                    file.readline()

    def _ends(self) -> bool:
        """Whether this connection has been wanted long enough."""
        if self.reconnect.is_set():
            self.reconnect.clear()
            return True
        return self.over.is_set()

    def _hear(self, name: str, message: Mapping[str, Any]) -> bool:
        """Whether the stream goes on."""
        if "error" in message:
            return False
        result = message["result"]
        at, revision = now(), int(result.get("header", {}).get("revision", 0))
        if result.get("canceled"):
            compacted = int(result.get("compact_revision", 0))
            if compacted:
                self.log.heard.append(Heard(at, name, "compacted", compacted))
                self.over.set()
            return False
        if result.get("created"):
            self.log.heard.append(Heard(at, name, "created", revision))
        elif events := tuple(map(_event, result.get("events", ()))):
            self.log.heard.append(Heard(at, name, "events", revision, events))
        else:
            self.log.heard.append(Heard(at, name, "progress", revision))
        return True


def _event(event: Mapping[str, Any]) -> Event:
    kv = key_value(event["kv"])
    row = None if event.get("type") == "DELETE" else row_of(event["kv"])
    return Event(kv.key, row, kv.mod_revision)


class Load:
    """All clients of one run. `epochs` not 0: keys come again after that many epochs."""

    def __init__(
        self,
        addresses: Addresses,
        history: History,
        *,
        seed: int,
        writers: int,
        rate: float,
        epochs: int = 0,
    ) -> None:
        self.history = history
        self.addresses = addresses
        paced = {"pause_seconds": writers / rate, "epochs": epochs}
        self.workers: list[Worker] = [
            Writer(f"w{n}", f"{seed} w{n}", addresses, history, **paced) for n in range(writers)
        ]
        self.workers += [Lessee(f"l{n}", f"{seed} l{n}", addresses, history) for n in range(2)]
        self.watchers = [
            Watcher(f"watch-{name}", f"{seed} {name}", addresses, history, home=name, start=2)
            for name in sorted(addresses.urls)
        ]

    def start(self) -> None:
        for worker in (*self.watchers, *self.workers):
            worker.start()

    def told(self) -> int:
        """The highest revision that every watcher has been told."""
        return min(watcher.log.due for watcher in self.watchers) - 1

    def stop_writing(self) -> None:
        _stop(self.workers)

    def stop(self) -> None:
        _stop(self.workers)
        _stop(self.watchers)


def _stop(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.over.set()
    for worker in workers:
        if worker.is_alive():
            worker.join(SILENCE_SECONDS + 3 * TIMEOUT_SECONDS)
        if worker.failure is not None:
            raise AssertionError(f"client {worker.name} failed") from worker.failure
        assert not worker.is_alive(), f"client {worker.name} does not end"
