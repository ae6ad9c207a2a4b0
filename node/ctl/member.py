"""`member list|add|remove|update|promote`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from node.ctl.options import BAD_ARGUMENTS, Group, client, fail, parse_hex
from node.ctl.output import BLANK, Field, View, emit, header_fields, numbered

TITLES = ("ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER")


@click.group("member", cls=Group)
def member() -> None:
    """Show and change who belongs to the cluster."""


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


# Changes

WORDS = click.argument("words", nargs=-1)
PEER_URLS = click.option("--peer-urls", default="", help="comma-separated peer URLs")


def _member_id(words: Sequence[str]) -> int:
    if len(words) != 1:
        fail("member ID is not provided", BAD_ARGUMENTS)
    return parse_hex(words[0], "member ID")


def _urls(peer_urls: str) -> list[str]:
    if not peer_urls:
        fail("member peer urls not provided", BAD_ARGUMENTS)
    return peer_urls.split(",")


def _show(
    answer: Mapping[str, Any], member_id: int, lines: Callable[[str, str], list[str]]
) -> None:
    """`lines` make the simple output from the member's id and the cluster's."""
    cluster_id = int(answer["header"]["cluster_id"])
    emit(
        View(
            simple=lambda: lines(f"{member_id:16x}", f"{cluster_id:16x}"),
            json=lambda: numbered(answer),
            fields=lambda: _fields(answer),
        )
    )


@member.command("add")
@WORDS
@PEER_URLS
@click.option("--learner", is_flag=True, help="without a vote at first")
def add(words: Sequence[str], peer_urls: str, learner: bool) -> None:
    """Announce a member, and print the settings to start it with: member add <name>."""
    if len(words) != 1:
        message = "too many arguments" if words else "member name not provided"
        fail(message, BAD_ARGUMENTS)
    urls = _urls(peer_urls)
    answer = client().call("cluster/member/add", {"peerURLs": urls, "isLearner": learner})
    added = int(answer["member"]["ID"])
    initial = ",".join(
        f"{words[0] if int(one['ID']) == added else one.get('name', '')}={url}"
        for one in answer.get("members", [])
        for url in one.get("peerURLs", [])
    )
    _show(
        answer,
        added,
        lambda member_id, cluster_id: [
            f"Member {member_id} added to cluster {cluster_id}",
            "",
            f'ETCD_NAME="{words[0]}"',
            f'ETCD_INITIAL_CLUSTER="{initial}"',
            f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{peer_urls}"',
            'ETCD_INITIAL_CLUSTER_STATE="existing"',
        ],
    )


@member.command("remove")
@WORDS
def remove(words: Sequence[str]) -> None:
    """Take a member out of the cluster: member remove <member ID>."""
    found = _member_id(words)
    answer = client().call("cluster/member/remove", {"ID": str(found)})
    _show(answer, found, lambda one, cluster: [f"Member {one} removed from cluster {cluster}"])


@member.command("update")
@WORDS
@PEER_URLS
def update(words: Sequence[str], peer_urls: str) -> None:
    """Give a member other peer URLs: member update <member ID>."""
    found = _member_id(words)
    body = {"ID": str(found), "peerURLs": _urls(peer_urls)}
    answer = client().call("cluster/member/update", body)
    _show(answer, found, lambda one, cluster: [f"Member {one} updated in cluster {cluster}"])


@member.command("promote")
@WORDS
def promote(words: Sequence[str]) -> None:
    """Give a learner its vote: member promote <member ID>."""
    found = _member_id(words)
    answer = client().call("cluster/member/promote", {"ID": str(found)})
    _show(answer, found, lambda one, cluster: [f"Member {one} promoted in cluster {cluster}"])
