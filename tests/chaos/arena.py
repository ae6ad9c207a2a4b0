"""Three members whose peer connections go through relays; their settings make rare paths common."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.chaos.links import Links, Pair
from tests.chaos.load import Addresses
from tests.chaos.namespaces import Namespaces, NoNamespaces
from tests.cluster.client import NO_ANSWER, ApiError
from tests.cluster.harness import ROOT, Cluster, Member, Overdue, wait_until

CONFIG = ROOT / "cluster-configs" / "chaos.toml"
SMALL_DISK_BYTES = 224 << 20
"""The log takes 64 MiB for itself and as much for its reserve before the first entry comes."""
ASK_SECONDS = 1.0
HEALTHY_SECONDS = 60.0


class Arena:
    """The cluster and its network. `told()` is the revision up to which all watchers have heard:
    nobody may compact beyond it. `small_disk` is where the first member's data are, if anywhere.
    `due` are the fatal lines of members that had to end.
    """

    def __init__(
        self, root: Path, *, seed: int, small_disk: bool = True, namespaces: bool = False
    ) -> None:
        self.chance = random.Random(f"{seed} faults")
        self.cluster = Cluster(root, 3, {"config-file": str(CONFIG)})
        self.links: Links | Namespaces
        if namespaces:
            self.links = self._in_namespaces(Namespaces(self.processes, seed))
        else:
            self.links = Links(self.processes, seed)
        self.told: Callable[[], int] = lambda: 0
        self.root = root
        self.clock_file = root / "clock"
        self.due: set[str] = set()
        urls = {each.name: self.links.add(each.name, each.peer_url) for each in self.cluster}
        initial = ",".join(f"{name}={url}" for name, url in urls.items())
        for member in self.cluster:
            member.flags |= {
                "initial-cluster": initial,
                "initial-advertise-peer-urls": urls[member.name],
                "watch-progress-notify-interval": "1s",
                # Members compare their data all the time: a false alarm is an anomaly, too.
                "corrupt-check-time": "1s",
                "compact-hash-check-enabled": "true",
                "compact-hash-check-time": "500ms",
            }
        self.peer_urls = urls
        self.small_disk = self._mount() if small_disk else None

    def _in_namespaces(self, network: Namespaces) -> Namespaces:
        try:
            for member in self.cluster:
                member.client_url, member.peer_url = network.place(member.name)
                member.command = (*network.prefix(member.name), *Member.command)  # type: ignore[misc]
        except NoNamespaces:
            network.close()
            raise
        return network

    def _mount(self) -> Path | None:
        """A small file system in memory for the first member; None where that is not allowed."""
        place = self.root / "small-disk"
        place.mkdir(parents=True)
        options = f"size={SMALL_DISK_BYTES}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            return None
        self.cluster[0].data_dir = place / "data"
        return place

    def close(self) -> None:
        self.cluster.end()
        self.links.close()
        if self.small_disk is not None:
            subprocess.run(["umount", "-l", str(self.small_disk)], check=True, timeout=10)

    @property
    def names(self) -> list[str]:
        return [member.name for member in self.cluster]

    def addresses(self) -> Addresses:
        return Addresses({member.name: member.client_url for member in self.cluster})

    def processes(self) -> dict[str, int]:
        return {
            member.name: member.process.pid
            for member in self.cluster
            if member.process is not None and member.process.poll() is None
        }

    def known_leader(self) -> Member | None:
        """Who says, within a short time, that it leads."""
        for member in self.cluster.running():
            with suppress(ApiError, *NO_ANSWER):
                status = self.ask(member, "maintenance/status", {}, ASK_SECONDS)
                if status.get("leader", "0") == status["header"]["member_id"]:
                    return member
        return None

    def leader(self) -> Member:
        """The leader as far as it is known, else anybody: a fault has to have some victim."""
        return self.known_leader() or self.anybody()

    def anybody(self) -> Member:
        return self.chance.choice(self.cluster.members)

    def follower(self) -> Member:
        return self.chance.choice(self.others(self.leader()))

    def others(self, member: Member) -> list[Member]:
        return [each for each in self.cluster if each is not member]

    def pairs(self, one: Sequence[str], other: Sequence[str]) -> list[Pair]:
        """From each of the first to each of the second."""
        return [(a, b) for a in one for b in other if a != b]

    def both_ways(self, one: Sequence[str], other: Sequence[str]) -> list[Pair]:
        return [*self.pairs(one, other), *self.pairs(other, one)]

    def start(self) -> None:
        self.cluster.start()

    def wait_healthy(self) -> None:
        """Everybody runs and serves linearizable reads; who is down is started."""
        for member in self.cluster:
            if not member.running:
                member.start()
        self.cluster.wait_healthy(HEALTHY_SECONDS)

    def ask(self, member: Member, path: str, body: dict[str, Any], seconds: float = 15.0) -> Any:
        client = member.connect(seconds)
        try:
            return client.call(path, body)
        finally:
            client.close()

    def insist(self, member: Member, path: str, body: dict[str, Any], what: str) -> Any:
        """The answer, as soon as the cluster is well enough to give it."""
        answers: list[Any] = []

        def answered() -> bool:
            answers.append(self.ask(member, path, body))
            return True

        wait_until(what, answered, HEALTHY_SECONDS)
        return answers[0]

    def failpoints(self) -> list[str]:
        """The names of all places to die at, as a member that is given a wrong one lists them."""
        process = subprocess.run(
            [*Member.command, f"--data-dir={self.root / 'never'}"],
            env={**os.environ, "ESKER_FAILPOINTS": "?=exit"},
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        _, found, names = (process.stdout + process.stderr).strip().rpartition("there are ")
        if not found:
            raise Overdue(f"no failpoints are listed: {process.stderr}")
        return [name.strip() for name in names.splitlines()[0].split(",")]
