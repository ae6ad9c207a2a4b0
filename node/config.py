"""NodeConfig: the settings of one member, under etcd's flag names, checked as a whole.

Field names are flag names with `_` for `-`; intervals are whole milliseconds unless the field says
otherwise. Where values come from and which wins is said in `node.flags`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from node import flags
from node.ciphers import OPENSSL_NAMES

DEFAULT_QUOTA_BYTES = 2 << 30
NO_QUOTA_BYTES = (1 << 63) - 1
ELECTION_TIMEOUT_MAX_MS = 50_000
LEASE_CHECKPOINT_MS = 300_000
"""etcd's: of a lease shorter than this nothing is worth an entry."""

LOCAL_PEER = ("http://localhost:2380",)
LOCAL_CLIENT = ("http://localhost:2379",)


class ConfigError(Exception):
    """Everything that is wrong with the settings, one sentence each."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def _quota_bytes(value: str) -> int:
    """0 stands for the default, as in etcd; a negative number for no limit."""
    number = flags.integer(-(2**63))(value)
    if number == 0:
        return DEFAULT_QUOTA_BYTES
    return number if number > 0 else NO_QUOTA_BYTES


def _tls_version(value: str) -> str:
    """Empty leaves it to the two sides."""
    return flags.choice("TLS1.2", "TLS1.3")(value) if value else ""


def _flag(read: Callable[[str], Any], default: Any, description: str) -> Any:
    return field(default=default, metadata={"read": read, "help": description})


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeConfig:
    """One member's settings; `load` builds and checks them."""

    # Member
    name: str = _flag(flags.text, "default", "name of this member")
    data_dir: str = _flag(flags.text, "", "directory of the data (<name>.esker)")
    wal_dir: str = _flag(flags.text, "", "directory of the log (inside the data directory)")
    listen_client_urls: tuple[str, ...] = _flag(
        flags.urls, LOCAL_CLIENT, "URLs to serve clients on"
    )
    listen_peer_urls: tuple[str, ...] = _flag(flags.urls, LOCAL_PEER, "URLs to serve members on")
    listen_metrics_urls: tuple[str, ...] = _flag(
        flags.urls, (), "more URLs that serve only /metrics and the health pages"
    )
    heartbeat_interval: int = _flag(flags.integer(1), 100, "ms between a leader's heartbeats")
    election_timeout: int = _flag(
        flags.integer(1, ELECTION_TIMEOUT_MAX_MS), 1000, "ms without a leader until an election"
    )
    snapshot_count: int = _flag(flags.integer(1), 10_000, "entries between two cuts of the log")
    snapshot_catchup_entries: int = _flag(
        flags.integer(0), 5_000, "entries kept behind a cut for slow followers"
    )
    initial_election_tick_advance: bool = _flag(
        flags.boolean, True, "do not wait a whole election timeout for a leader at the start"
    )
    quota_backend_bytes: int = _flag(
        _quota_bytes, DEFAULT_QUOTA_BYTES, "bytes of the store above which writes are refused"
    )
    backend_batch_interval: int = _flag(
        flags.duration_ms, 100, "duration after which a batch of the store is written"
    )
    backend_batch_limit: int = _flag(flags.integer(0), 10_000, "changes in such a batch")
    max_txn_ops: int = _flag(flags.integer(1), 128, "operations in a transaction")
    max_request_bytes: int = _flag(flags.integer(1), 1_572_864, "bytes of a request")
    # Cluster
    advertise_client_urls: tuple[str, ...] = _flag(
        flags.urls, LOCAL_CLIENT, "URLs at which clients reach this member"
    )
    initial_advertise_peer_urls: tuple[str, ...] = _flag(
        flags.urls, LOCAL_PEER, "URLs at which members reach this one"
    )
    initial_cluster: dict[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata={"read": flags.cluster, "help": "name=url,... of all first members (this alone)"},
    )
    initial_cluster_state: str = _flag(
        flags.choice("new", "existing"), "new", "whether the cluster is founded or joined"
    )
    initial_cluster_token: str = _flag(
        flags.text, "etcd-cluster", "text that tells clusters with equal addresses apart"
    )
    strict_reconfig_check: bool = _flag(
        flags.boolean, True, "refuse membership changes that would lose the quorum"
    )
    pre_vote: bool = _flag(flags.boolean, True, "ask before an election; always on")
    auto_compaction_mode: str = _flag(
        flags.choice("periodic", "revision"), "periodic", "what the retention is counted in"
    )
    auto_compaction_retention: str = _flag(
        flags.text, "0", "history kept: hours, a duration, or revisions; 0 keeps all"
    )
    compaction_batch_limit: int = _flag(flags.integer(1), 1_000, "rows deleted at a time")
    compaction_sleep_interval: int = _flag(flags.duration_ms, 10, "duration between two batches")
    watch_progress_notify_interval: int = _flag(
        flags.duration_ms, 600_000, "duration after which an idle watch is told the revision"
    )
    experimental_enable_lease_checkpoint: bool = _flag(
        flags.boolean, True, "write what is left of a lease above 5 min to the log, every 5 min"
    )
    experimental_enable_lease_checkpoint_persist: bool = _flag(
        flags.boolean, True, "false: as without checkpoints, what is in the log always persists"
    )
    force_new_cluster: bool = _flag(
        flags.boolean, False, "go on alone with the data of a cluster whose majority is lost"
    )
    initial_corrupt_check: bool = _flag(
        flags.boolean, False, "compare the data with the other members before serving clients"
    )
    corrupt_check_time: int = _flag(
        flags.duration_ms, 0, "duration between two comparisons of all members' data; 0: none"
    )
    compact_hash_check_enabled: bool = _flag(
        flags.boolean, False, "hash the data after each compaction, and compare these hashes"
    )
    compact_hash_check_time: int = _flag(
        flags.duration_ms, 60_000, "duration between two such comparisons"
    )
    # Security
    cert_file: str = _flag(flags.text, "", "certificate shown to clients")
    key_file: str = _flag(flags.text, "", "its key")
    client_cert_auth: bool = _flag(flags.boolean, False, "ask clients for a certificate")
    trusted_ca_file: str = _flag(flags.text, "", "authority that signs clients' certificates")
    peer_cert_file: str = _flag(flags.text, "", "certificate shown to members")
    peer_key_file: str = _flag(flags.text, "", "its key")
    peer_client_cert_auth: bool = _flag(flags.boolean, False, "ask members for a certificate")
    peer_trusted_ca_file: str = _flag(flags.text, "", "authority that signs members' certificates")
    client_crl_file: str = _flag(flags.text, "", "list of clients' certificates that were revoked")
    peer_crl_file: str = _flag(flags.text, "", "list of members' certificates that were revoked")
    client_cert_allowed_hostname: str = _flag(
        flags.text, "", "host name or address that clients' certificates must be for"
    )
    peer_cert_allowed_cn: str = _flag(
        flags.text, "", "common name that members' certificates must have"
    )
    peer_cert_allowed_hostname: str = _flag(
        flags.text, "", "host name or address that members' certificates must be for"
    )
    cipher_suites: tuple[str, ...] = _flag(flags.words, (), "suites of TLS 1.2 to choose from")
    tls_min_version: str = _flag(_tls_version, "TLS1.2", "lowest version: TLS1.2 or TLS1.3")
    tls_max_version: str = _flag(_tls_version, "", "highest version: TLS1.2, TLS1.3 or any")
    auto_tls: bool = _flag(flags.boolean, False, "not supported: name certificates")
    peer_auto_tls: bool = _flag(flags.boolean, False, "not supported: name certificates")
    cors: tuple[str, ...] = _flag(flags.words, ("*",), "origins allowed to call from a browser")
    host_whitelist: tuple[str, ...] = _flag(flags.words, ("*",), "host names accepted in requests")
    auth_token: str = _flag(
        flags.text, "simple", "kind of token: simple, or jwt,sign-method=,pub-key=,priv-key=,ttl="
    )
    auth_token_ttl: int = _flag(flags.integer(1), 300, "seconds a token lives unused")
    bcrypt_cost: int = _flag(flags.integer(4, 31), 10, "cost of a password's hash")
    # Insight
    metrics: str = _flag(flags.choice("basic", "extensive"), "basic", "detail of /metrics")
    log_level: str = _flag(
        flags.choice("debug", "info", "warn", "error", "panic", "fatal"), "info", "lowest level"
    )
    logger: str = _flag(flags.choice("zap"), "zap", "accepted for etcd's sake; changes nothing")
    log_outputs: tuple[str, ...] = _flag(flags.words, ("default",), "stderr, stdout or file names")
    config_file: str = _flag(flags.text, "", "TOML file whose keys are flag names")

    notes: tuple[str, ...] = ()
    """What the operator should be told once the log is open."""

    @property
    def retention(self) -> int:
        """The retention in its mode's unit, milliseconds or revisions; 0 is off."""
        return read_retention(self.auto_compaction_mode, self.auto_compaction_retention)

    @property
    def lease_checkpoint_ms(self) -> int:
        """How often what is left of a long lease is written to the log; 0: never."""
        wanted = (
            self.experimental_enable_lease_checkpoint
            and self.experimental_enable_lease_checkpoint_persist
        )
        return LEASE_CHECKPOINT_MS if wanted else 0

    @property
    def request_timeout(self) -> float:
        """Seconds until a request is given up: 5 s for the disk, two elections for a leader."""
        return 5.0 + 2 * self.election_timeout / 1e3

    @property
    def has_data(self) -> bool:
        """Whether this member has started before: the initial cluster is then history."""
        return os.path.isdir(os.path.join(self.data_dir, "member"))

    def faults(self) -> list[str]:
        """Everything that is wrong with the settings taken together, in plain words."""
        found = [*self._timing_faults(), *self._address_faults(), *self._tls_faults()]
        if not self.has_data:
            found += self._bootstrap_faults()
        return found

    def _timing_faults(self) -> Iterator[str]:
        heartbeat, election = self.heartbeat_interval, self.election_timeout
        if election < 5 * heartbeat:
            yield (
                f"--election-timeout: {election} ms must be at least five times"
                f" --heartbeat-interval ({heartbeat} ms)"
            )
        try:
            _ = self.retention
        except ValueError as error:
            yield f"--auto-compaction-retention: {error}"
        if not self.pre_vote:
            yield "--pre-vote: cannot be switched off, esker always asks before an election"
        if self.compact_hash_check_enabled and self.compact_hash_check_time == 0:
            yield "--compact-hash-check-time: must be greater than 0"
        yield from self._auth_token_faults()

    def _auth_token_faults(self) -> Iterator[str]:
        kind = self.auth_token.partition(",")[0]
        if kind == "jwt":
            from node.signed_tokens import read_signing

            try:
                read_signing(self.auth_token)
            except ValueError as error:
                yield f"--auth-token: {error}"
        elif self.auth_token != "simple":
            yield f"--auth-token: {self.auth_token!r} is neither simple nor jwt,..."

    def _address_faults(self) -> Iterator[str]:
        if not self.name or "=" in self.name or "," in self.name:
            yield f"--name: {self.name!r} must be a word without = and ,"
        for flag in ("listen-client-urls", "listen-peer-urls", "listen-metrics-urls"):
            listened: tuple[str, ...] = getattr(self, flag.replace("-", "_"))
            if not listened and flag != "listen-metrics-urls":
                yield f"--{flag}: needs at least one URL"
            for url in listened:
                if not flags.binds(url):
                    yield f"--{flag}: {url} must have an IP address or localhost as its host"
        for flag in ("advertise-client-urls", "initial-advertise-peer-urls"):
            if not getattr(self, flag.replace("-", "_")):
                yield f"--{flag}: needs at least one URL"
        listened = self.listen_client_urls + self.listen_peer_urls + self.listen_metrics_urls
        for url in flags.duplicates(listened):
            yield f"{url} is listened on twice"

    def _tls_faults(self) -> Iterator[str]:
        client = self.listen_client_urls + self.listen_metrics_urls
        for prefix, urls in (("", client), ("peer-", self.listen_peer_urls)):
            attribute = prefix.replace("-", "_")
            certificate = getattr(self, f"{attribute}cert_file")
            key = getattr(self, f"{attribute}key_file")
            authority = getattr(self, f"{attribute}trusted_ca_file")
            if bool(certificate) != bool(key):
                yield f"--{prefix}cert-file and --{prefix}key-file must be given together"
            if any(url.startswith("https:") for url in urls) and not certificate:
                yield f"--{prefix}cert-file and --{prefix}key-file are needed to listen on https"
            if getattr(self, f"{attribute}client_cert_auth") and not authority:
                yield f"--{prefix}client-cert-auth: needs --{prefix}trusted-ca-file"
            if authority and not certificate:
                yield f"--{prefix}trusted-ca-file: needs --{prefix}cert-file and --{prefix}key-file"
            if getattr(self, f"{attribute}auto_tls"):
                yield (
                    f"--{prefix}auto-tls: esker makes no certificates;"
                    f" name some with --{prefix}cert-file and --{prefix}key-file"
                )
            revoked = getattr(self, f"{attribute or 'client_'}crl_file")
            if revoked and not authority:
                yield f"--{prefix or 'client-'}crl-file: needs --{prefix}trusted-ca-file"
            files = (
                (f"{prefix}cert", certificate),
                (f"{prefix}key", key),
                (f"{prefix}trusted-ca", authority),
                (f"{prefix or 'client-'}crl", revoked),
            )
            for flag, path in files:
                if path and not os.path.isfile(path):
                    yield f"--{flag}-file: there is no file {path}"
        yield from self._tls_choice_faults()

    def _tls_choice_faults(self) -> Iterator[str]:
        """Who may call, and in which TLS."""
        names = {
            "--peer-cert-allowed-cn": (self.peer_cert_allowed_cn, self.peer_trusted_ca_file),
            "--peer-cert-allowed-hostname": (
                self.peer_cert_allowed_hostname,
                self.peer_trusted_ca_file,
            ),
            "--client-cert-allowed-hostname": (
                self.client_cert_allowed_hostname,
                self.trusted_ca_file,
            ),
        }
        for flag, (name, authority) in names.items():
            if name and not authority:
                prefix = "peer-" if flag.startswith("--peer") else ""
                yield f"{flag}: needs --{prefix}trusted-ca-file, or anybody could claim the name"
        if self.peer_cert_allowed_cn and self.peer_cert_allowed_hostname:
            yield "--peer-cert-allowed-cn and --peer-cert-allowed-hostname exclude one another"
        if self.tls_max_version and self.tls_min_version > self.tls_max_version:
            yield (
                f"--tls-min-version: {self.tls_min_version} is above"
                f" --tls-max-version ({self.tls_max_version})"
            )
        for name in self.cipher_suites:
            if name not in OPENSSL_NAMES:
                yield f"--cipher-suites: there is no suite {name!r} of TLS 1.2 that esker knows"
        if self.cipher_suites and self.tls_min_version == "TLS1.3":
            yield "--cipher-suites: those of TLS 1.3 cannot be chosen"

    def _bootstrap_faults(self) -> Iterator[str]:
        cluster = self.initial_cluster
        if self.name not in cluster:
            known = ", ".join(sorted(cluster)) or "no member"
            yield f"--initial-cluster: does not name this member {self.name!r}; it names {known}"
        elif cluster[self.name] != self.initial_advertise_peer_urls:
            yield (
                f"--initial-cluster: gives {self.name} {', '.join(cluster[self.name])}, but"
                f" --initial-advertise-peer-urls is {', '.join(self.initial_advertise_peer_urls)}"
            )
        for url in flags.duplicates([url for urls in cluster.values() for url in urls]):
            owners = [name for name, urls in cluster.items() if url in urls]
            yield f"--initial-cluster: {url} is given twice ({', '.join(owners)})"


def read_retention(mode: str, value: str) -> int:
    """A retention as etcd reads it: a plain number is hours (periodic) or revisions (revision)."""
    if value.isdecimal() and value.isascii():
        number = flags.integer(0)(value)
        return number * 3_600_000 if mode == "periodic" else number
    if mode == "revision":
        raise ValueError(f"{value!r} is not a number of revisions")
    return flags.duration_ms(value)


READERS: dict[str, Callable[[str], object]] = {
    item.name.replace("_", "-"): item.metadata["read"]
    for item in fields(NodeConfig)
    if item.metadata
}
"""Every flag esker takes, by name, with what reads its text."""


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> NodeConfig:
    """Settings from flags (without the program's name), environment, and the file they name.

    Raises ConfigError with every fault at once.
    """
    given = flags.Given(READERS)
    flags.read_arguments(given, arguments)
    flags.read_environment(given, environment)
    if "config-file" in given.values:
        flags.read_toml(given, given.values["config-file"][0])
    return build(given)


def build(given: flags.Given) -> NodeConfig:
    """Settings from what was given, derived defaults filled in. Raises ConfigError."""
    parsed = given.parse()
    if "listen-client-urls" in given.values and "advertise-client-urls" not in given.values:
        given.faults.append("--advertise-client-urls is required when --listen-client-urls is set")
    settings: dict[str, Any] = {name.replace("-", "_"): value for name, value in parsed.items()}
    name = settings.get("name", "default")
    settings.setdefault("data_dir", f"{name}.esker")
    settings.setdefault(
        "initial_cluster", {name: settings.get("initial_advertise_peer_urls", LOCAL_PEER)}
    )
    # A value that did not read is a fault already; what its default then breaks is none.
    config = NodeConfig(**settings, notes=tuple(given.notes))
    faults = given.faults + [
        fault for fault in config.faults() if not any(f"--{flag}" in fault for flag in given.unread)
    ]
    if faults:
        raise ConfigError(faults)
    return config


def usage() -> str:
    """The help text: every flag, its default, what it does."""
    lines = [
        "Usage: esker [flags]",
        "       esker local [--help]",
        "",
        "Flags (also ETCD_NAME=...):",
        "",
    ]
    for item in fields(NodeConfig):
        if item.metadata:
            lines += [f"  --{item.name.replace('_', '-')} '{_shown(item.default)}'"]
            lines += [f"      {item.metadata['help']}"]
    return "\n".join(lines)


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)
