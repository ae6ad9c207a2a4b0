"""What is done to the members. Each fault is a generator: up to `yield` it is injected, after it
healed; between the two it holds. `NotHere` says why a fault cannot be had on this machine.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.chaos import disks
from tests.chaos.arena import HEALTHY_SECONDS, Arena
from tests.chaos.faulty_disk import (
    FOR_EVER,
    PLACES,
    SYNCS,
    WRITES,
    FaultyDisk,
    NoLibrary,
    last_words,
)
from tests.cluster.client import NO_ANSWER, ApiError
from tests.cluster.harness import Member, Overdue, wait_until

DEAD_AT_FAILPOINT = 77
DIE_SECONDS = 12.0
LEAD_SECONDS = 20.0

Fault = Callable[[Arena], Iterator[str]]
"""Yields once, what exactly was done."""

FAULTS: dict[str, Fault] = {}


class NotHere(Exception):
    """This fault cannot be injected here; the text says why."""


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__.replace("_", "-")] = function
    return function


# -- processes


def _kill(arena: Arena, members: list[Member]) -> Iterator[str]:
    for member in members:
        assert member.process is not None
        member.process.kill()
    for member in members:
        member.wait_exit()
    yield ", ".join(member.name for member in members)
    for member in arena.chance.sample(members, len(members)):
        member.start()


@fault
def kill_one(arena: Arena) -> Iterator[str]:
    yield from _kill(arena, [arena.follower()])


@fault
def kill_leader(arena: Arena) -> Iterator[str]:
    yield from _kill(arena, [arena.leader()])


@fault
def kill_majority(arena: Arena) -> Iterator[str]:
    yield from _kill(arena, arena.chance.sample(arena.cluster.members, 2))


@fault
def kill_all(arena: Arena) -> Iterator[str]:
    yield from _kill(arena, arena.cluster.members)


def _pause(members: list[Member]) -> Iterator[str]:
    for member in members:
        member.pause()
    yield ", ".join(member.name for member in members)
    for member in members:
        member.resume()


@fault
def pause_one(arena: Arena) -> Iterator[str]:
    yield from _pause([arena.follower()])


@fault
def pause_leader(arena: Arena) -> Iterator[str]:
    yield from _pause([arena.leader()])


@fault
def pause_all(arena: Arena) -> Iterator[str]:
    yield from _pause(arena.cluster.members)


@fault
def rolling_restart(arena: Arena) -> Iterator[str]:
    """Everybody in turn, as an upgrade does."""
    order = arena.chance.sample(arena.cluster.members, len(arena.cluster))
    for member in order:
        code = member.stop()
        assert code == 0, f"{member.name} ended with {code} when it was asked to stop"
        member.start()
        member.wait_healthy(HEALTHY_SECONDS)
    yield ", ".join(member.name for member in order)


# -- the network


def _heal(arena: Arena) -> None:
    arena.links.heal(late=arena.chance.random() < 0.5)


@fault
def isolate_leader(arena: Arena) -> Iterator[str]:
    name = arena.leader().name
    arena.links.cut(arena.both_ways([name], arena.names))
    yield name
    _heal(arena)


@fault
def isolate_one(arena: Arena) -> Iterator[str]:
    name = arena.follower().name
    arena.links.cut(arena.both_ways([name], arena.names))
    yield name
    _heal(arena)


@fault
def isolate_all(arena: Arena) -> Iterator[str]:
    arena.links.cut(arena.both_ways(arena.names, arena.names))
    yield "no two hear each other"
    _heal(arena)


@fault
def deaf_leader(arena: Arena) -> Iterator[str]:
    """It is heard by all, and hears nobody."""
    name = arena.leader().name
    arena.links.cut(arena.pairs(arena.names, [name]))
    yield name
    _heal(arena)


@fault
def mute_leader(arena: Arena) -> Iterator[str]:
    """It hears everybody, and is heard by none."""
    name = arena.leader().name
    arena.links.cut(arena.pairs([name], arena.names))
    yield name
    _heal(arena)


@fault
def deaf_one(arena: Arena) -> Iterator[str]:
    name = arena.follower().name
    arena.links.cut(arena.pairs(arena.names, [name]))
    yield name
    _heal(arena)


@fault
def bridge(arena: Arena) -> Iterator[str]:
    """The leader and one follower do not hear each other; the third hears both."""
    one, other = arena.leader().name, arena.follower().name
    arena.links.cut(arena.both_ways([one], [other]))
    yield f"{one} and {other} apart"
    _heal(arena)


@fault
def ring(arena: Arena) -> Iterator[str]:
    """Each hears one other, and not the one that hears it."""
    names = arena.chance.sample(arena.names, len(arena.names))
    arena.links.cut(zip(names, [*names[1:], names[0]], strict=True))
    yield " > ".join(names)
    _heal(arena)


@fault
def resets(arena: Arena) -> Iterator[str]:
    """Every connection ends at once, again and again."""
    total = 0
    for _ in range(5):
        total += arena.links.reset()
        with suppress(ApiError, *NO_ANSWER):
            arena.ask(arena.anybody(), "maintenance/status", {}, 0.5)
    yield f"{total} connections"


@fault
def slow_links(arena: Arena) -> Iterator[str]:
    seconds = arena.chance.choice((0.02, 0.1, 0.25))
    arena.links.slow(arena.both_ways(arena.names, arena.names), seconds)
    yield f"up to {seconds * 1e3:g} ms one way"
    arena.links.heal()


@fault
def lossy_links(arena: Arena) -> Iterator[str]:
    arena.links.lose(arena.both_ways(arena.names, arena.names), 0.1, 0.01)
    yield "1 of 10 comes late, 1 of 100 ends its connection"
    arena.links.heal()


# -- disks


@fault
def slow_disk(arena: Arena) -> Iterator[str]:
    member = arena.anybody()
    _restart(member, "wal.before_sync=sleep(60);backend.before_commit=sleep(300)")
    yield f"{member.name}: 60 ms per sync, 300 ms per batch of the store"
    _restart(member)


@fault
def full_disk(arena: Arena) -> Iterator[str]:
    """Not a byte is left for the first member, which may then go on or stop, but not lie."""
    if arena.small_disk is None:
        raise NotHere("only root may mount a small file system")
    member = arena.cluster[0]
    ballast = arena.small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            continue
    # What is open already has its room; who starts now has to make some.
    if arena.chance.random() < 0.5:
        _restart(member)
    yield f"{member.name}, {shutil.disk_usage(arena.small_disk).free} bytes left"
    ballast.unlink()


def _faulty_disk(arena: Arena, member: Member) -> FaultyDisk:
    """The disk of a member that is started again on it, and well so far."""
    try:
        disk = FaultyDisk(arena.root, member)
    except NoLibrary as error:
        raise NotHere(str(error)) from error
    member.kill()
    member.start(environment=disk.environment)
    with suppress(Overdue):
        member.wait_healthy(20)
    return disk


def _failing(arena: Arena, calls: int, errors: tuple[int, ...]) -> Iterator[str]:
    """One call fails and the next would succeed, or all do: either way the member has to end, for
    nobody can tell what is on the disk.
    """
    member, place, error = arena.anybody(), arena.chance.choice(PLACES), arena.chance.choice(errors)
    passes = arena.chance.choice((0, 1, 5, 70))
    times = arena.chance.choice((1, FOR_EVER))
    disk = _faulty_disk(arena, member)
    before = len(member.log())
    where = member.data_dir / "member" / place
    disk.fail(calls, where, error, passes=passes, times=times)
    try:
        code = member.wait_exit(DIE_SECONDS)
    except Overdue as overdue:
        assert not disk.met, f"{member.name} goes on although its disk failed"
        _restart(member)
        raise NotHere(f"{member.name} did not write to {place}") from overdue
    assert code == 1, f"{member.name} ended with {code}: {member.log()[-2000:]}"
    arena.due |= set(last_words(member.log()[before:], where, error))
    assert not disk.retried, f"{member.name} went on with a file whose sync had failed"
    disk.mend()
    yield f"{member.name}, {place}: {errno.errorcode[error]} after {passes} that went well"
    member.start()


@fault
def failing_sync(arena: Arena) -> Iterator[str]:
    """What it was to bring to the disk is lost."""
    yield from _failing(arena, SYNCS, (errno.EIO,))


@fault
def failing_write(arena: Arena) -> Iterator[str]:
    """The first half of it is there."""
    yield from _failing(arena, WRITES, (errno.EIO, errno.ENOSPC))


@fault
def delayed_disk(arena: Arena) -> Iterator[str]:
    """Every sync takes its time, of the log and of the store; the member stays."""
    member = arena.anybody()
    disk = _faulty_disk(arena, member)
    disk.delay(SYNCS, member.data_dir, 50, 500)
    yield f"{member.name}: 50 to 500 ms per sync"
    disk.mend()
    assert member.running, f"{member.name} ended by itself: {member.log()[-2000:]}"
    assert disk.met, f"{member.name} synced nothing"


@fault
def torn_tail(arena: Arena) -> Iterator[str]:
    """The power goes before a sync, and the last write is on disk in part."""
    member = arena.anybody()
    _restart(member, f"wal.before_sync=exit@{arena.chance.randrange(2, 30)}")
    _wait_death(member)
    yield f"{member.name}, {disks.tear(member.data_dir)}"
    member.start()


@fault
def garbage_tail(arena: Arena) -> Iterator[str]:
    member = arena.anybody()
    member.kill()
    yield f"{member.name}, {disks.append_garbage(member.data_dir, arena.chance)}"
    member.start()


# -- named places to die at


def _restart(member: Member, failpoints: str = "") -> None:
    member.kill()
    member.start(failpoints=failpoints)


def _wait_death(member: Member) -> None:
    try:
        code = member.wait_exit(DIE_SECONDS)
    except Overdue as error:
        _restart(member)
        raise NotHere(f"{member.name} did not come to its failpoint") from error
    assert code == DEAD_AT_FAILPOINT, f"{member.name} ended with {code}: {member.log()[-2000:]}"


def die_at(name: str) -> Fault:
    """Death at a failpoint, with what it takes to get there."""
    area = name.partition(".")[0]
    if area in ("install", "snapshot"):
        return _die_of_a_snapshot(name)

    def at_failpoint(arena: Arena) -> Iterator[str]:
        if name.startswith("wal.") and name.endswith("_cut"):
            raise NotHere("a segment is full after 64 MiB; see tests/cluster/test_failpoints.py")
        victim = arena.anybody()
        times = arena.chance.randrange(1, 20) if area in ("apply", "backend", "wal") else 1
        _restart(victim, f"{name}=exit@{times}")
        _reach(arena, victim, area)
        _wait_death(victim)
        yield f"{victim.name}, at hit {times}"
        victim.start()

    return at_failpoint


def _die_of_a_snapshot(name: str) -> Fault:
    """A member begins again, empty; who sends it the others' state dies, or who receives it."""

    def at_failpoint(arena: Arena) -> Iterator[str]:
        armed = f"{name}=exit"
        newcomer = arena.follower()
        asked = arena.others(newcomer)[0]
        number = newcomer.id
        newcomer.kill()
        newcomer.wipe()
        remove(arena, asked, number)
        if name.startswith("install"):
            victim = newcomer
            join(arena, asked, newcomer, failpoints=armed)
        else:
            victim = arena.others(newcomer)[1]
            _restart(victim, armed)
            with suppress(Overdue):
                wait_until(f"{victim.name} leads", lambda: _led(arena, victim), LEAD_SECONDS)
            join(arena, asked, newcomer)
        _wait_death(victim)
        yield victim.name
        victim.start()

    return at_failpoint


def _led(arena: Arena, member: Member) -> bool:
    """Whether it leads; if not, whoever does is asked to hand over."""
    leader = arena.known_leader()
    if leader is not None and leader is not member:
        arena.ask(leader, "maintenance/transfer-leadership", {"targetID": member.id}, 5.0)
    return leader is member


def _reach(arena: Arena, victim: Member, area: str) -> None:
    """Ask for what leads there. Whoever is asked may die of it, or have died before it was well."""
    if area not in ("compaction", "defrag"):
        return
    with suppress(AssertionError):
        victim.wait_healthy(20)
    with suppress(ApiError, *NO_ANSWER):
        if area == "compaction":
            compact(arena)
        else:
            arena.ask(victim, "maintenance/defragment", {})


# -- membership


@fault
def replace_member(arena: Arena) -> Iterator[str]:
    """A member loses its disk: removed, added under a new id, caught up by a snapshot."""
    member = arena.anybody()
    asked = arena.others(member)[0]
    number = member.id
    member.kill()
    member.wipe()
    yield member.name
    remove(arena, asked, number)
    join(arena, asked, member)


@fault
def learner(arena: Arena) -> Iterator[str]:
    """A member goes, and comes back as a learner that is promoted."""
    member = arena.anybody()
    asked = arena.others(member)[0]
    number = member.id
    remove(arena, asked, number)
    member.kill()
    member.wipe()
    yield member.name
    number = join(arena, asked, member, learner=True)
    arena.insist(asked, "cluster/member/promote", {"ID": number}, f"{member.name} is promoted")


def ids(arena: Arena, asked: Member) -> dict[int, list[str]]:
    """Peer URLs by member id."""
    listed = arena.insist(asked, "cluster/member/list", {}, "a member list")["members"]
    return {int(each["ID"]): each["peerURLs"] for each in listed}


def remove(arena: Arena, asked: Member, number: int) -> None:
    """An answer that was lost is no reason to fail: it is gone when the list says so."""

    def gone() -> bool:
        if number in ids(arena, asked):
            arena.ask(asked, "cluster/member/remove", {"ID": number})
        return number not in ids(arena, asked)

    wait_until(f"member {number:x} is removed", gone, HEALTHY_SECONDS)


def join(
    arena: Arena, asked: Member, member: Member, *, learner: bool = False, failpoints: str = ""
) -> int:
    """Add it and start it on an empty disk; its new id."""
    url = arena.peer_urls[member.name]
    found: list[int] = []

    def added() -> bool:
        found[:] = [number for number, urls in ids(arena, asked).items() if urls == [url]]
        if not found:
            arena.ask(asked, "cluster/member/add", {"peerURLs": [url], "isLearner": learner})
        return bool(found)

    wait_until(f"{member.name} is added", added, HEALTHY_SECONDS)
    member.flags["initial-cluster-state"] = "existing"
    member.start(failpoints=failpoints)
    return found[0]


# -- clocks


@fault
def clock_steps(arena: Arena) -> Iterator[str]:
    """A member's wall clock jumps an hour ahead, and then two back."""
    member = arena.anybody()
    arena.clock_file.write_text("0")
    path = Path(__file__).with_name("clock")
    environment = {"PYTHONPATH": str(path), "ESKER_TEST_CLOCK": str(arena.clock_file)}
    member.kill()
    member.start(environment=environment)
    with suppress(Overdue):
        member.wait_healthy(20)
    arena.clock_file.write_text("3600")
    yield f"{member.name}: an hour ahead, then an hour behind"
    arena.clock_file.write_text("-3600")


# -- two at a time

LINKS = ("bridge", "ring", "isolate-one", "deaf-leader", "slow-links", "lossy-links", "slow-disk")
DEATHS = ("kill-one", "kill-leader", "kill-majority", "kill-all", "pause-leader", "garbage-tail")
"""Those of which any pair can be had: neither needs a healthy cluster to be injected or healed."""


def together(one: Fault, other: Fault) -> Fault:
    """The second within the first."""

    def both(arena: Arena) -> Iterator[str]:
        outer, inner = one(arena), other(arena)
        yield f"{next(outer)}; {next(inner)}"
        for steps in (inner, outer):
            for _ in steps:
                raise AssertionError("a fault yields twice")

    return both


# -- what is asked for meanwhile


def compact(arena: Arena) -> str:
    """Up to what every watcher has been told, physically."""
    revision = arena.told()
    arena.ask(arena.anybody(), "kv/compaction", {"revision": revision, "physical": True})
    return f"to {revision}"


def defragment(arena: Arena) -> str:
    member = arena.anybody()
    arena.ask(member, "maintenance/defragment", {})
    return member.name


def snapshot(arena: Arena) -> str:
    member = arena.anybody()
    client = member.connect()
    try:
        return f"{sum(map(len, client.snapshot()))} bytes from {member.name}"
    finally:
        client.close()


def move_leader(arena: Arena) -> str:
    leader = arena.leader()
    target = arena.chance.choice(arena.others(leader))
    number = int(arena.ask(target, "maintenance/status", {}, 1.0)["header"]["member_id"])
    arena.ask(leader, "maintenance/transfer-leadership", {"targetID": number})
    return f"{leader.name} to {target.name}"


MEANWHILE: dict[str, Callable[[Arena], str]] = {
    "compact": compact,
    "defragment": defragment,
    "snapshot": snapshot,
    "move-leader": move_leader,
}
