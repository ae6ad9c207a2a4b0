"""That the simulation can fail: it finds every bug that is planted, and by itself finds none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from mvcc.key_index import KeyIndex
from tests.simulation import planted
from tests.simulation.planted_bugs import BUGS, Bug, Change


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """Where the bugs are: a loop without end is stopped there, and nothing else is ever wrong."""
    with ProcessPoolExecutor(1) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(process: ProcessPoolExecutor, name: str) -> None:
    """By the seed known to find it, or by another one, where the draws have changed since."""
    bug = BUGS[name]
    seeds = planted.seeds_of(bug, known=True)
    catch = process.submit(planted.hunt_named, name, seeds).result()
    assert catch.seed >= 0, f"{bug.what}: not seen in {catch.tried} seeds"
    assert catch.by != "?", catch.problem


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_planted_and_taken_back(name: str) -> None:
    bug = BUGS[name]
    functions = [planted.function_of(change) for change in bug.changes]
    right = [function.__code__ for function in functions]
    with planted.planted(bug):
        wrong = [function.__code__ for function in functions]
        assert all(a is not b for a, b in zip(right, wrong, strict=True))
    assert [function.__code__ for function in functions] == right


def test_a_planted_bug_is_there_for_all_who_have_the_function() -> None:
    entry = KeyIndex(b"k", 2, 0, 2, 1)
    entry.tombstone(3, 0)
    vanishes = entry.vanishes
    with planted.planted(BUGS["tombstone-dropped"]):
        assert vanishes(3)
    assert not vanishes(3)


@pytest.mark.parametrize(
    "change",
    [
        Change("mvcc.key_index:KeyIndex.gone", "x", "y"),
        Change("mvcc.key_index:KeyIndex", "x", "y"),
        Change("mvcc.key_index:KeyIndex.vanishes", "what is not there", "y"),
        Change("mvcc.key_index:KeyIndex.vanishes", "e", "f"),
    ],
)
def test_what_does_not_fit_the_code_cannot_be_planted(change: Change) -> None:
    good = BUGS["tombstone-dropped"].changes[0]
    code = planted.function_of(good).__code__
    with (
        pytest.raises(planted.CannotPlant),
        planted.planted(Bug("bug", "", (good, change), 0, 1)),
    ):
        pass
    assert planted.function_of(good).__code__ is code


def test_a_catch_is_named_by_the_promise_that_broke() -> None:
    report = planted.Report(1, "faults: liveness: it never comes true that all have one state")
    assert planted.invariant(report) == "liveness"
    assert planted.invariant(planted.Report(1, "faults: something new")) == "?"
