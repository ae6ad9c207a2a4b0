"""The text of /metrics, read back by the library that scrapes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.api.door import Lobby
from node.api.gate import Gate
from node.api.health import Health
from node.api.routes import Routes
from node.apply.errors import LearnerNotReady
from node.metrics import Histogram, Metrics, doubling
from tests.unit.node.fake_server import FakeServer

DASHBOARDS = {
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_slow_apply_total",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_server_quota_backend_bytes",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_server_version",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds_bucket",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "etcd_server_health_failures",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
}


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def watched(server: Any = None) -> tuple[Metrics, Routes, Lobby, Health]:
    server = server or FakeServer()
    metrics = Metrics()
    metrics.watch_server(server)
    routes = Routes(server, lambda work, done: work.close(), metrics)
    lobby = Lobby(
        routes.unary,
        Gate(server),  # type: ignore[arg-type]
        message_bytes_max=1,
        host_allowed=lambda host: True,
        hand_over=asyncio.Protocol,
        others=lambda: 0,
        connections_max=100,
        cors=True,
        now=0.0,
    )
    health = Health(server)
    metrics.watch_api(routes.methods(), lobby, health)
    return metrics, routes, lobby, health


def test_what_dashboards_ask_for_is_there() -> None:
    names = {name for name, _ in samples(watched()[0])}
    assert names >= DASHBOARDS


def test_numbers_are_their_owners() -> None:
    server: Any = FakeServer()
    metrics, routes, lobby, health = watched(server)
    put = routes.unary[b"/v3/kv/put"]
    put.started, put.handled[0], put.handled[8] = 9, 7, 2
    lobby.received_bytes, health.failures = 1234, 3
    counts = server.store.counts
    counts.puts, counts.deletes, counts.ranges, counts.txns, counts.put_bytes = 5, 6, 7, 8, 99
    server.lessor.granted_total, server.lessor.revoked_total = 3, 2
    server.compactor.rows_deleted = 11
    metrics.wal_written = lambda: 777
    shown = samples(metrics)
    assert shown["etcd_server_proposals_committed_total", ()] == 12
    assert shown["etcd_server_proposals_applied_total", ()] == 11
    assert shown["etcd_server_heartbeat_send_failures_total", ()] == 4
    assert shown["etcd_disk_wal_write_bytes_total", ()] == 777
    assert shown["etcd_disk_defrag_inflight", ()] == 1
    assert shown["etcd_server_quota_backend_bytes", ()] == 2 << 30
    assert shown["etcd_debugging_mvcc_compact_revision", ()] == -1
    for kind, value in (("put", 5), ("delete", 6), ("range", 7), ("txn", 8)):
        assert shown[f"etcd_mvcc_{kind}_total", ()] == value
        assert shown[f"etcd_debugging_mvcc_{kind}_total", ()] == value
    assert shown["etcd_debugging_mvcc_total_put_size_in_bytes", ()] == 99
    assert shown["etcd_debugging_mvcc_db_compaction_keys_total", ()] == 11
    assert shown["etcd_debugging_lease_granted_total", ()] == 3
    assert shown["etcd_debugging_lease_revoked_total", ()] == 2
    assert 0 < shown["os_fd_used", ()] < shown["os_fd_limit", ()]
    assert shown["etcd_server_id", (("server_id", "8000000000000005"),)] == 1
    assert shown["etcd_network_client_grpc_received_bytes_total", ()] == 1234
    assert shown["etcd_server_health_failures", ()] == 3
    labels = [
        ("grpc_method", "Put"),
        ("grpc_service", "etcdserverpb.KV"),
        ("grpc_type", "unary"),
    ]
    assert shown["grpc_server_started_total", tuple(labels)] == 9
    full = tuple(sorted([*labels, ("grpc_code", "ResourceExhausted")]))
    assert shown["grpc_server_handled_total", full] == 2


def test_a_histogram_counts_at_or_below_its_bounds() -> None:
    histogram = Histogram("h", "Test.", (1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 4.0, 100.0):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2.0), ("2.0", 3.0), ("4.0", 4.0), ("+Inf", 5.0)]
    assert histogram.sum == 107.0


def test_histograms_are_shown_before_there_is_a_server() -> None:
    metrics = Metrics()
    metrics.wal_fsync.observe(0.003)
    shown = samples(metrics)
    name = "etcd_disk_wal_fsync_duration_seconds"
    assert shown[name + "_count", ()] == 1
    assert shown[name + "_sum", ()] == pytest.approx(0.003)
    assert shown[name + "_bucket", (("le", "0.002"),)] == 0
    assert shown[name + "_bucket", (("le", "0.004"),)] == 1
    assert ("etcd_server_has_leader", ()) not in shown


def test_peers() -> None:
    metrics = watched()[0]
    assert not [name for name, _ in samples(metrics) if "round_trip" in name]
    metrics.observe_round_trip(0xA, 0.0003)
    metrics.observe_round_trip(0xB, 9.0)
    shown = samples(metrics)
    peer = "etcd_network_peer_"
    assert shown[peer + "sent_bytes_total", (("To", "a"),)] == 100
    assert shown[peer + "received_bytes_total", (("From", "b"),)] == 60
    assert shown[peer + "sent_failures_total", (("To", "b"),)] == 3
    assert (peer + "sent_failures_total", (("To", "a"),)) not in shown
    local = ("Local", "8000000000000005")
    assert shown["etcd_network_active_peers", (local, ("Remote", "a"))] == 1
    assert shown["etcd_network_active_peers", (local, ("Remote", "b"))] == 0
    assert shown["etcd_network_disconnected_peers_total", (local, ("Remote", "b"))] == 2
    trip = peer + "round_trip_time_seconds"
    assert shown[trip + "_bucket", (("To", "a"), ("le", "0.0004"))] == 1
    assert shown[trip + "_sum", (("To", "b"),)] == 9.0


def test_bounds_as_the_dashboards_expect_them() -> None:
    assert doubling(0.001, 14)[-1] == pytest.approx(8.192)
    metrics = Metrics()
    assert metrics.wal_fsync.bounds == metrics.backend_commit.bounds == doubling(0.001, 14)
    assert metrics.compaction_pause.bounds == doubling(1, 13)


def test_promotions_and_snapshots() -> None:
    server: Any = FakeServer()
    server.membership.promoted_total = 2
    server.membership.promotions_refused = {LearnerNotReady: 3}
    metrics = watched(server)[0]
    metrics.observe_snapshot(0.5, 2.0)
    metrics.marker_fsync.observe(0.25)
    shown = samples(metrics)
    reason = "etcdserver: can only promote a learner member which is in sync with leader"
    assert shown["etcd_server_learner_promote_successes", ()] == 2
    assert shown["etcd_server_learner_promote_failures", (("Reason", reason),)] == 3
    assert shown["etcd_snap_db_fsync_duration_seconds_sum", ()] == 0.5
    assert shown["etcd_snap_db_save_total_duration_seconds_sum", ()] == 2.0
    assert shown["etcd_snap_fsync_duration_seconds_sum", ()] == 0.25
