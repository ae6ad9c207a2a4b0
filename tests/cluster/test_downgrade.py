"""A downgrade as an operator's tool announces it, through any member."""

from __future__ import annotations

import pytest

from tests.cluster.client import ApiError
from tests.cluster.harness import Cluster, wait_until

pytestmark = pytest.mark.slow

PATH = "maintenance/downgrade"


def test_a_downgrade_is_announced_shown_and_cancelled(cluster: Cluster) -> None:
    first, second, third = cluster

    def refused(action: str, version: str = "") -> tuple[int, int, str]:
        with pytest.raises(ApiError) as caught:
            second.client.call(PATH, {"action": action, "version": version})
        return caught.value.status, caught.value.code, caught.value.message

    wrong = "etcdserver: wrong downgrade target version format"
    assert refused("VALIDATE", "three") == (400, 3, wrong)
    invalid = "etcdserver: invalid downgrade target version"
    assert refused("ENABLE", "3.4.0") == (400, 3, invalid)
    assert refused("CANCEL") == (400, 9, "etcdserver: no inflight downgrade job")
    answer = first.client.call(PATH, {"version": "3.5.0"})
    assert answer["version"] == "3.6.0"
    assert not first.client.status().get("downgradeInfo"), "asking is not announcing"
    second.client.call(PATH, {"action": "ENABLE", "version": "3.5"})
    under_way = "etcdserver: cluster has a downgrade job in progress"
    assert refused("VALIDATE", "3.5.0") == (400, 9, under_way)
    shown = {"enabled": True, "targetVersion": "3.5.0"}
    wait_until("it is shown", lambda: third.client.status().get("downgradeInfo") == shown)
    third.kill()
    third.start()
    third.wait_healthy()
    assert third.client.status()["downgradeInfo"] == shown
    third.client.call(PATH, {"action": "CANCEL"})
    assert third.client.status().get("downgradeInfo") != shown
