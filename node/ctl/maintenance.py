"""`defrag`, `alarm list|disarm`, `move-leader`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from node.ctl.client import CallError
from node.ctl.options import (
    BAD_ARGUMENTS,
    ERROR,
    Command,
    Group,
    client,
    endpoints,
    fail,
    show_progress,
)
from node.ctl.output import BLANK, Field, View, emit, header_fields, numbered
from node.ctl.progress import waiting


@click.command("defrag", cls=Command)
@click.option("--cluster", is_flag=True, help="all members of the cluster")
def defrag(cluster: bool) -> None:
    """Give free pages back to the file system, one member after the other."""
    caller = client(patient=True)
    failed = False
    for target in endpoints(caller, cluster):
        try:
            with waiting(f"defragmenting {target}", show_progress()):
                caller.call("maintenance/defragment", {}, target)
        except CallError as error:
            failed = True
            click.echo(f"Failed to defragment etcd member[{target}] ({error})", err=True)
        else:
            click.echo(f"Finished defragmenting etcd member[{target}]")
    if failed:
        raise click.exceptions.Exit(ERROR)


@click.group("alarm", cls=Group)
def alarm() -> None:
    """Show and lift alarms."""


@alarm.command("list")
def alarm_list() -> None:
    """Show the alarms that are raised."""
    _show(client().call("maintenance/alarm", {"action": "GET"}))


@alarm.command("disarm")
def alarm_disarm() -> None:
    """Lift all alarms, and show which they were."""
    caller = client()
    answer = caller.call("maintenance/alarm", {"action": "GET"})
    for raised in answer.get("alarms", []):
        caller.call("maintenance/alarm", {"action": "DEACTIVATE", **raised})
    _show(answer)


def _show(answer: Mapping[str, Any]) -> None:
    emit(
        View(
            simple=lambda: (_alarm_line(raised) for raised in answer.get("alarms", [])),
            json=lambda: numbered(answer),
            fields=lambda: _alarm_fields(answer),
        )
    )


def _alarm_line(raised: Mapping[str, Any]) -> str:
    return f"memberID:{raised.get('memberID', 0)} alarm:{raised.get('alarm', 'NONE')} "


def _alarm_fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    for raised in answer.get("alarms", []):
        yield "MemberID", int(raised.get("memberID", 0))
        yield "AlarmType", raised.get("alarm", "NONE")
        yield BLANK


@click.command("move-leader", cls=Command)
@click.argument("words", nargs=-1)
def move_leader(words: Sequence[str]) -> None:
    """Hand leadership to a member: move-leader <id in hexadecimal>."""
    if len(words) != 1:
        fail("move-leader command needs 1 argument", BAD_ARGUMENTS)
    try:
        target = int(words[0], 16)
    except ValueError:
        fail(f"{words[0]!r} is not a member ID in hexadecimal", BAD_ARGUMENTS)
    caller = client()
    for endpoint in endpoints(caller, cluster=False):
        status = caller.call("maintenance/status", {}, endpoint)
        leader = int(status.get("leader", 0))
        if leader and leader == int(status["header"]["member_id"]):
            caller.call("maintenance/transfer-leadership", {"targetID": str(target)}, endpoint)
            click.echo(f"Leadership transferred from {leader:x} to {target:x}")
            return
    fail(f"no leader endpoint given at {list(caller.settings.endpoints)}", BAD_ARGUMENTS)
