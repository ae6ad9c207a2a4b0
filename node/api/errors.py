"""Our errors > gRPC code, HTTP status, etcd's message. The only table of its kind.

Clients match on the texts, and some on the code or the HTTP status alone, so all three are etcd's
to the letter. Where its releases differ the newer one is followed, but the body carries the fields
of both: `error` and `message`.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from mvcc import errors as mvcc_errors
from node.apply import errors as apply_errors

log = logging.getLogger("esker.api")

OK, CANCELED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 2, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 7, 8, 9
OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED = (
    11,
    12,
    13,
    14,
    15,
    16,
)

HTTP_STATUS = {
    OK: 200,
    CANCELED: 499,
    UNKNOWN: 500,
    INVALID_ARGUMENT: 400,
    DEADLINE_EXCEEDED: 504,
    NOT_FOUND: 404,
    PERMISSION_DENIED: 403,
    RESOURCE_EXHAUSTED: 429,
    FAILED_PRECONDITION: 400,
    OUT_OF_RANGE: 400,
    UNIMPLEMENTED: 501,
    INTERNAL: 500,
    UNAVAILABLE: 503,
    DATA_LOSS: 500,
    UNAUTHENTICATED: 401,
}

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

CODE_NAMES = {
    OK: "OK",
    CANCELED: "Canceled",
    UNKNOWN: "Unknown",
    INVALID_ARGUMENT: "InvalidArgument",
    DEADLINE_EXCEEDED: "DeadlineExceeded",
    NOT_FOUND: "NotFound",
    PERMISSION_DENIED: "PermissionDenied",
    RESOURCE_EXHAUSTED: "ResourceExhausted",
    FAILED_PRECONDITION: "FailedPrecondition",
    OUT_OF_RANGE: "OutOfRange",
    UNIMPLEMENTED: "Unimplemented",
    INTERNAL: "Internal",
    UNAVAILABLE: "Unavailable",
    DATA_LOSS: "DataLoss",
    UNAUTHENTICATED: "Unauthenticated",
}


class MalformedMessage(ValueError):
    """The body is no JSON of the message that the path takes; the text says where."""


class LeaderNeeded(apply_errors.NoLeader):
    """The client asked not to be served by a member that knows no leader."""


class MessageTooLarge(Exception):
    """A request beyond what the transport takes at all, in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"grpc: received message larger than max ({size} vs. {limit})")
        self.size = size
        self.limit = limit


class NotFound(Exception):
    """No call has this path."""


class MethodNotAllowed(Exception):
    """Every call is a POST."""


class Refusal(NamedTuple):
    """What the client is told."""

    code: int
    text: str

    @property
    def status(self) -> int:
        return HTTP_STATUS[self.code]

    def body(self) -> bytes:
        return msgspec.json.encode({"error": self.text, "message": self.text, "code": self.code})

    def chunk(self) -> bytes:
        """The last message of a stream."""
        error = {
            "code": self.code,
            "grpc_code": self.code,
            "http_code": self.status,
            "message": self.text,
            "http_status": REASONS[self.status],
        }
        return msgspec.json.encode({"error": error}) + b"\n"


_TABLE: dict[type[BaseException], Refusal | int] = {
    # An int alone: the error brings its own text.
    MalformedMessage: INVALID_ARGUMENT,
    MessageTooLarge: RESOURCE_EXHAUSTED,
    NotFound: Refusal(NOT_FOUND, "Not Found"),
    TimeoutError: Refusal(DEADLINE_EXCEEDED, "context deadline exceeded"),
    MethodNotAllowed: Refusal(UNIMPLEMENTED, "Method Not Allowed"),
    mvcc_errors.Compacted: Refusal(
        OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"
    ),
    mvcc_errors.FutureRevision: Refusal(
        OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"
    ),
    apply_errors.KeyNotProvided: Refusal(INVALID_ARGUMENT, "etcdserver: key is not provided"),
    apply_errors.KeyNotFound: Refusal(INVALID_ARGUMENT, "etcdserver: key not found"),
    apply_errors.ValueProvided: Refusal(INVALID_ARGUMENT, "etcdserver: value is provided"),
    apply_errors.LeaseProvided: Refusal(INVALID_ARGUMENT, "etcdserver: lease is provided"),
    apply_errors.TooManyOps: Refusal(
        INVALID_ARGUMENT, "etcdserver: too many operations in txn request"
    ),
    apply_errors.DuplicateKey: Refusal(
        INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"
    ),
    apply_errors.InvalidSortOption: Refusal(INVALID_ARGUMENT, "etcdserver: invalid sort option"),
    apply_errors.InvalidArgument: INVALID_ARGUMENT,
    apply_errors.RequestTooLarge: Refusal(INVALID_ARGUMENT, "etcdserver: request is too large"),
    apply_errors.LeaseNotFound: Refusal(NOT_FOUND, "etcdserver: requested lease not found"),
    apply_errors.LeaseExists: Refusal(FAILED_PRECONDITION, "etcdserver: lease already exists"),
    apply_errors.LeaseTtlTooLarge: Refusal(OUT_OF_RANGE, "etcdserver: too large lease TTL"),
    apply_errors.MemberNotFound: Refusal(NOT_FOUND, "etcdserver: member not found"),
    apply_errors.MemberExists: Refusal(FAILED_PRECONDITION, "etcdserver: member ID already exist"),
    apply_errors.PeerUrlExists: Refusal(
        FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"
    ),
    apply_errors.MemberUrlsInvalid: Refusal(
        INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"
    ),
    apply_errors.NotLearner: Refusal(
        FAILED_PRECONDITION, "etcdserver: can only promote a learner member"
    ),
    apply_errors.LearnerNotReady: Refusal(
        FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    ),
    apply_errors.TooManyLearners: Refusal(
        FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"
    ),
    # As with TooManyRequests, what etcd sends is not what its table says.
    apply_errors.NotEnoughStarted: Refusal(
        UNKNOWN, "etcdserver: re-configuration failed due to not enough started members"
    ),
    apply_errors.Unhealthy: Refusal(UNAVAILABLE, "etcdserver: unhealthy cluster"),
    apply_errors.UserEmpty: Refusal(INVALID_ARGUMENT, "etcdserver: user name is empty"),
    apply_errors.UserExists: Refusal(FAILED_PRECONDITION, "etcdserver: user name already exists"),
    apply_errors.UserNotFound: Refusal(FAILED_PRECONDITION, "etcdserver: user name not found"),
    apply_errors.RoleEmpty: Refusal(INVALID_ARGUMENT, "etcdserver: role name is empty"),
    apply_errors.RoleExists: Refusal(FAILED_PRECONDITION, "etcdserver: role name already exists"),
    apply_errors.RoleNotFound: Refusal(FAILED_PRECONDITION, "etcdserver: role name not found"),
    apply_errors.RootUserMissing: Refusal(
        FAILED_PRECONDITION, "etcdserver: root user does not exist"
    ),
    apply_errors.RootRoleMissing: Refusal(
        FAILED_PRECONDITION, "etcdserver: root user does not have root role"
    ),
    apply_errors.AuthFailed: Refusal(
        INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"
    ),
    apply_errors.NoPasswordUser: Refusal(
        UNKNOWN, "auth: authentication failed, password was given for no password user"
    ),
    apply_errors.PermissionMissing: Refusal(INVALID_ARGUMENT, "etcdserver: permission not given"),
    apply_errors.PermissionDenied: Refusal(PERMISSION_DENIED, "etcdserver: permission denied"),
    apply_errors.RoleNotGranted: Refusal(
        FAILED_PRECONDITION, "etcdserver: role is not granted to the user"
    ),
    apply_errors.PermissionNotGranted: Refusal(
        FAILED_PRECONDITION, "etcdserver: permission is not granted to the role"
    ),
    apply_errors.AuthNotEnabled: Refusal(
        FAILED_PRECONDITION, "etcdserver: authentication is not enabled"
    ),
    # As etcd sends it, which has no line for it in its table.
    apply_errors.VerifyOnly: Refusal(UNKNOWN, "auth: token signing attempted with verify-only key"),
    apply_errors.InvalidAuthToken: Refusal(UNAUTHENTICATED, "etcdserver: invalid auth token"),
    apply_errors.InvalidAuthManagement: Refusal(
        INVALID_ARGUMENT, "etcdserver: invalid auth management"
    ),
    apply_errors.AuthOldRevision: Refusal(
        INVALID_ARGUMENT, "etcdserver: revision of auth store is old"
    ),
    apply_errors.DowngradeVersionFormat: Refusal(
        INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"
    ),
    apply_errors.DowngradeVersionInvalid: Refusal(
        INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"
    ),
    apply_errors.DowngradeUnderWay: Refusal(
        FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress"
    ),
    apply_errors.NoDowngrade: Refusal(FAILED_PRECONDITION, "etcdserver: no inflight downgrade job"),
    apply_errors.BadLeaderTransferee: Refusal(
        FAILED_PRECONDITION, "etcdserver: bad leader transferee"
    ),
    apply_errors.NotLeader: Refusal(FAILED_PRECONDITION, "etcdserver: not leader"),
    apply_errors.LearnerRefused: Refusal(
        FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"
    ),
    apply_errors.NoSpace: Refusal(RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    apply_errors.Corrupt: Refusal(DATA_LOSS, "etcdserver: corrupt cluster"),
    apply_errors.NoLeader: Refusal(UNAVAILABLE, "etcdserver: no leader"),
    apply_errors.LeaderChanged: Refusal(UNAVAILABLE, "etcdserver: leader changed"),
    # etcd's own table says ResourceExhausted; what it sends is Unknown, and clients know it so.
    apply_errors.TooManyRequests: Refusal(UNKNOWN, "etcdserver: too many requests"),
    apply_errors.Stopped: Refusal(UNAVAILABLE, "etcdserver: server stopped"),
    apply_errors.StoppedWaiting: Refusal(UNAVAILABLE, "etcdserver: server stopped"),
    apply_errors.TransferTimedOut: Refusal(
        UNKNOWN, "etcdserver: request timed out, leader transfer took too long"
    ),
    # etcd passes on what its disk said, and knows no code for it.
    apply_errors.NoCopy: UNKNOWN,
    apply_errors.RequestTimedOut: Refusal(UNAVAILABLE, "etcdserver: request timed out"),
    apply_errors.LeaderFailed: Refusal(
        UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"
    ),
    # The families, for members added without a line of their own.
    apply_errors.RequestError: INVALID_ARGUMENT,
    apply_errors.NotNow: UNAVAILABLE,
    apply_errors.OutcomeUnknown: UNAVAILABLE,
}

_INTERNAL = Refusal(INTERNAL, "etcdserver: internal error")


def refusal(error: BaseException) -> Refusal:
    """What a client hears of `error`. One without a line here is a fault of ours: it is logged, and
    answered as Internal.
    """
    for cls in type(error).__mro__:
        entry = _TABLE.get(cls)
        if entry is not None:
            return entry if isinstance(entry, Refusal) else Refusal(entry, _text(error))
    log.error("a request met an unexpected error", exc_info=error)
    return _INTERNAL


def opaque_refusal(error: BaseException) -> Refusal:
    """For locks and elections: etcd serves them by a client of its own, on the way through which
    every error keeps its text and loses its code.
    """
    if isinstance(error, apply_errors.ClaimFailed):
        return Refusal(UNKNOWN, str(error))
    told = refusal(error)
    before = isinstance(error, MalformedMessage | MessageTooLarge | LeaderNeeded)
    return told if before else told._replace(code=UNKNOWN)


def _text(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, apply_errors.ApplyError) and not text.startswith("etcdserver: "):
        return "etcdserver: " + text
    return text
