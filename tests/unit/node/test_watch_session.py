"""One watch stream: what its client says and hears, as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mvcc.kv import Event, EventType, KeyValue
from node.api import json_codec
from node.api.errors import MalformedMessage, refusal
from node.api.kv_json import encode_events
from node.api.messages import WatchRequest
from node.apply.errors import NoLeader
from tests.unit.node.watch_fixture import FakeSink, WatchBench
from tests.unit.node.wire import HEADER, b64


def request(**members: Any) -> WatchRequest:
    return json_codec.decode(json.dumps(members).encode(), WatchRequest)


def create(key: bytes = b"a", **fields: Any) -> WatchRequest:
    return request(create_request={"key": b64(key), **fields})


def test_created_then_events() -> None:
    bench = WatchBench()
    session, sink = bench.session()
    session.receive(create(b"a"))
    bench.put(b"a")
    assert sink.messages == []
    bench.turn()
    assert sink.sends == 1
    assert json.loads(sink.messages[0])["result"]["header"] == HEADER | {"revision": "1"}
    kv = {"key": "YQ==", "create_revision": "2", "mod_revision": "2", "version": "1"}
    assert sink.results() == [
        {"at": 1, "created": True},
        {"at": 2, "events": [{"kv": {**kv, "value": "dg=="}}]},
    ]
    bench.delete(b"a")
    bench.turn()
    gone = {"kv": {"key": "YQ==", "mod_revision": "3"}, "type": "DELETE"}
    assert sink.results() == [{"at": 3, "events": [gone]}]


def test_events_as_they_are_written() -> None:
    before = KeyValue(b"a", b"", 2, 3, 2, 7)
    events = [Event(EventType.DELETE, KeyValue(b"a", mod_revision=5), before)]
    assert json.loads(encode_events(events)) == [
        {
            "type": "DELETE",
            "kv": {"key": "YQ==", "mod_revision": "5"},
            "prev_kv": {
                "key": "YQ==",
                "create_revision": "2",
                "mod_revision": "3",
                "version": "2",
                "lease": "7",
            },
        }
    ]


def test_ids_are_left_out_when_zero_and_kept_when_negative() -> None:
    bench = WatchBench()
    session, sink = bench.session()
    for watch_id in (0, 5, 5):
        session.receive(create(watch_id=watch_id))
    session.receive(request(cancel_request={"watch_id": "5"}))
    session.receive(request(cancel_request={"watch_id": 99}))
    session.receive(request(progress_request={}))
    session.receive(request(unknown_request={}))
    bench.turn()
    duplicate = "mvcc: duplicate watch ID provided on the WatchStream"
    assert sink.results() == [
        {"at": 1, "created": True},
        {"at": 1, "watch_id": "5", "created": True},
        {
            "at": 1,
            "watch_id": "-1",
            "created": True,
            "canceled": True,
            "cancel_reason": duplicate,
        },
        {"at": 1, "watch_id": "5", "canceled": True},
        {"at": 1, "watch_id": "-1"},
    ]


def test_a_compacted_start() -> None:
    bench = WatchBench()
    for _ in range(4):
        bench.put(b"a")
    bench.store.compact(4)
    session, sink = bench.session()
    session.receive(create(start_revision=3))
    bench.turn()
    assert sink.results() == [
        {"at": 5, "created": True},
        {"at": 0, "canceled": True, "compact_revision": "4"},
    ]


def test_filters_and_previous_values() -> None:
    bench = WatchBench()
    session, sink = bench.session()
    session.receive(create(filters=["NOPUT"], prev_kv=True))
    session.receive(create(filters=[1, 77], watch_id=9))
    bench.put(b"a")
    bench.delete(b"a")
    bench.turn()
    heard = [
        (item.get("watch_id"), [event.get("type", "PUT") for event in item["events"]])
        for item in sink.results()
        if "events" in item
    ]
    assert heard == [("9", ["PUT"]), (None, ["DELETE"])]


@pytest.mark.parametrize(
    "body",
    [
        {"create_request": {}, "cancel_request": {}},
        {"create_request": {"filters": ["NOTHING"]}},
        {"create_request": {"filters": [None]}},
        {"create_request": []},
    ],
)
def test_requests_that_cannot_be_read(body: Any) -> None:
    with pytest.raises(MalformedMessage):
        request(**body)


def test_everybody_shares_one_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def counted(events: Any) -> bytes:
        encoded.append(len(events))
        return encode_events(events)

    monkeypatch.setattr("node.api.watch.encode_events", counted)
    bench = WatchBench()
    sessions = [bench.session() for _ in range(5)]
    for session, _ in sessions:
        session.receive(create())
        session.receive(create())
    bench.put(b"a")
    bench.turn()
    assert encoded == [1]
    heard = [sink.results()[2:] for _, sink in sessions]
    assert heard == [heard[0]] * 5
    assert [item.get("watch_id") for item in heard[0]] == [None, "1"]


def test_the_id_of_no_watcher_is_an_id_like_others() -> None:
    """What is encoded for it must not reach those who share its events."""
    bench = WatchBench()
    sessions = [bench.session() for _ in range(3)]
    for (session, _), watch_id in zip(sessions, (-1, 0, -1), strict=True):
        session.receive(create(watch_id=watch_id))
    bench.put(b"a")
    bench.turn()
    heard = [sink.results()[1] for _, sink in sessions]
    assert [item.pop("watch_id", None) for item in heard] == ["-1", None, "-1"]
    assert heard == [heard[0]] * 3
    assert heard[0]["events"][0]["kv"]["key"] == "YQ=="


def test_large_answers_are_split_for_those_who_ask() -> None:
    bench = WatchBench(max_request_bytes=2000)
    bench.put(b"a1", b"a2", b"a3", value=b"v" * 200_000)
    for fragment, sizes in ((True, [2, 1]), (False, [3])):
        session, sink = bench.session()
        session.receive(
            create(range_end=b64(b"b"), start_revision=1, fragment=fragment, watch_id=3)
        )
        bench.turn()
        _, *parts = sink.results()
        assert [len(part["events"]) for part in parts] == sizes
        assert [part.get("fragment") for part in parts] == [True, None][-len(sizes) :]
        assert {(part["at"], part["watch_id"]) for part in parts} == {(2, "3")}


def test_a_slow_client_is_left_alone_until_it_has_room() -> None:
    bench = WatchBench()
    session, sink = bench.session()
    session.receive(create())
    bench.turn()
    sink.full = True
    bench.put(b"a")
    bench.put(b"a")
    bench.turn()
    assert len(sink.results()) == 1
    sink.full = False
    session.resume()
    session.resume()
    bench.turn()
    assert [item["at"] for item in sink.results()] == [2, 3]


def test_closing_frees_everything_once() -> None:
    bench = WatchBench()
    session, sink = bench.session()
    session.receive(create())
    bench.put(b"a")
    session.close()
    session.close()
    bench.turn()
    assert sink.messages == []
    assert bench.watches.store.status()[:3] == (0, 0, 0)


def denied(reason: str) -> dict[str, Any]:
    return {
        "at": 1,
        "watch_id": "-1",
        "created": True,
        "canceled": True,
        "cancel_reason": f"rpc error: code = {reason}",
    }


NO_PERMISSION = "PermissionDenied desc = etcdserver: permission denied"
NO_TOKEN = "InvalidArgument desc = etcdserver: user name is empty"


def test_who_may_watch() -> None:
    bench = WatchBench()
    bench.auth.enabled = True
    bench.auth.may["ann"] = {b"a"}
    session, sink = bench.session("ann")
    session.receive(create(b"a"))
    session.receive(create(b"z"))
    bench.turn()
    # In the order they were asked.
    assert sink.results() == [{"at": 1, "created": True}, denied(NO_PERMISSION)]
    session, sink = bench.session()
    session.receive(create(b"a"))
    assert sink.results() == [denied(NO_TOKEN)]


def test_who_may_not_watch_any_more() -> None:
    """What was queued when the permission went is not sent."""
    bench = WatchBench()
    bench.auth.enabled = True
    bench.auth.may["ann"] = {b"a", b"b"}
    session, sink = bench.session("ann")
    session.receive(create(b"a"))
    session.receive(create(b"b"))
    bench.turn()
    sink.results()
    bench.put(b"a", b"b")
    bench.auth.may["ann"] = {b"b"}
    bench.auth.store.revision = 2
    bench.watches.sweep()
    bench.turn()
    reason = f"rpc error: code = {NO_PERMISSION}"
    heard = sink.results()
    assert [(item.get("watch_id"), len(item.get("events", []))) for item in heard] == [
        ("1", 1),
        (None, 0),
    ]
    assert heard[1] == {"at": 2, "canceled": True, "cancel_reason": reason}
    bench.put(b"a", b"b")
    bench.turn()
    assert [item.get("watch_id") for item in sink.results()] == ["1"]


def test_turning_authentication_on_ends_watches_without_a_user() -> None:
    bench = WatchBench()
    session, sink = bench.session()
    session.receive(create())
    bench.turn()
    sink.results()
    bench.auth.enabled = True
    bench.watches.sweep()
    bench.turn()
    reason = f"rpc error: code = {NO_TOKEN}"
    assert sink.results() == [{"at": 1, "canceled": True, "cancel_reason": reason}]
    assert bench.watches.store.status().watchers == 0


def test_a_watch_ends_with_the_password_that_let_its_user_in() -> None:
    bench = WatchBench()
    bench.auth.enabled = True
    bench.auth.may["ann"] = {b"a"}
    session, sink = bench.session("ann")
    session.receive(create(b"a"))
    bench.auth.store.revision = 2
    bench.put(b"a")
    bench.turn()
    assert "events" in sink.results()[-1]
    bench.auth.store.revision = bench.auth.logins_from = 3
    bench.put(b"a")
    bench.turn()
    (ended,) = sink.results()
    assert ended["canceled"]
    assert "Unauthenticated" in ended["cancel_reason"]
    session.receive(create(b"a"))
    bench.put(b"a")
    bench.turn()
    assert "events" in sink.results()[-1]


def test_a_new_watcher_under_a_revoked_id_is_heard() -> None:
    bench = WatchBench()
    bench.auth.enabled = True
    bench.auth.may["ann"] = {b"a"}
    session, sink = bench.session("ann", FakeSink())
    session.receive(create(b"a", watch_id=4))
    bench.auth.may.clear()
    bench.auth.store.revision = 2
    bench.turn()
    bench.auth.may["ann"] = {b"a"}
    session.receive(create(b"a", watch_id=4))
    bench.put(b"a")
    bench.turn()
    assert [sorted(item) for item in sink.results()] == [
        ["at", "created", "watch_id"],
        ["at", "cancel_reason", "canceled", "watch_id"],
        ["at", "created", "watch_id"],
        ["at", "events", "watch_id"],
    ]


@pytest.mark.parametrize("watch_id", [4, -1])
def test_a_watcher_under_the_id_of_one_that_ended_is_judged_like_others(watch_id: int) -> None:
    """All three requests are heard before the first answer is written."""
    bench = WatchBench()
    bench.auth.enabled = True
    bench.auth.may["ann"] = {b"a", b"b"}
    session, sink = bench.session("ann")
    session.receive(create(b"b", watch_id=watch_id))
    session.receive(request(cancel_request={"watch_id": watch_id}))
    session.receive(create(b"a", watch_id=watch_id))
    bench.turn()
    sink.results()
    bench.auth.may["ann"] = {b"b"}
    bench.auth.store.revision = 2
    bench.put(b"a")
    bench.turn()
    (ended,) = sink.results()
    assert ended["canceled"]
    assert NO_PERMISSION in ended["cancel_reason"]


def test_who_needs_a_leader_is_told_when_it_is_lost() -> None:
    """A short election is no loss; then the stream ends in the words of a unary call."""
    bench = WatchBench()
    (needy, its_sink), (other, other_sink) = bench.session(needs_leader=True), bench.session()
    for session in (needy, other):
        session.receive(create())
    bench.server.leader = 0
    bench.watches.sweep()
    bench.turn()
    assert its_sink.finished == []
    bench.server.leaderless = True
    bench.watches.sweep()
    bench.turn()
    assert its_sink.finished == [refusal(NoLeader())]
    assert other_sink.finished == []
    with pytest.raises(NoLeader):
        bench.session(needs_leader=True)
    bench.session()
