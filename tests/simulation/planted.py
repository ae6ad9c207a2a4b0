"""Can the simulation fail? Plant a bug in the real code, and see which seed finds it, and by what.

    python -m tests.simulation.planted                       all of them: hunted from seed 0 on
    python -m tests.simulation.planted victim-gap --jobs 4   one
    python -m tests.simulation.planted --known               begin at the seeds known to catch them

A catch counts only where the same seed passes without the bug. What there is to plant stands in
`planted_bugs.py`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from tests.simulation.planted_bugs import BUGS, Bug, Change
from tests.simulation.simulator import SECONDS, NoEnd, Report, _one

_BROKEN_PATCH = ("NameError(", "AttributeError(", "TypeError(", "UnboundLocalError(")
"""What a change that does not fit its surroundings ends in: that is no catch."""

_INVARIANTS = (
    ("election safety", "one leader a term"),
    ("leader completeness", "leader completeness"),
    ("log matching", "log matching"),
    ("promises:", "promises to other members"),
    ("state machines", "same effects everywhere"),
    ("membership:", "membership is raft's"),
    ("model: entry", "answers of the model"),
    ("stale:", "linearizability"),
    ("was applied", "at most once"),
    ("took effect outside", "linearizability"),
    ("was refused with", "refused is without effect"),
    ("was answered", "answers of the model"),
    ("reads below", "compaction is final"),
    ("got the lock", "locks in turn"),
    ("watch of", "watch promises"),
    ("lease ", "leases live their time"),
    ("states:", "same rows at rest"),
    ("a structure is not sound", "structures are sound"),
    ("CORRUPT alarm", "corruption check"),
    (" fell from ", "nothing falls"),
    ("finished a compaction", "nothing falls"),
    ("nobody works on", "compactions are finished"),
    ("rows: ", "compactions keep what they must"),
    ("request ids:", "an id names one request"),
    ("liveness:", "liveness"),
    (" ended: ", "members' own assertions"),
    (" ended by itself", "members' own assertions"),
    ("an error that nobody handled", "members' own assertions"),
)


class CannotPlant(Exception):
    """The code that a bug is made for is not there any more."""


class Catch(NamedTuple):
    """`seed` is -1 when nothing was found in `tried` seeds."""

    name: str
    seed: int
    tried: int
    by: str
    problem: str
    seconds: float


# -- planting


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Within, the functions of this process are wrong. CannotPlant; nothing is changed then."""
    changed = [(function_of(change), _wrong_code(change)) for change in bug.changes]
    with ExitStack() as undo:
        for function, code in changed:
            undo.callback(setattr, function, "__code__", function.__code__)
            function.__code__ = code
        yield


def function_of(change: Change) -> FunctionType:
    """What `change` is about, as it is now. CannotPlant."""
    module, _, path = change.function.partition(":")
    owner: Any = importlib.import_module(module)
    for name in path.split("."):
        if name not in vars(owner):
            raise CannotPlant(f"{change.function} is gone")
        owner = vars(owner)[name]
    function = owner.fget if isinstance(owner, property) else owner
    if not isinstance(function, FunctionType):
        raise CannotPlant(f"{change.function} is no function")
    return function


def _wrong_code(change: Change) -> CodeType:
    """The code of the same function with the change. Whoever has the function, has the bug."""
    function = function_of(change)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(change.right) != 1:
        count = source.count(change.right)
        raise CannotPlant(f"{change.function} has {change.right!r} {count} times")
    text = source.replace(change.right, change.wrong)
    made: dict[str, Any] = {}
    name = f"<wrong {change.function}>"
    exec(compile(text, name, "exec"), dict(function.__globals__), made)
    code: CodeType = made[function.__name__].__code__
    if code.co_freevars != function.__code__.co_freevars:
        raise CannotPlant(f"{change.function} closes over {function.__code__.co_freevars}")
    return code


# -- hunting


def hunt(bug: Bug, seeds: Iterable[int]) -> Catch:
    """The first of `seeds` that fails with the bug, and passes without. CannotPlant."""
    began, tried = time.process_time(), 0
    for seed in seeds:
        tried += 1
        with planted(bug):
            report = _one((seed, SECONDS))
        if not report.problem or NoEnd.__name__ in report.problem:
            continue  # A loop without end is no promise broken.
        broken = next((kind for kind in _BROKEN_PATCH if kind in report.problem), None)
        if broken is not None:
            raise CannotPlant(f"{bug.name} does not run: {report.problem[:1500]}")
        if not _one((seed, SECONDS)).problem:
            took = time.process_time() - began
            return Catch(bug.name, seed, tried, invariant(report), report.problem, took)
    return Catch(bug.name, -1, tried, "", "", time.process_time() - began)


def invariant(report: Report) -> str:
    """The promise that was seen broken."""
    found = [(report.problem.find(sign), name) for sign, name in _INVARIANTS]
    return min((where for where in found if where[0] >= 0), default=(0, "?"))[1]


def seeds_of(bug: Bug, *, known: bool) -> list[int]:
    """All that may be needed; with `known` the one that caught it last comes first."""
    seeds = list(range(bug.within))
    if not known:
        return seeds
    return [bug.seed, *(seed for seed in seeds if seed != bug.seed)]


def hunt_named(name: str, seeds: list[int]) -> Catch:
    """In a process of its own."""
    logging.disable(logging.CRITICAL)
    return hunt(BUGS[name], seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description="plant bugs, and see the simulation find them")
    parser.add_argument("names", nargs="*", metavar="NAME", help="all when none is given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--known", action="store_true", help="begin at the known seeds")
    parser.add_argument("--seeds", type=int, help="from 0; each bug has its own number")
    parser.add_argument("--why", action="store_true", help="print what was seen")
    arguments = parser.parse_args()
    missed = 0
    print(f"{'bug':27} {'caught by':27} {'seed':>5} {'tried':>5} {'seconds':>8}")
    with ProcessPoolExecutor(arguments.jobs, max_tasks_per_child=1) as pool:
        jobs = {}
        for name in arguments.names or BUGS:
            seeds = seeds_of(BUGS[name], known=arguments.known)
            if arguments.seeds is not None:
                seeds = list(range(arguments.seeds))
            jobs[pool.submit(hunt_named, name, seeds)] = name
        for job in as_completed(jobs):
            try:
                catch = job.result()
            except CannotPlant as error:
                print(f"{jobs[job]:27} CANNOT BE PLANTED: {error}", flush=True)
                missed += 1
                continue
            missed += catch.seed < 0
            seed = str(catch.seed) if catch.seed >= 0 else "-"
            by = catch.by or "NOT CAUGHT"
            print(
                f"{catch.name:27} {by:27} {seed:>5} {catch.tried:>5} {catch.seconds:>8.1f}",
                flush=True,
            )
            if arguments.why:
                print(f"    {catch.problem.partition(chr(10))[0][:400]}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
