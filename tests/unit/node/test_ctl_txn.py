"""The little language of `eskerctl txn`."""

from __future__ import annotations

import base64
from typing import Any

import click
import pytest

from node.ctl.kv import prefix_end
from node.ctl.options import Failure
from node.ctl.txn import parse_compare, parse_request, txn, unquoted


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


UNQUOTED = [
    ("plain", b"plain"),
    (r"a\n\t\"\\", b'a\n\t"\\'),
    (r"\x00\xff", b"\x00\xff"),
    (r"\101", b"A"),
    (r"\u20ac", "€".encode()),
    ("grün", "grün".encode()),
]


@pytest.mark.parametrize(("text", "data"), UNQUOTED)
def test_unquoted(text: str, data: bytes) -> None:
    assert unquoted(text) == data


COMPARES: list[tuple[str, dict[str, Any]]] = [
    ('value("k") = "v"', {"target": "VALUE", "result": "EQUAL", "value": b64(b"v")}),
    ('val("k") != "a\\"b"', {"target": "VALUE", "result": "NOT_EQUAL", "value": b64(b'a"b')}),
    ('mod("k") > "0"', {"target": "MOD", "result": "GREATER", "mod_revision": 0}),
    ('m("k") < "7"', {"target": "MOD", "result": "LESS", "mod_revision": 7}),
    ('create("k") = "1"', {"target": "CREATE", "result": "EQUAL", "create_revision": 1}),
    ('c("k")="1"', {"target": "CREATE", "result": "EQUAL", "create_revision": 1}),
    ('  version( "k" ) = "2" ', {"target": "VERSION", "result": "EQUAL", "version": 2}),
    ('lease("k") = "1f"', {"target": "LEASE", "result": "EQUAL", "lease": 31}),
]


@pytest.mark.parametrize(("line", "expected"), COMPARES)
def test_compare(line: str, expected: dict[str, Any]) -> None:
    assert parse_compare(line) == {"key": b64(b"k"), **expected}


BAD = [
    ("xx", "malformed comparison: xx"),
    ('size("k") = "1"', 'malformed comparison: size("k") = "1"'),
    ('mod("k") >= "1"', 'malformed comparison: mod("k") >= "1"'),
    ('mod("k") = "x"', 'invalid txn compare request: mod("k") = "x"'),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_compare(line: str, message: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_compare(line)
    assert (caught.value.message, caught.value.exit_code) == (message, 3)


def request(line: str) -> dict[str, Any]:
    with click.Context(txn):
        return parse_request(line)


def test_requests() -> None:
    put = request("put \"my key\" 'a b' --lease=1f")["request_put"]
    assert (put["key"], put["value"], put["lease"]) == (b64(b"my key"), b64(b"a b"), 31)
    get = request("get k --prefix --limit 3")["request_range"]
    assert (get["key"], get["range_end"], get["limit"]) == (b64(b"k"), b64(b"l"), 3)
    delete = request("del a b --prev-kv")["request_delete_range"]
    assert delete == {"key": b64(b"a"), "range_end": b64(b"b"), "prev_kv": True}


@pytest.mark.parametrize("line", ["", "touch k", "put", "put k", "get", "del a b c"])
def test_bad_requests(line: str) -> None:
    with pytest.raises(Failure):
        request(line)


PREFIXES = [
    (b"a", b"b"),
    (b"a\xff", b"b"),
    (b"a\xff\xfe", b"a\xff\xff"),
    (b"\xff\xff", b"\0"),
    (b"", b"\0"),
]


@pytest.mark.parametrize(("prefix", "end"), PREFIXES)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
