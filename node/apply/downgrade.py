"""The downgrade that operators have announced: one row, and what may follow what.

esker's data mean the same to all its releases of this major version, so an announced downgrade
changes nothing that members do. It is kept for whoever replaces the members one by one, and is
shown in their status until it is cancelled.
"""

from __future__ import annotations

from mvcc.backend import Backend

from .errors import DowngradeUnderWay, NoDowngrade
from .requests import DowngradeAction, DowngradeRequest
from .schema import CLUSTER, DOWNGRADE


class Downgrade:
    """`target` is a release such as 3.5.0; empty while none is announced."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.target = ""

    def restore(self) -> None:
        self.target = (self._backend.get(CLUSTER, DOWNGRADE) or b"").decode()

    def check(self, action: int) -> None:
        """DowngradeUnderWay, NoDowngrade."""
        if action == DowngradeAction.CANCEL and not self.target:
            raise NoDowngrade
        if action != DowngradeAction.CANCEL and self.target:
            raise DowngradeUnderWay

    def apply(self, request: DowngradeRequest) -> None:
        """As `check`; else announced, cancelled, or (VALIDATE) nothing."""
        self.check(request.action)
        if request.action == DowngradeAction.ENABLE:
            self.target = request.version
            self._backend.put(CLUSTER, DOWNGRADE, request.version.encode())
        elif request.action == DowngradeAction.CANCEL:
            self.target = ""
            self._backend.delete(CLUSTER, DOWNGRADE)
