"""What /metrics shows, under etcd's names, so that its dashboards and alerts work unchanged.

Nothing here is on a hot path: counters are plain ints of their owners, read when somebody asks.
Only durations are brought here, into `Histogram`s, by whoever measures them; `observe` is a few
additions and may be called from any thread (a scrape that falls into the middle of one sees it at
the next).
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from node.version import API_VERSION, CLUSTER_VERSION

if TYPE_CHECKING:
    from node.api.door import Lobby
    from node.api.health import Health
    from node.api.methods import Duplex, Stream, Unary
    from node.apply.errors import ApplyError
    from node.server import Server


def doubling(start: float, count: int) -> tuple[float, ...]:
    """`count` upper bounds, each twice the one before."""
    return tuple(start * 2**power for power in range(count))


class Histogram:
    """Counts per bucket (not cumulated; the last is +Inf) and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "description", "name", "sum")

    def __init__(self, name: str, description: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.description = description
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many at or below it), as Prometheus wants them."""
        total = 0
        rows = []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


class Metrics(Collector):
    """Durations of one member, and the reading of everybody's counters.

    Exists before the server does; what was not yet handed over by `watch_server` and `watch_api` is
    not shown.
    """

    def __init__(self) -> None:
        disk = doubling(0.001, 14)
        self.wal_fsync = Histogram(
            "etcd_disk_wal_fsync_duration_seconds", "Write and sync of one batch of the log.", disk
        )
        self.backend_commit = Histogram(
            "etcd_disk_backend_commit_duration_seconds", "One transaction of the database.", disk
        )
        self.defragment = Histogram(
            "etcd_disk_backend_defrag_duration_seconds",
            "Rewriting the database without its free pages.",
            doubling(0.1, 13),
        )
        self.snapshot = Histogram(
            "etcd_disk_backend_snapshot_duration_seconds",
            "Copying the database for a stream.",
            doubling(0.01, 17),
        )
        self.snapshot_fsync = Histogram(
            "etcd_snap_db_fsync_duration_seconds", "Sync of a received snapshot.", disk
        )
        self.snapshot_save = Histogram(
            "etcd_snap_db_save_total_duration_seconds",
            "A received snapshot, from its first byte until it is durable.",
            doubling(0.1, 10),
        )
        self.marker_fsync = Histogram(
            "etcd_snap_fsync_duration_seconds", "Sync of a mark that the log is cut at.", disk
        )
        self.compaction_pause = Histogram(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "One step of a compaction, during which nothing else runs.",
            doubling(1, 13),
        )
        self.compaction_whole = Histogram(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "A compaction from its first step to the durable last one.",
            doubling(100, 14),
        )
        self.hash = Histogram(
            "etcd_mvcc_hash_duration_seconds", "Hash of the whole database.", doubling(0.01, 15)
        )
        self.hash_rev = Histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "Hash of the history up to a revision.",
            doubling(0.01, 15),
        )
        self.lease_ttl = Histogram(
            "etcd_debugging_lease_ttl_total",
            "Seconds that leases are granted for.",
            doubling(1, 24),
        )
        self.round_trips: dict[int, Histogram] = {}
        self.wal_written: Callable[[], int] = lambda: 0
        self._server: Server | None = None
        self._methods: Sequence[Unary | Stream | Duplex] = ()
        self._lobby: Lobby | None = None
        self._health: Health | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe_round_trip(self, member: int, seconds: float) -> None:
        """One probe of the peer `member`, there and back."""
        histogram = self.round_trips.get(member)
        if histogram is None:
            histogram = self.round_trips[member] = Histogram(
                "etcd_network_peer_round_trip_time_seconds",
                "A probe of a peer, there and back.",
                doubling(0.0001, 16),
            )
        histogram.observe(seconds)

    def observe_snapshot(self, synced: float, whole: float) -> None:
        """One received snapshot."""
        self.snapshot_fsync.observe(synced)
        self.snapshot_save.observe(whole)

    def watch_server(self, server: Server) -> None:
        self._server = server
        server.compactor.observe_whole = self.compaction_whole.observe

    def watch_api(
        self, methods: Sequence[Unary | Stream | Duplex], lobby: Lobby, health: Health
    ) -> None:
        self._methods = methods
        self._lobby = lobby
        self._health = health

    def render(self) -> bytes:
        """The text form of now."""
        return generate_latest(self._registry)

    def histograms(self) -> Iterator[Histogram]:
        return (value for value in vars(self).values() if isinstance(value, Histogram))

    def collect(self) -> Iterable[Metric]:
        if self._server is not None:
            yield from _server_families(self._server)
            yield from _store_families(self._server)
            yield from _operation_families(self._server)
            yield from _peer_families(self._server)
            yield _gauge(
                "etcd_disk_wal_write_bytes_total", "Records of the log.", self.wal_written()
            )
        if self._lobby is not None and self._health is not None:
            yield from _api_families(self._methods, self._lobby, self._health)
        for histogram in self.histograms():
            yield HistogramMetricFamily(
                histogram.name,
                histogram.description,
                buckets=histogram.buckets(),
                sum_value=histogram.sum,
            )
        yield from _round_trip_families(self.round_trips)


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value=value)


def _counter(name: str, description: str, value: float) -> Metric:
    """Counters that etcd names without `_total` must be gauges to the library, which would append
    it.
    """
    if not name.endswith("_total"):
        return _gauge(name, description, value)
    return CounterMetricFamily(name, description, value=value)


def _label(name: str, description: str, label: str, value: str) -> Metric:
    family = GaugeMetricFamily(name, description, labels=[label])
    family.add_metric([value], 1)
    return family


def _server_families(server: Server) -> Iterator[Metric]:
    name = "etcd_server_"
    yield _gauge(name + "has_leader", "Whether a leader is known.", server.leader != 0)
    yield _gauge(name + "is_leader", "Whether this member leads.", server.is_leader)
    yield _gauge(name + "is_learner", "Whether this member has no vote.", server.is_learner)
    yield _counter(
        name + "leader_changes_seen_total", "Changes of the leader.", server.leader_changes
    )
    yield _gauge(name + "proposals_committed_total", "Commit index.", server.driver.commit_index)
    yield _gauge(name + "proposals_applied_total", "Applied index.", server.applied_index)
    yield _gauge(name + "proposals_pending", "Waiting for apply.", server.proposals_pending)
    yield _counter(
        name + "proposals_failed_total", "Proposals that failed.", server.proposals_failed
    )
    yield _counter(name + "slow_apply_total", "Slow batches of apply.", server.slow_applies)
    yield _counter(
        name + "slow_read_indexes_total", "Read indexes asked again.", server.reads.slow_total
    )
    yield _counter(
        name + "read_indexes_failed_total", "Read indexes given up.", server.reads.failed_total
    )
    yield _counter(
        name + "heartbeat_send_failures_total",
        "Ticks that came too late: heartbeats did, too.",
        server.driver.counters.late_ticks,
    )
    membership = server.membership
    yield _gauge(
        name + "learner_promote_successes",
        "Learners that this member, as leader, made voters.",
        membership.promoted_total,
    )
    yield _promotions_refused(membership.promotions_refused)
    yield _gauge(name + "quota_backend_bytes", "The quota in force.", server.quota.limit)
    yield _label(name + "version", "API version.", "server_version", API_VERSION)
    yield _label(name + "id", "This member.", "server_id", f"{server.member_id:x}")
    runtime = f"{platform.python_implementation()} {sys.version.split()[0]}"
    yield _label(name + "go_version", "The runtime.", "server_go_version", runtime)
    yield _label(
        "etcd_cluster_version", "Version of the cluster.", "cluster_version", CLUSTER_VERSION[:3]
    )


def _promotions_refused(refused: Mapping[type[ApplyError], int]) -> Metric:
    from node.api.errors import refusal

    family = GaugeMetricFamily(
        "etcd_server_learner_promote_failures", "Promotions refused.", labels=["Reason"]
    )
    for cls, count in refused.items():
        family.add_metric([refusal(cls()).text], count)
    return family


def _store_families(server: Server) -> Iterator[Metric]:
    size = server.backend.size()
    store = server.store.status()
    yield _gauge("etcd_mvcc_db_total_size_in_bytes", "The database file.", size.size)
    yield _gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Without its free pages.", size.in_use)
    yield _gauge(
        "etcd_mvcc_db_open_read_transactions",
        "Long reads of the database.",
        len(server.backend.info().readers),
    )
    yield _gauge(
        "etcd_disk_defrag_inflight",
        "Whether the database is being rewritten.",
        server.backend.info().rebuilding == "defrag",
    )
    name = "etcd_debugging_mvcc_"
    yield _gauge(name + "keys_total", "Live keys.", store.keys)
    yield _gauge(name + "current_revision", "Newest revision.", store.current_rev)
    yield _gauge(name + "compact_revision", "Oldest readable one; -1: all are.", store.compact_rev)
    watches = server.watches.store.status()
    yield _gauge(name + "watcher_total", "Watchers.", watches.watchers)
    yield _gauge(name + "watch_stream_total", "Watch streams.", watches.streams)
    yield _gauge(name + "slow_watcher_total", "Watchers that lag behind.", watches.slow_watchers)
    yield _counter(name + "events_total", "Events given to watchers.", watches.events_total)
    yield _gauge(name + "pending_events_total", "Not yet sent to them.", watches.pending_events)


def _operation_families(server: Server) -> Iterator[Metric]:
    """What was executed; those of single operations also under the name that etcd had for them."""
    counts, lessor = server.store.counts, server.lessor
    for kind, value in (
        ("put", counts.puts),
        ("delete", counts.deletes),
        ("range", counts.ranges),
        ("txn", counts.txns),
    ):
        for name in ("etcd_mvcc_", "etcd_debugging_mvcc_"):
            yield _counter(f"{name}{kind}_total", f"Executed by this member: {kind}.", value)
    name = "etcd_debugging_"
    yield _gauge(
        name + "mvcc_total_put_size_in_bytes", "Keys and values put so far.", counts.put_bytes
    )
    yield _counter(
        name + "mvcc_db_compaction_keys_total",
        "Rows deleted by compactions.",
        server.compactor.rows_deleted,
    )
    yield _gauge(name + "auth_revision", "Changes of users and roles.", server.auth.revision)
    yield _counter(name + "lease_granted_total", "Leases granted.", lessor.granted_total)
    yield _counter(name + "lease_revoked_total", "Leases revoked.", lessor.revoked_total)
    leases = server.leases
    yield _counter(name + "lease_renewed_total", "Renewals by this leader.", leases.renewed_total)
    yield _counter(
        name + "server_lease_expired_total", "Expired and revoked by it.", leases.expired_total
    )
    yield _gauge("os_fd_used", "Open files.", len(os.listdir("/proc/self/fd")))
    yield _gauge("os_fd_limit", "Most of them.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield _gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "Whether a received snapshot is being installed.",
        server.installing,
    )


def _peer_families(server: Server) -> Iterator[Metric]:
    """Per peer and direction; failures appear with the first one."""
    name = "etcd_network_peer_"
    sent = CounterMetricFamily(name + "sent_bytes_total", "To a peer.", labels=["To"])
    received = CounterMetricFamily(name + "received_bytes_total", "From a peer.", labels=["From"])
    unsent = CounterMetricFamily(
        name + "sent_failures_total", "Messages dropped unsent.", labels=["To"]
    )
    unreceived = CounterMetricFamily(
        name + "received_failures_total", "Snapshots not received whole.", labels=["From"]
    )
    both = ["Local", "Remote"]
    active = GaugeMetricFamily(
        "etcd_network_active_peers", "Whether our stream to a peer is open.", labels=both
    )
    lost = CounterMetricFamily(
        "etcd_network_disconnected_peers_total", "Streams that broke.", labels=both
    )
    transport = server.transport
    local = f"{server.member_id:x}"
    for member, counters in transport.counters.items():
        peer = [f"{member:x}"]
        sent.add_metric(peer, counters.sent_bytes)
        received.add_metric(peer, counters.received_bytes)
        if counters.dropped_messages:
            unsent.add_metric(peer, counters.dropped_messages)
        if counters.snapshot_receive_failures:
            unreceived.add_metric(peer, counters.snapshot_receive_failures)
        active.add_metric([local, *peer], transport.active_since(member) is not None)
        lost.add_metric([local, *peer], counters.connections_lost)
    yield from (sent, received, unsent, unreceived, active, lost)


def _round_trip_families(round_trips: dict[int, Histogram]) -> Iterator[Metric]:
    if not round_trips:
        return
    first = next(iter(round_trips.values()))
    family = HistogramMetricFamily(first.name, first.description, labels=["To"])
    for member, histogram in round_trips.items():
        family.add_metric([f"{member:x}"], histogram.buckets(), histogram.sum)
    yield family


def _api_families(
    methods: Sequence[Unary | Stream | Duplex], lobby: Lobby, health: Health
) -> Iterator[Metric]:
    from node.api.errors import CODE_NAMES
    from node.api.methods import Duplex, Stream, Unary

    kinds = {Unary: "unary", Stream: "server_stream", Duplex: "bidi_stream"}
    name = "etcd_network_client_grpc_"
    yield _counter(
        name + "received_bytes_total", "Bodies of clients' requests.", lobby.received_bytes
    )
    yield _counter(name + "sent_bytes_total", "Bodies of answers.", lobby.sent_bytes)
    yield _counter("etcd_server_health_success", "Good /health.", health.success)
    yield _counter("etcd_server_health_failures", "Bad /health.", health.failures)
    labels = ["grpc_type", "grpc_service", "grpc_method"]
    started = CounterMetricFamily("grpc_server_started_total", "Calls begun.", labels=labels)
    handled = CounterMetricFamily(
        "grpc_server_handled_total", "Calls ended, by code.", labels=[*labels, "grpc_code"]
    )
    for method in methods:
        service, call = method.name.split("/")
        values: list[Any] = [kinds[type(method)], "etcdserverpb." + service, call]
        started.add_metric(values, method.started)
        for code, count in method.handled.items():
            handled.add_metric([*values, CODE_NAMES[code]], count)
    yield started
    yield handled
