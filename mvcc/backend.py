"""Backend: where revisions and the node's tables are kept.

One batch holds all effects up to a raft index, and that index. Writes go to the open batch and are
readable at once through the overlay; they become durable together, later.
`end_entries(index, term)` is the only place where a batch may close, so a batch never holds half an
entry. The write-ahead log replays what the last commit did not hold, therefore it is kept past
`durable_index`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

KEY = "key"
"""The table of revisions: 17-byte keys (18 with the tombstone mark) written in ascending order."""
META = "meta"
TABLES = (
    KEY,
    META,
    "lease",
    "alarm",
    "members",
    "members_removed",
    "cluster",
    "auth",
    "auth_users",
    "auth_roles",
)


class BackendSize(NamedTuple):
    """Bytes of the file, and of them in use, as of the last commit."""

    size: int
    in_use: int


class ReadSnapshot(Protocol):
    """A frozen view of what was durable when it was opened; any one thread may read it.

    An open view pins every page freed after it, so the file grows: close it soon.
    """

    def range(
        self, table: str, start: bytes, end: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """All calls on the loop's thread unless said; none of them waits for the disk."""

    durable_index: int
    """The raft index whose effects, with all before it, are surely on disk."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Write one row. Rows of KEY come in ascending order and are never overwritten."""

    def delete(self, table: str, key: bytes) -> None:
        """Remove one row; a missing row is not an error."""

    def delete_many(self, table: str, keys: Sequence[bytes]) -> None:
        """Remove rows, ascending."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The row as the open batch leaves it."""

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """As get, in the order of the keys, over one view."""

    def range(self, table: str, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Rows with start <= key < end, ascending, at most `limit` (0: all), as get sees them."""

    def end_entries(self, index: int, term: int) -> None:
        """Entries up to `index` are wholly in the batch: note it, close the batch if it is due."""

    def force_commit(self, done: Callable[[], None] | None = None) -> None:
        """Close the batch now; `done` runs on the loop once everything up to here is on disk."""

    def blocked(self) -> bool:
        """Too much waits to be written: apply no further entries until `on_drained` is called."""

    def applied(self) -> tuple[int, int]:
        """(index, term) of the last `end_entries`, from disk after a restart; (0, 0) when fresh."""

    def size(self) -> BackendSize: ...

    def snapshot(self) -> ReadSnapshot:
        """A view of the last commit (call force_commit first for the present)."""

    def close(self) -> None: ...
