"""What a majority, or both majorities of a joint configuration, have agreed upon.

match of voters    1:12  2:9  3:10        majority_committed([12, 9, 10]) == 10
joint with         3:10  4:5  5:7         joint_committed(.., [10, 5, 7]) == min(10, 7) == 7
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum


class VoteResult(IntEnum):
    """How an election stands: PENDING may still become either."""

    PENDING = 0
    LOST = 1
    WON = 2


def majority_committed(matches: Sequence[int]) -> int:
    """The greatest index that a majority of `matches`, one per voter, has reached; 0 if none."""
    if not matches:
        return 0
    return sorted(matches)[(len(matches) - 1) // 2]


def joint_committed(incoming: Sequence[int], outgoing: Sequence[int]) -> int:
    """What both halves have reached; with an empty `outgoing` the configuration is not joint."""
    committed = majority_committed(incoming)
    if outgoing:
        return min(committed, majority_committed(outgoing))
    return committed


def majority_vote(voters: Sequence[int], votes: Mapping[int, bool]) -> VoteResult:
    """The result among `voters`; who is not in `votes` has not answered. LOST without voters."""
    needed = len(voters) // 2 + 1
    granted = sum([votes.get(voter, False) for voter in voters])
    missing = sum([voter not in votes for voter in voters])
    if granted >= needed:
        return VoteResult.WON
    if granted + missing >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_vote(
    incoming: Sequence[int], outgoing: Sequence[int], votes: Mapping[int, bool]
) -> VoteResult:
    """WON if both halves grant, LOST as soon as one refuses."""
    result = majority_vote(incoming, votes)
    if not outgoing:
        return result
    other = majority_vote(outgoing, votes)
    if VoteResult.LOST in (result, other):
        return VoteResult.LOST
    return min(result, other)
