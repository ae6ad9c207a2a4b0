"""Path > method: the whole surface on one screen.

`/v3beta/...` is `/v3/...`. What a method is, and who may ask for it, is `node.api.methods`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.api import json_codec, kv_json
from node.api.auth import Auth
from node.api.cluster import Cluster
from node.api.election import Election
from node.api.errors import opaque_refusal
from node.api.keep_alive import KeepAlive
from node.api.kv import Kv
from node.api.lease import Lease
from node.api.lock import Lock
from node.api.maintenance import Maintenance, Spawn
from node.api.messages import (
    AuthenticateRequest,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    CampaignRequest,
    EmptyMessage,
    HashKvRequest,
    LeaderRequest,
    LeaseKeepAliveRequest,
    LeaseTimeToLiveRequest,
    LockRequest,
    MemberAddRequest,
    MemberListRequest,
    MemberPromoteRequest,
    MemberRemoveRequest,
    MoveLeaderRequest,
    ProclaimRequest,
    ResignRequest,
    RoleGetRequest,
    UnlockRequest,
    UserGetRequest,
    WatchRequest,
)
from node.api.methods import Access, Credentials, Duplex, Sink, Stream, Unary
from node.api.watch import WatchSession
from node.apply.errors import LearnerRefused
from node.apply.requests import (
    AlarmRequest,
    AuthDisableRequest,
    AuthEnableRequest,
    CompactionRequest,
    DowngradeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberUpdateRequest,
    RoleAddRequest,
    RoleDeleteRequest,
    RoleGrantPermissionRequest,
    RoleRevokePermissionRequest,
    UserDeleteRequest,
    UserGrantRoleRequest,
    UserRevokeRoleRequest,
)
from node.apply.responses import RangeResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.apply.requests import Asker
    from node.metrics import Metrics
    from node.proposals import Done
    from node.server import Server


LEARNERS_ANSWER = ("KV/Range", "Maintenance/Status", "Maintenance/Snapshot")
"""What a member without a vote may be asked for; ranges only if they are serializable."""


def _reader(message: type) -> Callable[[bytes], Any]:
    return lambda body: json_codec.decode(body, message)


def _result_chunk(message: Any) -> bytes:
    return b'{"result":%b}\n' % json_codec.encode(message)


def _register(table: dict[bytes, Any], method: Any, *paths: str) -> None:
    for path in paths:
        for root in ("/v3", "/v3beta"):
            table[(root + path).encode()] = method


class Routes:
    """The tables, for one server: methods by path."""

    def __init__(self, server: Server, spawn: Spawn, metrics: Metrics) -> None:
        self._server = server
        self._header = kv_json.Header(server.cluster_id, server.member_id)
        self.unary: dict[bytes, Unary] = {}
        self.streams: dict[bytes, Stream] = {}
        self.duplexes: dict[bytes, Duplex] = {}
        self._add_kv(Kv(server))
        self._add_lease(Lease(server, spawn))
        self._add_cluster(Cluster(server, spawn))
        self._add_maintenance(Maintenance(server, spawn, metrics))
        self._add_auth(Auth(server, spawn))
        self._add_lock(Lock(server.claims, spawn))
        self._add_election(Election(server.claims, spawn))
        self._add_duplex(Duplex("Watch/Watch", _reader(WatchRequest), self._open_watch), "/watch")

    def _open_watch(self, sink: Sink, credentials: Credentials) -> WatchSession:
        return WatchSession(self._server, self._header, sink, credentials)

    def methods(self) -> list[Unary | Stream | Duplex]:
        """Each method once, whatever its aliases."""
        return list(
            dict.fromkeys([*self.unary.values(), *self.streams.values(), *self.duplexes.values()])
        )

    def _voters_only(self, serve: Callable[..., Any]) -> Callable[..., Any]:
        server = self._server

        def refuse_as_learner(*arguments: Any) -> Any:
            if server.is_learner:
                raise LearnerRefused
            return serve(*arguments)

        return refuse_as_learner

    def _add(self, method: Unary, *paths: str) -> None:
        if method.name not in LEARNERS_ANSWER:
            method.serve = self._voters_only(method.serve)
        _register(self.unary, method, *paths)

    def _add_kv(self, kv: Kv) -> None:
        headed, with_header = self._headed, self._with_header
        self._add(
            Unary(
                "KV/Range",
                Access.USER,
                kv_json.decode_range,
                kv.range,
                headed(kv_json.encode_range),
                slices=self._range_slices,
            ),
            "/kv/range",
        )
        put = Unary("KV/Put", Access.USER, kv_json.decode_put, kv.put, headed(kv_json.encode_put))
        self._add(put, "/kv/put")
        self._add(
            Unary(
                "KV/DeleteRange",
                Access.USER,
                kv_json.decode_delete_range,
                kv.delete_range,
                headed(kv_json.encode_delete_range),
            ),
            "/kv/deleterange",
        )
        txn = Unary("KV/Txn", Access.USER, kv_json.decode_txn, kv.txn, headed(kv_json.encode_txn))
        self._add(txn, "/kv/txn")
        compact = Unary(
            "KV/Compact", Access.ROOT, _reader(CompactionRequest), kv.compact, with_header
        )
        self._add(compact, "/kv/compaction")

    def _add_lease(self, lease: Lease) -> None:
        for name, message, serve, paths in (
            ("LeaseGrant", LeaseGrantRequest, lease.grant, ("/lease/grant",)),
            (
                "LeaseRevoke",
                LeaseRevokeRequest,
                lease.revoke,
                ("/lease/revoke", "/kv/lease/revoke"),
            ),
            (
                "LeaseTimeToLive",
                LeaseTimeToLiveRequest,
                lease.time_to_live,
                ("/lease/timetolive", "/kv/lease/timetolive"),
            ),
            ("LeaseLeases", EmptyMessage, lease.leases, ("/lease/leases", "/kv/lease/leases")),
        ):
            self._add(
                Unary("Lease/" + name, Access.USER, _reader(message), serve, self._with_header),
                *paths,
            )

        def open_keep_alive(sink: Sink, credentials: Credentials) -> KeepAlive:
            return lease.keep_alive(sink, credentials, self._result_line)

        reader = _reader(LeaseKeepAliveRequest)
        self._add_duplex(
            Duplex("Lease/LeaseKeepAlive", reader, open_keep_alive), "/lease/keepalive"
        )

    def _add_cluster(self, cluster: Cluster) -> None:
        user, root = Access.USER, Access.ROOT
        for name, access, message, serve in (
            ("Add", root, MemberAddRequest, cluster.add),
            ("List", user, MemberListRequest, cluster.list),
            ("Promote", root, MemberPromoteRequest, cluster.promote),
            ("Remove", root, MemberRemoveRequest, cluster.remove),
            ("Update", root, MemberUpdateRequest, cluster.update),
        ):
            method = Unary(
                "Cluster/Member" + name, access, _reader(message), serve, self._with_plain_header
            )
            self._add(method, "/cluster/member/" + name.lower())

    def _add_maintenance(self, maintenance: Maintenance) -> None:
        full, plain = self._with_header, json_codec.encode
        user, root = Access.USER, Access.ROOT
        for name, access, message, serve, encode, path in (
            ("Alarm", user, AlarmRequest, maintenance.alarm, full, "alarm"),
            ("Status", user, EmptyMessage, maintenance.status, full, "status"),
            ("Defragment", root, EmptyMessage, maintenance.defragment, plain, "defragment"),
            ("Hash", root, EmptyMessage, maintenance.hash, full, "hash"),
            ("HashKV", root, HashKvRequest, maintenance.hash_kv, full, "hashkv"),
            ("Downgrade", root, DowngradeRequest, maintenance.downgrade, full, "downgrade"),
            (
                "MoveLeader",
                root,
                MoveLeaderRequest,
                maintenance.transfer_leadership,
                plain,
                "transfer-leadership",
            ),
        ):
            method = Unary("Maintenance/" + name, access, _reader(message), serve, encode)
            self._add(method, "/maintenance/" + path)
        self._add_stream(
            Stream(
                "Maintenance/Snapshot",
                Access.ROOT,
                _reader(EmptyMessage),
                maintenance.snapshot,
                _result_chunk,
            ),
            "/maintenance/snapshot",
        )

    def _add_lock(self, lock: Lock) -> None:
        for name, message, serve in (
            ("Lock", LockRequest, lock.lock),
            ("Unlock", UnlockRequest, lock.unlock),
        ):
            self._add(self._opaque("Lock/" + name, message, serve), "/lock/" + name.lower())

    def _add_election(self, election: Election) -> None:
        for name, message, serve in (
            ("Campaign", CampaignRequest, election.campaign),
            ("Proclaim", ProclaimRequest, election.proclaim),
            ("Leader", LeaderRequest, election.leader),
            ("Resign", ResignRequest, election.resign),
        ):
            method = self._opaque("Election/" + name, message, serve)
            self._add(method, "/election/" + name.lower())
        observe = Stream(
            "Election/Observe",
            Access.USER,
            _reader(LeaderRequest),
            election.observe,
            self._result_line,
            refusal=opaque_refusal,
        )
        self._add_stream(observe, "/election/observe")

    def _opaque(self, name: str, message: type, serve: Callable[[Any, Asker, Done], Any]) -> Unary:
        return Unary(
            name,
            Access.USER,
            _reader(message),
            serve,
            self._with_header,
            refusal=opaque_refusal,
        )

    def _add_auth(self, auth: Auth) -> None:
        public, user, root = Access.PUBLIC, Access.USER, Access.ROOT
        for name, access, message, serve, path in (
            ("AuthEnable", root, AuthEnableRequest, auth.change, "enable"),
            ("AuthDisable", root, AuthDisableRequest, auth.change, "disable"),
            ("AuthStatus", public, EmptyMessage, auth.status, "status"),
            ("Authenticate", public, AuthenticateRequest, auth.authenticate, "authenticate"),
            ("UserAdd", root, AuthUserAddRequest, auth.user_add, "user/add"),
            ("UserGet", user, UserGetRequest, auth.user_get, "user/get"),
            ("UserList", root, EmptyMessage, auth.user_list, "user/list"),
            ("UserDelete", root, UserDeleteRequest, auth.change, "user/delete"),
            (
                "UserChangePassword",
                root,
                AuthUserChangePasswordRequest,
                auth.user_change_password,
                "user/changepw",
            ),
            ("UserGrantRole", root, UserGrantRoleRequest, auth.change, "user/grant"),
            ("UserRevokeRole", root, UserRevokeRoleRequest, auth.change, "user/revoke"),
            ("RoleAdd", root, RoleAddRequest, auth.change, "role/add"),
            ("RoleGet", user, RoleGetRequest, auth.role_get, "role/get"),
            ("RoleList", root, EmptyMessage, auth.role_list, "role/list"),
            ("RoleDelete", root, RoleDeleteRequest, auth.change, "role/delete"),
            ("RoleGrantPermission", root, RoleGrantPermissionRequest, auth.change, "role/grant"),
            (
                "RoleRevokePermission",
                root,
                RoleRevokePermissionRequest,
                auth.change,
                "role/revoke",
            ),
        ):
            method = Unary("Auth/" + name, access, _reader(message), serve, self._with_header)
            self._add(method, "/auth/" + path)

    def _add_stream(self, method: Stream, path: str) -> None:
        if method.name not in LEARNERS_ANSWER:
            method.serve = self._voters_only(method.serve)
        _register(self.streams, method, path)

    def _add_duplex(self, method: Duplex, path: str) -> None:
        method.open = self._voters_only(method.open)
        _register(self.duplexes, method, path)

    def _headed(self, encode: Callable[[bytes, Any], bytes]) -> Callable[[Any], bytes]:
        full, server = self._header.full, self._server
        return lambda response: encode(full(response.revision, server.raft_term), response)

    def _with_header(self, response: Any) -> bytes:
        header = self._header.full(response.revision, self._server.raft_term)
        return json_codec.encode_with_header(header, response)

    def _result_line(self, response: Any) -> bytes:
        return b'{"result":%b}\n' % self._with_header(response)

    def _with_plain_header(self, response: Any) -> bytes:
        header = self._header.full(0, self._server.raft_term)
        return json_codec.encode_with_header(header, response)

    def _range_slices(self, response: RangeResponse) -> Iterator[bytes] | None:
        if not kv_json.is_large(response):
            return None
        header = self._header.full(response.revision, self._server.raft_term)
        return kv_json.range_slices(header, response)
