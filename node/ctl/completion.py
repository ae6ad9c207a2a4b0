"""`completion bash|zsh|fish`: a script that lets a shell complete commands and flags."""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.shell_completion import get_completion_class

from node.ctl.options import BAD_ARGUMENTS, Command, fail

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=Command)
@click.argument("words", nargs=-1)
@click.pass_context
def completion(ctx: click.Context, words: Sequence[str]) -> None:
    """Print a script for the shell to read: source <(eskerctl completion bash), or zsh, or fish."""
    if len(words) != 1 or words[0] not in SHELLS:
        fail(f"completion command needs one of {', '.join(SHELLS)}", BAD_ARGUMENTS)
    shell = get_completion_class(words[0])
    assert shell is not None, f"click knows no {words[0]}"
    click.echo(shell(ctx.find_root().command, {}, "eskerctl", "_ESKERCTL_COMPLETE").source())
