"""Leases: granted, revoked, attached and detached by apply; kept in the backend.

Which keys hang on a lease is not stored: the store's records name their lease, and the last record
of each key decides when a member restores. When a lease ends is the leader's affair and reaches
this file as a revoke in the log.

    by id     7 -> Lease(ID=7, TTL=30, keys={b"a", b"b"})
    by key    b"a" -> 7, b"b" -> 7          always the same pairs, seen from the other side
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mvcc.backend import Backend

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
    """One lease. TTLs in seconds; `keys` is moved by attach and detach only."""

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
    """All leases of the cluster, the same on every member. No clock: every lease here lasts until
    it is revoked.

    `lease_of`: key -> lease id, without an entry for a key that has none. A plain dict, read on
    every put; changed here.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._leases: dict[int, Lease] = {}
        self.lease_of: dict[bytes, int] = {}

    def restore(self, attachments: Iterable[tuple[bytes, int]]) -> None:
        """Load the leases, then attach (key, lease id) of each key's newest record; unknown ids
        attach to nothing.
        """
        decode = msgspec.msgpack.Decoder(LeaseRecord).decode
        self._leases = {}
        self.lease_of = {}
        for key, row in self._backend.range(LEASE, FIRST, END, 0):
            record = decode(row)
            number = lease_id_of(key)
            self._leases[number] = Lease(number, record.TTL, record.remaining_ttl)
        for key, number in attachments:
            if number in self._leases:
                self.attach(key, number)

    def grant(self, number: int, ttl: int) -> Lease:
        """A new lease of `ttl` seconds, as chosen by the proposer. LeaseExists, LeaseNotFound (0),
        LeaseTtlTooLarge.
        """
        if number == NO_LEASE:
            raise LeaseNotFound
        if ttl > TTL_MAX:
            raise LeaseTtlTooLarge
        if number in self._leases:
            raise LeaseExists
        lease = self._leases[number] = Lease(number, ttl)
        self._backend.put(LEASE, id_key(number), msgspec.msgpack.encode(LeaseRecord(ttl)))
        return lease

    def revoke(self, number: int) -> None:
        """Forget the lease and its row; its keys must be deleted (and thereby detached) already."""
        lease = self._leases.pop(number)
        assert not lease.keys, (number, len(lease.keys))
        self._backend.delete(LEASE, id_key(number))

    def exists(self, number: int) -> bool:
        return number in self._leases

    def keys_of(self, number: int) -> list[bytes]:
        """Attached keys, ascending. LeaseNotFound."""
        return sorted(self._get(number).keys)

    def attach(self, key: bytes, number: int) -> None:
        """Hang `key` on lease `number` (0: on none), off the one it was on. O(1)."""
        before = self.lease_of.pop(key, NO_LEASE)
        if before != NO_LEASE:
            self._leases[before].keys.discard(key)
        if number != NO_LEASE:
            self._leases[number].keys.add(key)
            self.lease_of[key] = number

    def detach(self, key: bytes) -> None:
        """Take `key` off its lease, if it has one."""
        self.attach(key, NO_LEASE)

    def time_to_live(self, number: int, *, keys: bool = False) -> LeaseStatus:
        """LeaseNotFound. Until expiry is counted, what is left is the last checkpoint or the whole
        TTL.
        """
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

    def check_invariants(self) -> None:
        pairs = {(key, lease.ID) for lease in self._leases.values() for key in lease.keys}
        assert pairs == set(self.lease_of.items()), (pairs, self.lease_of)

    def _get(self, number: int) -> Lease:
        lease = self._leases.get(number)
        if lease is None:
            raise LeaseNotFound
        return lease
