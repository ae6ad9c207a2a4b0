"""KeyIndex: the revisions of one key.

A generation is one life of the key, from its creation to its tombstone. Example, `t` marks a
tombstone:

    put 2, put 4, delete 6, put 8, put 9        generations  {2 4 6t} {8 9}

    get at 1    -                               compact(4)   {4 6t} {8 9}
    get at 5    4                               compact(6)   {6t} {8 9}     a watch may start at 6:
    it must get at 7    -                               compact(7)   {8 9}          still see the
    delete get at 9    9                               compact(9)   {9}

Most keys of a large store have one revision, so that one lies in the entry itself and `past` holds
the others, 16 bytes each. Neither a gc=False struct nor a bytearray is seen by the cyclic
collector.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import pairwise

import msgspec

from .revision import Revision, row_key, tombstone_key

_PAST = struct.Struct("=qq")
_MAIN = struct.Struct("=q")
_WIDTH = _PAST.size


class KeyIndex(msgspec.Struct, gc=False):
    """One key's history. Moved only by put(), tombstone() and compact().

    - `main`, `sub`: the newest revision; greater than all in `past`.
    - `created`: main of the put that began the present life; 0 when the newest revision is a
      tombstone.
    - `version`: puts in the present life, also those compacted since; 0 when the newest is a
      tombstone.
    - `past`: (main, 2 * sub + tombstone) of each older revision, ascending; never two tombstones in
      a row.
    """

    key: bytes
    main: int
    sub: int
    created: int
    version: int
    past: bytearray | None = None

    def put(self, main: int, sub: int) -> None:
        """A new version, or a new life after a tombstone."""
        self._push(main, sub)
        if self.created:
            self.version += 1
        else:
            self.created = main
            self.version = 1

    def tombstone(self, main: int, sub: int) -> None:
        """Ends the present life; the key must be alive."""
        assert self.created, f"delete of a dead key at {main}.{sub}"
        self._push(main, sub)
        self.created = 0
        self.version = 0

    def _push(self, main: int, sub: int) -> None:
        assert (main, sub) > (self.main, self.sub), f"{main}.{sub} after {self.main}.{self.sub}"
        packed = _PAST.pack(self.main, self.sub << 1 | (not self.created))
        if self.past is None:
            self.past = bytearray(packed)
        else:
            self.past += packed
        self.main = main
        self.sub = sub

    def at(self, revision: int) -> Revision | None:
        """The revision of the key's state as of main `revision`; None when it did not exist then.

        Of several changes by one transaction the last counts.

        >>> entry = KeyIndex(b"k", 2, 0, 2, 1)
        >>> entry.put(4, 0); entry.tombstone(6, 0)
        >>> entry.at(5), entry.at(6)
        (Revision(main=4, sub=0), None)
        """
        if self.main <= revision:
            return Revision(self.main, self.sub) if self.created else None
        return self._live(self._count_until(revision) - 1)

    def before(self, main: int, sub: int) -> Revision | None:
        """The state that the change (main, sub) replaced; None: none did exist, or is left."""
        if (main, sub) == (self.main, self.sub):
            return self._live(self._past_len() - 1)
        for i in range(self._count_until(main) - 1, 0, -1):
            past_main, mark = self._past_at(i)
            if (past_main, mark >> 1) == (main, sub):
                return self._live(i - 1)
            if past_main < main:
                break
        return None

    def compact(self, revision: int) -> list[bytes]:
        """Forget what no read at or above `revision` needs; the row keys of that, ascending.

        The state at `revision` is kept, also a tombstone exactly there. When `vanishes(revision)`,
        everything is forgotten and the entry must be thrown away.
        """
        if self.vanishes(revision):
            rows = self._take(self._past_len())
            rows.append(tombstone_key(self.main, self.sub))
            return rows
        if self.main <= revision:
            return self._take(self._past_len())
        count = self._count_until(revision)
        if count == 0:
            return []
        main, mark = self._past_at(count - 1)
        gone = mark & 1 and main < revision
        return self._take(count if gone else count - 1)

    def vanishes(self, revision: int) -> bool:
        """Whether compact(revision) leaves nothing."""
        return not self.created and self.main < revision

    def keep(self, revision: int) -> Revision | None:
        """What compact(revision) keeps at or below it: at(revision), or a tombstone there."""
        if self.main <= revision:
            return None if self.vanishes(revision) else Revision(self.main, self.sub)
        count = self._count_until(revision)
        if count == 0:
            return None
        main, mark = self._past_at(count - 1)
        return None if mark & 1 and main < revision else Revision(main, mark >> 1)

    def since(self, revision: int) -> list[Revision]:
        """Changes from main `revision` on, ascending; of several in one transaction the last."""
        found: dict[int, Revision] = {}
        for i in range(self._count_until(revision - 1), self._past_len()):
            main, mark = self._past_at(i)
            found[main] = Revision(main, mark >> 1)
        if self.main >= revision:
            found[self.main] = Revision(self.main, self.sub)
        return list(found.values())

    def generations(self) -> list[list[Revision]]:
        """The lives, oldest first; the last is empty when the key is deleted. For inspection."""
        lives: list[list[Revision]] = [[]]
        for i in range(self._past_len()):
            main, mark = self._past_at(i)
            lives[-1].append(Revision(main, mark >> 1))
            if mark & 1:
                lives.append([])
        lives[-1].append(Revision(self.main, self.sub))
        return lives if self.created else [*lives, []]

    def starts_dead_at(self, revision: int) -> bool:
        """Whether the oldest revision left is a tombstone that compact(revision) had to keep."""
        if self.past:
            main, mark = self._past_at(0)
            return main == revision and bool(mark & 1)
        return self.main == revision and not self.created

    def _past_len(self) -> int:
        return len(self.past) // _WIDTH if self.past else 0

    def _past_at(self, i: int) -> tuple[int, int]:
        assert self.past is not None
        return _PAST.unpack_from(self.past, i * _WIDTH)

    def _count_until(self, revision: int) -> int:
        """How many of `past` have main <= revision."""
        past = self.past
        if not past:
            return 0
        return bisect_right(
            range(len(past) // _WIDTH),
            revision,
            key=lambda i: _MAIN.unpack_from(past, i * _WIDTH)[0],
        )

    def _live(self, i: int) -> Revision | None:
        if i < 0:
            return None
        main, mark = self._past_at(i)
        return None if mark & 1 else Revision(main, mark >> 1)

    def _take(self, count: int) -> list[bytes]:
        """Drop the `count` oldest of past; their row keys."""
        rows: list[bytes] = []
        if count == 0:
            return rows
        assert self.past is not None
        for i in range(count):
            main, mark = self._past_at(i)
            rows.append(tombstone_key(main, mark >> 1) if mark & 1 else row_key(main, mark >> 1))
        del self.past[: count * _WIDTH]
        if not self.past:
            self.past = None
        return rows

    def check_invariants(self) -> None:
        """The lines of the class docstring, asserted."""
        assert (self.created == 0) == (self.version == 0), (self.key, self.created, self.version)
        assert self.created <= self.main, (self.key, self.created, self.main)
        flat = [self._past_at(i) for i in range(self._past_len())]
        flat.append((self.main, self.sub << 1 | (not self.created)))
        for older, newer in pairwise(flat):
            assert (older[0], older[1] >> 1) < (newer[0], newer[1] >> 1), (self.key, flat)
            assert not (older[1] & 1 and newer[1] & 1), (self.key, flat)
