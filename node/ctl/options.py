"""The flags that every command takes, and what commands are made of.

As in etcdctl, `eskerctl -w json get a` and `eskerctl get a -w json` are the same, a boolean flag
may be written `--prefix=false`. A flag beats `ESKERCTL_*`, which beats `ETCDCTL_*`.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from node.ctl.client import Client, Settings

ERROR, BAD_CONNECTION, BAD_INPUT, BAD_FEATURE = 1, 2, 3, 4
INTERRUPTED, IO_ERROR, BAD_ARGUMENTS = 5, 6, 128
"""Exit codes, as etcdctl has them."""

SIGNALED = 130
"""A command that goes on until Ctrl-C ends with this, as one that the signal itself ends."""

FORMATS = ("simple", "table", "json", "fields")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_KEY = "eskerctl"


class Failure(click.ClickException):
    """Ends the command with a message on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


def fail(message: str, exit_code: int = ERROR) -> NoReturn:
    raise Failure(message, exit_code)


class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Seconds, written as Go writes durations: `5s`, `1m30s`, `200ms`."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration such as 5s or 1m30s", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note what was set anywhere on the line; what stands nearer to the end wins."""
    assert param.name is not None
    if ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT:
        ctx.meta.setdefault(_KEY, {})[param.name] = value


def _global(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_keep, **attributes)


def _globals() -> list[click.Parameter]:
    return [
        _global("--endpoints", help="members to talk to, comma-separated [127.0.0.1:2379]"),
        _global("-w", "--write-out", help=f"{', '.join(FORMATS)} [simple]"),
        _global("--hex", is_flag=True, help="print bytes as hexadecimal numbers"),
        _global("--command-timeout", type=Duration(), help="limit of a short command [5s]"),
        _global("--dial-timeout", type=Duration(), help="limit of making a connection [2s]"),
        _global("--keepalive-time", type=Duration(), help="ask a silent peer after [2s]"),
        _global("--keepalive-timeout", type=Duration(), help="and give it so long [6s]"),
        _global("--cacert", help="authority that the servers' certificates must come from"),
        _global("--cert", help="certificate to show"),
        _global("--key", help="its key"),
        _global("--insecure-skip-tls-verify", is_flag=True, help="trust any server (tests only)"),
        _global("--insecure-transport", is_flag=True, hidden=True),
        _global("--user", help="name[:password]"),
        _global("--password", help="password of --user"),
        _global("--debug", is_flag=True, hidden=True),
    ]


class _WithGlobals:
    """Mixed into commands: takes the flags above, and `--flag=true` for booleans."""

    def parse_args(self: Any, ctx: click.Context, args: list[str]) -> list[str]:
        known = {option.name for option in self.params}
        self.params += [option for option in _globals() if option.name not in known]
        flags = {
            name: option.secondary_opts
            for option in self.params
            if isinstance(option, click.Option) and option.is_flag
            for name in option.opts
        }
        rest: list[str] = super().parse_args(ctx, _plain_booleans(args, flags))  # type: ignore[misc]
        return rest


def _plain_booleans(args: Sequence[str], flags: Mapping[str, Sequence[str]]) -> list[str]:
    """The arguments with `--flag=true` as `--flag`, `--flag=false` as its opposite or not at all.

    `flags` are those that take no value, with the names of their opposites.
    """
    plain: list[str] = []
    for position, argument in enumerate(args):
        if argument == "--":
            return plain + list(args[position:])
        name, _, value = argument.partition("=")
        if name in flags and value.lower() in ("true", "1", "t"):
            plain.append(name)
        elif name in flags and value.lower() in ("false", "0", "f"):
            plain += flags[name][:1]
        else:
            plain.append(argument)
    return plain


class Command(_WithGlobals, click.Command):
    pass


class Group(_WithGlobals, click.Group):
    command_class = Command
    group_class = type


def setting(name: str, default: Any) -> Any:
    """A global flag's value: from the line, else the environment, else `default`."""
    given = click.get_current_context().meta.get(_KEY, {})
    if name in given:
        return given[name]
    variable, text = _variable(name)
    return _converted(variable, text, default) if text else default


def from_environment(name: str) -> str:
    """A setting that has no flag; empty if it is not there."""
    return _variable(name)[1]


def _variable(name: str) -> tuple[str, str]:
    """The variable that holds a setting, and its text."""
    names = [prefix + name.upper() for prefix in ("ESKERCTL_", "ETCDCTL_")]
    return next(((one, os.environ[one]) for one in names if os.environ.get(one)), ("", ""))


def _converted(variable: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return text.lower() in ("true", "1", "t")
    if isinstance(default, float):
        try:
            return Duration().convert(text, None, None)
        except click.UsageError as error:
            fail(f"{variable}: {error.message}", BAD_ARGUMENTS)
    return text


def is_set(name: str) -> bool:
    """Whether a global flag was given on the line or in the environment."""
    marker = object()
    return setting(name, marker) is not marker


def write_format() -> str:
    """The output format asked for."""
    chosen: str = setting("write_out", "simple")
    if chosen == "protobuf":
        fail("protobuf not supported as output format", BAD_FEATURE)
    if chosen not in FORMATS:
        fail("unsupported output format", BAD_FEATURE)
    return chosen


def endpoint_of(word: str) -> str:
    """An endpoint as it was given, after a look at its form."""
    try:
        parts = urlsplit(word if "://" in word else f"//{word}")
        good = parts.netloc and parts.scheme in ("", "http", "https") and parts.port != 0
    except ValueError:
        good = False
    if not good:
        fail(f"{word!r} is not an endpoint such as 127.0.0.1:2379", BAD_ARGUMENTS)
    return word


def file_of(flag: str, path: str) -> str:
    """The file that a flag names, which must be there: a connection would only say no."""
    if path and not os.path.isfile(path):
        fail(f"--{flag}: there is no file {path}", BAD_ARGUMENTS)
    return path


def client(*, patient: bool = False) -> Client:
    """A client as the flags say; a patient one has no deadline unless --command-timeout sets it."""
    write_format()  # refused before anything is done
    name, password = _credentials()
    settings = Settings(
        endpoints=tuple(
            endpoint_of(word.strip()) for word in setting("endpoints", "127.0.0.1:2379").split(",")
        ),
        command_seconds=setting("command_timeout", 5.0),
        dial_seconds=setting("dial_timeout", 2.0),
        keepalive_idle=setting("keepalive_time", 2.0),
        keepalive_seconds=setting("keepalive_timeout", 6.0),
        ca_file=file_of("cacert", setting("cacert", "")),
        cert_file=file_of("cert", setting("cert", "")),
        key_file=file_of("key", setting("key", "")),
        skip_verify=setting("insecure_skip_tls_verify", False),
        user=name,
        password=password,
    )
    if patient and not is_set("command_timeout"):
        settings = replace(settings, command_seconds=None)
    return Client(settings)


def _credentials() -> tuple[str, str]:
    """Name and password; a password that is nowhere given is asked for, where somebody can type."""
    user: str = setting("user", "")
    if is_set("password"):
        return user, setting("password", "")
    name, colon, password = user.partition(":")
    if name and not colon:
        password = ask_password("Password: ")
    return name, password


def ask_password(prompt: str) -> str:
    """A line typed without echo."""
    if not sys.stdin.isatty():
        fail("there is no terminal to ask for a password", BAD_ARGUMENTS)
    return getpass.getpass(prompt)


def endless(command: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a command that goes on until it is interrupted, which is then no failure."""

    @wraps(command)
    def until_interrupted(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(SIGNALED) from None

    return until_interrupted


def endpoints(client: Client, cluster: bool) -> list[str]:
    """The endpoints to ask one by one; with `cluster`, every member's client URLs instead."""
    if not cluster:
        return list(client.settings.endpoints)
    members = client.call("cluster/member/list", {}).get("members", [])
    found = [url for member in members for url in member.get("clientURLs", [])]
    return sorted(found)


def show_progress() -> bool:
    """Whether somebody watches stderr."""
    return sys.stderr.isatty()


def parse_int(text: str, complaint: str = "{}", exit_code: int = BAD_ARGUMENTS) -> int:
    """A decimal number; `complaint` says what it is for."""
    try:
        return int(text)
    except ValueError:
        problem = f'strconv.ParseInt: parsing "{text}": invalid syntax'
        fail(complaint.format(problem), exit_code)


def parse_hex(text: str, what: str, *, signed: bool = False) -> int:
    """An ID as it is printed."""
    bits = 63 if signed else 64
    try:
        number = int(text, 16)
        problem = "" if number < 1 << bits else "value out of range"
    except ValueError:
        number, problem = 0, "invalid syntax"
    if number < (-(1 << bits) if signed else 0):
        problem = "value out of range" if signed else "invalid syntax"
    if problem:
        function = "ParseInt" if signed else "ParseUint"
        fault = f'strconv.{function}: parsing "{text}": {problem}'
        fail(f"bad {what} arg ({fault}), expecting ID in Hex", BAD_ARGUMENTS)
    return number
