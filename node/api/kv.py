"""The KV service: check what a request says by itself, then one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.apply.checks import check
from node.apply.requests import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
)

if TYPE_CHECKING:
    from node.apply.requests import Asker
    from node.proposals import Done
    from node.server import Server


class Kv:
    """Methods raise the RequestError a request deserves, or call `done` exactly once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._max_txn_ops = server.config.max_txn_ops

    def range(self, request: RangeRequest, asker: Asker, done: Done) -> None:
        check(request)
        self._server.range(request, done, asker)

    def put(self, request: PutRequest, asker: Asker, done: Done) -> None:
        check(request)
        self._server.propose(request, done, asker)

    def delete_range(self, request: DeleteRangeRequest, asker: Asker, done: Done) -> None:
        check(request)
        self._server.propose(request, done, asker)

    def txn(self, request: TxnRequest, asker: Asker, done: Done) -> None:
        check(request, max_txn_ops=self._max_txn_ops)
        self._server.txn(request, done, asker)

    def compact(self, request: CompactionRequest, asker: Asker, done: Done) -> None:
        check(request)
        self._server.compact(request, done, asker)
