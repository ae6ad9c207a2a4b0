"""`lease grant|revoke|timetolive|list|keep-alive`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from node.ctl.client import CallError, Client, Unreachable, b64, unb64
from node.ctl.options import (
    BAD_ARGUMENTS,
    BAD_CONNECTION,
    Group,
    client,
    endless,
    fail,
    parse_hex,
    parse_int,
)
from node.ctl.output import Field, View, emit, header_fields, numbered

WORDS = click.argument("words", nargs=-1)


@click.group("lease", cls=Group)
def lease() -> None:
    """Keys that end by themselves: grant a lease, keep it, look into it, end it."""


def named(lease_id: int) -> str:
    """A lease as etcdctl names it."""
    return f"{lease_id:016x}"


def _flat(answer: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    """etcdctl prints most lease answers with the header's members among their own."""
    return {**numbered(answer["header"]), **members}


def _lease_id(words: Sequence[str], complaint: str) -> int:
    if len(words) != 1:
        fail(complaint, BAD_ARGUMENTS)
    return parse_hex(words[0], "lease ID", signed=True)


# grant


@lease.command("grant")
@WORDS
def grant(words: Sequence[str]) -> None:
    """Make a lease: lease grant <seconds>."""
    if len(words) != 1:
        fail("lease grant command needs TTL argument", BAD_ARGUMENTS)
    ttl = parse_int(words[0], "bad TTL ({})")
    try:
        answer = client().call("lease/grant", {"TTL": ttl})
    except CallError as error:
        fail(f"failed to grant lease ({error})")
    lease_id, granted = int(answer["ID"]), int(answer["TTL"])
    emit(
        View(
            simple=lambda: [f"lease {named(lease_id)} granted with TTL({granted}s)"],
            json=lambda: _flat(answer, ID=lease_id, TTL=granted, Error=answer.get("error", "")),
            fields=lambda: [*header_fields(answer), ("ID", lease_id), ("TTL", granted)],
        )
    )


# revoke


@lease.command("revoke")
@WORDS
def revoke(words: Sequence[str]) -> None:
    """End a lease, and delete its keys: lease revoke <lease ID>."""
    lease_id = _lease_id(words, "lease revoke command needs 1 argument")
    try:
        answer = client().call("lease/revoke", {"ID": str(lease_id)})
    except CallError as error:
        fail(f"failed to revoke lease ({error})")
    emit(
        View(
            simple=lambda: [f"lease {named(lease_id)} revoked"],
            json=lambda: numbered(answer),
            fields=lambda: header_fields(answer),
        )
    )


# timetolive


@lease.command("timetolive")
@WORDS
@click.option("--keys", is_flag=True, help="also show the keys attached to it")
def timetolive(words: Sequence[str], keys: bool) -> None:
    """Show what is left of a lease: lease timetolive <lease ID>."""
    lease_id = _lease_id(words, "lease timetolive command needs lease ID as argument")
    answer = client().call("lease/timetolive", {"ID": str(lease_id), "keys": keys})
    left, granted = int(answer.get("TTL", 0)), int(answer.get("grantedTTL", 0))
    attached = [unb64(key) for key in answer.get("keys", [])]
    emit(
        View(
            simple=lambda: [_time_line(lease_id, left, granted, attached if keys else None)],
            json=lambda: _flat(
                answer,
                **{"id": lease_id, "ttl": left, "granted-ttl": granted},
                keys=[b64(key) for key in attached] or None,
            ),
            fields=lambda: [
                *header_fields(answer),
                ("ID", lease_id),
                ("TTL", left),
                ("GrantedTTL", granted),
                *(("Key", key) for key in attached),
            ],
        )
    )


def _time_line(lease_id: int, left: int, granted: int, keys: Sequence[bytes] | None) -> bytes:
    if not granted:
        return f"lease {named(lease_id)} already expired".encode()
    line = f"lease {named(lease_id)} granted with TTL({granted}s), remaining({left}s)".encode()
    if keys is not None:
        line += b", attached keys([" + b" ".join(keys) + b"])"
    return line


# list


@lease.command("list")
def lease_list() -> None:
    """Show all leases."""
    answer = client().call("lease/leases", {})
    found = [int(one["ID"]) for one in answer.get("leases", [])]
    emit(
        View(
            simple=lambda: [f"found {len(found)} leases", *map(named, found)],
            json=lambda: _flat(answer, leases=[{"id": one} for one in found]),
            fields=lambda: [*header_fields(answer), *(("ID", one) for one in found)],
        )
    )


# keep-alive


@lease.command("keep-alive")
@WORDS
@click.option("--once", is_flag=True, help="renew it now, and leave")
@endless
def keep_alive(words: Sequence[str], once: bool) -> None:
    """Renew a lease for as long as it lives: lease keep-alive <lease ID>."""
    lease_id = _lease_id(words, "lease keep-alive command needs lease ID as argument")
    caller = client()
    if once:
        answer = renewed(caller, lease_id)
        if not answer:
            fail("etcdserver: requested lease not found", BAD_CONNECTION)
        _show_renewed(answer)
        return
    for answer in renewals(caller, lease_id):
        _show_renewed(answer)
    click.echo(f"lease {named(lease_id)} expired or revoked.")


def renewed(caller: Client, lease_id: int) -> dict[str, Any] | None:
    """The answer to one renewal, from the first endpoint with one; None: the lease is gone."""
    problem: CallError | None = None
    for endpoint in caller.settings.endpoints:
        try:
            for answer in caller.stream("lease/keepalive", {"ID": str(lease_id)}, endpoint):
                return answer if int(answer.get("TTL", 0)) > 0 else None
        except Unreachable as error:  # renewing twice does no harm
            problem = error
    raise problem or Unreachable(["no answer"])


def renewals(caller: Client, lease_id: int) -> Iterator[dict[str, Any]]:
    """A renewal now, and one each time that a third of the lease is over, until it is gone.

    Members that cannot be reached are asked again until the lease must have run out.
    """
    expires = None
    while True:
        try:
            answer = renewed(caller, lease_id)
        except CallError:
            if expires is None or time.monotonic() > expires:
                raise
            time.sleep(0.2)
            continue
        if answer is None:
            return
        expires = time.monotonic() + int(answer["TTL"])
        yield answer
        time.sleep(int(answer["TTL"]) / 3)


def _show_renewed(answer: Mapping[str, Any]) -> None:
    lease_id, ttl = int(answer["ID"]), int(answer["TTL"])
    fields: list[Field] = [*header_fields(answer), ("ID", lease_id), ("TTL", ttl)]
    emit(
        View(
            simple=lambda: [f"lease {named(lease_id)} keepalived with TTL({ttl})"],
            json=lambda: _flat(answer, ID=lease_id, TTL=ttl),
            fields=lambda: fields,
        )
    )
