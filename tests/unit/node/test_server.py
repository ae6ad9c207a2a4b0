"""Server: who reads in slices hears of every end exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from mvcc.errors import BackendFailed
from node.server import Server


def test_range_over_a_damaged_page_is_answered_and_ends_the_member() -> None:
    """The loop calls the later slices: nobody else would hear of the error."""
    damage = BackendFailed("db", "a damaged page")

    def steps() -> Iterator[None]:
        raise damage
        yield

    failed: list[Exception] = []
    answers: list[object] = []
    store = object()
    parts: Any = SimpleNamespace(
        store=store, installing=False, driver=SimpleNamespace(fail=failed.append)
    )
    Server._range_step(parts, store, steps(), answers.append)  # type: ignore[arg-type]
    assert answers == failed == [damage]
