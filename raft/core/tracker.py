"""Tracker: the configuration in force, each member's Progress, the votes of this term."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from raft.core.progress import Inflights, Progress
from raft.core.quorum import VoteResult, joint_committed, joint_vote
from raft.core.types import ConfState


def ascending(ids: Iterable[int]) -> tuple[int, ...]:
    """Each id once, in order: the only way in which ids are ever iterated."""
    return tuple(sorted(dict.fromkeys(ids)))


class Tracker:
    """Who counts, and how far everybody is.

    conf      the configuration in force: applied, not merely appended
    progress  one for every member of conf, in ascending order of ids; meaningful on a leader
    votes     answers of this term's election
    """

    def __init__(self, max_inflight: int, max_inflight_bytes: int) -> None:
        self.conf = ConfState()
        self.progress: dict[int, Progress] = {}
        self.votes: dict[int, bool] = {}
        self._max_inflight = max_inflight
        self._max_inflight_bytes = max_inflight_bytes

    def new_progress(self, next_index: int, *, match: int = 0) -> Progress:
        return Progress(
            next_index, Inflights(self._max_inflight, self._max_inflight_bytes), match=match
        )

    def restore(self, conf: ConfState, next_index: int) -> None:
        """A configuration from a snapshot or from the start; nothing is known of anybody."""
        check_conf_state(conf)
        self.conf = conf
        members = ascending(chain(conf.voters, conf.voters_outgoing, conf.learners))
        self.progress = {member: self.new_progress(next_index) for member in members}

    # --- who is what

    def is_voter(self, member: int) -> bool:
        return member in self.conf.voters or member in self.conf.voters_outgoing

    def is_learner(self, member: int) -> bool:
        return member in self.conf.learners

    def is_only_voter(self, member: int) -> bool:
        return self.conf.voters == (member,) and not self.conf.voters_outgoing

    def voters(self) -> tuple[int, ...]:
        """Of both halves."""
        return ascending(chain(self.conf.voters, self.conf.voters_outgoing))

    # --- what a quorum says

    def committed(self) -> int:
        """The greatest index that is durable on a quorum."""
        progress = self.progress
        return joint_committed(
            [progress[voter].match for voter in self.conf.voters],
            [progress[voter].match for voter in self.conf.voters_outgoing],
        )

    def known_committed(self) -> int:
        """The greatest index that a quorum knows to be committed."""
        progress = self.progress
        return joint_committed(
            [progress[voter].commit for voter in self.conf.voters],
            [progress[voter].commit for voter in self.conf.voters_outgoing],
        )

    def quorum_active(self) -> bool:
        """Was a quorum heard from since the last check?"""
        active = {member: True for member, peer in self.progress.items() if peer.recent_active}
        return self._tally(active) == VoteResult.WON

    def reset_votes(self) -> None:
        self.votes = {}

    def record_vote(self, member: int, granted: bool) -> None:
        """The first answer of a member stands."""
        self.votes.setdefault(member, granted)

    def vote_result(self) -> VoteResult:
        return self._tally(self.votes)

    def _tally(self, votes: dict[int, bool]) -> VoteResult:
        return joint_vote(self.conf.voters, self.conf.voters_outgoing, votes)

    def check_invariants(self) -> None:
        check_conf_state(self.conf)
        conf = self.conf
        members = ascending(chain(conf.voters, conf.voters_outgoing, conf.learners))
        assert tuple(self.progress) == members, f"{tuple(self.progress)} != {members}"
        for progress in self.progress.values():
            progress.check_invariants()


def check_conf_state(conf: ConfState) -> None:
    """Ids ascend; nobody is voter and learner; who will be a learner is still an outgoing voter."""
    for ids in (conf.voters, conf.learners, conf.voters_outgoing, conf.learners_next):
        assert ids == ascending(ids) and 0 not in ids, f"ids {ids}"
    for learner in conf.learners:
        assert learner not in conf.voters, f"{learner} is voter and learner"
        assert learner not in conf.voters_outgoing, f"{learner} is outgoing voter and learner"
    for learner in conf.learners_next:
        assert learner in conf.voters_outgoing, f"{learner} need not wait to be a learner"
        assert learner not in conf.voters, f"{learner} is voter and next learner"
    if not conf.voters_outgoing:
        assert not conf.learners_next and not conf.auto_leave, f"not joint, yet {conf}"
