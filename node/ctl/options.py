"""The flags that every command takes, and what commands are made of.

As in etcdctl, `eskerctl -w json get a` and `eskerctl get a -w json` are the same, a boolean flag
may be written `--prefix=false`. A flag beats `ESKERCTL_*`, which beats `ETCDCTL_*`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from node.ctl.client import Client, Settings

ERROR, BAD_CONNECTION, BAD_INPUT, BAD_FEATURE, IO_ERROR, BAD_ARGUMENTS = 1, 2, 3, 4, 6, 128
"""Exit codes, as etcdctl has them."""

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
        _global("-w", "--write-out", type=click.Choice(FORMATS), help="output format [simple]"),
        _global("--hex", is_flag=True, help="print bytes as hexadecimal numbers"),
        _global("--command-timeout", type=Duration(), help="limit of a short command [5s]"),
        _global("--dial-timeout", type=Duration(), help="limit of making a connection [2s]"),
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
            name
            for option in self.params
            if isinstance(option, click.Option) and option.is_flag
            for name in option.opts
        }
        rest: list[str] = super().parse_args(ctx, _plain_booleans(args, flags))  # type: ignore[misc]
        return rest


def _plain_booleans(args: Sequence[str], flags: set[str]) -> list[str]:
    """The arguments with `--flag=true` as `--flag`, and without `--flag=false`."""
    plain: list[str] = []
    for position, argument in enumerate(args):
        if argument == "--":
            return plain + list(args[position:])
        name, _, value = argument.partition("=")
        if name in flags and value.lower() in ("true", "1", "t"):
            plain.append(name)
        elif not (name in flags and value.lower() in ("false", "0", "f")):
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
    for prefix in ("ESKERCTL_", "ETCDCTL_"):
        text = os.environ.get(prefix + name.upper(), "")
        if text:
            return _from_environment(prefix + name.upper(), text, default)
    return default


def _from_environment(variable: str, text: str, default: Any) -> Any:
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
    if chosen not in FORMATS:
        fail(f"unsupported output format {chosen!r}", BAD_FEATURE)
    return chosen


def _endpoint(word: str) -> str:
    """An endpoint as it was given, after a look at its form."""
    try:
        parts = urlsplit(word if "://" in word else f"//{word}")
        good = parts.netloc and parts.scheme in ("", "http", "https") and parts.port != 0
    except ValueError:
        good = False
    if not good:
        fail(f"{word!r} is not an endpoint such as 127.0.0.1:2379", BAD_ARGUMENTS)
    return word


def _file(name: str) -> str:
    """The file that a global flag names, which must be there: a connection would only say no."""
    path: str = setting(name, "")
    if path and not os.path.isfile(path):
        fail(f"--{name}: there is no file {path}", BAD_ARGUMENTS)
    return path


def client(*, patient: bool = False) -> Client:
    """A client as the flags say; a patient one has no deadline unless --command-timeout sets it."""
    name, _, password = setting("user", "").partition(":")
    settings = Settings(
        endpoints=tuple(
            _endpoint(word.strip()) for word in setting("endpoints", "127.0.0.1:2379").split(",")
        ),
        command_seconds=setting("command_timeout", 5.0),
        dial_seconds=setting("dial_timeout", 2.0),
        ca_file=_file("cacert"),
        cert_file=_file("cert"),
        key_file=_file("key"),
        skip_verify=setting("insecure_skip_tls_verify", False),
        user=name,
        password=setting("password", password),
    )
    if patient and not is_set("command_timeout"):
        settings = replace(settings, command_seconds=None)
    return Client(settings)


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
