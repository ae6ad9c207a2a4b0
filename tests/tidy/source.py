"""The project's own files, parsed once for all rules."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("raft", "mvcc", "node")


class Module(NamedTuple):
    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """What a relative import of the module starts from."""
        if self.path.name == "__init__.py":
            return self.name
        return self.name.rpartition(".")[0]


@cache
def files() -> list[Path]:
    """Every file that is or would be committed, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    # A source tree without git: everything but hidden and built things.
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in found if not any(part[0] in "._" for part in path.parts[:-1])]


@cache
def modules(*roots: str) -> list[Module]:
    """The Python modules below `roots`."""
    found = []
    for path in files():
        if path.suffix == ".py" and path.parts[0] in roots:
            parts = path.with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            tree = ast.parse((ROOT / path).read_text(), str(path))
            found.append(Module(name, path, tree))
    return found


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """(full name, line) of whatever a module imports when it runs, wherever the import stands."""
    for node in _running(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = module.package.split(".")
                start = start[: len(start) - node.level + 1]
                base = ".".join(start + ([node.module] if node.module else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in names() else base), node.lineno


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """As ast.walk, without what only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _running(child)


@cache
def names() -> frozenset[str]:
    return frozenset(module.name for module in modules(*PACKAGES, "tests"))
