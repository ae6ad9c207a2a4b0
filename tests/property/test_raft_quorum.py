"""Majorities and joint majorities against their definitions, counted out."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from raft.core.quorum import (
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)

MATCHES = st.lists(st.integers(0, 9), min_size=1, max_size=7)
VOTERS = st.lists(st.integers(1, 7), min_size=1, max_size=7, unique=True)
VOTES = st.dictionaries(st.integers(1, 7), st.booleans())


def naive_committed(matches: list[int]) -> int:
    """The greatest index that more than half have."""
    return max(
        index for index in range(10) if sum(match >= index for match in matches) * 2 > len(matches)
    )


def naive_vote(halves: list[list[int]], votes: dict[int, bool]) -> VoteResult:
    """All ways in which who is silent may still vote: won in each, lost in each, or open."""
    silent = sorted({voter for half in halves for voter in half if voter not in votes})
    outcomes = []
    for answers in product((False, True), repeat=len(silent)):
        final = votes | dict(zip(silent, answers, strict=True))
        outcomes.append(all(sum(final[v] for v in half) * 2 > len(half) for half in halves))
    if all(outcomes):
        return VoteResult.WON
    return VoteResult.PENDING if any(outcomes) else VoteResult.LOST


@given(MATCHES)
def test_committed_is_what_a_majority_has(matches: list[int]) -> None:
    assert majority_committed(matches) == naive_committed(matches)


@given(MATCHES, MATCHES)
def test_joint_committed_is_what_both_majorities_have(one: list[int], other: list[int]) -> None:
    assert joint_committed(one, other) == min(naive_committed(one), naive_committed(other))
    assert joint_committed(one, []) == naive_committed(one)


@given(VOTERS, VOTES)
@settings(max_examples=200)
def test_vote_result(voters: list[int], votes: dict[int, bool]) -> None:
    assert majority_vote(voters, votes) == naive_vote([voters], votes)


@given(VOTERS, VOTERS, VOTES)
@settings(max_examples=200)
def test_joint_vote_result(one: list[int], other: list[int], votes: dict[int, bool]) -> None:
    """Lost as soon as one half is lost; two open halves may in truth be won only together."""
    result = joint_vote(one, other, votes)
    halves = [naive_vote([one], votes), naive_vote([other], votes)]
    if VoteResult.LOST in halves:
        assert result == VoteResult.LOST
    else:
        assert result == naive_vote([one, other], votes)


def test_nobody_commits_and_elects_nothing() -> None:
    assert majority_committed([]) == 0
    assert majority_vote([], {1: True}) == VoteResult.LOST
