"""What can happen to a stopped member's files: tails that were not written, and bits that flip."""

from __future__ import annotations

import random
from pathlib import Path

TAIL_BYTES = 8
"""Less than a frame: whatever the last bytes are, they belong to the last record alone."""


def segments(data_dir: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted((data_dir / "member" / "wal").glob("*-*.wal"))


def end_of_data(path: Path) -> int:
    """Segments are filled from the front and zeros behind; no record ends with a zero."""
    return len(path.read_bytes().rstrip(b"\0"))


def tear(data_dir: Path) -> str:
    """Lose the last bytes of the last write, which was never synced. Only right after a member
    died before a sync: any other tail may have been acknowledged.
    """
    path = segments(data_dir)[-1]
    end = end_of_data(path)
    with path.open("r+b") as file:
        file.seek(end - TAIL_BYTES)
        file.write(bytes(TAIL_BYTES))
    return f"{path.name}: {TAIL_BYTES} bytes before {end} lost"


def append_garbage(data_dir: Path, chance: random.Random) -> str:
    """The beginning of a record that was never finished, behind the last one."""
    path = segments(data_dir)[-1]
    end = end_of_data(path)
    with path.open("r+b") as file:
        file.seek(end)
        file.write(bytes(chance.randrange(1, 256) for _ in range(TAIL_BYTES)))
    return f"{path.name}: {TAIL_BYTES} bytes of garbage at {end}"


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """One bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def database(data_dir: Path) -> Path:
    """The backend's file of the generation in use."""
    backend = data_dir / "member" / "backend"
    return backend / (backend / "CURRENT").read_text().strip() / "data.mdb"
