"""The versioned store, usable without `raft` and `node`. The data model on one page:

- Every write transaction that changes something takes the next **revision** (its `main`; an empty
  store is at 1, the first write makes 2); its changes are numbered `sub` = 0, 1, ... One that
  changes nothing takes none.
- Nothing is overwritten: each change adds one row to the key table, its key the revision, its value
  the record. Rows in revision order are the history that watchers read and replicas compare.
- The **index** (memory only, rebuilt on start) knows each key's revisions. One life of a key, from
  the put that creates it to the delete that ends it with a **tombstone**, is a **generation**;
  `version` counts the puts in it, `create_revision` is its first, `mod_revision` its newest.
- A read at revision r sees, per key, the greatest revision with main <= r, unless that is a
  tombstone.
- **Compaction** at R: per key, what no read at or above R needs goes. Kept of the rows at or below
  R is the newest, if the key is alive at R; a tombstone exactly at R is kept too (a watch may start
  at R), an older one goes with its generation. So the newest version of a live key always stays,
  and a deleted key vanishes altogether.
- Reads below `compact_rev` are refused from the moment a compaction is accepted. Its rows leave in
  steps; `compact_rev` and the current revision survive a crash in between.

Nothing here has a clock, a task or a thread: long work (restore, long ranges, compaction, hashing)
comes as steps that the caller drives, and writes may come between them.
"""
