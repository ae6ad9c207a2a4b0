"""HttpFace: listeners, TLS, and everything that the fast path in `door` leaves to aiohttp.

Both serve the same route table through the same services, so a request is answered alike whichever
way it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from aiohttp import HttpVersion11, web

from node.api.annex import Annex, Guest
from node.api.carriers import Outbox, check_size
from node.api.door import CORS, NEEDS_LEADER, Door, Lobby, token_of
from node.api.errors import (
    OK,
    MalformedMessage,
    MessageTooLarge,
    MethodNotAllowed,
    NotFound,
    Refusal,
    refusal,
)
from node.api.gate import Gate
from node.api.health import Health
from node.api.methods import Credentials, Duplex, GiveUp, Stream, Unary
from node.api.routes import Routes
from node.api.websocket import is_websocket, offered_token, opened, serve_duplex, serve_stream
from node.version import API_VERSION, CLUSTER_VERSION, STORAGE_VERSION, VERSION

if TYPE_CHECKING:
    from node.metrics import Metrics
    from node.proposals import Done
    from node.server import Server
    from node.tls import Tls
    from raft.tls_port import TlsPort


GRPC_OVERHEAD_BYTES = 512 << 10
"""How much a message may exceed a request's limit before the transport refuses it unread."""

RESERVED_FILES = 150
"""File descriptors that clients cannot take: for the log, the database, the other members."""

BODY_READ_SECONDS = 60.0
"""How long aiohttp's side waits for a body."""

SWEEP_SECONDS = 1.0

KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 30, 10, 3
"""A client whose machine is gone is noticed within a minute, also on a stream that is silent."""

_PLAIN = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class HttpFace:
    """The API of one server on any number of listeners.

    `start` may be called again for more listeners; `stop` ends all of them and lets running
    requests finish for `grace` seconds.
    """

    def __init__(self, server: Server, metrics: Metrics) -> None:
        self._server = server
        self.metrics = metrics
        self._loop = asyncio.get_running_loop()
        config = server.config
        self._cors = tuple(config.cors)
        self._hosts = frozenset(host.lower() for host in config.host_whitelist)
        self._tasks: set[asyncio.Task[None]] = set()
        self._streaming: set[asyncio.Task[Any]] = set()
        self.routes = Routes(server, self.spawn, metrics)
        self._gate = Gate(server)
        self.health = Health(server)
        self._aiohttp = Annex(self._handle)
        self._metrics_only = Annex(self._handle_metrics)
        self.lobby = Lobby(
            {**self.routes.unary, **self.routes.duplexes},
            self._gate,
            message_bytes_max=config.max_request_bytes + GRPC_OVERHEAD_BYTES,
            host_allowed=self._host_allowed,
            hand_over=self._aiohttp,
            others=self._others,
            connections_max=_connections_max(),
            cors="*" in self._cors,
            now=self._loop.time(),
        )
        self._listeners: list[asyncio.Server | TlsPort] = []
        self._secure: list[TlsPort] = []
        self._sweeper: asyncio.TimerHandle | None = None
        metrics.watch_api(self.routes.methods(), self.lobby, self.health)

    # -- listeners

    async def start(
        self,
        urls: list[str] | tuple[str, ...],
        tls: Tls | None = None,
        *,
        metrics_only: bool = False,
    ) -> list[tuple[str, int]]:
        """Listen on each URL's host and port (https ones with `tls`); the addresses really
        bound. OSError.
        """
        bound = []
        for url in urls:
            parts = urlsplit(url)
            try:
                listener = await self._listen(parts, tls, metrics_only=metrics_only)
            except OSError as error:
                # The loop's own text names the address a second time.
                reason = os.strerror(error.errno) if (error.errno or 0) > 0 else error
                raise OSError(error.errno, f"cannot listen on {url}: {reason}") from error
            for bound_socket in listener.sockets:
                _keep_alive(bound_socket)
            self._listeners.append(listener)
            bound += [item.getsockname()[:2] for item in listener.sockets]
        if self._sweeper is None:
            self._sweep()
        return bound

    async def _listen(
        self, parts: SplitResult, tls: Tls | None, *, metrics_only: bool
    ) -> asyncio.Server | TlsPort:
        factory: Callable[[], asyncio.Protocol] = (
            self._metrics_only if metrics_only else (lambda: Door(self.lobby, self._loop))
        )
        host, port = parts.hostname, parts.port or 0
        if parts.scheme != "https" or tls is None:
            return await self._loop.create_server(factory, host, port, backlog=1024)
        self.lobby.user_of = tls.user_of
        if metrics_only:
            return await tls.listen(factory, host, port)
        secure = await tls.listen(factory, host, port, full=lambda: self.lobby.full)
        self._secure.append(secure)
        return secure

    def _others(self) -> int:
        """Connections of clients that have no door: aiohttp's, and those in their handshake."""
        return len(self._aiohttp.connections) + sum(each.pending for each in self._secure)

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        self.lobby.set_date(formatdate(usegmt=True))
        for swept in (self.lobby, self._aiohttp, self._metrics_only):
            swept.sweep(self._loop.time())

    async def stop(self, grace: float = 5.0) -> None:
        """Accept nothing new; answer what is being served, for at most `grace` seconds; then close
        every connection.
        """
        for listener in self._listeners:
            listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.lobby.closing = True
        self.lobby.sweep(self._loop.time())
        for stream in list(self._streaming):
            stream.cancel()
        deadline = self._loop.time() + grace
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.lobby.emptied.wait(), grace)
        for door in list(self.lobby.doors):
            door.abort()
        await self._aiohttp.shutdown(max(0.1, deadline - self._loop.time()))
        await self._metrics_only.shutdown(0.1)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, Any], done: Done) -> GiveUp:
        """Run `work` in a task that `stop` ends; its result or its error goes to `done`. Returns
        how to cancel it: `done` is not called then.
        """

        async def run() -> None:
            try:
                result = await work
            except Exception as error:
                done(error)
            else:
                done(result)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            work.close()  # It never began if the task was cancelled at once.

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task.cancel

    # -- one request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._host_allowed(request.headers.get("Host", "")):
            return web.Response(status=421, text="host is not whitelisted\n")
        cors = self._cors_headers(request)
        if request.method == "OPTIONS":
            return web.Response(headers=cors)
        path = request.path
        if path == "/v3":
            return web.Response(status=301, headers={"Location": "/v3/", **cors})
        if path.startswith(("/v3/", "/v3beta/")):
            return await self._call(request, path.encode(), cors)
        if path in ("/version", "/debug/vars"):
            return self._read_only(request, cors) or self._describe(path, cors)
        return await self._handle_metrics(request, cors)

    async def _handle_metrics(
        self, request: web.BaseRequest, cors: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """What metrics-only listeners serve: /metrics and the health pages."""
        cors = cors or {}
        page, _, check = request.path[1:].partition("/")
        pages = ("health", "metrics", "livez", "readyz")
        if page not in pages or (check and page in pages[:2]):
            return web.Response(status=404, text="404 page not found\n", headers=cors)
        refused = self._read_only(request, cors)
        if refused is not None:
            return refused
        if page == "metrics":
            text = self.metrics.render()
            return web.Response(body=text, headers={"Content-Type": _METRICS, **cors})
        if page == "health":
            return await self._answer_health(request, cors)
        return await self._answer_checks(request, page, check, cors)

    @staticmethod
    def _read_only(request: web.BaseRequest, cors: Mapping[str, str]) -> web.Response | None:
        if request.method == "GET" or (request.method == "HEAD" and request.path == "/metrics"):
            return None
        return web.Response(
            status=405, text="Method Not Allowed\n", headers={"Allow": "GET", **cors}
        )

    async def _answer_health(
        self, request: web.BaseRequest, cors: Mapping[str, str]
    ) -> web.Response:
        reason = await self.health.health(
            request.query.getall("exclude", []),
            serializable=request.query.get("serializable") == "true",
        )
        body = msgspec.json.encode({"health": "false" if reason else "true", "reason": reason})
        return web.Response(
            status=503 if reason else 200, body=body, headers={"Content-Type": _PLAIN, **cors}
        )

    async def _answer_checks(
        self, request: web.BaseRequest, page: str, check: str, cors: Mapping[str, str]
    ) -> web.Response:
        if check:
            report = await self.health.single(page, check)
            if report is None:
                return web.Response(status=404, text="404 page not found\n", headers=cors)
        else:
            run = self.health.livez if page == "livez" else self.health.readyz
            report = await run(
                request.query.getall("exclude", []), verbose="verbose" in request.query
            )
        return web.Response(status=200 if report.ok else 503, text=report.text, headers=cors)

    def _describe(self, path: str, cors: Mapping[str, str]) -> web.Response:
        if path == "/version":
            about: dict[str, Any] = {
                "etcdserver": API_VERSION,
                "etcdcluster": CLUSTER_VERSION,
                "storage": STORAGE_VERSION,
                "esker": VERSION,
            }
        else:
            store = self._server.store
            about = {
                "raft.term": self._server.raft_term,
                "raft.leader": f"{self._server.leader:x}",
                "mvcc.revision": store.current_rev,
                "mvcc.compact_revision": store.compact_rev,
                "api.doors": len(self.lobby.doors),
                "time": int(time.time()),
            }
        body = msgspec.json.encode(about)
        return web.Response(body=body, headers={"Content-Type": "application/json", **cors})

    # -- /v3

    async def _call(
        self, request: web.BaseRequest, path: bytes, cors: Mapping[str, str]
    ) -> web.StreamResponse:
        routes = self.routes
        method = routes.unary.get(path) or routes.streams.get(path) or routes.duplexes.get(path)
        if method is None:
            return _refused(refusal(NotFound()), cors)
        if is_websocket(request) and not isinstance(method, Unary):
            return await self._websocket(request, method)
        if request.method != "POST":
            return _refused(refusal(MethodNotAllowed()), cors)
        method.started += 1
        try:
            body = await self._read_body(request)
            if isinstance(method, Stream):
                return await self._stream(request, method, body, cors)
            if isinstance(method, Duplex):
                return await self._duplex(request, method, body, cors)
            parts = await self._unary(method, body, await self._credentials(request))
        except Exception as error:
            told = method.refusal(error)
            method.handled[told.code] = method.handled.get(told.code, 0) + 1
            return _refused(told, cors)
        method.handled[OK] += 1
        answer = b"".join(parts)
        self.lobby.sent_bytes += len(answer)
        headers = {"Content-Type": "application/json", **_GRPC, **cors}
        return web.Response(body=answer, headers=headers)

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        limit = self.lobby.body_bytes_max
        announced = request.content_length
        if announced is not None and announced > limit:
            raise MessageTooLarge(announced, self.lobby.message_bytes_max)
        expect = request.headers.get("Expect", "").lower()
        if expect == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_READ_SECONDS):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise MessageTooLarge(len(body), self.lobby.message_bytes_max)
        except web.RequestPayloadError as error:
            raise MalformedMessage(f"malformed body: {error}") from None
        self.lobby.received_bytes += len(body)
        return bytes(body)

    async def _unary(self, method: Unary, body: bytes, credentials: Credentials) -> list[bytes]:
        message = method.decode(body)
        check_size(message, body, self.lobby.message_bytes_max)
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: object) -> None:
            if not future.done():
                future.set_result(result)

        asker = self._gate.admit(method.access, credentials)
        give_up = method.serve(message, asker, done)
        try:
            result = await future
        except asyncio.CancelledError:
            if give_up is not None:
                give_up()
            raise
        if isinstance(result, Exception):
            raise result
        slices = None if method.slices is None else method.slices(result)
        if slices is None:
            return [method.encode(result)]
        parts = []
        for part in slices:
            parts.append(part)
            await asyncio.sleep(0)
        return parts

    async def _stream(
        self, request: web.BaseRequest, method: Stream, body: bytes, cors: Mapping[str, str]
    ) -> web.StreamResponse:
        """One chunk per message. An error before the first one is an HTTP error too; a later one is
        only the last chunk.
        """
        asked = method.decode(body)
        asker = self._gate.admit(method.access, await self._credentials(request))
        response = web.StreamResponse(headers={"Content-Type": "application/json", **_GRPC, **cors})
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        told = None
        try:
            async for message in method.serve(asked, asker):
                if not response.prepared:
                    await response.prepare(request)
                chunk = method.encode(message)
                self.lobby.sent_bytes += len(chunk)
                await response.write(chunk)
        except ConnectionResetError:
            raise
        except Exception as error:
            told = method.refusal(error)
        code = told.code if told else OK
        method.handled[code] = method.handled.get(code, 0) + 1
        if told is not None:
            if not response.prepared:
                response.set_status(told.status)
                await response.prepare(request)
            await response.write(told.chunk())
        await response.write_eof()
        return response

    async def _duplex(
        self, request: web.BaseRequest, method: Duplex, body: bytes, cors: Mapping[str, str]
    ) -> web.StreamResponse:
        """As a `Channel` does it, for requests that are not simple."""
        response = web.StreamResponse(headers={"Content-Type": "application/json", **_GRPC, **cors})
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        credentials = await self._credentials(request)
        outbox = Outbox(method, credentials, self.lobby.message_bytes_max)
        with self._endless(request):
            try:
                hearing = self._loop.create_task(outbox.hear(body, last=True))
                async for messages in outbox:
                    if not response.prepared:
                        await response.prepare(request)
                    for message in messages:
                        self.lobby.sent_bytes += len(message)
                        await response.write(message)
            except ConnectionResetError:
                return response
            finally:
                hearing.cancel()
                outbox.close()
        if outbox.refusal is not None:
            return _refused(outbox.refusal, cors)
        told = outbox.told
        if not response.prepared:
            response.set_status(told.status if told else 200)
            await response.prepare(request)
        if told is not None:
            await response.write(told.chunk())
        await response.write_eof()
        return response

    async def _websocket(
        self, request: web.BaseRequest, method: Stream | Duplex
    ) -> web.StreamResponse:
        try:
            frames = await opened(request, self.lobby.body_bytes_max)
        except web.HTTPBadRequest as refused:
            return web.Response(status=400, text=refused.text)
        credentials = await self._credentials(request)
        method.started += 1
        with self._endless(request):
            if isinstance(method, Stream):
                await serve_stream(frames, method, credentials, self.lobby)
            else:
                await serve_duplex(frames, method, credentials, self.lobby)
        return frames

    @contextlib.contextmanager
    def _endless(self, request: web.BaseRequest) -> Iterator[None]:
        """What the present task does meanwhile would never end by itself: stopping does it."""
        task = asyncio.current_task()
        assert task is not None and isinstance(request.protocol, Guest)
        request.protocol.patient = True
        self._streaming.add(task)
        try:
            yield
        finally:
            self._streaming.discard(task)

    # -- who may ask

    async def _credentials(self, request: web.BaseRequest) -> Credentials:
        """Once this member can know what they are worth."""
        token = token_of(request.headers.get("Authorization", ""))
        if not token and is_websocket(request):
            token = offered_token(request)
        user = self._certified_user(request)
        credentials = Credentials(token, user, request.headers.get(NEEDS_LEADER) == "true")
        if self._gate.behind(credentials):
            caught_up = asyncio.Event()
            self._gate.catch_up(lambda _: caught_up.set())
            await caught_up.wait()
        return credentials

    def _certified_user(self, request: web.BaseRequest) -> str:
        """The common name of the client's certificate. A browser shows it for every page that makes
        it ask, so it says nothing of a page that --cors does not name.
        """
        origin = request.headers.get("Origin")
        if request.transport is None or (origin is not None and origin not in self._cors):
            return ""
        return self.lobby.user_of(request.transport)

    def _host_allowed(self, host: str) -> bool:
        """DNS rebinding guard: `host` is the Host header, with or without port."""
        if "*" in self._hosts:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # Brackets without an address, letters that no name has.
            return False
        return name.lower() in self._hosts

    def _cors_headers(self, request: web.BaseRequest) -> dict[str, str]:
        if "*" in self._cors:
            return CORS
        origin = request.headers.get("Origin", "")
        if origin and origin in self._cors:
            return {**CORS, "Access-Control-Allow-Origin": origin}
        return {}


def _connections_max() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - RESERVED_FILES


def _keep_alive(listener: Any) -> None:
    """Connections inherit it from the socket that accepts them."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


_GRPC = {"Grpc-Metadata-Content-Type": "application/grpc"}


def _refused(told: Refusal, cors: Mapping[str, str]) -> web.Response:
    headers = {"Content-Type": "application/json", **cors}
    if told.status == 401:
        headers["WWW-Authenticate"] = told.text
    return web.Response(status=told.status, body=told.body(), headers=headers)
