"""A member's disk in a simulation: it tells what is done to it, and ends the member when the power
goes.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.faulty_disk import FaultyDisk, PowerCut


class SimDisk(FaultyDisk):
    """`on_change(number)` is told of each change before it is made, `on_cut()` that the machine is
    off. While `off`, whatever is left of a dead process changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.off = False
        self.flipped = False
        """Whether any bit of it is not what was written."""
        self.on_change: Callable[[int], None] = lambda number: None
        self.on_cut: Callable[[], None] = lambda: None

    def count(self) -> bool:
        if self.off:
            raise PowerCut
        self.on_change(self.operations)
        halved = super().count()
        if halved:
            self.off = True
            self.on_cut()
        return halved

    def flip(self, path: str, offset: int, bit: int) -> None:
        super().flip(path, offset, bit)
        self.flipped = True

    def files_below(self, path: str) -> list[str]:
        """Paths of all files, ascending."""
        found: list[str] = []
        for name in self.list(path):
            inner = f"{path}/{name}"
            try:
                found += self.files_below(inner)
            except NotADirectoryError:
                found.append(inner)
        return found
