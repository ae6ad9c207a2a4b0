"""Both backends behind one face, so that one test judges both.

`settle` lets everything that is under way be finished and reported, `flush` forces a commit and
settles, `kill` ends the process's life without a flush and gives what the next start would open.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from mvcc.backend import Backend
from mvcc.lmdb_backend import LmdbBackend
from mvcc.memory_backend import MemoryBackend

END = b"\xff" * 24
WAIT_SECONDS = 20


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where the system has one: a sync costs nothing there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


class Killed(Exception):
    """What a failpoint raises in the writer thread: from there on it does nothing more."""


class Gate:
    """A failpoint the writer stops at: `reached` says it is there, `open` lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def wait_reached(self) -> None:
        assert self.reached.wait(WAIT_SECONDS), "the writer never came here"


class Rig(Protocol):
    backend: Backend
    now: float

    def settle(self) -> None: ...
    def flush(self) -> None: ...
    def kill(self, point: str) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class MemoryRig:
    """Nothing here is ever under way."""

    def __init__(self) -> None:
        self.backend: Backend = MemoryBackend()
        self.now = 0.0

    def settle(self) -> None:
        pass

    def flush(self) -> None:
        self.backend.force_commit()

    def kill(self, point: str) -> None:
        assert isinstance(self.backend, MemoryBackend)
        self.backend = self.backend.crash()

    def reopen(self) -> None:
        self.flush()
        self.kill("")

    def close(self) -> None:
        self.backend.close()


class LmdbRig:
    """A loop made of a queue: what the writer posts runs when the test says so."""

    def __init__(self, path: Path, **options: object) -> None:
        self.path = path / "backend"
        self.options = options
        self.now = 0.0
        self.posts: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.errors: list[Exception] = []
        self.hits: list[str] = []
        self.gates: dict[str, Gate] = {}
        self.open()

    def open(self) -> None:
        self.posts = SimpleQueue()
        self.dies_at = ""
        self.backend = LmdbBackend(
            self.path,
            post=self.posts.put,
            clock=lambda: self.now,
            on_fatal=self.errors.append,
            hit=self.hit,
            **{"map_size": 64 << 20, **self.options},
        )

    def hit(self, name: str) -> None:
        self.hits.append(name)
        if name in self.gates:
            self.gates[name].reached.set()
            assert self.gates[name].open.wait(WAIT_SECONDS), f"nobody opened {name}"
        if name == self.dies_at:
            raise Killed(name)

    def gate(self, name: str) -> Gate:
        gate = self.gates[name] = Gate()
        return gate

    def run_until(self, happened: Callable[[], object]) -> None:
        while not happened():
            self.posts.get(timeout=WAIT_SECONDS)()

    def settle(self) -> None:
        while not self.posts.empty():
            self.posts.get()()
        self.run_until(lambda: not self.backend._closed and not self.backend._rebuilds)

    def flush(self) -> None:
        told: list[bool] = []
        self.backend.force_commit(lambda: told.append(True))
        self.run_until(lambda: told)

    def rebuild(self, start: Callable[[Callable[[Exception | None], None]], None]) -> object:
        """Run a defragmentation or an install to its end; what it reports."""
        outcome: list[Exception | None] = []
        start(outcome.append)
        self.run_until(lambda: outcome)
        return outcome[0]

    def kill(self, point: str) -> None:
        """Die at the next `backend.before_commit` or `backend.after_commit`, then start again."""
        self.dies_at = point
        self.backend.abandon()
        self.backend.close()
        self.open()

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        for gate in self.gates.values():
            gate.open.set()
        self.gates.clear()
        self.backend.close()
