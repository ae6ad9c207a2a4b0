"""Named places to die or to wait at: what `hit` does when a test asks for it.

`ESKER_FAILPOINTS="compaction.after_scheduled=exit;wal.before_sync=sleep(200)@3"` arms two of them:
the first kills the process as `kill -9` would (no handler runs, nothing is flushed), the second
waits 200 ms, at the third hit only. Without `@`, `exit` works at the first hit, `sleep` at each.

A hit may come from any thread. `sleep` blocks the thread that hits, as a slow disk would.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping

ENVIRONMENT = "ESKER_FAILPOINTS"
EXIT_CODE = 77
"""What a process ends with at `exit`, so that a test can tell it from a crash of another kind."""

FAILPOINTS = {
    "apply.before_entry": "earlier entries may be in the open batch, nothing of this one is",
    "apply.in_write": "a part of an entry is in the open batch, the next part is not",
    "compaction.before_scheduled": "a compaction is being applied, its mark is nowhere",
    "compaction.after_scheduled": "the scheduled mark is in the open batch, not on disk",
    "compaction.scheduled_durable": "the scheduled mark is on disk, no row is deleted",
    "compaction.between_batches": "some rows are deleted, others not yet",
    "compaction.before_finished": "the last rows and the finished mark are about to go",
    "compaction.after_finished": "the finished mark is in the open batch with the last rows",
    "compaction.finished_durable": "the finished mark is on disk, nobody has been told",
    "defrag.before_copy": "the new generation's directory exists, empty",
    "defrag.after_copy": "the copy is complete and synced, CURRENT names the old generation",
    "defrag.before_current": "the new CURRENT is written under its temporary name",
    "defrag.after_current": "CURRENT names the new generation, the old one still exists",
    "install.before_receive": "a snapshot is offered, nothing of it is on disk",
    "install.after_receive": "the received file is complete, checked and synced",
    "install.before_current": "the log knows the snapshot, CURRENT names the old state",
    "install.after_current": "CURRENT names the received state, memory still holds the old one",
    "snapshot.before_copy": "a snapshot for a follower is about to be taken",
    "snapshot.after_copy": "it is taken and about to be sent",
    "wal.before_sync": "a batch of the log is written, not synced",
    "wal.after_sync": "it is synced, nobody has been told",
    "wal.before_cut": "a segment is full, the next one is not yet made",
    "wal.after_cut": "the next segment is in place",
    "backend.before_commit": "a batch of the store is about to be committed",
    "backend.after_commit": "it is durable, nobody has been told",
}
"""Every name, with the state of the disk when it is hit."""

Hit = Callable[[str], None]

_ACTION = re.compile(r"(?:exit|sleep\((?P<ms>\d{1,6})\))(?:@(?P<count>[1-9]\d{0,8}))?", re.ASCII)


class UnknownFailpoint(ValueError):
    """A name or an action that does not exist; the text says which, and what exists."""


def ignore(name: str) -> None:
    """The hit of every process that nobody wants to die."""


class Failpoints:
    """Armed failpoints; `hits` counts how often each of them was reached."""

    def __init__(self, actions: Mapping[str, str]) -> None:
        self.hits = dict.fromkeys(actions, 0)
        self._actions: dict[str, tuple[int | None, int]] = {}
        self._lock = threading.Lock()
        for name, action in actions.items():
            self._actions[name] = _parse(name, action)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Failpoints:
        """What `ESKER_FAILPOINTS` arms; nothing when it is unset. Raises UnknownFailpoint."""
        actions = {}
        for word in environment.get(ENVIRONMENT, "").split(";"):
            if word.strip():
                name, _, action = word.partition("=")
                actions[name.strip()] = action.strip()
        return cls(actions)

    @property
    def function(self) -> Hit:
        """What to hand to the parts: `hit`, or nothing at all where nothing is armed."""
        return self.hit if self._actions else ignore

    def hit(self, name: str) -> None:
        """The process is at `name`: do what was asked for there."""
        assert name in FAILPOINTS, f"failpoint {name} is hit but not registered"
        if name not in self._actions:
            return
        with self._lock:
            self.hits[name] += 1
            count = self.hits[name]
        sleep_ms, at = self._actions[name]
        if sleep_ms is None:
            if count >= at:
                os._exit(EXIT_CODE)
        elif at in (0, count):
            time.sleep(sleep_ms / 1e3)


def _parse(name: str, action: str) -> tuple[int | None, int]:
    """(milliseconds to sleep, or None to exit; the hit it happens at, 0 for every one)."""
    if name not in FAILPOINTS:
        raise UnknownFailpoint(f"there is no failpoint {name!r}; there are {', '.join(FAILPOINTS)}")
    match = _ACTION.fullmatch(action)
    if match is None:
        raise UnknownFailpoint(
            f"failpoint {name}: {action!r} is neither exit nor sleep(MS), with or without @N"
        )
    sleep_ms = int(match["ms"]) if match["ms"] else None
    return sleep_ms, int(match["count"] or 0)
