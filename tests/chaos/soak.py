"""`python -m tests.chaos.soak --minutes 30`: constant load, compactions, churn, and all flat.

Every few seconds each member's memory, descriptors, threads and disk are read from /proc, and the
latency of what clients did since. Compactions, defragmentations, snapshots and changes of leader go
on all the time; clients and watchers come and go. In the end the history is judged as that of any
other run, and the last quarter is compared with the second: what grew must have a reason.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median

from tests.chaos.arena import Arena
from tests.chaos.faults import MEANWHILE
from tests.chaos.history import History, Operation
from tests.chaos.load import Load
from tests.chaos.run import settle
from tests.chaos.verdict import Findings, judge
from tests.cluster.client import NO_ANSWER, ApiError
from tests.cluster.harness import Member

SAMPLE_SECONDS = 5.0
CHURN_SECONDS = 7.0
KEPT_REVISIONS = 2_000
"""Left by each compaction, so that there is history to read, and always as much."""
EPOCHS = 20
"""The same keys are written again and again, so that the data stay as many."""


@dataclass
class Sample:
    """`members` by name: kib of memory, descriptors, threads, kib of disk in use."""

    at: float
    operations: int
    p50_ms: float
    p99_ms: float
    members: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """The last quarter may be `factor` times the second and `more` above it."""

    name: str
    unit: str
    factor: float
    more: float


LIMITS = (
    Limit("memory", "KiB", 1.10, 12 << 10),
    Limit("descriptors", "", 1.0, 12),
    Limit("threads", "", 1.0, 2),
    Limit("disk", "KiB", 1.25, 16 << 10),
)
LATENCY = Limit("p50_ms", "ms", 2.0, 10)


def sample(arena: Arena, start: float, operations: Sequence[Operation]) -> Sample:
    """The state now; the latency of `operations`."""
    spans = sorted((each.returned - each.called) / 1e6 for each in operations if each.returned)
    p99 = spans[int(len(spans) * 0.99)] if spans else 0.0
    found = Sample(time.monotonic() - start, len(spans), median(spans) if spans else 0.0, p99)
    for member in arena.cluster:
        found.members[member.name] = measure(member)
    return found


def measure(member: Member) -> dict[str, int]:
    assert member.process is not None and member.running, f"{member.name} has ended"
    proc = Path(f"/proc/{member.process.pid}")
    status = dict(row.split(":", 1) for row in (proc / "status").read_text().splitlines())
    blocks = 0
    for folder, _, names in os.walk(member.data_dir):
        for name in names:
            try:
                blocks += os.stat(os.path.join(folder, name)).st_blocks
            except FileNotFoundError:
                continue
    return {
        "memory": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "descriptors": len(list((proc / "fd").iterdir())),
        "disk": blocks // 2,
    }


def soak(minutes: float, seed: int, rate: float, root: Path) -> tuple[list[Sample], Findings]:
    history = History()
    arena = Arena(root, seed=seed, small_disk=False)
    try:
        arena.start()
        load = Load(arena.addresses(), history, seed=seed, writers=6, rate=rate, epochs=EPOCHS)
        arena.told = lambda: max(1, load.told() - KEPT_REVISIONS)
        load.start()
        try:
            samples = _watch(arena, load, minutes * 60, random.Random(f"{seed} churn"))
            load.stop_writing()
            settle(load, history)
        finally:
            load.stop()
    finally:
        arena.close()
    return samples, judge(history)


def _watch(arena: Arena, load: Load, seconds: float, chance: random.Random) -> list[Sample]:
    start = time.monotonic()
    samples: list[Sample] = []
    taken = 0
    churn = start + CHURN_SECONDS
    while time.monotonic() - start < seconds:
        time.sleep(SAMPLE_SECONDS)
        operations = load.history.operations[taken:]
        taken += len(operations)
        samples.append(sample(arena, start, operations))
        if time.monotonic() >= churn:
            churn = time.monotonic() + CHURN_SECONDS
            _churn(arena, load, chance)
    return samples


def _churn(arena: Arena, load: Load, chance: random.Random) -> None:
    """A compaction, something else that costs, and other connections for a client and a watcher."""
    for name in ("compact", chance.choice(sorted(MEANWHILE))):
        if name == "compact" and arena.told() <= 1:
            continue
        try:
            MEANWHILE[name](arena)
        except (ApiError, *NO_ANSWER) as error:
            print(f"{name}: {error!r}")
    chance.choice(load.workers).reconnect.set()
    chance.choice(load.watchers).reconnect.set()


def grown(samples: Sequence[Sample]) -> list[str]:
    """What is not flat: the second quarter against the last, the first is for warming up."""
    quarter = len(samples) // 4
    assert quarter, "too few samples to compare"
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    complaints = [_compare(LATENCY, "clients", before, after, lambda each: each.p50_ms)]
    for name in samples[0].members:
        for limit in LIMITS:
            complaints.append(
                _compare(
                    limit,
                    name,
                    before,
                    after,
                    lambda each, name=name, limit=limit: each.members[name][limit.name],
                )
            )
    return [complaint for complaint in complaints if complaint]


def _compare(
    limit: Limit,
    who: str,
    before: Sequence[Sample],
    after: Sequence[Sample],
    read: Callable[[Sample], float],
) -> str:
    one, other = mean(map(read, before)), mean(map(read, after))
    if other <= limit.factor * one + limit.more:
        return ""
    return f"{who}: {limit.name} grew from {one:.0f} to {other:.0f} {limit.unit}"


def plot(samples: Sequence[Sample], path: Path) -> bool:
    """A picture of it; False without matplotlib (`pip install -e '.[plots]'`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(10, 12), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, 1, sharex=True)
    minutes = [each.at / 60 for each in samples]
    for panel, (name, scale, title) in zip(
        panels,
        (
            ("memory", 1024, "memory, MiB"),
            ("descriptors", 1, "descriptors"),
            ("disk", 1024, "disk, MiB"),
        ),
        strict=False,
    ):
        lines = {
            member: [each.members[member][name] / scale for each in samples]
            for member in samples[0].members
        }
        for member, values in lines.items():
            panel.plot(minutes, values, label=member)
        panel.set_ylabel(title)
        panel.set_ylim(0, 1.2 * max(map(max, lines.values())))
        panel.legend(loc="lower right")
    panels[3].plot(minutes, [each.p50_ms for each in samples], label="p50")
    panels[3].plot(minutes, [each.p99_ms for each in samples], label="p99")
    panels[3].set_ylabel("latency, ms")
    panels[3].set_yscale("log")
    panels[3].legend(loc="upper right")
    panels[3].set_xlabel("minutes")
    figure.savefig(path, dpi=100)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=120.0, help="operations per second (120)")
    parser.add_argument("--report", type=Path, default=Path("build/soak"), help="folder")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="esker-soak-"))
    samples, findings = soak(arguments.minutes, arguments.seed, arguments.rate, root)
    complaints = [*grown(samples), *(f"{each.check}: {each.text}" for each in findings.anomalies)]
    arguments.report.mkdir(parents=True, exist_ok=True)
    rows = {"complaints": complaints, "samples": [asdict(each) for each in samples]}
    (arguments.report / "soak.json").write_text(json.dumps(rows, indent=1) + "\n")
    if not plot(samples, arguments.report / "soak.png"):
        print("no picture: matplotlib is not installed (pip install -e '.[plots]')")
    print(f"{sum(each.operations for each in samples)} operations in {arguments.minutes:g} minutes")
    print("\n".join(complaints) or "flat, and legal")
    if complaints:
        print(f"members' data and logs: {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
