"""An announced downgrade: a row, shown in the status; what may be announced."""

from __future__ import annotations

import pytest

from mvcc.memory_backend import MemoryBackend
from node.api.maintenance import downgrade_target
from node.apply.checks import admit, check
from node.apply.downgrade import Downgrade
from node.apply.errors import (
    DowngradeUnderWay,
    DowngradeVersionFormat,
    DowngradeVersionInvalid,
    InvalidArgument,
    NoDowngrade,
)
from node.apply.requests import DowngradeAction, DowngradeRequest, decode, encode

VALIDATE, ENABLE, CANCEL = DowngradeAction


@pytest.mark.parametrize("version", ["3.5", "3.5.0", "3.5.31"])
def test_the_release_before(version: str) -> None:
    assert downgrade_target(version) == "3.5.0"


@pytest.mark.parametrize("version", ["", "3", "v3.5", "3.5.0.1", "3.x", "03.5", " 3.5", "3.5.0\n"])
def test_what_is_no_release(version: str) -> None:
    with pytest.raises(DowngradeVersionFormat):
        downgrade_target(version)


@pytest.mark.parametrize("version", ["3.6.0", "3.7", "3.4.0", "2.5.0", "4.5.0"])
def test_what_is_not_the_release_before(version: str) -> None:
    with pytest.raises(DowngradeVersionInvalid):
        downgrade_target(version)


def test_announced_once_until_it_is_cancelled() -> None:
    backend = MemoryBackend()
    downgrade = Downgrade(backend)
    with pytest.raises(NoDowngrade):
        downgrade.apply(DowngradeRequest(CANCEL))
    downgrade.apply(DowngradeRequest(VALIDATE, "3.5.0"))
    assert downgrade.target == ""
    downgrade.apply(DowngradeRequest(ENABLE, "3.5.0"))
    for action in (VALIDATE, ENABLE):
        with pytest.raises(DowngradeUnderWay):
            downgrade.apply(DowngradeRequest(action, "3.5.0"))
    again = Downgrade(backend)
    again.restore()
    assert again.target == downgrade.target == "3.5.0"
    again.apply(DowngradeRequest(CANCEL))
    assert again.target == ""
    downgrade.restore()
    assert downgrade.target == ""


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (DowngradeRequest(3, "3.5.0"), InvalidArgument),
        (DowngradeRequest(-1), InvalidArgument),
        (DowngradeRequest(ENABLE), DowngradeVersionFormat),
        (DowngradeRequest(ENABLE, "3.5"), DowngradeVersionFormat),
    ],
)
def test_what_may_not_enter_the_log(request_: DowngradeRequest, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(request_)
    with pytest.raises(ValueError, match="a request to refuse"):
        admit(encode(1, request_))


def test_bytes_and_back() -> None:
    request = DowngradeRequest(ENABLE, "3.5.0")
    assert decode(encode(7, request)) == (7, request)
