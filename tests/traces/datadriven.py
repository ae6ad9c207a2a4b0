"""Traces: text files of commands, each followed by everything that the run printed.

    # Prose: why this trace exists.
    campaign 1
    stabilize quiet
    ----
    expected output, up to a blank line

A block's commands run in order and their outputs are joined; a run that prints nothing prints `ok`.
With ESKER_REWRITE_TRACES=1 the expected outputs are replaced by the real ones: read the diff before
you trust it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

RULE = "----"
REWRITE = "ESKER_REWRITE_TRACES"


class Command(NamedTuple):
    """`name word word key=value`: the words and the options of one line."""

    name: str
    words: list[str]
    options: dict[str, str]

    def integer(self, position: int) -> int:
        return int(self.words[position])

    def option(self, key: str, default: int) -> int:
        return int(self.options.get(key, default))


class Block(NamedTuple):
    """`head` is kept as it stands (prose, blank lines, commands); `expected` follows the rule."""

    line: int
    head: list[str]
    commands: list[Command]
    expected: list[str]


def parse_command(line: str) -> Command:
    name, *rest = shlex.split(line)
    words = [word for word in rest if "=" not in word]
    options = dict(word.split("=", 1) for word in rest if "=" in word)
    return Command(name, words, options)


def parse(text: str) -> list[Block]:
    blocks: list[Block] = []
    head: list[str] = []
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if line != RULE:
            head.append(line)
            continue
        end = position
        while end < len(lines) and lines[end]:
            end += 1
        commands = [parse_command(each) for each in head if each and not each.startswith("#")]
        blocks.append(Block(position, head, commands, lines[position:end]))
        head, position = [], end
    assert not any(line and not line.startswith("#") for line in head), "commands without a rule"
    return blocks


def run_file(path: Path, run: Callable[[Command], list[str]]) -> None:
    """Runs each block; AssertionError that shows expected and actual of the first that differs."""
    rewritten: list[str] = []
    blocks = parse(path.read_text(encoding="utf-8"))
    assert blocks, f"{path} has no commands"
    rewrite = os.environ.get(REWRITE) == "1"
    for block in blocks:
        actual: list[str] = []
        for command in block.commands:
            actual += run(command)
        actual = actual or ["ok"]
        rewritten += [*block.head, RULE, *actual]
        if not rewrite:
            assert actual == block.expected, (
                f"{path.name}:{block.line}\n--- expected\n"
                + "\n".join(block.expected)
                + "\n--- actual\n"
                + "\n".join(actual)
            )
    if rewrite:
        path.write_text("\n".join(rewritten) + "\n", encoding="utf-8")
