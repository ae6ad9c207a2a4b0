"""LinearizableReads: who may ride on which confirmation."""

from __future__ import annotations

from node.reads import LinearizableReads


class Bench:
    """Reads over a scripted leader and a virtual clock."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.soon: list = []
        self.index = 0
        self.time = 0.0
        self.reads = LinearizableReads(
            ask=self.asked.append,
            applied=lambda: self.index,
            call_soon=self.soon.append,
            now=lambda: self.time,
            timeout_seconds=7.0,
            first_token=100,
        )

    def turn(self) -> None:
        soon, self.soon[:] = list(self.soon), []
        for call in soon:
            call()

    def read(self) -> list:
        answers: list = []
        self.reads.wait(answers.append)
        return answers

    def sweep(self, seconds: float) -> None:
        self.time += seconds
        self.reads.sweep(self.time, lambda: TimeoutError("late"))


def test_readers_of_one_turn_share_one_round() -> None:
    bench = Bench()
    first, second = bench.read(), bench.read()
    bench.turn()
    assert bench.asked == [101]
    bench.reads.ready(101, 0)
    assert (first, second) == ([None], [None])


def test_a_reader_that_comes_during_a_round_waits_for_the_next_one() -> None:
    bench = Bench()
    first = bench.read()
    bench.turn()
    second = bench.read()
    bench.turn()
    bench.reads.ready(101, 0)
    assert (first, second) == ([None], [])
    assert bench.asked == [101, 102]
    bench.reads.ready(102, 0)
    assert second == [None]


def test_an_answer_waits_until_its_index_is_applied() -> None:
    bench = Bench()
    answers = bench.read()
    bench.turn()
    bench.reads.ready(101, 5)
    assert answers == []
    bench.index = 4
    bench.reads.applied(4)
    assert answers == []
    bench.index = 5
    bench.reads.applied(5)
    assert answers == [None]


def test_an_answer_from_before_a_leader_change_is_dropped() -> None:
    bench = Bench()
    answers = bench.read()
    bench.turn()
    bench.reads.leader_changed()
    bench.reads.ready(101, 0)
    assert answers == []
    bench.reads.ready(102, 0)
    assert answers == [None]


def test_a_silent_round_is_retried_under_a_new_token_and_either_may_complete_it() -> None:
    bench = Bench()
    answers = bench.read()
    bench.turn()
    bench.sweep(0.6)
    assert bench.asked == [101, 102]
    bench.reads.ready(101, 0)
    assert answers == [None]


def test_a_late_duplicate_answer_confirms_nobody_else() -> None:
    bench = Bench()
    bench.read()
    bench.turn()
    bench.reads.ready(101, 0)
    second = bench.read()
    bench.turn()
    bench.reads.ready(101, 0)
    assert second == []


def test_readers_past_their_deadline_get_an_error_and_the_next_round_starts() -> None:
    bench = Bench()
    first = bench.read()
    bench.turn()
    bench.time = 3.0
    second = bench.read()
    bench.sweep(4.5)
    assert isinstance(first[0], TimeoutError)
    assert second == []
    bench.reads.ready(bench.asked[-1], 0)
    assert second == [None]


def test_readers_waiting_for_apply_time_out_too() -> None:
    bench = Bench()
    answers = bench.read()
    bench.turn()
    bench.reads.ready(101, 9)
    bench.sweep(8.0)
    assert isinstance(answers[0], TimeoutError)


def test_stopping_answers_everybody() -> None:
    bench = Bench()
    applying = bench.read()
    bench.turn()
    bench.reads.ready(101, 9)
    asking = bench.read()
    bench.turn()
    gathering = bench.read()
    bench.reads.fail_all(RuntimeError("stopped"))
    assert [len(a) for a in (applying, asking, gathering)] == [1, 1, 1]
