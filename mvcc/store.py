"""Store: the current and the compacted revision over one index and one backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .backend import KEY, META, Backend, ReadSnapshot
from .compaction import Compaction
from .errors import Compacted, CorruptionError, FutureRevision
from .hash_kv import SLICE_ROWS, HashKV, hash_rows
from .key_index import KeyIndex
from .kv import Event, KeyValue, RangeOptions, RangeResult
from .record import decode_event, decode_head, decode_put
from .revision import Revision, decode_row_key, first_row_key, is_tombstone, row_key
from .schema import FINISHED_COMPACTED_REV, SCHEDULED_COMPACTED_REV, decode_int, encode_int
from .tree_index import TreeIndex
from .txn import DEFAULT_OPTIONS, SLICE_KEYS, ReadTxn, WriteTxn

RESTORE_ROWS = 1000
"""Rows a step of restore() handles: about 3 ms, a member that installs a snapshot still serves."""
FIRST_REV = 1
"""The revision of an empty store; its first write is 2."""
NEVER_COMPACTED = -1
_ROWS_END = b"\xff"


class StoreStatus(NamedTuple):
    """`journal`: visits that compacting everything would take; about the number of dead rows."""

    current_rev: int
    compact_rev: int
    finished_compact_rev: int
    keys: int
    deleted_keys: int
    journal: int


class Counts:
    """What was executed on a store since the start of the node, for its metrics; its users count.

    `put_bytes` is keys and values together.
    """

    __slots__ = ("deletes", "put_bytes", "puts", "ranges", "txns")

    def __init__(self) -> None:
        self.ranges = self.puts = self.deletes = self.txns = self.put_bytes = 0


class Store:
    """The versioned store of one node; all calls on one thread.

    - `current_rev`: main of the newest finished transaction. Never falls, also not over a crash.
    - `compact_rev`: reads below it are refused; set when a compaction is accepted. -1: none yet.
    - `finished_compact_rev` <= compact_rev: all rows dead at it are deleted.
    - `leases`: the lease of every key that has one.
    - `on_write`: called at the end of each txn that changed something, as its revision becomes
      current; None while nobody watches.

    `hit` is called with a name at the places where a test may want to stop the process.
    """

    def __init__(self, backend: Backend, hit: Callable[[str], None] = lambda name: None) -> None:
        self.backend = backend
        self.hit = hit
        self.index = TreeIndex()
        self.leases: dict[bytes, int] = {}
        self.current_rev = FIRST_REV
        self.compact_rev = NEVER_COMPACTED
        self.finished_compact_rev = NEVER_COMPACTED
        self.counts = Counts()
        self.on_write: Callable[[WriteTxn], None] | None = None
        self._writing: WriteTxn | None = None

    # Reading

    def range(
        self, key: bytes, range_end: bytes = b"", options: RangeOptions = DEFAULT_OPTIONS
    ) -> RangeResult:
        """Read [key, range_end) at a revision. Compacted, FutureRevision.

        `range_end` b"" names one key, b"\\0" all keys from `key` on, one not above `key` nothing.
        Filters come before sorting, sorting before the limit; a sort target without an order means
        ascending, but then a limit sorts only the first limit + 1 keys.

        >>> from mvcc.memory_backend import MemoryBackend
        >>> store = Store(MemoryBackend())
        >>> txn = store.write(); txn.put(b"a", b"1"); txn.put(b"b", b"2"); txn.end()
        2
        >>> result = store.range(b"a", b"\\0", RangeOptions(limit=1))
        >>> [kv.key for kv in result.kvs], result.count, result.more, result.revision
        ([b'a'], 2, True, 2)
        """
        return ReadTxn(self, self.current_rev).range(key, range_end, options)

    def range_steps(
        self,
        key: bytes,
        range_end: bytes = b"",
        options: RangeOptions = DEFAULT_OPTIONS,
        *,
        slice_keys: int = SLICE_KEYS,
    ) -> Iterator[RangeResult | None]:
        """As range, at the revision of this call; yields None between slices, the result last.

        Writes and compactions may come between steps; Compacted when one took the revision.
        """
        return ReadTxn(self, self.current_rev).range_steps(
            key, range_end, options, slice_keys=slice_keys
        )

    def get(self, key: bytes) -> KeyValue | None:
        """The key's newest state."""
        return ReadTxn(self, self.current_rev).get(key)

    def check_revision(self, revision: int) -> int:
        """Where a read of `revision` (<= 0: now) would be; Compacted, FutureRevision."""
        return ReadTxn(self, self.current_rev).check_revision(revision)

    def read(self, revision: tuple[int, int]) -> KeyValue:
        """The put recorded at a revision the index names."""
        main, sub = revision
        row = self.backend.get(KEY, row_key(main, sub))
        if row is None:
            raise CorruptionError(f"no row for revision {main}.{sub}")
        return decode_put(main, row)

    def read_many(self, revisions: Sequence[tuple[int, int]]) -> list[KeyValue]:
        """The puts recorded at these revisions, in this order."""
        rows = self.backend.get_many(KEY, [row_key(main, sub) for main, sub in revisions])
        kvs = []
        for (main, sub), row in zip(revisions, rows, strict=True):
            if row is None:
                raise CorruptionError(f"no row for revision {main}.{sub}")
            kvs.append(decode_put(main, row))
        return kvs

    def read_before(self, key: bytes, change: Revision) -> KeyValue | None:
        """What the change at this revision replaced; None when the key did not exist, or that is
        compacted.
        """
        entry = self.index.entries.get(key)
        before = None if entry is None else entry.before(change.main, change.sub)
        return None if before is None else self.read(before)

    def events(self, start_rev: int, end_rev: int, limit: int) -> list[Event]:
        """Changes of all keys with start_rev <= main < end_rev, in order, at most `limit` (0: all).

        A limit may cut a transaction. Below compact_rev history has holes: the caller checks.
        """
        rows = self.backend.range(KEY, first_row_key(start_rev), first_row_key(end_rev), limit)
        return [decode_event(key, row) for key, row in rows]

    def lease_of(self, key: bytes) -> int:
        """0: none."""
        return self.leases.get(key, 0)

    def status(self) -> StoreStatus:
        index = self.index
        return StoreStatus(
            self.current_rev,
            self.compact_rev,
            self.finished_compact_rev,
            len(index.live),
            len(index.gone),
            len(index.journal),
        )

    # Writing

    def write(self) -> WriteTxn:
        """Begin the next transaction; the last one must have ended.

        >>> from mvcc.memory_backend import MemoryBackend
        >>> store = Store(MemoryBackend())
        >>> txn = store.write(); txn.put(b"k", b"v"); txn.end()
        2
        >>> store.write().end()
        2
        """
        assert self._writing is None, "a write txn is open"
        self._writing = WriteTxn(self)
        return self._writing

    def end_write(self, txn: WriteTxn) -> None:
        """Called by WriteTxn.end only: makes the txn's revision current."""
        assert self._writing is txn, "the txn has ended already"
        self._writing = None
        changed = txn.revision != self.current_rev
        self.current_rev = txn.revision
        if self.on_write is not None and changed:
            self.on_write(txn)

    # Compaction

    def compact(self, revision: int) -> Compaction:
        """Accept a compaction: from now on reads below `revision` are refused. Compacted,
        FutureRevision.

        The caller commits the backend before it steps the job. A store never compacted counts as
        compacted at -1.
        """
        if revision <= self.compact_rev:
            raise Compacted(revision, self.compact_rev)
        if revision > self.current_rev:
            raise FutureRevision(revision, self.current_rev)
        self.hit("compaction.before_scheduled")
        self.compact_rev = revision
        self.backend.put(META, SCHEDULED_COMPACTED_REV, encode_int(revision))
        self.hit("compaction.after_scheduled")
        return Compaction(self, revision)

    def pending_compaction(self) -> Compaction | None:
        """After a restore: the job that a crash or a snapshot left unfinished."""
        if self.compact_rev > self.finished_compact_rev:
            return Compaction(self, self.compact_rev)
        return None

    # Comparing replicas

    def hash_kv(
        self, snapshot: ReadSnapshot, revision: int = 0, *, slice_rows: int = SLICE_ROWS
    ) -> Iterator[HashKV | None]:
        """The hash of history up to `revision` (0: now), over a snapshot of everything applied so
        far.

        Checks at once (Compacted, FutureRevision); then yields None per slice and the result last,
        from any thread. No compaction may have been applied since the snapshot was taken.
        """
        at = self.check_revision(revision)
        compacted, current = self.compact_rev, self.current_rev
        compacting = _meta(snapshot, FINISHED_COMPACTED_REV) < compacted
        return (
            None if crc is None else HashKV(crc, at, compacted, current)
            for crc in hash_rows(snapshot, at, compacted, slice_rows, compacting=compacting)
        )

    # Restoring

    def restore(self, backend: Backend | None = None) -> Iterator[None]:
        """Build the index from the rows of the backend (of a new one, after a snapshot), in steps.

        Until the last step the store stays as it was. Leases of keys are in `leases` afterwards,
        the unfinished compaction in pending_compaction(). CorruptionError.
        """
        assert self._writing is None, "a write txn is open"
        source = backend or self.backend
        index, leases = TreeIndex(), dict[bytes, int]()
        last = Revision(0, 0)
        start = b"\x00"
        while rows := source.range(KEY, start, _ROWS_END, RESTORE_ROWS):
            for key, row in rows:
                revision = decode_row_key(key)
                if revision <= last:
                    raise CorruptionError(f"row {revision} after {last}")
                _restore_row(index, leases, revision, row, is_tombstone(key))
                last = revision
            start = rows[-1][0] + b"\x00"
            yield
        index.modified = last.main
        yield from index.restore_order(RESTORE_ROWS)
        scheduled = _meta(source, SCHEDULED_COMPACTED_REV)
        finished = _meta(source, FINISHED_COMPACTED_REV)
        self.backend, self.index, self.leases = source, index, leases
        # The rows alone could let the revision fall, and one be given out twice, where a compaction
        # took the newest row: a tombstone at the compacted revision, under etcd's older rule.
        self.current_rev = max(FIRST_REV, last.main, scheduled, finished)
        self.compact_rev = max(scheduled, finished)
        self.finished_compact_rev = finished

    def dismantle(self) -> Iterator[None]:
        """Free the memory of a store that another has replaced, in steps; it is empty then."""
        assert self._writing is None, "a write txn is open"
        return self.index.dismantle(RESTORE_ROWS)

    def check_invariants(self) -> None:
        """The lines of the class docstring, asserted."""
        assert self.finished_compact_rev <= self.compact_rev <= self.current_rev
        assert self._writing is not None or self.index.modified <= self.current_rev
        assert all(lease and self.index.get(key) for key, lease in self.leases.items())
        self.index.check_invariants()


def _restore_row(
    index: TreeIndex, leases: dict[bytes, int], revision: Revision, row: bytes, dead: bool
) -> None:
    """The index as this row leaves it; the last row of a key decides about its lease."""
    main, sub = revision
    if dead:
        create_revision, version, lease, key = 0, 0, 0, row
    else:
        create_revision, version, lease, key = decode_head(row)
    entry = index.entries.get(key)
    if entry is None:
        entry = KeyIndex(key, main, sub, create_revision, version)
        index.restore_row(entry)
    elif dead:
        if not entry.created:
            raise CorruptionError(f"tombstone {revision} of a dead key {key!r}")
        entry.tombstone(main, sub)
        index.journal.note(main, entry)
    else:
        if entry.created:
            index.journal.note(main, entry)
        entry.put(main, sub)
        if (entry.created, entry.version) != (create_revision, version):
            raise CorruptionError(f"row {revision} of {key!r} does not continue its history")
    if lease:
        leases[entry.key] = lease
    else:
        leases.pop(key, None)


def _meta(source: Backend | ReadSnapshot, name: bytes) -> int:
    rows = source.range(META, name, name + b"\x00", 1)
    return decode_int(rows[0][1]) if rows else NEVER_COMPACTED
