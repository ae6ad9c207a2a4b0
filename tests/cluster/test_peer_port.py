"""The peer port believes nobody, and no message makes a member fail: not now, not at a restart."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.cluster.harness import Cluster, Member, wait_until
from tests.cluster.peer import (
    GRANT,
    HELLO_BYTES,
    PUT,
    TXN,
    ConfChangeType,
    Entry,
    EntryType,
    FrameType,
    Impostor,
    MessageType,
    StreamKind,
    Verdict,
    conf_change,
    connect,
    hello,
    pack_frame,
    request,
    silent,
    snapshot_message,
)

pytestmark = pytest.mark.slow

NewCluster = Callable[..., Cluster]

UINT64_MAX = (1 << 64) - 1


def cluster_id(member: Member) -> int:
    return int(member.client.status()["header"]["cluster_id"])


def check_unharmed(cluster: Cluster, members: list[Member]) -> None:
    """These members run, agree, and take writes."""
    assert [member.name for member in members if not member.running] == []
    for number, member in enumerate(members):
        member.wait_healthy()
        member.client.put(b"unharmed/%d" % number, member.name.encode())
    cluster.wait_same_history()


# Strangers


def test_strangers_are_refused(cluster: Cluster) -> None:
    first, second, third = cluster
    ids = {"cluster": cluster_id(first), "sender": second.id, "receiver": first.id}
    greeting = hello(**ids)
    silenced = [
        os.urandom(4096),
        b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100),
        b"ESKX" + greeting[4:],
    ]
    for data in silenced:
        with connect(first.peer_url) as connection:
            connection.sendall(data)
            assert silent(connection) == b"", data[:20]
    refused = {
        Verdict.WRONG_CLUSTER: hello(**{**ids, "cluster": 7}),
        Verdict.WRONG_MEMBER: hello(**{**ids, "receiver": third.id}),
        Verdict.UNKNOWN_SENDER: hello(**{**ids, "sender": 7}),
        Verdict.WRONG_VERSION: greeting[:4] + b"\x00\x09" + greeting[6:],
        Verdict.WRONG_KIND: greeting[:6] + b"\x77" + greeting[7:],
    }
    for verdict, data in refused.items():
        with connect(first.peer_url) as connection:
            # Whatever follows a refused hello is not looked at.
            connection.sendall(data + pack_frame(FrameType.MESSAGE, b"\xff" * 64))
            answer = silent(connection)
            assert answer[6] == verdict, (verdict.name, answer)
            assert struct.unpack(">Q", answer[8:16]) == (ids["cluster"],)
    check_unharmed(cluster, list(cluster))


def test_half_handshakes_are_ended(cluster: Cluster) -> None:
    first = cluster[0]
    greeting = hello(cluster=cluster_id(first), sender=cluster[1].id, receiver=first.id)
    waiting = [connect(first.peer_url) for _ in range(100)]
    for size, connection in enumerate(waiting):
        connection.sendall(greeting[: size % HELLO_BYTES])
    for connection in waiting:
        silent(connection)
        connection.close()
    check_unharmed(cluster, list(cluster))


def test_a_member_of_another_cluster(new_cluster: NewCluster) -> None:
    """Two clusters that take each other's member for one of their own."""
    one, two = new_cluster(3), new_cluster(3)
    for ours, theirs in ((one, two), (two, one)):
        urls = [(m.name, m.peer_url) for m in ours.members[:2]] + [("n3", theirs[0].peer_url)]
        for member in ours:
            member.flags["initial-cluster"] = ",".join(f"{name}={url}" for name, url in urls)
        ours.members.pop()
    for member in (*one, *two):
        member.start()
    for cluster in (one, two):
        cluster.wait_healthy()
        cluster[0].client.put(b"key", cluster[0].peer_url.encode())
    names = {f"{cluster_id(cluster[0]):x}" for cluster in (one, two)}
    assert len(names) == 2
    for cluster in (one, two):
        logs = "\n".join(member.log() for member in cluster)
        wait_until("both ids are named", lambda c=cluster: all(name in _logs(c) for name in names))
        assert "belongs to cluster" in _logs(cluster), logs
        value = cluster[1].client.get(b"key")
        assert value is not None and value.value == cluster[0].peer_url.encode()


def _logs(cluster: Cluster) -> str:
    return "\n".join(line for m in cluster for line in m.log().splitlines() if "peer" in line)


# Impostors


@pytest.fixture
def stage(new_cluster: NewCluster) -> Iterator[tuple[Cluster, Callable[[Member], Impostor]]]:
    """Two members of three run; `play(member)` is a stream to one of them in the name of the
    third.
    """
    cluster = new_cluster().start()
    actor = cluster.followers()[0]
    ids = {"cluster": cluster_id(actor), "sender": actor.id}
    receivers = {member.name: member.id for member in cluster}
    actor.kill()
    open_ones: list[Impostor] = []

    def play(member: Member) -> Impostor:
        impostor = Impostor(member.peer_url, receiver=receivers[member.name], **ids)
        assert impostor.answer.verdict == Verdict.ACCEPTED
        open_ones.append(impostor)
        return impostor

    yield cluster, play
    for impostor in open_ones:
        impostor.connection.close()


def restart_all(cluster: Cluster) -> None:
    for member in cluster:
        if member.running:
            member.kill()
    cluster.start()
    check_unharmed(cluster, list(cluster))


def nested_txn(depth: int) -> bytes:
    """A txn in the success branch of a txn in the ..."""
    inner = b"\x81\xa7success\x91\x81\xabrequest_txn" * depth + b"\x80"
    return request(TXN, 1, {})[:-1] + inner


def bad_entries() -> dict[str, list[Entry]]:
    """Proposals that apply could not execute, or the members not carry."""
    puts = [{"request_put": {"key": b"%d" % number}} for number in range(300)]
    data = {
        "garbage": os.urandom(64),
        "too short": b"\x01",
        "an unknown kind": request(99, 1, {}),
        "no map": request(PUT, 1, 17),
        "cut off": request(PUT, 1, {"key": b"k", "value": b"v" * 99})[:-9],
        "a key that is a number": request(PUT, 1, {"key": 5}),
        "no key": request(PUT, 1, {"value": b"v"}),
        "a lease beyond 64 bits": request(PUT, 1, {"key": b"k", "lease": UINT64_MAX}),
        "a TTL beyond all": request(GRANT, 1, {"TTL": (1 << 63) - 1, "ID": 1}),
        "a txn op without a request": request(TXN, 1, {"success": [{}]}),
        "a txn that puts twice": request(TXN, 1, {"success": [*puts, puts[0]]}),
        "a txn nested 200 times": nested_txn(200),
        "a txn nested 50,000 times": nested_txn(50_000),
        "15.9 MiB": request(PUT, 1, {"key": b"k", "value": bytes(16_700_000)}),
    }
    entries = {name: [Entry(0, 0, EntryType.NORMAL, each)] for name, each in data.items()}
    change = msgspec.msgpack.encode({"request_id": 1, "kind": 9, "member": {}})
    entries["an unknown entry type"] = [Entry(0, 0, 7, b"x")]
    entries["no change"] = [Entry(0, 0, EntryType.CONF_CHANGE, b"\xff\xff\xff")]
    for name, context in (("garbage", os.urandom(32)), ("of no kind", change)):
        changes = (ConfChangeType.ADD_LEARNER, 99)
        entries[f"a change with context {name}"] = [conf_change(changes, context=context)]
    entries["a change without a context"] = [conf_change((ConfChangeType.ADD_LEARNER, 99))]
    return entries


def test_bad_proposals_never_enter_the_log(
    stage: tuple[Cluster, Callable[[Member], Impostor]],
) -> None:
    cluster, play = stage
    survivors = cluster.running()
    leader = cluster.wait_leader()
    survivors[0].client.put(b"before", b"x")
    index = int(leader.client.status()["raftIndex"])
    before = leader.client.hash_kv()
    for member in survivors:
        impostor = play(member)
        for entries in bad_entries().values():
            impostor.propose(entries)
        impostor.settle()
    assert {member.client.hash_kv() for member in survivors} == {before}
    assert int(leader.client.status()["raftIndex"]) == index, "something entered the log"
    assert cluster.wait_leader() is leader
    check_unharmed(cluster, survivors)
    refused = "\n".join(member.log() for member in survivors)
    assert "refused a message of member" in refused
    restart_all(cluster)


def test_good_proposals_beside_bad_ones(
    stage: tuple[Cluster, Callable[[Member], Impostor]],
) -> None:
    """The stream of a member lives on after a refused proposal of its."""
    cluster, play = stage
    leader = cluster.wait_leader()
    impostor = play(leader)
    impostor.propose_data(b"\xff" * 20)
    impostor.propose_data(request(PUT, 1 << 60, {"key": b"forwarded", "value": b"v"}))
    impostor.settle()
    wait_until("the good one is there", lambda: leader.client.get(b"forwarded") is not None)
    check_unharmed(cluster, cluster.running())


def test_frames_that_break_the_rules(
    stage: tuple[Cluster, Callable[[Member], Impostor]],
) -> None:
    cluster, play = stage
    member = cluster.running()[0]
    with play(member) as impostor:
        foreign = {"sender": impostor.receiver}, {"sender": 7}, {"to": 7}, {"sender": 0}
    for fields in foreign:
        with play(member) as impostor:
            impostor.send(MessageType.HEARTBEAT, term=99, **fields)
            silent(impostor.connection)
    raw = [
        pack_frame(FrameType.MESSAGE, os.urandom(200)),
        pack_frame(FrameType.MESSAGE, b""),
        pack_frame(FrameType.PONG, b"12345678"),
        pack_frame(99, b"x"),
        pack_frame(FrameType.CALL, b"x"),
        struct.pack(">IB", 0, FrameType.MESSAGE),
        struct.pack(">IB", (1 << 32) - 1, FrameType.MESSAGE),
        pack_frame(FrameType.MESSAGE, msgspec.msgpack.encode([1, 2, 3, -4])),
        pack_frame(FrameType.MESSAGE, msgspec.msgpack.encode([77, *[1] * 11])),
    ]
    for data in raw:
        with play(member) as impostor:
            impostor.connection.sendall(data)
            silent(impostor.connection)
    assert "broke the protocol" in member.log()
    check_unharmed(cluster, cluster.running())


def test_questions_that_are_none(stage: tuple[Cluster, Callable[[Member], Impostor]]) -> None:
    """Each is refused by itself, whatever is wrong with it, and the member lives on."""
    cluster, play = stage
    bodies = [
        b"",
        b"\x80",
        b"\xff" * 30,
        os.urandom(100),
        b"\x82\xa4kind\x00\xa8peerURLs\x91\xa2\xff\xfe",
        b"\x82\xa4kind\x01\xa2ID\xff",
        b"\x81\xa8revision\xcf" + b"\xff" * 8,
        b"\x81\xa3IDs\xdd\xff\xff\xff\xff",
        b"\x81\xa1x" + b"\x91" * 50_000 + b"\x90",
    ]
    for member in cluster.running():
        for kind in (*range(6), 0xFFFF):
            for body in bodies:
                with play(member) as impostor:
                    call = struct.pack(">IH", 1, kind) + body
                    impostor.connection.sendall(pack_frame(FrameType.CALL, call))
                    head = impostor.connection.recv(5)
                    assert head[4] == FrameType.REPLY, (kind, body[:40])
    deep = msgspec.msgpack.encode([2, *[0] * 5, [], 0, None, False, 0, 0, False])[1:]
    for member in cluster.running():
        with play(member) as impostor:
            later_field = b"\x91" * 50_000 + b"\x90"
            frame = pack_frame(FrameType.MESSAGE, b"\xdc\x00\x0e" + deep + later_field)
            impostor.connection.sendall(frame)
            silent(impostor.connection)
    said = "".join(member.log() for member in cluster.running())
    assert "Traceback" not in said and "Fatal error" not in said
    check_unharmed(cluster, cluster.running())


def test_terms_that_leave_no_room(stage: tuple[Cluster, Callable[[Member], Impostor]]) -> None:
    """A term counts up; one from the end of all numbers would be the cluster's last."""
    cluster, play = stage
    kinds = (MessageType.VOTE, MessageType.PRE_VOTE_RESPONSE, MessageType.HEARTBEAT_RESPONSE)
    for member in cluster.running():
        impostor = play(member)
        for term in (UINT64_MAX, 1 << 63, 1 << 60):
            for kind in kinds:
                impostor.send(kind, term=term, context=1, reject=True)
        impostor.settle()
    check_unharmed(cluster, cluster.running())
    assert max(int(member.client.status()["raftTerm"]) for member in cluster.running()) < 1000
    restart_all(cluster)


def test_entries_of_a_false_leader(stage: tuple[Cluster, Callable[[Member], Impostor]]) -> None:
    """Who pretends to lead can write to the log, but nothing that ends the members."""
    cluster, play = stage
    leader = cluster.wait_leader()
    follower = next(member for member in cluster.running() if member is not leader)
    status = follower.client.status()
    index, term = int(status["raftIndex"]), int(status["raftTerm"])
    impostor = play(follower)
    for entries in bad_entries().values():
        forged = [Entry(term + 1, index + 1, each.type, each.data) for each in entries]
        impostor.send(
            MessageType.APPEND,
            term=term + 1,
            index=index,
            log_term=term,
            entries=forged,
            commit=index + 1,
        )
    impostor.settle()
    check_unharmed(cluster, cluster.running())
    restart_all(cluster)


def test_a_removed_member_is_told(cluster: Cluster) -> None:
    leader = cluster.wait_leader()
    gone = cluster.followers()[0]
    ids = {"cluster": cluster_id(gone), "sender": gone.id, "receiver": leader.id}
    wait_until("peers are trusted", lambda: _removed(leader, ids["sender"]), 20)
    assert gone.wait_exit() in (0, 1)
    with connect(leader.peer_url) as connection:
        connection.sendall(hello(**ids))
        assert silent(connection)[6] == Verdict.REMOVED_SENDER
    check_unharmed(cluster, cluster.running())


def _removed(member: Member, number: int) -> bool:
    member.client.call("cluster/member/remove", {"ID": str(number)})
    return True


def snapshot_stream(message: bytes, state: bytes) -> bytes:
    """A whole stream of `state`, with the right checksum."""
    return (
        pack_frame(FrameType.SNAPSHOT_HEADER, struct.pack(">Q", len(state)) + message)
        + pack_frame(FrameType.SNAPSHOT_CHUNK, state)
        + pack_frame(FrameType.SNAPSHOT_END, hashlib.sha256(state).digest())
    )


def test_forged_snapshots_are_not_installed(
    stage: tuple[Cluster, Callable[[Member], Impostor]],
) -> None:
    """Raft would begin its log behind it, and no start could find the state to go with it."""
    cluster, play = stage
    leader = cluster.wait_leader()
    follower = next(member for member in cluster.running() if member is not leader)
    status = follower.client.status()
    index, term = int(status["raftIndex"]) + 1000, int(status["raftTerm"]) + 1
    with play(follower) as impostor:
        ids = {"sender": impostor.sender, "receiver": impostor.receiver}
        cluster_number = impostor.answer.cluster
    message = snapshot_message(term=term, index=index, voters=(ids["sender"],), **ids)
    for state in (b"", os.urandom(60_000), bytes(60_000)):
        with connect(follower.peer_url) as connection:
            greeting = hello(cluster=cluster_number, kind=StreamKind.SNAPSHOT, **ids)
            connection.sendall(greeting + snapshot_stream(message, state))
            assert b"damaged snapshot" in silent(connection)
    check_unharmed(cluster, cluster.running())
    restart_all(cluster)


def test_snapshot_streams_of_nobody(stage: tuple[Cluster, Callable[[Member], Impostor]]) -> None:
    cluster, play = stage
    member = cluster.running()[0]
    with play(member) as impostor:
        greeting = hello(
            cluster=impostor.answer.cluster,
            sender=impostor.sender,
            receiver=impostor.receiver,
            kind=StreamKind.SNAPSHOT,
        )
    for data in (b"", os.urandom(500), pack_frame(FrameType.SNAPSHOT_HEADER, bytes(40))):
        with connect(member.peer_url) as connection:
            connection.sendall(greeting + data)
            connection.shutdown(1)
            silent(connection)
    check_unharmed(cluster, cluster.running())
