"""`role add|delete|get|list|grant-permission|revoke-permission`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from node.ctl.client import b64, unb64
from node.ctl.kv import prefix_end
from node.ctl.options import BAD_ARGUMENTS, Group, client, fail
from node.ctl.output import Bare, Field, View, emit, header_fields, numbered

WORDS = click.argument("words", nargs=-1)
PREFIX = click.option("--prefix", is_flag=True, help="keys with this prefix")
FROM_KEY = click.option("--from-key", is_flag=True, help="keys greater than or equal to this one")

PERMISSIONS = ("READ", "WRITE", "READWRITE")


@click.group("role", cls=Group)
def role() -> None:
    """What may be read and written, under a name that users are given."""


def show_done(answer: Mapping[str, Any], line: str | bytes) -> None:
    """Show the answer to a change, which is but a header."""
    emit(
        View(
            simple=lambda: [line],
            json=lambda: numbered(answer),
            fields=lambda: header_fields(answer),
        )
    )


def only_name(words: Sequence[str], command: str, what: str) -> str:
    """The one argument of a command."""
    if len(words) != 1:
        fail(f"{command} command requires {what} name as its argument", BAD_ARGUMENTS)
    return words[0]


@role.command("add")
@WORDS
def add(words: Sequence[str]) -> None:
    """Make a role without permissions: role add <name>."""
    name = only_name(words, "role add", "role")
    show_done(client().call("auth/role/add", {"name": name}), f"Role {name} created")


@role.command("delete")
@WORDS
def delete(words: Sequence[str]) -> None:
    """Remove a role, also from its users: role delete <name>."""
    name = only_name(words, "role delete", "role")
    show_done(client().call("auth/role/delete", {"role": name}), f"Role {name} deleted")


@role.command("list")
@WORDS
def role_list(words: Sequence[str]) -> None:
    """Show the names of all roles."""
    if words:
        fail("role list command requires no arguments", BAD_ARGUMENTS)
    show_names(client().call("auth/role/list", {}), "roles")


def show_names(answer: Mapping[str, Any], member: str) -> None:
    """Show a list of names, one in a line."""
    names = answer.get(member, [])
    emit(
        View(
            simple=lambda: names,
            json=lambda: numbered(answer),
            fields=lambda: [*header_fields(answer), *((member.title(), name) for name in names)],
        )
    )


# get


@role.command("get")
@WORDS
def get(words: Sequence[str]) -> None:
    """Show the permissions of a role: role get <name>."""
    name = only_name(words, "role get", "role")
    show_role(name, client().call("auth/role/get", {"role": name}))


def show_role(name: str, answer: Mapping[str, Any]) -> None:
    """Show a role's permissions in the format asked for."""
    emit(
        View(
            simple=lambda: role_lines(name, answer),
            json=lambda: _as_etcdctl(answer),
            fields=lambda: _fields(answer),
        )
    )


def _as_etcdctl(answer: Mapping[str, Any]) -> Any:
    """Numbers for permission types, where READ is zero and left out."""
    shown = numbered(answer)
    for permission in shown.get("perm", []):
        if not permission.get("permType"):
            permission.pop("permType", None)
    return shown


def role_lines(name: str, answer: Mapping[str, Any]) -> Iterator[bytes]:
    """The keys that may be read, then those that may be written."""
    yield b"Role " + name.encode()
    for title, kinds in (("Read", ("READ", "READWRITE")), ("Write", ("WRITE", "READWRITE"))):
        yield f"KV {title}:".encode()
        for permission in answer.get("perm", []):
            if permission.get("permType", "READ") in kinds:
                key, end = (unb64(permission.get(part, "")) for part in ("key", "range_end"))
                yield b"\t" + (_span(key, end) if end else key)


def _span(key: bytes, end: bytes) -> bytes:
    """A range of keys, with the prefix if it is one."""
    text = spelled(key, end)
    return text + b" (prefix %s)" % key if key and prefix_end(key) == end else text


def spelled(key: bytes, end: bytes) -> bytes:
    """A range of keys as etcdctl writes it."""
    return b"[%s, <open ended>" % key if end == b"\0" else b"[%s, %s)" % (key, end)


def _fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    for permission in answer.get("perm", []):
        yield "PermType", Bare(f" {permission.get('permType', 'READ')}")
        yield "Key", unb64(permission.get("key", ""))
        yield "RangeEnd", unb64(permission.get("range_end", ""))


# permissions


@role.command("grant-permission")
@WORDS
@PREFIX
@FROM_KEY
def grant_permission(words: Sequence[str], prefix: bool, from_key: bool) -> None:
    """Allow a role some keys: role grant-permission <name> read|write|readwrite <key> [endkey]."""
    if not 3 <= len(words) <= 4:
        message = "role grant command requires role name, permission type, and key [endkey] as its"
        fail(f"{message} argument", BAD_ARGUMENTS)
    name, kind, *keys = words
    if kind.upper() not in PERMISSIONS:
        fail(f"invalid permission type: {kind}", BAD_ARGUMENTS)
    key, end = _span_of(keys, prefix, from_key)
    permission = {"permType": kind.upper(), "key": b64(key), "range_end": b64(end)}
    answer = client().call("auth/role/grant", {"name": name, "perm": permission})
    show_done(answer, f"Role {name} updated")


@role.command("revoke-permission")
@WORDS
@PREFIX
@FROM_KEY
def revoke_permission(words: Sequence[str], prefix: bool, from_key: bool) -> None:
    """Take a permission from a role, by its range: role revoke-permission <name> <key> [endkey]."""
    if not 2 <= len(words) <= 3:
        message = "role revoke-permission command requires role name and key [endkey] as its"
        fail(f"{message} argument", BAD_ARGUMENTS)
    name, *keys = words
    key, end = _span_of(keys, prefix, from_key)
    body = {"role": name, "key": b64(key), "range_end": b64(end)}
    answer = client().call("auth/role/revoke", body)
    what = b"range " + spelled(os.fsencode(keys[0]), end) if end else b"key " + key
    show_done(answer, b"Permission of %s is revoked from role %s" % (what, name.encode()))


def _span_of(keys: Sequence[str], prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """Key and end of the range that the arguments name."""
    if prefix and from_key:
        fail("--from-key and --prefix flags are mutually exclusive", BAD_ARGUMENTS)
    key, *end = map(os.fsencode, keys)
    if end and (prefix or from_key):
        flag = "--prefix" if prefix else "--from-key"
        fail(f"unexpected endkey argument with {flag} flag", BAD_ARGUMENTS)
    if prefix:
        return key or b"\0", prefix_end(key)
    if from_key:
        return key or b"\0", b"\0"
    return key, end[0] if end else b""
