"""Members as child processes on loopback: started, killed, paused, started again, ended by pid.

Every wait has a limit. Each process writes to a log file beside its data, which `Cluster.report`
shows when a test fails. Ports lie below those that the kernel takes for outgoing connections.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from tests.cluster.client import NO_ANSWER, ApiError, Client

PORTS = range(20_000, 32_000)
START_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
ROOT = Path(__file__).resolve().parents[2]

_taken: set[int] = set()


class Overdue(AssertionError):
    """A bounded wait ran out; the text says what was waited for."""


def wait_until(what: str, condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Poll until `condition()` holds; a member that does not answer counts as not yet."""
    deadline = time.monotonic() + seconds
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (*NO_ANSWER, ApiError) as error:
            last = error
        time.sleep(POLL_SECONDS)
    raise Overdue(f"not within {seconds:g} s: {what}" + (f" (last: {last!r})" if last else ""))


def free_port() -> int:
    """A loopback port nobody listens on, and that was not given out before."""
    for _ in range(1000):
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _taken:
                _taken.add(port)
                return port
    raise AssertionError("no free port on loopback")


class Member:
    """One member: its addresses, its data, and the process that is running it, if any."""

    command: ClassVar = (sys.executable, "-m", "node")

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.data_dir = directory / "data"
        self.log_path = directory / "log"
        self.client_url = f"http://127.0.0.1:{free_port()}"
        self.peer_url = f"http://127.0.0.1:{free_port()}"
        self.flags: dict[str, str] = {}
        self.token = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def client(self) -> Client:
        """A client of this member with a connection of its own since the last start."""
        if not self._clients:
            self._clients.append(self.connect())
        return self._clients[0]

    def connect(self, timeout_seconds: float = 15.0) -> Client:
        """One more client, with a connection of its own; the caller closes it."""
        return Client(self.client_url, timeout_seconds, self.token)

    @property
    def id(self) -> int:
        return int(self.client.status()["header"]["member_id"])

    @property
    def leads(self) -> bool:
        status = self.client.status()
        return int(status.get("leader", 0)) == int(status["header"]["member_id"])

    def arguments(self) -> list[str]:
        """The command line of this member."""
        flags = {
            "name": self.name,
            "data-dir": str(self.data_dir),
            "listen-client-urls": self.client_url,
            "advertise-client-urls": self.client_url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            **self.flags,
        }
        return [*self.command, *(f"--{name}={text}" for name, text in flags.items())]

    def start(self, *, failpoints: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Start on whatever data there is; `failpoints` as ESKER_FAILPOINTS takes them."""
        assert not self.running, f"{self.name} is already running"
        inherited = {name: text for name, text in os.environ.items() if name[:5] != "ETCD_"}
        environment = {**inherited, "ESKER_FAILPOINTS": failpoints, **(environment or {})}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments(),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """kill -9, and wait until the process is gone."""
        self._signal(signal.SIGKILL)
        self.wait_exit()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._signal(signal.SIGTERM)
        return self.wait_exit()

    def pause(self) -> None:
        """SIGSTOP: alive to the kernel, dead to everybody else."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None, f"{self.name} was never started"
        if self.running:
            self.process.send_signal(number)

    def wait_exit(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, once the process ends by itself or by a signal."""
        assert self.process is not None, f"{self.name} was never started"
        self._disconnect()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Overdue(f"{self.name} still runs after {seconds:g} s") from error

    def _disconnect(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def end(self) -> None:
        """Whatever state the process is in, it is gone afterwards."""
        self._disconnect()
        if self.process is not None and self.running:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def wipe(self) -> None:
        """Lose the disk."""
        assert not self.running, f"{self.name} is running"
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def wait_healthy(self, seconds: float = START_SECONDS) -> None:
        wait_until(f"{self.name} is healthy", self._healthy_or_dead, seconds)
        assert self.running, f"{self.name} ended with {self.process and self.process.returncode}"

    def _healthy_or_dead(self) -> bool:
        return not self.running or self.client.healthy()

    def log(self) -> str:
        """Everything the process printed, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Cluster:
    """Members n1, n2, ... of one new cluster under `root`; a context manager that ends them all."""

    def __init__(
        self, root: Path, size: int = 3, flags: Mapping[str, str] | None = None, token: str = "test"
    ) -> None:
        self.members = [Member(f"n{number}", root / f"n{number}") for number in range(1, size + 1)]
        initial = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.flags = {"initial-cluster": initial, "initial-cluster-token": token}
            member.flags |= flags or {}

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> Self:
        """Start whoever does not run, and wait until all of them are healthy."""
        for member in self.members:
            if not member.running:
                member.start()
        self.wait_healthy()
        return self

    def wait_healthy(self, seconds: float = START_SECONDS) -> None:
        for member in self.members:
            member.wait_healthy(seconds)

    def running(self) -> list[Member]:
        return [member for member in self.members if member.running]

    def wait_leader(self, seconds: float = START_SECONDS) -> Member:
        """The member that all running ones take for their leader."""
        found: list[Member] = []

        def agreed() -> bool:
            states = {member.name: member.client.status() for member in self.running()}
            leaders = {int(status.get("leader", 0)) for status in states.values()}
            found[:] = [
                member
                for member in self.running()
                if {int(states[member.name]["header"]["member_id"])} == leaders
            ]
            return bool(found)

        wait_until("one leader known to all", agreed, seconds)
        return found[0]

    def followers(self) -> list[Member]:
        leader = self.wait_leader()
        return [member for member in self.running() if member is not leader]

    def wait_same_history(self, seconds: float = START_SECONDS) -> tuple[int, int, int]:
        """Wait until all running members answer one HashKV at one revision, and return it."""
        answers: set[tuple[int, int, int]] = set()

        def equal() -> bool:
            answers.clear()
            answers.update(member.client.hash_kv() for member in self.running())
            return len(answers) == 1

        wait_until("equal HashKV on all members", equal, seconds)
        return answers.pop()

    def end(self) -> None:
        for member in self.members:
            member.end()

    def report(self, lines: int = 40) -> str:
        """The last lines of every log."""
        parts = []
        for member in self.members:
            state = "running" if member.running else f"ended: {member.process}"
            tail = "\n".join(member.log().splitlines()[-lines:])
            parts.append(f"--- {member.name} ({state})\n{tail}")
        return "\n".join(parts)
