"""eskerctl as a process: one command to its end, or one that goes on in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import NamedTuple, Self

from tests.cluster.harness import ROOT, Cluster, wait_until


class Done(NamedTuple):
    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if "CTL_" not in name}
    return {**inherited, **extra}


def run(*arguments: str, at: str = "", stdin: str = "", program: tuple[str, ...] = ()) -> Done:
    """One command, with `at` as its endpoints."""
    done = subprocess.run(
        [*(program or (sys.executable, "-m", "node.ctl")), *arguments],
        cwd=ROOT,
        input=stdin.encode(),
        capture_output=True,
        env=environment(ESKERCTL_ENDPOINTS=at) if at else environment(),
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode())


def ok(*arguments: str, at: str, stdin: str = "") -> str:
    """What a command prints that must succeed."""
    done = run(*arguments, at=at, stdin=stdin)
    assert done.code == 0, f"eskerctl {' '.join(arguments)}: {done.err}"
    return done.out


def all_of(cluster: Cluster) -> str:
    return ",".join(member.client_url for member in cluster)


class Background:
    """A command that goes on, killed at the end of the block; `lines` are what it printed."""

    def __init__(self, *arguments: str, at: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "node.ctl", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(ESKERCTL_ENDPOINTS=at),
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def type(self, line: str) -> None:
        """Give it a line on standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def wait_lines(self, number: int, seconds: float = 20.0) -> list[str]:
        """Its output, once it is so many lines long."""
        wait_until(
            f"{number} lines of {self._process.args}",
            lambda: len(self.lines) >= number or self._process.poll() is not None,
            seconds,
        )
        return self.lines

    def interrupt(self) -> Done:
        """Ctrl-C, and what came of it."""
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self, seconds: float = 20.0) -> Done:
        """What came of it, once it ends by itself."""
        code = self._process.wait(seconds)
        self._reader.join()
        assert self._process.stderr is not None
        return Done(code, "\n".join(self.lines), self._process.stderr.read())

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
