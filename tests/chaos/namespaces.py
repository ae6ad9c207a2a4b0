"""The network between members, the second way: network namespaces, packets dropped by rule.

For root only. Addresses, a bridge and a pair of devices per member are made for the run and removed
with it. A rule in the receiver's namespace drops what comes from one other member, so nothing is
held and connections die by silence, as in a real network; clients come from outside and pass.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from tests.chaos.links import Pair

MEMBER_PORT, CLIENT_PORT = 2380, 2379
CHAIN = "chaos"
COMMAND_SECONDS = 10.0


class NoNamespaces(Exception):
    """They cannot be made here; the text says why."""


def command(*words: str) -> None:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if done.returncode:
        raise NoNamespaces(f"{' '.join(words)}: {done.stderr.strip()}")


class Namespaces:
    """What `Links` is, with packets. `prefix(name)` runs a command in a member's namespace."""

    def __init__(self, _processes: Callable[[], Mapping[str, int]], _seed: int = 0) -> None:
        if os.geteuid() != 0:
            raise NoNamespaces("only root may make network namespaces")
        number = os.getpid()
        self._tag = f"ek{number % 100_000}"
        self._net = f"10.{200 + number % 50}.{number // 50 % 250}"
        self._members: dict[str, str] = {}
        self._bridge = f"{self._tag}b"
        command("ip", "link", "add", self._bridge, "type", "bridge")
        command("ip", "address", "add", f"{self._net}.254/24", "dev", self._bridge)
        command("ip", "link", "set", self._bridge, "up")
        # A host that filters bridges, as Docker's does, would drop what members send each other.
        self._filter = ("FORWARD", "-i", self._bridge, "-o", self._bridge, "-j", "ACCEPT")
        command("iptables", "-I", *self._filter)

    def place(self, name: str) -> tuple[str, str]:
        """Make room for a member; its client and peer URLs."""
        address = f"{self._net}.{len(self._members) + 1}"
        space, outside = f"{self._tag}{name}", f"{self._tag}{name}"[-12:] + "v"
        command("ip", "netns", "add", space)
        self._members[name] = address
        inside = ("ip", "netns", "exec", space)
        command("ip", "link", "add", outside, "type", "veth", "peer", "eth0", "netns", space)
        command("ip", "link", "set", outside, "master", self._bridge, "up")
        command(*inside, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        command(*inside, "ip", "link", "set", "eth0", "up")
        command(*inside, "ip", "link", "set", "lo", "up")
        command(*inside, "iptables", "-N", CHAIN)
        command(*inside, "iptables", "-A", "INPUT", "-j", CHAIN)
        return f"http://{address}:{CLIENT_PORT}", f"http://{address}:{MEMBER_PORT}"

    def add(self, _name: str, url: str) -> str:
        """Members reach each other directly."""
        return url

    def prefix(self, name: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", f"{self._tag}{name}")

    def _rule(self, receiver: str, *words: str) -> None:
        command(*self.prefix(receiver), "iptables", *words)

    # -- faults

    def cut(self, pairs: Iterable[Pair]) -> None:
        for sender, receiver in pairs:
            self._rule(receiver, "-A", CHAIN, "-s", self._members[sender], "-j", "DROP")

    def lose(self, pairs: Iterable[Pair], loss: float, reset: float) -> None:
        """Packets are lost, connections are not reset: nobody but an end of theirs can do that."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", f"{loss + reset:.3f}")
        for sender, receiver in pairs:
            self._rule(receiver, "-A", CHAIN, "-s", self._members[sender], *chance, "-j", "DROP")

    def slow(self, pairs: Iterable[Pair], seconds: float) -> None:
        """All that a member sends, to whomever, is late. NoNamespaces where the kernel cannot."""
        delay = f"{seconds * 1000:.0f}ms"
        for sender in {sender for sender, _ in pairs}:
            command(
                *self.prefix(sender),
                *("tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "delay", delay),
            )

    def reset(self) -> int:
        """End the connections between members, from within; how many members did so."""
        for name, address in self._members.items():
            others = [other for other in self._members.values() if other != address]
            for other in others:
                command(*self.prefix(name), "ss", "-K", "dst", other)
        return len(self._members)

    def heal(self, *, late: bool = True) -> None:
        """What was dropped is gone; `late` is for networks that hold."""
        del late
        for name in self._members:
            self._rule(name, "-F", CHAIN)
            subprocess.run(
                [*self.prefix(name), "tc", "qdisc", "del", "dev", "eth0", "root"],
                capture_output=True, timeout=COMMAND_SECONDS, check=False,
            )  # fmt: skip

    def close(self) -> None:
        """Take away all that was made, whatever of it there is."""
        spaces = [("ip", "netns", "delete", f"{self._tag}{name}") for name in self._members]
        rule, bridge = ("iptables", "-D", *self._filter), ("ip", "link", "delete", self._bridge)
        for words in (*spaces, rule, bridge):
            with suppress(NoNamespaces):
                command(*words)
