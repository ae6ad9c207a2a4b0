"""Lines of the log: one record, one line, every value readable back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.logs import LEVELS, KeyValueFormatter, configure, quoted, reason


def record(level: int, message: str, *values: object, **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "esker.raft", "levelno": level, "msg": message, "args": values, **fields}
    )
    made.created, made.msecs = 0.0, 7.0
    return made


def test_line() -> None:
    line = KeyValueFormatter("n1").format(
        record(logging.INFO, "became leader at %d", 5, term=7, why="a timeout")
    )
    assert line == (
        "time=1970-01-01T00:00:00.007Z level=info node=n1 logger=esker.raft"
        ' msg="became leader at 5" term=7 why="a timeout"'
    )


REASONS = [
    (FileNotFoundError(2, "No such file or directory", "/x/y"), "/x/y: No such file or directory"),
    (OSError(98, "cannot listen: Address already in use"), "cannot listen: Address already in use"),
    (OSError("no number"), "no number"),
    (ValueError("wrong"), "wrong"),
]


@pytest.mark.parametrize(("error", "text"), REASONS)
def test_reason(error: Exception, text: str) -> None:
    assert reason(error) == text


def test_traceback_stays_in_the_line() -> None:
    try:
        raise ValueError("broken\nhere")
    except ValueError:
        line = KeyValueFormatter("n1").format(
            record(logging.ERROR, "stopped", exc_info=sys.exc_info())
        )
    assert "\n" not in line
    assert r"ValueError: broken\nhere" in line


QUOTED = [
    ("plain", "plain"),
    (7, "7"),
    ("http://a:1/b", "http://a:1/b"),
    ("two words", '"two words"'),
    ('say "x"', '"say \\"x\\""'),
    ("a=b", '"a=b"'),
    ("", '""'),
    ("line\nline", '"line\\nline"'),
    ("grün", "grün"),
]


@pytest.mark.parametrize(("value", "text"), QUOTED)
def test_quoted(value: object, text: str) -> None:
    assert quoted(value) == text


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    logger.handlers[:] = []
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("level", LEVELS)
def test_configure_writes_from_its_level_on(
    level: str, tmp_path: Path, root: logging.Logger
) -> None:
    file = tmp_path / "log"
    configure(level=level, outputs=[str(file), str(file)], node="n1")
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(logging.getLogger("esker.test"), name)(name)
    lines = file.read_text().splitlines()
    assert len(lines) == sum(
        number >= LEVELS[level]
        for number in (LEVELS[word] for word in ("debug", "info", "warn", "error", "fatal"))
    )


def test_a_file_that_cannot_be_opened_leaves_the_loggers(
    tmp_path: Path, root: logging.Logger
) -> None:
    configure(level="info", outputs=["stderr"], node="n1")
    before = root.handlers[:]
    with pytest.raises(OSError, match="nowhere"):
        configure(level="info", outputs=[str(tmp_path / "nowhere" / "log")], node="n1")
    assert root.handlers == before
