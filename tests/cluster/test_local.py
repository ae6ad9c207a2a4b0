"""`esker local`: three members from one command, kept alive, stopped in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.client import Client
from tests.cluster.harness import ROOT, STOP_SECONDS, free_port, wait_until

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "node", "local")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration on free ports."""
    lines = [
        f'n{number} = {{ client = "http://127.0.0.1:{free_port()}",'
        f' peer = "http://127.0.0.1:{free_port()}" }}'
        for number in (1, 2, 3)
    ]
    path = tmp_path / "local.toml"
    path.write_text("[members]\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def clients(file: Path) -> Iterator[list[Client]]:
    """One client for each member of the file."""
    made = [Client(url) for url in re.findall(r'client = "([^"]+)"', file.read_text())]
    yield made
    for client in made:
        client.close()


class Local:
    """One run of the command, ended by its own signal."""

    def __init__(self, file: Path, root: Path, *extra: str) -> None:
        self.output = root / "output"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "--config", str(file), "--data-dir", str(root / "data"), *extra],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.output.read_text()

    def wait_ready(self) -> None:
        wait_until("the table is printed", lambda: "Ctrl-C stops the cluster" in self.text(), 60)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(4 * STOP_SECONDS)


@pytest.fixture
def runs() -> Iterator[list[Local]]:
    started: list[Local] = []
    yield started
    for local in started:
        if local.process.poll() is None:
            local.stop(signal.SIGTERM)


def pids(text: str) -> dict[str, int]:
    """The process of each member, from the table."""
    rows = re.findall(r"│ (n\d) .*│ +(\d+) +│", text)
    return {name: int(pid) for name, pid in rows}


def test_members_are_kept_alive_and_data_is_kept(
    file: Path, tmp_path: Path, runs: list[Local], clients: list[Client]
) -> None:
    runs.append(local := Local(file, tmp_path))
    local.wait_ready()
    first, second, third = clients
    first.put(b"k", b"kept")

    os.kill(pids(local.text())["n2"], signal.SIGKILL)
    wait_until("n2 is started again", lambda: "n2 is started again" in local.text())
    wait_until("n2 answers", second.healthy)
    assert "n2 ended (killed by SIGKILL); starting it again in 0.5 s" in local.text()
    assert local.stop() == 0

    runs.append(again := Local(file, tmp_path))
    wait_until("the second table", lambda: again.text().count("Ctrl-C stops") == 2, 60)
    for client in clients:
        client.close()
    found = third.get(b"k")
    assert found is not None
    assert found.value == b"kept"
    assert again.stop(signal.SIGTERM) == 0

    runs.append(fresh := Local(file, tmp_path, "--fresh"))
    wait_until("the third table", lambda: fresh.text().count("Ctrl-C stops") == 3, 60)
    first.close()
    assert first.get(b"k") is None


def test_demonstration(file: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--config", str(file), "--demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "put greeting through n1: revision 2" in done.stdout
    assert "get greeting from n3: hello from esker" in done.stdout


def test_an_address_in_use_is_named(file: Path, tmp_path: Path, runs: list[Local]) -> None:
    runs.append(local := Local(file, tmp_path))
    local.wait_ready()
    done = subprocess.run(
        [*COMMAND, "--config", str(file), "--data-dir", str(tmp_path / "other")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"cannot listen on http://127\.0\.0\.1:\d+: Address", done.stderr)


def test_fresh_takes_nothing_from_a_running_cluster(
    file: Path, tmp_path: Path, runs: list[Local]
) -> None:
    runs.append(local := Local(file, tmp_path))
    local.wait_ready()
    before = sorted(tmp_path.rglob("*.wal"))
    done = subprocess.run(
        [*COMMAND, "--config", str(file), "--data-dir", str(tmp_path), "--fresh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
    assert before and sorted(tmp_path.rglob("*.wal")) == before
