"""Sizes, leftovers, swallowed errors, links, and words that have no place here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.source import PACKAGES, ROOT, Module, files, modules

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
TEST_FUNCTION_LINES_MAX = 90
METHODS_MAX = 50
"""Twenty-five is the aim; this only stops a class from growing without anybody noticing."""

OURS = modules(*PACKAGES, "tests")
TEXTS = [path for path in files() if path.suffix not in {".png", ".ico", ".db", ".snap"}]
DOCUMENTS = [path for path in files() if path.suffix == ".md"]

# Split, so that this file does not contain what it looks for.
LEFTOVER = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
FOREIGN_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w|\.\./share" r"d\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_test(module: Module) -> bool:
    return module.path.parts[0] == "tests"


def lines_of(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def oversized(module: Module) -> Iterator[str]:
    count = len((ROOT / module.path).read_text().splitlines())
    if count > FILE_LINES_MAX:
        yield f"{module.path} has {count} lines"
    limit = TEST_FUNCTION_LINES_MAX if is_test(module) else FUNCTION_LINES_MAX
    for node in ast.walk(module.tree):
        if isinstance(node, Function) and lines_of(node) > limit:
            yield f"{module.path}:{node.lineno}: {node.name} has {lines_of(node)} lines"
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(item, Function) for item in node.body)
            if methods > METHODS_MAX:
                yield f"{module.path}:{node.lineno}: {node.name} has {methods} methods"


def test_sizes() -> None:
    assert [fault for module in OURS for fault in oversized(module)] == []


def test_every_file_says_what_it_is() -> None:
    silent = [
        str(module.path)
        for module in OURS
        if module.tree.body and not is_test(module) and not ast.get_docstring(module.tree)
    ]
    assert silent == []


def swallowed(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        where = f"{module.path}:{node.lineno}"
        if node.type is None:
            yield f"{where}: except without a type"
        broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
        if broad and all(isinstance(item, ast.Pass | ast.Continue) for item in node.body):
            yield f"{where}: swallows every exception"


def test_no_error_is_swallowed() -> None:
    assert [fault for module in OURS for fault in swallowed(module)] == []


def named_calls(node: ast.AST) -> set[str]:
    """The last names of everything called below a node."""
    calls = (item for item in ast.walk(node) if isinstance(item, ast.Call))
    return {ast.unparse(call.func).rpartition(".")[2] for call in calls}


def claiming(functions: list[Function]) -> set[str]:
    """Names of functions that can fail on purpose: they assert or raise, or call one that does."""
    named = {"raises", "fail", "check_call", "run_state_machine_as_test"}
    named |= {
        function.name
        for function in functions
        if any(isinstance(item, ast.Assert | ast.Raise) for item in ast.walk(function))
    }
    while more := {each.name for each in functions if named & named_calls(each)} - named:
        named |= more
    return named


def test_every_test_claims_something() -> None:
    """A test without an assertion, an expected error or a call that may fail, tests nothing."""
    functions = [
        (module, node)
        for module in OURS
        for node in ast.walk(module.tree)
        if isinstance(node, Function)
    ]
    named = claiming([node for _, node in functions if not node.name.startswith("test_")])
    idle = [
        f"{module.path}:{node.lineno}: {node.name}"
        for module, node in functions
        if is_test(module) and node.name.startswith("test_")
        if not any(isinstance(item, ast.Assert) for item in ast.walk(node))
        if not named & named_calls(node)
    ]
    assert idle == []


def test_words() -> None:
    faults = []
    for path in TEXTS:
        text = (ROOT / path).read_text(errors="replace")
        for pattern in (LEFTOVER, FOREIGN_PATH):
            faults += [f"{path}: {found}" for found in pattern.findall(text)]
    assert faults == []


LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|toml|sh|txt|yml))`")


def broken_links(path: Path) -> Iterator[str]:
    text = (ROOT / path).read_text()
    named = [link for link in LINK.findall(text) if "://" not in link] + NAMED.findall(text)
    for name in named:
        if not (ROOT / name).exists() and not (ROOT / path.parent / name).exists():
            yield f"{path}: there is no {name}"


def test_links() -> None:
    assert [fault for path in DOCUMENTS for fault in broken_links(path)] == []


def test_the_license_and_its_name_agree() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "Apache-2.0" in (ROOT / "pyproject.toml").read_text()
