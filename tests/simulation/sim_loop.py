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
from typing import Any

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
        return super().call_soon(*_living(self, callback, args, context), context=context)

    def call_soon_threadsafe(
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        wrapped = _living(self, callback, args, context)
        return super().call_at(when, *wrapped, context=context)

    def call_at_once_more(
        self, when: float, callback: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Put off, in the same life."""
        self.call_at(when, callback, *args)

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
        self.errors.append(error or AssertionError(context.get("message")))

    call_exception_handler = default_exception_handler


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **kwargs)
    # A task whose life has ended stays pending for good.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


def _living(
    loop: SimLoop, callback: Callable[..., Any], args: tuple[Any, ...], context: Any
) -> tuple[Any, ...]:
    """The callback and its arguments, to be dropped or delayed by the state of whose it is."""
    life = context.get(_LIFE) if context is not None else _LIFE.get()
    if life is None:
        return (callback, *args)
    return (_run, loop, life, callback, args)


def _run(loop: SimLoop, life: Life, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if not life.alive:
        return
    if life.frozen_until > loop.time():
        loop.call_at_once_more(life.resumes_at(), callback, args)
        return
    try:
        callback(*args)
    except Exception as error:
        context = {"message": f"in {callback}", "exception": error}
        (life.handler or SimLoop.default_exception_handler)(loop, context)
