"""What each command asks, and prints from a recorded answer: etcdctl's words in every format."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from node.ctl.__main__ import run
from node.ctl.client import CallError, Client

HEADER = {"cluster_id": "7", "member_id": "9", "revision": "3", "raft_term": "2"}
SHOWN_HEADER = '{"cluster_id":7,"member_id":9,"revision":3,"raft_term":2}'
HEADER_FIELDS = '"ClusterID" : 7\n"MemberID" : 9\n"Revision" : 3\n"RaftTerm" : 2\n'
FLAT = SHOWN_HEADER[1:-1]


class Recorder:
    """Stands for the cluster: answers by path, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def call(self, path: str, body: Mapping[str, Any], endpoint: str | None = None) -> Any:
        self.asked.append((path, body))
        answer = self.answers.get(path, {})
        answer = answer.pop(0) if isinstance(answer, list) else answer
        if isinstance(answer, Exception):
            raise answer
        return {"header": HEADER, **answer}

    def stream(self, path: str, body: Mapping[str, Any], endpoint: str) -> Iterator[Any]:
        yield self.call(path, body)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(Client, "call", lambda _, *args: recorder.call(*args))
    monkeypatch.setattr(Client, "stream", lambda _, *args: recorder.stream(*args))
    return recorder


Captured = pytest.CaptureFixture[str]
ROLE = {
    "perm": [
        {"key": "YQ=="},
        {"permType": "WRITE", "key": "Yg==", "range_end": "Yw=="},
        {"permType": "READWRITE", "key": "Yw==", "range_end": "AA=="},
        {"permType": "READWRITE", "key": "ZA==", "range_end": "ZHo="},
    ]
}
ROLE_LINES = """Role r
KV Read:
\ta
\t[c, <open ended>
\t[d, dz)
KV Write:
\t[b, c) (prefix b)
\t[c, <open ended>
\t[d, dz)
"""
MEMBERS = {
    "header": {"cluster_id": "7", "member_id": "9", "raft_term": "2"},
    "member": {"ID": "171", "peerURLs": ["http://b:2380"], "isLearner": True},
    "members": [
        {"ID": "9", "name": "n1", "peerURLs": ["http://a:2380"], "clientURLs": ["http://a:2379"]},
        {"ID": "171", "peerURLs": ["http://b:2380"], "isLearner": True},
    ],
}
ADDED = """Member               ab added to cluster                7

ETCD_NAME="n2"
ETCD_INITIAL_CLUSTER="n1=http://a:2380,n2=http://b:2380"
ETCD_INITIAL_ADVERTISE_PEER_URLS="http://b:2380"
ETCD_INITIAL_CLUSTER_STATE="existing"
"""

PRINTED = [
    (
        "lease grant 100",
        {"lease/grant": {"ID": "31", "TTL": "100"}},
        "lease 000000000000001f granted with TTL(100s)\n",
    ),
    (
        "lease grant 100 -w json",
        {"lease/grant": {"ID": "31", "TTL": "100"}},
        f'{{{FLAT},"ID":31,"TTL":100,"Error":""}}\n',
    ),
    (
        "lease grant 100 -w fields",
        {"lease/grant": {"ID": "31", "TTL": "100"}},
        HEADER_FIELDS + '"ID" : 31\n"TTL" : 100\n',
    ),
    ("lease revoke 1f", {}, "lease 000000000000001f revoked\n"),
    ("lease revoke 1f -w json", {}, f'{{"header":{SHOWN_HEADER}}}\n'),
    (
        "lease timetolive 1f",
        {"lease/timetolive": {"ID": "31", "TTL": "9", "grantedTTL": "10"}},
        "lease 000000000000001f granted with TTL(10s), remaining(9s)\n",
    ),
    (
        "lease timetolive 1f --keys",
        {"lease/timetolive": {"TTL": "9", "grantedTTL": "10", "keys": ["aw==", "azI="]}},
        "lease 000000000000001f granted with TTL(10s), remaining(9s), attached keys([k k2])\n",
    ),
    (
        "lease timetolive 1f --keys -w json",
        {"lease/timetolive": {"TTL": "9", "grantedTTL": "10", "keys": ["aw=="]}},
        f'{{{FLAT},"id":31,"ttl":9,"granted-ttl":10,"keys":["aw=="]}}\n',
    ),
    (
        "lease timetolive 1f -w json",
        {"lease/timetolive": {"ID": "31", "TTL": "-1"}},
        f'{{{FLAT},"id":31,"ttl":-1,"granted-ttl":0,"keys":null}}\n',
    ),
    (
        "lease timetolive 1f",
        {"lease/timetolive": {"ID": "31", "TTL": "-1"}},
        "lease 000000000000001f already expired\n",
    ),
    (
        "lease list",
        {"lease/leases": {"leases": [{"ID": "31"}, {"ID": "5"}]}},
        "found 2 leases\n000000000000001f\n0000000000000005\n",
    ),
    (
        "lease list -w json",
        {"lease/leases": {"leases": [{"ID": "31"}]}},
        f'{{{FLAT},"leases":[{{"id":31}}]}}\n',
    ),
    ("lease list -w json", {}, f'{{{FLAT},"leases":[]}}\n'),
    (
        "lease keep-alive --once 1f",
        {"lease/keepalive": {"ID": "31", "TTL": "10"}},
        "lease 000000000000001f keepalived with TTL(10)\n",
    ),
    (
        "lease keep-alive --once 1f -w json",
        {"lease/keepalive": {"ID": "31", "TTL": "10"}},
        f'{{{FLAT},"ID":31,"TTL":10}}\n',
    ),
    ("lease keep-alive 1f", {}, "lease 000000000000001f expired or revoked.\n"),
    ("role add r", {}, "Role r created\n"),
    ("role add r -w fields", {}, HEADER_FIELDS),
    ("role get r", {"auth/role/get": ROLE}, ROLE_LINES),
    (
        "role get r -w json",
        {"auth/role/get": {"perm": ROLE["perm"][:2]}},
        f'{{"header":{SHOWN_HEADER},"perm":[{{"key":"YQ=="}},'
        '{"permType":1,"key":"Yg==","range_end":"Yw=="}]}\n',
    ),
    (
        "role get r -w fields",
        {"auth/role/get": {"perm": ROLE["perm"][:1]}},
        HEADER_FIELDS + '"PermType" :  READ\n"Key" : "a"\n"RangeEnd" : ""\n',
    ),
    ("role list", {"auth/role/list": {"roles": ["a", "b"]}}, "a\nb\n"),
    ("role grant-permission r read a", {}, "Role r updated\n"),
    ("role revoke-permission r a", {}, "Permission of key a is revoked from role r\n"),
    (
        "role revoke-permission r b --prefix",
        {},
        "Permission of range [b, c) is revoked from role r\n",
    ),
    (
        "role revoke-permission r c --from-key",
        {},
        "Permission of range [c, <open ended> is revoked from role r\n",
    ),
    ("role delete r", {}, "Role r deleted\n"),
    ("user add u:pw", {}, "User u created\n"),
    ("user get u", {"auth/user/get": {"roles": ["r", "s"]}}, "User: u\nRoles: r s\n"),
    ("user get u", {}, "User: u\nRoles:\n"),
    (
        "user get u --detail",
        {"auth/user/get": {"roles": ["r"]}, "auth/role/get": ROLE},
        "User: u\n\n" + ROLE_LINES,
    ),
    (
        "user list -w json",
        {"auth/user/list": {"users": ["u"]}},
        f'{{"header":{SHOWN_HEADER},"users":["u"]}}\n',
    ),
    ("user grant-role u r", {}, "Role r is granted to user u\n"),
    ("user revoke-role u r", {}, "Role r is revoked from user u\n"),
    ("user delete u", {}, "User u deleted\n"),
    ("auth enable", {}, "Authentication Enabled\n"),
    ("auth disable", {}, "Authentication Disabled\n"),
    (
        "auth status",
        {"auth/status": {"enabled": True, "authRevision": "4"}},
        "Authentication Status: true\nAuthRevision: 4\n",
    ),
    (
        "auth status -w json",
        {"auth/status": {"authRevision": "1"}},
        f'{{"header":{SHOWN_HEADER},"authRevision":1}}\n',
    ),
    (
        "member add n2 --learner --peer-urls=http://b:2380",
        {"cluster/member/add": MEMBERS},
        ADDED,
    ),
    ("member remove ab", {}, "Member               ab removed from cluster                7\n"),
    (
        "member update ab --peer-urls=http://c:1",
        {},
        "Member               ab updated in cluster                7\n",
    ),
    ("member promote ab", {}, "Member               ab promoted in cluster                7\n"),
]


@pytest.mark.parametrize(("line", "answers", "printed"), PRINTED, ids=lambda part: str(part)[:40])
def test_printed(
    line: str, answers: dict[str, Any], printed: str, cluster: Recorder, capsys: Captured
) -> None:
    cluster.answers = answers
    assert run(line.split()) == 0
    assert capsys.readouterr() == (printed, "")


ASKED = [
    ("lease grant 9", "lease/grant", {"TTL": 9}),
    ("lease revoke -- -1f", "lease/revoke", {"ID": "-31"}),
    ("lease timetolive 1f --keys", "lease/timetolive", {"ID": "31", "keys": True}),
    ("user add u:p:w", "auth/user/add", {"name": "u", "password": "p:w"}),
    ("user add u --new-user-password=x", "auth/user/add", {"name": "u", "password": "x"}),
    ("user add u --no-password", "auth/user/add", {"name": "u", "options": {"no_password": True}}),
    ("user passwd u --interactive=false", "auth/user/changepw", {"name": "u", "password": "typed"}),
    ("user grant-role u r", "auth/user/grant", {"user": "u", "role": "r"}),
    ("user revoke-role u r", "auth/user/revoke", {"name": "u", "role": "r"}),
    ("role get r", "auth/role/get", {"role": "r"}),
    ("role revoke-permission r a b", "auth/role/revoke", ("r", "YQ==", "Yg==")),
    ("member remove ffffffffffffffff", "cluster/member/remove", {"ID": str(2**64 - 1)}),
    (
        "member add a --peer-urls=http://a:1,http://b:2",
        "cluster/member/add",
        {"peerURLs": ["http://a:1", "http://b:2"], "isLearner": False},
    ),
]


@pytest.mark.parametrize(("line", "path", "body"), ASKED, ids=lambda part: str(part)[:40])
def test_asked(
    line: str,
    path: str,
    body: Any,
    cluster: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster.answers = {
        "lease/grant": {"ID": "1", "TTL": "9"},
        "cluster/member/add": MEMBERS,
    }
    monkeypatch.setattr("sys.stdin", io.StringIO("typed\n"))
    assert run(line.split()) == 0
    if isinstance(body, tuple):
        body = dict(zip(("role", "key", "range_end"), body, strict=True))
    assert cluster.asked == [(path, body)]


GRANTED = [
    ("read a", "READ", "YQ==", ""),
    ("WRITE a b", "WRITE", "YQ==", "Yg=="),
    ("readwrite a --prefix", "READWRITE", "YQ==", "Yg=="),
    ("read a --from-key", "READ", "YQ==", "AA=="),
]


@pytest.mark.parametrize(("rest", "kind", "key", "end"), GRANTED)
def test_granted_ranges(rest: str, kind: str, key: str, end: str, cluster: Recorder) -> None:
    assert run(["role", "grant-permission", "r", *rest.split()]) == 0
    permission = {"permType": kind, "key": key, "range_end": end}
    assert cluster.asked == [("auth/role/grant", {"name": "r", "perm": permission})]


REFUSED = [
    ("lease grant", 128, "lease grant command needs TTL argument"),
    ("lease grant x", 128, 'bad TTL (strconv.ParseInt: parsing "x": invalid syntax)'),
    (
        "lease revoke xyz",
        128,
        'bad lease ID arg (strconv.ParseInt: parsing "xyz": invalid syntax), expecting ID in Hex',
    ),
    ("lease keep-alive --once 1f", 2, "etcdserver: requested lease not found"),
    ("compaction x", 1, 'strconv.ParseInt: parsing "x": invalid syntax'),
    ("role add", 128, "role add command requires role name as its argument"),
    ("role list x", 128, "role list command requires no arguments"),
    ("role grant-permission r what k", 128, "invalid permission type: what"),
    ("role grant-permission r read k l --prefix", 128, "unexpected endkey argument with --prefix"),
    (
        "role grant-permission r read k --prefix --from-key",
        128,
        "--from-key and --prefix flags are mutually exclusive",
    ),
    ("user add :pw", 128, "empty user name is not allowed"),
    ("user grant-role u", 128, "user grant command requires user name and role name as its"),
    ("user passwd u", 128, "there is no terminal to ask for a password"),
    ("user list --user=root", 128, "there is no terminal to ask for a password"),
    ("auth enable now", 128, "auth enable command does not accept any arguments"),
    ("member add", 128, "member name not provided"),
    ("member add a b", 128, "too many arguments"),
    ("member add a", 128, "member peer urls not provided"),
    (
        "member remove -- -1",
        128,
        'bad member ID arg (strconv.ParseUint: parsing "-1": invalid syntax), expecting ID in Hex',
    ),
    ("watch", 128, "bad number of arguments"),
    ("watch a b c", 128, "bad number of arguments"),
    ("watch a --", 128, "bad number of arguments (found separator --, but no commands)"),
    ("watch -- a", 128, "bad number of arguments"),
    ("watch a b --prefix", 128, "`range_end` and `--prefix` are mutually exclusive"),
    ("watch a -w table", 4, "table not supported as output format"),
    ("lock", 128, "lock takes a lock name argument and an optional command to execute"),
    ("elect E", 128, "no proposal argument but -l not set"),
    ("elect -l E p", 128, "proposal given but -l is set"),
    ("elect", 128, "elect takes one election name argument and an optional proposal argument"),
    ("make-mirror", 128, "make-mirror takes one destination argument"),
    (
        "make-mirror x:1 --dest-prefix=a --no-dest-prefix",
        128,
        "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
    ),
    ("check perf --load=huge", 4, "unknown load option huge"),
    ("completion tcsh", 128, "completion command needs one of bash, zsh, fish"),
    ("lease grant 5 -w protobuf", 4, "protobuf not supported as output format"),
    ("lease grant 5 -w xml", 4, "unsupported output format"),
]


@pytest.mark.parametrize(("line", "code", "message"), REFUSED, ids=lambda part: str(part)[:40])
def test_refused(
    *,
    line: str,
    code: int,
    message: str,
    cluster: Recorder,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run(line.split()) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"Error: {message}")
    assert all(path == "lease/keepalive" for path, _ in cluster.asked)


def test_enabling_gives_root_its_role(cluster: Recorder) -> None:
    missing = CallError("etcdserver: root user does not have root role", 400, 9)
    cluster.answers = {"auth/enable": [missing, {}]}
    assert run(["auth", "enable"]) == 0
    assert [path for path, _ in cluster.asked] == [
        "auth/enable",
        "auth/role/add",
        "auth/user/grant",
        "auth/enable",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_the_command(shell: str, capsys: Captured) -> None:
    assert run(["completion", shell]) == 0
    assert "_ESKERCTL_COMPLETE" in capsys.readouterr().out


def test_words_are_completed(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for name, text in {
        "_ESKERCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "eskerctl lease ke",
        "COMP_CWORD": "2",
    }.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit):
        run([])
    assert capsys.readouterr().out == "plain,keep-alive\n"


def test_a_prefix_with_keys_is_not_measured_on(cluster: Recorder, capsys: Captured) -> None:
    cluster.answers = {"kv/range": {"kvs": [{"key": "YQ=="}]}}
    assert run(["check", "perf", "--prefix=/here/"]) == 3
    assert 'prefix "/here/" has keys.' in capsys.readouterr().err


def test_json_answers_are_json(cluster: Recorder, capsys: Captured) -> None:
    cluster.answers = {"cluster/member/add": MEMBERS}
    assert run(["member", "add", "n2", "--peer-urls=http://b:2380", "-w", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["member"]["ID"] == 171
    assert [one["ID"] for one in answer["members"]] == [9, 171]
