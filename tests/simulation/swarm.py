"""What a seed makes of a run: sizes, limits and faults, each drawn, so that rare paths are common.

A fault kind is on in some runs and off in others (swarm testing): faults that always come together
hide from each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tests.simulation.sim_network import LinkFaults

FAULTS = (
    "kill",
    "power cut",
    "blackout",
    "die at",
    "die in a write",
    "pause",
    "partition",
    "one way",
    "flapping",
    "clog",
    "slow disk",
    "sync error",
    "write error",
    "no space",
    "stop",
    "depose",
    "leave behind",
    "transfer",
    "defragment",
    "compact",
    "grow",
    "replace",
    "damage",
)
"""What the nemesis can do."""


@dataclass
class Options:
    """One run. `faults` are kinds and their weights; `pause` the mean seconds between two."""

    members: int
    clients: int
    watchers: int
    lessees: int
    lockers: int
    keys: int
    think: float
    client_timeout: float
    faults: dict[str, int]
    pause: float
    links: LinkFaults
    sync_seconds: tuple[float, float]
    commit_seconds: tuple[float, float]
    segment_bytes: int
    truncation_pause: float
    settings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a report."""
        return [f"{name}: {value}" for name, value in vars(self).items()]


def draw(random: Random) -> Options:
    kinds = random.sample(FAULTS, random.randint(3, len(FAULTS)))
    faults = {kind: random.choice((1, 1, 2, 4)) for kind in kinds}
    if random.random() < 0.05:
        faults = {}
    return Options(
        members=random.choice((1, 3, 3, 3, 3, 5, 5, 7)),
        clients=random.randint(2, 6),
        watchers=random.randint(0, 4),
        lessees=random.randint(0, 3),
        lockers=random.choice((0, 0, 2, 3)),
        keys=random.choice((3, 8, 20)),
        think=random.choice((0.01, 0.05, 0.2)),
        client_timeout=random.choice((0.5, 2.0, 8.0)),
        faults=faults,
        pause=random.choice((0.3, 0.7, 1.5)),
        links=_links(random),
        sync_seconds=random.choice(((0.0005, 0.002), (0.002, 0.02), (0.0, 0.1))),
        commit_seconds=random.choice(((0.001, 0.005), (0.01, 0.3))),
        segment_bytes=random.choice((4 << 10, 16 << 10, 64 << 10)),
        truncation_pause=random.choice((0.1, 0.1, 2.0, 30.0)),
        settings=_settings(random),
    )


def _links(random: Random) -> LinkFaults:
    """Quiet networks are as instructive as bad ones."""
    if random.random() < 0.3:
        return LinkFaults(delay=random.choice((0.0002, 0.005)), jitter=0.001)
    return LinkFaults(
        delay=random.choice((0.0002, 0.001, 0.02)),
        jitter=random.choice((0.0, 0.002, 0.03)),
        loss=random.choice((0.0, 0.001, 0.02, 0.1)),
        duplicate=random.choice((0.0, 0.01, 0.1)),
        reorder=random.choice((0.0, 0.01, 0.2)),
        slow=random.choice((0.0, 0.001, 0.01)),
    )


def _settings(random: Random) -> list[str]:
    heartbeat = random.choice((20, 50, 100))
    election = heartbeat * random.choice((5, 10, 20))
    flags = {
        "heartbeat-interval": heartbeat,
        "election-timeout": min(election, 1000),
        "snapshot-count": random.choice((5, 5, 20, 50, 10_000)),
        "snapshot-catchup-entries": random.choice((0, 0, 5, 20, 5_000)),
        "compaction-batch-limit": random.choice((1, 5, 1000)),
        "compaction-sleep-interval": random.choice(("1ms", "50ms")),
        "backend-batch-interval": random.choice(("1ms", "100ms", "1s")),
        "initial-election-tick-advance": random.choice(("true", "false")),
        "watch-progress-notify-interval": random.choice(("100ms", "1s", "10m")),
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": "0",
    }
    if random.random() < 0.6:
        flags["strict-reconfig-check"] = "false"
    if random.random() < 0.2:
        flags["quota-backend-bytes"] = random.choice((20_000, 60_000))
    if random.random() < 0.3:
        flags["corrupt-check-time"] = random.choice(("300ms", "2s"))
    if random.random() < 0.3:
        flags["compact-hash-check-enabled"] = "true"
        flags["compact-hash-check-time"] = random.choice(("200ms", "2s"))
    if random.random() < 0.2:
        flags["initial-corrupt-check"] = "true"
    if random.random() < 0.3:
        flags["auto-compaction-mode"] = "periodic"
        flags["auto-compaction-retention"] = random.choice(("1s", "4s"))
    return [f"--{name}={value}" for name, value in flags.items()]
