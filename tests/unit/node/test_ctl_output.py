"""How eskerctl shows bytes, sizes, durations and tables."""

from __future__ import annotations

import click
import pytest

from node.ctl.__main__ import run
from node.ctl.options import BAD_ARGUMENTS, Command, Duration, _plain_booleans, setting
from node.ctl.output import (
    drawn,
    field_lines,
    human_bytes,
    human_seconds,
    numbered,
    quoted,
)

QUOTED = [
    (b"plain", '"plain"'),
    (b'say "x" \\', '"say \\"x\\" \\\\"'),
    (b"a\n\t\r\x07", '"a\\n\\t\\r\\a"'),
    (b"\x00\x7f", '"\\x00\\x7f"'),
    (b"\xff\xfe", '"\\xff\\xfe"'),
    ("grün €".encode(), '"grün €"'),
    ("\u200b".encode(), '"\\u200b"'),
]


@pytest.mark.parametrize(("data", "text"), QUOTED)
def test_quoted_as_go_does(data: bytes, text: str) -> None:
    assert quoted(data) == text


SIZES = [
    (0, "0 B"),
    (9, "9 B"),
    (10, "10 B"),
    (999, "999 B"),
    (1000, "1.0 kB"),
    (20_480, "20 kB"),
    (2_147_483_648, "2.1 GB"),
    (1_250_000, "1.3 MB"),
]


@pytest.mark.parametrize(("size", "text"), SIZES)
def test_sizes(size: int, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000_25, "250µs"), (0.0125, "12.5ms"), (1.000309, "1.000309s")]
)
def test_durations_shown(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_table_is_drawn_as_etcdctl_does() -> None:
    table = drawn(("ID", "STATUS"), [("8e9e05c52164694d", "started"), ("1", True)])
    assert table.splitlines() == [
        "+------------------+---------+",
        "|        ID        | STATUS  |",
        "+------------------+---------+",
        "| 8e9e05c52164694d | started |",
        "|                1 |    true |",
        "+------------------+---------+",
    ]


def test_fields() -> None:
    fields = [("Key", b"a\xff"), ("Count", 3), ("More", False), ("", None), ("Errors", ["x y"])]
    assert list(field_lines(fields)) == [
        '"Key" : "a\\xff"',
        '"Count" : 3',
        '"More" : false',
        "",
        '"Errors" : ["x y"]',
    ]


def test_numbers_that_travel_as_text() -> None:
    answer = {
        "header": {"revision": "7", "member_id": "18446744073709551615"},
        "version": "3.6.6",
        "kvs": [{"version": "2", "key": "MTI=", "value": "MTI="}],
        "alarms": [{"memberID": "5", "alarm": "NOSPACE"}],
    }
    assert numbered(answer) == {
        "header": {"revision": 7, "member_id": 18446744073709551615},
        "version": "3.6.6",
        "kvs": [{"version": 2, "key": "MTI=", "value": "MTI="}],
        "alarms": [{"memberID": 5, "alarm": 1}],
    }


# Options


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("1m30s", 90.0), ("200ms", 0.2), ("1.5h", 5400.0)]
)
def test_durations_read(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "1m x"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(click.UsageError, match="is not a duration"):
        Duration().convert(text, None, None)


def test_booleans_with_a_value() -> None:
    flags = {"--prefix": [], "--hex": [], "--ask": ["--no-ask"]}
    given = ["--prefix=true", "--hex=false", "--ask=0", "--limit=1", "x", "--", "--prefix=true"]
    plain = ["--prefix", "--no-ask", "--limit=1", "x", "--", "--prefix=true"]
    assert _plain_booleans(given, flags) == plain


UNUSABLE = [
    (["--endpoints=here:port"], "'here:port' is not an endpoint such as 127.0.0.1:2379"),
    (["--endpoints=a:1,"], "'' is not an endpoint"),
    (["--endpoints=ftp://a:1"], "'ftp://a:1' is not an endpoint"),
    (["--endpoints=[::1"], "'[::1' is not an endpoint"),
    (["--endpoints=a:99999"], "'a:99999' is not an endpoint"),
    (["--cacert=none.pem"], "--cacert: there is no file none.pem"),
]


@pytest.mark.parametrize(("arguments", "message"), UNUSABLE)
def test_what_cannot_be_connected_to(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["get", "a", *arguments]) == BAD_ARGUMENTS
    assert capsys.readouterr().err.startswith(f"Error: {message}")


@click.command("probe", cls=Command)
@click.argument("words", nargs=-1)
def probe(words: tuple[str, ...]) -> None:
    click.echo(f"{setting('endpoints', 'none')} {setting('hex', False)} {len(words)}")


SOURCES = [
    ([], {}, "none False 0"),
    ([], {"ETCDCTL_ENDPOINTS": "e"}, "e False 0"),
    ([], {"ETCDCTL_ENDPOINTS": "e", "ESKERCTL_ENDPOINTS": "s"}, "s False 0"),
    (["--endpoints", "f"], {"ESKERCTL_ENDPOINTS": "s"}, "f False 0"),
    (["a", "--endpoints=f", "b", "--hex"], {}, "f True 2"),
    ([], {"ETCDCTL_HEX": "true"}, "none True 0"),
]


@pytest.mark.parametrize(("arguments", "environment", "printed"), SOURCES)
def test_flag_beats_eskerctl_beats_etcdctl(
    arguments: list[str],
    environment: dict[str, str],
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for prefix in ("ESKERCTL_", "ETCDCTL_"):
        for name in ("ENDPOINTS", "HEX"):
            monkeypatch.delenv(prefix + name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    probe.main(arguments, standalone_mode=False)
    assert capsys.readouterr().out == printed + "\n"
