"""Proposals: ids are unique, each waiter is woken once, the late are told."""

from __future__ import annotations

import pytest

from node.proposals import COUNTER_BITS, Proposals


def test_ids_carry_the_member_and_never_repeat() -> None:
    proposals = Proposals(0xABCD1234, first_id=5)
    ids = [proposals.next_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {request_id >> 48 for request_id in ids} == {0x1234}


def test_ids_stay_those_of_the_member_when_the_counter_is_at_its_end() -> None:
    proposals = Proposals(7, first_id=(1 << COUNTER_BITS) - 2)
    assert [proposals.next_id() for _ in range(3)] == [
        8 * (1 << COUNTER_BITS) - 1,
        7 << COUNTER_BITS,
        (7 << COUNTER_BITS) + 1,
    ]


def test_take_gives_the_decoded_request_once() -> None:
    proposals = Proposals(1, first_id=0)
    request = object()
    proposals.register(9, request, [].append, 1.0)
    taken = proposals.take(9)
    assert taken is not None
    assert taken[0] is request
    assert proposals.take(9) is None


def test_an_id_registered_twice_is_a_bug() -> None:
    proposals = Proposals(1, first_id=0)
    proposals.register(9, None, [].append, 1.0)
    with pytest.raises(AssertionError, match="registered twice"):
        proposals.register(9, None, [].append, 1.0)


def test_expire_forgets_only_what_is_due() -> None:
    proposals = Proposals(1, first_id=0)
    early, late = [], []
    proposals.register(1, None, early.append, 1.0)
    proposals.register(2, None, late.append, 2.0)
    for done in proposals.expire(1.5):
        done("late")
    assert (early, late) == (["late"], [])
    assert proposals.take(1) is None
    assert proposals.take(2) is not None


def test_take_all_empties_the_registry() -> None:
    proposals = Proposals(1, first_id=0)
    proposals.register(1, None, [].append, 1.0)
    assert len(proposals.take_all()) == 1
    assert len(proposals) == 0


def test_what_waited_when_the_leader_went_is_lost() -> None:
    proposals = Proposals(1, first_id=0)
    answers: list[object] = []
    for number in (1, 2):
        proposals.register(number, None, answers.append, 1.0)
    assert proposals.lost() == []
    proposals.leader_gone()
    proposals.register(3, None, answers.append, 1.0)
    assert proposals.take(1) is not None, "it was committed after all"
    for done in proposals.lost():
        done("lost")
    assert answers == ["lost"]
    assert proposals.lost() == []
    assert proposals.take(2) is None
    assert proposals.take(3) is not None, "it went to the next leader"
