"""The four output formats. A command says what it has to show as a View; `emit` prints it as asked.

JSON is etcdctl's: the answer with 64-bit numbers as numbers. Fields are `"Name" : value` lines, one
group per message. Tables have ASCII lines. Simple output is each command's own lines, raw bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from node.ctl.client import unb64
from node.ctl.options import BAD_FEATURE, fail, setting, write_format


class Bare(str):
    """Text that stands without quotes in `fields` format."""


Field = tuple[str, object]
"""Name and value of a line in `fields` format; None stands for an empty line."""

BLANK: Field = ("", None)


@dataclass(frozen=True, kw_only=True)
class View:
    """One answer, in every format that it has. Nothing is computed before it is asked for."""

    simple: Callable[[], Iterable[bytes | str]]
    json: Callable[[], object]
    fields: Callable[[], Iterable[Field]]
    table: Callable[[], tuple[Sequence[str], Sequence[Sequence[object]]]] | None = None


def emit(view: View) -> None:
    """Print to stdout in the format asked for."""
    match write_format():
        case "json":
            click.echo(json.dumps(view.json(), separators=(",", ":"), ensure_ascii=False))
        case "fields":
            for line in field_lines(view.fields()):
                click.echo(line)
        case "table":
            if view.table is None:
                fail("table not supported as output format", BAD_FEATURE)
            click.echo(drawn(*view.table()))
        case _:
            for row in view.simple():
                click.echo(row)


# Bytes and numbers


def shown(data: bytes) -> bytes:
    """A key or value for simple output: as it is, or as `\\x..` with --hex."""
    if not setting("hex", False):
        return data
    return "".join(f"\\x{byte:02x}" for byte in data).encode()


_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


def quoted(data: bytes | str) -> str:
    """Text as Go quotes it: printable characters as they are, the rest as escapes."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    return '"' + "".join(_ESCAPES.get(mark) or _visible(mark) for mark in text) + '"'


def _visible(mark: str) -> str:
    number = ord(mark)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape hides it
        return f"\\x{number - 0xDC00:02x}"
    if mark.isprintable():
        return mark
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def human_bytes(size: int) -> str:
    """A size with a decimal unit, as etcdctl prints it: `25 kB`, `2.1 MB`."""
    if size < 10:
        return f"{size} B"
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min((len(str(size)) - 1) // 3, len(units) - 1)
    number = int(size / 1000**power * 10 + 0.5) / 10
    return f"{number:.1f} {units[power]}" if number < 10 else f"{number:.0f} {units[power]}"


def human_seconds(seconds: float) -> str:
    """A duration as Go prints it, to the microsecond."""
    if seconds < 1e-3:
        return f"{round(seconds * 1e6)}µs"
    if seconds < 1:
        return f"{seconds * 1e3:.6g}ms"
    return f"{seconds:.9g}s"


# JSON

_NUMBER_NAMES = """
    cluster_id member_id revision raft_term create_revision mod_revision version lease count deleted
    ID memberID leader raftIndex raftTerm raftAppliedIndex dbSize dbSizeInUse dbSizeQuota
    compact_revision hash_revision remaining_bytes authRevision
"""
_NUMBERS = frozenset(_NUMBER_NAMES.split())
_ENUMS = {
    "alarm": {"NONE": 0, "NOSPACE": 1, "CORRUPT": 2},
    "permType": {"READ": 0, "WRITE": 1, "READWRITE": 2},
}
_WHOLE = re.compile(r"-?\d+")


def numbered(answer: Any) -> Any:
    """An answer with 64-bit numbers, which travel as text, as numbers, and enums likewise."""
    if isinstance(answer, list):
        return [numbered(item) for item in answer]
    if not isinstance(answer, dict):
        return answer
    return {name: _number(name, value) for name, value in answer.items()}


def _number(name: str, value: Any) -> Any:
    if name in _NUMBERS and isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if name in _ENUMS and isinstance(value, str):
        return _ENUMS[name].get(value, value)
    return numbered(value)


def hexed(answer: Any) -> Any:
    """With --hex, keys and values of a JSON answer as hexadecimal text instead of base64."""
    if not setting("hex", False):
        return answer
    if isinstance(answer, list):
        return [hexed(item) for item in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        name: unb64(value).hex() if name in ("key", "value") else hexed(value)
        for name, value in answer.items()
    }


# Fields


def field_lines(fields: Iterable[Field]) -> Iterator[str]:
    for name, value in fields:
        match value:
            case None:
                yield ""
            case bool():
                yield f'"{name}" : {str(value).lower()}'
            case Bare():
                yield f'"{name}" : {value}'
            case str() | bytes():
                yield f'"{name}" : {quoted(value)}'
            case list():
                yield f'"{name}" : [{" ".join(quoted(item) for item in value)}]'
            case _:
                yield f'"{name}" : {value}'


def header_fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    header = answer.get("header", {})
    yield "ClusterID", int(header.get("cluster_id", 0))
    yield "MemberID", int(header.get("member_id", 0))
    yield "Revision", int(header.get("revision", 0))
    yield "RaftTerm", int(header.get("raft_term", 0))


def pair_fields(pair: Mapping[str, Any], prefix: str = "") -> Iterator[Field]:
    yield f"{prefix}Key", unb64(pair.get("key", ""))
    yield f"{prefix}CreateRevision", int(pair.get("create_revision", 0))
    yield f"{prefix}ModRevision", int(pair.get("mod_revision", 0))
    yield f"{prefix}Version", int(pair.get("version", 0))
    yield f"{prefix}Value", unb64(pair.get("value", ""))
    yield f"{prefix}Lease", int(pair.get("lease", 0))


# Tables


def drawn(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with ASCII lines: titles centred, cells to the right."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    titles = (_centred(title, width) for title, width in zip(header, widths, strict=True))
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    return "\n".join([rule, f"| {' | '.join(titles)} |", rule, *lines, *([rule] if lines else [])])


def _centred(title: str, width: int) -> str:
    return (" " * ((width - len(title)) // 2) + title).ljust(width)


def _cell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
