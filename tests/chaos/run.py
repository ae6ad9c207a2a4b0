"""One run: members, clients, faults one after the other, then quiet, and the verdict."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.faults import (
    DEATHS,
    FAULTS,
    LINKS,
    MEANWHILE,
    Fault,
    NotHere,
    die_at,
    together,
)
from tests.chaos.history import Ending, History, now
from tests.chaos.load import LEASE_TTL_SECONDS, Load
from tests.chaos.model import Row
from tests.chaos.namespaces import NoNamespaces
from tests.chaos.report import Injected, Report
from tests.chaos.verdict import LEASED, judge
from tests.cluster.client import NO_ANSWER, ApiError, Client
from tests.cluster.harness import wait_until

log = logging.getLogger("chaos")

RECOVERY_SECONDS = 30.0
QUIET_SECONDS = 60.0
SETTLED_CALL_SECONDS = 15.0


@dataclass(frozen=True)
class Settings:
    """`only`: names of faults to draw from, all if empty. The seed draws the schedule and the load;
    what the members make of them differs from run to run.
    """

    seconds: float = 60.0
    seed: int = 1
    rate: float = 120.0
    writers: int = 6
    hold_seconds: tuple[float, float] = (1.0, 5.0)
    only: tuple[str, ...] = ()
    namespaces: bool = False


def run(settings: Settings, root: Path) -> tuple[Report, History]:
    """Members' data and logs are below `root`. What goes wrong is in the report, not raised."""
    report = Report(settings.seed, settings.seconds)
    history = History()
    arena = Arena(root, seed=settings.seed, namespaces=settings.namespaces)
    try:
        arena.start()
        load = Load(
            arena.addresses(),
            history,
            seed=settings.seed,
            writers=settings.writers,
            rate=settings.rate,
        )
        arena.told = load.told
        load.start()
        try:
            _faults(arena, load, settings, report)
            load.stop_writing()
            arena.links.heal()
            arena.wait_healthy()
            settle(load, history)
        finally:
            load.stop()
    except (AssertionError, ApiError, *NO_ANSWER) as error:
        log.exception("the run ends early")
        report.failure = f"{error!r}\n{arena.cluster.report()}"
    finally:
        arena.close()
    report.findings = judge(history)
    for member in arena.cluster:
        for line in complaints(member.log(), arena.due):
            report.findings.add("crash", f"{member.name}: {line}")
    return report, history


FULL = ("No space left", "mdb_txn_commit: Input/output error")
"""The last words on a full disk; the second are LMDB's for a write that was cut short."""


def complaints(log: str, due: Collection[str] = ()) -> list[str]:
    """What members say that end for a reason of their own; a full disk and `due` are ours."""
    return [
        line
        for line in log.splitlines()
        if "level=fatal" in line or line.startswith("Traceback")
        if line not in due and not any(words in line for words in FULL)
    ]


def schedule(settings: Settings, arena: Arena) -> Iterator[tuple[str, Fault]]:
    """Every fault once in a random order, then again in another, for ever; after each third one a
    death at the next failpoint, and two faults at a time.
    """
    chance = random.Random(f"{settings.seed} schedule")
    points = [f"die-at {name}" for name in arena.failpoints()]
    unknown = {each for each in settings.only if not _chosen([*FAULTS, *points], [each])}
    assert not unknown, f"no such fault: {unknown}; there are {', '.join([*FAULTS, *points])}"
    names, points = _chosen(FAULTS, settings.only), _chosen(points, settings.only)
    places: list[str] = []
    while True:
        for number, name in enumerate(chance.sample(names, len(names))):
            yield name, FAULTS[name]
            if points and number % 3 == 2:
                places = places or chance.sample(points, len(points))
                place = places.pop()
                yield place, die_at(place.removeprefix("die-at "))
            if number % 3 == 2 and not settings.only:
                one, other = chance.choice(LINKS), chance.choice(DEATHS)
                yield f"{one} + {other}", together(FAULTS[one], FAULTS[other])
        if not names:
            for place in chance.sample(points, len(points)):
                yield place, die_at(place.removeprefix("die-at "))


def _chosen(names: Iterable[str], only: Collection[str]) -> list[str]:
    """Those of `names` that are in `only`, whole or by their first word; all if it is empty."""
    return [name for name in names if not only or name in only or name.split()[0] in only]


def _faults(arena: Arena, load: Load, settings: Settings, report: Report) -> None:
    deadline = time.monotonic() + settings.seconds
    chance = random.Random(f"{settings.seed} times")
    _wait_write(load, now())
    with ThreadPoolExecutor(1) as pool:
        for name, fault in schedule(settings, arena):
            if time.monotonic() >= deadline:
                return
            entry = Injected(name)
            report.faults.append(entry)
            hold = chance.uniform(*settings.hold_seconds)
            word = chance.choice([*MEANWHILE, ""])
            try:
                _inject(arena, entry, fault(arena), pool, hold=hold, word=word)
            except (NotHere, NoNamespaces) as error:
                entry.skipped = str(error)
                log.info("%s: not injected: %s", name, error)
            _wait_write(load, now())
            arena.wait_healthy()
            time.sleep(chance.uniform(0.2, 1.0))


def _inject(
    arena: Arena,
    entry: Injected,
    steps: Iterator[str],
    pool: ThreadPoolExecutor,
    *,
    hold: float,
    word: str,
) -> None:
    """Inject, hold, heal; under the fault `word` is asked for, if anything."""
    entry.detail = next(steps)
    entry.injected = now()
    log.info("%s: %s, for %.1f s", entry.name, entry.detail, hold)
    asked = pool.submit(MEANWHILE[word], arena) if word else None
    time.sleep(hold)
    for _ in steps:
        raise AssertionError(f"{entry.name} yields twice")
    entry.healed = now()
    entry.meanwhile = f"{word}: {_outcome(asked)}" if asked else ""
    log.info("%s: healed; meanwhile %s", entry.name, entry.meanwhile or "nothing")


def _outcome(asked: Future[str]) -> str:
    """What was asked for under a fault may be refused or get no answer: that is no anomaly."""
    try:
        return asked.result(QUIET_SECONDS)
    except (ApiError, *NO_ANSWER) as error:
        return repr(error)


def _wait_write(load: Load, since: int) -> None:
    """Somebody's write that began after `since` is answered."""

    def written() -> bool:
        operations = load.history.operations
        return any(
            operation.called >= since and operation.outcome == "ok" and operation.request.writes
            for operation in operations[-1000:]
        )

    wait_until("a write is answered", written, RECOVERY_SECONDS)


# -- the end


def settle(load: Load, history: History) -> None:
    """Leases run out, members agree, watchers have heard all; then what each member holds."""
    urls = load.addresses.urls
    clients = {name: Client(url, SETTLED_CALL_SECONDS) for name, url in urls.items()}
    first = next(iter(clients.values()))
    wait_until(
        "all leases have ended",
        lambda: not first.prefix(LEASED, keys_only=True).kvs,
        QUIET_SECONDS + LEASE_TTL_SECONDS,
    )
    wait_until(
        "equal HashKV on all members",
        lambda: len({client.hash_kv() for client in clients.values()}) == 1,
        QUIET_SECONDS,
    )
    revision = first.revision()
    wait_until("watchers were told all", lambda: load.told() >= revision, QUIET_SECONDS)
    history.endings += [ending(name, client) for name, client in clients.items()]
    for client in clients.values():
        client.close()


def ending(name: str, client: Client) -> Ending:
    rows = tuple(
        (kv.key, Row(kv.value, kv.version, kv.create_revision, kv.mod_revision))
        for kv in client.everything(serializable=True)
    )
    alarms = tuple(each["alarm"] for each in client.alarms())
    revision = client.range(b"\0", serializable=True).revision
    return Ending(name, revision, rows, client.hash_kv(), alarms)
