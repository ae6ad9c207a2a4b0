"""A watch that outlives its connection: at the next endpoint it goes on from the next revision.

One stream carries one watch, and all its requests are known when it opens: the gateway takes no
request while it answers. That is all a plain POST can do, and it needs nothing but `http.client`;
a WebSocket would carry several watches, but their reconnections would have to be told apart. So a
question for the progress opens the stream again, with that question behind the watch; the answer
to it then is true of everything that was shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from node.ctl.client import Client, Stream, lasting

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
NO_LEADER = "etcdserver: no leader"


class Canceled(Exception):
    """A member ended the watch; `response` is its last word."""

    def __init__(self, reason: str, response: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.response = response


class Watching:
    """One watch. `next_revision` is the first that was not delivered; 0 until it is known.

    The answers to iterate over are those with events, in revision order without gap or double, and
    those of progress, which have none. Raises Canceled, and what `lasting` raises.
    """

    def __init__(
        self, client: Client, request: Mapping[str, Any], first_seconds: float | None
    ) -> None:
        self.next_revision = int(request.get("start_revision", 0))
        self._client = client
        self._request = request
        self._first_seconds = first_seconds
        self._stream: Stream | None = None
        self._asked = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for response in lasting(
            self._client,
            "watch",
            self._requests,
            first_seconds=self._first_seconds,
            opened=self._opened,
        ):
            if response.get("canceled"):
                self._end(response)
            elif response.get("created"):
                self._created(response)
            else:
                yield self._noted(response)

    def ask_progress(self) -> None:
        """Have a progress answer come, from any thread."""
        self._asked = True
        self._cut()

    def _cut(self) -> None:
        if self._stream is not None:
            self._stream.cut()

    def _opened(self, stream: Stream) -> None:
        self._stream = stream

    def _requests(self) -> list[Mapping[str, Any]]:
        create = {**self._request, "start_revision": self.next_revision}
        return [{"create_request": create}, *([{"progress_request": {}}] if self._asked else [])]

    def _created(self, response: Mapping[str, Any]) -> None:
        self.next_revision = self.next_revision or int(response["header"]["revision"]) + 1

    def _noted(self, response: dict[str, Any]) -> dict[str, Any]:
        events = response.get("events", [])
        if events:
            self.next_revision = int(events[-1]["kv"]["mod_revision"]) + 1
        elif int(response.get("watch_id", 0)) == -1:
            # No move: etcd 3.4 answers it before a watch has caught up.
            self._asked = False
        else:
            seen = int(response["header"]["revision"])
            self.next_revision = max(self.next_revision, seen + 1)
        return response

    def _end(self, response: Mapping[str, Any]) -> None:
        """Raise, unless a new stream may fare better."""
        reason = response.get("cancel_reason", "")
        if int(response.get("compact_revision", 0)):
            raise Canceled(COMPACTED, response)
        if NO_LEADER not in reason and not self._client.forgets(reason):
            raise Canceled(reason or "the member gave no reason", response)
        self._cut()
