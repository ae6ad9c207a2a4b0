"""A log of every kind of request: whoever crashes, commits seldom and replays, ends where one does
that never stopped, in memory and in every row.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mvcc.backend import TABLES
from mvcc.memory_backend import MemoryBackend
from node.apply.requests import (
    CLUSTER,
    KINDS,
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    AuthTokenRequest,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DowngradeRequest,
    Identity,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseExpireRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberAttributesRequest,
    MemberUpdateRequest,
    Permission,
    PutRequest,
    RangeRequest,
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
from tests.unit.node.auth_fixture import HASH

TERM = 1
"""Of every entry that a `Machine` applies."""

KEY = st.sampled_from([b"a", b"b", b"c"])
END = st.sampled_from([b"", b"\0", b"c"])
LEASE = st.sampled_from([0, 1, 2, -3])
USER = st.sampled_from(["root", "ann"])
ROLE = st.sampled_from(["root", "own"])
URLS = st.lists(st.sampled_from(["http://a:1", "http://b:1"]), max_size=2)
PUTS = st.builds(PutRequest, KEY, KEY, LEASE, ignore_lease=st.booleans())
OPS = st.one_of(
    st.builds(RequestOp, request_put=PUTS),
    st.builds(RequestOp, request_delete_range=st.builds(DeleteRangeRequest, KEY, END)),
    st.builds(
        RequestOp, request_range=st.builds(RangeRequest, KEY, END, revision=st.integers(0, 9))
    ),
)
TERMS = st.sampled_from([TERM, TERM, TERM + 1])
RESTS = st.lists(st.builds(LeaseCheckpoint, LEASE, st.integers(0, 70)), max_size=3)
PERMISSIONS = st.builds(Permission, st.integers(0, 2), KEY, END)
REQUESTS: dict[type, st.SearchStrategy[Any]] = {
    PutRequest: PUTS,
    DeleteRangeRequest: st.builds(DeleteRangeRequest, KEY, END, st.booleans()),
    TxnRequest: st.builds(
        TxnRequest,
        st.lists(st.builds(Compare, st.integers(0, 3), st.integers(0, 4), KEY), max_size=1),
        st.lists(OPS, max_size=3),
        st.lists(OPS, max_size=2),
    ),
    CompactionRequest: st.builds(CompactionRequest, st.integers(-1, 12)),
    LeaseGrantRequest: st.builds(LeaseGrantRequest, st.integers(1, 90), LEASE),
    LeaseRevokeRequest: st.builds(LeaseRevokeRequest, LEASE),
    LeaseExpireRequest: st.builds(LeaseExpireRequest, LEASE, TERMS),
    LeaseCheckpointRequest: st.builds(LeaseCheckpointRequest, RESTS, TERMS),
    AlarmRequest: st.builds(
        AlarmRequest, st.sampled_from([0, 1, 2, 2]), st.integers(0, 1), st.integers(0, 2)
    ),
    MemberAttributesRequest: st.builds(MemberAttributesRequest, st.integers(0, 1), USER, URLS),
    MemberUpdateRequest: st.builds(MemberUpdateRequest, st.integers(0, 1), URLS),
    DowngradeRequest: st.builds(
        DowngradeRequest, st.integers(0, 2), st.sampled_from(["3.5.0", "3.5.9", "9.0.0"])
    ),
    AuthEnableRequest: st.builds(AuthEnableRequest),
    AuthDisableRequest: st.builds(AuthDisableRequest),
    AuthTokenRequest: st.builds(
        AuthTokenRequest, USER, st.just(b"d" * 32), st.sampled_from([1, 3, 5, 7])
    ),
    UserAddRequest: st.builds(UserAddRequest, USER, st.sampled_from([b"", HASH])),
    UserDeleteRequest: st.builds(UserDeleteRequest, USER),
    UserChangePasswordRequest: st.builds(UserChangePasswordRequest, USER, st.just(HASH)),
    UserGrantRoleRequest: st.builds(UserGrantRoleRequest, USER, ROLE),
    UserRevokeRoleRequest: st.builds(UserRevokeRoleRequest, USER, ROLE),
    RoleAddRequest: st.builds(RoleAddRequest, ROLE),
    RoleDeleteRequest: st.builds(RoleDeleteRequest, ROLE),
    RoleGrantPermissionRequest: st.builds(
        RoleGrantPermissionRequest, ROLE, st.none() | PERMISSIONS
    ),
    RoleRevokePermissionRequest: st.builds(RoleRevokePermissionRequest, ROLE, KEY, END),
}
ASKERS = st.one_of(
    st.just(CLUSTER), st.none(), st.builds(Identity, USER, st.sampled_from([1, 4, 8]))
)
STEPS = st.tuples(st.one_of(*REQUESTS.values()), ASKERS)
USUAL = [RoleAddRequest("own"), UserAddRequest("root", HASH), UserGrantRoleRequest("root", "root")]


def outcome(result: object) -> object:
    return (type(result), str(result)) if isinstance(result, Exception) else result


def everything(machine: Machine) -> list[object]:
    """Memory, as far as a client can see it, and all rows."""
    machine.check()
    while machine.jobs:
        machine.step_compaction(100)
    store, auth = machine.store, machine.auth
    leases = [machine.lessor.time_to_live(each, keys=True) for each in machine.lessor.leases()]
    rows = [machine.backend.range(table, b"", b"\xff" * 40, 0) for table in TABLES]
    return [
        (store.current_rev, store.compact_rev, leases, machine.alarms.get()),
        (auth.enabled, auth.revision, auth.users(), auth.roles()),
        (machine.applier.downgrade.target, machine.members.list()),
        rows,
    ]


def test_every_kind_is_in_the_log() -> None:
    assert set(REQUESTS) == set(KINDS.values())


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sets(st.integers(1, 28)), st.sets(st.integers(1, 28)))
def test_whoever_crashes_and_replays_ends_where_the_others_are(
    steps: list[tuple[Any, Any]], commits: set[int], crashes: set[int]
) -> None:
    log = [(request, CLUSTER) for request in USUAL] + steps
    entries = [encode(index, *step) for index, step in enumerate(log, 1)]
    steady = Machine()
    results = [
        outcome(steady.entry(index, entries[index - 1], step[0]))
        for index, step in enumerate(log, 1)
    ]
    other = Machine(MemoryBackend(hold=True))
    for end in [*sorted(crashes), len(entries)]:
        for index in range(other.index + 1, min(end, len(entries)) + 1):
            assert outcome(other.entry(index, entries[index - 1])) == results[index - 1]
            if index in commits:
                other.backend.commit()
        if end < len(entries):
            other = other.restarted()
    for index in range(other.index + 1, len(entries) + 1):
        assert outcome(other.entry(index, entries[index - 1])) == results[index - 1]
    assert everything(other) == everything(steady)
    other.backend.commit()
    assert everything(other.restarted()) == everything(steady)
