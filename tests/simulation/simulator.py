"""The simulator: one seed, one run of a whole cluster with clients and faults; or many at once.

    python -m tests.simulation.simulator 17                 one run, silent unless it fails
    python -m tests.simulation.simulator 17 --trace         with every event
    python -m tests.simulation.simulator --seeds 0..500     many, in parallel

A run: draw the options, start the members, let clients and the nemesis work; heal, restart all, and
let every member come to the same state; then let the checkers read the history.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from raft import checkpoints
from tests.simulation import checkers
from tests.simulation.history import History, Violation
from tests.simulation.journal import Journal
from tests.simulation.nemesis import Nemesis
from tests.simulation.sim_cluster import SimCluster, SimMember
from tests.simulation.sim_loop import Life, SimLoop
from tests.simulation.swarm import Options, draw
from tests.simulation.watchdog import Watchdog
from tests.simulation.watching import Watcher
from tests.simulation.workload import KvClient, Lessee, Locker

SEEDS = Path(__file__).with_name("seeds.txt")

SECONDS = 8.0
"""Of faults, unless asked for more."""
_HEALING_SECONDS = 40.0
_CALM_SECONDS = 4.0
"""After the last write, for watches to hear of it."""
_LAST_EVENTS = 60
_PROGRESS_SEEDS = 20
"""Between two words of progress, where nobody watches."""
_REFUSALS = ("NoSpace", "KeyNotFound", "Compacted", "FutureRevision")
"""Answers, too."""
_REAL_SECONDS = 30
"""Of the processor, for one of many seeds: more is a loop without an end."""


class NoEnd(KeyboardInterrupt):
    """Nothing on its way up takes it for an error of its own and goes on."""


@dataclass
class Report:
    """What became of one seed; `problem` is empty when all invariants held."""

    seed: int
    problem: str = ""
    detail: str = ""
    digest: str = ""
    simulated: float = 0.0
    took: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)


class Simulation:
    """One run. It is its cluster's observer."""

    def __init__(self, seed: int, seconds: float, tell: Callable[[str], None] | None) -> None:
        random = Random(seed)
        self.options: Options = draw(random)
        self.seconds = seconds
        self.random = random
        self.loop = SimLoop()
        self.life = Life("clients")
        self.everybody: list[SimMember] = []
        self.journal = Journal(self.loop.time, tell)
        self.history = History(self.journal)
        self.history.now = self.loop.time
        self.history.stop = self.loop.stop
        options = self.options
        cluster = SimCluster(
            self.loop, random, self.journal, self, segment_bytes=options.segment_bytes
        )
        cluster.network.faults = options.links
        self._pause_seconds = checkpoints.PAUSE_SECONDS
        checkpoints.PAUSE_SECONDS = options.truncation_pause
        cluster.sync_seconds = lambda: random.uniform(*options.sync_seconds)
        cluster.commit_seconds = lambda: random.uniform(*options.commit_seconds)
        self.cluster = cluster
        self.nemesis = Nemesis(cluster, self.history, random, options)
        self.watchdog = Watchdog(cluster, self.history)
        self.clients: list[KvClient | Lessee | Locker | Watcher] = []
        self.stage = "start"
        self._rest = checkers.Rest(0, -1, [])

    # -- sim_cluster.Observer

    def opened(self, member: SimMember, server: object) -> None:
        self.history.opened(member, member.server)
        if member not in self.everybody:
            self.everybody.append(member)

    def ended(self, member: SimMember, left: list[str]) -> None:
        try:
            self.nemesis.explains(member)
            if left:
                raise Violation(f"{member.name} ended and left {left}")
        except Violation as error:
            self.history.violated(str(error))

    # -- the run

    def run(self) -> None:
        """Violation, or whatever else went wrong."""
        asyncio.set_event_loop(self.loop)
        main = self.loop.create_task(self._main(), context=self.life.context())
        try:
            self.loop.run_until_complete(main)
        except BaseException:
            if self.history.violation is not None:
                raise self.history.violation from None
            raise
        finally:
            self._end_all()
        if self.loop.errors:
            error = self.loop.errors[0]
            where = "".join(traceback.format_exception(error))
            raise Violation(f"an error that nobody handled: {error!r}\n{where}")

    def _end_all(self) -> None:
        """Nothing of it shall be left to the collector."""
        for member in self.everybody:
            member.crash(power=False)
        for life in [member.life for member in self.everybody] + [self.life]:
            life.alive = False
            life.bury()
        asyncio.set_event_loop(None)
        self.loop.close()
        checkpoints.PAUSE_SECONDS = self._pause_seconds

    async def _main(self) -> None:
        cluster, options, loop = self.cluster, self.options, self.loop
        cluster.found(options.members, options.settings)
        for member in cluster.members.values():
            member.start()
        background = [
            loop.create_task(self._watched(self.nemesis.keep())),
            loop.create_task(self._watched(self.watchdog.run())),
        ]
        self._make_clients()
        working = [loop.create_task(self._watched(each.run())) for each in self.clients]
        faults = loop.create_task(self._watched(self.nemesis.run()))
        self.stage = "faults"
        await asyncio.sleep(self.seconds)
        self.stage = "healing"
        faults.cancel()
        await asyncio.gather(faults, return_exceptions=True)
        self.nemesis.heal()
        self.journal.note("heal", "nemesis")
        await self._converge("after healing")
        await self.nemesis.clear_alarms()
        await self._prove_liveness()
        self.stage = "last words"
        for each in self.clients:
            if not isinstance(each, Watcher):
                each.running = False
        writers = [
            task
            for task, each in zip(working, self.clients, strict=True)
            if not isinstance(each, Watcher)
        ]
        await self._joined(writers)
        await self._leases_end()
        await self._converge("at rest")
        for each in self.clients:
            if isinstance(each, Watcher):
                each.calm = True
        await asyncio.sleep(_CALM_SECONDS)
        for each in self.clients:
            each.running = False
        await self._joined(working)
        self.watchdog.look()
        for member in cluster.living():
            # Hundreds of rows, one every 50 ms, with heartbeats all the while, would prove no more.
            member.server.compactor._pause = 0.0
        await self._until("all compactions are finished", self._compacted)
        self._compare_states()
        for task in background:
            task.cancel()
        await self._stop_all()
        self.stage = "checkers"
        self._check_history()

    async def _watched(self, coroutine: object) -> None:
        """An error of ours ends the run."""
        try:
            await coroutine  # type: ignore[misc]
        except Exception as error:
            if self.history.violation is None:
                self.history.violation = error if isinstance(error, Violation) else _wrapped(error)
            self.loop.stop()
            raise

    def _make_clients(self) -> None:
        options = self.options
        kinds = (
            ("c", KvClient, options.clients),
            ("w", Watcher, options.watchers),
            ("l", Lessee, options.lessees),
            ("x", Locker, options.lockers),
        )
        for letter, kind, count in kinds:
            for number in range(1, count + 1):
                name = f"{letter}{number}"
                self.clients.append(kind(self.cluster, self.history, self.random, name, options))

    async def _joined(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            await task

    async def _converge(self, when: str) -> None:
        """Every member is up and has applied the same entries."""
        await self._until(f"all have one state {when}", self._converged)

    def _converged(self) -> bool:
        members = list(self.cluster.members.values())
        leader = self.cluster.leader
        if leader is None or not all(m.serving and m.listening for m in members):
            return False
        present = {each.ID for each in leader.server.members.list()}
        if present != {m.number for m in members}:
            return False
        applied = {m.server.applied_index for m in members}
        close = max(applied) - min(applied) <= (0 if self.stage == "last words" else 20)
        return close and not any(m.server.installing for m in members)

    async def _prove_liveness(self) -> None:
        """Each member answers a write and a linearizable read."""
        prover = KvClient(self.cluster, self.history, self.random, "prover", self.options)
        prover.timeout = 8.0
        for member in list(self.cluster.members.values()):
            if member.name not in self.cluster.members:
                continue
            await self._until(f"{member.name} serves", lambda m=member: m.serving)  # type: ignore[misc]
            if member.server.is_learner:
                continue
            for ask in (prover._put, prover._get):
                for _ in range(10):
                    result = await ask(member)
                    if not isinstance(result, Exception) and hasattr(result, "revision"):
                        break
                    if type(result).__name__ in _REFUSALS:
                        await self.nemesis.clear_alarms()
                        break
                    await asyncio.sleep(0.5)
                    if member.name not in self.cluster.members:
                        break
                else:
                    raise Violation(f"liveness: {member.name} answers {result!r} after healing")

    async def _leases_end(self) -> None:
        """Nobody renews any more, so all leases end."""
        members = self.cluster.living
        await self._until(
            "no lease is left", lambda: not any(m.server.lessor.leases() for m in members())
        )

    def _compacted(self) -> bool:
        """An automatic one may have been applied by some only."""
        living = self.cluster.living()
        applied = {member.server.applied_index for member in living}
        return len(applied) == 1 and all(member.server.compactor.idle for member in living)

    def _compare_states(self) -> None:
        """Rows of all tables, but for what says how far a member is."""
        living = self.cluster.living()
        first = living[0]
        for table in ("key", "lease", "alarm", "members", "members_removed", "cluster", "auth"):
            rows = first.server.backend.rows(table)  # type: ignore[attr-defined]
            for other in living[1:]:
                theirs = other.server.backend.rows(table)  # type: ignore[attr-defined]
                if theirs != rows:
                    odd = [row for row in rows + theirs if row not in rows or row not in theirs]
                    raise Violation(
                        f"states: table {table} of {first.name} and {other.name} differ: {odd[:4]}"
                    )
        store = first.server.store
        rows = [key for key, _ in first.server.backend.rows("key")]  # type: ignore[attr-defined]
        self._rest = checkers.Rest(store.current_rev, store.compact_rev, rows)

    async def _stop_all(self) -> None:
        self.stage = "stop"
        members = list(self.cluster.members.values())
        await self._until("nobody waits at any member", self._idle)
        for member in members:
            self.nemesis.ask_to_stop(member)
        await self._until("all members are down", lambda: all(each.down for each in members))

    def _idle(self) -> bool:
        return not any(
            member.server.proposals_pending or member.server.watches.store.status().watchers
            for member in self.cluster.living()
        )

    async def _until(
        self, what: str, holds: Callable[[], bool], seconds: float = _HEALING_SECONDS
    ) -> None:
        """Violation unless it comes true in time."""
        deadline = self.loop.time() + seconds
        while not holds():
            if self.loop.time() > deadline:
                states = [_state(member) for member in self.cluster.members.values()]
                raise Violation(f"liveness: it never comes true that {what}: {states}")
            await asyncio.sleep(0.1)

    def _check_history(self) -> None:
        story = checkers.Story(self.history)
        checkers.check_operations(story)
        logs = [log for each in self.clients if isinstance(each, Watcher) for log in each.logs]
        checkers.check_watches(story, logs, story.model.revision)
        checkers.check_leases(story)
        checkers.check_rows(story, self._rest)


def _state(member: SimMember) -> tuple[object, ...]:
    """For a message."""
    if not member.serving:
        return member.name, "runs" if member.alive else "down", repr(member.failure)
    server = member.server
    listed = [(f"{each.ID:x}", each.peerURLs) for each in server.members.list()]
    return (
        *(member.name, f"{member.number:x}", member.listening, server.applied_index),
        *(server.raft_term, f"{server.leader:x}", server.installing, listed),
        *(server.proposals_pending, server.watches.store.status()),
    )


def _wrapped(error: Exception) -> Violation:
    return Violation("the simulation failed: " + "".join(traceback.format_exception(error)))


def run(seed: int, seconds: float = SECONDS, tell: Callable[[str], None] | None = None) -> Report:
    """One seed, from beginning to end. Never raises what the run finds."""
    report = Report(seed)
    started = time.process_time()
    simulation = Simulation(seed, seconds, tell)
    try:
        simulation.run()
    except Violation as violation:
        report.problem = f"{simulation.stage}: {violation}"
    except (Exception, NoEnd) as error:
        report.problem = f"{simulation.stage}: {error!r}"
        report.detail = traceback.format_exc()
    journal = simulation.journal
    if report.problem:
        report.detail += "\n".join(
            [*simulation.options.lines(), *journal.last(("disk", "message"))[-_LAST_EVENTS:]]
        )
    report.digest = journal.digest
    report.simulated = simulation.loop.time()
    report.took = time.process_time() - started
    report.counts.update({f"event: {kind}": count for kind, count in journal.counts.items()})
    report.counts.update({f"entry: {kind}": n for kind, n in simulation.history.kinds.items()})
    report.counts.update({f"fault: {kind}": n for kind, n in simulation.nemesis.done.items()})
    report.counts["operations"] = len(simulation.history.operations)
    report.counts["answered"] = sum(
        operation.ended is not None for operation in simulation.history.operations
    )
    report.counts["entries"] = len(simulation.history.entries)
    report.counts["terms with a leader"] = len(simulation.history.leaders)
    return report


def _one(job: tuple[int, float]) -> Report:
    logging.disable(logging.CRITICAL)

    def give_up(_signal: int, _frame: object) -> None:
        raise NoEnd(f"no end after {_REAL_SECONDS} CPU seconds")

    signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, _REAL_SECONDS)
    report = run(*job)
    signal.setitimer(signal.ITIMER_PROF, 0)
    gc.collect()
    return report


def run_many(seeds: range, seconds: float, jobs: int) -> list[Report]:
    """Reports of those that failed are printed as they come."""
    reports: list[Report] = []
    total: Counter[str] = Counter()
    started = time.monotonic()
    # Not concurrent.futures: its pool can stand still when it replaces a process.
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=25) as pool:
        for report in pool.imap(_one, [(seed, seconds) for seed in seeds]):
            reports.append(report)
            total.update(report.counts)
            if report.problem:
                print(f"\nseed {report.seed} FAILED: {report.problem[:2000]}")
                print(_replay(report.seed), flush=True)
            if sys.stderr.isatty() or len(reports) % _PROGRESS_SEEDS == 0:
                progress = f"\r{len(reports)}/{len(seeds)} seeds, {_failed(reports)} failed"
                print(progress, end="", file=sys.stderr, flush=True)
    simulated = sum(report.simulated for report in reports)
    cpu = sum(report.took for report in reports)
    print(f"\n{len(reports)} seeds, {_failed(reports)} failed")
    print(f"{simulated / 3600:.2f} simulated hours, {simulated / cpu:.1f} s per CPU second")
    print(f"{time.monotonic() - started:.0f} s")
    for name, count in sorted(total.items()):
        print(f"  {name:32} {count}")
    return reports


def found_seeds() -> list[int]:
    """Those that once found something: the lines of seeds.txt that are no comments."""
    lines = SEEDS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def keep(failing: list[int]) -> None:
    """They are run by the tests from now on."""
    new = sorted(set(failing) - set(found_seeds()))
    with SEEDS.open("a") as file:
        file.writelines(f"{seed}\n" for seed in new)
    if new:
        print(f"kept in {SEEDS.name}: {new}")


def _failed(reports: list[Report]) -> int:
    return sum(bool(report.problem) for report in reports)


def _replay(seed: int) -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    commit = found.stdout.strip() or "unknown"
    return f"replay: python -m tests.simulation.simulator {seed} --trace   (at commit {commit})"


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or int(first) + 1))


def main() -> int:
    parser = argparse.ArgumentParser(description="simulate clusters, each decided by its seed")
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--seeds", type=_seeds, help="A..B: many, B excluded")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="simulated, of faults")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--logs", action="store_true", help="print what the members log")
    arguments = parser.parse_args()
    if arguments.seeds is not None:
        reports = run_many(arguments.seeds, arguments.seconds, arguments.jobs)
        failing = [report.seed for report in reports if report.problem]
        if arguments.seconds == SECONDS:
            keep(failing)
        return int(bool(failing))
    if arguments.logs:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
    else:
        logging.disable(logging.CRITICAL)
    report = run(arguments.seed or 0, arguments.seconds, print if arguments.trace else None)
    print(f"seed {report.seed}: {report.problem or 'all invariants hold'}")
    print(f"digest {report.digest}, {report.simulated:.1f} simulated s in {report.took:.1f} CPU s")
    if report.problem:
        print(report.detail)
        print(_replay(report.seed))
    return int(bool(report.problem))


if __name__ == "__main__":
    sys.exit(main())
