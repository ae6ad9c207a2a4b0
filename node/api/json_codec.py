"""The gateway's JSON, in full: what any client may send, and how every answer but the hot ones is
written.

Reading is tolerant where etcd is: camelCase or proto names, 64-bit numbers as numbers or strings,
integral floats, enum names or numbers, `null` for absent, base64 of either alphabet with or without
padding, unknown fields, bytes after the message, an empty body. It is strict where etcd's later
releases are: two members of a oneof, both spellings of one field, `null` inside an array, unknown
enum names. `kv_json` reads the usual forms of the hot requests faster and falls back to `decode`
for all others.

Writing leaves out what is zero, false or empty; 64-bit numbers are strings, bytes padded base64,
enums their names.
"""

from __future__ import annotations

import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from decimal import Decimal
from enum import IntEnum
from functools import cache
from typing import Any, NoReturn, TypeVar

import msgspec

from node.api.errors import MalformedMessage
from node.api.messages import ONEOF, Field, Kind, camel_case, fields_of

Message = TypeVar("Message")

_BOUNDS = {
    Kind.INT64: (-(2**63), 2**63 - 1),
    Kind.UINT64: (0, 2**64 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.ENUM: (-(2**31), 2**31 - 1),
}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_LENGTH_MAX = 64
_BLANKS = " \t\n\r"
_BLANK = re.compile(f"[{_BLANKS}]*")
_URL_TO_STANDARD = str.maketrans("-_", "+/")


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedMessage(f"invalid value {name}")


def _parse_int(digits: str) -> int | Decimal:
    # int() of a very long text is quadratic; a Decimal only compares, which is all it takes to
    # refuse it.
    return int(digits) if len(digits) <= _NUMBER_LENGTH_MAX else Decimal(digits)


_SCANNER = json.JSONDecoder(
    parse_float=Decimal, parse_int=_parse_int, parse_constant=_refuse_constant
)


def skip_blanks(text: str, start: int) -> int:
    """Where the next value, or the end, is."""
    return _BLANK.match(text, start).end()  # type: ignore[union-attr]


def parse(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start` (blanks skipped) and where it ends. MalformedMessage."""
    try:
        return _SCANNER.raw_decode(text, skip_blanks(text, start))
    except RecursionError:
        raise MalformedMessage("exceeded max depth") from None
    except MalformedMessage:
        raise
    except (ValueError, ArithmeticError) as error:
        raise MalformedMessage(f"invalid JSON: {error}") from None


def decode(body: bytes, message: type[Message]) -> Message:
    """The message in `body`; an empty body is an empty message. MalformedMessage."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"invalid UTF-8: {error.reason}") from None
    if not text.strip(_BLANKS):
        return message()
    value, _ = parse(text)
    try:
        return _read_message(value, message)
    except RecursionError:
        raise MalformedMessage("exceeded max depth") from None


@cache
def _spellings(message: type) -> dict[str, Field]:
    fields = fields_of(message)
    return {camel_case(f.name): f for f in fields} | {f.name: f for f in fields}


def _read_message(value: Any, message: type[Message]) -> Message:
    if not isinstance(value, dict):
        raise MalformedMessage(f"expected an object of {message.__name__}")
    fields = _spellings(message)
    given: dict[str, Any] = {}
    for name, item in value.items():
        field = fields.get(name)
        if field is None or item is None:
            continue
        if field.name in given:
            raise MalformedMessage(f"duplicate field {field.name}")
        given[field.name] = _read_repeated(item, field) if field.repeated else _read(item, field)
    members = ONEOF.get(message)
    if members is not None and len(members & given.keys()) > 1:
        raise MalformedMessage(f"more than one member of a oneof in {message.__name__}")
    return message(**given)


def _read_repeated(value: Any, field: Field) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedMessage(f"expected an array for {field.name}")
    return [_read(item, field) for item in value]


def _read(value: Any, field: Field) -> Any:
    kind = field.kind
    if kind is Kind.MESSAGE:
        return _read_message(value, field.of)
    if kind is Kind.BYTES:
        return _read_bytes(value, field)
    if kind is Kind.BOOL or kind is Kind.STRING:
        if isinstance(value, bool if kind is Kind.BOOL else str) and not _is_broken(value):
            return value
        raise MalformedMessage(f"invalid value for {kind.name.lower()} field {field.name}")
    if kind is Kind.ENUM and isinstance(value, str):
        try:
            return int(field.of[value])
        except KeyError:
            raise MalformedMessage(f"unknown value {value!r} of enum field {field.name}") from None
    return _read_number(value, field)


def _is_broken(value: bool | str) -> bool:
    """Whether a text holds half of a character (an escape such as \\ud800 alone)."""
    return isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value)


def _read_number(value: Any, field: Field) -> int:
    if isinstance(value, str) and len(value) <= _NUMBER_LENGTH_MAX and _NUMBER.fullmatch(value):
        try:
            value = Decimal(value)
        except ArithmeticError:  # An exponent of more than 18 digits.
            raise MalformedMessage(f"value of {field.name} is out of range") from None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise MalformedMessage(f"invalid value for number field {field.name}")
    low, high = _BOUNDS[field.kind]
    # The bounds first: they keep a tiny text like 1e999999 from becoming a huge integer.
    if not low <= value <= high or value != int(value):
        raise MalformedMessage(f"value of {field.name} is out of range")
    return int(value)


def _read_bytes(value: Any, field: Field) -> bytes:
    if not isinstance(value, str):
        raise MalformedMessage(f"invalid value for bytes field {field.name}")
    text = value.replace("\r", "").replace("\n", "")
    if "-" in text or "_" in text:
        if "+" in text or "/" in text:
            raise MalformedMessage(f"mixed base64 alphabets in {field.name}")
        text = text.translate(_URL_TO_STANDARD)
    missing = -len(text) % 4
    if missing and "=" in text:
        raise MalformedMessage(f"bad base64 padding in {field.name}")
    try:
        return a2b_base64(text + "=" * missing, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise MalformedMessage(f"bad base64 in {field.name}: {error}") from None


def wire_size(message: Any) -> int:
    """Bytes of `message` in protobuf, the unit that etcd's limits on a request are in."""
    total = 0
    for field in fields_of(type(message)):
        value = getattr(message, field.name)
        for item in value if field.repeated else (value,):
            if item or ((field.repeated or field.kind is Kind.MESSAGE) and item is not None):
                total += 1 + _item_size(item, field.kind)
    return total


def _item_size(item: Any, kind: Kind) -> int:
    if kind is Kind.MESSAGE:
        size = wire_size(item)
    elif kind is Kind.BYTES or kind is Kind.STRING:
        size = len(item)
    else:
        return _varint_size(item)
    return _varint_size(size) + size


def _varint_size(value: int) -> int:
    return max(1, -(-(value & (2**64 - 1)).bit_length() // 7))


def to_wire(message: Any) -> dict[str, Any]:
    """The JSON object of a message, zero values left out."""
    wire: dict[str, Any] = {}
    for field in fields_of(type(message)):
        value = getattr(message, field.name)
        if field.repeated:
            if value:
                wire[field.name] = [_item(item, field) for item in value]
        elif value or (field.kind is Kind.MESSAGE and value is not None):
            wire[field.name] = _item(value, field)
    return wire


def _item(value: Any, field: Field) -> Any:
    kind = field.kind
    if kind is Kind.MESSAGE:
        return to_wire(value)
    if kind is Kind.INT64 or kind is Kind.UINT64:
        return str(value)
    if kind is Kind.ENUM:
        return _enum_name(value, field.of)
    return value


def _enum_name(value: int, names: type[IntEnum]) -> str | int:
    try:
        return names(value).name
    except ValueError:
        return value


_ENCODE = msgspec.json.Encoder().encode


def encode(message: Any) -> bytes:
    """A message without a header."""
    return _ENCODE(to_wire(message))


def encode_with_header(header: bytes, message: Any) -> bytes:
    """A response: `header` (see `kv_json.Header`), then its fields; its `revision` is in the header
    already.
    """
    wire = to_wire(message)
    wire.pop("revision", None)
    if not wire:
        return header + b"}"
    return header + b"," + _ENCODE(wire)[1:]
