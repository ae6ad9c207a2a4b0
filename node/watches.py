"""Watches: the shell around the watchable store: when queues are emptied, history is read, progress
is told.

    write ends ─► queue of a stream ─► marked ─► one flush per turn of the loop ─► its client

A write only marks the streams that have something to say. A stream whose client does not keep up is
not emptied until it does; what then does not fit into its queue, is read from history later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Any, Protocol

from mvcc.errors import Compacted
from mvcc.store import Store
from mvcc.watchable_store import Notice, WatchableStore, WatchOptions, WatchResponse

FLUSH_STREAMS = 200
FLUSH_BYTES = 4 << 20
"""A flush lets the loop go on after so many streams or bytes: a few milliseconds."""

PROGRESS_STREAMS = 500
"""Streams told their progress in one turn of the loop."""

PROGRESS_MS = 600_000
PROGRESS_MS_MIN = 100


class Listener(Protocol):
    """Who a stream's responses are for."""

    @property
    def full(self) -> bool:
        """Leave the queue alone until `Subscription.resume`."""

    def flush(self) -> int:
        """Take what the stream has queued and pass it on; about how many bytes that was."""


class Subscription:
    """One client's stream of watchers, flushed by `Watches` when there is something to say."""

    __slots__ = ("_held", "_listener", "_watches", "stream")

    def __init__(self, watches: Watches, listener: Listener) -> None:
        self._watches = watches
        self._listener: Listener | None = listener
        self._held = False
        self.stream = watches.store.open(lambda _: watches.mark(self))

    def watch(self, **options: Any) -> int:
        """As `WatchStream.watch`, with the fields of WatchOptions."""
        return self.stream.watch(WatchOptions(**options))

    def flush(self) -> int:
        listener = self._listener
        if listener is None:
            return 0
        self._held = listener.full
        return 0 if self._held else listener.flush()

    def resume(self) -> None:
        """The listener has room again."""
        if self._held:
            self._held = False
            self._watches.mark(self)

    def close(self) -> None:
        """Free everything; idempotent."""
        if self._listener is not None:
            self._listener = None
            self.stream.close()
            self._watches.forget(self)


class Watches:
    """The watches of one member.

    `stamp()` changes whenever somebody may have lost a permission, or the leader. `paused()`: a
    snapshot is replacing the store, and history must not be read. `jitter`, from 0 to 1, differs
    between members, so that not all tell their clients' progress in the same moment.
    """

    def __init__(
        self,
        store: Store,
        *,
        call_soon: Callable[..., object],
        stamp: Callable[[], object] = lambda: None,
        paused: Callable[[], bool] = lambda: False,
        progress_ms: int = 0,
        jitter: float = 0.0,
    ) -> None:
        self.store = WatchableStore(store)
        self.store.on_behind = self._note_behind
        self._call_soon = call_soon
        self._stamp = stamp
        self._seen = stamp()
        self._paused = paused
        interval_ms = max(progress_ms or PROGRESS_MS, PROGRESS_MS_MIN)
        self.progress_seconds = interval_ms / 1e3 * (1 + jitter / 10)
        self._open: dict[Subscription, None] = {}
        self._marked: dict[Subscription, None] = {}
        self._scheduled = False
        self._behind = asyncio.Event()

    def subscribe(self, listener: Listener) -> Subscription:
        """A new stream of watchers for `listener`, who closes it."""
        subscription = Subscription(self, listener)
        self._open[subscription] = None
        return subscription

    def forget(self, subscription: Subscription) -> None:
        self._open.pop(subscription, None)
        self._marked.pop(subscription, None)

    # -- what there is to say

    def mark(self, subscription: Subscription) -> None:
        """Flush it in one of the next turns; called from the middle of writes."""
        self._marked[subscription] = None
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        size = 0
        for subscription in list(islice(self._marked, FLUSH_STREAMS)):
            self._marked.pop(subscription, None)
            size += subscription.flush()
            if size > FLUSH_BYTES:
                break
        if self._marked and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush)

    # -- history

    def _note_behind(self) -> None:
        self._behind.set()

    def attach(self, store: Store) -> None:
        """A snapshot replaced the store."""
        self.store.attach(store)
        self._behind.set()

    def sweep(self) -> None:
        """Often: look whether something is lost; every stream then asks again for its own."""
        if self.store.behind:
            self._behind.set()
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            for subscription in self._open:
                self.mark(subscription)

    # -- tasks

    async def run(self) -> None:
        """Read history for whoever is behind, and tell progress, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._catch_up())
            tasks.create_task(self._tell_progress())

    async def _catch_up(self) -> None:
        while True:
            await self._behind.wait()
            self._behind.clear()
            if not self._paused() and self.store.catch_up():
                self._behind.set()
            # Everybody else has a turn between two slices.
            await asyncio.sleep(0)

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(self.progress_seconds)
            for number, subscription in enumerate(list(self._open)):
                subscription.stream.notify_progress()
                if number % PROGRESS_STREAMS == PROGRESS_STREAMS - 1:
                    await asyncio.sleep(0)

    # -- for the member itself

    async def notices(self, *watchers: WatchOptions) -> AsyncIterator[Notice]:
        """The events of these watchers as they come; close the iterator to end it.

        Compacted when a start is; ValueError with the reason for a watch that cannot be.
        """
        ready = asyncio.Event()
        stream = self.store.open(lambda _: ready.set())
        try:
            for options in watchers:
                stream.watch(options)
            while True:
                await ready.wait()
                ready.clear()
                for response in stream.take():
                    if response.canceled:
                        raise _ended(response)
                    if response.notice is not None:
                        yield response.notice
        finally:
            stream.close()

    async def first(self, *watchers: WatchOptions) -> Notice:
        """The first events of any: a `start_rev` one above a read makes it "since then"."""
        notices = self.notices(*watchers)
        try:
            return await anext(notices)
        finally:
            await notices.aclose()  # type: ignore[attr-defined]


def _ended(response: WatchResponse) -> Exception:
    if response.compact_revision:
        return Compacted(0, response.compact_revision)
    return ValueError(response.cancel_reason)
