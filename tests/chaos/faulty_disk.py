"""A member's disk that fails or dawdles: `disk/preload.c` under it, and the page that commands it.

The library stands between the member and the system: what Python writes for the log and what the
store's engine writes in C both come by. Of a failed write the first half is there. A failed sync
loses what it was to bring to the disk: that is still read until the process ends, and is gone for
the next one, as on a file system that gives up the pages that it could not write.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path

from tests.cluster.harness import Member

WRITES, SYNCS = 1, 2
FOR_EVER = 2**32 - 1
PLACES = ("wal", "backend")

_SOURCE = Path(__file__).with_name("disk") / "preload.c"
_COMMAND = struct.Struct("=7I")
_TOLD = struct.Struct("=2I")
_ARMED = struct.Struct("=I")
_BELOW_BYTES = 2048
_PAGE_BYTES = _ARMED.size + _COMMAND.size + _TOLD.size + _BELOW_BYTES
_COMPILE_SECONDS = 60.0


class NoLibrary(Exception):
    """It cannot be built here; the text says why."""


def build(directory: Path) -> Path:
    """The library, compiled into `directory` unless it is there."""
    library = directory / "faulty-disk.so"
    if library.exists():
        return library
    command = ["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", str(library), str(_SOURCE)]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS
        )
    except FileNotFoundError as error:
        raise NoLibrary("there is no C compiler") from error
    except subprocess.CalledProcessError as error:
        raise NoLibrary(f"cc: {error.stderr.strip()}") from error
    return library


class FaultyDisk:
    """The disk of one member that is started with `environment`; well until it is told otherwise.

    `met` counts the calls that failed or were late, `retried` those on a file that a sync had
    failed on before: the kernel may call such a file clean, so nobody may go on with it.
    """

    def __init__(self, directory: Path, member: Member) -> None:
        """Raises NoLibrary."""
        library = build(directory)
        page = directory / f"faulty-disk-{member.name}"
        page.unlink(missing_ok=True)  # a process that still has the old one keeps it
        page.write_bytes(bytes(_PAGE_BYTES))
        with page.open("r+b") as file:
            self._page = mmap(file.fileno(), _PAGE_BYTES)
        self._data_dir = member.data_dir
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "ESKER_TEST_DISK": str(page),
        }

    def fail(
        self, calls: int, place: Path, error: int = errno.EIO, *, passes: int = 0, times: int = 1
    ) -> None:
        """`times` of the `calls` on files below `place` fail, after `passes` that do not."""
        self._arm(place, calls, error, passes, times, 0, 0, True)

    def delay(self, calls: int, place: Path, from_ms: int, to_ms: int) -> None:
        """All of them take so long."""
        self._arm(place, calls, 0, 0, FOR_EVER, from_ms, to_ms, False)

    def mend(self) -> None:
        _ARMED.pack_into(self._page, 0, 0)

    def _arm(self, place: Path, *command: int) -> None:
        """`command` as the page has it: calls, error, passes, times, from_ms, to_ms, loses."""
        self.mend()
        below = os.fsencode(place.resolve())
        assert len(below) < _BELOW_BYTES, f"{place} is too long a path"
        _COMMAND.pack_into(self._page, _ARMED.size, *command)
        _TOLD.pack_into(self._page, _ARMED.size + _COMMAND.size, 0, 0)
        start = _PAGE_BYTES - _BELOW_BYTES
        self._page[start:] = below.ljust(_BELOW_BYTES, b"\0")
        _ARMED.pack_into(self._page, 0, 1)

    @property
    def met(self) -> int:
        return self._told()[0]

    @property
    def retried(self) -> int:
        return self._told()[1]

    def _told(self) -> tuple[int, int]:
        met, retried = _TOLD.unpack_from(self._page, _ARMED.size + _COMMAND.size)
        return met, retried


def last_words(log: str, place: Path, error: int) -> list[str]:
    """The fatal lines of a member that a disk ended: each names the place and what was wrong there,
    and none shows where in the program that was.
    """
    assert "Traceback" not in log, log[-4000:]
    said = [line for line in log.splitlines() if "level=fatal" in line]
    assert said, f"it ended without a word: {log[-2000:]}"
    for line in said:
        assert str(place) in line and os.strerror(error) in line, line
    return said
