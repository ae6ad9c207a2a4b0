"""`python -m tests.chaos --seconds 90 --seed 1`: a run of faults, or the verdict on an earlier one.

Exit codes: 0 legal, 1 illegal, 3 not known.
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.history import History
from tests.chaos.run import Settings, run
from tests.chaos.verdict import EXIT_CODES, judge


def main() -> int:
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.judge:
        return rejudge(arguments.judge)
    settings = Settings(
        seconds=arguments.seconds,
        seed=arguments.seed,
        rate=arguments.rate,
        namespaces=arguments.namespaces,
        only=tuple(arguments.only.split(",")) if arguments.only else (),
    )
    root = Path(tempfile.mkdtemp(prefix="esker-chaos-"))
    report, history = run(settings, root)
    report.save(arguments.report, history)
    print(report.text(history))
    if report.verdict == "legal":
        shutil.rmtree(root)
    else:
        print(f"members' data and logs: {root}; history: {arguments.report}/history.jsonl")
    return EXIT_CODES[report.verdict]


def rejudge(path: Path) -> int:
    findings = judge(History.load(path))
    for name, count in sorted(findings.checked.items()):
        print(f"{count:8}  {name}")
    for anomaly in findings.anomalies:
        print(f"{anomaly.check}: {anomaly.text}")
    print(findings.verdict)
    return EXIT_CODES[findings.verdict]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of faults (300)")
    parser.add_argument("--seed", type=int, help="of schedule and load; drawn if not given")
    parser.add_argument("--rate", type=float, default=120.0, help="operations per second (120)")
    parser.add_argument("--only", default="", help="names of faults, comma-separated")
    parser.add_argument("--namespaces", action="store_true", help="drop packets (root only)")
    parser.add_argument("--report", type=Path, default=Path("build/chaos"), help="folder")
    parser.add_argument("--judge", type=Path, help="a history.jsonl to judge again, instead")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1_000_000)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
