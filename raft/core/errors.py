"""What `step()`, `propose()` and Storage may refuse."""

from __future__ import annotations


class RaftError(Exception):
    """Root of this package's errors."""


class ProposalDropped(RaftError):
    """The proposal is not accepted and will not be: no leader, a transfer, a full tail, removed."""


class Compacted(RaftError):
    """The index asked for is before the first one kept."""


class Unavailable(RaftError):
    """The index asked for is after the last one."""


class SnapshotTemporarilyUnavailable(RaftError):
    """A snapshot is wanted but not ready; ask again later."""


class StepRefused(RaftError):
    """A message that no correct peer sends here (local type, unknown sender, impossible field)."""


class ConfChangeRefused(RaftError):
    """The change does not lead from the present configuration to a valid one."""
