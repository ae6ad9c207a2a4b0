"""MemoryBackend keeps the Backend contract, and loses exactly what was not committed."""

from __future__ import annotations

import pytest

from mvcc.backend import KEY, META, Backend, BackendSize
from mvcc.memory_backend import MemoryBackend
from mvcc.revision import row_key


def rows(backend: Backend, table: str = META) -> dict[bytes, bytes]:
    return dict(backend.range(table, b"\0", b"\xff", 0))


def test_reads_see_the_open_batch():
    backend: Backend = MemoryBackend()
    backend.put(META, b"b", b"1")
    backend.put(META, b"a", b"2")
    backend.put(META, b"c", b"3")
    backend.delete(META, b"c")
    backend.delete(META, b"missing")
    assert backend.get(META, b"c") is None
    assert backend.get_many(META, [b"b", b"x", b"a"]) == [b"1", None, b"2"]
    assert backend.range(META, b"a", b"b", 0) == [(b"a", b"2")]
    assert backend.range(META, b"a", b"z", 1) == [(b"a", b"2")]


def test_a_crash_undoes_the_open_batch():
    backend = MemoryBackend()
    backend.put(META, b"kept", b"old")
    backend.put(META, b"deleted", b"old")
    backend.end_entries(3, 1)
    backend.commit()
    backend.put(META, b"kept", b"new")
    backend.put(META, b"kept", b"newer")
    backend.delete(META, b"deleted")
    backend.put(META, b"added", b"new")
    backend.end_entries(4, 1)
    assert (backend.applied(), backend.durable_index) == ((4, 1), 3)
    again = backend.crash()
    assert rows(again) == {b"kept": b"old", b"deleted": b"old"}
    assert (again.applied(), again.durable_index) == ((3, 1), 3)


def test_a_commit_never_cuts_an_entry():
    backend, done = MemoryBackend(), []
    backend.put(META, b"a", b"")
    backend.force_commit(lambda: done.append(1))
    assert done == []
    assert rows(backend.crash()) == {}
    backend.put(META, b"b", b"")
    backend.end_entries(1, 1)
    assert done == [1]
    assert rows(backend.crash()) == {b"a": b"", b"b": b""}
    backend.put(META, b"c", b"")
    with pytest.raises(AssertionError):
        backend.commit()


def test_a_slow_disk():
    backend, done = MemoryBackend(hold=True), []
    backend.put(META, b"a", b"")
    backend.end_entries(1, 1)
    backend.force_commit(lambda: done.append(1))
    assert (done, backend.durable_index) == ([], 0)
    backend.commit()
    assert (done, backend.durable_index) == ([1], 1)
    assert backend.crash().hold


def test_a_snapshot_is_the_last_commit():
    backend = MemoryBackend()
    backend.put(META, b"a", b"1")
    backend.end_entries(1, 1)
    backend.force_commit()
    backend.put(META, b"a", b"2")
    backend.put(META, b"b", b"2")
    view = backend.snapshot()
    assert view.range(META, b"\0", b"\xff", 0) == [(b"a", b"1")]
    backend.delete(META, b"a")
    assert view.range(META, b"\0", b"\xff", 0) == [(b"a", b"1")]
    view.close()


def test_revision_rows_only_go_up():
    backend = MemoryBackend()
    backend.put(KEY, row_key(3, 0), b"")
    for key in (row_key(2, 9), row_key(3, 0)):
        with pytest.raises(AssertionError):
            backend.put(KEY, key, b"")
    with pytest.raises(AssertionError):
        backend.delete_many(KEY, [row_key(3, 0), row_key(2, 0)])


def test_size_keeps_its_maximum():
    backend = MemoryBackend()
    backend.put(META, b"a", b"1234")
    backend.put(META, b"a", b"12")
    assert backend.size() == BackendSize(5, 3)
    backend.delete(META, b"a")
    assert backend.size() == BackendSize(5, 0)


def test_closing_commits():
    backend = MemoryBackend()
    backend.put(META, b"a", b"")
    backend.end_entries(1, 1)
    backend.close()
    assert rows(backend.crash()) == {b"a": b""}
    assert not backend.blocked()
