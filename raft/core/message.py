"""Messages between members: one struct, one list of types, and who answers what.

| type                 | from > to          | answered by        | goes out                      |
| -------------------- | ------------------ | ------------------ | ----------------------------- |
| PROPOSE              | anyone > leader    | -                  | at once                       |
| APPEND               | leader > peer      | APPEND_RESPONSE    | at once, beside the own write |
| APPEND_RESPONSE      | peer > leader      | -                  | after everything is durable   |
| HEARTBEAT            | leader > peer      | HEARTBEAT_RESPONSE | at once                       |
| HEARTBEAT_RESPONSE   | peer > leader      | -                  | at once                       |
| VOTE, PRE_VOTE       | candidate > voter  | *_RESPONSE         | after everything is durable   |
| VOTE_RESPONSE, ...   | voter > candidate  | -                  | after everything is durable   |
| SNAPSHOT             | leader > peer      | APPEND_RESPONSE    | by the snapshot stream        |
| READ_INDEX           | follower > leader  | READ_INDEX_RESPONSE | at once                       |
| TRANSFER_LEADER      | follower > leader  | -                  | at once                       |
| TIMEOUT_NOW          | leader > transferee | -                  | at once                       |
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from raft.core.types import NONE, Entry, Snapshot


class MessageType(IntEnum):
    """The wire numbers are for ever: add at the end, never reuse."""

    PROPOSE = 1
    APPEND = 2
    APPEND_RESPONSE = 3
    HEARTBEAT = 4
    HEARTBEAT_RESPONSE = 5
    VOTE = 6
    VOTE_RESPONSE = 7
    PRE_VOTE = 8
    PRE_VOTE_RESPONSE = 9
    SNAPSHOT = 10
    READ_INDEX = 11
    READ_INDEX_RESPONSE = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14


class Message(msgspec.Struct, array_like=True, kw_only=True):
    """One message; fields that a type does not use stay at their zero.

    `term` is 0 on PROPOSE and READ_INDEX, which are forwarded and belong to no term.
    `log_term`, `index`: the entry before `entries` (APPEND), the candidate's last entry (VOTE),
    the matched or rejected index (APPEND_RESPONSE), the read index (READ_INDEX_RESPONSE).
    `commit`: the leader's, or on APPEND_RESPONSE and HEARTBEAT_RESPONSE the responder's own;
    on a rejected VOTE_RESPONSE or PRE_VOTE_RESPONSE it stands with the term of that entry in
    `log_term`.
    `reject_hint`: on a rejected APPEND_RESPONSE the greatest index whose term, in `log_term`, is
    not above the rejected one.  `context`: the read position on heartbeats, a read token on
    READ_INDEX*, 1 on a VOTE or PRE_VOTE that a leadership transfer forces, the transferee on
    TRANSFER_LEADER.
    `eager`: on APPEND_RESPONSE and HEARTBEAT_RESPONSE, that the responder's clients wait for what
    others write; the core neither sets nor reads it.
    """

    type: int
    to: int = NONE
    sender: int = NONE
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: list[Entry] = []
    commit: int = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: int = 0
    eager: bool = False
