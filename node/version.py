"""What this server says it is, to clients that decide by version what they may ask."""

VERSION = "0.1.0"
"""Esker's own."""

API_VERSION = "3.6.6"
"""The etcd release whose API is followed; clients parse it as three numbers."""

CLUSTER_VERSION = "3.6.0"

STORAGE_VERSION = "3.6.0"
