"""Every error a client may meet, with the code, status and text that it knows from etcd."""

from __future__ import annotations

import inspect
import json
import logging

import pytest

from mvcc import errors as mvcc_errors
from mvcc.errors import Compacted, FutureRevision
from node.api import errors
from node.api.errors import refusal
from node.apply import errors as apply_errors

ETCD = [
    (apply_errors.KeyNotProvided(), 3, 400, "etcdserver: key is not provided"),
    (apply_errors.KeyNotFound(), 3, 400, "etcdserver: key not found"),
    (apply_errors.ValueProvided(), 3, 400, "etcdserver: value is provided"),
    (apply_errors.LeaseProvided(), 3, 400, "etcdserver: lease is provided"),
    (apply_errors.TooManyOps(), 3, 400, "etcdserver: too many operations in txn request"),
    (apply_errors.DuplicateKey(), 3, 400, "etcdserver: duplicate key given in txn request"),
    (apply_errors.InvalidSortOption(), 3, 400, "etcdserver: invalid sort option"),
    (apply_errors.RequestTooLarge(), 3, 400, "etcdserver: request is too large"),
    (apply_errors.LeaseNotFound(), 5, 404, "etcdserver: requested lease not found"),
    (apply_errors.LeaseExists(), 9, 400, "etcdserver: lease already exists"),
    (apply_errors.LeaseTtlTooLarge(), 11, 400, "etcdserver: too large lease TTL"),
    (apply_errors.MemberNotFound(), 5, 404, "etcdserver: member not found"),
    (apply_errors.PeerUrlExists(), 9, 400, "etcdserver: Peer URLs already exists"),
    (apply_errors.MemberUrlsInvalid(), 3, 400, "etcdserver: given member URLs are invalid"),
    (apply_errors.NotLearner(), 9, 400, "etcdserver: can only promote a learner member"),
    (
        apply_errors.LearnerNotReady(),
        9,
        400,
        "etcdserver: can only promote a learner member which is in sync with leader",
    ),
    (
        apply_errors.TooManyLearners(),
        9,
        400,
        "etcdserver: too many learner members in cluster",
    ),
    (
        apply_errors.NotEnoughStarted(),
        2,
        500,
        "etcdserver: re-configuration failed due to not enough started members",
    ),
    (apply_errors.Unhealthy(), 14, 503, "etcdserver: unhealthy cluster"),
    (apply_errors.BadLeaderTransferee(), 9, 400, "etcdserver: bad leader transferee"),
    (apply_errors.NotLeader(), 9, 400, "etcdserver: not leader"),
    (apply_errors.LearnerRefused(), 9, 400, "etcdserver: rpc not supported for learner"),
    (apply_errors.NoSpace(), 8, 429, "etcdserver: mvcc: database space exceeded"),
    (apply_errors.Corrupt(), 15, 500, "etcdserver: corrupt cluster"),
    (apply_errors.NoLeader(), 14, 503, "etcdserver: no leader"),
    (apply_errors.LeaderChanged(), 14, 503, "etcdserver: leader changed"),
    (apply_errors.TooManyRequests(), 2, 500, "etcdserver: too many requests"),
    (apply_errors.Stopped(), 14, 503, "etcdserver: server stopped"),
    (apply_errors.StoppedWaiting(), 14, 503, "etcdserver: server stopped"),
    (apply_errors.RequestTimedOut(), 14, 503, "etcdserver: request timed out"),
    (
        apply_errors.LeaderFailed(),
        14,
        503,
        "etcdserver: request timed out, possibly due to previous leader failure",
    ),
    (apply_errors.MemberExists(), 9, 400, "etcdserver: member ID already exist"),
    (apply_errors.UserEmpty(), 3, 400, "etcdserver: user name is empty"),
    (apply_errors.UserExists(), 9, 400, "etcdserver: user name already exists"),
    (apply_errors.UserNotFound(), 9, 400, "etcdserver: user name not found"),
    (apply_errors.RoleEmpty(), 3, 400, "etcdserver: role name is empty"),
    (apply_errors.RoleExists(), 9, 400, "etcdserver: role name already exists"),
    (apply_errors.RoleNotFound(), 9, 400, "etcdserver: role name not found"),
    (apply_errors.RootUserMissing(), 9, 400, "etcdserver: root user does not exist"),
    (apply_errors.RootRoleMissing(), 9, 400, "etcdserver: root user does not have root role"),
    (
        apply_errors.AuthFailed(),
        3,
        400,
        "etcdserver: authentication failed, invalid user ID or password",
    ),
    (
        apply_errors.NoPasswordUser(),
        2,
        500,
        "auth: authentication failed, password was given for no password user",
    ),
    (apply_errors.PermissionMissing(), 3, 400, "etcdserver: permission not given"),
    (apply_errors.PermissionDenied(), 7, 403, "etcdserver: permission denied"),
    (apply_errors.RoleNotGranted(), 9, 400, "etcdserver: role is not granted to the user"),
    (
        apply_errors.PermissionNotGranted(),
        9,
        400,
        "etcdserver: permission is not granted to the role",
    ),
    (apply_errors.AuthNotEnabled(), 9, 400, "etcdserver: authentication is not enabled"),
    (apply_errors.InvalidAuthToken(), 16, 401, "etcdserver: invalid auth token"),
    (apply_errors.InvalidAuthManagement(), 3, 400, "etcdserver: invalid auth management"),
    (apply_errors.AuthOldRevision(), 3, 400, "etcdserver: revision of auth store is old"),
    (
        apply_errors.TransferTimedOut(),
        2,
        500,
        "etcdserver: request timed out, leader transfer took too long",
    ),
    (apply_errors.VerifyOnly(), 2, 500, "auth: token signing attempted with verify-only key"),
    (
        apply_errors.DowngradeVersionFormat(),
        3,
        400,
        "etcdserver: wrong downgrade target version format",
    ),
    (
        apply_errors.DowngradeVersionInvalid(),
        3,
        400,
        "etcdserver: invalid downgrade target version",
    ),
    (
        apply_errors.DowngradeUnderWay(),
        9,
        400,
        "etcdserver: cluster has a downgrade job in progress",
    ),
    (apply_errors.NoDowngrade(), 9, 400, "etcdserver: no inflight downgrade job"),
    (Compacted(1, 2), 11, 400, "etcdserver: mvcc: required revision has been compacted"),
    (FutureRevision(3, 2), 11, 400, "etcdserver: mvcc: required revision is a future revision"),
    (
        errors.MessageTooLarge(2097160, 2097152),
        8,
        429,
        "grpc: received message larger than max (2097160 vs. 2097152)",
    ),
    (errors.MalformedMessage("expected an object"), 3, 400, "expected an object"),
    (errors.NotFound(), 5, 404, "Not Found"),
    (errors.MethodNotAllowed(), 12, 501, "Method Not Allowed"),
    (TimeoutError(), 4, 504, "context deadline exceeded"),
]


@pytest.mark.parametrize(
    ("error", "code", "status", "text"), ETCD, ids=[type(row[0]).__name__ for row in ETCD]
)
def test_as_etcd_says_it(error: Exception, code: int, status: int, text: str) -> None:
    told = refusal(error)
    assert (told.code, told.status, told.text) == (code, status, text)
    assert json.loads(told.body()) == {"error": text, "message": text, "code": code}


def test_every_error_of_apply_has_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    families = (apply_errors.RequestError, apply_errors.NotNow, apply_errors.OutcomeUnknown)
    for cls in vars(apply_errors).values():
        if inspect.isclass(cls) and issubclass(cls, families):
            told = refusal(cls("why"))
            assert told.code != errors.INTERNAL
            assert told.status in errors.REASONS
            assert told.code in errors.CODE_NAMES
    assert not caplog.records


def test_only_these_have_no_line_of_their_own() -> None:
    """Roots and families; some whose text is their own; and what must never reach a client."""
    known = [*vars(apply_errors).values(), *vars(mvcc_errors).values()]
    without = {
        cls.__name__
        for cls in known
        if inspect.isclass(cls)
        and issubclass(cls, apply_errors.ApplyError | mvcc_errors.MvccError)
        and not isinstance(errors._TABLE.get(cls), errors.Refusal)
    }
    roots = {"ApplyError", "RequestError", "NotNow", "OutcomeUnknown", "MvccError"}
    never = {"CorruptionError", "BackendFailed", "SnapshotExpired"}
    assert without == roots | never | {"InvalidArgument", "ClaimFailed", "NoCopy"}
    etcd = {type(row[0]) for row in ETCD}
    lines = {cls for cls, line in errors._TABLE.items() if isinstance(line, errors.Refusal)}
    assert lines - etcd == set(), "each line stands in the table above, too"


def test_an_error_that_brings_its_text() -> None:
    assert refusal(apply_errors.InvalidArgument("unknown alarm action 9")) == (
        3,
        "etcdserver: unknown alarm action 9",
    )


def test_a_later_member_of_a_family_is_answered_by_the_family() -> None:
    class Sleepy(apply_errors.NotNow):
        pass

    assert refusal(Sleepy("asleep")) == (14, "etcdserver: asleep")


def test_a_fault_of_ours_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "esker.api"):
        told = refusal(KeyError("secret"))
    assert (told.code, told.status) == (13, 500)
    assert "secret" not in told.text
    assert caplog.records[0].exc_info is not None


def test_stream_chunk_serves_old_and_new_clients() -> None:
    chunk = refusal(Compacted(1, 2)).chunk()
    assert chunk.endswith(b"}}\n")
    error = json.loads(chunk)["error"]
    assert (error["code"], error["grpc_code"], error["http_code"]) == (11, 11, 400)
    assert error["http_status"] == "Bad Request"
    assert error["message"] == "etcdserver: mvcc: required revision has been compacted"
