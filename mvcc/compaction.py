"""Compaction: one job that deletes what nobody may read any more, in steps.

    accept    compact_rev := R, row scheduledCompactedRev := R, both at once; then the caller
    commits step      the next dead rows, at most `limit`, leave index and backend
    finish    row finishedCompactedRev := R together with the last dead row

After a crash between accept and finish the restored index and journal hold exactly the rows that
were not deleted yet, so the same job run again deletes the rest: no list is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .backend import KEY, META
from .schema import FINISHED_COMPACTED_REV, encode_int

if TYPE_CHECKING:
    from .store import Store


class Compaction:
    """The job of one accepted compaction. Jobs are stepped one after the other, in the order of
    their revisions.

    Writes may come between two steps: a step touches only what is dead at `revision`.
    """

    __slots__ = ("_dead", "_index", "_store", "deleted", "finished", "revision")

    def __init__(self, store: Store, revision: int) -> None:
        self._store = store
        self._index = store.index
        self._dead: list[bytes] = []
        self.revision = revision
        self.deleted = 0
        self.finished = False

    def step(self, limit: int) -> bool:
        """Delete at most `limit` rows; True when this was the last step."""
        assert limit > 0 and not self.finished, (limit, self.finished)
        store = self._store
        assert self._index is store.index, "the job of a state that was replaced by a restore"
        drained = self._collect(limit)
        # One row is held back until it is known whether more follow: the last goes with _finish.
        count = min(limit, max(0, len(self._dead) - (0 if drained else 1)))
        rows, self._dead = sorted(self._dead[:count]), self._dead[count:]
        if rows:
            store.backend.delete_many(KEY, rows)
            self.deleted += len(rows)
        if not drained or self._dead:
            store.hit("compaction.between_batches")
            return False
        self._finish()
        return True

    def _collect(self, limit: int) -> bool:
        """Fill `_dead` beyond `limit` rows, in a bounded number of visits; True: none is left."""
        visits = 2 * limit
        while visits > 0 and len(self._dead) <= limit:
            now = min(visits, limit + 1 - len(self._dead))
            dead = self._index.compact(self.revision, now)
            if dead is None:
                return True
            self._dead += dead
            visits -= now
        return False

    def _finish(self) -> None:
        store = self._store
        assert self.revision > store.finished_compact_rev, (
            f"compaction {self.revision} finished after {store.finished_compact_rev}"
        )
        store.hit("compaction.before_finished")
        store.backend.put(META, FINISHED_COMPACTED_REV, encode_int(self.revision))
        store.finished_compact_rev = self.revision
        self.finished = True
        store.hit("compaction.after_finished")
