"""When leases end: the leader's own clock, never replicated.

Only a leader counts time, from the moment an entry of its own term is applied. On every other
member leases last for ever, and this file holds nothing. Every call is handed `now`, in whole
milliseconds of a clock that never goes back.

    expiries   17 -> 9_500, 4 -> 8_000           a renewal moves one
    due        (8_000, 4), (9_500, 17)           scanned from the left
    notes      (300_000, 17)                     when the rest of a long lease goes to the log

What was handed out as due has expired for good: nothing but a change of the leader brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

import msgspec
from sortedcontainers import SortedList

from .lessor import Lease
from .requests import LeaseCheckpoint

SECOND = 1000


class Standing(Enum):
    """What a leader can say of a lease."""

    UNKNOWN = auto()
    LIVE = auto()
    NOTED = auto()
    """Live, but the log holds a shorter rest of it, which a renewal has to take back first."""
    EXPIRED = auto()


class _Clock(msgspec.Struct, gc=False):
    """One lease's times. `due` is its place in the queue: the expiry, or when to revoke it again.
    `noted` counts the checkpoints of a shorter rest, `cleared` those since taken back.
    """

    ttl: int
    expiry: int
    due: int
    note: int = 0
    noted: int = 0
    cleared: int = 0


class LeaseExpiry:
    """Expiries of all leases while `leading`; empty otherwise.

    `checkpoint_ms`: leases longer than this are checkpointed once per such interval; 0: none are.
    `burst_max`: after a promotion no more than this many end within any second.
    """

    def __init__(self, *, checkpoint_ms: int, burst_max: int = 750) -> None:
        self.leading = False
        self._checkpoint_ms = checkpoint_ms
        self._burst_max = burst_max
        self._clocks: dict[int, _Clock] = {}
        self._due: SortedList[tuple[int, int]] = SortedList()
        self._notes: SortedList[tuple[int, int]] = SortedList()

    def __len__(self) -> int:
        return len(self._clocks)

    # -- the leader comes and goes

    def promote(self, leases: Iterable[Lease], now: int, extend: int) -> None:
        """Start counting: what is left of each lease, plus `extend` ms, in which nobody could renew
        it. O(n log n).
        """
        assert not self.leading, "promoted twice"
        self.leading = True
        ends = sorted((_left(lease) * SECOND, lease.ID, lease) for lease in leases)
        expiries: list[int] = []
        for place, (left, number, lease) in enumerate(ends):
            expiry = now + extend + left
            if place >= self._burst_max:
                expiry = max(expiry, expiries[place - self._burst_max] + SECOND)
            expiries.append(expiry)
            noted = 1 if lease.remaining_ttl else 0
            self._clocks[number] = _Clock(lease.TTL, expiry, expiry, noted=noted)
            self._plan_note(number, now)
        self._rebuild()

    def demote(self) -> None:
        """Another leads: forget every time."""
        self.leading = False
        self._clocks.clear()
        self._due.clear()
        self._notes.clear()

    # -- what apply tells

    def granted(self, lease: Lease, now: int) -> None:
        if not self.leading:
            return
        expiry = now + lease.TTL * SECOND
        self._clocks[lease.ID] = _Clock(lease.TTL, expiry, expiry)
        self._due.add((expiry, lease.ID))
        if self._plan_note(lease.ID, now):
            self._notes.add((now + self._checkpoint_ms, lease.ID))

    def revoked(self, number: int) -> None:
        clock = self._clocks.pop(number, None)
        if clock is not None:
            self._due.remove((clock.due, number))
            if clock.note:
                self._notes.remove((clock.note, number))

    # -- what clients ask

    def standing(self, number: int, now: int) -> Standing:
        clock = self._clocks.get(number)
        if clock is None:
            return Standing.UNKNOWN
        if clock.expiry <= now:
            return Standing.EXPIRED
        return Standing.NOTED if clock.noted > clock.cleared else Standing.LIVE

    def renew(self, number: int, now: int) -> int | None:
        """The granted TTL, which begins anew; None unless the lease is LIVE."""
        clock = self._clocks.get(number)
        if clock is None or clock.expiry <= now or clock.noted > clock.cleared:
            return None
        self._due.remove((clock.due, number))
        clock.expiry = clock.due = now + clock.ttl * SECOND
        self._due.add((clock.due, number))
        return clock.ttl

    def remaining(self, number: int, now: int) -> int:
        """Whole seconds left, 0 for an expired lease that is not yet revoked."""
        return max(0, self._clocks[number].expiry - now) // SECOND

    def soonest_first(self) -> list[int]:
        """All ids by their expiry."""
        return sorted(self._clocks, key=lambda number: (self._clocks[number].expiry, number))

    # -- what time brings

    def expired(self, now: int, limit: int, retry: int) -> list[int]:
        """At most `limit` leases to revoke now, longest expired first; each comes again in `retry`
        ms if it still exists then.
        """
        found: list[int] = []
        while self._due and len(found) < limit and self._due[0][0] <= now:
            _, number = self._due.pop(0)
            self._clocks[number].due = now + retry
            found.append(number)
        for number in found:
            self._due.add((now + retry, number))
        return found

    def checkpoints(self, now: int, limit: int) -> list[LeaseCheckpoint]:
        """At most `limit` rests to write to the log: of leases a part of which is gone."""
        found: list[LeaseCheckpoint] = []
        for _ in range(limit):
            if not self._notes or self._notes[0][0] > now:
                break
            _, number = self._notes.pop(0)
            clock = self._clocks[number]
            if self._plan_note(number, now):
                self._notes.add((clock.note, number))
            left = -(-(clock.expiry - now) // SECOND)
            if 0 < left < clock.ttl:
                clock.noted += 1
                found.append(LeaseCheckpoint(number, left))
        return found

    def noted(self, number: int) -> int:
        """How many checkpoints of this lease there were: the mark that `cleared` takes."""
        clock = self._clocks.get(number)
        return 0 if clock is None else clock.noted

    def cleared(self, number: int, mark: int) -> None:
        """The log takes back the checkpoints up to `mark`."""
        clock = self._clocks.get(number)
        if clock is not None:
            clock.cleared = max(clock.cleared, mark)

    def extend(self, gap: int) -> None:
        """This process did not run for the last `gap` ms: nobody could renew meanwhile. What had
        expired before that has expired now, too. O(n log n).
        """
        for clock in self._clocks.values():
            clock.expiry += gap
            clock.due += gap
        self._rebuild()

    def check_invariants(self, numbers: Iterable[int]) -> None:
        """`numbers`: the leases there are."""
        assert self._clocks.keys() == (set(numbers) if self.leading else set()), self._clocks
        assert set(self._due) == {(c.due, number) for number, c in self._clocks.items()}, self._due
        assert len(self._due) == len(self._clocks), self._due
        notes = [(c.note, number) for number, c in self._clocks.items() if c.note]
        assert list(self._notes) == sorted(notes), (self._notes, notes)

    def _plan_note(self, number: int, now: int) -> bool:
        """Short leases need none: an election gives them all of their time again."""
        clock = self._clocks[number]
        if 0 < self._checkpoint_ms < clock.ttl * SECOND:
            clock.note = now + self._checkpoint_ms
        return clock.note > 0

    def _rebuild(self) -> None:
        clocks = self._clocks.items()
        self._due = SortedList((clock.due, number) for number, clock in clocks)
        self._notes = SortedList((clock.note, number) for number, clock in clocks if clock.note)


def _left(lease: Lease) -> int:
    """Seconds: since the last checkpoint, or all of them."""
    return lease.remaining_ttl or lease.TTL
