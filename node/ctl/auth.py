"""`auth enable|disable|status`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from node.ctl.client import CallError, Client
from node.ctl.options import BAD_ARGUMENTS, Group, client, fail
from node.ctl.output import View, emit, header_fields, numbered
from node.ctl.role import show_done

WORDS = click.argument("words", nargs=-1)
ROOT_WITHOUT_ROLE = "etcdserver: root user does not have root role"


@click.group("auth", cls=Group)
def auth() -> None:
    """Switch on and off that everybody must say who they are."""


def _no_words(words: Sequence[str], command: str) -> None:
    if words:
        fail(f"auth {command} command does not accept any arguments", BAD_ARGUMENTS)


@auth.command("enable")
@WORDS
def enable(words: Sequence[str]) -> None:
    """Ask everybody for a password from now on; the user root, with a password, must be there."""
    _no_words(words, "enable")
    show_done(_enabled(client()), "Authentication Enabled")


def _enabled(caller: Client) -> Any:
    """The answer to enabling, once the user root has the role that it needs."""
    try:
        return caller.call("auth/enable", {})
    except CallError as error:
        if error.message != ROOT_WITHOUT_ROLE:
            raise
    try:
        caller.call("auth/role/add", {"name": "root"})
    except CallError as error:
        if error.message != "etcdserver: role name already exists":
            raise
    caller.call("auth/user/grant", {"user": "root", "role": "root"})
    return caller.call("auth/enable", {})


@auth.command("disable")
@WORDS
def disable(words: Sequence[str]) -> None:
    """Let everybody do everything again."""
    _no_words(words, "disable")
    show_done(client().call("auth/disable", {}), "Authentication Disabled")


@auth.command("status")
@WORDS
def status(words: Sequence[str]) -> None:
    """Show whether authentication is enabled, and how often its tables changed."""
    _no_words(words, "status")
    answer = client().call("auth/status", {})
    enabled, revision = answer.get("enabled", False), int(answer.get("authRevision", 0))
    emit(
        View(
            simple=lambda: [
                f"Authentication Status: {str(enabled).lower()}",
                f"AuthRevision: {revision}",
            ],
            json=lambda: numbered(answer),
            fields=lambda: [
                *header_fields(answer),
                ("Enabled", enabled),
                ("AuthRevision", revision),
            ],
        )
    )
