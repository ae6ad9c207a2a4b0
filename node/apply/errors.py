"""What a request may be refused for. They carry values; `node/api/errors.py` alone knows codes and
texts.

Families: `RequestError` is the caller's fault (nothing changed), `NotNow` may be retried later,
`OutcomeUnknown` says that the request may still be applied.
"""

from __future__ import annotations


class ApplyError(Exception):
    """Root of this package's errors."""


class RequestError(ApplyError):
    """The caller's fault; nothing changed."""


class KeyNotProvided(RequestError):
    pass


class KeyNotFound(RequestError):
    pass


class ValueProvided(RequestError):
    pass


class LeaseProvided(RequestError):
    pass


class TooManyOps(RequestError):
    pass


class DuplicateKey(RequestError):
    pass


class InvalidSortOption(RequestError):
    pass


class InvalidArgument(RequestError):
    """A value outside what its field can mean; the text names it."""


class RequestTooLarge(RequestError):
    pass


class LeaseNotFound(RequestError):
    pass


class LeaseExists(RequestError):
    pass


class LeaseTtlTooLarge(RequestError):
    pass


class MemberNotFound(RequestError):
    pass


class MemberExists(RequestError):
    pass


class PeerUrlExists(RequestError):
    pass


class MemberUrlsInvalid(RequestError):
    pass


class NotLearner(RequestError):
    """Only a learner can be promoted."""


class LearnerNotReady(RequestError):
    """A learner that has not started, or has not caught up with the leader, is not promoted."""


class TooManyLearners(RequestError):
    pass


class NotEnoughStarted(RequestError):
    """The change would leave too few started members for a quorum."""


class UserEmpty(RequestError):
    """A user without a name, or a request without a token while authentication is on."""


class UserExists(RequestError):
    pass


class UserNotFound(RequestError):
    pass


class RoleEmpty(RequestError):
    pass


class RoleExists(RequestError):
    pass


class RoleNotFound(RequestError):
    pass


class RootUserMissing(RequestError):
    """Authentication cannot be enabled without a user root."""


class RootRoleMissing(RequestError):
    """Authentication cannot be enabled while the user root does not have the role root."""


class AuthFailed(RequestError):
    """Wrong password, or no such user: which of them is not said."""


class NoPasswordUser(RequestError):
    """A user without a password cannot authenticate with one."""


class PermissionMissing(RequestError):
    """A grant without what it grants."""


class PermissionDenied(RequestError):
    pass


class RoleNotGranted(RequestError):
    """The user does not have this role."""


class PermissionNotGranted(RequestError):
    """The role has no permission for exactly this range."""


class AuthNotEnabled(RequestError):
    pass


class InvalidAuthToken(RequestError):
    """Unknown or expired."""


class InvalidAuthManagement(RequestError):
    """What would lock everybody out, or an empty key range."""


class AuthOldRevision(RequestError):
    """Users or roles have changed since the request was let in: ask again."""


class ClaimFailed(RequestError):
    """A lock or an election did not come to what was asked; the text says why."""


class DowngradeVersionFormat(RequestError):
    """A downgrade's target that is no release."""


class DowngradeVersionInvalid(RequestError):
    """A downgrade is to the release one minor below the cluster's."""


class DowngradeUnderWay(RequestError):
    pass


class NoDowngrade(RequestError):
    """There is none to cancel."""


class BadLeaderTransferee(RequestError):
    pass


class NotLeader(RequestError):
    pass


class LearnerRefused(RequestError):
    """A learner answers status and serializable reads only."""


class NotNow(ApplyError):
    """Refused at present; nothing changed; may be retried."""


class NoSpace(NotNow):
    """The NOSPACE alarm is raised, or this request would pass the quota."""


class Corrupt(NotNow):
    """The CORRUPT alarm is raised."""


class NoLeader(NotNow):
    pass


class LeaderChanged(NotNow):
    pass


class TooManyRequests(NotNow):
    pass


class Stopped(NotNow):
    pass


class TransferTimedOut(NotNow):
    pass


class NoCopy(NotNow):
    """A copy of the database could not be made, most often for want of disk; what it holds is as it
    was. The text says why.
    """


class VerifyOnly(NotNow):
    """This member has no key to sign tokens with: another one does."""


class Unhealthy(NotNow):
    """Members that the change needs are not connected."""


class OutcomeUnknown(ApplyError):
    """A proposal was not seen applied in time: it may or may not take effect."""


class RequestTimedOut(OutcomeUnknown):
    pass


class StoppedWaiting(OutcomeUnknown):
    """The member stopped before it saw the request applied."""


class LeaderFailed(RequestTimedOut):
    """The request was forwarded to a leader that ended, and the next one does not know of it."""
