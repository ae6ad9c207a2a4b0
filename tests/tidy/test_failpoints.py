"""The registry of failpoints and the places that hit them are the same list."""

from __future__ import annotations

import ast

from node.failpoint import FAILPOINTS
from tests.tidy.source import PACKAGES, modules


def hit_names() -> set[str]:
    """Names that the source hits; `f"{...}.after_x"` stands for every registered name that fits."""
    found: set[str] = set()
    for module in modules(*PACKAGES):
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if ast.unparse(node.func).rpartition(".")[2] not in ("hit", "_hit"):
                continue
            match node.args[0]:
                case ast.Constant(value=str(name)):
                    found.add(name)
                case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value=str(end))]):
                    found.update(name for name in FAILPOINTS if name.endswith(end))
                case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
                    found.update(name for name in FAILPOINTS if name.startswith(start))
    return found


def test_every_hit_is_registered() -> None:
    assert hit_names() - FAILPOINTS.keys() == set()


def test_every_failpoint_is_hit_somewhere() -> None:
    assert FAILPOINTS.keys() - hit_names() == set()
