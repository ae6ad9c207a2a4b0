"""The search on histories made by hand, and against a checker that tries every order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.linearizability import Call, Judgement, Verdict, check
from tests.chaos.model import (
    Action,
    Answer,
    Compare,
    Request,
    Row,
    cas,
    delete,
    get,
    groups,
    put,
    step,
    without_revisions,
)

DONE = Answer(True, (None,))
K, L = b"k", b"l"


def saw(value: bytes | None, version: int = 1) -> Answer:
    return Answer(True, (None if value is None else Row(value, version),))


def failed(value: bytes | None, version: int = 1) -> Answer:
    return saw(value, version)._replace(succeeded=False)


def judged(*calls: Call) -> Judgement:
    return check(calls, step, ())


REGISTER = {
    "nothing": ([], True),
    "a get before any put": ([Call(0, 1, get(K), saw(None))], True),
    "a get of what nobody put": ([Call(0, 1, get(K), saw(b"1"))], False),
    "one after the other": ([Call(0, 1, put(K, b"1"), DONE), Call(2, 3, get(K), saw(b"1"))], True),
    "a stale get": ([Call(0, 1, put(K, b"1"), DONE), Call(2, 3, get(K), saw(None))], False),
    "overlapping, before": ([Call(0, 9, put(K, b"1"), DONE), Call(2, 3, get(K), saw(None))], True),
    "overlapping, after": ([Call(0, 9, put(K, b"1"), DONE), Call(2, 3, get(K), saw(b"1"))], True),
    "back in time while a put goes on": (
        [
            Call(0, 9, put(K, b"1"), DONE),
            Call(2, 3, get(K), saw(b"1")),
            Call(4, 5, get(K), saw(None)),
        ],
        False,
    ),
    "touching intervals overlap": (
        [Call(0, 2, put(K, b"1"), DONE), Call(2, 3, get(K), saw(None))],
        True,
    ),
    "two puts seen in two orders": (
        [
            Call(0, 9, put(K, b"1"), DONE),
            Call(0, 9, put(K, b"2"), DONE),
            Call(1, 2, get(K), saw(b"1")),
            Call(3, 4, get(K), saw(b"2", 2)),
            Call(5, 6, get(K), saw(b"1", 2)),
        ],
        False,
    ),
    "a version that was skipped": (
        [Call(0, 1, put(K, b"1"), DONE), Call(2, 3, get(K), saw(b"1", 2))],
        False,
    ),
    "deleted twice": (
        [
            Call(0, 1, put(K, b"1"), DONE),
            Call(2, 9, delete(K), Answer(True, (1,))),
            Call(2, 9, delete(K), Answer(True, (1,))),
        ],
        False,
    ),
    "deleted once, in either order": (
        [
            Call(0, 1, put(K, b"1"), DONE),
            Call(2, 9, delete(K), Answer(True, (0,))),
            Call(2, 9, delete(K), Answer(True, (1,))),
        ],
        True,
    ),
}

UNKNOWN_OUTCOMES = {
    "it took effect late": (
        [
            Call(0, None, put(K, b"1")),
            Call(1, 2, get(K), saw(None)),
            Call(50, 51, get(K), saw(b"1")),
        ],
        True,
    ),
    "it never did": ([Call(0, None, put(K, b"1")), Call(50, 51, get(K), saw(None))], True),
    "it cannot have, before it began": (
        [Call(1, 2, get(K), saw(b"1")), Call(5, None, put(K, b"1"))],
        False,
    ),
    "it took effect once only": (
        [
            Call(0, None, put(K, b"1")),
            Call(1, 2, get(K), saw(b"1")),
            Call(3, 4, put(K, b"2"), DONE),
            Call(5, 6, get(K), saw(b"1", 3)),
        ],
        False,
    ),
    "nothing but unknown ones": ([Call(0, None, put(K, b"1")), Call(0, None, delete(K))], True),
}

ONE_WINS = [
    Call(0, 1, put(K, b"0"), DONE),
    Call(2, 9, cas(K, b"0", b"a"), DONE),
    Call(2, 9, cas(K, b"0", b"b"), failed(b"a", 2)),
]
BOTH_WIN = [*ONE_WINS[:2], Call(2, 9, cas(K, b"0", b"b"), DONE)]
CAS = {
    "one of two wins": (ONE_WINS, True),
    "both win": (BOTH_WIN, False),
    "who loses sees who won": ([*ONE_WINS[:2], ONE_WINS[2]._replace(answer=failed(b"0"))], False),
    "the lost answer explains it": (
        [ONE_WINS[0], Call(2, None, cas(K, b"0", b"a")), ONE_WINS[2]],
        True,
    ),
}

WRITE_BOTH = Request(success=(Action("put", K, b"1"), Action("put", L, b"1")))
BOTH = Request(success=(Action("get", K), Action("get", L)))
GUARDED = Request((Compare("version", K, 0),), (Action("put", L, b"2"),), (Action("get", K),))


def pair(one: bytes | None, other: bytes | None) -> Answer:
    return Answer(True, (*saw(one).results, *saw(other).results))


TRANSACTIONS = {
    "both or none": (
        [Call(0, 9, WRITE_BOTH, Answer(True, (None, None))), Call(1, 2, BOTH, pair(b"1", b"1"))],
        True,
    ),
    "half of it": (
        [Call(0, 9, WRITE_BOTH, Answer(True, (None, None))), Call(1, 2, BOTH, pair(b"1", None))],
        False,
    ),
    "write skew": (
        [
            Call(0, 9, GUARDED, DONE),
            Call(0, 9, Request((Compare("version", L, 0),), (Action("put", K, b"3"),)), DONE),
        ],
        False,
    ),
    "one guard fails": (
        [
            Call(0, 9, GUARDED, DONE),
            Call(0, 9, Request((Compare("version", L, 0),), (), ()), Answer(False, ())),
        ],
        True,
    ),
}

ALL = REGISTER | UNKNOWN_OUTCOMES | CAS | TRANSACTIONS


@pytest.mark.parametrize("name", ALL)
def test_by_hand(name: str) -> None:
    calls, legal = ALL[name]
    assert judged(*calls).verdict is (Verdict.LEGAL if legal else Verdict.ILLEGAL)


def test_who_fits_nowhere_is_named() -> None:
    judgement = judged(*BOTH_WIN)
    assert judgement.longest in ((0, 1), (0, 2))


def test_a_search_that_is_too_long_is_no_pass() -> None:
    calls = [Call(0, 100, put(K, b"%d" % number), DONE) for number in range(9)]
    calls.append(Call(200, 201, get(K), saw(b"nobody", 9)))
    assert check(calls, step, (), steps_max=1000).verdict is Verdict.UNKNOWN
    assert check(calls, step, ()).verdict is Verdict.ILLEGAL


def test_long_histories_of_few_clients_are_quick() -> None:
    calls = []
    for number in range(1000):
        calls.append(Call(10 * number, 10 * number + 9, put(K, b"%d" % number), DONE))
        calls.append(
            Call(10 * number + 9, 10 * number + 9, get(K), saw(b"%d" % number, number + 1))
        )
    judgement = judged(*calls)
    assert judgement.verdict is Verdict.LEGAL
    assert judgement.steps < 10_000


def test_keys_of_one_transaction_belong_together() -> None:
    across = Request(success=(*get(b"a").success, *WRITE_BOTH.success))
    found = groups([get(b"a"), WRITE_BOTH, get(b"b"), across])
    assert found == {b"a": b"a", b"b": b"b", K: b"a", L: b"a"}


def test_comparisons_of_revisions_are_believed() -> None:
    request = Request((Compare("mod", K, 7),), (Action("put", K, b"1"),), (Action("get", K),))
    row = Row(b"0", 3, 5, 6)
    assert without_revisions(request, DONE) == (Request(success=request.success), DONE)
    assert without_revisions(request, Answer(False, (row,))) == (
        Request(success=request.failure),
        Answer(True, (Row(b"0", 3),)),
    )
    assert without_revisions(request, None) == (Request(success=request.success), None)


# -- against every order


def dumb(calls: Sequence[Call]) -> bool:
    """All orders of all known operations with every choice of the unknown ones."""
    known = [call for call in calls if call.returned is not None]
    maybe = [call for call in calls if call.returned is None]
    return any(
        fits(order)
        for size in range(len(maybe) + 1)
        for chosen in itertools.combinations(maybe, size)
        for order in itertools.permutations([*known, *chosen])
    )


def fits(order: Sequence[Call]) -> bool:
    state: tuple[tuple[bytes, Row], ...] = ()
    for place, call in enumerate(order):
        if any(later.returned is not None and later.returned < call.called
               for later in order[place:]):  # fmt: skip
            return False
        state, answer = step(state, call.request)
        if call.returned is not None and answer != call.answer:
            return False
    return True


VALUES = (b"1", b"2")
REQUESTS = st.sampled_from(
    [get(K), put(K, b"1"), put(K, b"2"), delete(K), cas(K, b"1", b"2"), WRITE_BOTH, BOTH, get(L)]
)


@st.composite
def histories(draw: st.DrawFn) -> list[Call]:
    """Answers of some real order, some of them spoilt, with times that may or may not fit it."""
    state: tuple[tuple[bytes, Row], ...] = ()
    calls = []
    for _ in range(draw(st.integers(1, 5))):
        request = draw(REQUESTS)
        state, answer = step(state, request)
        called = draw(st.integers(0, 12))
        returned = draw(st.none() | st.integers(called, called + 8))
        if draw(st.integers(0, 4)) == 0:
            answer = answer._replace(results=(saw(draw(st.sampled_from(VALUES))).results))
        calls.append(Call(called, returned, request, None if returned is None else answer))
    return calls


@given(histories())
def test_as_every_order_says(calls: list[Call]) -> None:
    expected = Verdict.LEGAL if dumb(calls) else Verdict.ILLEGAL
    assert judged(*calls).verdict is expected
