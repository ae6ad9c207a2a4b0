"""Log lines as `key=value` pairs on the standard library's logging, under etcd's level names.

    time=2026-01-31T12:00:00.123Z level=info node=n1 logger=esker.raft msg="became leader" term=7

Fields come through `extra`: `log.info("became leader", extra={"term": 7})`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Sequence

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_BARE = re.compile(r"[^\s\"=\\\x00-\x1f]+")


class KeyValueFormatter(logging.Formatter):
    """One record, one line; the time in UTC, fields after the message, a traceback last."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        pairs = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": _NAMES.get(record.levelno, record.levelname.lower()),
            "node": self._node,
            "logger": record.name,
            "msg": record.getMessage(),
        }
        pairs |= {key: value for key, value in vars(record).items() if key not in _OWN_FIELDS}
        if record.exc_info:
            pairs["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={quoted(value)}" for key, value in pairs.items())


def reason(error: BaseException) -> str:
    """What an exception says: the system's text for a file or an address, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def quoted(value: object) -> str:
    """A value as it stands in a line: bare when one plain word, a JSON string otherwise."""
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def configure(*, level: str, outputs: Sequence[str], node: str) -> None:
    """Send all loggers of the process to `outputs`: stderr (also as `default`), stdout, files.

    Raises OSError for a file that cannot be opened; the loggers are then as before.
    """
    handlers = [_handler(output) for output in dict.fromkeys(outputs)]
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(KeyValueFormatter(node))
        root.addHandler(handler)
    root.setLevel(LEVELS[level])
    # aiohttp writes one line per request at info; that is debug here.
    logging.getLogger("aiohttp.access").setLevel(max(LEVELS[level], logging.WARNING))


def _handler(output: str) -> logging.Handler:
    match output:
        case "default" | "stderr":
            return logging.StreamHandler(sys.stderr)
        case "stdout":
            return logging.StreamHandler(sys.stdout)
        case path:
            return logging.FileHandler(path, encoding="utf-8")
