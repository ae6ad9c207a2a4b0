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
    from node.proposals import Done
    from node.server import Server


class Kv:
    """Methods raise the RequestError a request deserves, or call `done` exactly once."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._max_txn_ops = server.config.max_txn_ops

    def range(self, request: RangeRequest, done: Done) -> None:
        check(request)
        self._server.range(request, done)

    def put(self, request: PutRequest, done: Done) -> None:
        check(request)
        self._server.propose(request, done)

    def delete_range(self, request: DeleteRangeRequest, done: Done) -> None:
        check(request)
        self._server.propose(request, done)

    def txn(self, request: TxnRequest, done: Done) -> None:
        check(request, max_txn_ops=self._max_txn_ops)
        self._server.txn(request, done)

    def compact(self, request: CompactionRequest, done: Done) -> None:
        check(request)
        self._server.compact(request, done)
