"""The bugs that are planted: each is a wrong line or two, put into the real code at test time.

A change is (function, what stands there, what shall stand there instead). What stands there must be
found exactly once, or the bug can no longer be planted, and the test that plants it fails: then
write it anew for the code as it is.

`seed` is the first seed known to catch it; `within` how many seeds from 0 may be needed: several
times what was measured, for whatever changes the simulation's draws moves the seeds.
"""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """`function` as module:qualified.name."""

    function: str
    right: str
    wrong: str


class Bug(NamedTuple):
    """One bug; `like` is the public report of such a one in another system, where there is one."""

    name: str
    what: str
    changes: tuple[Change, ...]
    seed: int
    within: int
    like: str = ""


def _bug(
    name: str, what: str, *changes: tuple[str, str, str], seed: int, within: int, like: str = ""
) -> Bug:
    return Bug(name, what, tuple(Change(*change) for change in changes), seed, within, like)


RAFT = (
    _bug(
        "vote-forgotten",
        "a vote is never written to the log",
        (
            "raft.driver:RaftDriver._write",
            "job = WalJob(ready.hard_state, ",
            "job = WalJob(ready.hard_state and ready.hard_state._replace(vote=0), ",
        ),
        seed=2,
        within=50,
    ),
    _bug(
        "vote-before-disk",
        "a vote is answered before it is on disk",
        (
            "raft.core.raft:Raft.send",
            "if message.type in AFTER_APPEND:",
            "if message.type in AFTER_APPEND and message.type != MessageType.VOTE_RESPONSE:",
        ),
        seed=2,
        within=200,
    ),
    _bug(
        "term-not-written",
        "term and vote alone are no reason to write the log",
        (
            "raft.core.raw_node:RawNode.ready",
            "or (hard_state.term, hard_state.vote) != (before.term, before.vote)",
            "or False",
        ),
        seed=2,
        within=50,
    ),
    _bug(
        "two-votes",
        "a member votes again in the same term",
        (
            "raft.core.election:on_vote_request",
            "or (raft.vote == NONE and raft.leader == NONE)",
            "or raft.leader == NONE",
        ),
        seed=0,
        within=50,
    ),
    _bug(
        "vote-for-shorter-log",
        "a vote is given whatever the candidate's log lacks",
        (
            "raft.core.election:on_vote_request",
            "if may_grant and raft.log.is_up_to_date(message.index, message.log_term):",
            "if may_grant:",
        ),
        seed=2,
        within=50,
    ),
    _bug(
        "old-term-by-counting",
        "an entry of an older term is committed by counting, as in figure 8",
        (
            "raft.core.log:RaftLog.maybe_commit",
            "if index <= self.committed or self.term(index) != term:",
            "if index <= self.committed:",
        ),
        seed=0,
        within=100,
    ),
    _bug(
        "acknowledged-before-sync",
        "a follower acknowledges entries that are not on its disk yet",
        (
            "raft.core.raft:Raft.send",
            "if message.type in AFTER_APPEND:",
            "if message.type in AFTER_APPEND and message.type != MessageType.APPEND_RESPONSE:",
        ),
        seed=2,
        within=50,
    ),
    _bug(
        "log-not-synced",
        "the log is written, but never synced",
        (
            "raft.driver:RaftDriver._write",
            "sync=ready.must_sync",
            "sync=False",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "leader-counts-itself",
        "a leader counts itself before its own disk has the entry",
        (
            "raft.core.leader:propose_data",
            "raft.append_due = True",
            "raft.append_due = True\n"
            "    raft.tracker.progress[raft.id].maybe_update(raft.log.last_index())",
        ),
        seed=0,
        within=50,
    ),
    _bug(
        "old-append-truncates",
        "an append that comes late cuts off what a later one brought",
        (
            "raft.core.log:RaftLog.maybe_append",
            "known = self._count_known(entries)",
            "known = max(0, self.committed - previous)",
        ),
        seed=12,
        within=50,
    ),
    _bug(
        "previous-term-unchecked",
        "an append is taken without a look at the term of the entry before it",
        (
            "raft.core.log:RaftLog.maybe_append",
            "if not self.match_term(previous, previous_term):",
            "if previous > self.last_index():",
        ),
        seed=52,
        within=500,
    ),
    _bug(
        "follower-commits-too-much",
        "a follower takes all that it was sent for committed",
        (
            "raft.core.log:RaftLog.maybe_append",
            "self.commit_to(min(commit, last_new))",
            "self.commit_to(last_new)",
        ),
        seed=3,
        within=50,
    ),
    _bug(
        "learner-in-quorum",
        "learners count in the quorum that commits",
        (
            "raft.core.tracker:Tracker.committed",
            "[progress[voter].match for voter in self.conf.voters],",
            "[progress[voter].match for voter in (*self.conf.voters, *self.conf.learners)],",
        ),
        seed=46,
        within=200,
    ),
    _bug(
        "change-on-append",
        "a leader uses a new configuration as soon as it is appended",
        (
            "raft.core.leader:propose_entries",
            "raft.pending_conf_index = index",
            "raft.pending_conf_index = index\n"
            "                raft.apply_conf_change(decode_conf_change(data))",
        ),
        seed=3,
        within=50,
    ),
    _bug(
        "forwarded-twice",
        "a follower sends a proposal twice, to be sure",
        (
            "raft.core.follower:forward_proposal",
            "raft.send(Message(type=MessageType.PROPOSE, to=raft.leader, entries=entries))",
            "for _ in range(2):\n"
            "        raft.send(Message(type=MessageType.PROPOSE, to=raft.leader, entries=entries))",
        ),
        seed=0,
        within=50,
    ),
    _bug(
        "log-cut-too-early",
        "the log is cut at what is applied, though the database has less on disk",
        (
            "raft.driver:RaftDriver.checkpoint",
            "marker = self._checkpoints.mark(durable_index)",
            "marker = self._checkpoints.mark(self.applied_index)",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "torn-tail-kept",
        "the log's checksums are not looked at, also not at its end",
        (
            "raft.wal_format:_read_record",
            "if crc != stored or tail != _TAILS[len(tail) - 1]:",
            "if False:",
        ),
        seed=7,
        within=50,
    ),
)

READS = (
    _bug(
        "read-without-quorum",
        "a leader answers linearizable reads without asking anybody whether it still leads",
        (
            "raft.core.read_index:read_index",
            "elif raft.tracker.is_only_voter(raft.id):",
            "elif True:",
        ),
        seed=4,
        within=50,
    ),
    _bug(
        "read-before-first-commit",
        "a new leader names its commit index before it has committed in its term",
        (
            "raft.core.read_index:read_index",
            "if not raft.committed_in_term():",
            "if False:",
        ),
        seed=1,
        within=100,
        like="etcd PR 14258",
    ),
    _bug(
        "read-token-ignored",
        "an answer to an earlier round of reads counts for the present one",
        (
            "node.reads:LinearizableReads.ready",
            "if asking is None or token not in asking.tokens:",
            "if asking is None:",
        ),
        seed=28,
        within=200,
    ),
    _bug(
        "read-before-apply",
        "a read does not wait until its index is applied here",
        (
            "node.reads:LinearizableReads.ready",
            "if index <= self._applied():",
            "if True:",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "newcomers-join-round",
        "a read that comes while a round is under way is answered with it",
        (
            "node.reads:LinearizableReads.ready",
            "asking.index = index",
            "asking.index = index\n    asking.readers += self._gathering\n    self._gathering = []",
        ),
        seed=33,
        within=200,
    ),
)

APPLY = (
    _bug(
        "applied-twice",
        "the applied index reaches the database a moment after the effects",
        (
            "node.replica:Replica.apply",
            "self.backend.end_entries(last.index, last.term)",
            "self._loop.call_later(0.02, self.backend.end_entries, last.index, last.term)",
        ),
        seed=2,
        within=50,
    ),
    _bug(
        "applied-index-ahead",
        "the database is told an index that is one too high",
        (
            "node.replica:Replica.apply",
            "self.backend.end_entries(last.index, last.term)",
            "self.backend.end_entries(last.index + 1, last.term)",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "request-ids-reused",
        "request ids start at the same number in every life",
        (
            "node.proposals:Proposals.__init__",
            "self._counter = first_id",
            "self._counter = 0",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "prev-kv-after-write",
        "prev_kv of a put is read after the write",
        (
            "node.apply.txn:execute_put",
            "return prev_kv if request.prev_kv else None",
            "return writing.get(key) if request.prev_kv else None",
        ),
        seed=0,
        within=50,
    ),
    _bug(
        "compares-see-writes",
        "the compares of a nested txn see what was written before it in the same txn",
        (
            "node.apply.txn:_Run.txn",
            "succeeded = next(path)",
            "succeeded = next(path) and all(holds(self._writing, c) for c in request.compare)",
        ),
        seed=5,
        within=200,
    ),
    _bug(
        "ignore-lease-detaches",
        "a put that is to keep its key's lease takes it away",
        (
            "node.apply.txn:execute_put",
            "lease = store.lease_of(key)",
            "lease = 0",
        ),
        seed=5,
        within=50,
    ),
    _bug(
        "snapshot-half-taken",
        "a snapshot replaces the keys, but leases, alarms and members stay as they were",
        (
            "node.replica:Replica.install_snapshot",
            "self.applier.restore(store)",
            "self.applier.store = store",
        ),
        seed=3,
        within=50,
    ),
    _bug(
        "snapshot-without-index",
        "a snapshot's rows are taken, but the index of keys stays as it was",
        (
            "node.replica:Replica.install_snapshot",
            "for _ in store.restore():",
            "for _ in ():",
        ),
        seed=3,
        within=50,
    ),
    _bug(
        "snapshot-old-index",
        "a snapshot is installed under the applied index of before",
        (
            "raft.driver:RaftDriver._install",
            "self.applied_index = snapshot.index",
            "pass",
        ),
        seed=3,
        within=50,
        like="etcd PR 13933",
    ),
    _bug(
        "promotion-not-stored",
        "that a learner was promoted is not written to its row",
        (
            "node.apply.members:Members.apply",
            "self._write(msgspec.structs.replace(present, isLearner=False))",
            "self._members[member.ID] = msgspec.structs.replace(present, isLearner=False)",
        ),
        seed=46,
        within=200,
    ),
    _bug(
        "configuration-not-stored",
        "raft's configuration is not written beside the members",
        (
            "node.apply.members:Members.put_conf_state",
            "self._backend.put(META, CONF_STATE, msgspec.msgpack.encode(conf_state))",
            "self._backend.get(META, CONF_STATE) or self._backend.put(\n"
            "        META, CONF_STATE, msgspec.msgpack.encode(conf_state)\n"
            "    )",
        ),
        seed=3,
        within=50,
    ),
)

HISTORY = (
    _bug(
        "scheduled-mark-missing",
        "a compaction is not written down before it begins",
        (
            "mvcc.store:Store.compact",
            "self.backend.put(META, SCHEDULED_COMPACTED_REV, encode_int(revision))",
            "pass",
        ),
        seed=9,
        within=100,
    ),
    _bug(
        "compaction-not-resumed",
        "a compaction that a crash cut short is not gone on with",
        (
            "node.replica:Replica.resume_compaction",
            "if pending is not None:",
            "if False:",
        ),
        seed=9,
        within=100,
    ),
    _bug(
        "keep-one-less",
        "a compaction takes the state at its very revision, too",
        (
            "mvcc.key_index:KeyIndex.compact",
            "return self._take(count if gone else count - 1)",
            "return self._take(count)",
        ),
        seed=9,
        within=100,
    ),
    _bug(
        "tombstone-dropped",
        "a compaction takes the tombstone at its very revision",
        (
            "mvcc.key_index:KeyIndex.vanishes",
            "self.main < revision",
            "self.main <= revision",
        ),
        (
            "mvcc.key_index:KeyIndex.compact",
            "gone = mark & 1 and main < revision",
            "gone = mark & 1 and main <= revision",
        ),
        seed=20,
        within=100,
        like="etcd issue 18089",
    ),
    _bug(
        "reads-below-compaction",
        "a read below the compacted revision is not refused",
        (
            "mvcc.txn:ReadTxn.check_revision",
            "if revision < self._store.compact_rev:",
            "if revision < self._store.compact_rev - 3:",
        ),
        seed=71,
        within=500,
    ),
)

WATCHES = (
    _bug(
        "victim-gap",
        "a watcher without room counts as told of what it was not told",
        (
            "mvcc.watchable_store:WatchableStore._on_write",
            "self._move(watcher, State.VICTIM, revision)",
            "self._move(watcher, State.VICTIM, revision + 1)",
        ),
        seed=1,
        within=50,
        like="etcd issue 17529",
    ),
    _bug(
        "slow-watcher-skipped",
        "a watcher that found no room while it caught up loses that slice",
        (
            "mvcc.watchable_store:WatchableStore._replay",
            "self._move(watcher, State.VICTIM, watcher.min_rev)",
            "self._move(watcher, State.VICTIM, reached)",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "event-twice",
        "a watch begins one revision early when it reads history",
        (
            "mvcc.notices:Slice._make",
            "if events[i].kv.mod_revision >= min_rev",
            "if events[i].kv.mod_revision >= min_rev - 1",
        ),
        (
            "mvcc.watchable_store:WatchableStore._replay",
            "self.store, start, rows_max",
            "self.store, max(1, start - 1), rows_max",
        ),
        seed=3,
        within=50,
    ),
    _bug(
        "slice-overlaps",
        "the next slice of history begins with the last revision of this one",
        (
            "mvcc.watchable_store:WatchableStore._replay",
            "self._move(watcher, State.SYNCED if done else State.UNSYNCED, reached)",
            "self._move(\n"
            "                watcher,\n"
            "                State.SYNCED if done else State.UNSYNCED,\n"
            "                reached if done else max(watcher.min_rev, reached - 1),\n"
            "            )",
        ),
        seed=2,
        within=50,
    ),
    _bug(
        "progress-too-early",
        "progress is told while events of before are still to come",
        (
            "mvcc.watchable_store:WatchStream._answer_progress",
            "if self._asked and not self._lagging and not self.full:",
            "if self._asked:",
        ),
        (
            "mvcc.watchable_store:WatchStream.notify_progress",
            "if watcher.progress_notify and watcher.state == State.SYNCED and not self.full:",
            "if watcher.progress_notify:",
        ),
        seed=30,
        within=200,
        like="etcd PR 15695",
    ),
    _bug(
        "watch-starts-late",
        "a watch that wants the newest revision, too, gets only those after it",
        (
            "mvcc.watchable_store:WatchableStore.begin",
            "State.SYNCED if start >= future else",
            "State.SYNCED if start >= future - 1 else",
        ),
        seed=30,
        within=200,
    ),
    _bug(
        "snapshot-forgets-watchers",
        "watchers are not told what a snapshot brought",
        (
            "mvcc.watchable_store:WatchableStore.attach",
            "self._move(watcher, State.UNSYNCED, max(watcher.min_rev, self._revision + 1))",
            "self._move(\n"
            "            watcher, State.UNSYNCED, max(watcher.min_rev, store.current_rev + 1)\n"
            "        )",
        ),
        seed=42,
        within=200,
    ),
)

LEASES = (
    _bug(
        "lease-forgotten",
        "a new leader counts only leases granted under it",
        (
            "node.apply.lease_expiry:LeaseExpiry.promote",
            "for lease in leases)",
            "for lease in ())",
        ),
        seed=0,
        within=50,
    ),
    _bug(
        "lease-ends-early",
        "a new leader gives leases no time of their own",
        (
            "node.apply.lease_expiry:LeaseExpiry.promote",
            "expiry = now + extend + left",
            "expiry = now",
        ),
        seed=0,
        within=50,
    ),
    _bug(
        "renewal-not-counted",
        "a renewal is answered, but the lease ends when it would have",
        (
            "node.apply.lease_expiry:LeaseExpiry.renew",
            "clock.expiry = clock.due = now + clock.ttl * SECOND",
            "pass",
        ),
        seed=4,
        within=50,
    ),
    _bug(
        "lease-row-stays",
        "a revoked lease's row stays in the database",
        (
            "node.apply.lessor:Lessor.revoke",
            "self._backend.delete(LEASE, id_key(number))",
            "pass",
        ),
        seed=1,
        within=50,
    ),
    _bug(
        "lease-ended-by-deposed",
        "who led goes on ending leases unasked, and who applies it does not look at the term",
        (
            "node.leases:Leases._scan",
            "self._server.linearizable(proved)",
            "proved(None)",
        ),
        (
            "node.leases:Leases.role_changed",
            "if self._term and not (leads and term == self._term):",
            "if False:",
        ),
        (
            "node.apply.applier:Applier._check_term",
            "if term != self._term:",
            "if False:",
        ),
        seed=3,
        within=50,
    ),
    _bug(
        "renewed-by-deposed",
        "a member that was paused renews leases without asking whether it still leads",
        (
            "node.leases:Leases.renew_now",
            "ttl = None if self._doubtful else self._expiry.renew(number, now)",
            "ttl = self._expiry.renew(number, now)",
        ),
        seed=125,
        within=500,
    ),
)

BUGS: dict[str, Bug] = {
    bug.name: bug for bug in (*RAFT, *READS, *APPLY, *HISTORY, *WATCHES, *LEASES)
}
