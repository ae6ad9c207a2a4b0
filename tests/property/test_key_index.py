"""KeyIndex and the journal against a plain list of changes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mvcc.key_index import KeyIndex
from mvcc.revision import Revision, row_key, tombstone_key
from mvcc.tree_index import Span, TreeIndex

Change = tuple[Revision, bool]


@st.composite
def histories(draw) -> list[Change]:
    """Changes of one key, ascending, (revision, is tombstone); never two tombstones in a row."""
    main, sub, changes = 2, 0, []
    for step, delete in draw(
        st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12)
    ):
        main, sub = (main + step, 0) if step else (main, sub + 1)
        dead = delete and bool(changes) and not changes[-1][1]
        changes.append((Revision(main, sub), dead))
    return changes


def entry_of(changes: list[Change]) -> KeyIndex:
    (first, _), *rest = changes
    entry = KeyIndex(b"k", *first, first.main, 1)
    for revision, dead in rest:
        (entry.tombstone if dead else entry.put)(*revision)
    return entry


def state(changes: list[Change], at: int) -> Revision | None:
    """The last change with main <= at, unless it is a tombstone."""
    until = [change for change in changes if change[0].main <= at]
    return None if not until or until[-1][1] else until[-1][0]


def kept(changes: list[Change], at: int) -> list[Change]:
    """All above `at`, and the newest at or below unless it is an old tombstone."""
    below = [c for c in changes if c[0].main <= at]
    above = [c for c in changes if c[0].main > at]
    newest = below[-1:]
    if newest and newest[0][1] and newest[0][0].main < at:
        newest = []
    return newest + above


def rows(changes: list[Change]) -> list[bytes]:
    return [tombstone_key(*r) if dead else row_key(*r) for r, dead in changes]


def flat(entry: KeyIndex) -> list[Revision]:
    return [revision for life in entry.generations() for revision in life]


@settings(max_examples=150, deadline=None)
@given(histories(), st.lists(st.integers(0, 40), max_size=4).map(sorted))
def test_reads_and_compactions(changes, compactions):
    entry, dead = entry_of(changes), []
    top = changes[-1][0].main
    for at in compactions:
        left = kept(changes, at)
        expected = rows([c for c in changes if c not in left])
        vanished = entry.vanishes(at)
        assert vanished == (not left)
        dead += entry.compact(at)
        assert dead == expected
        if vanished:
            return
        assert flat(entry) == [revision for revision, _ in left]
        entry.check_invariants()
    lowest = compactions[-1] if compactions else 0
    for at in range(lowest, top + 2):
        assert entry.at(at) == state(changes, at)
        since = {r.main: r for r, _ in kept(changes, lowest) if r.main >= at}
        assert entry.since(at) == list(since.values())


NAMES = [b"a", b"b", b"c"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("change"), st.sets(st.sampled_from(NAMES), min_size=1)),
            st.tuples(st.just("compact"), st.integers(0, 4)),
        ),
        max_size=25,
    ),
    st.integers(1, 3),
)
def test_the_journal_finds_every_dead_row(script, visits):
    """Puts and deletes of three keys; each compaction takes exactly the dead rows."""
    index, history, main, compacted = TreeIndex(), {name: [] for name in NAMES}, 1, -1
    for kind, argument in script:
        if kind == "change":
            main += 1
            for sub, name in enumerate(sorted(argument)):
                entry = index.get(name)
                dead = entry is not None and (main + sub) % 3 == 0
                if dead:
                    index.tombstone(entry, main, sub)
                else:
                    index.put(name, main, sub)
                history[name].append((Revision(main, sub), dead))
            continue
        at = main - argument
        if at <= compacted:
            continue
        compacted, taken = at, []
        while (part := index.compact(at, visits)) is not None:
            taken += part
        expected = []
        for name in NAMES:
            left = kept(history[name], at)
            expected += rows([c for c in history[name] if c not in left])
            history[name] = left
        assert sorted(taken) == sorted(expected)
        index.check_invariants()
        alive = [name for name in NAMES if state(history[name], main)]
        assert [e.key for e in index.present(Span(b"\0", b"\0"), None)] == alive
        assert set(index.entries) == {name for name in NAMES if history[name]}
