"""`watch`: shows events as they happen, or runs a command for each; with -i, several watches."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click

from node.ctl.client import CallError, Client, b64, unb64
from node.ctl.kv import PREV_KV, prefix_end
from node.ctl.options import (
    BAD_ARGUMENTS,
    BAD_FEATURE,
    BAD_INPUT,
    ERROR,
    INTERRUPTED,
    Command,
    client,
    endless,
    fail,
    from_environment,
    setting,
    write_format,
)
from node.ctl.output import (
    Bare,
    Field,
    View,
    emit,
    header_fields,
    numbered,
    pair_fields,
    quoted,
    shown,
)
from node.ctl.watching import Canceled, Watching

_EXEC = "eskerctl.exec"


class WatchCommand(Command):
    """Keeps what stands behind `--`, which is no argument of the watch but a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            args, ctx.meta[_EXEC] = args[:cut], args[cut + 1 :]
        return super().parse_args(ctx, args)


class BadWatch(Exception):
    """Arguments that say no watch."""


class CommandFailed(Exception):
    """The command that runs for each event did not end well, which ends its watch."""


class Wanted(NamedTuple):
    """What to watch, as a create request, and the command to run for each event."""

    request: dict[str, Any]
    command: list[str]


@click.command("watch", cls=WatchCommand)
@click.argument("words", nargs=-1)
@click.option("-i", "--interactive", is_flag=True, help="read `watch ...` and `progress` lines")
@click.option("--prefix", is_flag=True, help="keys with this prefix")
@click.option("--rev", default=0, help="start at this revision")
@PREV_KV
@click.option("--progress-notify", is_flag=True, help="show the revision reached while idle")
@click.pass_context
@endless
def watch(ctx: click.Context, interactive: bool, **options: Any) -> None:
    """Show changes: watch <key> [range_end] [-- command arg ...].

    The command runs for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE,
    ETCD_WATCH_KEY and ETCD_WATCH_VALUE in its environment. Instead of arguments,
    ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END may say what to watch.
    """
    if write_format() == "table":
        fail("table not supported as output format", BAD_FEATURE)
    caller = client(patient=True)
    if interactive:
        _interactive(ctx, caller)
    try:
        wanted = wanted_watch(command=ctx.meta.get(_EXEC), **options)
    except BadWatch as error:
        fail(str(error), BAD_ARGUMENTS)
    try:
        _follow(Watching(caller, wanted.request, setting("command_timeout", 5.0)), wanted.command)
    except Canceled:
        fail("watch is canceled by the server", INTERRUPTED)
    except CommandFailed:
        raise click.exceptions.Exit(ERROR) from None


def wanted_watch(
    *,
    words: Sequence[str],
    prefix: bool = False,
    rev: int = 0,
    prev_kv: bool = False,
    progress_notify: bool = False,
    command: Sequence[str] | None = None,
) -> Wanted:
    """What flags, arguments and environment say together."""
    if command is not None and not command:
        raise BadWatch("bad number of arguments (found separator --, but no commands)")
    key_range = [os.fsencode(word) for word in words]
    if given := from_environment("watch_key"):
        if words:
            raise BadWatch("bad number of arguments (found conflicting environment key)")
        end = from_environment("watch_range_end")
        key_range = [os.fsencode(word) for word in (given, end) if word]
    if not 1 <= len(key_range) <= 2:
        raise BadWatch("bad number of arguments")
    if prefix and len(key_range) == 2:
        raise BadWatch("`range_end` and `--prefix` are mutually exclusive")
    key, end_key = key_range[0], key_range[1] if len(key_range) == 2 else b""
    if prefix:
        key, end_key = key or b"\0", prefix_end(key)
    request = {"key": b64(key), "range_end": b64(end_key), "start_revision": rev}
    request |= {"prev_kv": prev_kv, "progress_notify": progress_notify}
    return Wanted(request, list(command or ()))


def _follow(watching: Watching, command: Sequence[str]) -> None:
    """Show a watch until a member ends it. Raises Canceled and CommandFailed, having said why."""
    try:
        for response in watching:
            with _OUTPUT:
                show(response)
            for event in response.get("events", []):
                _execute(command, response, event)
    except Canceled as ended:
        click.echo(f"watch was canceled ({ended})", err=True)
        with _OUTPUT:
            show(ended.response)
        raise


_OUTPUT = threading.Lock()
"""Answers of several watches come out one by one."""


# Output


def show(response: Mapping[str, Any]) -> None:
    """Print one answer in the format asked for."""
    if not response.get("events") and not response.get("canceled"):
        click.echo(f"progress notify: {response['header']['revision']}")
    emit(
        View(
            simple=lambda: _lines(response),
            json=lambda: as_json(response),
            fields=lambda: _fields(response),
        )
    )


def as_json(response: Mapping[str, Any]) -> dict[str, Any]:
    """etcdctl's own names for the parts of a watch response."""
    events = [
        numbered(event) | ({"type": 1} if "type" in event else {})
        for event in response.get("events", [])
    ]
    return {
        "Header": numbered(response["header"]),
        "Events": events,
        "CompactRevision": int(response.get("compact_revision", 0)),
        "Canceled": response.get("canceled", False),
        "Created": response.get("created", False),
    }


def _lines(response: Mapping[str, Any]) -> Iterator[bytes]:
    for event in response.get("events", []):
        yield event.get("type", "PUT").encode()
        for pair in filter(None, (event.get("prev_kv"), event["kv"])):
            yield shown(unb64(pair["key"]))
            yield shown(unb64(pair.get("value", "")))


def _fields(response: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(response)
    for event in response.get("events", []):
        yield "Type", Bare(event.get("type", "PUT"))
        if "prev_kv" in event:
            yield from pair_fields(event["prev_kv"], "Prev")
        yield from pair_fields(event["kv"])


# The command of each event


def _execute(command: Sequence[str], response: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    """Run the command; one that fails ends the watch."""
    if not command:
        return
    if shutil.which(command[0]) is None:
        problem = f'exec: "{command[0]}": executable file not found in $PATH'
    else:
        with _OUTPUT:
            code = subprocess.run(command, env=environment(response, event), check=False).returncode
        if code == 0:
            return
        problem = f"exit status {code}" if code > 0 else f"signal: {-code}"
    words = " ".join(map(quoted, command))
    click.echo(f"command [{words}] error ({problem})", err=True)
    raise CommandFailed(problem)


def environment(response: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, str]:
    """The environment of an event's command: type, key and value are quoted."""
    return {
        **os.environ,
        "ETCD_WATCH_REVISION": str(response["header"]["revision"]),
        "ETCD_WATCH_EVENT_TYPE": quoted(event.get("type", "PUT")),
        "ETCD_WATCH_KEY": quoted(unb64(event["kv"]["key"])),
        "ETCD_WATCH_VALUE": quoted(unb64(event["kv"].get("value", ""))),
    }


# Several watches


class _Session:
    """The watches of an interactive session, each in a thread of its own."""

    def __init__(self, ctx: click.Context, caller: Client) -> None:
        self._ctx = ctx
        self._client = caller
        self._running: list[Watching] = []

    def obey(self, line: str) -> None:
        """One line: `watch [flags] key [range_end] [-- command arg ...]` or `progress`."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            _invalid(f" {line} ({error})")
            return
        match words:
            case ["progress"]:
                for watching in list(self._running):
                    watching.ask_progress()
            case ["watch"]:
                _invalid(f" {line} (command type or key is not provided)")
            case ["watch", *arguments]:
                self._start(line, arguments)
            case [] | [_]:
                _invalid(f": {line} (watch and progress supported)")
            case _:
                _invalid(f" {line} (only support watch)")

    def _start(self, line: str, words: list[str]) -> None:
        with watch.make_context("watch", words, parent=self._ctx) as given:
            command = given.meta.pop(_EXEC, None)
            options = {name: value for name, value in given.params.items() if name != "interactive"}
        try:
            wanted = wanted_watch(command=command, **options)
        except BadWatch as error:
            _invalid(f" {line} ({error})")
            return
        watching = Watching(self._client, wanted.request, None)
        self._running.append(watching)
        thread = threading.Thread(target=self._run, args=(watching, wanted.command), daemon=True)
        thread.start()

    def _run(self, watching: Watching, command: Sequence[str]) -> None:
        """One watch; its end is no end of the session."""
        with self._ctx.scope(cleanup=False):
            try:
                _follow(watching, command)
            except CallError as error:
                click.echo(f"Error: {error}", err=True)
            except (Canceled, CommandFailed):
                return
            finally:
                self._running.remove(watching)


def _invalid(text: str) -> None:
    click.echo(f"Invalid command{text}", err=True)


def _interactive(ctx: click.Context, caller: Client) -> None:
    session = _Session(ctx, caller)
    for line in iter(sys.stdin.readline, ""):
        session.obey(line.rstrip("\n"))
    fail("Error reading watch request line: EOF", BAD_INPUT)
