"""`put`, `get`, `del`, `compaction`; arguments become a request body, which `txn` uses too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from node.ctl.client import Client, b64, unb64
from node.ctl.options import (
    BAD_ARGUMENTS,
    BAD_FEATURE,
    ERROR,
    Command,
    client,
    fail,
    is_set,
    parse_int,
    show_progress,
    write_format,
)
from node.ctl.output import (
    Field,
    View,
    emit,
    header_fields,
    hexed,
    numbered,
    pair_fields,
    shown,
)
from node.ctl.progress import counting

PAGE = 10_000
"""Keys asked for at a time when a range has no limit, to bound the memory of both sides."""

WORDS = click.argument("words", nargs=-1, type=str)
PREFIX = click.option("--prefix", is_flag=True, help="keys with this prefix")
FROM_KEY = click.option("--from-key", is_flag=True, help="keys greater than or equal to this one")
PREV_KV = click.option("--prev-kv", is_flag=True, help="also show the pairs before the change")

ORDERS = ("ASCEND", "DESCEND")
TARGETS = {
    "CREATE": "CREATE",
    "KEY": "KEY",
    "MODIFY": "MOD",
    "VALUE": "VALUE",
    "VERSION": "VERSION",
}


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of keys with this prefix; `\\0`, no end, where there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def _range(command: str, words: Sequence[str], prefix: bool, from_key: bool) -> dict[str, str]:
    """`key` and `range_end` as the arguments of get and del say them."""
    if prefix and from_key:
        message = "`--prefix` and `--from-key` cannot be set at the same time, choose one"
        fail(message, BAD_ARGUMENTS)
    if not 1 <= len(words) <= 2:
        message = (
            f"{command} command needs one argument as key and an optional argument as range_end"
        )
        fail(message, BAD_ARGUMENTS)
    key, *end = map(os.fsencode, words)
    if end and (prefix or from_key):
        message = (
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set"
        )
        fail(message, BAD_ARGUMENTS)
    if prefix:
        return {"key": b64(key or b"\0"), "range_end": b64(prefix_end(key))}
    if from_key:
        return {"key": b64(key or b"\0"), "range_end": b64(b"\0")}
    return {"key": b64(key)} | ({"range_end": b64(end[0])} if end else {})


# put


@click.command("put", cls=Command)
@WORDS
@click.option("--lease", default="0", help="lease ID (hexadecimal) to attach to the key")
@PREV_KV
@click.option("--ignore-value", is_flag=True, help="keep the key's value")
@click.option("--ignore-lease", is_flag=True, help="keep the key's lease")
def put(**options: Any) -> None:
    """Write a key: put <key> <value>, the value also from standard input."""
    body = put_request(**options)
    answer = client().call("kv/put", body)
    emit(
        View(
            simple=lambda: put_lines(answer),
            json=lambda: hexed(numbered(answer)),
            fields=lambda: put_fields(answer),
        )
    )


def put_request(
    *,
    words: Sequence[str],
    lease: str = "0",
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
    stdin: bool = True,
) -> dict[str, Any]:
    """The body of a put; a missing value is read from standard input unless told not to."""
    if ignore_value and len(words) > 1:
        fail("put command needs only 1 argument when 'ignore-value' is set", BAD_ARGUMENTS)
    if not 1 <= len(words) <= 2:
        fail("put command needs 1 argument and input from stdin or 2 arguments", BAD_ARGUMENTS)
    body: dict[str, Any] = {"key": b64(os.fsencode(words[0])), "prev_kv": prev_kv}
    body |= {"ignore_value": ignore_value, "ignore_lease": ignore_lease}
    if len(words) == 2:
        body["value"] = b64(os.fsencode(words[1]))
    elif not ignore_value:
        readable = stdin and sys.stdin is not None and not sys.stdin.isatty()
        value = sys.stdin.buffer.read() if readable else b""
        if not value:
            fail("put command needs 1 argument and input from stdin or 2 arguments", BAD_ARGUMENTS)
        body["value"] = b64(value)
    try:
        body["lease"] = int(lease, 16)
    except ValueError:
        fail(f"bad lease ID {lease!r}, expecting ID in Hex", BAD_ARGUMENTS)
    return body


def put_lines(answer: Mapping[str, Any]) -> Iterator[bytes]:
    yield b"OK"
    if "prev_kv" in answer:
        yield from pair_lines(answer["prev_kv"])


def put_fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    if "prev_kv" in answer:
        yield from pair_fields(answer["prev_kv"], "Prev")


def pair_lines(pair: Mapping[str, Any]) -> Iterator[bytes]:
    yield shown(unb64(pair.get("key", "")))
    yield shown(unb64(pair.get("value", "")))


# get


@click.command("get", cls=Command)
@WORDS
@PREFIX
@FROM_KEY
@click.option("--consistency", default="l", help="l: linearizable, s: serializable")
@click.option("--order", default="", help="ASCEND or DESCEND")
@click.option("--sort-by", default="", help="CREATE, KEY, MODIFY, VALUE or VERSION")
@click.option("--limit", default=0, help="show at most so many keys")
@click.option("--rev", default=0, help="read at this revision")
@click.option("--keys-only", is_flag=True, help="no values")
@click.option("--count-only", is_flag=True, help="only the number of keys")
@click.option("--print-value-only", is_flag=True, help="only values (simple format)")
def get(*, print_value_only: bool, **options: Any) -> None:
    """Read a key or a range: get <key> [range_end]."""
    body = get_request(**options)
    if write_format() == "simple" and _pages(body):
        for lines in _paged_lines(client(), body, print_value_only):
            for line in lines:
                click.echo(line)
        return
    answer = client().call("kv/range", body)
    if body["count_only"]:
        simple = iter([answer.get("count", "0")])
    else:
        simple = get_lines(answer, print_value_only)
    emit(
        View(
            simple=lambda: simple,
            json=lambda: hexed(numbered(answer)),
            fields=lambda: get_fields(answer),
        )
    )


def get_request(
    *,
    words: Sequence[str],
    prefix: bool = False,
    from_key: bool = False,
    consistency: str = "l",
    order: str = "",
    sort_by: str = "",
    limit: int = 0,
    rev: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
) -> dict[str, Any]:
    """The body of a range."""
    if keys_only and count_only:
        message = "`--keys-only` and `--count-only` cannot be set at the same time, choose one"
        fail(message, BAD_ARGUMENTS)
    body: dict[str, Any] = _range("get", words, prefix, from_key)
    if consistency not in ("l", "s"):
        fail(f'unknown consistency flag "{consistency}"', BAD_FEATURE)
    if order and order.upper() not in ORDERS:
        fail(f"bad sort order {order}", BAD_FEATURE)
    if sort_by and sort_by.upper() not in TARGETS:
        fail(f"bad sort target {sort_by}", BAD_FEATURE)
    if order:
        body["sort_order"] = order.upper()
    if sort_by:
        body["sort_target"] = TARGETS[sort_by.upper()]
    return body | {
        "serializable": consistency == "s",
        "limit": limit,
        "revision": rev,
        "keys_only": keys_only,
        "count_only": count_only,
    }


def _pages(body: Mapping[str, Any]) -> bool:
    """Whether a range may be read page by page: no limit, key order, and more than a key."""
    plain = not body["limit"] and not body["count_only"]
    return plain and "range_end" in body and not {"sort_order", "sort_target"} & body.keys()


def _paged_lines(
    client: Client, body: dict[str, Any], values_only: bool
) -> Iterator[Iterator[bytes]]:
    """The lines of a whole range, a page at a time, all at the revision of the first page."""
    with counting("keys", show_progress() and not sys.stdout.isatty()) as progress:
        while True:
            answer = client.call("kv/range", body | {"limit": PAGE})
            pairs = answer.get("kvs", [])
            progress.advance(len(pairs), remaining=int(answer.get("count", 0)) - len(pairs))
            yield get_lines(answer, values_only)
            if not answer.get("more"):
                return
            body["revision"] = body["revision"] or int(answer["header"]["revision"])
            body["key"] = b64(unb64(pairs[-1]["key"]) + b"\0")


def get_lines(answer: Mapping[str, Any], values_only: bool = False) -> Iterator[bytes]:
    for pair in answer.get("kvs", []):
        yield from list(pair_lines(pair))[1 if values_only else 0 :]


def get_fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    for pair in answer.get("kvs", []):
        yield from pair_fields(pair)
    yield "More", answer.get("more", False)
    yield "Count", int(answer.get("count", 0))


# del


@click.command("del", cls=Command)
@WORDS
@PREFIX
@FROM_KEY
@PREV_KV
def delete(**options: Any) -> None:
    """Remove a key or a range: del <key> [range_end]."""
    answer = client().call("kv/deleterange", delete_request(**options))
    emit(
        View(
            simple=lambda: delete_lines(answer),
            json=lambda: hexed(numbered(answer)),
            fields=lambda: delete_fields(answer),
        )
    )


def delete_request(
    *, words: Sequence[str], prefix: bool = False, from_key: bool = False, prev_kv: bool = False
) -> dict[str, Any]:
    """The body of a delete."""
    return {**_range("del", words, prefix, from_key), "prev_kv": prev_kv}


def delete_lines(answer: Mapping[str, Any]) -> Iterator[bytes]:
    yield str(answer.get("deleted", 0)).encode()
    for pair in answer.get("prev_kvs", []):
        yield from pair_lines(pair)


def delete_fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    yield "Deleted", int(answer.get("deleted", 0))
    for pair in answer.get("prev_kvs", []):
        yield from pair_fields(pair, "Prev")


# compaction


@click.command("compaction", cls=Command)
@WORDS
@click.option("--physical", is_flag=True, help="return only when the old revisions are gone")
def compaction(words: Sequence[str], physical: bool) -> None:
    """Forget the history before a revision: compaction <revision>."""
    if len(words) != 1:
        fail("compaction command needs 1 argument", BAD_ARGUMENTS)
    revision = parse_int(words[0], exit_code=ERROR)
    body = {"revision": revision, "physical": physical}
    client(patient=physical and not is_set("command_timeout")).call("kv/compaction", body)
    click.echo(f"compacted revision {revision}")
