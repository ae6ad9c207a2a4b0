"""Path > method: the whole surface on one screen.

`/v3beta/...` is `/v3/...`. A unary method is decode, one call with a `done` callback, encode; a
stream yields ready chunks. Paths of calls that are not served yet are unknown paths.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from node.api import json_codec, kv_json
from node.api.cluster import Cluster
from node.api.errors import OK
from node.api.kv import Kv
from node.api.lease import Lease
from node.api.maintenance import Maintenance, Spawn
from node.api.messages import (
    EmptyMessage,
    HashKvRequest,
    LeaseTimeToLiveRequest,
    MemberAddRequest,
    MemberListRequest,
    MemberPromoteRequest,
    MemberRemoveRequest,
    MoveLeaderRequest,
)
from node.apply.requests import (
    AlarmRequest,
    CompactionRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    MemberUpdateRequest,
)
from node.apply.responses import RangeResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from node.metrics import Metrics
    from node.proposals import Done
    from node.server import Server


class Unary:
    """One unary method.

    `decode(body)` raises MalformedMessage; `serve(request, done)` raises a RequestError or calls
    `done` once; `encode(response)` is the body. `slices(response)` is the body in steps when it is
    too long for one, else None. The counters are what /metrics reports.
    """

    __slots__ = ("decode", "encode", "handled", "name", "serve", "slices", "started")

    def __init__(
        self,
        name: str,
        decode: Callable[[bytes], Any],
        serve: Callable[[Any, Done], None],
        encode: Callable[[Any], bytes],
        slices: Callable[[Any], Iterator[bytes] | None] | None = None,
    ) -> None:
        self.name = name
        self.decode = decode
        self.serve = serve
        self.encode = encode
        self.slices = slices
        self.started = 0
        self.handled: dict[int, int] = {OK: 0}


class Stream:
    """One server stream: `serve()` yields messages, `encode(message)` is one chunk."""

    __slots__ = ("encode", "handled", "name", "serve", "started")

    def __init__(
        self,
        name: str,
        serve: Callable[[], AsyncIterator[Any]],
        encode: Callable[[Any], bytes],
    ) -> None:
        self.name = name
        self.serve = serve
        self.encode = encode
        self.started = 0
        self.handled: dict[int, int] = {OK: 0}


def _reader(message: type) -> Callable[[bytes], Any]:
    return lambda body: json_codec.decode(body, message)


def _result_chunk(message: Any) -> bytes:
    return b'{"result":%b}\n' % json_codec.encode(message)


class Routes:
    """The tables, for one server: `unary` and `streams` by path."""

    def __init__(self, server: Server, spawn: Spawn, metrics: Metrics) -> None:
        self._server = server
        self._header = kv_json.Header(server.cluster_id, server.member_id)
        self.unary: dict[bytes, Unary] = {}
        self.streams: dict[bytes, Stream] = {}
        self._add_kv(Kv(server))
        self._add_lease(Lease(server))
        self._add_cluster(Cluster(server, spawn))
        self._add_maintenance(Maintenance(server, spawn, metrics))

    def methods(self) -> list[Unary | Stream]:
        """Each method once, whatever its aliases."""
        return list(dict.fromkeys([*self.unary.values(), *self.streams.values()]))

    def _add(self, method: Unary, *paths: str) -> None:
        for path in paths:
            self.unary[b"/v3" + path.encode()] = method
            self.unary[b"/v3beta" + path.encode()] = method

    def _add_kv(self, kv: Kv) -> None:
        headed, with_header = self._headed, self._with_header
        self._add(
            Unary(
                "KV/Range",
                kv_json.decode_range,
                kv.range,
                headed(kv_json.encode_range),
                self._range_slices,
            ),
            "/kv/range",
        )
        put = Unary("KV/Put", kv_json.decode_put, kv.put, headed(kv_json.encode_put))
        self._add(put, "/kv/put")
        self._add(
            Unary(
                "KV/DeleteRange",
                kv_json.decode_delete_range,
                kv.delete_range,
                headed(kv_json.encode_delete_range),
            ),
            "/kv/deleterange",
        )
        txn = Unary("KV/Txn", kv_json.decode_txn, kv.txn, headed(kv_json.encode_txn))
        self._add(txn, "/kv/txn")
        compact = Unary("KV/Compact", _reader(CompactionRequest), kv.compact, with_header)
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
            self._add(Unary("Lease/" + name, _reader(message), serve, self._with_header), *paths)

    def _add_cluster(self, cluster: Cluster) -> None:
        for name, message, serve in (
            ("Add", MemberAddRequest, cluster.add),
            ("List", MemberListRequest, cluster.list),
            ("Promote", MemberPromoteRequest, cluster.promote),
            ("Remove", MemberRemoveRequest, cluster.remove),
            ("Update", MemberUpdateRequest, cluster.update),
        ):
            method = Unary(
                "Cluster/Member" + name, _reader(message), serve, self._with_plain_header
            )
            self._add(method, "/cluster/member/" + name.lower())

    def _add_maintenance(self, maintenance: Maintenance) -> None:
        for name, message, serve, encode, path in (
            ("Alarm", AlarmRequest, maintenance.alarm, self._with_header, "alarm"),
            ("Status", EmptyMessage, maintenance.status, self._with_header, "status"),
            (
                "Defragment",
                EmptyMessage,
                maintenance.defragment,
                json_codec.encode,
                "defragment",
            ),
            ("Hash", EmptyMessage, maintenance.hash, self._with_header, "hash"),
            ("HashKV", HashKvRequest, maintenance.hash_kv, self._with_header, "hashkv"),
            (
                "MoveLeader",
                MoveLeaderRequest,
                maintenance.transfer_leadership,
                json_codec.encode,
                "transfer-leadership",
            ),
        ):
            method = Unary("Maintenance/" + name, _reader(message), serve, encode)
            self._add(method, "/maintenance/" + path)
        snapshot = Stream("Maintenance/Snapshot", maintenance.snapshot, _result_chunk)
        self.streams[b"/v3/maintenance/snapshot"] = snapshot
        self.streams[b"/v3beta/maintenance/snapshot"] = snapshot

    def _headed(self, encode: Callable[[bytes, Any], bytes]) -> Callable[[Any], bytes]:
        full, server = self._header.full, self._server
        return lambda response: encode(full(response.revision, server.raft_term), response)

    def _with_header(self, response: Any) -> bytes:
        header = self._header.full(response.revision, self._server.raft_term)
        return json_codec.encode_with_header(header, response)

    def _with_plain_header(self, response: Any) -> bytes:
        header = self._header.full(0, self._server.raft_term)
        return json_codec.encode_with_header(header, response)

    def _range_slices(self, response: RangeResponse) -> Iterator[bytes] | None:
        if not kv_json.is_large(response):
            return None
        header = self._header.full(response.revision, self._server.raft_term)
        return kv_json.range_slices(header, response)
