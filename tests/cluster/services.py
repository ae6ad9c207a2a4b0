"""Kubernetes-like Service objects: real-looking JSON of 1 to 2 KB, the same for the same numbers.

`service(7, 2)` is the object of service number 7 after its second update; it has one key for ever.
"""

from __future__ import annotations

import json
import random
import uuid

_TEAMS = ("checkout", "catalog", "identity", "payments", "search", "shipping", "media", "metrics")
_PARTS = ("api", "gateway", "worker", "cache", "store", "scheduler", "relay", "proxy", "index")
_PORTS = ((80, "http"), (443, "https"), (9090, "metrics"), (6379, "redis"), (5432, "postgres"))
_MANAGERS = ("kubectl-client-side-apply", "helm", "argocd-controller", "kube-controller-manager")


def key(number: int) -> bytes:
    """Where the API server would keep it."""
    namespace, name = _identity(number)
    return f"/registry/services/specs/{namespace}/{name}".encode()


def service(number: int, update: int = 0) -> bytes:
    """The object of service `number` after `update` updates, as compact JSON."""
    namespace, name = _identity(number)
    chance = random.Random(f"service {number}")
    labels = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": namespace,
        "app.kubernetes.io/version": f"{1 + number % 4}.{update}.{chance.randrange(20)}",
        "app.kubernetes.io/managed-by": "Helm",
        "team": chance.choice(_TEAMS),
    }
    ports = [
        {"name": word, "protocol": "TCP", "port": port, "targetPort": 8000 + chance.randrange(1000)}
        for port, word in chance.sample(_PORTS, k=chance.randint(1, 4))
    ]
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "generation": update + 1,
            "creationTimestamp": f"2025-{1 + number % 12:02}-{1 + number % 28:02}T08:30:00Z",
            "labels": labels,
            "annotations": _annotations(name, namespace, labels, update),
            "managedFields": _managed_fields(chance, labels),
        },
        "spec": {
            "type": chance.choice(("ClusterIP", "ClusterIP", "NodePort")),
            "clusterIP": (address := f"10.{96 + number % 16}.{number // 256 % 256}.{number % 256}"),
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": ports,
            "selector": {"app.kubernetes.io/name": name, "team": labels["team"]},
        },
        "status": {"loadBalancer": {}},
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _identity(number: int) -> tuple[str, str]:
    namespace = f"{_TEAMS[number % len(_TEAMS)]}-{number // len(_TEAMS) % 12:02}"
    return namespace, f"{_PARTS[number % len(_PARTS)]}-{number:05}"


def _annotations(name: str, namespace: str, labels: dict[str, str], update: int) -> dict[str, str]:
    applied = {"kind": "Service", "metadata": {"name": name, "labels": labels}, "revision": update}
    return {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(applied),
        "meta.helm.sh/release-name": name,
        "meta.helm.sh/release-namespace": namespace,
        "prometheus.io/scrape": "true",
    }


def _managed_fields(chance: random.Random, labels: dict[str, str]) -> list[dict[str, object]]:
    owned = {f"f:{label}": {} for label in labels}
    return [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": owned if turn == 0 else {}}},
        }
        for turn, manager in enumerate(chance.sample(_MANAGERS, k=2))
    ]
