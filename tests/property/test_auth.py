"""Users and permissions against a model that asks key by key; equal logs on unlike members."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from mvcc.memory_backend import MemoryBackend
from node.apply import errors
from node.apply.key_ranges import KeyRanges, end_of
from node.apply.requests import (
    CLUSTER,
    AlarmRequest,
    Asker,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthRequest,
    AuthTokenRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    Identity,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    Permission,
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
    encode,
)
from tests.unit.node.apply_fixture import Machine
from tests.unit.node.auth_fixture import HASH, READ, READWRITE, WRITE

# -- three letters, one of them the zero byte that ends single keys

LETTERS = (b"\0", b"a", b"b")
UNIVERSE = sorted(b"".join(key) for length in (1, 2, 3) for key in product(LETTERS, repeat=length))
"""Where a range that ends at two letters leaves another, there is one of these keys to see it."""

KEYS = st.sampled_from([key for key in UNIVERSE if len(key) <= 2 and key[:1] != b"\0"])
ENDS = st.one_of(st.just(b""), st.just(b"\0"), KEYS)
USERS = st.sampled_from(["u", "v", "root"])
ROLES = st.sampled_from(["r", "s", "t", "root"])
LEASES = st.sampled_from([0, 0, 7, 8, 9])
TYPES = st.sampled_from([READ, WRITE, READWRITE])


def spanned(key: bytes, end: bytes) -> list[bytes]:
    """The keys that a range is about; an empty range asks for its first one."""
    if not end:
        return [key]
    return [each for each in UNIVERSE if key <= each and (end == b"\0" or each < end)] or [key]


# -- requests

puts = st.builds(PutRequest, KEYS, st.just(b"1"), LEASES, st.booleans())
ranges = st.builds(RangeRequest, KEYS, ENDS)
deletes = st.builds(DeleteRangeRequest, KEYS, ENDS, st.booleans())
compares = st.builds(Compare, key=KEYS, range_end=ENDS)


def txns_of(ops: st.SearchStrategy[RequestOp]) -> st.SearchStrategy[TxnRequest]:
    return st.builds(
        TxnRequest,
        st.lists(compares, max_size=1),
        st.lists(ops, max_size=2),
        st.lists(ops, max_size=2),
    )


ops = st.recursive(
    st.one_of(
        st.builds(RequestOp, request_put=puts),
        st.builds(RequestOp, request_range=ranges),
        st.builds(RequestOp, request_delete_range=deletes),
    ),
    lambda inner: st.builds(RequestOp, request_txn=txns_of(inner)),
    max_leaves=4,
)
of_keys = st.one_of(
    puts,
    deletes,
    txns_of(ops),
    txns_of(ops),
    st.builds(LeaseGrantRequest, st.just(10), st.sampled_from([7, 8])),
    st.builds(LeaseRevokeRequest, st.sampled_from([7, 8])),
    st.builds(AlarmRequest, st.sampled_from([0, 2]), st.just(1), st.just(1)),
    st.builds(CompactionRequest, st.integers(1, 4)),
)
permissions = st.builds(Permission, TYPES, KEYS, ENDS)
grants = st.builds(RoleGrantPermissionRequest, ROLES, permissions)
of_users = st.one_of(
    grants,
    grants,
    st.builds(RoleRevokePermissionRequest, ROLES, KEYS, ENDS),
    st.builds(UserAddRequest, USERS, st.sampled_from([HASH, b""])),
    st.builds(UserDeleteRequest, USERS),
    st.builds(UserChangePasswordRequest, USERS, st.just(HASH)),
    st.builds(UserGrantRoleRequest, USERS, ROLES),
    st.builds(UserGrantRoleRequest, USERS, ROLES),
    st.builds(UserRevokeRoleRequest, USERS, ROLES),
    st.builds(RoleAddRequest, ROLES),
    st.builds(RoleDeleteRequest, ROLES),
    st.sampled_from([AuthEnableRequest(), AuthDisableRequest()]),
    st.builds(AuthTokenRequest, USERS, st.just(b"d" * 32), st.integers(1, 20)),
)


class Step(NamedTuple):
    """Who asks for what; `lag` is how many changes ago they were let in."""

    request: Request
    user: str | None
    lag: int


ASKERS = st.sampled_from(["u", "u", "v", "root", "root", "nobody", "", None])
LAGS = st.sampled_from([0, 0, 0, 0, 1])
steps = st.one_of(
    st.builds(Step, of_keys, ASKERS, LAGS),
    st.builds(Step, of_users, st.sampled_from(["root", "root", "root", "u", ""]), LAGS),
)

FOUNDED: list[Request] = [
    UserAddRequest("root", HASH),
    UserGrantRoleRequest("root", "root"),
    UserAddRequest("u", HASH),
    UserAddRequest("v", HASH),
    RoleAddRequest("r"),
    RoleAddRequest("s"),
    UserGrantRoleRequest("u", "r"),
    UserGrantRoleRequest("u", "s"),
    UserGrantRoleRequest("v", "s"),
]


@st.composite
def logs(draw: st.DrawFn) -> list[Step]:
    """Users with permissions, authentication on, then anything by anybody."""
    granted = [
        RoleGrantPermissionRequest(role, permission)
        for role in ("r", "s")
        for permission in draw(st.lists(permissions, max_size=4))
    ]
    begun = [*FOUNDED, *granted, AuthEnableRequest()]
    return [Step(each, None, 0) for each in begun] + draw(st.lists(steps, max_size=14))


# -- the model


class Model:
    """Users, roles and who may do what, in the plainest way; a refusal is the exception's type."""

    def __init__(self) -> None:
        self.enabled = False
        self.revision = 1
        self.users: dict[str, set[str]] = {}
        self.hashes: dict[str, bytes] = {}
        self.roles: dict[str, dict[tuple[bytes, bytes], int]] = {}

    def asker(self, step: Step) -> Asker:
        if step.user is None:
            return None
        return Identity(step.user, self.revision - step.lag) if step.user else CLUSTER

    # -- decisions

    def refusal(self, asker: Asker, request: object, machine: Machine) -> type[Exception] | None:
        """Why authentication refuses `request`, None if it does not."""
        if not self.enabled or (asker is not None and not asker.user):
            return None
        if asker is None:
            return errors.UserEmpty
        if asker.revision < self.revision:
            return errors.AuthOldRevision
        if asker.user not in self.users:
            return errors.PermissionDenied
        root = "root" in self.users[asker.user]
        match request:
            case AuthTokenRequest():
                permitted = False
            case LeaseGrantRequest() | AlarmRequest(action=0):
                permitted = True
            case PutRequest() | RangeRequest() | DeleteRangeRequest() | TxnRequest():
                permitted = root or self.may_all(asker.user, self.needs(request, machine))
            case LeaseRevokeRequest():
                permitted = root or self.may_all(asker.user, on_lease(request.ID, machine))
            case _:
                permitted = root
        return None if permitted else errors.PermissionDenied

    def may_all(self, user: str, needs: Iterator[tuple[int, bytes]]) -> bool:
        return all(self.may(user, type_, key) for type_, key in needs)

    def may(self, user: str, type_: int, key: bytes) -> bool:
        """One key, one permission that names it."""
        return any(
            granted in (type_, READWRITE) and key in spanned(start, end)
            for role in self.users[user]
            for (start, end), granted in self.roles.get(role, {}).items()
        )

    def needs(self, request: object, machine: Machine) -> Iterator[tuple[int, bytes]]:
        """(READ or WRITE, key) of everything that `request` could touch."""
        match request:
            case PutRequest():
                yield WRITE, request.key
                if request.prev_kv:
                    yield READ, request.key
                yield from on_lease(request.lease, machine)
            case RangeRequest() | Compare():
                for key in spanned(request.key, request.range_end):
                    yield READ, key
            case DeleteRangeRequest():
                for key in spanned(request.key, request.range_end):
                    yield WRITE, key
                    if request.prev_kv:
                        yield READ, key
            case TxnRequest():
                for each in request.compare:
                    yield from self.needs(each, machine)
                for op in request.success + request.failure:
                    for each in (
                        op.request_put,
                        op.request_range,
                        op.request_delete_range,
                        op.request_txn,
                    ):
                        yield from self.needs(each, machine)

    # -- changes

    def change(self, request: object) -> type[Exception] | None:
        """Do what a permitted request of users and roles does; why not, if it does not."""
        before = (self.enabled, repr(self.users), repr(self.hashes), repr(self.roles))
        refusal = self.attempt(request)
        after = (self.enabled, repr(self.users), repr(self.hashes), repr(self.roles))
        always = isinstance(request, UserChangePasswordRequest | RoleGrantPermissionRequest)
        if refusal is None and (before != after or always):
            self.revision += not isinstance(request, AuthEnableRequest)
        return refusal

    def attempt(self, request: object) -> type[Exception] | None:
        match request:
            case AuthEnableRequest():
                if not self.enabled and "root" not in self.users:
                    return errors.RootUserMissing
                if not self.enabled and "root" not in self.users["root"]:
                    return errors.RootRoleMissing
                self.enabled = True
            case AuthDisableRequest():
                self.enabled = False
            case AuthTokenRequest():
                if not self.enabled:
                    return errors.AuthNotEnabled
                if request.revision != self.revision:
                    return errors.AuthOldRevision
                return None if self.hashes.get(request.name) else errors.AuthFailed
            case RoleAddRequest():
                if request.name in self.roles:
                    return errors.RoleExists
                self.roles[request.name] = {}
            case RoleDeleteRequest():
                return self.delete_role(request.role)
            case RoleGrantPermissionRequest() | RoleRevokePermissionRequest():
                return self.permission(request)
            case _:
                return self.user(request)
        return None

    def delete_role(self, name: str) -> type[Exception] | None:
        if self.enabled and name == "root":
            return errors.InvalidAuthManagement
        if name not in self.roles:
            return errors.RoleNotFound
        del self.roles[name]
        for roles in self.users.values():
            roles.discard(name)
        return None

    def permission(
        self, request: RoleGrantPermissionRequest | RoleRevokePermissionRequest
    ) -> type[Exception] | None:
        if isinstance(request, RoleRevokePermissionRequest):
            if request.role not in self.roles:
                return errors.RoleNotFound
            gone = self.roles[request.role].pop((request.key, request.range_end), None)
            return errors.PermissionNotGranted if gone is None else None
        perm = request.perm
        assert perm is not None
        if perm.range_end not in (b"", b"\0") and perm.range_end <= perm.key:
            return errors.InvalidAuthManagement
        if request.name not in self.roles:
            return errors.RoleNotFound
        self.roles[request.name][perm.key, perm.range_end] = perm.permType
        return None

    def user(self, request: object) -> type[Exception] | None:
        match request:
            case UserAddRequest(name=name):
                if name in self.users:
                    return errors.UserExists
                self.users[name] = set()
                self.hashes[name] = request.hashed_password
                return None
            case UserDeleteRequest(name="root") if self.enabled:
                return errors.InvalidAuthManagement
            case UserRevokeRoleRequest(name="root", role="root") if self.enabled:
                return errors.InvalidAuthManagement
            case UserGrantRoleRequest(user=name):
                pass
            case UserDeleteRequest(name=name) | UserRevokeRoleRequest(name=name):
                pass
            case UserChangePasswordRequest(name=name):
                pass
            case _:
                raise AssertionError(request)
        if name not in self.users:
            return errors.UserNotFound
        if isinstance(request, UserDeleteRequest):
            del self.users[name], self.hashes[name]
        elif isinstance(request, UserGrantRoleRequest):
            if request.role not in {"root", *self.roles}:
                return errors.RoleNotFound
            self.users[name].add(request.role)
        elif isinstance(request, UserRevokeRoleRequest):
            if request.role not in self.users[name]:
                return errors.RoleNotGranted
            self.users[name].remove(request.role)
        return None


def on_lease(lease: int, machine: Machine) -> Iterator[tuple[int, bytes]]:
    for kv in machine.store.range(b"\0", b"\0").kvs:
        if lease and kv.lease == lease:
            yield WRITE, kv.key


AUTH_TYPES = get_args(AuthRequest)
REFUSED = (errors.UserEmpty, errors.AuthOldRevision, errors.PermissionDenied)


def same_views(machine: Machine, model: Model) -> None:
    auth = machine.auth
    assert (auth.enabled, auth.revision) == (model.enabled, model.revision)
    assert auth.users() == sorted(model.users)
    assert auth.roles() == sorted(model.roles)
    for name, roles in model.users.items():
        assert auth.roles_of(name) == sorted(roles)
    for role in set(model.roles) - {"root"}:
        shown = auth.permissions_of(role)
        assert {(each.key, each.range_end): each.permType for each in shown} == model.roles[role]
        assert [each.key for each in shown] == sorted(each.key for each in shown)


@settings(max_examples=120, deadline=None)
@given(logs(), st.booleans())
def test_users_and_permissions_do_what_the_model_does(log: list[Step], decoded: bool) -> None:
    machine, model = Machine(), Model()
    for step in log:
        asker = model.asker(step)
        refusal = model.refusal(asker, step.request, machine)
        result = machine.apply(step.request, asker, decoded=decoded)
        if refusal is None and type(step.request) in AUTH_TYPES:
            refusal = model.change(step.request)
            assert type(result) is refusal or (
                refusal is None and not isinstance(result, Exception)
            )
        elif refusal is None:
            assert not isinstance(result, REFUSED)
        else:
            assert type(result) is refusal
        same_views(machine, model)
    machine.check()


@settings(max_examples=150, deadline=None)
@given(logs(), st.lists(st.one_of(ranges, txns_of(ops)), min_size=1, max_size=6), ASKERS)
def test_reads_outside_the_log_are_judged_alike(
    log: list[Step], requests: list[RangeRequest | TxnRequest], user: str | None
) -> None:
    machine, model = Machine(), Model()
    for step in log:
        asker = model.asker(step)
        if model.refusal(asker, step.request, machine) is None:
            machine.apply(step.request, asker)
            if type(step.request) in AUTH_TYPES:
                model.change(step.request)
    asker = model.asker(Step(PutRequest(), user, 0))
    for request in requests:
        try:
            machine.auth.check(asker, request)
            refusal = None
        except errors.RequestError as error:
            refusal = type(error)
        assert refusal is model.refusal(asker, request, machine)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(KEYS, ENDS), max_size=6), KEYS, ENDS)
def test_a_union_covers_what_its_keys_one_by_one_say(
    spans: list[tuple[bytes, bytes]], key: bytes, end: bytes
) -> None:
    union = KeyRanges()
    covered: set[bytes] = set()
    for start, stop in spans:
        union.add(start, end_of(start, stop))
        union.check_invariants()
        if not stop or stop == b"\0" or start < stop:
            covered.update(spanned(start, stop))
    assert union.covers(key, end_of(key, end)) == covered.issuperset(spanned(key, end))
    assert [each for each in UNIVERSE if each in union] == sorted(covered)


# -- equal logs on unlike members


def tables_of(machine: Machine) -> list[object]:
    """What a member holds of users and roles, in rows and in decisions."""
    machine.check()
    rows = [machine.backend.range(t, b"", b"\xff", 0) for t in ("auth", "auth_users", "auth_roles")]
    rights = [
        (may(user, key), may(user, key, b"\0"))
        for may in (machine.auth.may_read, machine.auth.may_write)
        for user in (*machine.auth.users(), "nobody")
        for key in UNIVERSE
    ]
    return [rows, rights, machine.auth.revision, machine.hash_kv()]


@settings(max_examples=80, deadline=None)
@given(logs(), st.sets(st.integers(1, 30), max_size=5), st.integers(1, 5))
def test_members_that_crash_and_replay_decide_alike(
    log: list[Step], crashes: set[int], commit_every: int
) -> None:
    """One member stays up; the other loses what was not on disk, decodes, and replays the rest."""
    steady, model, entries, results = Machine(), Model(), [], []
    for index, step in enumerate(log, 1):
        asker = model.asker(step)
        refusal = model.refusal(asker, step.request, steady)
        if refusal is None and type(step.request) in AUTH_TYPES:
            model.change(step.request)
        entries.append(encode(index, step.request, asker))
        results.append(outcome(steady.entry(index, entries[-1], step.request)))
    backend = MemoryBackend(hold=True)
    other = Machine(backend)
    for crash in [*sorted(crashes), len(entries)]:
        for index in range(other.index + 1, min(crash, len(entries)) + 1):
            assert outcome(other.entry(index, entries[index - 1])) == results[index - 1]
            if index % commit_every == 0:
                backend.force_commit()
                backend.commit()
        if crash < len(entries):
            backend = backend.crash()
            other = Machine(backend)
    for index in range(other.index + 1, len(entries) + 1):
        assert outcome(other.entry(index, entries[index - 1])) == results[index - 1]
    assert tables_of(other) == tables_of(steady)


def outcome(result: object) -> object:
    return type(result) if isinstance(result, Exception) else result
