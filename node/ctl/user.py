"""`user add|delete|get|list|passwd|grant-role|revoke-role`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from node.ctl.options import BAD_ARGUMENTS, Group, ask_password, client, fail
from node.ctl.output import View, emit, header_fields, numbered
from node.ctl.role import only_name, show_done, show_names, show_role

WORDS = click.argument("words", nargs=-1)
INTERACTIVE = click.option(
    "--interactive/--no-interactive",
    default=True,
    help="ask for the password; =false reads it from standard input",
)


@click.group("user", cls=Group)
def user() -> None:
    """Who may do something, by password and roles."""


@user.command("add")
@WORDS
@INTERACTIVE
@click.option("--new-user-password", default="", help="the password")
@click.option("--no-password", is_flag=True, help="only a certificate can speak for this user")
def add(words: Sequence[str], interactive: bool, new_user_password: str, no_password: bool) -> None:
    """Make a user: user add <name> or <name>:<password>."""
    name = only_name(words, "user add", "user")
    password = ""
    if no_password:
        body = {"name": name, "options": {"no_password": True}}
    else:
        if new_user_password:
            password = new_user_password
        elif ":" in name:
            name, _, password = name.partition(":")
            if not name:
                fail("empty user name is not allowed", BAD_ARGUMENTS)
        else:
            password = _new_password(name, interactive)
        body = {"name": name, "password": password}
    show_done(client().call("auth/user/add", body), f"User {name} created")


def _new_password(name: str, interactive: bool) -> str:
    if not interactive:
        return sys.stdin.readline().rstrip("\r\n")
    password = ask_password(f"Password of {name}: ")
    if not password:
        fail("empty password", BAD_ARGUMENTS)
    if ask_password(f"Type password of {name} again for confirmation: ") != password:
        fail("given passwords are different", BAD_ARGUMENTS)
    return password


@user.command("passwd")
@WORDS
@INTERACTIVE
def passwd(words: Sequence[str], interactive: bool) -> None:
    """Give a user another password: user passwd <name>."""
    name = only_name(words, "user passwd", "user")
    body = {"name": name, "password": _new_password(name, interactive)}
    show_done(client().call("auth/user/changepw", body), "Password updated")


@user.command("delete")
@WORDS
def delete(words: Sequence[str]) -> None:
    """Remove a user: user delete <name>."""
    name = only_name(words, "user delete", "user")
    show_done(client().call("auth/user/delete", {"name": name}), f"User {name} deleted")


@user.command("get")
@WORDS
@click.option("--detail", is_flag=True, help="also show what each role permits")
def get(words: Sequence[str], detail: bool) -> None:
    """Show the roles of a user: user get <name>."""
    name = only_name(words, "user get", "user")
    caller = client()
    answer = caller.call("auth/user/get", {"name": name})
    roles = answer.get("roles", [])
    if detail:
        click.echo(f"User: {name}")
        for role in roles:
            click.echo()
            show_role(role, caller.call("auth/role/get", {"role": role}))
        return
    emit(
        View(
            simple=lambda: [f"User: {name}", " ".join(["Roles:", *roles])],
            json=lambda: numbered(answer),
            fields=lambda: [*header_fields(answer), *(("Roles", role) for role in roles)],
        )
    )


@user.command("list")
@WORDS
def user_list(words: Sequence[str]) -> None:
    """Show the names of all users."""
    if words:
        fail("user list command requires no arguments", BAD_ARGUMENTS)
    show_names(client().call("auth/user/list", {}), "users")


@user.command("grant-role")
@WORDS
def grant_role(words: Sequence[str]) -> None:
    """Give a user a role: user grant-role <name> <role>."""
    if len(words) != 2:
        message = "user grant command requires user name and role name as its argument"
        fail(message, BAD_ARGUMENTS)
    name, role = words
    answer = client().call("auth/user/grant", {"user": name, "role": role})
    show_done(answer, f"Role {role} is granted to user {name}")


@user.command("revoke-role")
@WORDS
def revoke_role(words: Sequence[str]) -> None:
    """Take a role from a user: user revoke-role <name> <role>."""
    if len(words) != 2:
        message = "user revoke-role requires user name and role name as its argument"
        fail(message, BAD_ARGUMENTS)
    name, role = words
    answer = client().call("auth/user/revoke", {"name": name, "role": role})
    show_done(answer, f"Role {role} is revoked from user {name}")
