"""Reading the file of a local cluster, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.local import DEFAULT_FILE, LocalError, read_members

GOOD = """
[flags]
max-txn-ops = 7
[members]
a = { client = "http://127.0.0.1:1", peer = "http://127.0.0.1:2" }
b = { client = "http://127.0.0.1:3", peer = "http://127.0.0.1:4" }
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_members_get_their_flags(tmp_path: Path) -> None:
    first, second = read_members(written(tmp_path / "c.toml", GOOD), tmp_path / "data")
    assert (first.name, first.client_url, first.peer_url) == (
        "a",
        "http://127.0.0.1:1",
        "http://127.0.0.1:2",
    )
    assert second.arguments == [
        "--max-txn-ops=7",
        "--name=b",
        f"--data-dir={tmp_path}/data/b",
        "--listen-client-urls=http://127.0.0.1:3",
        "--advertise-client-urls=http://127.0.0.1:3",
        "--listen-peer-urls=http://127.0.0.1:4",
        "--initial-advertise-peer-urls=http://127.0.0.1:4",
        "--initial-cluster=a=http://127.0.0.1:2,b=http://127.0.0.1:4",
    ]
    assert second.log_path == tmp_path / "data" / "b.log"


def test_the_file_that_comes_along_is_good(tmp_path: Path) -> None:
    assert [child.name for child in read_members(DEFAULT_FILE, tmp_path)] == ["n1", "n2", "n3"]


WRONG = [
    ("x =", "cannot read"),
    ("[member]\n", "unknown tables member"),
    ("[flags]\n", r"\[members\] names nobody"),
    ('[members]\na = "http://127.0.0.1:1"\n', 'a must be { client = "URL", peer = "URL" }'),
    (GOOD.replace("max-txn-ops", "max-ops"), "a: --max-ops: there is no flag --max-ops"),
    (GOOD.replace(":4", ":4/x"), "b: --listen-peer-urls: URL .* must not contain a path"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_file_is_explained(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=message):
        read_members(written(tmp_path / "c.toml", text), tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"none\.toml"):
        read_members(tmp_path / "none.toml", tmp_path)
