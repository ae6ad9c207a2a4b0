"""Leases: granted and revoked by apply, kept in the backend.

The store knows which lease a key has; this side knows which keys a lease has, and follows the
store's lease changes after every write. Neither is stored by itself: the newest record of each key
says it when a member restores. When a lease ends is the leader's affair and reaches this file as a
revoke in the log.

    lessor    7 -> Lease(ID=7, TTL=30, keys={b"a", b"b"})
    store     b"a" -> 7, b"b" -> 7
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from mvcc.backend import Backend
from mvcc.txn import LeaseChange

from .errors import LeaseExists, LeaseNotFound, LeaseTtlTooLarge
from .schema import END, FIRST, LEASE, id_key, lease_id_of

TTL_MAX = 9_000_000_000
"""Seconds: what still fits a 64-bit count of nanoseconds."""

NO_LEASE = 0


class LeaseRecord(msgspec.Struct, omit_defaults=True):
    """A lease's row. `remaining_ttl` 0: never checkpointed, the whole TTL is left."""

    TTL: int
    remaining_ttl: int = 0


class Lease(msgspec.Struct):
    """One lease. TTLs in seconds; `keys` is moved by `follow` only."""

    ID: int
    TTL: int
    remaining_ttl: int = 0
    keys: set[bytes] = msgspec.field(default_factory=set)


class LeaseStatus(msgspec.Struct, frozen=True):
    """What time-to-live answers: seconds left, seconds granted, attached keys ascending."""

    ID: int
    TTL: int
    granted_ttl: int
    keys: tuple[bytes, ...] = ()


class Lessor:
    """All leases, the same on every member. No clock: each lasts until it is revoked.

    `changes` counts the keys that came to a lease or left one: what was concluded from the keys of
    leases holds until it moves. `on_grant` and `on_revoke` are for who counts the time
    (lease_expiry.py).
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._leases: dict[int, Lease] = {}
        self.changes = 0
        self.on_grant: Callable[[Lease], None] = lambda lease: None
        self.on_revoke: Callable[[int], None] = lambda number: None
        self.granted_total = self.revoked_total = 0

    def restore(self, attachments: Iterable[tuple[bytes, int]]) -> None:
        """Load the leases, then attach (key, lease id) of each key's newest record; unknown ids
        attach to nothing.
        """
        decode = msgspec.msgpack.Decoder(LeaseRecord).decode
        self._leases = {}
        self.changes += 1
        for key, row in self._backend.range(LEASE, FIRST, END, 0):
            record = decode(row)
            number = lease_id_of(key)
            self._leases[number] = Lease(number, record.TTL, record.remaining_ttl)
        for key, number in attachments:
            if number in self._leases:
                self._leases[number].keys.add(key)

    def grant(self, number: int, ttl: int) -> Lease:
        """A new lease of `ttl` seconds, both chosen by the proposer.

        LeaseExists, LeaseNotFound (number 0), LeaseTtlTooLarge.
        """
        if number == NO_LEASE:
            raise LeaseNotFound
        if ttl > TTL_MAX:
            raise LeaseTtlTooLarge
        if number in self._leases:
            raise LeaseExists
        lease = self._leases[number] = Lease(number, ttl)
        self._backend.put(LEASE, id_key(number), msgspec.msgpack.encode(LeaseRecord(ttl)))
        self.granted_total += 1
        self.on_grant(lease)
        return lease

    def revoke(self, number: int) -> None:
        """Forget the lease and its row; its keys must be deleted already."""
        lease = self._leases.pop(number)
        assert not lease.keys, (number, len(lease.keys))
        self._backend.delete(LEASE, id_key(number))
        self.revoked_total += 1
        self.on_revoke(number)

    def checkpoint(self, number: int, remaining_ttl: int) -> None:
        """Keep what a leader saw left of a lease; 0: renewed. One that is gone is passed over."""
        lease = self._leases.get(number)
        if lease is not None:
            lease.remaining_ttl = min(remaining_ttl, lease.TTL)
            record = LeaseRecord(lease.TTL, lease.remaining_ttl)
            self._backend.put(LEASE, id_key(number), msgspec.msgpack.encode(record))

    def exists(self, number: int) -> bool:
        return number in self._leases

    def all(self) -> Iterable[Lease]:
        return self._leases.values()

    def keys_of(self, number: int) -> list[bytes]:
        """Attached keys, ascending. LeaseNotFound."""
        return sorted(self._get(number).keys)

    def follow(self, changes: Iterable[LeaseChange]) -> None:
        """Move keys between leases as a write did; `after` is a lease that exists, or none."""
        for key, before, after in changes:
            self.changes += 1
            if before != NO_LEASE:
                self._leases[before].keys.remove(key)
            if after != NO_LEASE:
                self._leases[after].keys.add(key)

    def time_to_live(self, number: int, *, keys: bool = False) -> LeaseStatus:
        """What is left is the last checkpoint, or the whole TTL. LeaseNotFound."""
        lease = self._get(number)
        left = lease.remaining_ttl or lease.TTL
        return LeaseStatus(number, left, lease.TTL, tuple(sorted(lease.keys)) if keys else ())

    def leases(self) -> list[int]:
        """All ids, soonest to end first, then by id."""
        return [
            lease.ID
            for lease in sorted(
                self._leases.values(),
                key=lambda lease: (lease.remaining_ttl or lease.TTL, lease.ID),
            )
        ]

    def check_invariants(self, lease_of: Mapping[bytes, int]) -> None:
        """Both sides hold the same pairs; `lease_of` is the store's."""
        pairs = {(key, lease.ID) for lease in self._leases.values() for key in lease.keys}
        assert pairs == set(lease_of.items()), (pairs, lease_of)

    def _get(self, number: int) -> Lease:
        lease = self._leases.get(number)
        if lease is None:
            raise LeaseNotFound
        return lease
