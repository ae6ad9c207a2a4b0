"""`member list|add|remove|replace|update|promote`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from node.ctl.client import CallError
from node.ctl.options import BAD_ARGUMENTS, Group, client, fail, parse_hex
from node.ctl.output import BLANK, Field, View, emit, header_fields, numbered

HEALTHY_SECONDS = 30.0
"""A member counts as healthy some seconds after it connected, so two changes in a row may wait."""
RETRY_SECONDS = 0.5
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
    _show_added(words[0], answer)


def _show_added(name: str, answer: Mapping[str, Any]) -> None:
    added = answer["member"]
    initial = ",".join(
        f"{name if one['ID'] == added['ID'] else one.get('name', '')}={url}"
        for one in answer.get("members", [])
        for url in one.get("peerURLs", [])
    )
    _show(
        answer,
        int(added["ID"]),
        lambda member_id, cluster_id: [
            f"Member {member_id} added to cluster {cluster_id}",
            "",
            f'ETCD_NAME="{name}"',
            f'ETCD_INITIAL_CLUSTER="{initial}"',
            f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{",".join(added["peerURLs"])}"',
            'ETCD_INITIAL_CLUSTER_STATE="existing"',
        ],
    )


@member.command("replace")
@WORDS
def replace(words: Sequence[str]) -> None:
    """Let a member whose data are damaged or lost begin again, empty: member replace <name>.

    It is removed and added under a new id with the same peer URLs, and alarms that name it are
    lifted. Start it afterwards on an empty data directory with the settings that are printed: the
    others send it their state.
    """
    if len(words) != 1:
        fail("member name not provided", BAD_ARGUMENTS)
    connection = client()
    listed = connection.call("cluster/member/list", {}).get("members", [])
    named = [one for one in listed if one.get("name") == words[0]]
    if len(named) != 1:
        fail(f"{len(named)} members have the name {words[0]}", BAD_ARGUMENTS)
    (old,) = named
    _when_healthy("cluster/member/remove", {"ID": old["ID"]})
    for alarm in connection.call("maintenance/alarm", {"action": "GET"}).get("alarms", []):
        if alarm.get("memberID") == old["ID"]:
            connection.call("maintenance/alarm", {**alarm, "action": "DEACTIVATE"})
    answer = _when_healthy("cluster/member/add", {"peerURLs": old["peerURLs"]})
    _show_added(words[0], answer)


def _when_healthy(path: str, body: Mapping[str, Any]) -> Any:
    """The answer to a change of members, which is refused for a while after another or a start."""
    deadline = time.monotonic() + HEALTHY_SECONDS
    while True:
        try:
            return client().call(path, body)
        except CallError as error:
            if "unhealthy cluster" not in error.message or time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_SECONDS)


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
