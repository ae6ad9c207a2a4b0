"""Clusters for tests, ended with the test, their logs shown when it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster

NewCluster = Callable[..., Cluster]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for number, cluster in enumerate(getattr(item, "clusters", [])):
            report.sections.append((f"logs of cluster {number}", cluster.report()))


@pytest.fixture
def new_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewCluster]:
    """Make a cluster, not yet started: `new_cluster(size, flag_name="text")`, `_` for `-`."""
    clusters: list[Cluster] = []
    request.node.clusters = clusters

    def make(size: int = 3, **flags: object) -> Cluster:
        named = {name.replace("_", "-"): str(value) for name, value in flags.items()}
        clusters.append(Cluster(tmp_path / f"c{len(clusters)}", size, named))
        return clusters[-1]

    yield make
    for cluster in clusters:
        cluster.end()


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    """Three healthy members with default settings."""
    return new_cluster().start()
