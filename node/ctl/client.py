"""HTTP/JSON calls to members: endpoints in turn, deadlines, TLS, tokens."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

UNKNOWN, UNAVAILABLE = 2, 14
DEADLINE = "context deadline exceeded"

STALE = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")
"""What a member says to a token that was good once: a new one helps."""

RETRY_SECONDS = (0.05, 1.0)
"""First and longest pause before a broken stream is opened again; a new leader takes about 1 s."""


class CallError(Exception):
    """A call that was answered with an error; `message` is the server's."""

    def __init__(self, message: str, status: int, code: int = UNKNOWN) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class Unreachable(CallError):
    """No answer from any endpoint in time; a write may have happened all the same."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(f"{DEADLINE} ({'; '.join(reasons)})", 0, 4)


class AuthenticationFailed(CallError):
    """Name and password were not taken."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to reach the cluster. `command_seconds` None: as long as it takes."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    command_seconds: float | None = 5.0
    dial_seconds: float = 2.0
    keepalive_idle: float = 2.0
    keepalive_seconds: float = 6.0
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    skip_verify: bool = False
    user: str = ""
    password: str = field(default="", repr=False)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64(text: str) -> bytes:
    return base64.b64decode(text)


class Address(NamedTuple):
    """Where an endpoint is, and what every request to it must carry."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    headers: dict[str, str]


class Exchange(NamedTuple):
    """A request that was sent, and the answer that begins to come."""

    connection: http.client.HTTPConnection
    sock: socket.socket
    response: http.client.HTTPResponse


class Client:
    """Calls to whichever endpoint answers, in the order given. Raises CallError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tokens: dict[str, str] = {}

    def patient(self) -> Client:
        """The same client without a deadline."""
        other = Client(replace(self.settings, command_seconds=None))
        other._tokens = self._tokens
        return other

    def only_first(self) -> Client:
        """The same client with the first of its endpoints."""
        other = Client(replace(self.settings, endpoints=self.settings.endpoints[:1]))
        other._tokens = self._tokens
        return other

    def call(self, path: str, body: Mapping[str, Any], endpoint: str | None = None) -> Any:
        """The answer to one call, from `endpoint` or the first of all that can be connected to."""
        try:
            return self._call(path, body, endpoint)
        except CallError as error:
            if not self.forgets(error.message):
                raise
        return self._call(path, body, endpoint)

    def forgets(self, message: str) -> bool:
        """Whether an error was about a token, which is then forgotten: it is worth a second try."""
        if not self._tokens or not any(text in message for text in STALE):
            return False
        self._tokens.clear()
        return True

    def _call(self, path: str, body: Mapping[str, Any], endpoint: str | None) -> Any:
        sent = self._request(path, [body], endpoint, self.settings.command_seconds)
        try:
            return _checked(sent.response.status, sent.response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable([_reason(sent.connection.host, error)]) from error
        finally:
            sent.connection.close()

    def stream(
        self, path: str, body: Mapping[str, Any], endpoint: str | None = None
    ) -> Iterator[Any]:
        """The messages of a streaming call, one by one."""
        with self.open(path, [body], endpoint, self.settings.command_seconds) as messages:
            yield from messages

    def open(
        self,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        endpoint: str | None,
        first_seconds: float | None,
    ) -> Stream:
        """Begin a streaming call whose requests are all known: the gateway is half duplex.

        The first message has `first_seconds` to come, further ones as long as they take.
        """
        try:
            return self._open(path, bodies, endpoint, first_seconds)
        except CallError as error:
            if not self.forgets(error.message):
                raise
        return self._open(path, bodies, endpoint, first_seconds)

    def _open(
        self,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        endpoint: str | None,
        first_seconds: float | None,
    ) -> Stream:
        sent = self._request(path, bodies, endpoint, first_seconds)
        if sent.response.status != http.client.OK:
            with closing(sent.connection):
                try:
                    _checked(sent.response.status, sent.response.read())
                except (OSError, http.client.HTTPException) as error:
                    raise Unreachable([_reason(sent.connection.host, error)]) from error
        return Stream(sent)

    def page(self, path: str, endpoint: str) -> bytes:
        """What a member shows at a plain path."""
        limit = self.settings.command_seconds
        deadline = time.monotonic() + limit if limit is not None else None
        try:
            connection = self._connect(endpoint, deadline)
            with closing(connection):
                connection.request("GET", path)
                response = connection.getresponse()
                if response.status != http.client.OK:
                    raise CallError(f"HTTP status {response.status}", response.status)
                return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable([_reason(endpoint, error)]) from error

    def address(self, endpoint: str) -> Address:
        """What it takes to speak to an endpoint without this client."""
        host, port, secure = self._place(endpoint)
        headers = self._headers("kv/put", endpoint)
        return Address(host, port, self._tls() if secure else None, headers)

    def _place(self, endpoint: str) -> tuple[str, int, bool]:
        """Host, port, and whether TLS is spoken there."""
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        secure = parts.scheme == "https" or (not parts.scheme and self._has_tls())
        return parts.hostname or "127.0.0.1", parts.port or 2379, secure

    def _request(
        self,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        endpoint: str | None,
        limit: float | None,
    ) -> Exchange:
        """Send one request. Another endpoint is tried only if nothing can have reached this one."""
        deadline = time.monotonic() + limit if limit is not None else None
        reasons = []
        for candidate in [endpoint] if endpoint else self.settings.endpoints:
            try:
                connection = self._connect(candidate, deadline)
            except OSError as error:
                reasons.append(_reason(candidate, error))
                continue
            try:
                text = "\n".join(map(json.dumps, bodies))
                connection.request("POST", f"/v3/{path}", text, self._headers(path, candidate))
                # What a connection forgets with an answer that is its last.
                sock = connection.sock
                return Exchange(connection, sock, connection.getresponse())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise Unreachable([_reason(candidate, error)]) from error
            except CallError:  # no token
                connection.close()
                raise
        raise Unreachable(reasons)

    def _connect(self, endpoint: str, deadline: float | None) -> http.client.HTTPConnection:
        host, port, secure = self._place(endpoint)
        left = deadline - time.monotonic() if deadline is not None else None
        dial = self.settings.dial_seconds if left is None else min(self.settings.dial_seconds, left)
        if dial <= 0:
            raise TimeoutError("no time left")
        connection = (
            http.client.HTTPSConnection(host, port, timeout=dial, context=self._tls())
            if secure
            else http.client.HTTPConnection(host, port, timeout=dial)
        )
        connection.connect()
        connection.sock.settimeout(left)
        self._keep_alive(connection.sock)
        return connection

    def _keep_alive(self, sock: socket.socket) -> None:
        """Let the kernel find out that a silent peer is gone: streams have no deadline."""
        idle, wait = (
            max(1, round(seconds))
            for seconds in (self.settings.keepalive_idle, self.settings.keepalive_seconds / 3)
        )
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, wait)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)

    def _has_tls(self) -> bool:
        settings = self.settings
        return bool(settings.ca_file or settings.cert_file or settings.skip_verify)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.settings.ca_file or None)
        if self.settings.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.settings.cert_file:
            context.load_cert_chain(self.settings.cert_file, self.settings.key_file or None)
        return context

    def _headers(self, path: str, endpoint: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if path == "watch":
            # A member cut off from the others would keep a watch open and have nothing to say.
            headers["Grpc-Metadata-hasleader"] = "true"
        if self.settings.user and path != "auth/authenticate":
            if endpoint not in self._tokens:
                self._tokens[endpoint] = self._authenticated(endpoint)
            if self._tokens[endpoint]:
                headers["Authorization"] = self._tokens[endpoint]
        return headers

    def token(self, endpoint: str) -> str:
        """A token that is good at one endpoint; empty while there is no authentication."""
        return self._headers("", endpoint).get("Authorization", "")

    def _authenticated(self, endpoint: str) -> str:
        body = {"name": self.settings.user, "password": self.settings.password}
        try:
            token: str = self._call("auth/authenticate", body, endpoint)["token"]
        except Unreachable:
            raise
        except CallError as error:
            if error.message == "etcdserver: authentication is not enabled":
                return ""
            raise AuthenticationFailed(error.message, error.status, error.code) from error
        return token


class Stream:
    """The messages of a streaming call; another thread may cut it off, which ends the iteration.

    Raises CallError for a message that is an error, Unreachable when the connection broke. An
    iteration that ends may also be a member that went down: only the caller knows what was due.
    """

    def __init__(self, sent: Exchange) -> None:
        self._sent = sent

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._sent.response.close()
        self._sent.connection.close()

    def __iter__(self) -> Iterator[Any]:
        connection, sock, response = self._sent
        try:
            for line in response:
                message = json.loads(line)
                if "error" in message:
                    raise _error(message, response.status)
                sock.settimeout(None)
                yield message["result"]
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable([_reason(connection.host, error)]) from error

    def cut(self) -> None:
        """End it from another thread."""
        with suppress(OSError):  # it has ended by itself
            self._sent.sock.shutdown(socket.SHUT_RDWR)


def lasting(
    client: Client,
    path: str,
    requests: Callable[[], Sequence[Mapping[str, Any]]],
    *,
    first_seconds: float | None = None,
    opened: Callable[[Stream], None] = lambda stream: None,
) -> Iterator[Any]:
    """The messages of a streaming call that is opened again, at the next endpoint, when it breaks.

    `requests` are asked for at each opening, so that the caller can say from where to go on. It
    fails only when no endpoint could be reached the first time, or with an error that a member
    answered.
    """
    endpoints = client.settings.endpoints
    turn, failures, heard = 0, 0, False
    while True:
        try:
            with client.open(path, requests(), endpoints[turn], first_seconds) as stream:
                opened(stream)
                for message in stream:
                    heard, failures = True, 0
                    yield message
        except Unreachable:
            if not heard and failures + 1 >= len(endpoints):
                raise
        except CallError as error:
            if error.code != UNAVAILABLE and not client.forgets(error.message):
                raise
        turn = (turn + 1) % len(endpoints)
        time.sleep(min(RETRY_SECONDS[0] * 2**failures, RETRY_SECONDS[1]))
        failures = min(failures + 1, 10)


def _checked(status: int, answer: bytes) -> Any:
    try:
        body = json.loads(answer)
    except ValueError as error:
        text = answer[:200].decode(errors="replace").strip() or f"HTTP status {status}"
        raise CallError(text, status) from error
    if status != http.client.OK:
        raise _error(body, status)
    return body


def _error(body: Mapping[str, Any], status: int) -> CallError:
    """An error answer, in the shape of a plain call or of a stream."""
    inner = body.get("error")
    found: Mapping[str, Any] = inner if isinstance(inner, dict) else body
    code = found.get("code", found.get("grpc_code", UNKNOWN))
    return CallError(found.get("message", f"HTTP status {status}"), status, code)


def _reason(endpoint: str, error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return f"{endpoint}: no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"{endpoint}: {error.strerror}"
    return f"{endpoint}: {error or type(error).__name__}"
