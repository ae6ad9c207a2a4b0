"""Cutting what goes into the log and what comes out of it into the right portions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raft.core.types import Entry, EntryType

_CONF_CHANGE = int(EntryType.CONF_CHANGE)


class ProposalBatch:
    """The proposals of one turn of the loop, each with its request id."""

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max`: what one message to the leader may hold."""
        self._bytes_max = bytes_max
        self._data: list[bytes] = []
        self._ids: list[int] = []

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes, request_id: int) -> None:
        """One more, after the others."""
        self._data.append(data)
        self._ids.append(request_id)

    def take(self) -> Iterator[tuple[list[bytes], list[int]]]:
        """All of them, in portions that fit into a message; a longer one goes alone."""
        data, self._data = self._data, []
        ids, self._ids = self._ids, []
        start = size = 0
        for at, each in enumerate(data):
            if size + len(each) > self._bytes_max and at > start:
                yield data[start:at], ids[start:at]
                start, size = at, 0
            size += len(each)
        if data:
            yield data[start:], ids[start:]


def conf_changes_apart(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """The same entries in as few slices as possible, but each configuration change alone."""
    start = 0
    for at, entry in enumerate(entries):
        if entry.type == _CONF_CHANGE:
            if at > start:
                yield entries[start:at]
            yield entries[at : at + 1]
            start = at + 1
    if start == 0:
        yield entries
    elif start < len(entries):
        yield entries[start:]
