"""Alarms: idempotent rows; which requests grow the store."""

from __future__ import annotations

from typing import Any

import pytest

from mvcc.memory_backend import MemoryBackend
from node.apply.alarm import Alarms, grows
from node.apply.errors import ApplyError, Corrupt, NoSpace
from node.apply.requests import (
    KINDS,
    AlarmType,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from node.apply.responses import Alarm

from .apply_fixture import put_op, txn_op

NONE, NOSPACE, CORRUPT = AlarmType


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(MemoryBackend())


def test_activate_twice_is_one_alarm(alarms: Alarms) -> None:
    assert alarms.activate(5, NOSPACE) == alarms.activate(5, NOSPACE) == [Alarm(5, NOSPACE)]
    assert alarms.get() == [Alarm(5, NOSPACE)]
    assert (alarms.nospace, alarms.corrupt) == (True, False)
    assert alarms.raised(5, NOSPACE)
    assert not alarms.raised(5, CORRUPT)


def test_none_is_nothing_to_raise_or_clear(alarms: Alarms) -> None:
    assert alarms.activate(5, NONE) == alarms.deactivate(5, NONE) == alarms.get() == []


def test_get_by_type_is_sorted(alarms: Alarms) -> None:
    for member, alarm in ((9, NOSPACE), (2, CORRUPT), (2, NOSPACE), (2**64 - 1, NOSPACE)):
        alarms.activate(member, alarm)
    assert alarms.get(NOSPACE) == [
        Alarm(2, NOSPACE),
        Alarm(9, NOSPACE),
        Alarm(2**64 - 1, NOSPACE),
    ]
    assert alarms.get(CORRUPT) == [Alarm(2, CORRUPT)]
    assert alarms.get() == sorted(alarms.get(NOSPACE) + alarms.get(CORRUPT))


def test_the_last_of_a_type_opens_the_gate(alarms: Alarms) -> None:
    alarms.activate(1, NOSPACE)
    alarms.activate(2, NOSPACE)
    assert alarms.deactivate(0, NOSPACE) == [], "0 does not mean every member"
    assert alarms.deactivate(1, NOSPACE) == [Alarm(1, NOSPACE)]
    assert alarms.deactivate(1, NOSPACE) == []
    assert alarms.nospace
    alarms.deactivate(2, NOSPACE)
    assert not alarms.nospace
    alarms.check_invariants()


def test_alarms_survive_a_restart() -> None:
    backend = MemoryBackend()
    first = Alarms(backend)
    first.activate(7, CORRUPT)
    first.activate(7, NOSPACE)
    first.deactivate(7, NOSPACE)
    again = Alarms(backend)
    again.restore()
    assert again.get() == [Alarm(7, CORRUPT)]
    assert (again.nospace, again.corrupt) == (False, True)


def test_what_grows() -> None:
    delete = RequestOp(request_delete_range=DeleteRangeRequest(b"a"))
    read = RequestOp(request_range=RangeRequest(b"a"))
    assert grows(PutRequest(b"a"))
    assert grows(LeaseGrantRequest())
    assert grows(TxnRequest(failure=[read, put_op(b"a")]))
    assert grows(TxnRequest(success=[txn_op([], [txn_op([put_op(b"a")])])]))
    assert not grows(TxnRequest(success=[read, delete, txn_op([read], [delete])]))
    assert not grows(DeleteRangeRequest(b"a"))
    assert not grows(LeaseRevokeRequest(7))


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_alarm_refuses_and_allows(kind: int, alarms: Alarms) -> None:
    """All requests of the log: a new one must be thought of here."""
    grow = {PutRequest, LeaseGrantRequest}
    change = {
        *grow,
        DeleteRangeRequest,
        TxnRequest,
        CompactionRequest,
        LeaseRevokeRequest,
        LeaseExpireRequest,
    }
    request = KINDS[kind]()
    alarms.activate(1, NOSPACE)
    assert (refusal(alarms, request) is NoSpace) == (type(request) in grow)
    alarms.activate(1, CORRUPT)
    assert (refusal(alarms, request) is Corrupt) == (type(request) in change), "named first"
    alarms.deactivate(1, NOSPACE)
    assert (refusal(alarms, request) is Corrupt) == (type(request) in change)
    alarms.deactivate(1, CORRUPT)
    assert refusal(alarms, request) is None


def refusal(alarms: Alarms, request: Any) -> type[Exception] | None:
    try:
        alarms.check(request)
    except ApplyError as error:
        return type(error)
    return None
