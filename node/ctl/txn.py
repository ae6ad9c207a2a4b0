"""`txn`: compares, then requests for success, then for failure, each list ended by an empty line.

value("color") = "red"
mod("color") > "0"

put color "dark red"

get color

"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import click

from node.ctl import kv
from node.ctl.client import b64
from node.ctl.options import BAD_INPUT, Command, client, fail
from node.ctl.output import Field, View, emit, header_fields, hexed, numbered

TARGETS = {
    "ver": ("VERSION", "version"),
    "version": ("VERSION", "version"),
    "c": ("CREATE", "create_revision"),
    "create": ("CREATE", "create_revision"),
    "m": ("MOD", "mod_revision"),
    "mod": ("MOD", "mod_revision"),
    "val": ("VALUE", "value"),
    "value": ("VALUE", "value"),
    "lease": ("LEASE", "lease"),
}
RESULTS = {"=": "EQUAL", "!=": "NOT_EQUAL", ">": "GREATER", "<": "LESS"}

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_COMPARE = re.compile(rf"\s*(\w+)\s*\(\s*{_QUOTED}\s*\)\s*(=|!=|<|>)\s*{_QUOTED}\s*")
_WORD = re.compile(rf"{_QUOTED}|'([^']*)'|(\S+)")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[0-7]{3}|.)", re.DOTALL)
_LETTERS = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}


def unquoted(text: str) -> bytes:
    """The bytes that the inside of a double-quoted word stands for, with Go's escapes."""

    def plain(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        if escape[:1] == b"x":
            return bytes([int(escape[1:], 16)])
        if escape[:1] == b"u" and len(escape) > 1:
            return chr(int(escape[1:], 16)).encode("utf-8", "replace")
        if escape.isdigit() and len(escape) == 3:
            return bytes([int(escape, 8) & 0xFF])
        return _LETTERS.get(escape, escape)

    return _ESCAPE.sub(plain, text.encode("utf-8", "surrogateescape"))


def parse_compare(line: str) -> dict[str, Any]:
    """One compare, such as `mod("a") > "0"`."""
    match = _COMPARE.fullmatch(line)
    if match is None or match[1] not in TARGETS:
        fail(f"malformed comparison: {line}", BAD_INPUT)
    target, member = TARGETS[match[1]]
    key, operand = unquoted(match[2]), unquoted(match[4])
    value: object
    if target == "VALUE":
        value = b64(operand)
    else:
        try:
            value = int(operand, 16 if target == "LEASE" else 10)
        except ValueError:
            fail(f"invalid txn compare request: {line}", BAD_INPUT)
    return {"key": b64(key), "target": target, "result": RESULTS[match[3]], member: value}


def _get_request(*, print_value_only: bool, **options: Any) -> dict[str, Any]:
    """As kv.get_request; how values are printed is no part of a request."""
    return kv.get_request(**options)


_REQUESTS: dict[str, tuple[click.Command, Callable[..., dict[str, Any]], str]] = {
    "put": (kv.put, partial(kv.put_request, stdin=False), "request_put"),
    "get": (kv.get, _get_request, "request_range"),
    "del": (kv.delete, kv.delete_request, "request_delete_range"),
}


def parse_request(line: str) -> dict[str, Any]:
    """One request: a get, put or del with the flags it has as a command."""
    words = [_argument(match) for match in _WORD.finditer(line)]
    name = words[0] if words else ""
    if name not in _REQUESTS:
        fail(f"invalid txn request: {line}", BAD_INPUT)
    command, body, member = _REQUESTS[name]
    with command.make_context(name, words[1:], parent=click.get_current_context()) as ctx:
        return {member: body(**ctx.params)}


def _argument(match: re.Match[str]) -> str:
    if match[1] is not None:
        return unquoted(match[1]).decode("utf-8", "surrogateescape")
    return match[2] if match[2] is not None else match[3]


def _section(title: str) -> Iterator[str]:
    """Lines up to an empty one; input that ends before it is an error, no shorter txn."""
    if title:
        click.echo(title)
    while True:
        line = sys.stdin.readline()
        if not line.endswith("\n"):
            fail("EOF", BAD_INPUT)
        if not line.strip():
            return
        yield line.rstrip("\n")


@click.command("txn", cls=Command)
@click.option("-i", "--interactive", is_flag=True, help="say what is expected next")
def txn(interactive: bool) -> None:
    """Compare and change in one step; reads three lists from standard input."""
    titles = ("compares:", "success requests (get, put, del):", "failure requests (get, put, del):")
    compares, success, failure = titles if interactive else ("", "", "")
    body = {
        "compare": [parse_compare(line) for line in _section(compares)],
        "success": [parse_request(line) for line in _section(success)],
        "failure": [parse_request(line) for line in _section(failure)],
    }
    answer = client().call("kv/txn", body)
    emit(
        View(
            simple=lambda: txn_lines(answer),
            json=lambda: hexed(_as_etcdctl(numbered(answer))),
            fields=lambda: txn_fields(answer),
        )
    )


_NAMES = {
    "response_put": "ResponsePut",
    "response_range": "ResponseRange",
    "response_delete_range": "ResponseDeleteRange",
    "response_txn": "ResponseTxn",
}


def _as_etcdctl(answer: Mapping[str, Any]) -> dict[str, Any]:
    """etcdctl wraps each response of a transaction by its Go type's name."""
    if "responses" not in answer:
        return dict(answer)
    wrapped = [
        {"Response": {_NAMES[name]: response for name, response in item.items()}}
        for item in answer["responses"]
    ]
    return {**answer, "responses": wrapped}


def txn_lines(answer: Mapping[str, Any]) -> Iterator[bytes]:
    yield b"SUCCESS" if answer.get("succeeded") else b"FAILURE"
    for item in answer.get("responses", []):
        yield b""
        for name, response in item.items():
            match name:
                case "response_put":
                    yield from kv.put_lines(response)
                case "response_range":
                    yield from kv.get_lines(response)
                case "response_delete_range":
                    yield from kv.delete_lines(response)


def txn_fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    yield "Succeeded", answer.get("succeeded", False)
    for item in answer.get("responses", []):
        for name, response in item.items():
            match name:
                case "response_put":
                    yield from kv.put_fields(response)
                case "response_range":
                    yield from kv.get_fields(response)
                case "response_delete_range":
                    yield from kv.delete_fields(response)
