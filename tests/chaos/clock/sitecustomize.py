"""Loaded by a member that is started with this directory on PYTHONPATH: its wall clock is off by
the seconds that the file ESKER_TEST_CLOCK holds, as of each question. Nobody else loads it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_file = Path(os.environ.get("ESKER_TEST_CLOCK", os.devnull))
_time, _time_ns, _localtime, _gmtime = time.time, time.time_ns, time.localtime, time.gmtime


def _off() -> int:
    try:
        return int(_file.read_text() or 0)
    except (OSError, ValueError):
        return 0


time.time = lambda: _time() + _off()
time.time_ns = lambda: _time_ns() + _off() * 1_000_000_000
time.localtime = lambda seconds=None: _localtime(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _gmtime(time.time() if seconds is None else seconds)
