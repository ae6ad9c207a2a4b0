"""Alarms: replicated rows (member, type), and what each type forbids.

NOSPACE keeps out what makes the store grow (puts, txns with a put in either branch, lease grants)
and lets through everything one needs to make room again. CORRUPT keeps out every change of keys and
leases until an operator has looked. Only these rows decide; apply never looks at the size of this
member's file, or members would answer differently.
"""

from __future__ import annotations

from mvcc.backend import Backend

from .errors import Corrupt, NoSpace
from .quota import puts_something
from .requests import (
    AlarmType,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    Request,
    TxnRequest,
)
from .responses import Alarm
from .schema import ALARM, END, FIRST, alarm_key, alarm_of

_REFUSED_BY_CORRUPT = (
    PutRequest,
    DeleteRangeRequest,
    TxnRequest,
    CompactionRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    LeaseExpireRequest,
)


class Alarms:
    """The raised alarms.

    `nospace`, `corrupt`: whether any member raised that type, as plain attributes for the hot path;
    moved only here, together with the rows.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._raised: set[Alarm] = set()
        self.nospace = False
        self.corrupt = False

    def restore(self) -> None:
        """Load the rows. Activations survive restarts and changes of the quota."""
        rows = self._backend.range(ALARM, FIRST, END, 0)
        self._raised = {Alarm(*alarm_of(key)) for key, _ in rows}
        self._refresh()

    def get(self, alarm: int = AlarmType.NONE) -> list[Alarm]:
        """Raised alarms of one type, NONE for all; ascending by member and type."""
        raised = sorted(self._raised)
        return [each for each in raised if alarm in (AlarmType.NONE, each.alarm)]

    def raised(self, member: int, alarm: int) -> bool:
        return Alarm(member, alarm) in self._raised

    def activate(self, member: int, alarm: int) -> list[Alarm]:
        """Raise one; twice is one alarm. The answer names it either way; NONE raises nothing."""
        if alarm == AlarmType.NONE:
            return []
        each = Alarm(member, alarm)
        if each not in self._raised:
            self._raised.add(each)
            self._backend.put(ALARM, alarm_key(member, alarm), b"")
            self._refresh()
        return [each]

    def deactivate(self, member: int, alarm: int) -> list[Alarm]:
        """Clear exactly (member, alarm); the answer holds it if it was raised."""
        each = Alarm(member, alarm)
        if each not in self._raised:
            return []
        self._raised.remove(each)
        self._backend.delete(ALARM, alarm_key(member, alarm))
        self._refresh()
        return [each]

    def check(self, request: Request) -> None:
        """Corrupt or NoSpace if a raised alarm forbids `request`; CORRUPT is named first."""
        if self.corrupt and isinstance(request, _REFUSED_BY_CORRUPT):
            raise Corrupt
        if self.nospace and grows(request):
            raise NoSpace

    def check_invariants(self) -> None:
        types = {each.alarm for each in self._raised}
        assert self.nospace == (AlarmType.NOSPACE in types), (self.nospace, types)
        assert self.corrupt == (AlarmType.CORRUPT in types), (self.corrupt, types)

    def _refresh(self) -> None:
        self.nospace = bool(self.get(AlarmType.NOSPACE))
        self.corrupt = bool(self.get(AlarmType.CORRUPT))


def grows(request: Request) -> bool:
    """Whether NOSPACE forbids `request`: a put, a grant, a txn with a put anywhere in it."""
    if isinstance(request, TxnRequest):
        return puts_something(request)
    return isinstance(request, PutRequest | LeaseGrantRequest)
