"""A cluster of cores for traces: a network that delivers when told, disks that write when told.

Each line that a command prints is a fact: what a core noted, what a Ready held, what was delivered.
Entries are printed as term/index and data, a conf change by its parts: v4 voter, l4 learner, r4
remove. The word `quiet` runs a command without printing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from raft.core.conf_change import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Transition,
    decode_conf_change,
    encode_conf_change,
)
from raft.core.config import Config
from raft.core.errors import ConfChangeRefused, RaftError
from raft.core.message import Message, MessageType
from raft.core.raw_node import AppendMark, RawNode, Ready
from raft.core.storage import MemoryStorage
from raft.core.types import ConfState, Entry, EntryType, HardState, Role, Snapshot
from tests.traces.datadriven import Command

CHANGE_LETTERS = {
    "v": ConfChangeType.ADD_VOTER,
    "l": ConfChangeType.ADD_LEARNER,
    "r": ConfChangeType.REMOVE,
}
TRANSITIONS = {
    "auto": Transition.AUTO,
    "implicit": Transition.JOINT_IMPLICIT,
    "explicit": Transition.JOINT_EXPLICIT,
}


class Write:
    """One Ready on its way to the disk."""

    def __init__(self, ready: Ready) -> None:
        self.mark: AppendMark = ready.mark
        self.messages: list[Message] = ready.messages_after_append
        self.empty = not (
            ready.entries or ready.hard_state or ready.snapshot or ready.messages_after_append
        )


class Node:
    """A core, its log, and what was not done yet for it."""

    def __init__(self, config: Config, storage: MemoryStorage, note: list[str]) -> None:
        self.config = config
        self.storage = storage
        self.core = RawNode(config, storage, note.append)
        self.writes: deque[Write] = deque()
        self.to_apply: deque[Entry | Snapshot] = deque()
        self.conf_state = storage.initial_state()[1]
        self.applied = config.applied


class RaftEnv:
    """Runs the commands of one trace file."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.network: deque[Message] = deque()
        self.out: list[str] = []
        self.history: dict[int, str] = {}
        self.verbose = False

    def run(self, command: Command) -> list[str]:
        self.out.clear()
        method = getattr(self, "do_" + command.name.replace("-", "_"))
        try:
            method(command)
        except RaftError as error:
            self.out.append(f"{type(error).__name__}: {error}")
        for node in self.nodes.values():
            node.core.check_invariants()
        lines = list(self.out)
        self.out.clear()
        return [] if "quiet" in command.words else lines

    # --- the cluster

    def do_nodes(self, command: Command) -> None:
        """nodes 3 [learners=4,5] [first=1] [log=10] [message=BYTES] [inflight=N] ...

        Voters are 1..N; log=10 begins with a snapshot of index 10, term 1; jitter=2 adds 2 ticks.
        """
        voters = tuple(range(1, command.integer(0) + 1))
        learners = self._ids(command.options.get("learners", ""))
        conf_state = ConfState(voters=voters, learners=learners)
        for member in (*voters, *learners):
            self._add(member, command, conf_state)
        self.out.clear()

    def do_join(self, command: Command) -> None:
        """join 4: a member that knows nothing, as one that a conf change is about to add."""
        self._add(command.integer(0), command, ConfState())
        self.out.clear()

    def _add(self, member: int, command: Command, conf_state: ConfState) -> None:
        storage = MemoryStorage()
        index = command.option("log", 0) if conf_state.voters else 0
        storage.apply_snapshot(Snapshot(index, 1 if index else 0, conf_state))
        if index:
            storage.set_hard_state(HardState(1, 0, index))
        jitter = command.option("jitter", 0)
        config = Config(
            id=member,
            jitter=lambda ticks: min(jitter, ticks - 1),
            election_ticks=command.option("election", 3),
            max_message_bytes=command.option("message", 1 << 20),
            max_inflight=command.option("inflight", 512),
            max_inflight_bytes=command.option("inflight-bytes", 0),
            max_apply_bytes=command.option("apply", 1 << 20),
            max_uncommitted_bytes=command.option("uncommitted", 1 << 20),
            step_down_on_removal=command.option("step-down", 1) == 1,
            applied=index,
        )
        self.nodes[member] = Node(config, storage, self.out)

    def do_restart(self, command: Command) -> None:
        """restart 1: keeps what was written; what was only taken, applied or sent is lost."""
        member = command.integer(0)
        old = self.nodes[member]
        assert not old.writes, "a trace writes everything before a restart"
        # The state machine of a trace is as durable as its newest snapshot.
        snapshot = old.storage._snapshot
        config = replace(old.config, applied=snapshot.index)
        self.out.clear()
        self.nodes[member] = Node(config, old.storage, self.out)

    # --- inputs

    def do_campaign(self, command: Command) -> None:
        self._core(command).campaign()

    def do_tick(self, command: Command) -> None:
        """tick 1 [times]"""
        times = command.integer(1) if len(command.words) > 1 else 1
        for _ in range(times):
            self._core(command).tick()

    def do_propose(self, command: Command) -> None:
        """propose 1 a b c [repeat=N]: one batch; repeat makes each datum N times as long."""
        repeat = command.option("repeat", 1)
        self._core(command).propose([word.encode() * repeat for word in command.words[1:]])

    def do_propose_conf(self, command: Command) -> None:
        """propose-conf 1 v4 l5 r2 [way=auto|implicit|explicit]; without parts: leave joint"""
        parts = command.words[1:]
        change = ConfChange(
            [ConfChangeSingle(CHANGE_LETTERS[part[0]], int(part[1:])) for part in parts],
            TRANSITIONS[command.options.get("way", "auto")],
        )
        self._core(command).propose_conf_change(encode_conf_change(change))

    def do_read(self, command: Command) -> None:
        """read 1 token"""
        self._core(command).read_index(command.integer(1))

    def do_transfer(self, command: Command) -> None:
        """transfer 1 2: asks 1 to hand over to 2"""
        self._core(command).transfer_leader(command.integer(1))

    def do_forget_leader(self, command: Command) -> None:
        self._core(command).forget_leader()

    def do_leader_gone(self, command: Command) -> None:
        """leader-gone 2 1: 2 hears that the process of 1 has ended"""
        self._core(command).leader_gone(command.integer(1))

    def do_unreachable(self, command: Command) -> None:
        """unreachable 1 2: 1 hears that messages to 2 were lost"""
        self._core(command).report_unreachable(command.integer(1))

    def do_snapshot_sent(self, command: Command) -> None:
        """snapshot-sent 1 2 ok|failed"""
        self._core(command).report_snapshot(command.integer(1), command.words[2] == "ok")

    def do_compact(self, command: Command) -> None:
        """compact 1 5: names the applied state a snapshot, drops the log up to 5"""
        node = self._node(command)
        node.storage.create_snapshot(node.applied, node.conf_state)
        node.storage.compact(command.integer(1))

    # --- outputs

    def do_take(self, command: Command) -> None:
        """take 1: the next Ready, with its messages; its write and its entries to apply wait."""
        self.verbose = True
        self._take(command.integer(0))
        self.verbose = False

    def do_write(self, command: Command) -> None:
        """write 1 [count]: the oldest writes reach the disk."""
        count = command.integer(1) if len(command.words) > 1 else 1
        self.verbose = True
        for _ in range(count):
            self._write(command.integer(0))
        self.verbose = False

    def do_apply(self, command: Command) -> None:
        """apply 1: all entries handed out so far"""
        self._apply(command.integer(0))

    def do_ready(self, command: Command) -> None:
        """ready 1: take, write and apply until the core has nothing more."""
        for word in command.words:
            if word != "quiet":
                self._ready(int(word))

    def do_deliver(self, command: Command) -> None:
        """deliver 1 2 [from=3]: what waits in the network for these members, in order"""
        targets = [int(word) for word in command.words if word != "quiet"]
        sender = command.option("from", 0)
        for message in self._take_due(targets, [sender] if sender else list(self.nodes)):
            self._step(message)

    def do_drop(self, command: Command) -> None:
        """drop 1 2 [from=3]: what waits in the network for these members is lost"""
        targets = [int(word) for word in command.words if word != "quiet"]
        sender = command.option("from", 0)
        for message in self._take_due(targets, [sender] if sender else list(self.nodes)):
            self.out.append("lost " + describe_message(message))

    def do_stabilize(self, command: Command) -> None:
        """stabilize [1 2]: these members (or all) talk among themselves until nothing is left."""
        members = [int(word) for word in command.words if word != "quiet"] or list(self.nodes)
        while True:
            before = len(self.out)
            for member in members:
                self._ready(member)
            for message in self._take_due(members, members):
                self._step(message)
            if len(self.out) == before:
                return

    def do_network(self, command: Command) -> None:
        """network: what waits there"""
        self.out += [describe_message(message) for message in self.network]

    def do_status(self, command: Command) -> None:
        """status 1 2: who they are, and how a leader sees its peers"""
        for word in command.words:
            status = self.nodes[int(word)].core.status()
            line = f"{status.id}: {status.role.name.lower()} of term {status.term}"
            if status.role == Role.FOLLOWER:
                line += f", leader {status.leader}"
            line += f", commit {status.commit}, applied {status.applied}, last {status.last_index}"
            if status.lead_transferee:
                line += f", hands over to {status.lead_transferee}"
            self.out.append(line + f", {describe_conf(status.conf_state)}")
            for peer, progress in status.progress.items():
                if peer != status.id:
                    self.out.append(
                        f"  {peer}: {progress.state.name.lower()}"
                        f" match {progress.match} next {progress.next}"
                        + (f" inflight {progress.inflight}" if progress.inflight else "")
                        + (" paused" if progress.paused else "")
                        + ("" if progress.recent_active else " inactive")
                        + (" learner" if progress.learner else "")
                    )

    def do_log(self, command: Command) -> None:
        """log 1: the entries that its storage holds"""
        storage = self._node(command).storage
        first, last = storage.first_index(), storage.last_index()
        entries = storage.entries(first, last + 1, 1 << 30) if last >= first else []
        self.out.append(f"log {first}..{last}: {describe_entries(entries)}")

    def do_durable(self, command: Command) -> None:
        """durable 1: how far the core knows its log to be on disk"""
        log = self._core(command).raft.log
        self.out.append(f"durable up to {log.stable_index()} of {log.last_index()}")

    # --- doing

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(int(word) for word in text.split(",") if word)

    def _node(self, command: Command) -> Node:
        return self.nodes[command.integer(0)]

    def _core(self, command: Command) -> RawNode:
        return self._node(command).core

    def _ready(self, member: int) -> None:
        node = self.nodes[member]
        while node.core.has_ready() or node.writes or node.to_apply:
            if node.core.has_ready():
                self._take(member)
            while node.writes:
                self._write(member)
            if node.to_apply:
                self._apply(member)

    def _take(self, member: int) -> None:
        node = self.nodes[member]
        ready = node.core.ready()
        self.out += [f"{member} {line}" for line in describe_ready(ready)]
        if self.verbose:
            self.out += [f"{member} sends {describe_message(m)}" for m in ready.messages]
        if ready.snapshot is not None:
            assert not ready.committed, "a snapshot is applied before anything after it"
            node.storage.apply_snapshot(ready.snapshot)
            node.to_apply.append(ready.snapshot)
        node.storage.append(ready.entries)
        if ready.hard_state is not None:
            node.storage.set_hard_state(ready.hard_state)
        self.network += ready.messages
        node.writes.append(Write(ready))
        node.to_apply += ready.committed

    def _write(self, member: int) -> None:
        node = self.nodes[member]
        write = node.writes.popleft()
        if not write.empty:
            self.out.append(f"{member} wrote up to {write.mark.log_term}/{write.mark.index}")
        if self.verbose:
            self.out += [f"{member} sends {describe_message(m)}" for m in write.messages]
        self.network += write.messages
        node.core.appended(write.mark)

    def _apply(self, member: int) -> None:
        node = self.nodes[member]
        while node.to_apply:
            entry = node.to_apply.popleft()
            if isinstance(entry, Snapshot):
                node.applied, node.conf_state = entry.index, entry.conf_state
                node.core.applied(node.applied)
                continue
            assert entry.index == node.applied + 1, f"{entry.index} after {node.applied}"
            seen = self.history.setdefault(entry.index, describe_entry(entry))
            assert seen == describe_entry(entry), f"{member} applies {entry}, another {seen}"
            if entry.type == EntryType.CONF_CHANGE:
                try:
                    node.conf_state = node.core.apply_conf_change(decode_conf_change(entry.data))
                    self.out.append(f"{member} is in {describe_conf(node.conf_state)}")
                except ConfChangeRefused as error:
                    self.out.append(f"{member} refused {entry.index}: {error}")
            node.applied = entry.index
        node.core.applied(node.applied)

    def _take_due(self, targets: list[int], senders: list[int]) -> list[Message]:
        due, kept = [], []
        for message in self.network:
            inside = message.to in targets and message.sender in senders
            (due if inside else kept).append(message)
        self.network = deque(kept)
        return due

    def _step(self, message: Message) -> None:
        self.out.append(describe_message(message))
        try:
            self.nodes[message.to].core.step(message)
        except RaftError as error:
            self.out.append(f"{message.to} {type(error).__name__}: {error}")


# --- words


def describe_ready(ready: Ready) -> list[str]:
    lines = []
    if ready.soft_state is not None:
        soft = ready.soft_state
        lines.append(f"is {soft.role.name.lower()}, leader {soft.leader or '-'}")
    if ready.hard_state is not None:
        hard = ready.hard_state
        lines.append(f"saves term {hard.term} vote {hard.vote or '-'} commit {hard.commit}")
    if ready.snapshot is not None:
        snapshot = ready.snapshot
        conf = describe_conf(snapshot.conf_state)
        lines.append(f"restores {snapshot.term}/{snapshot.index} {conf}")
    if ready.entries:
        lines.append(f"appends {describe_entries(ready.entries)}")
    if ready.committed:
        lines.append(f"commits {describe_entries(ready.committed)}")
    lines += [f"may read at {read.index} for {read.token}" for read in ready.read_states]
    return lines


def describe_conf(conf: ConfState) -> str:
    text = "(" + " ".join(map(str, conf.voters)) + ")"
    if conf.voters_outgoing:
        text += "&(" + " ".join(map(str, conf.voters_outgoing)) + ")"
    if conf.learners:
        text += " learners (" + " ".join(map(str, conf.learners)) + ")"
    if conf.learners_next:
        text += " next learners (" + " ".join(map(str, conf.learners_next)) + ")"
    return text + (" auto" if conf.auto_leave else "")


def describe_entry(entry: Entry) -> str:
    where = f"{entry.term}/{entry.index}"
    if entry.type == EntryType.CONF_CHANGE:
        change = decode_conf_change(entry.data)
        letters = {kind: letter for letter, kind in CHANGE_LETTERS.items()}
        parts = [f"{letters[single.type]}{single.member}" for single in change.changes]
        return f"{where} {'+'.join(parts) or 'leave'}"
    data = entry.data.decode()
    return f"{where} {data if len(data) <= 12 else f'{data[0]}*{len(data)}'}".rstrip()


def describe_entries(entries: list[Entry]) -> str:
    return "[" + ", ".join(map(describe_entry, entries)) + "]"


def describe_message(message: Message) -> str:
    kind = MessageType(message.type)
    text = f"{message.sender}>{message.to} {kind.name}"
    if message.term:
        text += f" term {message.term}"
    if kind == MessageType.APPEND:
        text += f" after {message.log_term}/{message.index} commit {message.commit}"
        text += f" {describe_entries(message.entries)}"
    elif kind == MessageType.APPEND_RESPONSE:
        text += f" index {message.index}"
        if message.reject:
            text += f" rejected, hint {message.log_term}/{message.reject_hint}"
    elif kind in (MessageType.VOTE, MessageType.PRE_VOTE):
        text += f" last {message.log_term}/{message.index}"
        text += " forced" if message.context else ""
    elif kind in (MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE):
        text += " rejected" if message.reject else " granted"
    elif kind in (MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESPONSE):
        text += f" commit {message.commit}" if kind == MessageType.HEARTBEAT else ""
        text += f" read {message.context}" if message.context else ""
    elif kind == MessageType.SNAPSHOT and message.snapshot is not None:
        text += f" {message.snapshot.term}/{message.snapshot.index}"
    elif kind == MessageType.PROPOSE:
        text += f" {describe_entries(message.entries)}"
    elif kind in (MessageType.READ_INDEX, MessageType.READ_INDEX_RESPONSE):
        text += f" token {message.context}"
        text += f" index {message.index}" if kind == MessageType.READ_INDEX_RESPONSE else ""
    elif kind == MessageType.TRANSFER_LEADER:
        text += f" target {message.context}"
    return text
