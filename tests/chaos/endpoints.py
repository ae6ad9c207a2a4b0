"""`python -m tests.chaos.endpoints --seconds 60 n1=http://... n2=...`: clients and verdict only.

For members that somebody else runs, and whose faults somebody else injects: containers, machines.
The store must be empty. Exit codes are those of `python -m tests.chaos`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import closing
from pathlib import Path

from tests.chaos.history import History
from tests.chaos.load import Addresses, Load
from tests.chaos.report import Report
from tests.chaos.run import settle
from tests.chaos.verdict import EXIT_CODES, judge
from tests.cluster.client import Client
from tests.cluster.harness import wait_until

log = logging.getLogger("chaos")

TOLD_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.endpoints", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=80.0, help="operations per second (80)")
    parser.add_argument("--report", type=Path, help="folder")
    parser.add_argument("members", nargs="+", metavar="NAME=URL")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    addresses = Addresses(dict(each.split("=", 1) for each in arguments.members))
    history = History()
    report = Report(arguments.seed, arguments.seconds)
    load = Load(addresses, history, seed=arguments.seed, writers=4, rate=arguments.rate)
    try:
        _run(load, history, arguments.seconds)
    except AssertionError as error:
        report.failure = repr(error)
    report.findings = judge(history)
    if arguments.report:
        report.save(arguments.report, history)
    print(report.text(history))
    return EXIT_CODES[report.verdict]


def _run(load: Load, history: History, seconds: float) -> None:
    with closing(Client(next(iter(load.addresses.urls.values())))) as client:
        revision = client.revision()
    assert revision == 1, f"the store must be empty, and is at revision {revision}"
    load.start()
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(TOLD_SECONDS, max(0.0, deadline - time.monotonic())))
            log.info("%d operations, all told up to %d", len(history.operations), load.told())
        load.stop_writing()
        wait_until("nobody is away", lambda: all(map(_healthy, load.addresses.urls.values())), 60)
        settle(load, history)
    finally:
        load.stop()


def _healthy(url: str) -> bool:
    with closing(Client(url, 3.0)) as client:
        return client.healthy()


if __name__ == "__main__":
    sys.exit(main())
