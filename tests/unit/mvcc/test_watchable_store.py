"""Watches over a store. Where etcd once had a bug, the test names its number."""

from __future__ import annotations

import gc
import weakref

import pytest

from mvcc.kv import EventType
from mvcc.watchable_store import Limits, WatchOptions, WatchResponse
from tests.unit.mvcc.watch_rig import EVERYTHING, TIGHT, A, Rig, brief, events, revisions

INT64_MAX = 2**63 - 1


@pytest.fixture
def rig() -> Rig:
    return Rig()


# Beginning and ending


def test_created_is_first_and_names_the_present(rig: Rig) -> None:
    rig.puts(2)
    assert rig.stream.watch(WatchOptions(b"a", start_rev=1)) == 0
    assert rig.stream.take() == [WatchResponse(0, 3, created=True)]
    assert revisions(rig.settle()) == [2, 3]


def test_without_a_start_a_watch_begins_at_the_next_write(rig: Rig) -> None:
    rig.puts(2)
    rig.watch(b"a")
    assert not rig.watches.behind
    assert brief(rig.stream.take()) == []
    rig.put(b"a")
    assert brief(rig.stream.take()) == [("PUT", b"a", 4)]


def test_history_then_the_present_without_gap_or_double(rig: Rig) -> None:
    rig.puts(5)
    rig.watch(b"a", start_rev=3)
    rig.puts(2)
    heard = rig.settle()
    rig.puts(2)
    assert revisions(heard + rig.settle()) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert heard[0].revision == 8, "a replay's header is the present"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (A._replace(range_end=b"a"), "mvcc: watcher range is empty"),
        (WatchOptions(b"b", b"a"), "mvcc: watcher range is empty"),
        (A._replace(watch_id=5), "mvcc: duplicate watch ID provided on the WatchStream"),
        (A._replace(start_rev=-1), "etcdserver: mvcc: required revision has been compacted"),
        (
            A._replace(start_rev=-INT64_MAX - 1),
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ],
)
def test_refusals_are_created_and_canceled(rig: Rig, options: WatchOptions, reason: str) -> None:
    rig.watch(b"x", watch_id=5)
    before = rig.watches.status()
    assert rig.stream.watch(options) == -1
    assert rig.stream.take() == [WatchResponse(-1, 1, None, True, True, 0, reason)]
    assert rig.watches.status() == before


def test_a_stream_has_so_many_watchers_and_no_more() -> None:
    rig = Rig(Limits(stream_watchers=2))
    assert [rig.stream.watch(A) for _ in range(3)] == [0, 1, -1]
    assert rig.stream.take()[-1].cancel_reason == "etcdserver: too many requests"
    rig.stream.cancel(0)
    assert rig.stream.watch(A) == 2


def test_automatic_ids_count_from_0_and_skip_what_is_taken(rig: Rig) -> None:
    given = [rig.watch(b"a", watch_id=number) for number in (1, 0, 0, 4, 0, 0)]
    assert given == [1, 0, 2, 4, 3, 5]
    rig.stream.cancel(0)
    assert rig.watch(b"a") == 6
    assert rig.watch(b"a", watch_id=-7) == -7


def test_an_empty_key_is_the_zero_byte(rig: Rig) -> None:
    rig.watch(b"")
    rig.watch(b"", b"\x00")
    rig.put(b"\x00")
    assert [r.watch_id for r in rig.stream.take()] == [0, 1]
    rig.put(b"a")
    assert [r.watch_id for r in rig.stream.take()] == [1]


def test_a_canceled_watcher_hears_nothing_more(rig: Rig) -> None:
    rig.watch(b"a")
    rig.put(b"a")
    assert rig.stream.cancel(0) and not rig.stream.cancel(0) and not rig.stream.cancel(9)
    rig.put(b"a")
    first, last = rig.stream.take()
    assert first.notice is not None and last == WatchResponse(0, 2, canceled=True)


# What is heard


def test_a_transaction_stays_together_in_the_order_of_its_changes(rig: Rig) -> None:
    rig.watch(b"", b"\x00")
    rig.put(b"b", b"a", b"c")
    rig.delete(b"a", b"\x00")
    first, second = rig.stream.take()
    assert brief([first]) == [("PUT", b"b", 2), ("PUT", b"a", 2), ("PUT", b"c", 2)]
    assert brief([second]) == [("DELETE", b"a", 3), ("DELETE", b"b", 3), ("DELETE", b"c", 3)]
    assert (first.revision, second.revision) == (2, 3)


def test_slices_of_history_never_split_a_transaction() -> None:
    rig = Rig(Limits(slice_rows=2))
    rig.put(*(b"%03d" % i for i in range(50)))
    rig.put(b"a", b"b", b"c")
    rig.watch(b"", b"\x00", start_rev=1)
    heard = rig.settle()
    assert [len(events([response])) for response in heard] == [50, 3]


def test_slices_end_after_so_many_rows_bytes_and_matches() -> None:
    for limits in (Limits(slice_rows=5), Limits(slice_bytes=500), Limits(slice_matches=10)):
        rig = Rig(limits)
        rig.puts(100)
        rig.watch(b"a", start_rev=1)
        rig.watch(b"", b"\x00", start_rev=1)
        parts = [len(events([r])) for r in rig.settle() if r.watch_id == 1]
        assert sum(parts) == 100
        assert len(parts) >= 3, limits


def test_prev_kv_is_what_the_change_replaced(rig: Rig) -> None:
    rig.watch(b"a", prev_kv=True)
    rig.put(b"a", value=b"1")
    rig.put(b"a", value=b"2")
    rig.delete(b"a")
    rig.put(b"a", value=b"3")
    rig.watch(b"a", prev_kv=True, start_rev=1)
    live, replayed = [], []
    rig.stream.cancel(0)
    rig.put(b"a", value=b"4")
    for response in rig.settle():
        (live if response.watch_id == 0 else replayed).extend(events([response]))
    before = [event.prev_kv and event.prev_kv.value for event in replayed]
    assert before == [None, b"1", b"2", None, b"3"]


def test_prev_kv_is_captured_as_the_change_happens(rig: Rig) -> None:
    rig.put(b"a", value=b"1")
    rig.watch(b"a", prev_kv=True)
    rig.delete(b"a")
    rig.compact(3)
    (event,) = events(rig.stream.take())
    assert event.prev_kv is not None and event.prev_kv.value == b"1"


def test_prev_kv_is_absent_when_it_was_compacted(rig: Rig) -> None:
    rig.put(b"a", value=b"1")
    rig.put(b"a", value=b"2")
    rig.put(b"a", value=b"3")
    rig.store.compact(3)  # Its rows are still there: every member answers the same.
    rig.watch(b"a", start_rev=3, prev_kv=True)
    at_compacted, above = events(rig.settle())
    assert at_compacted.prev_kv is None
    assert above.prev_kv is not None and above.prev_kv.value == b"2"


def test_filters_drop_events_and_empty_batches(rig: Rig) -> None:
    rig.watch(b"a", no_put=True)
    rig.watch(b"a", no_delete=True)
    rig.watch(b"a", no_put=True, no_delete=True)
    rig.put(b"a")
    rig.delete(b"a")
    heard = rig.stream.take()
    assert [(r.watch_id, events([r])[0].type) for r in heard] == [
        (1, EventType.PUT),
        (0, EventType.DELETE),
    ]
    for number in range(3):
        rig.stream.cancel(number)
    rig.stream.take()
    rig.watch(b"a", no_put=True, start_rev=1)
    assert brief(rig.settle()) == [("DELETE", b"a", 3)]


def test_a_watcher_whose_filters_leave_nothing_still_moves_on() -> None:
    rig = Rig(Limits(slice_rows=4))
    rig.puts(20)
    rig.watch(b"a", no_put=True, start_rev=1)
    assert rig.settle() == []
    assert rig.watches.status().slow_watchers == 0


# Shared notices


def test_watchers_of_the_same_events_share_one_notice(rig: Rig) -> None:
    rig.watch(b"a")
    rig.watch(b"a")
    rig.watch(b"", b"\x00")
    rig.watch(b"a", prev_kv=True)
    rig.watch(b"a", b"b", prev_kv=True)
    rig.put(b"a")
    given = {r.watch_id: r.notice for r in rig.stream.take()}
    plain, same, wide, prev, prev_too = (given[number] for number in range(5))
    assert plain is same is wide is not prev
    assert prev is prev_too


def test_transactions_are_shared_between_equal_wishes(rig: Rig) -> None:
    for _ in range(2):
        rig.watch(b"a", b"c")
        rig.watch(b"a", b"c", no_put=True)
    rig.watch(b"b", b"d")
    rig.put(b"a", b"b", b"c")
    first, second, other = (r.notice for r in rig.stream.take())
    assert first is second is not other


def test_a_replay_is_shared_by_all_who_begin_there(rig: Rig) -> None:
    rig.puts(3)
    for _ in range(3):
        rig.watch(b"a", start_rev=2)
    rig.watch(b"a", start_rev=3)
    rig.watches.catch_up()
    one, two, three, later = (r.notice for r in rig.stream.take())
    assert one is two is three is not later
    assert one is not None and one.size == sum(64 + 1 + 1 for _ in one.events)


# Slow readers


def test_without_room_nothing_is_kept_and_nothing_is_lost() -> None:
    rig = Rig(TIGHT)
    rig.watch(b"a")
    rig.puts(50)
    assert rig.stream.full
    assert not rig.watches.behind, "a victim waits for its reader"
    status = rig.watches.status()
    assert (status.slow_watchers, status.pending_events) == (1, 2)
    first = rig.stream.take()
    assert revisions(first) == [2, 3]
    assert rig.watches.behind
    assert revisions(rig.settle()) == list(range(4, 52))
    assert rig.watches.status().slow_watchers == 0


def test_the_queue_is_bounded_by_bytes_and_the_largest_notice_fits() -> None:
    rig = Rig(Limits(queue_bytes=1000))
    rig.watch(b"a")
    rig.put(b"a", value=bytes(5000))
    rig.put(b"a", value=b"small")
    assert revisions(rig.stream.take()) == [2]
    assert revisions(rig.settle()) == [3]


def test_one_slow_stream_holds_up_no_other() -> None:
    rig = Rig(TIGHT)
    other = rig.watches.open(lambda stream: None)
    other.watch(A)
    other.take()
    rig.watch(b"a")
    heard = []
    for _ in range(10):
        rig.put(b"a")
        heard += revisions(other.take())
    assert heard == list(range(2, 12))


def test_ready_is_told_once_per_filling(rig: Rig) -> None:
    rig.watch(b"a")
    rig.ready.clear()
    rig.puts(3)
    assert rig.ready == [rig.stream]
    rig.stream.take()
    rig.put(b"b")
    assert rig.ready == [rig.stream]
    rig.put(b"a")
    assert rig.ready == [rig.stream] * 2


def test_behind_is_told_when_it_becomes_true(rig: Rig) -> None:
    told: list[bool] = []
    rig.watches.on_behind = lambda: told.append(rig.watches.behind)
    rig.puts(3)
    rig.watch(b"a")
    assert told == []
    rig.watch(b"a", start_rev=1)
    rig.watch(b"a", start_rev=2)
    assert told == [True]
    rig.settle()
    rig.restart()
    assert told == [True, True]


# Progress


def test_progress_waits_until_everybody_is_synced(rig: Rig) -> None:
    rig.puts(3)
    rig.watch(b"a")
    rig.watch(b"a", start_rev=1)
    rig.stream.request_progress()
    rig.stream.request_progress()
    assert rig.stream.take() == []
    *replay, progress = rig.settle()
    assert revisions(replay) == [2, 3, 4]
    assert progress == WatchResponse(-1, 4)
    rig.put(b"a")
    assert WatchResponse(-1, 5) not in rig.settle()


def test_progress_of_an_empty_stream_is_answered(rig: Rig) -> None:
    rig.stream.request_progress()
    assert rig.stream.take() == [WatchResponse(-1, 1)]


def test_progress_comes_when_the_last_one_behind_is_canceled(rig: Rig) -> None:
    rig.puts(3)
    rig.watch(b"a", start_rev=1)
    rig.stream.request_progress()
    rig.stream.cancel(0)
    assert rig.stream.take() == [WatchResponse(0, 4, canceled=True), WatchResponse(-1, 4)]


def test_15695_progress_never_overtakes_events() -> None:
    rig = Rig(TIGHT)
    rig.watch(b"a")
    rig.watch(b"", b"\x00", progress_notify=True)
    heard: dict[int, int] = {0: 1, 1: 1}
    answers = 0
    for i in range(200):
        rig.put(b"a")
        if i % 3 == 0:
            rig.stream.request_progress()
        if i % 4 == 0:
            rig.watches.catch_up()
        if i % 9 == 0:
            rig.stream.notify_progress()
        for response in rig.stream.take() if i % 5 == 0 else ():
            if response.notice is not None:
                heard[response.watch_id] = revisions([response])[-1]
            elif response.watch_id == -1:
                answers += 1
                assert min(heard.values()) >= response.revision
            else:
                assert heard[response.watch_id] >= response.revision
    assert answers > 0


def test_progress_is_notified_to_the_quiet_who_asked(rig: Rig) -> None:
    rig.watch(b"a", progress_notify=True)
    rig.watch(b"a")
    rig.watch(b"z", progress_notify=True)
    rig.put(b"a")
    rig.stream.take()
    rig.stream.notify_progress()
    assert rig.stream.take() == [WatchResponse(2, 2)]
    rig.stream.notify_progress()
    assert rig.stream.take() == [WatchResponse(0, 2), WatchResponse(2, 2)]


def test_progress_is_not_notified_to_who_is_behind(rig: Rig) -> None:
    rig.puts(2)
    rig.watch(b"b", start_rev=1, progress_notify=True)
    rig.stream.notify_progress()
    assert rig.stream.take() == []
    rig.settle()
    rig.stream.notify_progress()
    assert rig.stream.take() == [WatchResponse(0, 3)]


def test_a_full_queue_takes_no_progress() -> None:
    rig = Rig(TIGHT)
    rig.watch(b"a", progress_notify=True)
    for _ in range(10):
        rig.stream.request_progress()
        rig.stream.notify_progress()
    assert len(rig.stream.take()) == 2
    assert rig.stream.take() == [WatchResponse(-1, 1)]


# Starts and ends of everything


@pytest.mark.parametrize(("start", "heard"), [(0, [4]), (1, [2, 3, 4]), (3, [3, 4]), (4, [4])])
def test_20707_starts_of_every_kind(rig: Rig, start: int, heard: list[int]) -> None:
    rig.puts(2)
    rig.watch(b"a", start_rev=start)
    rig.put(b"a")
    assert revisions(rig.settle()) == heard


def test_20707_the_greatest_start_never_comes(rig: Rig) -> None:
    rig.watch(b"a", start_rev=INT64_MAX)
    rig.puts(3)
    rig.restart()
    assert rig.settle() == []
    assert rig.stream.cancel(0)


STATES = ("synced", "unsynced", "victim")


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_20067_cancel_and_close_from_every_state_count_once(state: str, close: bool) -> None:
    rig = Rig(Limits(queue_responses=1))
    rig.put(b"a")
    rig.stream.watch(A._replace(start_rev=1 if state == "unsynced" else 0))
    if state == "victim":
        rig.put(b"a")
    slow = rig.watches.status().slow_watchers
    assert slow == (state != "synced")
    if close:
        rig.stream.close()
    assert rig.stream.cancel(0) == (not close)
    assert not rig.stream.cancel(0)
    rig.watches.check_invariants()
    rig.stream.close()
    rig.stream.close()
    rig.puts(3)
    assert not rig.watches.catch_up() and rig.stream.take() == []
    status = rig.watches.status()
    assert (status.streams, status.watchers, status.slow_watchers) == (0, 0, 0)
    assert status.pending_events == 0 and rig.store.on_write is None


def test_14563_id_0_is_a_normal_id(rig: Rig) -> None:
    assert [rig.watch(b"a"), rig.watch(b"a")] == [0, 1]
    assert rig.stream.cancel(1)
    rig.put(b"a")
    assert [r.watch_id for r in rig.stream.take()] == [1, 0]


def test_18784_closed_streams_leave_nothing_behind(rig: Rig) -> None:
    last = None
    for _ in range(1000):
        stream = rig.watches.open(lambda stream: None)
        stream.watch(A)
        stream.watch(EVERYTHING._replace(start_rev=1))
        stream.request_progress()
        stream.close()
        last = weakref.ref(stream)
    assert rig.watches.status() == (1, 0, 0, 0, 0)
    stream = None
    gc.collect()
    assert last is not None and last() is None


def test_nobody_watching_costs_the_store_nothing(rig: Rig) -> None:
    assert rig.store.on_write is None
    rig.watch(b"a")
    assert rig.store.on_write is not None
    calls: list[int] = []
    heard = rig.store.on_write
    rig.store.on_write = lambda txn: (calls.append(txn.revision), heard(txn))[0]
    rig.store.write().end()
    rig.delete(b"missing")
    assert calls == [], "nothing changed"
    rig.put(b"a")
    assert calls == [2]
    rig.stream.cancel(0)
    assert rig.store.on_write is None
