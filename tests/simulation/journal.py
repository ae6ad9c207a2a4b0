"""The journal of one run: everything that happens, in its order, as one digest and as the last
lines before a failure.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

LINES_KEPT = 400
_FACT_CHARS = 160


class Journal:
    """`counts` says how often each kind of event was noted. `tell` gets every line, if there is
    anybody who wants to read them.
    """

    def __init__(self, now: Callable[[], float], tell: Callable[[str], None] | None = None) -> None:
        self._now = now
        self._tell = tell
        self._digest = hashlib.blake2b(digest_size=16)
        self._recent: deque[tuple[float, str, str, tuple[Any, ...]]] = deque(maxlen=LINES_KEPT)
        self.counts: Counter[str] = Counter()
        self.number = 0

    def note(self, kind: str, who: str, *facts: Any) -> int:
        """The event's number, ascending. Facts read alike everywhere: no addresses, no sets."""
        self.number += 1
        self.counts[kind] += 1
        event = (self._now(), kind, who, facts)
        self._digest.update(repr(event).encode())
        self._recent.append(event)
        if self._tell is not None:
            self._tell(_line(*event))
        return self.number

    @property
    def digest(self) -> str:
        """Equal for two runs in which the same things happened at the same times."""
        return self._digest.hexdigest()

    def last(self, kinds_left_out: tuple[str, ...] = ()) -> list[str]:
        """The latest events, oldest first."""
        return [_line(*event) for event in self._recent if event[1] not in kinds_left_out]


def _line(time: float, kind: str, who: str, facts: tuple[Any, ...]) -> str:
    told = " ".join(_told(fact) for fact in facts)
    return f"{time:10.4f} {who:8} {kind:12} {told}"


def _told(fact: Any) -> str:
    text = fact if isinstance(fact, str) else repr(fact)
    return text if len(text) <= _FACT_CHARS else text[:_FACT_CHARS] + "..."
