"""`snapshot save|status|restore`. A file is a member's LMDB data file, then its SHA-256."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import click
import lmdb

from node.ctl.client import Client, unb64
from node.ctl.options import BAD_ARGUMENTS, IO_ERROR, Group, client, fail, show_progress
from node.ctl.output import View, emit, human_bytes
from node.ctl.progress import counting

DIGEST_BYTES = 32
PAGE_BYTES = 512
"""Data files are whole pages, so a length with a remainder of DIGEST_BYTES carries a digest."""

_ROW_KEY = struct.Struct(">qcq")


@click.group("snapshot", cls=Group)
def snapshot() -> None:
    """Save a member's data to a file, look into it, make a new member of it."""


# save


@snapshot.command("save")
@click.argument("words", nargs=-1)
def save(words: Sequence[str]) -> None:
    """Store a member's data in a file: snapshot save <filename>. Asks one endpoint."""
    path = _only(words, "save")
    caller = client(patient=True)
    if len(caller.settings.endpoints) != 1:
        fail("snapshot must be requested to one selected node, not multiple", BAD_ARGUMENTS)
    part = f"{path}.part"
    try:
        _download(caller, caller.settings.endpoints[0], part)
        os.replace(part, path)
        _sync_directory(os.path.dirname(path) or ".")
    except OSError as error:
        fail(f"could not write {part} ({error.strerror})", IO_ERROR)
    finally:
        if os.path.exists(part):
            os.unlink(part)
    click.echo(f"Snapshot saved at {path}")


def _download(caller: Client, endpoint: str, part: str) -> None:
    """Stream a snapshot into `part`, synced and with its digest checked."""
    digest, tail, size = hashlib.sha256(), b"", 0
    with (
        open(part, "wb") as file,
        counting("snapshot", show_progress(), in_bytes=True) as progress,
    ):
        for message in caller.stream("maintenance/snapshot", {}, endpoint):
            blob = unb64(message.get("blob", ""))
            file.write(blob)
            size += len(blob)
            tail += blob
            digest.update(tail[:-DIGEST_BYTES])
            tail = tail[-DIGEST_BYTES:]
            progress.advance(len(blob), remaining=int(message.get("remaining_bytes", 0)))
        file.flush()
        os.fsync(file.fileno())
    if size % PAGE_BYTES != DIGEST_BYTES:
        fail(f"sha256 checksum not found [bytes: {size}]: the stream was cut off")
    if digest.digest() != tail:
        fail("the snapshot does not match its checksum: it was damaged on the way")


def _sync_directory(path: str) -> None:
    """Make a rename inside the directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# status


class Contents(NamedTuple):
    """`hash` is CRC-32 over names, keys and values of all tables; `keys` counts their rows."""

    hash: int
    revision: int
    keys: int
    size: int


@snapshot.command("status")
@click.argument("words", nargs=-1)
def status(words: Sequence[str]) -> None:
    """Show a file's hash, revision, number of rows and size: snapshot status <filename>."""
    path = _only(words, "status")
    check_digest(path, required=False)
    found = read_contents(path)
    emit(
        View(
            simple=lambda: [
                f"{found.hash:x}, {found.revision}, {found.keys}, {human_bytes(found.size)}"
            ],
            json=lambda: {
                "hash": found.hash,
                "revision": found.revision,
                "totalKey": found.keys,
                "totalSize": found.size,
            },
            fields=lambda: [
                ("Hash", found.hash),
                ("Revision", found.revision),
                ("Keys", found.keys),
                ("Size", found.size),
            ],
            table=lambda: (
                ("HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"),
                [(f"{found.hash:x}", found.revision, found.keys, human_bytes(found.size))],
            ),
        )
    )


def check_digest(path: str, *, required: bool) -> None:
    """Compare a file with the digest at its end; one without it passes unless it is required."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            if size % PAGE_BYTES != DIGEST_BYTES:
                if required:
                    fail("snapshot missing hash but --skip-hash-check=false")
                return
            digest, left = hashlib.sha256(), size - DIGEST_BYTES
            while left:
                piece = file.read(min(left, 1 << 20))
                digest.update(piece)
                left -= len(piece)
            expected = file.read()
    except OSError as error:
        fail(f"stat {path}: {(error.strerror or str(error)).lower()}")
    if digest.digest() != expected:
        fail(f"{path} is damaged: expected sha256 {expected.hex()}, got {digest.hexdigest()}")


def read_contents(path: str) -> Contents:
    """Read all tables of a snapshot file."""
    try:
        with lmdb.open(path, subdir=False, readonly=True, lock=False, max_dbs=32) as environment:
            return _contents(environment, os.path.getsize(path))
    except lmdb.Error as error:
        fail(f"{path} is not a snapshot of esker: {error}")


def _contents(environment: lmdb.Environment, size: int) -> Contents:
    crc, keys, revision = 0, 0, 0
    with environment.begin() as txn:
        names = [bytes(name) for name in txn.cursor().iternext(keys=True, values=False)]
    tables = {name: environment.open_db(name, create=False) for name in names}
    with environment.begin() as txn:
        for name, table in tables.items():
            crc = zlib.crc32(name, crc)
            for key, value in txn.cursor(db=table):
                crc = zlib.crc32(value, zlib.crc32(key, crc))
                keys += 1
                if name == b"key":
                    revision = _ROW_KEY.unpack_from(key)[0]
    return Contents(crc, revision, keys, size)


# restore


@snapshot.command("restore")
@click.argument("words", nargs=-1)
@click.option("--name", default="default", help="name of the member")
@click.option("--data-dir", default="", help="directory to make (<name>.esker)")
@click.option("--wal-dir", default="", help="directory of its log")
@click.option("--initial-cluster", default="default=http://localhost:2380", help="name=url,...")
@click.option("--initial-cluster-token", default="etcd-cluster", help="token of the new cluster")
@click.option(
    "--initial-advertise-peer-urls", default="http://localhost:2380", help="this member's peer URLs"
)
@click.option("--skip-hash-check", is_flag=True, help="accept a file without a checksum")
def restore(
    *,
    words: Sequence[str],
    name: str,
    data_dir: str,
    wal_dir: str,
    initial_cluster: str,
    initial_cluster_token: str,
    initial_advertise_peer_urls: str,
    skip_hash_check: bool,
) -> None:
    """Make the data directory of one member of a new cluster: snapshot restore <filename>.

    Run it once for each member, with the same file, --initial-cluster and --initial-cluster-token.
    """
    path = _only(words, "restore")
    data_dir = data_dir or f"{name}.esker"
    if os.path.exists(data_dir) and os.listdir(data_dir):
        fail(f'data-dir "{data_dir}" not empty or could not be read')
    if not skip_hash_check:
        check_digest(path, required=True)
    # The one command that writes what a server reads; it needs no server running, but its layout.
    from node.restore import RestoreError, restore_snapshot

    try:
        restore_snapshot(
            path,
            name=name,
            data_dir=data_dir,
            wal_dir=wal_dir,
            initial_cluster=initial_cluster,
            initial_cluster_token=initial_cluster_token,
            initial_advertise_peer_urls=initial_advertise_peer_urls,
        )
    except (RestoreError, OSError) as error:
        fail(str(error))
    click.echo(f"Restored {path} to {data_dir}")


def _only(words: Sequence[str], command: str) -> str:
    if len(words) != 1:
        fail(f"snapshot {command} expects one argument", BAD_ARGUMENTS)
    return words[0]
