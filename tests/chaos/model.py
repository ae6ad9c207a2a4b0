"""What one store that nobody disturbs would answer: requests, rows, and a function between them.

Every request is a transaction: a get is one without comparisons and one action. Pure, and without
imports of ours, so that any checker can use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One key's state. A model that knows no revisions leaves the last two 0."""

    value: bytes
    version: int
    create: int = 0
    mod: int = 0


class Compare(NamedTuple):
    """`target` of the key equals `operand`: "value", "version" or "mod" (0: no such key)."""

    target: str
    key: bytes
    operand: bytes | int


class Action(NamedTuple):
    """`name`: "get", "put" or "delete"; a lease for puts only."""

    name: str
    key: bytes
    value: bytes = b""
    lease: int = 0


class Request(NamedTuple):
    compare: tuple[Compare, ...] = ()
    success: tuple[Action, ...] = ()
    failure: tuple[Action, ...] = ()

    @property
    def keys(self) -> set[bytes]:
        return {each.key for part in self for each in part}

    @property
    def writes(self) -> bool:
        return any(each.name != "get" for each in (*self.success, *self.failure))


class Answer(NamedTuple):
    """`results` of the branch taken: a get's row or None, a put's None, a delete's count."""

    succeeded: bool
    results: tuple[Row | int | None, ...]


Changes = dict[bytes, Row | None]
State = tuple[tuple[bytes, Row], ...]
"""Rows by key, ascending: hashable, for searches that remember where they have been."""


def get(key: bytes) -> Request:
    return Request(success=(Action("get", key),))


def put(key: bytes, value: bytes, lease: int = 0) -> Request:
    return Request(success=(Action("put", key, value, lease),))


def delete(key: bytes) -> Request:
    return Request(success=(Action("delete", key),))


def cas(key: bytes, old: bytes, new: bytes) -> Request:
    """Replace the value; who fails reads it."""
    return Request((Compare("value", key, old),), (Action("put", key, new),), (Action("get", key),))


def holds(compare: Compare, row: Row | None) -> bool:
    """As etcd has it: a key that is not there has version 0, and its value equals nothing."""
    match compare.target:
        case "value":
            return row is not None and row.value == compare.operand
        case "version":
            return (row.version if row else 0) == compare.operand
        case "mod":
            return (row.mod if row else 0) == compare.operand
    raise ValueError(f"no such target: {compare.target}")


def run(
    request: Request, read: Callable[[bytes], Row | None], revision: int = 0
) -> tuple[Answer, Changes]:
    """What `request` answers and changes if it gets `revision`; a later action sees the earlier."""
    succeeded = all(holds(compare, read(compare.key)) for compare in request.compare)
    changes: Changes = {}
    results: list[Row | int | None] = []
    for action in request.success if succeeded else request.failure:
        row = changes[action.key] if action.key in changes else read(action.key)
        match action.name:
            case "get":
                results.append(row)
            case "put":
                create = row.create if row else revision
                version = row.version + 1 if row else 1
                changes[action.key] = Row(action.value, version, create, revision)
                results.append(None)
            case "delete":
                if row is not None:
                    changes[action.key] = None
                results.append(int(row is not None))
            case _:
                raise ValueError(f"no such action: {action.name}")
    return Answer(succeeded, tuple(results)), changes


def step(state: State, request: Request) -> tuple[State, Answer]:
    """The model for searches: no revisions, states that can be hashed."""
    rows = dict(state)
    answer, changes = run(request, rows.get)
    if not changes:
        return state, answer
    rows |= {key: row for key, row in changes.items() if row is not None}
    gone = {key for key, row in changes.items() if row is None}
    return tuple(sorted(item for item in rows.items() if item[0] not in gone)), answer


def without_revisions(request: Request, answer: Answer | None) -> tuple[Request, Answer | None]:
    """The same for `step`. Comparisons of revisions, which it cannot judge, are believed: with an
    answer the branch taken is all there is to do, without one it may be done or not.
    """
    plain = None
    if answer is not None:
        results = (row._replace(create=0, mod=0) if isinstance(row, Row) else row
                   for row in answer.results)  # fmt: skip
        plain = Answer(answer.succeeded, tuple(results))
    if all(compare.target != "mod" for compare in request.compare):
        return request, plain
    assert not any(each.name != "get" for each in request.failure), "two outcomes that write"
    if plain is None or plain.succeeded:
        return Request(success=request.success), plain
    return Request(success=request.failure), plain._replace(succeeded=True)


def groups(requests: Iterable[Request]) -> dict[bytes, bytes]:
    """Every key with the least key it is connected to by transactions: what must be judged
    together. Histories of different groups are linearizable each, or not at all.
    """
    parent: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for request in requests:
        keys = sorted(request.keys)
        for key in keys:
            parent.setdefault(key, key)
        for key in keys[1:]:
            low, high = sorted((root(keys[0]), root(key)))
            parent[high] = low
    return {key: root(key) for key in parent}
