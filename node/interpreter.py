"""What a member asks of the interpreter: that nothing of it stops the loop for long."""

from __future__ import annotations

import gc
import sys

GC_THRESHOLDS = (10_000, 500, 100)
"""The collector stops the world for as long as there are containers to look at. The first number
bounds the usual pause: 10,000 young ones are 1 to 3 ms, 100,000 were 30. Entries of the log, of the
index and pairs of an answer are not tracked at all, and what lives long holds no cycles, so that it
need look at older ones only rarely.
"""
SWITCH_SECONDS = 0.001
"""How long a thread that computes may keep the interpreter's lock from the loop, which asks for it
after every wait for sockets; the default of 5 ms would cut the loop to 200 turns a second while a
hash is computed.
"""


def settle() -> None:
    """Once, when what lives as long as the process has been built: freezes it out of the
    collector's sight. The few cycles that the start has dropped stay with it, since looking for
    them would delay the first answer by a twentieth.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)
