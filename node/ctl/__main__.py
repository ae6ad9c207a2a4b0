"""The command line of eskerctl: `main` is what the installed command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from node.ctl import (
    auth,
    check,
    completion,
    endpoint,
    kv,
    lease,
    lock,
    maintenance,
    member,
    mirror,
    role,
    snapshot,
    txn,
    user,
    watch,
)
from node.ctl.client import AuthenticationFailed, CallError
from node.ctl.options import BAD_CONNECTION, ERROR, Command, Group

API_VERSION = "3.6"


@click.group("eskerctl", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Talk to an esker cluster (or any other that speaks etcd's v3 HTTP/JSON API)."""


@cli.command("version", cls=Command)
def show_version() -> None:
    """Show the versions of this program and of the API it speaks."""
    try:
        number = version("esker")
    except PackageNotFoundError:  # run from a source tree that is not installed
        number = "not installed"
    click.echo(f"eskerctl version: {number}")
    click.echo(f"API version: {API_VERSION}")


for command in (
    kv.put,
    kv.get,
    kv.delete,
    kv.compaction,
    txn.txn,
    lease.lease,
    lock.lock,
    lock.elect,
    auth.auth,
    user.user,
    role.role,
    mirror.make_mirror,
    check.check,
    completion.completion,
    watch.watch,
    endpoint.endpoint,
    maintenance.defrag,
    maintenance.alarm,
    maintenance.move_leader,
    member.member,
    snapshot.snapshot,
):
    cli.add_command(command)
cli.add_command(kv.compaction, "compact")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; leaves through SystemExit with etcdctl's exit codes."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors go to stderr as one line `Error: ...`."""
    try:
        code = cli.main(arguments, prog_name="eskerctl", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.Abort:
        return _complain("interrupted", ERROR)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        return _complain(error.format_message(), ERROR)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except AuthenticationFailed as error:
        return _complain(str(error), BAD_CONNECTION)
    except CallError as error:
        return _complain(str(error), ERROR)
    except BrokenPipeError:
        # The reader of our output left, as in `eskerctl get ... | head`.
        sys.stderr.close()
        return ERROR
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    click.echo(f"Error: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
