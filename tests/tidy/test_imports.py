"""Which package may know which, and what the pure hearts may not touch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.tidy.source import PACKAGES, Module, below, imports, modules

KNOWS = {
    "raft.core": ("raft.core",),
    "raft": ("raft",),
    "mvcc": ("mvcc",),
    "node.apply": ("node.apply", "mvcc", "raft.core.types"),
    "node.api": ("node.api", "node.apply", "node.version", "mvcc.kv", "mvcc.errors"),
    "node.ctl": ("node.ctl",),
    "node": ("node", "mvcc", "raft"),
    "tests.cluster": ("tests.cluster",),
    # It speaks the members' own protocol, to abuse it.
    "tests.cluster.peer": ("tests.cluster", "raft", "node.apply.requests"),
    "tests.chaos": ("tests.chaos", "tests.cluster"),
}
"""Package: what of ours it may import. The longest matching name rules."""

EXCEPTIONS = {
    # `snapshot restore` writes a data directory, and so needs the server's layout.
    ("node.ctl.snapshot", "node.restore"),
    # The names of the places to die at are an interface for tests.
    ("tests.cluster.test_failpoints", "node.failpoint"),
}

ABOVE_API = ("node.__main__", "node.member", "node.seams", "node.metrics", "node.api")
"""Who may know `node.api`: what composes a member, and the metrics that count its calls."""

PURE = ("raft.core", "mvcc", "node.apply")
"""Functions of their input: replicas and reruns must agree byte for byte."""

IMPURE = ("mvcc.lmdb_backend", "mvcc.lmdb_view", "mvcc.lmdb_writer", "mvcc.generations")
"""The durable backend: files and its writer thread."""

OUTSIDE_WORLD = (
    *("asyncio", "concurrent", "threading", "multiprocessing", "queue", "signal", "socket"),
    *("selectors", "ssl", "http", "urllib", "json", "time", "datetime", "random", "secrets"),
    *("uuid", "os", "io", "pathlib", "tempfile", "shutil", "subprocess", "logging.handlers"),
    *("aiohttp", "uvloop", "lmdb"),
)

OURS = modules(*PACKAGES, "tests")


def is_pure(module: Module) -> bool:
    return any(below(module.name, name) for name in PURE) and not any(
        below(module.name, name) for name in IMPURE
    )


def rule_of(name: str) -> tuple[str, ...] | None:
    rules = [package for package in KNOWS if below(name, package)]
    return KNOWS[max(rules, key=len)] if rules else None


def wrong_arrows(module: Module) -> Iterator[str]:
    allowed = rule_of(module.name)
    if allowed is None:
        return
    for target, line in imports(module):
        ours = target.split(".")[0] in (*PACKAGES, "tests")
        known = any(below(target, package) for package in allowed)
        if below(target, "node.api"):
            known = any(below(module.name, name) for name in ABOVE_API)
        if ours and not known and (module.name, target) not in EXCEPTIONS:
            yield f"{module.path}:{line}: {module.name} must not know {target}"


def test_arrows() -> None:
    assert [fault for module in OURS for fault in wrong_arrows(module)] == []


def test_no_cycles() -> None:
    graph = {
        module.name: {target for target, _ in imports(module) if target != module.name}
        for module in modules(*PACKAGES)
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' > '.join(error.args[1])}")


def impurities(node: ast.AST) -> str:
    """What makes a node's result depend on more than its input; nothing for most nodes."""
    match node:
        case ast.AsyncFunctionDef() | ast.Await():
            return "async"
        case ast.Constant(value=float()):
            return "a float"
        case ast.Call(func=ast.Name(id="id" | "hash" as name)):
            return f"{name}()"
        case ast.For(iter=over) | ast.comprehension(iter=over) if is_set(over):
            return "the order of a set"
    return ""


def is_set(over: ast.expr) -> bool:
    match over:
        case ast.Set() | ast.SetComp() | ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
    return False


def test_pure() -> None:
    faults = []
    for module in (module for module in OURS if is_pure(module)):
        for target, line in imports(module):
            if any(below(target, name) for name in OUTSIDE_WORLD):
                faults.append(f"{module.path}:{line}: {target} in a pure package")
        for node in ast.walk(module.tree):
            if found := impurities(node):
                faults.append(f"{module.path}:{getattr(node, 'lineno', '?')}: {found}")
    assert faults == []


VAGUE = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


def test_no_vague_names() -> None:
    vague = [module.name for module in OURS if VAGUE & set(module.name.split("."))]
    assert vague == []
