"""`lock` and `elect`: something held under a lease that this process renews until it leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from node.ctl import kv
from node.ctl.client import UNAVAILABLE, CallError, Client, Unreachable, b64, lasting, unb64
from node.ctl.lease import renewals
from node.ctl.options import (
    BAD_ARGUMENTS,
    BAD_FEATURE,
    Command,
    client,
    fail,
    write_format,
)
from node.ctl.output import View, emit, hexed, numbered

WORDS = click.argument("words", nargs=-1)
SESSION_SECONDS = 60


class Signaled(BaseException):
    """SIGINT or SIGTERM came: a BaseException, so that no handler of errors takes it for one."""


class Session:
    """A lease that a thread of its own renews; `lost` once it is gone."""

    def __init__(self, client: Client, ttl: int) -> None:
        self._client = client
        self.lease_id = int(client.call("lease/grant", {"TTL": ttl})["ID"])
        self.lost = threading.Event()
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        try:
            for _ in renewals(self._client, self.lease_id):
                pass
        except CallError as error:
            click.echo(f"the lease could not be renewed: {error}", err=True)
        self.lost.set()

    def end(self) -> None:
        """Give up whatever is held; without an answer, the lease runs out by itself."""
        with suppress(CallError):
            self._client.call("lease/revoke", {"ID": str(self.lease_id)})


@contextmanager
def _session(caller: Client, ttl: int) -> Iterator[Session]:
    """A session that ends with the block, also when a signal ends that."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, _raise_signaled)
    session = None
    try:
        session = Session(caller, ttl)
        yield session
    finally:
        for number in previous:
            signal.signal(number, signal.SIG_IGN)
        if session is not None:
            session.end()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise_signaled(number: int, frame: FrameType | None) -> None:
    raise Signaled


def _acquired(caller: Client, path: str, body: Mapping[str, Any], session: Session) -> Any:
    """The answer to a call that waits for its turn.

    Asked again where a member did not live to answer: with the same lease it is the same claim.
    """
    patient = caller.patient()
    while True:
        if session.lost.is_set():
            fail("session expired")
        try:
            return patient.call(path, body)
        except CallError as error:
            if not isinstance(error, Unreachable) and error.code != UNAVAILABLE:
                raise
            time.sleep(0.2)


# lock


@click.command("lock", cls=Command)
@WORDS
@click.option("--ttl", default=10, help="seconds that the lock outlives this process at most")
def lock(words: Sequence[str], ttl: int) -> None:
    """Hold a lock until interrupted, or for one command: lock <name> [command arg ...].

    The command finds the key of the lock and its revision in ETCD_LOCK_KEY and ETCD_LOCK_REV.
    """
    if not words:
        fail("lock takes a lock name argument and an optional command to execute", BAD_ARGUMENTS)
    name, *command = words
    _refuse_table()
    caller = client()
    held = False
    try:
        with _session(caller, ttl) as session:
            body = {"name": b64(os.fsencode(name)), "lease": str(session.lease_id)}
            answer = _acquired(caller, "lock/lock", body, session)
            held = True
            if command:
                _run(command, answer)
            else:
                _show_key(caller, answer["key"])
                session.lost.wait()
                fail("session expired")
    except Signaled:
        if not held:
            fail("context canceled")


def _run(command: Sequence[str], answer: Mapping[str, Any]) -> None:
    """Run a command with the lock; a signal goes on to it, and it may take its time to end."""
    if shutil.which(command[0]) is None:
        fail(f'exec: "{command[0]}": executable file not found in $PATH')
    extra = {
        b"ETCD_LOCK_KEY": unb64(answer["key"]),
        b"ETCD_LOCK_REV": str(answer["header"]["revision"]).encode(),
    }
    with subprocess.Popen(command, env={**os.environb, **extra}) as process:
        try:
            code = process.wait()
        except Signaled:
            process.terminate()
            code = process.wait()
    if code:
        fail(f"exit status {code}" if code > 0 else f"signal: {signal.strsignal(-code)}".lower())


def _refuse_table() -> None:
    if write_format() == "table":
        fail("table not supported as output format", BAD_FEATURE)


def _show_key(caller: Client, key: str) -> None:
    """Show what is held as a `get` of its key does."""
    _show(caller.call("kv/range", {"key": key}))


def _show(answer: Mapping[str, Any]) -> None:
    emit(
        View(
            simple=lambda: kv.get_lines(answer),
            json=lambda: hexed(numbered(answer)),
            fields=lambda: kv.get_fields(answer),
        )
    )


# elect


@click.command("elect", cls=Command)
@WORDS
@click.option("-l", "--listen", is_flag=True, help="only show who leads")
def elect(words: Sequence[str], listen: bool) -> None:
    """Stand for election, and lead until interrupted: elect <name> <proposal>."""
    if not 1 <= len(words) <= 2:
        message = "elect takes one election name argument and an optional proposal argument"
        fail(message, BAD_ARGUMENTS)
    if listen and len(words) == 2:
        fail("proposal given but -l is set", BAD_ARGUMENTS)
    if not listen and len(words) == 1:
        fail("no proposal argument but -l not set", BAD_ARGUMENTS)
    _refuse_table()
    name, *proposal = map(os.fsencode, words)
    if listen:
        _observe(name)
    else:
        _campaign(name, proposal[0])


def _campaign(name: bytes, proposal: bytes) -> None:
    caller = client()
    leads = False
    try:
        with _session(caller, SESSION_SECONDS) as session:
            claim = {"name": b64(name), "lease": str(session.lease_id), "value": b64(proposal)}
            answer = _acquired(caller, "election/campaign", claim, session)
            leads = True
            _show_key(caller, answer["leader"]["key"])
            session.lost.wait()
            fail("elect: session expired")
    except Signaled:
        if not leads:
            fail("context canceled")


def _observe(name: bytes) -> None:
    """Show each leader once, also when the connection breaks in between."""
    seen = None
    caller = client(patient=True)
    try:
        for answer in lasting(caller, "election/observe", lambda: [{"name": b64(name)}]):
            pair = answer["kv"]
            state = (pair["key"], pair["mod_revision"])
            if state != seen:
                seen = state
                _show({"header": answer["header"], "kvs": [pair]})
    except KeyboardInterrupt:
        return
