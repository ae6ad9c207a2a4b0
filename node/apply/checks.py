"""Checks that look at a request alone, before it is proposed or let into the log.

`check` is what the answering member asks of its client; `admit` is what a leader asks of the bytes
another member forwarded. Apply repeats of them what it could not survive, so that a strange entry
is a refused one on every member.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from mvcc.kv import SortOrder, SortTarget

from .errors import (
    DowngradeVersionFormat,
    DuplicateKey,
    InvalidArgument,
    InvalidSortOption,
    KeyNotFound,
    KeyNotProvided,
    LeaseNotFound,
    LeaseProvided,
    LeaseTtlTooLarge,
    RequestError,
    TooManyOps,
    ValueProvided,
)
from .key_ranges import KeyRanges
from .lessor import NO_LEASE, TTL_MAX
from .requests import (
    NAME_BYTES_MAX,
    AlarmAction,
    AlarmRequest,
    AlarmType,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    CompactionRequest,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    DowngradeAction,
    DowngradeRequest,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    MemberUpdateRequest,
    PermissionType,
    PutRequest,
    RangeRequest,
    Request,
    RequestOp,
    RoleAddRequest,
    RoleDeleteRequest,
    RoleGrantPermissionRequest,
    RoleRevokePermissionRequest,
    TxnRequest,
    UserAddRequest,
    UserChangePasswordRequest,
    UserDeleteRequest,
    UserGrantRoleRequest,
    UserRevokeRoleRequest,
    decode,
)
from .schema import INT64_MAX, INT64_MIN, UINT64_MAX

TXN_OPS_MAX = 128
"""etcd's default of --max-txn-ops."""
TXN_DEPTH_MAX = 128
"""Nested txns on one path, whatever --max-txn-ops says: apply descends by recursion. It is what
etcd's counting rule allows at its default.
"""
TOKEN_DIGEST_BYTES = 32
_BCRYPT = re.compile(rb"\$2[aby]\$\d\d\$[./0-9A-Za-z]{53}")
_RELEASE = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)

LEASE_CHECKPOINTS_MAX = 1000
"""In one entry: about 20 KB of it, and as many rows."""


def check(request: Request | RangeRequest, *, max_txn_ops: int = TXN_OPS_MAX) -> None:
    """Raise the RequestError that `request` deserves by itself; else it may be proposed."""
    if type(request) is TxnRequest:
        check_txn(request, max_txn_ops)
    else:
        _CHECKS[type(request)](request)


def admit(data: bytes) -> None:
    """ValueError unless `data` is a request that apply can handle.

    Limits that the members need not share, the number of ops in a txn, are the sender's to check.
    """
    try:
        _, request = decode(data)
        check(request, max_txn_ops=INT64_MAX)
    except RecursionError:
        raise ValueError("a request nested too deeply") from None
    except RequestError as error:
        raise ValueError(f"a request to refuse: {type(error).__name__} {error}") from error


def check_put(request: PutRequest) -> None:
    if not request.key:
        raise KeyNotProvided
    if request.ignore_value and request.value:
        raise ValueProvided
    if request.ignore_lease and request.lease != NO_LEASE:
        raise LeaseProvided
    _int64("lease", request.lease)


def check_range(request: RangeRequest) -> None:
    if not request.key:
        raise KeyNotProvided
    if not (
        SortOrder.NONE <= request.sort_order <= SortOrder.DESCEND
        and SortTarget.KEY <= request.sort_target <= SortTarget.VALUE
    ):
        raise InvalidSortOption
    _int64("limit", request.limit)
    _int64("revision", request.revision)
    _int64("min_mod_revision", request.min_mod_revision)
    _int64("max_mod_revision", request.max_mod_revision)
    _int64("min_create_revision", request.min_create_revision)
    _int64("max_create_revision", request.max_create_revision)


def check_delete_range(request: DeleteRangeRequest) -> None:
    if not request.key:
        raise KeyNotProvided


def check_txn(request: TxnRequest, max_txn_ops: int) -> None:
    """Counts, keys and fields of both branches on all levels, then keys written twice."""
    _check_txn_shape(request, max_txn_ops, depth=1)
    _written_keys(request.success)
    _written_keys(request.failure)


def _check_txn_shape(request: TxnRequest, ops_left: int, depth: int) -> None:
    """A nested txn may hold as many ops as its parent's longest list left over."""
    if depth > TXN_DEPTH_MAX:
        raise TooManyOps
    ops = max(len(request.compare), len(request.success), len(request.failure))
    if ops > ops_left:
        raise TooManyOps
    for compare in request.compare:
        _check_compare(compare)
    for branch in (request.success, request.failure):
        for op in branch:
            _check_op(op, ops_left - ops, depth)


def _check_op(op: RequestOp, ops_left: int, depth: int) -> None:
    member = the_request(op)
    if type(member) is TxnRequest:
        _check_txn_shape(member, ops_left, depth + 1)
    elif member is None:
        raise KeyNotFound
    else:
        _CHECKS[type(member)](member)


def the_request(
    op: RequestOp,
) -> RangeRequest | PutRequest | DeleteRangeRequest | TxnRequest | None:
    """The one member of `op` that is set, None for `{}`."""
    return op.request_put or op.request_range or op.request_delete_range or op.request_txn


def _check_compare(compare: Compare) -> None:
    if not compare.key:
        raise KeyNotProvided
    if not CompareResult.EQUAL <= compare.result <= CompareResult.NOT_EQUAL:
        raise InvalidArgument(f"unknown compare result {compare.result}")
    if not CompareTarget.VERSION <= compare.target <= CompareTarget.LEASE:
        raise InvalidArgument(f"unknown compare target {compare.target}")
    _int64("version", compare.version)
    _int64("create_revision", compare.create_revision)
    _int64("mod_revision", compare.mod_revision)
    _int64("lease", compare.lease)


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """Whether a range or delete of `start`, `end` is about `key`.

    An empty end names one key, a zero byte is no upper bound.
    """
    if not end:
        return key == start
    return start <= key and (end == b"\0" or key < end)


def _written_keys(ops: list[RequestOp]) -> tuple[list[bytes], KeyRanges]:
    """Keys put, ascending, and ranges deleted by `ops`, nested txns included. DuplicateKey where a
    put meets another put or a delete.

    Only one branch of a nested txn runs, so these two may meet each other. Deletes may overlap
    deletes. Two things are as etcd has them: a delete of all keys from one on (its end is a zero
    byte) counts as empty, and a nested txn may delete what an earlier sibling puts. Both execute
    in order.

    The smaller side is always taken into the larger one: a hundred levels over thirty thousand
    puts would else be three million steps on the loop.
    """
    deleted = KeyRanges()
    puts: list[bytes] = []
    for op in ops:
        if op.request_delete_range is not None:
            start = op.request_delete_range.key
            deleted.add(start, op.request_delete_range.range_end or start + b"\0")
    for op in ops:
        if op.request_txn is not None:
            then_puts, then_deleted = _written_keys(op.request_txn.success)
            else_puts, else_deleted = _written_keys(op.request_txn.failure)
            puts = _joined(puts, _union(then_puts, else_puts), deleted)
            then_deleted.update(else_deleted)
            deleted.update(then_deleted)
    own = sorted(op.request_put.key for op in ops if op.request_put is not None)
    if any(a == b for a, b in pairwise(own)):
        raise DuplicateKey
    return _joined(puts, own, deleted), deleted


def _joined(puts: list[bytes], more: list[bytes], deleted: KeyRanges) -> list[bytes]:
    """Both, ascending. DuplicateKey where `more` meets `puts` or what is deleted."""
    joined = len(puts) + len(more)
    if deleted.meets(more):
        raise DuplicateKey
    puts = _union(puts, more)
    if len(puts) < joined:
        raise DuplicateKey
    return puts


def _union(one: list[bytes], other: list[bytes]) -> list[bytes]:
    """Both, ascending, each key once; neither list is to be used afterwards."""
    small, large = sorted((one, other), key=len)
    for key in small:
        at = bisect_left(large, key)
        if at == len(large) or large[at] != key:
            large.insert(at, key)
    return large


def _check_compaction(request: CompactionRequest) -> None:
    _int64("revision", request.revision)


def check_grant(request: LeaseGrantRequest) -> None:
    _int64("TTL", request.TTL)
    _int64("ID", request.ID)
    if request.TTL > TTL_MAX:
        raise LeaseTtlTooLarge


def _check_revoke(request: LeaseRevokeRequest) -> None:
    _int64("ID", request.ID)
    if request.ID == NO_LEASE:
        raise LeaseNotFound


def _check_expire(request: LeaseExpireRequest) -> None:
    _int64("ID", request.ID)
    _uint64("term", request.term)


def _check_checkpoints(request: LeaseCheckpointRequest) -> None:
    _uint64("term", request.term)
    if len(request.checkpoints) > LEASE_CHECKPOINTS_MAX:
        raise InvalidArgument(f"{len(request.checkpoints)} lease checkpoints at once")
    for each in request.checkpoints:
        _int64("ID", each.ID)
        if not 0 <= each.remaining_ttl <= TTL_MAX:
            raise InvalidArgument(f"remaining TTL {each.remaining_ttl} of a lease")


def check_alarm(request: AlarmRequest) -> None:
    if not AlarmAction.GET <= request.action <= AlarmAction.DEACTIVATE:
        raise InvalidArgument(f"unknown alarm action {request.action}")
    if not AlarmType.NONE <= request.alarm <= AlarmType.CORRUPT:
        raise InvalidArgument(f"unknown alarm type {request.alarm}")
    _uint64("memberID", request.memberID)


def _check_downgrade(request: DowngradeRequest) -> None:
    if not DowngradeAction.VALIDATE <= request.action <= DowngradeAction.CANCEL:
        raise InvalidArgument(f"unknown downgrade action {request.action}")
    if request.action != DowngradeAction.CANCEL and not _RELEASE.fullmatch(request.version):
        raise DowngradeVersionFormat


def _check_member(request: MemberAttributesRequest | MemberUpdateRequest) -> None:
    _uint64("ID", request.ID)


def _check_nothing(request: AuthEnableRequest | AuthDisableRequest) -> None:
    """A message without fields cannot be wrong."""


def _check_token(request: AuthTokenRequest) -> None:
    _name(request.name)
    if len(request.digest) != TOKEN_DIGEST_BYTES:
        raise InvalidArgument(f"a token's digest of {len(request.digest)} bytes")
    _int64("revision", request.revision)


def _check_password(request: UserAddRequest | UserChangePasswordRequest) -> None:
    _name(request.name)
    if request.hashed_password and not _BCRYPT.fullmatch(request.hashed_password):
        raise InvalidArgument("a password's hash that is not of bcrypt")


def _check_user_role(request: UserGrantRoleRequest | UserRevokeRoleRequest) -> None:
    _name(request.user if isinstance(request, UserGrantRoleRequest) else request.name)
    _name(request.role)


def _check_named(request: UserDeleteRequest | RoleAddRequest) -> None:
    _name(request.name)


def _check_role(request: RoleDeleteRequest | RoleRevokePermissionRequest) -> None:
    _name(request.role)


def _check_permission(request: RoleGrantPermissionRequest) -> None:
    _name(request.name)
    granted = request.perm
    if granted and not PermissionType.READ <= granted.permType <= PermissionType.READWRITE:
        raise InvalidArgument(f"unknown permission type {granted.permType}")


def _name(name: str) -> None:
    """Whether a name may be empty depends on what is asked, and is answered where it is done."""
    if len(name.encode()) > NAME_BYTES_MAX:
        raise InvalidArgument(f"a name of more than {NAME_BYTES_MAX} bytes")


def _int64(name: str, value: int) -> None:
    if not INT64_MIN <= value <= INT64_MAX:
        raise InvalidArgument(f"{name} {value} does not fit 64 bits")


def _uint64(name: str, value: int) -> None:
    if not 0 <= value <= UINT64_MAX:
        raise InvalidArgument(f"{name} {value} does not fit 64 bits without a sign")


_CHECKS: dict[type[Any], Callable[[Any], None]] = {
    PutRequest: check_put,
    RangeRequest: check_range,
    DeleteRangeRequest: check_delete_range,
    CompactionRequest: _check_compaction,
    LeaseGrantRequest: check_grant,
    LeaseRevokeRequest: _check_revoke,
    LeaseExpireRequest: _check_expire,
    LeaseCheckpointRequest: _check_checkpoints,
    AlarmRequest: check_alarm,
    DowngradeRequest: _check_downgrade,
    MemberAttributesRequest: _check_member,
    MemberUpdateRequest: _check_member,
    AuthEnableRequest: _check_nothing,
    AuthDisableRequest: _check_nothing,
    AuthTokenRequest: _check_token,
    UserAddRequest: _check_password,
    UserDeleteRequest: _check_named,
    UserChangePasswordRequest: _check_password,
    UserGrantRoleRequest: _check_user_role,
    UserRevokeRoleRequest: _check_user_role,
    RoleAddRequest: _check_named,
    RoleDeleteRequest: _check_role,
    RoleGrantPermissionRequest: _check_permission,
    RoleRevokePermissionRequest: _check_role,
}
