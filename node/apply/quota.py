"""What a request may add to the file, and the limit it is held against before it is proposed.

A member refuses at its door only; a request that is in the log is applied whatever the sizes are
(alarm.py).
"""

from __future__ import annotations

from .requests import LeaseGrantRequest, PutRequest, Request, RequestOp, TxnRequest

QUOTA_BYTES_DEFAULT = 2 * 1024**3
"""etcd's default, which operators' alerts and dashboards are made for."""

PUT_OVERHEAD_BYTES = 256
"""Record fields, revision key and index entry of one put."""
GRANT_BYTES = 64


def cost(request: Request) -> int:
    """Bytes that `request` may add; a txn costs its dearer branch, nested ones included; 0 for all
    that frees or reads.
    """
    if type(request) is PutRequest:
        return PUT_OVERHEAD_BYTES + len(request.key) + len(request.value)
    if type(request) is TxnRequest:
        return max(_branch_cost(request.success), _branch_cost(request.failure))
    return GRANT_BYTES if type(request) is LeaseGrantRequest else 0


def puts_something(request: TxnRequest) -> bool:
    """Whether any branch, nested or not, holds a put."""
    return any(
        op.request_put is not None
        or (op.request_txn is not None and puts_something(op.request_txn))
        for branch in (request.success, request.failure)
        for op in branch
    )


class Quota:
    """`limit`: bytes; 0 is the default of 2 GiB, a negative one switches the quota off."""

    def __init__(self, limit: int) -> None:
        self.limit = QUOTA_BYTES_DEFAULT if limit == 0 else limit

    def available(self, size: int, request: Request) -> bool:
        """Whether a file of `size` bytes has room for `request`. What costs nothing always has."""
        if self.limit < 0:
            return True
        added = cost(request)
        return added == 0 or size + added < self.limit


def _branch_cost(ops: list[RequestOp]) -> int:
    total = 0
    for op in ops:
        if op.request_put is not None:
            total += cost(op.request_put)
        elif op.request_txn is not None:
            total += cost(op.request_txn)
    return total
