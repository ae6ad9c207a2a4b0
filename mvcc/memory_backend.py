"""MemoryBackend: the Backend contract without a disk. It can lose what was not committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, pairwise

from sortedcontainers import SortedDict

from .backend import KEY, TABLES, BackendSize


class MemorySnapshot:
    """A copy of the committed rows."""

    def __init__(self, tables: dict[str, SortedDict]) -> None:
        self._tables = tables

    def range(self, table: str, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return _range(self._tables[table], start, end, limit)

    def close(self) -> None:
        self._tables = {}


class MemoryBackend:
    """Rows in sorted dicts; the open batch is known by what it would take to undo it.

    `hold` True: batches close but count as durable only when `commit()` is called, as if the disk
    were slow; otherwise a forced commit is durable at once (its `done` runs before force_commit
    returns). A batch never closes inside an entry: a commit forced after some rows of an entry
    waits for its `end_entries`.
    """

    def __init__(self, *, hold: bool = False) -> None:
        self.hold = hold
        self.durable_index = 0
        self._tables = {name: SortedDict() for name in TABLES}
        self._undo: dict[tuple[str, bytes], bytes | None] = {}
        self._in_entry = False
        self._due: list[Callable[[], None]] | None = None
        self._applied = (0, 0)
        self._durable = (0, 0)
        self._bytes = 0
        self._bytes_max = 0

    def put(self, table: str, key: bytes, value: bytes) -> None:
        rows = self._tables[table]
        old = rows.get(key)
        assert table != KEY or not rows or key > rows.peekitem()[0], f"row out of order {key.hex()}"
        self._remember(table, key, old)
        rows[key] = value
        self._bytes += len(value) + (len(key) if old is None else -len(old))
        self._bytes_max = max(self._bytes_max, self._bytes)

    def delete(self, table: str, key: bytes) -> None:
        old = self._tables[table].pop(key, None)
        if old is not None:
            self._remember(table, key, old)
            self._bytes -= len(key) + len(old)

    def delete_many(self, table: str, keys: Sequence[bytes]) -> None:
        assert all(a < b for a, b in pairwise(keys)), "keys out of order"
        for key in keys:
            self.delete(table, key)

    def get(self, table: str, key: bytes) -> bytes | None:
        row: bytes | None = self._tables[table].get(key)
        return row

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        rows = self._tables[table]
        return [rows.get(key) for key in keys]

    def range(self, table: str, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return _range(self._tables[table], start, end, limit)

    def end_entries(self, index: int, term: int) -> None:
        self._applied = (index, term)
        self._in_entry = False
        if self._due is not None and not self.hold:
            self.commit()

    def force_commit(self, done: Callable[[], None] | None = None) -> None:
        if self._due is None:
            self._due = []
        if done is not None:
            self._due.append(done)
        if not self._in_entry and not self.hold:
            self.commit()

    def commit(self) -> None:
        """Make everything so far durable; not inside an entry."""
        assert not self._in_entry, "a batch must not hold half an entry"
        self._undo.clear()
        self._durable = self._applied
        self.durable_index = self._applied[0]
        due, self._due = self._due or [], None
        for done in due:
            done()

    def crash(self) -> MemoryBackend:
        """The backend a restart would open: without the batch that was not committed. This one is
        spent.
        """
        reopened = MemoryBackend(hold=self.hold)
        reopened._tables = self._committed()
        reopened._applied = reopened._durable = self._durable
        reopened.durable_index = self.durable_index
        reopened._bytes = sum(
            len(key) + len(row) for rows in reopened._tables.values() for key, row in rows.items()
        )
        reopened._bytes_max = self._bytes_max
        return reopened

    def blocked(self) -> bool:
        return False

    def applied(self) -> tuple[int, int]:
        return self._applied

    def size(self) -> BackendSize:
        """Bytes of keys and values; `size` is the most there ever were, as a file does not
        shrink.
        """
        return BackendSize(self._bytes_max, self._bytes)

    def snapshot(self) -> MemorySnapshot:
        return MemorySnapshot(self._committed())

    def close(self) -> None:
        """Commits, as an orderly stop does."""
        if not self._in_entry:
            self.commit()

    def _remember(self, table: str, key: bytes, old: bytes | None) -> None:
        self._in_entry = True
        self._undo.setdefault((table, key), old)

    def _committed(self) -> dict[str, SortedDict]:
        tables = {name: rows.copy() for name, rows in self._tables.items()}
        for (table, key), old in self._undo.items():
            if old is None:
                tables[table].pop(key, None)
            else:
                tables[table][key] = old
        return tables


def _range(rows: SortedDict, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    keys = rows.irange(start, end, (True, False))
    return [(key, rows[key]) for key in islice(keys, limit or None)]
