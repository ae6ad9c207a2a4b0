"""RawNode: the only face of the core (contract in the package's docstring)."""

from __future__ import annotations
