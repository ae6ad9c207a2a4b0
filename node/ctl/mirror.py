"""`make-mirror`: everything under a prefix, then every change to it, goes to another cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import click

from node.ctl.client import UNAVAILABLE, CallError, Client, Settings, Unreachable, b64, unb64
from node.ctl.kv import PAGE, prefix_end
from node.ctl.options import (
    BAD_ARGUMENTS,
    INTERRUPTED,
    Command,
    client,
    endless,
    endpoint_of,
    fail,
    file_of,
    setting,
)
from node.ctl.watching import Canceled, Watching

REPORT_SECONDS = 30.0
RETRY_SECONDS = 0.2


@click.command("make-mirror", cls=Command)
@click.argument("words", nargs=-1)
@click.option("--prefix", default="", help="mirror only keys with this prefix")
@click.option("--dest-prefix", default="", help="put it in place of --prefix at the destination")
@click.option("--no-dest-prefix", is_flag=True, help="put nothing in its place")
@click.option("--rev", default=0, help="mirror only the changes from this revision on")
@click.option("--max-txn-ops", default=128, help="changes in one transaction at most")
@click.option("--dest-cacert", default="", help="authority of the destination's certificates")
@click.option("--dest-cert", default="", help="certificate to show there")
@click.option("--dest-key", default="", help="its key")
@click.option("--dest-user", default="", help="name[:password] there")
@click.option("--dest-password", default="", help="password of --dest-user")
@click.option("--dest-insecure-transport", is_flag=True, hidden=True)
@endless
def make_mirror(
    *,
    words: Sequence[str],
    prefix: str,
    dest_prefix: str,
    no_dest_prefix: bool,
    rev: int,
    max_txn_ops: int,
    **there: Any,
) -> None:
    """Copy keys to another cluster, and go on with each change: make-mirror <destination>.

    Prints every 30 seconds how many changes have been copied.
    """
    if len(words) != 1:
        fail("make-mirror takes one destination argument", BAD_ARGUMENTS)
    if dest_prefix and no_dest_prefix:
        message = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time"
        fail(f"{message}, choose one", BAD_ARGUMENTS)
    if max_txn_ops < 1:
        fail("--max-txn-ops must be at least 1", BAD_ARGUMENTS)
    put_in_place = "" if no_dest_prefix else dest_prefix or prefix
    names = Renaming(prefix.encode("utf-8", "surrogateescape"), put_in_place.encode())
    source, target = client(), Client(_destination(words[0], **there))
    mirror = Mirror(source, target, names, max_txn_ops)
    _report(mirror)
    try:
        mirror.follow(rev or mirror.copy() + 1)
    except Canceled as ended:
        fail(f"watch is canceled by the server ({ended})", INTERRUPTED)


def _destination(
    word: str,
    *,
    dest_cacert: str,
    dest_cert: str,
    dest_key: str,
    dest_user: str,
    dest_password: str,
    dest_insecure_transport: bool,
) -> Settings:
    """How to reach the destination; timeouts are those of the source."""
    name, _, password = dest_user.partition(":")
    here = client().settings
    return replace(
        here,
        endpoints=tuple(endpoint_of(part.strip()) for part in word.split(",")),
        ca_file=file_of("dest-cacert", dest_cacert),
        cert_file=file_of("dest-cert", dest_cert),
        key_file=file_of("dest-key", dest_key),
        user=name,
        password=dest_password or password,
    )


class Renaming(NamedTuple):
    """Keys under `prefix` are known at the destination under `other`."""

    prefix: bytes
    other: bytes

    def key(self, text: str) -> str:
        """A key, as base64 on both sides."""
        return b64(self.other + unb64(text)[len(self.prefix) :])


class Mirror:
    """What goes from one cluster to the other; `copied` counts keys and changes.

    Each change is written again until the destination has answered it: the same state twice is
    the same state, and nothing later is written before.
    """

    def __init__(self, source: Client, target: Client, names: Renaming, max_txn_ops: int) -> None:
        self.copied = 0
        self._source = source
        self._target = target
        self._names = names
        self._max_txn_ops = max_txn_ops
        self._range = {
            "key": b64(names.prefix or b"\0"),
            "range_end": b64(prefix_end(names.prefix)),
        }

    def copy(self) -> int:
        """Copy all keys as they are at one revision, and return that."""
        body: dict[str, Any] = {**self._range, "limit": PAGE}
        while True:
            answer = _insisted(self._source, "kv/range", body)
            pairs = answer.get("kvs", [])
            self._write([self._put(pair) for pair in pairs])
            revision = body.setdefault("revision", int(answer["header"]["revision"]))
            if not answer.get("more"):
                return int(revision)
            body["key"] = b64(unb64(pairs[-1]["key"]) + b"\0")

    def follow(self, revision: int) -> None:
        """Copy every change from a revision on."""
        request = {**self._range, "start_revision": revision}
        for response in Watching(self._source, request, setting("command_timeout", 5.0)):
            events = response.get("events", [])
            for _, change in groupby(events, lambda event: event["kv"]["mod_revision"]):
                self._write([self._operation(event) for event in change])

    def _put(self, pair: Mapping[str, Any]) -> dict[str, Any]:
        key = self._names.key(pair["key"])
        return {"request_put": {"key": key, "value": pair.get("value", "")}}

    def _operation(self, event: Mapping[str, Any]) -> dict[str, Any]:
        if event.get("type") == "DELETE":
            return {"request_delete_range": {"key": self._names.key(event["kv"]["key"])}}
        return self._put(event["kv"])

    def _write(self, operations: Sequence[dict[str, Any]]) -> None:
        """Write in transactions; a change of many keys may take several."""
        for start in range(0, len(operations), self._max_txn_ops):
            part = operations[start : start + self._max_txn_ops]
            _insisted(self._target, "kv/txn", {"success": part})
            self.copied += len(part)


def _insisted(client: Client, path: str, body: Mapping[str, Any]) -> Any:
    """An answer that was waited for through elections and restarts; other errors end it."""
    said = ""
    while True:
        try:
            return client.call(path, body)
        except CallError as error:
            if not isinstance(error, Unreachable) and error.code != UNAVAILABLE:
                raise
            if str(error) != said:
                said = str(error)
                click.echo(f"waiting: {said}", err=True)
            time.sleep(RETRY_SECONDS)


def _report(mirror: Mirror) -> None:
    """Print the count now and then."""

    def report() -> None:
        while True:
            time.sleep(REPORT_SECONDS)
            click.echo(mirror.copied)

    threading.Thread(target=report, daemon=True).start()
