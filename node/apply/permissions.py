"""What each request needs, held against what a user may do.

A request type without a rule in `RULES` is refused to everybody, the role root included: whoever
adds one says here who may ask for it. Operations count on every nesting level and in both branches,
taken or not, for whether a branch was taken already tells something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .checks import TXN_DEPTH_MAX
from .errors import TooManyOps
from .key_ranges import NO_END, KeyRanges, end_of
from .lessor import NO_LEASE, Lessor
from .requests import (
    AlarmAction,
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DowngradeRequest,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    MemberUpdateRequest,
    Permission,
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
)

_READING = (PermissionType.READ, PermissionType.READWRITE)
_WRITING = (PermissionType.WRITE, PermissionType.READWRITE)


class Rights:
    """What one user may do, over all their roles: `root` everything, else with keys in `read` and
    `write`. Never changed once built.

    `_judged`: whether a lease may be ended, for those asked for; until a key comes to a lease of
    `_lessor` or leaves one (`_changes`). A txn may name one lease of many keys many times.
    """

    __slots__ = ("_changes", "_judged", "_lessor", "read", "root", "write")

    def __init__(self, permissions: Iterable[Permission] = (), *, root: bool = False) -> None:
        self.root = root
        self._judged: dict[int, bool] = {}
        self._lessor: Lessor | None = None
        self._changes = 0
        self.read = KeyRanges()
        self.write = KeyRanges()
        if root:
            self.read.add(b"", NO_END)
            self.write.add(b"", NO_END)
            return
        for each in permissions:
            end = end_of(each.key, each.range_end)
            if each.permType in _READING:
                self.read.add(each.key, end)
            if each.permType in _WRITING:
                self.write.add(each.key, end)

    def may_read(self, key: bytes, range_end: bytes = b"") -> bool:
        return self.read.covers(key, end_of(key, range_end))

    def may_write(self, key: bytes, range_end: bytes = b"") -> bool:
        return self.write.covers(key, end_of(key, range_end))

    def may_end_lease(self, lease: int, lessor: Lessor) -> bool:
        """Whether every key on `lease` may be written: whoever adds a key to a lease, or revokes
        it, decides when the others go. One that does not exist has none.
        """
        if self.root or lease == NO_LEASE or not lessor.exists(lease):
            return True
        if self._lessor is not lessor or self._changes != lessor.changes:
            self._lessor, self._changes, self._judged = lessor, lessor.changes, {}
        may = self._judged.get(lease)
        if may is None:
            may = self._judged[lease] = all(key in self.write for key in lessor.keys_of(lease))
        return may


NO_RIGHTS = Rights()


def permits(rights: Rights, request: Request | RangeRequest, lessor: Lessor) -> bool:
    """Whether `rights` are enough for `request`. TooManyOps for a txn that no member proposes."""
    rule = RULES.get(type(request))
    return rule is not None and rule(rights, request, lessor)


def _put(rights: Rights, request: PutRequest, lessor: Lessor) -> bool:
    return (
        request.key in rights.write
        and (not request.prev_kv or request.key in rights.read)
        and rights.may_end_lease(request.lease, lessor)
    )


def _range(rights: Rights, request: RangeRequest | Compare, lessor: Lessor) -> bool:
    return rights.may_read(request.key, request.range_end)


def _delete_range(rights: Rights, request: DeleteRangeRequest, lessor: Lessor) -> bool:
    return rights.may_write(request.key, request.range_end) and (
        not request.prev_kv or rights.may_read(request.key, request.range_end)
    )


def _txn(rights: Rights, request: TxnRequest, lessor: Lessor, depth: int = 1) -> bool:
    if depth > TXN_DEPTH_MAX:
        raise TooManyOps
    return all(_range(rights, compare, lessor) for compare in request.compare) and all(
        _op(rights, op, lessor, depth)
        for branch in (request.success, request.failure)
        for op in branch
    )


def _op(rights: Rights, op: RequestOp, lessor: Lessor, depth: int) -> bool:
    """Everything that `op` names, though only one of it is executed: which one is not this file's
    to guess.
    """
    put, range_, delete = op.request_put, op.request_range, op.request_delete_range
    return (
        (put is None or _put(rights, put, lessor))
        and (range_ is None or _range(rights, range_, lessor))
        and (delete is None or _delete_range(rights, delete, lessor))
        and (op.request_txn is None or _txn(rights, op.request_txn, lessor, depth + 1))
    )


def _revoke(rights: Rights, request: LeaseRevokeRequest, lessor: Lessor) -> bool:
    return rights.may_end_lease(request.ID, lessor)


def _alarm(rights: Rights, request: AlarmRequest, lessor: Lessor) -> bool:
    return rights.root or request.action == AlarmAction.GET


def _any_user(rights: Rights, request: Request, lessor: Lessor) -> bool:
    return True


def _root(rights: Rights, request: Request, lessor: Lessor) -> bool:
    return rights.root


def _members_only(rights: Rights, request: Request, lessor: Lessor) -> bool:
    return False


RULES: dict[type[Any], Callable[[Rights, Any, Lessor], bool]] = {
    PutRequest: _put,
    RangeRequest: _range,
    DeleteRangeRequest: _delete_range,
    TxnRequest: _txn,
    CompactionRequest: _root,
    LeaseGrantRequest: _any_user,
    LeaseRevokeRequest: _revoke,
    LeaseCheckpointRequest: _members_only,
    LeaseExpireRequest: _members_only,
    AlarmRequest: _alarm,
    DowngradeRequest: _root,
    MemberAttributesRequest: _root,
    MemberUpdateRequest: _root,
    AuthEnableRequest: _root,
    AuthDisableRequest: _root,
    # The member that was asked has seen the password; a client cannot claim that.
    AuthTokenRequest: _members_only,
    UserAddRequest: _root,
    UserDeleteRequest: _root,
    UserChangePasswordRequest: _root,
    UserGrantRoleRequest: _root,
    UserRevokeRoleRequest: _root,
    RoleAddRequest: _root,
    RoleDeleteRequest: _root,
    RoleGrantPermissionRequest: _root,
    RoleRevokePermissionRequest: _root,
}
"""Every request of the log, and the reads outside of it."""
