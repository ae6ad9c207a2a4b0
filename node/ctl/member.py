"""`member list`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from node.ctl.options import Group, client
from node.ctl.output import BLANK, Field, View, emit, header_fields, numbered

TITLES = ("ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER")


@click.group("member", cls=Group)
def member() -> None:
    """Show who belongs to the cluster."""


@member.command("list")
def member_list() -> None:
    """Show all members with their addresses."""
    answer = client().call("cluster/member/list", {})
    emit(
        View(
            simple=lambda: (", ".join(row) for row in _rows(answer)),
            json=lambda: numbered(answer),
            fields=lambda: _fields(answer),
            table=lambda: (TITLES, list(_rows(answer))),
        )
    )


def _rows(answer: Mapping[str, Any]) -> Iterator[list[str]]:
    for one in answer.get("members", []):
        name = one.get("name", "")
        yield [
            f"{int(one['ID']):x}",
            "started" if name else "unstarted",
            name,
            ",".join(one.get("peerURLs", [])),
            ",".join(one.get("clientURLs", [])),
            str(one.get("isLearner", False)).lower(),
        ]


def _fields(answer: Mapping[str, Any]) -> Iterator[Field]:
    yield from header_fields(answer)
    for one in answer.get("members", []):
        yield "ID", int(one["ID"])
        yield "Name", one.get("name", "")
        yield from (("PeerURL", url) for url in one.get("peerURLs", []))
        yield from (("ClientURL", url) for url in one.get("clientURLs", []))
        yield "IsLearner", one.get("isLearner", False)
        yield BLANK
