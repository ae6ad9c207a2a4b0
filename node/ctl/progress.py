"""Progress on stderr, where somebody watches it; nothing at all elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)


class Advance(Protocol):
    def advance(self, done: int, *, remaining: int | None = None) -> None:
        """`done` more are done; with `remaining`, so many are left."""


class _Quiet:
    def advance(self, done: int, *, remaining: int | None = None) -> None:
        """Nobody watches."""


class _Bar:
    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=None)
        self._done = 0

    def advance(self, done: int, *, remaining: int | None = None) -> None:
        self._done += done
        total = None if remaining is None else self._done + remaining
        if total is None:
            self._progress.update(self._task, completed=self._done)
        else:
            self._progress.update(self._task, completed=self._done, total=total)


@contextmanager
def counting(what: str, visible: bool, *, in_bytes: bool = False) -> Iterator[Advance]:
    """A bar for a number of things, or of bytes, that is known as it goes."""
    if not visible:
        yield _Quiet()
        return
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, what)


@contextmanager
def waiting(what: str, visible: bool) -> Iterator[None]:
    """A spinner while one thing takes its time."""
    if not visible:
        yield
        return
    with Console(stderr=True).status(what):
        yield
