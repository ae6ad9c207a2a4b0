"""ReadTxn and WriteTxn: reads at a revision, and the one writer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from .backend import KEY
from .errors import Compacted, FutureRevision
from .kv import Event, EventType, KeyValue, RangeOptions, RangeResult, SortOrder, SortTarget
from .record import encode_put
from .revision import Revision, row_key, tombstone_key
from .tree_index import Span

if TYPE_CHECKING:
    from .store import Store

SLICE_KEYS = 500
"""Keys a long range handles between two breaths: about 2 ms."""
SORT_KEYS = 5000
"""Keys that are sorted in one step, about 2 ms; more are sorted in parts, and these merged."""
BACKWARDS_KEYS_MAX = 1000
"""The last keys of a range are read in one step, up to so many: about 4 ms."""

DEFAULT_OPTIONS = RangeOptions()

_SORT_KEYS: dict[int, Callable[[KeyValue], Any]] = {
    SortTarget.KEY: lambda kv: kv.key,
    SortTarget.VERSION: lambda kv: kv.version,
    SortTarget.CREATE: lambda kv: kv.create_revision,
    SortTarget.MOD: lambda kv: kv.mod_revision,
    SortTarget.VALUE: lambda kv: kv.value,
}


class LeaseChange(NamedTuple):
    """A key moved from lease `before` to lease `after`; 0: none."""

    key: bytes
    before: int
    after: int


class ReadTxn:
    """Reads of the store as of `revision`, which is the present when the txn is made."""

    __slots__ = ("_store", "revision")

    def __init__(self, store: Store, revision: int) -> None:
        self._store = store
        self.revision = revision

    def get(self, key: bytes) -> KeyValue | None:
        """The key's newest state."""
        entry = self._store.index.get(key)
        if entry is None:
            return None
        return self._store.read((entry.main, entry.sub))

    def range(
        self, key: bytes, range_end: bytes = b"", options: RangeOptions = DEFAULT_OPTIONS
    ) -> RangeResult:
        """All at once; see Store.range."""
        if not range_end:
            return self._point(key, options)
        for result in self.range_steps(key, range_end, options, slice_keys=None):
            if result is not None:
                return result
        raise AssertionError("a range without a result")

    def range_steps(
        self,
        key: bytes,
        range_end: bytes = b"",
        options: RangeOptions = DEFAULT_OPTIONS,
        *,
        slice_keys: int | None = SLICE_KEYS,
    ) -> Iterator[RangeResult | None]:
        """As range; yields None between slices of keys, the result last. Compacted at any step."""
        if not range_end:
            yield self._point(key, options)
            return
        revision = self.check_revision(options.revision)
        span = Span(key, range_end)
        present = revision >= self._store.index.modified
        total = self._store.index.count(span) if present else 0
        kvs: list[KeyValue] = []
        if options.count_only and present:
            yield RangeResult([], total, False, self.revision)
            return
        if present and _reads_backwards(options):
            kvs = self._read_present(span, options, options.limit + 1, reverse=True)
            yield _finish(kvs, total, options, self.revision)
            return
        wanted = 0 if options.count_only else _wanted(options)
        found = 0
        rest: Span | None = span
        while rest is not None and not (present and wanted is not None and len(kvs) >= wanted):
            if rest is not span:
                yield None
                self.check_revision(revision)
            room = None if wanted is None else wanted - len(kvs)
            if present and revision >= self._store.index.modified:
                limit = _least(slice_keys, room)
                part = self._read_present(rest, options, limit)
                cursor = part[-1].key + b"\x00" if len(part) == limit else None
            else:
                revisions, cursor = self._store.index.past(rest, revision, slice_keys)
                found += len(revisions)
                part = self._read(revisions if room is None else revisions[:room], options)
            kvs += _filter(part, options) if _filters(options) else part
            rest = None if cursor is None else _rest(span, cursor)
        if options.sort_target != SortTarget.KEY:
            kvs = yield from _sort_steps(kvs, options, slice_keys)
        elif options.sort_order == SortOrder.DESCEND:
            kvs.reverse()
        while slice_keys is not None and 0 < options.limit < len(kvs) - slice_keys:
            del kvs[-slice_keys:]
            yield None
        yield _finish(kvs, total if present else found, options, self.revision)

    def check_revision(self, revision: int) -> int:
        """The revision to read at (<= 0: the present); FutureRevision, Compacted."""
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        if revision <= 0:
            revision = self.revision
        if revision < self._store.compact_rev:
            raise Compacted(revision, self._store.compact_rev)
        return revision

    def _read_present(
        self, span: Span, options: RangeOptions, limit: int | None, reverse: bool = False
    ) -> list[KeyValue]:
        """The next `limit` live keys; without values the index alone answers."""
        entries = self._store.index.present(span, limit, reverse)
        if options.keys_only and options.sort_target != SortTarget.VALUE:
            lease_of = self._store.lease_of
            return [
                KeyValue(e.key, b"", e.created, e.main, e.version, lease_of(e.key)) for e in entries
            ]
        return self._store.read_many([(e.main, e.sub) for e in entries])

    def _read(self, revisions: list[Revision], options: RangeOptions) -> list[KeyValue]:
        kvs = self._store.read_many(revisions)
        if options.keys_only and options.sort_target != SortTarget.VALUE:
            return [replace(kv, value=b"") for kv in kvs]
        return kvs

    def _point(self, key: bytes, options: RangeOptions) -> RangeResult:
        """A range of one key: nothing to sort or cut."""
        revision = self.check_revision(options.revision)
        entry = self._store.index.entries.get(key)
        found = None if entry is None else entry.at(revision)
        if found is None:
            return RangeResult([], 0, False, self.revision)
        if options.count_only:
            return RangeResult([], 1, False, self.revision)
        kvs = [self._store.read(found)]
        if options != DEFAULT_OPTIONS:
            kvs = _filter(kvs, options)
            if options.keys_only:
                kvs = [replace(kv, value=b"") for kv in kvs]
        return RangeResult(kvs, 1, False, self.revision)


class WriteTxn(ReadTxn):
    """The one writer. Its reads see its changes; nothing it was asked to do may fail.

    `revision` is the store's until the first change, then one more: every change of this txn has
    that main.
    """

    __slots__ = ("_main", "_sub", "_trail", "lease_changes")

    def __init__(self, store: Store) -> None:
        super().__init__(store, store.current_rev)
        self._main = store.current_rev + 1
        self._sub = 0
        self._trail: list[tuple[bytes, bytes, int, int, int, int]] = []
        self.lease_changes: list[LeaseChange] = []

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """Write one key; a lease of 0 detaches it."""
        main, sub, store = self._main, self._sub, self._store
        entry = store.index.put(key, main, sub)
        store.backend.put(
            KEY, row_key(main, sub), encode_put(entry.created, entry.version, lease, key, value)
        )
        self._trail.append((entry.key, value, entry.created, main, entry.version, lease))
        self._sub = sub + 1
        self.revision = main
        if lease or store.leases:
            self._move_lease(entry.key, lease)

    def delete_range(self, key: bytes, range_end: bytes = b"") -> list[tuple[bytes, Revision]]:
        """Delete the live keys of the span: each with the revision it had, in key order.

        The rows of those revisions stay readable (Store.read_many) until a compaction. An entry of
        the log is one revision, so this cannot be cut into steps: about 5 us a key.
        """
        store, main = self._store, self._main
        deleted: list[tuple[bytes, Revision]] = []
        for entry in store.index.present(Span(key, range_end), None):
            deleted.append((entry.key, Revision(entry.main, entry.sub)))
            store.index.tombstone(entry, main, self._sub)
            store.backend.put(KEY, tombstone_key(main, self._sub), entry.key)
            self._trail.append((entry.key, b"", 0, main, 0, 0))
            self._sub += 1
            if store.leases:
                self._move_lease(entry.key, 0)
        if deleted:
            self.revision = main
        return deleted

    def changes(self, prev_kv: bool = False) -> list[Event]:
        """The changes so far, in order; with `prev_kv` what each replaced, read back."""
        events = []
        for sub, fields in enumerate(self._trail):
            kv = KeyValue(*fields)
            kind = EventType.PUT if kv.version else EventType.DELETE
            before = self._store.read_before(kv.key, Revision(self._main, sub)) if prev_kv else None
            events.append(Event(kind, kv, before))
        return events

    def changed_keys(self) -> Iterator[bytes]:
        """The keys of `changes`, in order; cheap."""
        return (fields[0] for fields in self._trail)

    def end(self) -> int:
        """Close the txn; the store's revision, one higher if anything changed."""
        self._store.end_write(self)
        return self.revision

    def _move_lease(self, key: bytes, lease: int) -> None:
        before = self._store.leases.get(key, 0)
        if before == lease:
            return
        self.lease_changes.append(LeaseChange(key, before, lease))
        if lease:
            self._store.leases[key] = lease
        else:
            del self._store.leases[key]


def _wanted(options: RangeOptions) -> int | None:
    """How many rows to read in key order; None: all.

    A limit is pushed into the walk (one more tells `more`) only without filters and without a sort
    order. A sort target alone does not prevent it: etcd then sorts just those rows, and clients can
    see it.
    """
    if options.limit <= 0 or _filters(options):
        return None
    by_key = options.sort_order == SortOrder.ASCEND and options.sort_target == SortTarget.KEY
    return options.limit + 1 if options.sort_order == SortOrder.NONE or by_key else None


def _reads_backwards(options: RangeOptions) -> bool:
    """The last keys by name need not be found by reading all of them."""
    return (
        0 < options.limit <= BACKWARDS_KEYS_MAX
        and options.sort_order == SortOrder.DESCEND
        and options.sort_target == SortTarget.KEY
        and not _filters(options)
        and not options.count_only
    )


def _filters(options: RangeOptions) -> bool:
    return bool(
        options.min_mod_revision
        or options.max_mod_revision
        or options.min_create_revision
        or options.max_create_revision
    )


def _filter(kvs: list[KeyValue], options: RangeOptions) -> list[KeyValue]:
    """Both bounds are included; 0 is no bound."""
    min_mod, max_mod = options.min_mod_revision, options.max_mod_revision
    min_create, max_create = options.min_create_revision, options.max_create_revision
    return [
        kv
        for kv in kvs
        if (not min_mod or kv.mod_revision >= min_mod)
        and (not max_mod or kv.mod_revision <= max_mod)
        and (not min_create or kv.create_revision >= min_create)
        and (not max_create or kv.create_revision <= max_create)
    ]


def _sort_steps(
    kvs: list[KeyValue], options: RangeOptions, slice_keys: int | None
) -> Generator[None, None, list[KeyValue]]:
    """Sort by another target than the key; ties keep key order. In one go without `slice_keys`,
    else `kvs` is used up.
    """
    target, reverse = _SORT_KEYS[options.sort_target], options.sort_order == SortOrder.DESCEND
    if slice_keys is None or len(kvs) <= SORT_KEYS:
        return sorted(kvs, key=target, reverse=reverse)
    parts = []
    while kvs:
        parts.append(sorted(kvs[-SORT_KEYS:], key=target, reverse=reverse))
        del kvs[-SORT_KEYS:]
        yield None
    parts.reverse()
    merged = merge(*parts, key=target, reverse=reverse)
    found: list[KeyValue] = []
    while part := list(islice(merged, slice_keys)):
        found += part
        yield None
    return found


def _finish(kvs: list[KeyValue], count: int, options: RangeOptions, revision: int) -> RangeResult:
    """Cut what is in its order, and drop values that were only read to sort by them."""
    more = 0 < options.limit < len(kvs)
    if more:
        del kvs[options.limit :]
    if options.keys_only and options.sort_target == SortTarget.VALUE:
        kvs = [replace(kv, value=b"") for kv in kvs]
    return RangeResult(kvs, count, more, revision)


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _rest(span: Span, cursor: bytes) -> Span | None:
    """What is left of a span from `cursor` on."""
    if span.end is not None and span.end <= cursor:
        return None
    return Span(cursor, b"\x00" if span.end is None else span.end)
