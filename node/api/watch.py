"""The watch service: one session per stream, which reads requests and writes what the store says.

Events are encoded once for everybody who gets the same ones under the same watch id, which with one
watcher per stream is everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mvcc.kv import Event
from node.api.errors import CODE_NAMES, LeaderNeeded, refusal
from node.api.kv_json import Header, encode_events
from node.api.messages import FilterType, WatchCreateRequest, WatchRequest
from node.apply.errors import ApplyError, InvalidAuthToken

if TYPE_CHECKING:
    from mvcc.watchable_store import Notice, WatchResponse
    from node.api.methods import Credentials, Sink
    from node.apply.requests import Asker
    from node.server import Server

FRAGMENT_SPARE_BYTES = 512 << 10
"""An answer is split when it is larger than a request may be, and so much more."""

_EVENT_BYTES = 64


class _Span(NamedTuple):
    key: bytes
    range_end: bytes


class WatchSession:
    """One stream. Who its client is, is asked at each creation, and again when rights change.

    LeaderNeeded for those who say so; when one is lost for long, their stream ends with that.
    """

    def __init__(
        self, server: Server, header: Header, sink: Sink, credentials: Credentials
    ) -> None:
        if credentials.needs_leader and not server.leader:
            raise LeaderNeeded
        self._server = server
        self._auth = server.auth
        self._header = header
        self._sink = sink
        self._credentials = credentials
        self._asker: Asker = None
        self._revoked: dict[int, str] = {}
        self._rights = self._present_rights()
        self._part_bytes_max = server.config.max_request_bytes + FRAGMENT_SPARE_BYTES
        self._subscription = server.watches.subscribe(self)
        self._stream = self._subscription.stream

    # -- what the client says

    def receive(self, message: WatchRequest) -> None:
        if message.create_request is not None:
            self._create(message.create_request)
        elif message.cancel_request is not None:
            self._stream.cancel(message.cancel_request.watch_id)
        elif message.progress_request is not None:
            self._stream.request_progress()

    def end_of_input(self) -> None:
        """It goes on listening."""

    def resume(self) -> None:
        self._subscription.resume()

    def close(self) -> None:
        self._subscription.close()

    def _create(self, request: WatchCreateRequest) -> None:
        span = _Span(request.key or b"\x00", request.range_end)
        reason = self._denial(span)
        if reason:
            # After all that was said before, in the order of the requests.
            self.flush()
            self._sink.send([self._refused(reason)])
            return
        self._subscription.watch(
            key=span.key,
            range_end=span.range_end,
            start_rev=request.start_revision,
            watch_id=request.watch_id,
            no_put=FilterType.NOPUT in request.filters,
            no_delete=FilterType.NODELETE in request.filters,
            prev_kv=request.prev_kv,
            progress_notify=request.progress_notify,
            fragment=request.fragment,
        )

    # -- what the store says

    @property
    def full(self) -> bool:
        return self._sink.full

    def flush(self) -> int:
        """Write what is queued; about how many bytes that was."""
        if self._credentials.needs_leader and self._server.leaderless:
            self._sink.finish(refusal(LeaderNeeded()))
            return 0
        if self._rights != self._present_rights():
            self._check_again()
        lines: list[bytes] = []
        for response in self._stream.take():
            lines += self._lines(response)
        if lines:
            self._sink.send(lines)
        return sum(map(len, lines))

    def _lines(self, response: WatchResponse) -> Iterator[bytes]:
        watch_id, notice = response.watch_id, response.notice
        if notice is None:
            yield self._control(response)
        elif watch_id in self._revoked:
            return
        elif notice.size > self._part_bytes_max and self._stream.fragment(watch_id):
            yield from self._parts(watch_id, notice)
        else:
            yield self._line(watch_id, notice)

    def _line(self, watch_id: int, notice: Notice) -> bytes:
        encoded = notice.encoded
        line = encoded.get(watch_id)
        if line is None:
            events = encoded.get(None)
            if events is None:
                events = encoded[None] = encode_events(notice.events)
            line = encoded[watch_id] = self._message(watch_id, notice.revision, events)
        return line

    def _parts(self, watch_id: int, notice: Notice) -> Iterator[bytes]:
        """One answer as several, none larger than what a client must take."""
        parts = list(_cut(notice.events, self._part_bytes_max))
        for number, part in enumerate(parts, 1):
            more = b'"fragment":true,' if number < len(parts) else b""
            yield self._message(watch_id, notice.revision, encode_events(part), more)

    def _message(self, watch_id: int, revision: int, events: bytes, more: bytes = b"") -> bytes:
        header = self._header.full(revision, self._server.raft_term)
        number = b'"watch_id":"%d",' % watch_id if watch_id else b""
        return b'{"result":%b,%b%b"events":%b}}\n' % (header, number, more, events)

    def _control(self, response: WatchResponse) -> bytes:
        """Anything but events."""
        header = self._header.full(
            0 if response.compact_revision else response.revision, self._server.raft_term
        )
        fields: dict[str, object] = {}
        if response.watch_id:
            fields["watch_id"] = str(response.watch_id)
        if response.created:
            fields["created"] = True
        if response.canceled:
            fields["canceled"] = True
        if response.compact_revision:
            fields["compact_revision"] = str(response.compact_revision)
        reason = response.cancel_reason
        if response.canceled and not response.created:
            reason = self._revoked.pop(response.watch_id, reason)
        if reason:
            fields["cancel_reason"] = reason
        rest = b"," + msgspec.json.encode(fields)[1:-1] if fields else b""
        return b'{"result":%b%b}}\n' % (header, rest)

    def _refused(self, reason: str) -> bytes:
        header = self._header.full(self._server.store.current_rev, self._server.raft_term)
        text = msgspec.json.encode(reason)
        return (
            b'{"result":%b,"watch_id":"-1","created":true,"canceled":true,"cancel_reason":%b}}\n'
            % (header, text)
        )

    # -- who may watch what

    def _present_rights(self) -> int:
        """Another number when somebody's rights have changed."""
        return self._auth.store.revision if self._auth.enabled else -1

    def _denial(self, span: _Span) -> str:
        """Why the client may not watch; nothing when it may."""
        if not self._auth.enabled:
            return ""
        try:
            self._asker = self._auth.identify(*self._credentials[:2])
            self._auth.check_range(self._asker, *span)
        except ApplyError as error:
            return _reason(error)
        return ""

    def _check_again(self) -> None:
        """End the watchers that are not allowed any more; what they had queued is not sent."""
        self._rights = self._present_rights()
        if not self._auth.enabled:
            return
        for watch_id, key, range_end in self._stream.watched():
            reason = self._denial_now(_Span(key, range_end))
            if reason and self._stream.cancel(watch_id):
                self._revoked[watch_id] = reason

    def _denial_now(self, span: _Span) -> str:
        """As `_denial`. A watch outlives the token it began with, but not its user or password."""
        if self._asker is None:
            return self._denial(span)
        if not self._auth.store.login_holds(*self._asker):
            return _reason(InvalidAuthToken())
        try:
            self._auth.check_range(self._asker._replace(revision=self._rights), *span)
        except ApplyError as error:
            return _reason(error)
        return ""


def _reason(error: Exception) -> str:
    told = refusal(error)
    return f"rpc error: code = {CODE_NAMES[told.code]} desc = {told.text}"


def _cut(events: tuple[Event, ...], size_max: int) -> Iterator[list[Event]]:
    part: list[Event] = []
    size = 0
    for event in events:
        kvs = (event.kv, event.prev_kv) if event.prev_kv else (event.kv,)
        weight = sum(_EVENT_BYTES + len(kv.key) + len(kv.value) for kv in kvs)
        if part and size + weight > size_max:
            yield part
            part, size = [], 0
        part.append(event)
        size += weight
    yield part
