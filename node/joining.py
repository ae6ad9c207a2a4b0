"""Finding one's place: what a member without data asks the others before it starts.

A member that joins learns its id and its cluster from the members it was given. A member that was
part of the cluster and lost its disk must not take part again as if nothing had happened: it may
have voted, and have acknowledged entries, that it no longer knows of. It is told to be removed and
added again, as a new member with a new id.
"""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

from node.apply.members import Members
from node.apply.responses import Member
from node.bootstrap import BootstrapError, Directories, Identity
from node.config import NodeConfig
from raft.discovery import discover
from raft.tls_port import Tls

log = logging.getLogger("esker.joining")

_FOUNDING_SECONDS = 1.0
_JOINING_TRIES = 20
_JOINING_PAUSE_SECONDS = 0.5


class Description(msgspec.Struct):
    """A cluster as one of its members tells a stranger."""

    members: list[Member]


class Found(msgspec.Struct):
    """A running cluster, and what a member of it knows."""

    cluster: int
    members: list[Member]


def describe(members: Members) -> bytes:
    """What a stranger is told: no more than any client may ask for."""
    return msgspec.msgpack.encode(Description(members.list()))


async def find_place(config: NodeConfig, client_tls: Tls | None) -> Identity | None:
    """Who this member is in a cluster that runs already; None when it has data or founds one.

    BootstrapError when it has no place there, or had one and lost what it knew.
    """
    if os.path.exists(Directories.of(config).wal):  # noqa: ASYNC240 - nothing is served yet
        return None
    own = set(config.initial_cluster[config.name])
    others = [
        url
        for urls in config.initial_cluster.values()
        for url in urls
        if not own.intersection(urls)
    ]
    if config.initial_cluster_state == "new":
        for found in await _ask(others, client_tls, _FOUNDING_SECONDS):
            _refuse_lost(config, found, _own_member(found, own))
        return None
    found = await _wait_for_cluster(others, client_tls, own)
    member = _own_member(found, own)
    if member is None:
        raise BootstrapError(
            f"cluster {found.cluster:x} has no member with the peer URLs"
            f" {', '.join(sorted(own))}: add it first, with `eskerctl member add`"
        )
    _refuse_lost(config, found, member)
    known = {url for each in found.members for url in each.peerURLs}
    strangers = sorted(set(others) - known)
    if strangers:
        raise BootstrapError(
            f"--initial-cluster names {', '.join(strangers)}, which no member of cluster"
            f" {found.cluster:x} has; its members have {', '.join(sorted(known))}"
        )
    log.info("joining", extra={"cluster": f"{found.cluster:x}", "member": f"{member.ID:x}"})
    peers = [(each.ID, each.peerURLs) for each in found.members]
    return Identity(member.ID, found.cluster, config.initial_cluster_token, peers)


async def members_known_to(urls: list[str], client_tls: Tls | None, cluster: int) -> list[Member]:
    """The members that those at `urls` list, where they belong to `cluster`."""
    answers = await _ask(urls, client_tls, _FOUNDING_SECONDS)
    return [member for found in answers if found.cluster == cluster for member in found.members]


async def _wait_for_cluster(urls: list[str], client_tls: Tls | None, own: set[str]) -> Found:
    """The first answer that knows this member; any answer when none does in time."""
    answers: list[Found] = []
    for _ in range(_JOINING_TRIES):
        answers = await _ask(urls, client_tls, _FOUNDING_SECONDS) or answers
        for found in answers:
            if _own_member(found, own) is not None:
                return found
        await asyncio.sleep(_JOINING_PAUSE_SECONDS)
    if not answers:
        raise BootstrapError(
            "--initial-cluster-state is existing, but no member answers at"
            f" {', '.join(urls) or 'any other URL of --initial-cluster'}"
        )
    return answers[0]


async def _ask(urls: list[str], client_tls: Tls | None, seconds: float) -> list[Found]:
    found = []
    for answer in await discover(urls, client_tls, seconds=seconds):
        try:
            told = msgspec.msgpack.decode(answer.description, type=Description)
        except msgspec.DecodeError:
            log.warning("a peer's description cannot be read", extra={"peer": answer.member})
            continue
        if told.members:
            found.append(Found(answer.cluster, told.members))
    return found


def _own_member(found: Found, own: set[str]) -> Member | None:
    return next((each for each in found.members if own.intersection(each.peerURLs)), None)


def _refuse_lost(config: NodeConfig, found: Found, member: Member | None) -> None:
    if member is not None and member.name:
        raise BootstrapError(
            f"member {member.ID:x} ({member.name}) of cluster {found.cluster:x} has started"
            f" before, but {config.data_dir} is empty: its data are lost, and with them what it"
            " promised. Remove it (`eskerctl member remove`), add it again (`eskerctl member add`),"
            " and start it with --initial-cluster-state=existing"
        )
