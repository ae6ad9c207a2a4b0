"""A loop whose time is a number: it jumps to the next timer, so a run takes no longer than its
work, and the same calls in the same order give the same run.

Everything a member schedules belongs to its *life* (a context variable, inherited by every callback
and task). Ending a life is what kill -9 is: nothing of it runs any more, nothing is cleaned up.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import base_events
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.faulty_disk import PowerCut

_LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


class Life:
    """One process of a member, from start to crash. `frozen_until` is a pause (SIGSTOP): what is
    due meanwhile runs late.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object] | None = None
        self._late = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._tasks_max = 100

    def own(self, task: asyncio.Task[Any]) -> None:
        """A task that was begun in this life."""
        self._tasks.append(task)
        if len(self._tasks) > self._tasks_max:
            self._tasks = self.unfinished()
            self._tasks_max = 2 * len(self._tasks) + 100

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """In the order they were begun."""
        return [task for task in self._tasks if not task.done()]

    def bury(self) -> None:
        """Free what a dead life left behind, now: the collector would do it at any time, and what
        `finally` clauses do then would be part of the run.
        """
        assert not self.alive, f"{self.name} lives"
        left, self._tasks = self.unfinished(), []
        for task in left:
            self.context().run(_close, task)

    def freeze(self, until: float) -> None:
        """Nothing of this life runs before `until`."""
        self.frozen_until, self._late = until, 0

    def resumes_at(self) -> float:
        """When the next late callback runs: in the order they were due."""
        self._late += 1
        return self.frozen_until + self._late * 1e-9

    def context(self) -> contextvars.Context:
        """Where the member is to be started in, for all it does to belong here."""
        context = contextvars.copy_context()
        context.run(_LIFE.set, self)
        return context


def life_of(context: contextvars.Context) -> Life | None:
    """Whose life what runs in `context` belongs to."""
    return context.get(_LIFE)


class Killed(BaseException):
    """The process has ended at this very place."""


def _close(task: asyncio.Task[Any]) -> None:
    """From the innermost coroutine outwards: each may await again while it is closed, and whoever
    awaits it must not hear of that.
    """
    outermost: Any = task.get_coro()
    for _ in range(1000):
        if outermost.cr_frame is None:
            return
        innermost = outermost
        while getattr(innermost.cr_await, "cr_frame", None) is not None:
            innermost = innermost.cr_await
        with suppress(BaseException):
            innermost.close()
    raise AssertionError(f"{outermost} does not end")


class Deadlock(Exception):
    """No timer is left: nothing would ever happen again."""


class SimLoop(base_events.BaseEventLoop):
    """An asyncio loop without sockets, threads and clock.

    `executor_seconds()` says how long the next job handed to a pool takes; it then runs at once, at
    its end.
    """

    def __init__(self, executor_seconds: Callable[[], float] = lambda: 0.001) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self._clock_resolution = 1e-9
        self._executor_seconds = executor_seconds
        self.set_task_factory(_task)
        self.errors: list[BaseException] = []

    def time(self) -> float:
        return self._now

    # -- what BaseEventLoop asks of its selector

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock
        if timeout > 0:
            self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        pass

    # -- lives

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        life = _LIFE.get() if context is None else context.get(_LIFE)
        if life is None:
            return super().call_soon(callback, *args, context=context)
        call = _Call(self, life, callback, args)
        call.handle = handle = super().call_soon(call.run, context=context)
        return handle

    def call_soon_threadsafe(
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        life = _LIFE.get() if context is None else context.get(_LIFE)
        if life is None:
            return super().call_at(when, callback, *args, context=context)
        call = _Call(self, life, callback, args)
        call.handle = handle = super().call_at(when, call.run, context=context)
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self._executor_seconds(), run)
        return future

    def set_exception_handler(self, handler: Any) -> None:
        """Of the life that asks."""
        life = _LIFE.get()
        assert life is not None, "only members bring handlers"
        life.handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody handles fails the run."""
        error = context.get("exception")
        if not isinstance(error, Killed | PowerCut):
            self.errors.append(error or AssertionError(context.get("message")))

    call_exception_handler = default_exception_handler

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """What the collector finds, at whatever time, is not part of the run."""


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **kwargs)
    context = kwargs.get("context")
    life = context.get(_LIFE) if context is not None else _LIFE.get()
    if life is not None:
        life.own(task)
    # A task whose life has ended stays pending for good.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


class _Call:
    """A callback of one life: dropped when that has ended, put off while it is frozen."""

    __slots__ = ("_args", "_callback", "_life", "_loop", "handle")

    def __init__(
        self, loop: SimLoop, life: Life, callback: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self._loop = loop
        self._life = life
        self._callback = callback
        self._args = args
        self.handle: asyncio.Handle | None = None

    def run(self) -> None:
        """By the loop, when it is due."""
        life, loop = self._life, self._loop
        if not life.alive:
            return
        if life.frozen_until > loop.time():
            base_events.BaseEventLoop.call_at(loop, life.resumes_at(), self._run_late)
            return
        try:
            self._callback(*self._args)
        except (Killed, PowerCut):
            assert not life.alive, "the end of another life"
        except Exception as error:
            context = {"message": f"in {self._callback}", "exception": error}
            (life.handler or SimLoop.default_exception_handler)(loop, context)

    def _run_late(self) -> None:
        """Whoever cancelled it meanwhile knows only the first handle."""
        if self.handle is None or not self.handle.cancelled():
            self.run()
