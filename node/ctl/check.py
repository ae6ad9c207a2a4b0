"""`check perf|datascale`: writes for a while, and says whether the cluster keeps up."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, takewhile
from typing import NamedTuple

import click

from node.ctl.client import CallError, Client, b64
from node.ctl.kv import prefix_end
from node.ctl.load import Measured, Plan, put_all
from node.ctl.options import BAD_FEATURE, BAD_INPUT, ERROR, Group, client, fail, show_progress
from node.ctl.progress import counting

AUTO_COMPACT = click.option("--auto-compact", is_flag=True, help="compact afterwards")
AUTO_DEFRAG = click.option("--auto-defrag", is_flag=True, help="defragment afterwards")
LOAD = click.option("--load", default="s", help="s(mall), m(edium), l(arge) or xl")

KEY_BYTES, VALUE_BYTES = 256, 1024
PERF_SECONDS = 60
ANSWER_SECONDS = 10.0
"""How long the last answers may take once no more is asked."""

SLOWEST_SECONDS, DEVIATION_SECONDS, RATE_SHARE = 0.5, 0.1, 0.9
"""The bounds of a pass: slowest request, standard deviation, share of the rate asked for."""


@click.group("check", cls=Group)
def check() -> None:
    """Find out whether the cluster is fit for a load."""


class Load(NamedTuple):
    amount: int
    """Writes in a second (perf), or keys in all (datascale)."""
    clients: int


PERF = {"s": Load(150, 50), "m": Load(1000, 200), "l": Load(8000, 500), "xl": Load(15000, 1000)}
SCALE = {
    "s": Load(10_000, 50),
    "m": Load(100_000, 200),
    "l": Load(1_000_000, 500),
    "xl": Load(3_000_000, 1000),
}
_NAMES = {"small": "s", "medium": "m", "large": "l", "xlarge": "xl"}


def _load(name: str, loads: dict[str, Load]) -> Load:
    known = _NAMES.get(name.lower(), name.lower())
    if known not in loads:
        fail(f"unknown load option {name}", BAD_FEATURE)
    return loads[known]


def _refuse_keys(caller: Client, prefix: bytes) -> None:
    """What is under the prefix will be deleted, so nothing may be there."""
    body = {"key": b64(prefix), "range_end": b64(prefix_end(prefix)), "limit": 1}
    if caller.call("kv/range", body).get("kvs"):
        name = prefix.decode("utf-8", "replace")
        message = f'prefix "{name}" has keys. Delete with eskerctl del --prefix {name} first'
        fail(message, BAD_INPUT)


def _puts(prefix: bytes) -> Iterator[bytes]:
    """Bodies of puts, each of a new key."""
    value = b64(os.urandom(VALUE_BYTES))
    for _ in count():
        key = b64(prefix + os.urandom(KEY_BYTES))
        yield json.dumps({"key": key, "value": value}).encode()


# perf


@check.command("perf")
@LOAD
@click.option("--prefix", default="/etcdctl-check-perf/", help="where to write")
@AUTO_COMPACT
@AUTO_DEFRAG
def perf(load: str, prefix: str, auto_compact: bool, auto_defrag: bool) -> None:
    """Write for a minute: small 150 a second, medium 1000, large 8000, xl 15000."""
    wanted = _load(load, PERF)
    under = os.fsencode(prefix)
    caller = client()
    _refuse_keys(caller, under)
    moments = takewhile(lambda at: at < PERF_SECONDS, (n / wanted.amount for n in count()))
    plan = Plan(_puts(under), moments, wanted.clients, PERF_SECONDS + ANSWER_SECONDS)
    measured = _written(caller, plan, wanted.amount * PERF_SECONDS)
    _tidied(caller, under, auto_compact, auto_defrag)
    if not _verdict(measured, wanted.amount):
        raise click.exceptions.Exit(ERROR)


def _written(caller: Client, plan: Plan, total: int) -> Measured:
    with counting("writes", show_progress()) as progress:
        progress.advance(0, remaining=total)
        return put_all(caller, plan, lambda: progress.advance(1))


def _verdict(measured: Measured, amount: int) -> bool:
    """Print what passed and what did not."""
    good = not measured.errors
    for problem, times in measured.errors.items():
        click.echo(f"FAIL: ERROR({problem}) -> {times}")
    checks = (
        (
            measured.rate >= amount * RATE_SHARE,
            f"Throughput is {measured.rate:.0f} writes/s",
            f"Throughput too low: {measured.rate:.0f} writes/s",
        ),
        (
            measured.slowest <= SLOWEST_SECONDS,
            f"Slowest request took {measured.slowest:f}s",
            f"Slowest request took too long: {measured.slowest:f}s",
        ),
        (
            measured.deviation <= DEVIATION_SECONDS,
            f"Stddev is {measured.deviation:f}s",
            f"Stddev too high: {measured.deviation:f}s",
        ),
    )
    for passed, praise, blame in checks:
        click.echo(f"PASS: {praise}" if passed else f"FAIL: {blame}")
        good = good and passed
    click.echo("PASS" if good else "FAIL")
    return good


def _tidied(caller: Client, prefix: bytes, compact: bool, defrag: bool) -> None:
    """Remove what was written, and the room that it took if so asked."""
    patient = caller.patient()
    body = {"key": b64(prefix), "range_end": b64(prefix_end(prefix))}
    revision = int(patient.call("kv/deleterange", body)["header"]["revision"])
    if compact:
        click.echo(f"Compacting with revision {revision}")
        patient.call("kv/compaction", {"revision": revision, "physical": True})
        click.echo(f"Compacted with revision {revision}")
    for endpoint in caller.settings.endpoints if defrag else ():
        click.echo(f'Defragmenting "{endpoint}"')
        patient.call("maintenance/defragment", {}, endpoint)
        click.echo(f'Defragmented "{endpoint}"')


# datascale

_RESIDENT = re.compile(rb"^process_resident_memory_bytes (\S+)$", re.MULTILINE)


@check.command("datascale")
@LOAD
@click.option("--prefix", default="/etcdctl-check-datascale/", help="where to write")
@AUTO_COMPACT
@AUTO_DEFRAG
def datascale(load: str, prefix: str, auto_compact: bool, auto_defrag: bool) -> None:
    """Write many keys, and show by how much the first endpoint's memory grew."""
    wanted = _load(load, SCALE)
    under = os.fsencode(prefix)
    caller = client().only_first()
    _refuse_keys(caller, under)
    before = _resident(caller)
    click.echo(
        f"Start data scale check for work load [{wanted.amount} key-value pairs, "
        f"{VALUE_BYTES} bytes per key-value, {wanted.clients} concurrent clients]."
    )
    moments = (0.0 for _ in range(wanted.amount))
    plan = Plan(_puts(under), moments, wanted.clients, ANSWER_SECONDS + wanted.amount / 50)
    measured = _written(caller, plan, wanted.amount)
    grown = (_resident(caller) - before) / (1 << 20)
    _tidied(caller, under, auto_compact, auto_defrag)
    for problem, times in measured.errors.items():
        click.echo(f"FAIL: ERROR({problem}) -> {times}")
    if measured.errors:
        raise click.exceptions.Exit(ERROR)
    click.echo(f"PASS: Approximate system memory used : {grown:.2f} MB.")


def _resident(caller: Client) -> float:
    """Bytes of memory of the first endpoint's process."""
    found = None
    with suppress(CallError):
        found = _RESIDENT.search(caller.page("/metrics", caller.settings.endpoints[0]))
    if found is None:
        fail("could not read process_resident_memory_bytes from /metrics")
    return float(found[1])
