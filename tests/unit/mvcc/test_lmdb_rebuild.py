"""New generations while the backend serves: defragmentation, installed snapshots, copies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from mvcc import generations, lmdb_backend, lmdb_writer
from mvcc.backend import KEY
from mvcc.errors import BackendFailed
from mvcc.generations import check
from mvcc.lmdb_backend import LmdbBackend
from tests.unit.mvcc.backends import END, LmdbRig, quick_folder

LEASE = "lease"


def row(number: int) -> bytes:
    return number.to_bytes(17, "big")


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as path:
        yield path


@pytest.fixture
def rig(folder: Path) -> Iterator[LmdbRig]:
    rig = LmdbRig(folder)
    for index in range(1, 201):
        rig.backend.put(KEY, row(index), b"x" * 2000)
        rig.backend.end_entries(index, 1)
    rig.flush()
    yield rig
    rig.close()


def delete(rig: LmdbRig, first: int, last: int) -> None:
    rig.backend.delete_many(KEY, [row(number) for number in range(first, last + 1)])
    rig.backend.end_entries(rig.backend.applied()[0] + 1, 1)
    rig.flush()


def names(path: Path) -> set[str]:
    return {child.name for child in path.iterdir()}


def numbers(backend: LmdbBackend) -> list[int]:
    return [int.from_bytes(key, "big") for key, _ in backend.range(KEY, b"", END, 0)]


def wait_gone(rig: LmdbRig, name: str) -> None:
    """The writer removes it between two batches: one more batch, and it has."""
    rig.backend.end_entries(rig.backend.applied()[0] + 1, 1)
    rig.flush()
    assert name not in names(rig.path)


# ---- defragmentation


def test_defragmentation_shrinks_the_file_and_keeps_the_rows(rig: LmdbRig) -> None:
    delete(rig, 1, 150)
    before = rig.backend.size()
    assert rig.rebuild(rig.backend.defragment) is None
    after = rig.backend.size()
    assert after.size < before.size // 2
    assert after.in_use <= before.in_use
    assert numbers(rig.backend) == list(range(151, 201))
    assert rig.backend.durable_index == 201
    wait_gone(rig, "00000001")
    rig.kill("backend.before_commit")
    assert rig.backend.info().generation == 2
    assert numbers(rig.backend) == list(range(151, 201))


def test_options_survive_a_defragmentation(rig: LmdbRig) -> None:
    def options() -> tuple:
        env = rig.backend._generation.env
        engine = env.lib_version()[0] if hasattr(env, "lib_version") else 0
        return env.flags(), env.info()["map_size"], env.max_readers(), engine

    before = options()
    assert before[0]["metasync"] is False and before[0]["sync"] is True
    assert rig.rebuild(rig.backend.defragment) is None
    assert options() == before


def test_requests_go_on_while_the_copy_is_made(rig: LmdbRig) -> None:
    gate = rig.gate("defrag.after_copy")
    outcome: list = []
    rig.backend.defragment(outcome.append)
    gate.wait_reached()
    for index in range(201, 231):
        rig.now += 0.2
        rig.backend.put(KEY, row(index), b"late")
        rig.backend.end_entries(index, 1)
    rig.backend.delete(KEY, row(5))
    rig.backend.end_entries(231, 1)
    assert len(rig.backend._closed) == 2, "the open batch grows while the writer is away"
    assert not rig.backend.blocked()
    assert rig.backend.info().rebuilding == "defrag"
    assert rig.backend.get(KEY, row(230)) == b"late"
    expected = [number for number in range(1, 231) if number != 5]
    assert numbers(rig.backend) == expected
    gate.open.set()
    rig.run_until(lambda: outcome)
    assert outcome == [None]
    assert numbers(rig.backend) == expected
    rig.flush()
    rig.kill("backend.before_commit")
    assert rig.backend.applied() == (231, 1)
    assert numbers(rig.backend) == expected


def test_batches_and_rebuilds_keep_their_order(rig: LmdbRig) -> None:
    gate = rig.gate("backend.before_commit")
    rig.hits.clear()
    outcome: list = []
    rig.backend.put(LEASE, b"a", b"1")
    rig.backend.end_entries(201, 1)
    rig.now += 1.0
    rig.backend.poll()
    gate.wait_reached()
    rig.backend.put(LEASE, b"a", b"2")
    rig.backend.end_entries(202, 1)
    rig.now += 1.0
    rig.backend.poll()
    rig.backend.defragment(outcome.append)
    rig.backend.force_commit()
    rig.posts.get()()
    gate.open.set()
    rig.settle()
    assert [hit for hit in rig.hits if hit in {"backend.before_commit", "defrag.before_copy"}] == [
        "backend.before_commit",
        "backend.before_commit",
        "defrag.before_copy",
        "backend.before_commit",
    ]
    assert outcome == [None]


def test_memory_bounds_what_waits_for_a_defragmentation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_backend, "OVERLAY_BYTES_MAX", 100_000)
    drained: list[int] = []
    rig = LmdbRig(folder, batch_ops=1, on_drained=lambda: drained.append(1))
    gate = rig.gate("defrag.before_copy")
    outcome: list = []
    rig.backend.defragment(outcome.append)
    for index in range(1, 6):
        assert not rig.backend.blocked()
        rig.backend.put(KEY, row(index), b"x" * 20_000)
        rig.backend.end_entries(index, 1)
    assert rig.backend.blocked()
    assert len(rig.backend._closed) == 2, "reads look into few dicts, however long it takes"
    gate.open.set()
    rig.run_until(lambda: outcome and drained)
    rig.close()


def test_view_of_the_old_generation_outlives_it(rig: LmdbRig) -> None:
    view = rig.backend.snapshot()
    delete(rig, 1, 199)
    assert rig.rebuild(rig.backend.defragment) is None
    rig.flush()
    assert "00000001" in names(rig.path)
    assert rig.backend.info().readers[0].generation == 1
    assert len(view.range(KEY, b"", END, 0)) == 200
    view.close()
    wait_gone(rig, "00000001")
    assert numbers(rig.backend) == [200]


def test_full_disk_in_the_copy_leaves_the_old_generation(
    rig: LmdbRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(env: object, directory: str) -> None:
        Path(directory, "data.mdb").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), directory)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, "copy_compact", fail)
        error = rig.rebuild(rig.backend.defragment)
    assert isinstance(error, OSError) and "No space left" in str(error)
    assert names(rig.path) == {"CURRENT", "00000001"}
    delete(rig, 1, 100)
    assert numbers(rig.backend) == list(range(101, 201))
    assert rig.rebuild(rig.backend.defragment) is None
    assert numbers(rig.backend) == list(range(101, 201))


@pytest.mark.parametrize("step", ["sync_path", "Generation"])
def test_failure_of_a_later_step_leaves_the_old_generation(
    rig: LmdbRig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_writer, step, fail)
        assert isinstance(rig.rebuild(rig.backend.defragment), OSError)
    assert names(rig.path) == {"CURRENT", "00000001"}
    delete(rig, 1, 1)
    assert rig.errors == []


def test_failure_to_write_current_leaves_the_old_generation(
    rig: LmdbRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        Path(rig.path, "CURRENT.tmp").write_text("0000")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(rig.backend._generations, "stage", fail)
    assert isinstance(rig.rebuild(rig.backend.defragment), OSError)
    assert names(rig.path) == {"CURRENT", "00000001"}
    delete(rig, 1, 1)
    assert numbers(rig.backend) == list(range(2, 201))


def test_too_little_disk_is_told_before_anything_is_copied(
    rig: LmdbRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_writer, "free_bytes", lambda path: 1000)
    error = rig.rebuild(rig.backend.defragment)
    assert isinstance(error, BackendFailed)
    assert str(rig.path) in str(error) and "there are 1000" in str(error)
    assert "defrag.before_copy" not in rig.hits
    assert names(rig.path) == {"CURRENT", "00000001"}


def test_second_defragmentation_is_refused_while_one_runs(rig: LmdbRig) -> None:
    gate = rig.gate("defrag.before_copy")
    first: list = []
    second: list = []
    rig.backend.defragment(first.append)
    rig.backend.defragment(second.append)
    assert second == [], "the answer comes through the loop"
    rig.run_until(lambda: second)
    assert "defrag is under way" in str(second[0])
    gate.open.set()
    rig.run_until(lambda: first)
    assert first == [None]


def test_failpoints_are_hit_in_order(rig: LmdbRig) -> None:
    rig.hits.clear()
    assert rig.rebuild(rig.backend.defragment) is None
    names_hit = [name for name in rig.hits if name.startswith("defrag.")]
    steps = ("before_copy", "after_copy", "before_current", "after_current")
    assert names_hit == [f"defrag.{step}" for step in steps]


@pytest.mark.parametrize("name", ["defrag", "install"])
def test_every_file_is_synced_before_the_next_step(
    rig: LmdbRig, received: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sync = generations.sync_path

    def sync_noted(path: str) -> None:
        sync(path)
        rig.hits.append(f"sync {os.path.basename(path)}")

    monkeypatch.setattr(generations, "sync_path", sync_noted)
    monkeypatch.setattr(lmdb_writer, "sync_path", sync_noted)
    rig.hits.clear()
    start = rig.backend.defragment
    if name == "install":
        start = partial(rig.backend.install, received)
    assert rig.rebuild(start) is None
    steps = [hit for hit in rig.hits if hit not in {"defrag.before_copy", "defrag.after_copy"}]
    assert steps == [
        "sync backend",  # the name of the new directory
        "sync data.mdb",
        "sync 00000002",
        f"{name}.before_current",
        "sync backend",  # the new CURRENT
        f"{name}.after_current",
    ]


def test_failure_of_the_writer_is_told_to_who_waits_for_a_rebuild(
    rig: LmdbRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once CURRENT may or may not be renamed, nothing is safe to go on with."""

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    outcome: list = []
    monkeypatch.setattr(rig.backend._generations, "switch", fail)
    rig.backend.defragment(outcome.append)
    rig.run_until(lambda: outcome)
    assert isinstance(outcome[0], BackendFailed) and rig.errors == outcome
    outcome.clear()
    rig.backend.defragment(outcome.append)
    rig.backend.install("anything", outcome.append)
    rig.run_until(lambda: len(outcome) == 2)
    assert rig.backend.blocked()
    assert numbers(rig.backend) == list(range(1, 201))


# ---- installed snapshots


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A snapshot of another member: index 900, term 4, two rows."""
    donor = LmdbRig(tmp_path / "donor")
    donor.backend.put(KEY, row(890), b"theirs")
    donor.backend.put(LEASE, b"their lease", b"1")
    donor.backend.end_entries(900, 4)
    donor.flush()
    copy = donor.backend.open_copy()
    path = tmp_path / "900.snap.db"
    os.rename(copy.path, path)
    donor.close()
    assert check(str(path)) == []
    return path


def test_install_replaces_everything(rig: LmdbRig, received: Path) -> None:
    told: list[int] = []
    rig.backend.put(LEASE, b"our lease", b"1")
    rig.backend.end_entries(201, 1)
    rig.backend.force_commit(lambda: told.append(1))
    assert rig.rebuild(lambda done: rig.backend.install(received, done)) is None
    assert rig.backend.applied() == (900, 4)
    assert rig.backend.durable_index == 900
    assert numbers(rig.backend) == [890]
    assert rig.backend.range(LEASE, b"", END, 0) == [(b"their lease", b"1")]
    assert told == [1]
    assert not received.exists()
    assert rig.backend.size().size < 200 * 2000
    wait_gone(rig, "00000001")


def test_install_from_the_same_disk_and_from_another(rig: LmdbRig, received: Path) -> None:
    near = rig.path.parent / "near.snap.db"
    near.write_bytes(received.read_bytes())
    for path in (near, received):
        assert rig.rebuild(lambda done, path=path: rig.backend.install(path, done)) is None
        assert numbers(rig.backend) == [890]
        assert not path.exists()


def test_index_after_install_and_crash_is_that_of_the_snapshot(
    rig: LmdbRig, received: Path
) -> None:
    """Nothing that was open before may be committed into the installed database."""
    rig.backend.put(LEASE, b"our lease", b"1")
    rig.backend.end_entries(201, 1)
    gate = rig.gate("install.before_current")
    outcome: list = []
    rig.backend.install(received, outcome.append)
    gate.wait_reached()
    rig.now += 5.0
    rig.backend.poll()
    rig.backend.force_commit()
    gate.open.set()
    rig.run_until(lambda: outcome)
    rig.now += 5.0
    rig.backend.poll()
    rig.kill("backend.before_commit")
    assert rig.backend.applied() == (900, 4)
    assert rig.backend.range(LEASE, b"", END, 0) == [(b"their lease", b"1")]


def test_service_goes_on_after_install(rig: LmdbRig, received: Path) -> None:
    assert rig.rebuild(lambda done: rig.backend.install(received, done)) is None
    rig.backend.put(KEY, row(891), b"next")
    rig.backend.end_entries(901, 4)
    rig.flush()
    assert rig.rebuild(rig.backend.defragment) is None
    rig.reopen()
    assert rig.backend.applied() == (901, 4)
    assert numbers(rig.backend) == [890, 891]
    assert rig.backend.info().generation == 3


def test_install_waits_for_a_defragmentation(rig: LmdbRig, received: Path) -> None:
    gate = rig.gate("defrag.after_copy")
    outcome: list = []
    rig.backend.defragment(lambda error: outcome.append(("defrag", error)))
    rig.backend.install(received, lambda error: outcome.append(("install", error)))
    gate.open.set()
    rig.run_until(lambda: len(outcome) == 2)
    assert outcome == [("defrag", None), ("install", None)]
    assert rig.backend.applied() == (900, 4)
    assert rig.backend.info().generation == 3


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_install_of_a_bad_file_changes_nothing(
    rig: LmdbRig, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.snap.db"
    path.write_bytes(content)
    rig.backend.put(LEASE, b"our lease", b"1")
    rig.backend.end_entries(201, 1)
    error = rig.rebuild(lambda done: rig.backend.install(path, done))
    assert error is not None and rig.errors == []
    assert names(rig.path) == {"CURRENT", "00000001"}
    assert path.read_bytes() == content
    rig.flush()
    rig.kill("backend.before_commit")
    assert rig.backend.applied() == (201, 1)
    assert rig.backend.get(LEASE, b"our lease") == b"1"


def test_force_asked_during_a_refused_install_is_answered(rig: LmdbRig, tmp_path: Path) -> None:
    told: list[int] = []
    outcome: list = []
    rig.backend.install(tmp_path / "missing", outcome.append)
    rig.backend.force_commit(lambda: told.append(1))
    rig.run_until(lambda: told)
    assert "No such file" in str(outcome[0])


# ---- copies


def test_copy_says_itself_what_it_holds(rig: LmdbRig) -> None:
    delete(rig, 1, 150)
    copy = rig.backend.open_copy()
    assert (copy.index, copy.term) == (201, 1)
    assert os.path.getsize(copy.path) == copy.size < rig.backend.size().size
    assert check(copy.path) == []
    rig.backend.put(KEY, row(202), b"later")
    rig.backend.end_entries(202, 1)
    rig.flush()
    assert check(copy.path) == []
    second = rig.backend.open_copy()
    assert (second.index, copy.index) == (202, 201)
    copy.close()
    copy.close()
    second.close()
    assert names(rig.path) == {"CURRENT", "00000001"}


def test_copy_of_a_full_disk_leaves_nothing(rig: LmdbRig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("mvcc.lmdb_view.os", SimpleNamespace(**{**vars(os), "fsync": fail}))
        with pytest.raises(BackendFailed, match="No space left"):
            rig.backend.open_copy()
    assert names(rig.path) == {"CURRENT", "00000001"}
    assert rig.backend.info().readers == []


def test_copies_left_by_a_crash_are_removed_at_start(rig: LmdbRig) -> None:
    copy = rig.backend.open_copy()
    rig.reopen()
    assert not os.path.exists(copy.path)
