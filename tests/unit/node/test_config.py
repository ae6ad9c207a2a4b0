"""etcd's flags as tables: what is read from where, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import flags
from node.config import (
    NO_QUOTA_BYTES,
    READERS,
    ConfigError,
    NodeConfig,
    load,
    read_retention,
    usage,
)


def faults(*arguments: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(arguments, environment)
    return caught.value.faults


# Defaults, as etcd has them (but for our own name in the directory, and snapshot-count as in 3.6)

DEFAULTS = {
    "name": "default",
    "data_dir": "default.esker",
    "listen_client_urls": ("http://localhost:2379",),
    "advertise_client_urls": ("http://localhost:2379",),
    "listen_peer_urls": ("http://localhost:2380",),
    "initial_advertise_peer_urls": ("http://localhost:2380",),
    "initial_cluster": {"default": ("http://localhost:2380",)},
    "initial_cluster_state": "new",
    "initial_cluster_token": "etcd-cluster",
    "snapshot_count": 10_000,
    "snapshot_catchup_entries": 5_000,
    "heartbeat_interval": 100,
    "election_timeout": 1000,
    "quota_backend_bytes": 2 << 30,
    "auto_compaction_mode": "periodic",
    "auto_compaction_retention": "0",
    "max_txn_ops": 128,
    "max_request_bytes": 1_572_864,
    "strict_reconfig_check": True,
    "auth_token": "simple",
    "auth_token_ttl": 300,
    "bcrypt_cost": 10,
    "host_whitelist": ("*",),
    "cors": ("*",),
    "listen_metrics_urls": (),
    "metrics": "basic",
    "log_level": "info",
    "log_outputs": ("default",),
    "watch_progress_notify_interval": 600_000,
    "compaction_batch_limit": 1_000,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_default(name: str) -> None:
    assert getattr(load([], {}), name) == DEFAULTS[name]


# One spelling after the other

ACCEPTED = [
    (["--name=n1"], "name", "n1"),
    (["--name", "n1"], "name", "n1"),
    (["-name", "n1"], "name", "n1"),
    (["-name=n1"], "name", "n1"),
    (["--name=a", "--name=b"], "name", "b"),
    (["--name=n1"], "data_dir", "n1.esker"),
    (["--name=n1"], "initial_cluster", {"n1": ("http://localhost:2380",)}),
    (["--data-dir", "-odd"], "data_dir", "-odd"),
    (["--pre-vote"], "pre_vote", True),
    (["--strict-reconfig-check=false"], "strict_reconfig_check", False),
    (["--strict-reconfig-check", "false"], "strict_reconfig_check", False),
    (["--strict-reconfig-check=F", "--name=x"], "strict_reconfig_check", False),
    (["--strict-reconfig-check", "--name=x"], "strict_reconfig_check", True),
    (["--quota-backend-bytes=0"], "quota_backend_bytes", 2 << 30),
    (["--quota-backend-bytes=16777216"], "quota_backend_bytes", 16_777_216),
    (["--quota-backend-bytes=-1"], "quota_backend_bytes", NO_QUOTA_BYTES),
    (["--heartbeat-interval=20", "--election-timeout=200"], "election_timeout", 200),
    (["--backend-batch-interval=50ms"], "backend_batch_interval", 50),
    (
        ["--experimental-watch-progress-notify-interval=1m"],
        "watch_progress_notify_interval",
        60_000,
    ),
    (["--watch-progress-notify-interval=1s"], "watch_progress_notify_interval", 1_000),
    (["--experimental-compaction-batch-limit=7"], "compaction_batch_limit", 7),
    (["--experimental-enable-lease-checkpoint"], "lease_checkpoint_ms", 300_000),
    (["--experimental-enable-lease-checkpoint=false"], "lease_checkpoint_ms", 0),
    (["--experimental-enable-lease-checkpoint-persist=false"], "lease_checkpoint_ms", 0),
    (["--experimental-compaction-sleep-interval=2ms"], "compaction_sleep_interval", 2),
    (["--experimental-initial-corrupt-check"], "initial_corrupt_check", True),
    (["--experimental-corrupt-check-time=1h"], "corrupt_check_time", 3_600_000),
    (["--corrupt-check-time=2m"], "corrupt_check_time", 120_000),
    (["--experimental-compact-hash-check-enabled"], "compact_hash_check_enabled", True),
    (["--experimental-compact-hash-check-time=5s"], "compact_hash_check_time", 5_000),
    (["--initial-election-tick-advance=false"], "initial_election_tick_advance", False),
    (["--force-new-cluster"], "force_new_cluster", True),
    (["--logger=zap"], "logger", "zap"),
    (["--log-outputs=stderr,/var/log/x"], "log_outputs", ("stderr", "/var/log/x")),
    (["--cors=http://a, http://b"], "cors", ("http://a", "http://b")),
    (
        ["--listen-metrics-urls=http://127.0.0.1:9,http://127.0.0.1:8"],
        "listen_metrics_urls",
        ("http://127.0.0.1:8", "http://127.0.0.1:9"),
    ),
]


@pytest.mark.parametrize(("arguments", "field", "value"), ACCEPTED)
def test_accepted(arguments: list[str], field: str, value: object) -> None:
    assert getattr(load(arguments, {}), field) == value


# What is wrong with one value, and how it is said

REFUSED = [
    (["--heartbeat-interval=x"], "--heartbeat-interval: 'x' is not a whole number"),
    (["--heartbeat-interval=0"], "--heartbeat-interval: 0 is out of range: it must be at least 1"),
    (
        ["--heartbeat-interval=300"],
        "--election-timeout: 1000 ms must be at least five times --heartbeat-interval (300 ms)",
    ),
    (
        ["--election-timeout=50001"],
        "--election-timeout: 50001 is out of range: it must be between 1 and 50000",
    ),
    (["--max-txn-ops=1.5"], "--max-txn-ops: '1.5' is not a whole number"),
    (
        ["--bcrypt-cost=32"],
        "--bcrypt-cost: 32 is out of range: it must be between 4 and 31",
    ),
    (["--strict-reconfig-check=yes"], "--strict-reconfig-check: 'yes' is neither true nor false"),
    (
        ["--initial-cluster-state=old"],
        "--initial-cluster-state: 'old' is not one of new, existing",
    ),
    (["--metrics=all"], "--metrics: 'all' is not one of basic, extensive"),
    (
        ["--backend-batch-interval=100"],
        "--backend-batch-interval: '100' is not a duration such as 100ms, 10m or 1h30m",
    ),
    (["--data-dir"], "--data-dir: needs a value"),
    (["n1"], "'n1' is not a flag"),
    (["--"], "'--' is not a flag"),
    (["--nonsense", "3"], "--nonsense: there is no flag --nonsense"),
    (
        ["--pre-vote=false"],
        "--pre-vote: cannot be switched off, esker always asks before an election",
    ),
    (
        ["--auth-token=jwt,x=y"],
        "--auth-token: 'x=y' is none of sign-method=, pub-key=, priv-key=, ttl=",
    ),
    (
        ["--compact-hash-check-enabled", "--compact-hash-check-time=0"],
        "--compact-hash-check-time: must be greater than 0",
    ),
    (
        ["--config-file=/nowhere/x.toml"],
        "config-file: cannot read /nowhere/x.toml: No such file or directory",
    ),
    (["--name=a,b"], "--name: 'a,b' must be a word without = and ,"),
    (
        ["--listen-client-urls=http://127.0.0.1:1"],
        "--advertise-client-urls is required when --listen-client-urls is set",
    ),
    (
        ["--listen-peer-urls=http://example.org:1"],
        "--listen-peer-urls: http://example.org:1 must have an IP address or localhost as its host",
    ),
    (
        ["--listen-metrics-urls=http://localhost:2379"],
        "http://localhost:2379 is listened on twice",
    ),
    (["--listen-peer-urls="], "--listen-peer-urls: needs at least one URL"),
    (
        ["--auto-compaction-retention=5x"],
        "--auto-compaction-retention: '5x' is not a duration such as 100ms, 10m or 1h30m",
    ),
    (
        ["--auto-compaction-mode=revision", "--auto-compaction-retention=5m"],
        "--auto-compaction-retention: '5m' is not a number of revisions",
    ),
    (
        ["--cert-file=/nowhere/c"],
        "--cert-file and --key-file must be given together",
    ),
    (
        ["--peer-client-cert-auth"],
        "--peer-client-cert-auth: needs --peer-trusted-ca-file",
    ),
    (
        ["--listen-peer-urls=https://127.0.0.1:1"],
        "--peer-cert-file and --peer-key-file are needed to listen on https",
    ),
    (["--trusted-ca-file=/nowhere/ca"], "--trusted-ca-file: there is no file /nowhere/ca"),
]


@pytest.mark.parametrize(("arguments", "fault"), REFUSED)
def test_refused(arguments: list[str], fault: str) -> None:
    assert fault in faults(*arguments)


URLS = [
    ("127.0.0.1:1", "URL '127.0.0.1:1' must begin with http:// or https://"),
    ("unix:///x:1", "URL 'unix:///x:1' must begin with http:// or https://"),
    ("http://127.0.0.1", "URL 'http://127.0.0.1' does not have the form scheme://host:port"),
    ("http://:80", "URL 'http://:80' does not have the form scheme://host:port"),
    ("http://u@h:1", "URL 'http://u@h:1' does not have the form scheme://host:port"),
    ("http://h:1/", "URL 'http://h:1/' must not contain a path"),
    ("http://h:1?q", "URL 'http://h:1?q' must not contain a path"),
    ("http://h:65536", "'http://h:65536' is not a URL: Port out of range 0-65535"),
]


@pytest.mark.parametrize(("url", "fault"), URLS)
@pytest.mark.parametrize("flag", ["advertise-client-urls", "initial-advertise-peer-urls"])
def test_refused_url(flag: str, url: str, fault: str) -> None:
    assert faults(f"--{flag}={url}") == [f"--{flag}: {fault}"]


# The initial cluster

THREE = "n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n2=http://10.1.0.2:2380"


def test_initial_cluster_is_read() -> None:
    config = load(
        [
            "--name=n2",
            f"--initial-cluster={THREE}",
            "--initial-advertise-peer-urls=http://10.1.0.2:2380,http://10.0.0.2:2380",
        ],
        {},
    )
    assert config.initial_cluster == {
        "n1": ("http://10.0.0.1:2380",),
        "n2": ("http://10.0.0.2:2380", "http://10.1.0.2:2380"),
    }


CLUSTERS = [
    (
        ["--name=n4", f"--initial-cluster={THREE}"],
        "--initial-cluster: does not name this member 'n4'; it names n1, n2",
    ),
    (
        ["--name=n1", f"--initial-cluster={THREE}"],
        "--initial-cluster: gives n1 http://10.0.0.1:2380, but --initial-advertise-peer-urls is"
        " http://localhost:2380",
    ),
    (
        ["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
        "--initial-cluster: http://localhost:2380 is given twice (default, b)",
    ),
    (["--initial-cluster=x"], "--initial-cluster: 'x' does not have the form name=url"),
    (
        ["--initial-cluster=a=http://h:1/p"],
        "--initial-cluster: URL 'http://h:1/p' must not contain a path",
    ),
    (
        ["--initial-cluster="],
        "--initial-cluster: does not name this member 'default'; it names no member",
    ),
]


@pytest.mark.parametrize(("arguments", "fault"), CLUSTERS)
def test_initial_cluster_refused(arguments: list[str], fault: str) -> None:
    assert faults(*arguments) == [fault]


def test_initial_cluster_is_history_once_there_is_data(tmp_path: Path) -> None:
    (tmp_path / "member").mkdir()
    arguments = ["--name=n4", f"--data-dir={tmp_path}", f"--initial-cluster={THREE}"]
    assert load(arguments, {}).name == "n4"


# Where a value comes from


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "file"\nmax-txn-ops = 7\nmax-request-bytes = 9\n')
    config = load(
        [f"--config-file={file}", "--name=flag"], {"ETCD_NAME": "env", "ETCD_MAX_TXN_OPS": "8"}
    )
    assert (config.name, config.max_txn_ops, config.max_request_bytes) == ("flag", 8, 9)


def test_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "file"\nlisten-metrics-urls = ["http://[::1]:9", "http://[::1]:8"]\n')
    config = load([], {"ETCD_CONFIG_FILE": str(file)})
    assert config.name == "file"
    assert config.listen_metrics_urls == ("http://[::1]:8", "http://[::1]:9")


def test_toml_faults_name_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("nam = 1\nproxy = true\nname = 1.5\nmax-txn-ops = 0\n[log-level]\n")
    assert faults(f"--config-file={file}") == [
        f"{file}: nam: there is no flag --nam",
        f"{file}: proxy: etcd's flag --proxy is not supported by esker",
        f"{file}: name: expected text, a whole number, a boolean or a list of text",
        f"{file}: log-level: expected text, a whole number, a boolean or a list of text",
        f"{file}: max-txn-ops: 0 is out of range: it must be at least 1",
    ]


def test_broken_toml(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("name = \n")
    (fault,) = faults(f"--config-file={file}")
    assert fault.startswith(f"config-file: {file} is not TOML: ")


def test_environment_of_others_is_noted_not_refused() -> None:
    config = load([], {"ETCD_PORT": "tcp://10.0.0.1:2379", "ETCD_NAME": "", "ETCDCTL_API": "3"})
    assert config.name == "default"
    assert config.notes == ("environment variable ETCD_PORT is not a flag of etcd: ignored",)


def test_environment_fault_names_the_variable() -> None:
    assert faults(ETCD_MAX_TXN_OPS="many") == ["ETCD_MAX_TXN_OPS: 'many' is not a whole number"]


# All at once, and every flag of etcd


def test_every_fault_is_told_at_once() -> None:
    found = faults(
        "--discovery=https://x",
        "--max-txn-ops=0",
        "--heartbeat-interval=300",
        "--initial-cluster=n2=http://h:1",
        "--frobnicate",
        ETCD_METRICS="all",
        ETCD_ENABLE_V2="true",
    )
    assert [fault.split(":")[0] for fault in found] == [
        "--discovery",
        "--frobnicate",
        "ETCD_ENABLE_V2",
        "--max-txn-ops",
        "ETCD_METRICS",
        "--election-timeout",
        "--initial-cluster",
    ]


def test_a_value_that_does_not_read_is_one_fault() -> None:
    assert faults("--election-timeout=soon", "--heartbeat-interval=500") == [
        "--election-timeout: 'soon' is not a whole number"
    ]


@pytest.mark.parametrize("name", sorted(flags.UNSUPPORTED))
def test_unsupported_flag_of_etcd_is_named(name: str) -> None:
    told = f"--{name}: etcd's flag --{name} is not supported by esker"
    assert faults(f"--{name}", "x") == [told]
    assert faults(f"--experimental-{name}=x")[0].startswith(f"--experimental-{name}: etcd's flag")
    assert name not in READERS


ETCD_34 = """
    name data-dir wal-dir snapshot-count heartbeat-interval election-timeout
    initial-election-tick-advance listen-peer-urls listen-client-urls max-snapshots max-wals
    quota-backend-bytes backend-batch-interval backend-batch-limit max-txn-ops max-request-bytes
    max-concurrent-streams grpc-keepalive-min-time grpc-keepalive-interval grpc-keepalive-timeout
    initial-advertise-peer-urls initial-cluster initial-cluster-state initial-cluster-token
    advertise-client-urls discovery discovery-fallback discovery-proxy discovery-srv
    discovery-srv-name strict-reconfig-check pre-vote auto-compaction-retention
    auto-compaction-mode enable-v2 cert-file key-file client-cert-auth client-crl-file
    client-cert-allowed-hostname trusted-ca-file auto-tls peer-cert-file peer-key-file
    peer-client-cert-auth peer-trusted-ca-file peer-cert-allowed-cn peer-cert-allowed-hostname
    peer-auto-tls peer-crl-file cipher-suites cors host-whitelist auth-token bcrypt-cost
    auth-token-ttl enable-pprof metrics listen-metrics-urls logger log-outputs log-level proxy
    proxy-failure-wait proxy-refresh-interval proxy-dial-timeout proxy-write-timeout
    proxy-read-timeout experimental-initial-corrupt-check experimental-corrupt-check-time
    experimental-enable-v2v3 experimental-backend-bbolt-freelist-type
    experimental-enable-lease-checkpoint experimental-compaction-batch-limit
    experimental-peer-skip-client-san-verification experimental-watch-progress-notify-interval
    experimental-warning-apply-duration force-new-cluster debug log-package-levels config-file
"""


@pytest.mark.parametrize("name", ETCD_34.split())
def test_every_flag_of_etcd_is_taken_or_named(name: str) -> None:
    if flags.ALIASES.get(name, name) in READERS:
        return
    (told,) = faults(f"--{name}=x")
    assert told == f"--{name}: etcd's flag --{name} is not supported by esker"


# Derived values

RETENTIONS = [
    ("periodic", "0", 0),
    ("periodic", "1", 3_600_000),
    ("periodic", "10m", 600_000),
    ("periodic", "1h30m", 5_400_000),
    ("periodic", "1.5s", 1_500),
    ("revision", "0", 0),
    ("revision", "1000", 1000),
]


@pytest.mark.parametrize(("mode", "text", "value"), RETENTIONS)
def test_retention(mode: str, text: str, value: int) -> None:
    assert read_retention(mode, text) == value


def test_request_timeout_leaves_time_for_two_elections() -> None:
    assert NodeConfig(election_timeout=500).request_timeout == 6.0


def test_usage_lists_every_flag() -> None:
    for name in READERS:
        assert f"  --{name} '" in usage()
