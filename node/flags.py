"""etcd's flags as text: which exist, where their values may come from, and how a value is read.

A setting is looked for in this order, the first wins: a flag (`--name n1`, `-name=n1`), the
environment (`ETCD_NAME`), the TOML file named by `--config-file` (`name = "n1"`), the default. etcd
itself ignores flags and environment once a file is given; here they refine it, so that one file can
serve several members.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from urllib.parse import urlsplit

BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}

ALIASES = {
    "experimental-watch-progress-notify-interval": "watch-progress-notify-interval",
    "experimental-compaction-batch-limit": "compaction-batch-limit",
    "experimental-compaction-sleep-interval": "compaction-sleep-interval",
    "experimental-snapshot-catchup-entries": "snapshot-catchup-entries",
    "experimental-initial-corrupt-check": "initial-corrupt-check",
    "experimental-corrupt-check-time": "corrupt-check-time",
    "experimental-compact-hash-check-enabled": "compact-hash-check-enabled",
    "experimental-compact-hash-check-time": "compact-hash-check-time",
}

_UNSUPPORTED = """
    client-cert-file
    client-key-file debug discovery discovery-cacert discovery-cert
    discovery-dial-timeout discovery-endpoints discovery-fallback
    discovery-insecure-skip-tls-verify discovery-insecure-transport discovery-keepalive-time
    discovery-keepalive-timeout discovery-key discovery-password discovery-proxy
    discovery-request-timeout discovery-srv discovery-srv-name discovery-token discovery-user
    distributed-tracing-address distributed-tracing-instance-id
    distributed-tracing-sampling-rate distributed-tracing-service-name downgrade-check-time
    enable-distributed-tracing enable-grpc-gateway enable-log-rotation enable-pprof enable-v2
    feature-gates grpc-keepalive-interval grpc-keepalive-min-time grpc-keepalive-timeout
    listen-client-http-urls log-format
    log-package-levels log-rotation-config-json max-concurrent-streams max-learners
    max-snapshots max-wals memory-mlock
    peer-client-cert-file peer-client-key-file
    peer-skip-client-san-verification proxy proxy-dial-timeout proxy-failure-wait
    proxy-read-timeout proxy-refresh-interval proxy-write-timeout self-signed-cert-validity
    socket-reuse-address socket-reuse-port unsafe-no-fsync
    v2-deprecation warning-apply-duration warning-unary-request-duration
"""
UNSUPPORTED = frozenset(_UNSUPPORTED.split())
"""Flags of etcd 3.4 to 3.6 that are refused by name, besides every other `experimental-` one."""


class Given:
    """What was set, as (text, where it was set) by flag name, and the faults met so far."""

    def __init__(self, known: Mapping[str, Callable[[str], object]]) -> None:
        self.known = known
        self.values: dict[str, tuple[str, str]] = {}
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.unread: set[str] = set()

    def offer(self, name: str, text: str, where: str) -> None:
        """Keep a value unless one of higher rank is there; an unsupported name is a fault."""
        name = ALIASES.get(name, name)
        if name in self.known:
            self.values.setdefault(name, (text, where))
        elif name in UNSUPPORTED or name.startswith("experimental-"):
            self.faults.append(f"{where}: etcd's flag --{name} is not supported by esker")
        else:
            self.faults.append(f"{where}: there is no flag --{name}")

    def parse(self) -> dict[str, object]:
        """Values by flag name; one fault for each that does not read."""
        parsed = {}
        for name, (text, where) in self.values.items():
            try:
                parsed[name] = self.known[name](text)
            except ValueError as error:
                self.unread.add(name)
                self.faults.append(f"{where}: {error}")
        return parsed


def read_arguments(given: Given, arguments: Sequence[str]) -> None:
    """Flags of the command line; of a repeated flag the last counts, as in etcd."""
    rest = list(arguments)
    last: dict[str, tuple[str, str]] = {}
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument.strip("-") == "":
            given.faults.append(f"{argument!r} is not a flag")
            continue
        name, equals, text = argument[2 if argument.startswith("--") else 1 :].partition("=")
        if not equals:
            text = _following(given, name, rest)
        last[ALIASES.get(name, name)] = (text, f"--{name}")
    for name, (text, where) in last.items():
        given.offer(name, text, where)


def _following(given: Given, name: str, rest: list[str]) -> str:
    """The value after a flag without `=`. A boolean needs none and takes only true or false."""
    parser = given.known.get(ALIASES.get(name, name))
    if parser is boolean:
        return rest.pop(0) if rest and rest[0] in BOOLEANS else "true"
    if parser is None:
        # Unknown: it will be refused by name; a value that belongs to it should not be refused too.
        return rest.pop(0) if rest and not rest[0].startswith("-") else ""
    if not rest:
        given.faults.append(f"--{name}: needs a value")
        return ""
    return rest.pop(0)


def read_environment(given: Given, environment: Mapping[str, str]) -> None:
    """`ETCD_*` variables; empty ones count as unset, and unknown ones are only noted, as in etcd.

    (Kubernetes puts variables such as ETCD_PORT into every container beside a service named etcd.)
    """
    for variable in sorted(environment):
        if not variable.startswith("ETCD_") or not environment[variable]:
            continue
        name = variable.removeprefix("ETCD_").lower().replace("_", "-")
        known = ALIASES.get(name, name) in given.known
        if known or name in UNSUPPORTED or name.startswith("experimental-"):
            given.offer(name, environment[variable], variable)
        else:
            given.notes.append(f"environment variable {variable} is not a flag of etcd: ignored")


def read_toml(given: Given, path: str) -> None:
    """A TOML file whose keys are flag names; lists of strings stand for comma-separated values."""
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        given.faults.append(f"config-file: cannot read {path}: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        given.faults.append(f"config-file: {path} is not TOML: {error}")
        return
    read_table(given, table, path)


def read_table(given: Given, table: Mapping[str, object], path: str) -> None:
    """The settings of one TOML table."""
    for key, value in table.items():
        where = f"{path}: {key}"
        match value:
            case bool():
                given.offer(key, str(value).lower(), where)
            case str() | int():
                given.offer(key, str(value), where)
            case list() if all(isinstance(item, str) for item in value):
                given.offer(key, ",".join(value), where)
            case _:
                given.faults.append(
                    f"{where}: expected text, a whole number, a boolean or a list of text"
                )


# Readers of values: text in, value out, ValueError with a plain sentence about the value.


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    if value not in BOOLEANS:
        raise ValueError(f"{value!r} is neither true nor false")
    return BOOLEANS[value]


def integer(low: int, high: int = 2**63 - 1) -> Callable[[str], int]:
    """A whole number in [low, high]."""

    def read(value: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,19}", value, re.ASCII):
            raise ValueError(f"{value!r} is not a whole number")
        if not low <= int(value) <= high:
            bounds = f"at least {low}" if high == 2**63 - 1 else f"between {low} and {high}"
            raise ValueError(f"{value} is out of range: it must be {bounds}")
        return int(value)

    return read


def choice(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return value

    return read


_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_UNIT_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3}


def duration_ms(value: str) -> int:
    """A duration as Go writes it (`100ms`, `1h30m`), in whole milliseconds; `0` needs no unit."""
    if value == "0":
        return 0
    position, total = 0, 0.0
    while part := _DURATION_PART.match(value, position):
        total += float(part[1]) * _UNIT_MS[part[2]]
        position = part.end()
    if not value or position != len(value):
        raise ValueError(f"{value!r} is not a duration such as 100ms, 10m or 1h30m")
    return round(total)


def words(value: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(word.strip() for word in value.split(",") if word.strip())


def urls(value: str) -> tuple[str, ...]:
    """Comma-separated URLs of the form scheme://host:port, sorted as etcd does; may be empty."""
    return tuple(sorted(_url(word) for word in words(value)))


def _url(word: str) -> str:
    try:
        parts = urlsplit(word)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{word!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"URL {word!r} must begin with http:// or https://")
    if not host or port is None or parts.username is not None:
        raise ValueError(f"URL {word!r} does not have the form scheme://host:port")
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"URL {word!r} must not contain a path")
    return word


def binds(url: str) -> bool:
    """Whether a URL can be listened on: its host is an address or localhost, not a name."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def cluster(value: str) -> dict[str, tuple[str, ...]]:
    """`n1=url,n2=url,n2=url`: the peer URLs of each member, sorted."""
    members: dict[str, list[str]] = {}
    for word in words(value):
        name, equals, url = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} does not have the form name=url")
        members.setdefault(name.strip(), []).append(_url(url.strip()))
    return {name: tuple(sorted(found)) for name, found in members.items()}


def duplicates(items: Collection[str]) -> list[str]:
    return sorted({item for item in items if list(items).count(item) > 1})
