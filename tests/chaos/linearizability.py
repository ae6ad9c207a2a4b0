"""Is there one order of all operations that fits their times and their answers?

Wing and Gong's search in Lowe's form: take operations one by one from those that had begun before
the first one that is left returned; go back where an answer does not fit; remember every pair of
(operations taken, state) so that none is tried twice. The time is exponential at worst, so steps
are counted, and UNKNOWN is an honest verdict. Histories of independent keys are judged one by one
(`model.groups`), which is what makes it affordable.

    put 1   |-----------|
    get > 0    |--|                  legal: the get took effect before the put
    get > 1          |--|
    get > 0               |--|       with this one illegal: 1 had been seen before it began

Intervals are closed: who begins when another returns may take effect before it. An operation whose
outcome is unknown has no end, for it may take effect long after its client gave up, or never.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Any, NamedTuple

STEPS_MAX = 400_000
"""A few seconds, and a few hundred MiB at worst."""


class Verdict(Enum):
    LEGAL = "legal"
    ILLEGAL = "illegal"
    UNKNOWN = "unknown"


class Call(NamedTuple):
    """`answer` None with `returned` None: the outcome is not known."""

    called: int
    returned: int | None
    request: Any
    answer: Any = None


class Judgement(NamedTuple):
    """`longest`: of an illegal history, positions of the longest order that fitted, in order; who
    comes next cannot be said, but is among those that are missing.
    """

    verdict: Verdict
    steps: int
    longest: tuple[int, ...] = ()


Step = Callable[[Any, Any], tuple[Any, Any]]


class _Search:
    """Fields: `events` is a list linked through `next`/`before`, in which node 0 is the head, node
    2n + 1 the call of operation n and 2n + 2 its return, in order of time. An operation that is
    taken has both unlinked; `left` counts those with a known outcome that are not taken.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        moments = []
        for number, call in enumerate(calls):
            moments.append((call.called, 0, 2 * number + 1))
            if call.returned is not None:
                assert call.returned >= call.called, f"returned before it was called: {call}"
                moments.append((call.returned, 1, 2 * number + 2))
        order = [0, *(node for _, _, node in sorted(moments))]
        size = 2 * len(calls) + 1
        self.next = [-1] * size
        self.before = [-1] * size
        for one, other in itertools.pairwise(order):
            self.next[one], self.before[other] = other, one
        self.left = sum(call.returned is not None for call in calls)

    def take(self, number: int) -> None:
        self._unlink(2 * number + 1)
        if self.calls[number].returned is not None:
            self._unlink(2 * number + 2)
            self.left -= 1

    def put_back(self, number: int) -> None:
        """In the reverse order of `take`."""
        if self.calls[number].returned is not None:
            self._link(2 * number + 2)
            self.left += 1
        self._link(2 * number + 1)

    def _unlink(self, node: int) -> None:
        before, after = self.before[node], self.next[node]
        self.next[before] = after
        if after >= 0:
            self.before[after] = before

    def _link(self, node: int) -> None:
        before, after = self.before[node], self.next[node]
        self.next[before] = node
        if after >= 0:
            self.before[after] = node


def check(
    calls: Sequence[Call], step: Step, state: Hashable, steps_max: int = STEPS_MAX
) -> Judgement:
    """Judge one history. `step(state, request)` gives the next state and the answer."""
    search = _Search(calls)
    seen: set[tuple[int, Hashable]] = set()
    taken: list[tuple[int, Hashable]] = []
    longest: tuple[int, ...] = ()
    mask = steps = 0
    node = search.next[0]
    while search.left:
        if node >= 0 and node % 2:
            number = node // 2
            call = calls[number]
            steps += 1
            if steps > steps_max:
                return Judgement(Verdict.UNKNOWN, steps, longest)
            after, answer = step(state, call.request)
            here = (mask | 1 << number, after)
            if (call.returned is None or answer == call.answer) and here not in seen:
                seen.add(here)
                taken.append((number, state))
                mask, state = here
                search.take(number)
                node = search.next[0]
                if len(taken) > len(longest):
                    longest = tuple(number for number, _ in taken)
            else:
                node = search.next[node]
            continue
        # A return of somebody who was not taken before, or the end: the last one taken is wrong.
        if not taken:
            return Judgement(Verdict.ILLEGAL, steps, longest)
        number, state = taken.pop()
        mask &= ~(1 << number)
        search.put_back(number)
        node = search.next[2 * number + 1]
    return Judgement(Verdict.LEGAL, steps)
