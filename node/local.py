"""`esker local`: the members of one configuration file as child processes on this machine.

The file names the members with their client and peer URLs, and flags for all of them. Each member's
data is in `<data-dir>/<name>`, what it prints in `<data-dir>/<name>.log`. A member that ends is
started again after a pause that doubles each time; Ctrl-C or SIGTERM stops all of them in order.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from node.config import ConfigError, load
from node.ctl.client import CallError, Client, Settings, b64, unb64

DEFAULT_FILE = Path(__file__).resolve().parents[1] / "cluster-configs" / "local.toml"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.2
ROLE_SECONDS = 2.0
PAUSE_FIRST_SECONDS = 0.5
PAUSE_MAX_SECONDS = 15.0
SETTLED_SECONDS = 30.0
"""A member that ran this long is started again without the pauses of its earlier ends."""

console = Console(highlight=False, width=max(120, shutil.get_terminal_size().columns))


class LocalError(Exception):
    """The cluster cannot be started; the text says why, in one or more lines."""


@dataclass
class Child:
    """A member: what it is started with, and the process that runs it."""

    name: str
    client_url: str
    peer_url: str
    data_dir: Path
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_seconds: float = PAUSE_FIRST_SECONDS
    restart_at: float | None = None
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(Settings(endpoints=(self.client_url,), command_seconds=3.0))

    @property
    def log_path(self) -> Path:
        return self.data_dir.with_suffix(".log")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        environment = {key: text for key, text in os.environ.items() if key[:5] != "ETCD_"}
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal must reach us alone, to stop in order.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node", *self.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.restart_at = None

    def role(self) -> str:
        """What the member says of itself, or that it says nothing."""
        try:
            status = self.client.call("maintenance/status", {})
        except CallError:
            return "starting" if self.running else "down"
        member, leader = int(status["header"]["member_id"]), int(status.get("leader", 0))
        if not leader:
            return "no leader"
        return "leader" if member == leader else "follower"

    def last_words(self, lines: int = 5) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])


def read_members(path: Path, data_dir: Path) -> list[Child]:
    """The members that a file describes. Raises LocalError with all that is wrong with it."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LocalError(f"cannot read {path}: {error}") from error
    unknown = table.keys() - {"flags", "members"}
    if unknown:
        raise LocalError(f"{path}: unknown tables {', '.join(sorted(unknown))}")
    members, flags = table.get("members", {}), table.get("flags", {})
    if not members:
        raise LocalError(f"{path}: [members] names nobody")
    for name, urls in members.items():
        if not isinstance(urls, dict) or urls.keys() != {"client", "peer"}:
            raise LocalError(f'{path}: {name} must be {{ client = "URL", peer = "URL" }}')
    children = [_child(name, members, flags, data_dir) for name in members]
    faults = [fault for child in children for fault in _faults(child)]
    if faults:
        raise LocalError("\n".join(dict.fromkeys(faults)))
    return children


def _child(
    name: str, members: Mapping[str, Mapping[str, str]], flags: Mapping[str, object], data_dir: Path
) -> Child:
    client, peer = members[name]["client"], members[name]["peer"]
    own = {
        **flags,
        "name": name,
        "data-dir": str(data_dir / name),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(f"{each}={urls['peer']}" for each, urls in members.items()),
    }
    return Child(name, client, peer, data_dir / name, [f"--{key}={own[key]}" for key in own])


def _faults(child: Child) -> list[str]:
    try:
        load(child.arguments, {})
    except ConfigError as error:
        return [f"{child.name}: {fault}" for fault in error.faults]
    return []


class Supervisor:
    """Starts the members, watches them, and stops them. Says what happens on the console."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = children
        self.stopping = False

    def start(self, *, fresh: bool = False) -> None:
        """Start all, and wait until all are healthy. Raises LocalError, with none left running.

        With `fresh`, what earlier runs left is removed, but never from under a running cluster.
        """
        for url in (url for child in self.children for url in (child.client_url, child.peer_url)):
            _check_free(url)
        for child in self.children:
            if fresh:
                shutil.rmtree(child.data_dir, ignore_errors=True)
            child.data_dir.mkdir(parents=True, exist_ok=True)
            child.start()
        try:
            self._wait_healthy()
        except BaseException:
            self.stop()
            raise

    def _wait_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = list(self.children)
        while waiting and not self.stopping:
            for child in waiting:
                if not child.running:
                    raise LocalError(f"{child.name} did not start:\n{child.last_words()}")
            waiting = [child for child in waiting if child.role() not in ("leader", "follower")]
            if waiting and time.monotonic() > deadline:
                names = ", ".join(child.name for child in waiting)
                raise LocalError(f"not ready after {START_SECONDS:g} s: {names}; see their logs")
            time.sleep(POLL_SECONDS if waiting else 0)

    def table(self) -> Table:
        table = Table(title="esker, a cluster on this machine")
        for title in ("name", "role", "client URL", "peer URL", "pid", "data"):
            table.add_column(title, overflow="fold")
        for child in self.children:
            pid = str(child.process.pid) if child.process is not None else ""
            urls = (child.client_url, child.peer_url)
            table.add_row(child.name, child.role(), *urls, pid, str(child.data_dir))
        return table

    def watch(self) -> None:
        """Until asked to stop: start whoever ended again, and say when the leader changes."""
        leader = self._leader()
        look_at = time.monotonic() + ROLE_SECONDS
        while not self.stopping:
            now = time.monotonic()
            for child in self.children:
                self._tend(child, now)
            if now >= look_at:
                look_at = now + ROLE_SECONDS
                found = self._leader()
                if found and found != leader:
                    console.print(f"{found} is the leader now")
                    leader = found
            time.sleep(POLL_SECONDS)

    def _leader(self) -> str:
        return next((child.name for child in self.children if child.role() == "leader"), "")

    def _tend(self, child: Child, now: float) -> None:
        if child.running:
            return
        if child.restart_at is None:
            assert child.process is not None
            if now - child.started_at > SETTLED_SECONDS:
                child.pause_seconds = PAUSE_FIRST_SECONDS
            child.restart_at = now + child.pause_seconds
            console.print(
                f"{child.name} ended ({_ending(child.process.returncode)});"
                f" starting it again in {child.pause_seconds:g} s, its log is {child.log_path}"
            )
            child.pause_seconds = min(child.pause_seconds * 2, PAUSE_MAX_SECONDS)
        elif now >= child.restart_at:
            child.start()
            assert child.process is not None
            console.print(f"{child.name} is started again, pid {child.process.pid}")

    def stop(self) -> None:
        """SIGTERM to one after the other, so that leadership is handed over; SIGKILL if slow."""
        for child in self.children:
            if child.process is None or not child.running:
                continue
            child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                console.print(f"{child.name} does not stop, killing it")
                child.process.kill()
                child.process.wait()


def _check_free(url: str) -> None:
    """Raise LocalError if somebody listens there: the member's own complaint would be in a log."""
    parts = urlsplit(url)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((parts.hostname, parts.port))
        except OSError as error:
            raise LocalError(f"cannot listen on {url}: {error.strerror}") from error


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def demonstrate(children: Sequence[Child]) -> None:
    """Put through the first member, read from the last, and show both."""
    first, last = children[0], children[-1]
    body = {"key": b64(b"greeting"), "value": b64(b"hello from esker")}
    revision = first.client.call("kv/put", body)["header"]["revision"]
    console.print(f"put greeting through {first.name}: revision {revision}")
    found = last.client.call("kv/range", {"key": b64(b"greeting")})["kvs"][0]
    console.print(f"get greeting from {last.name}: {unb64(found['value']).decode()}")


@click.command("local", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    help="members and flags",
    show_default="cluster-configs/local.toml",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="where the data goes [data]")
@click.option("--fresh", is_flag=True, help="forget what earlier runs left")
@click.option("--demo", is_flag=True, help="start, write, read, stop; data is not kept")
def command(**options: Any) -> int:
    """Run a cluster of three members on this machine."""
    return run(**options)


def run(path: Path, data_dir: Path | None, fresh: bool, demo: bool) -> int:
    """Run the cluster until a signal; the exit code."""
    with _directory(data_dir, demo) as root:
        try:
            children = read_members(path, root)
            supervisor = Supervisor(children)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: setattr(supervisor, "stopping", True))
            supervisor.start(fresh=fresh)
        except LocalError as error:
            click.echo(f"esker local: {error}", err=True)
            return 1
        try:
            return _run(supervisor, demo)
        finally:
            supervisor.stop()


def _run(supervisor: Supervisor, demo: bool) -> int:
    console.print(supervisor.table())
    if demo:
        try:
            demonstrate(supervisor.children)
        except (CallError, LookupError) as error:
            click.echo(f"esker local: the demonstration failed: {error}", err=True)
            return 1
        return 0
    endpoints = ",".join(child.client_url for child in supervisor.children)
    console.print(f"export ESKERCTL_ENDPOINTS={endpoints}", soft_wrap=True)
    console.print("Ctrl-C stops the cluster; its data stays until a start with --fresh.")
    supervisor.watch()
    console.print("stopping")
    return 0


@contextmanager
def _directory(data_dir: Path | None, demo: bool) -> Iterator[Path]:
    """The directory of the data, made if need be; a demonstration may have a passing one."""
    if demo and data_dir is None:
        with tempfile.TemporaryDirectory(prefix="esker-demo-") as passing:
            yield Path(passing)
        return
    root = data_dir or Path("data")
    root.mkdir(parents=True, exist_ok=True)
    yield root


def main(arguments: Sequence[str]) -> int:
    """`esker local ...`: the exit code."""
    try:
        code: object = command.main(list(arguments), prog_name="esker local", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"esker local: {error.format_message()}", err=True)
        return 2
    return code if isinstance(code, int) else 0
