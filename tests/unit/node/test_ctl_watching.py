"""A watch that goes on over broken connections: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from node.ctl import client as client_module
from node.ctl.client import CallError, Unreachable, lasting
from node.ctl.watching import COMPACTED, Canceled, Watching

Message = Mapping[str, Any]
BROKEN = Unreachable(["gone"])


def created(revision: int) -> Message:
    return {"header": {"revision": str(revision)}, "created": True}


def event(revision: int) -> Message:
    pair = {"key": "YQ==", "mod_revision": str(revision)}
    return {"header": {"revision": str(revision)}, "events": [{"kv": pair}]}


def progress(revision: int, watch_id: int = 0) -> Message:
    return {"header": {"revision": str(revision)}, "watch_id": str(watch_id)}


def canceled(**members: Any) -> Message:
    return {"header": {}, "canceled": True, **members}


class ScriptedClient:
    """One list of messages for each opening; an exception among them is raised in its place."""

    def __init__(self, *streams: Sequence[Message | Exception]) -> None:
        self.settings = SimpleNamespace(endpoints=("one", "two"))
        self.streams = list(streams)
        self.asked: list[tuple[str, list[Message]]] = []
        self.forgotten: list[str] = []

    def open(
        self, path: str, bodies: Sequence[Message], endpoint: str, first_seconds: float | None
    ) -> Any:
        self.asked.append((endpoint, list(bodies)))
        return ScriptedStream(self.streams.pop(0))

    def forgets(self, message: str) -> bool:
        if "invalid auth token" not in message:
            return False
        self.forgotten.append(message)
        return True

    def starts(self) -> list[int]:
        return [bodies[0]["create_request"]["start_revision"] for _, bodies in self.asked]


class ScriptedStream:
    def __init__(self, messages: Sequence[Message | Exception]) -> None:
        self.messages = messages
        self.ended = False

    def __enter__(self) -> ScriptedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def __iter__(self) -> Iterator[Message]:
        for message in self.messages:
            if self.ended:
                return
            if isinstance(message, Exception):
                raise message
            yield message

    def cut(self) -> None:
        self.ended = True


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_SECONDS", (0.0, 0.0))


def watching(scripted: ScriptedClient, **request: Any) -> Watching:
    return Watching(scripted, {"key": "YQ==", **request}, None)  # type: ignore[arg-type]


def taken(watch: Watching, number: int) -> list[int]:
    """Revisions of so many answers."""
    answers = iter(watch)
    return [int(next(answers)["header"]["revision"]) for _ in range(number)]


def test_a_broken_watch_goes_on_at_the_next_endpoint() -> None:
    scripted = ScriptedClient(
        [created(4), event(5), event(7), BROKEN], [created(9), event(8)], [created(9), event(10)]
    )
    assert taken(watching(scripted), 4) == [5, 7, 8, 10]
    assert scripted.starts() == [0, 8, 9]
    assert [endpoint for endpoint, _ in scripted.asked] == ["one", "two", "one"]


def test_a_watch_that_heard_nothing_goes_on_from_where_it_was_made() -> None:
    scripted = ScriptedClient([created(4), BROKEN], [BROKEN], [created(9), event(5)])
    assert taken(watching(scripted), 1) == [5]
    assert scripted.starts() == [0, 5, 5]


def test_a_given_start_is_kept() -> None:
    scripted = ScriptedClient([created(4), BROKEN], [created(9), event(3)])
    assert taken(watching(scripted, start_revision=3), 1) == [3]
    assert scripted.starts() == [3, 3]


def test_idle_progress_moves_the_start_but_an_answer_to_a_question_does_not() -> None:
    scripted = ScriptedClient(
        [created(4), progress(20), progress(30, -1), BROKEN], [created(40), event(21)]
    )
    assert taken(watching(scripted), 3) == [20, 30, 21]
    assert scripted.starts() == [0, 21]


def test_a_question_for_progress_follows_the_watch_on_a_new_stream() -> None:
    scripted = ScriptedClient(
        [created(4), event(5), event(6)], [created(9), event(6), progress(9, -1)], [event(10)]
    )
    watch = watching(scripted)
    answers = iter(watch)
    next(answers)
    watch.ask_progress()
    revisions = [int(next(answers)["header"]["revision"]) for _ in range(3)]
    assert revisions == [6, 9, 10]
    assert [len(bodies) for _, bodies in scripted.asked] == [1, 2, 1]
    assert scripted.asked[1][1][1] == {"progress_request": {}}
    assert scripted.starts() == [0, 6, 7]


def test_a_compaction_ends_it() -> None:
    scripted = ScriptedClient([created(9), canceled(compact_revision="8")])
    with pytest.raises(Canceled, match=COMPACTED) as ended:
        taken(watching(scripted, start_revision=2), 1)
    assert ended.value.response["compact_revision"] == "8"


def test_a_refused_watch_ends_with_the_members_reason() -> None:
    scripted = ScriptedClient([canceled(created=True, cancel_reason="permission denied")])
    with pytest.raises(Canceled, match="permission denied"):
        taken(watching(scripted), 1)


@pytest.mark.parametrize("reason", ["etcdserver: no leader", "etcdserver: invalid auth token"])
def test_a_member_without_leader_or_an_old_token_is_no_end(reason: str) -> None:
    scripted = ScriptedClient(
        [created(4), event(5), canceled(cancel_reason=reason)], [created(6), event(6)]
    )
    assert taken(watching(scripted), 2) == [5, 6]
    assert scripted.starts() == [0, 6]


def test_without_any_endpoint_it_fails_at_once() -> None:
    scripted = ScriptedClient([BROKEN], [BROKEN])
    with pytest.raises(Unreachable):
        taken(watching(scripted), 1)
    assert len(scripted.asked) == 2


def test_an_error_of_a_member_ends_a_lasting_call() -> None:
    scripted = ScriptedClient(
        [CallError("no leader", 503, 14)], [CallError("permission denied", 403, 7)]
    )
    with pytest.raises(CallError, match="permission denied"):
        list(lasting(scripted, "election/observe", lambda: [{}]))  # type: ignore[arg-type]
    assert len(scripted.asked) == 2
