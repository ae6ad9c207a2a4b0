"""Is this member well? For load balancers, orchestrators and operators; plain GETs, no
authentication.

/health: no alarm (unless excluded), a known leader, and a read that succeeds. /livez: the process
serves local reads. /readyz: it may be sent requests. The last two can be asked check by check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from node.api.errors import refusal
from node.apply.requests import CLUSTER, AlarmType, RangeRequest

if TYPE_CHECKING:
    from node.server import Server


class Report(NamedTuple):
    """`text` is the body of the answer, `ok` its status: 200 or 503."""

    ok: bool
    text: str


_LIVE = ("serializable_read",)
_READY = ("data_corruption", "serializable_read", "linearizable_read", "non_learner")


class Health:
    """`success` and `failures` count the verdicts of /health."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.success = 0
        self.failures = 0
        self.verdicts: dict[str, bool] = {}
        self._checks: dict[str, Callable[[], Awaitable[str]]] = {
            "data_corruption": self._data_corruption,
            "serializable_read": lambda: self._read(serializable=True),
            "linearizable_read": lambda: self._read(serializable=False),
            "non_learner": self._non_learner,
        }

    async def health(self, exclude: Collection[str] = (), *, serializable: bool = False) -> str:
        """The reason why this member is unhealthy, empty when it is well."""
        reason = await self._reason(exclude, serializable)
        if reason:
            self.failures += 1
        else:
            self.success += 1
        return reason

    async def _reason(self, exclude: Collection[str], serializable: bool) -> str:
        for alarm in self._server.alarms.get(AlarmType.NONE):
            name = AlarmType(alarm.alarm).name
            if name not in exclude:
                return f"ALARM {name}"
        if not serializable and self._server.leader == 0:
            return "RAFT NO LEADER"
        failure = await self._read(serializable=serializable)
        return f"RANGE ERROR:{failure}" if failure else ""

    async def livez(self, exclude: Collection[str] = (), *, verbose: bool = False) -> Report:
        return await self._run("livez", _LIVE, exclude, verbose=verbose)

    async def readyz(self, exclude: Collection[str] = (), *, verbose: bool = False) -> Report:
        return await self._run("readyz", _READY, exclude, verbose=verbose)

    async def single(self, page: str, name: str) -> Report | None:
        """One check of `page`; None when it has no such check."""
        if name not in (_LIVE if page == "livez" else _READY):
            return None
        return await self._run(name, (name,), (), verbose=False)

    async def _run(
        self, page: str, names: Collection[str], exclude: Collection[str], *, verbose: bool
    ) -> Report:
        lines: list[str] = []
        ok = True
        for name in names:
            if name in exclude:
                lines.append(f"[+]{name} excluded: ok")
                continue
            failure = await self._checks[name]()
            self.verdicts[name] = not failure
            ok = ok and not failure
            lines.append(f"[-]{name} failed: {failure}" if failure else f"[+]{name} ok")
        if ok:
            return Report(True, "\n".join([*lines, "ok\n"]) if verbose else "ok\n")
        return Report(False, "\n".join([*lines, f"{page} check failed\n"]))

    async def _data_corruption(self) -> str:
        return "alarm activated: CORRUPT" if self._server.alarms.get(AlarmType.CORRUPT) else ""

    async def _non_learner(self) -> str:
        return "member is a learner" if self._server.is_learner else ""

    async def _read(self, *, serializable: bool) -> str:
        """Why a read of one key fails, empty when it does not. The server bounds how long it
        takes.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def done(result: object) -> None:
            if not future.done():
                future.set_result(result)

        request = RangeRequest(key=b"\0", limit=1, serializable=serializable, keys_only=True)
        self._server.range(request, done, CLUSTER)
        result: Any = await future
        return refusal(result).text if isinstance(result, Exception) else ""
