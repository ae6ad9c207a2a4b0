"""`endpoint status|health|hashkv`: one row for each member asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import click

from node.ctl.client import CallError, Client, b64
from node.ctl.options import ERROR, Group, client, endpoints, fail, write_format
from node.ctl.output import (
    BLANK,
    Field,
    View,
    emit,
    header_fields,
    human_bytes,
    human_seconds,
    numbered,
)

CLUSTER = click.option("--cluster", is_flag=True, help="ask all members of the cluster")


@click.group("endpoint", cls=Group)
@click.option("--cluster", is_flag=True, help="ask all members of the cluster")
@click.pass_context
def endpoint(ctx: click.Context, cluster: bool) -> None:
    """Ask each endpoint about itself."""
    ctx.meta["eskerctl.cluster"] = cluster


class Answers(NamedTuple):
    rows: list[tuple[str, Any]]
    failed: bool


def _ask(cluster: bool, what: str, ask: Callable[[Client, str], Any]) -> Answers:
    """One answer for each endpoint, in order; a failing one is named on stderr and left out."""
    caller = client()
    targets = endpoints(caller, cluster or click.get_current_context().meta["eskerctl.cluster"])

    def attempt(target: str) -> Any:
        try:
            return ask(caller, target)
        except CallError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, len(targets))) as pool:
        found = list(zip(targets, pool.map(attempt, targets), strict=True))
    for target, answer in found:
        if isinstance(answer, CallError):
            message = f"Failed to get the {what} of endpoint {target} ({answer})"
            click.echo(message, err=True)
    rows = [(target, answer) for target, answer in found if not isinstance(answer, CallError)]
    return Answers(rows, len(rows) < len(found))


def _finish(answers: Answers) -> None:
    if answers.failed:
        raise click.exceptions.Exit(ERROR)


# status

STATUS_TITLES = (
    "ENDPOINT",
    "ID",
    "VERSION",
    "DB SIZE",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
)


@endpoint.command("status")
@CLUSTER
def status(cluster: bool) -> None:
    """Show each endpoint's version, size, role, position in the log, and what is wrong with it."""
    answers = _ask(cluster, "status", lambda caller, at: caller.call("maintenance/status", {}, at))
    emit(
        View(
            simple=lambda: (", ".join(row) for row in _status_rows(answers.rows)),
            json=lambda: [
                {"Endpoint": target, "Status": numbered(answer)} for target, answer in answers.rows
            ],
            fields=lambda: _status_fields(answers.rows),
            table=lambda: (STATUS_TITLES, list(_status_rows(answers.rows))),
        )
    )
    _finish(answers)


def _status_rows(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[list[str]]:
    for target, answer in rows:
        member = int(answer["header"].get("member_id", 0))
        yield [
            target,
            f"{member:x}",
            answer.get("version", ""),
            human_bytes(int(answer.get("dbSize", 0))),
            str(member == int(answer.get("leader", 0))).lower(),
            str(answer.get("isLearner", False)).lower(),
            str(answer.get("raftTerm", 0)),
            str(answer.get("raftIndex", 0)),
            str(answer.get("raftAppliedIndex", 0)),
            ", ".join(answer.get("errors", [])),
        ]


def _status_fields(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Field]:
    for target, answer in rows:
        yield from header_fields(answer)
        yield "Version", answer.get("version", "")
        yield "DBSize", int(answer.get("dbSize", 0))
        yield "DBSizeInUse", int(answer.get("dbSizeInUse", 0))
        yield "Leader", int(answer.get("leader", 0))
        yield "IsLearner", answer.get("isLearner", False)
        yield "RaftIndex", int(answer.get("raftIndex", 0))
        yield "RaftTerm", int(answer.get("raftTerm", 0))
        yield "RaftAppliedIndex", int(answer.get("raftAppliedIndex", 0))
        yield "Errors", answer.get("errors", [])
        yield "Endpoint", target
        yield BLANK


# health


class Health(NamedTuple):
    took: float
    error: str


@endpoint.command("health")
@CLUSTER
def health(cluster: bool) -> None:
    """Commit a read through each endpoint, and say how long it took."""
    answers = _ask(cluster, "health", _probe)
    emit(
        View(
            simple=lambda: [],
            json=lambda: [
                {"endpoint": target, "health": not one.error, "took": human_seconds(one.took)}
                | ({"error": one.error} if one.error else {})
                for target, one in answers.rows
            ],
            fields=lambda: _health_fields(answers.rows),
            table=lambda: (("ENDPOINT", "HEALTH", "TOOK", "ERROR"), _health_rows(answers.rows)),
        )
    )
    if write_format() == "simple":
        for target, one in answers.rows:
            click.echo(_health_line(target, one), err=bool(one.error))
    if any(one.error for _, one in answers.rows):
        fail("unhealthy cluster")


def _probe(caller: Client, target: str) -> Health:
    """A linearizable read of a key that need not exist, then a look at the alarms."""
    begun = time.monotonic()
    try:
        caller.call("kv/range", {"key": b64(b"health")}, target)
        alarms = caller.call("maintenance/alarm", {"action": "GET"}, target).get("alarms", [])
    except CallError as error:
        # Without permission the read was still agreed upon by a quorum.
        error_text = "" if error.message.endswith("permission denied") else str(error)
        return Health(time.monotonic() - begun, error_text)
    active = ", ".join(alarm.get("alarm", "NONE") for alarm in alarms)
    return Health(time.monotonic() - begun, f"Active Alarm(s): {active}" if active else "")


def _health_line(target: str, one: Health) -> str:
    if one.error:
        return f"{target} is unhealthy: failed to commit proposal: {one.error}"
    took = human_seconds(one.took)
    return f"{target} is healthy: successfully committed proposal: took = {took}"


def _health_rows(rows: Sequence[tuple[str, Health]]) -> list[tuple[object, ...]]:
    return [(target, not one.error, human_seconds(one.took), one.error) for target, one in rows]


def _health_fields(rows: Sequence[tuple[str, Health]]) -> Iterator[Field]:
    for target, one in rows:
        yield "Health", not one.error
        yield "Took", human_seconds(one.took)
        yield "Error", one.error
        yield "Endpoint", target
        yield BLANK


# hashkv


@endpoint.command("hashkv")
@CLUSTER
@click.option("--rev", default=0, help="hash the history up to this revision (the latest)")
def hashkv(cluster: bool, rev: int) -> None:
    """Show the hash over each endpoint's history; equal members show equal numbers."""
    body = {"revision": rev}
    answers = _ask(cluster, "hash", lambda caller, at: caller.call("maintenance/hashkv", body, at))
    emit(
        View(
            simple=lambda: (
                f"{target}, {answer.get('hash', 0)}" for target, answer in answers.rows
            ),
            json=lambda: [
                {"Endpoint": target, "HashKV": numbered(answer)} for target, answer in answers.rows
            ],
            fields=lambda: _hash_fields(answers.rows),
            table=lambda: (
                ("ENDPOINT", "HASH"),
                [(target, answer.get("hash", 0)) for target, answer in answers.rows],
            ),
        )
    )
    _finish(answers)


def _hash_fields(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Field]:
    for target, answer in rows:
        yield from header_fields(answer)
        yield "Endpoint", target
        yield "Hash", answer.get("hash", 0)
        yield BLANK
