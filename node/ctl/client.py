"""HTTP/JSON calls to members: endpoints in turn, deadlines, TLS, tokens."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

UNKNOWN = 2
DEADLINE = "context deadline exceeded"


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to reach the cluster. `command_seconds` None: as long as it takes."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    command_seconds: float | None = 5.0
    dial_seconds: float = 2.0
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


class Client:
    """Calls to whichever endpoint answers, in the order given. Raises CallError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tokens: dict[str, str] = {}

    def call(self, path: str, body: Mapping[str, Any], endpoint: str | None = None) -> Any:
        """The answer to one call, from `endpoint` or the first of all that can be connected to."""
        connection, response = self._request(path, body, endpoint)
        try:
            return _checked(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable([_reason(connection.host, error)]) from error
        finally:
            connection.close()

    def stream(self, path: str, body: Mapping[str, Any], endpoint: str) -> Iterator[Any]:
        """The messages of a streaming call, one by one."""
        connection, response = self._request(path, body, endpoint)
        try:
            if response.status != http.client.OK:
                _checked(response.status, response.read())
            for line in response:
                message = json.loads(line)
                if "error" in message:
                    error = message["error"]
                    raise CallError(error.get("message", ""), 200, error.get("code", UNKNOWN))
                yield message["result"]
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unreachable([_reason(endpoint, error)]) from error
        finally:
            connection.close()

    def _request(
        self, path: str, body: Mapping[str, Any], endpoint: str | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send one request. Another endpoint is tried only if nothing can have reached this one."""
        limit = self.settings.command_seconds
        deadline = time.monotonic() + limit if limit is not None else None
        reasons = []
        for candidate in [endpoint] if endpoint else self.settings.endpoints:
            try:
                connection = self._connect(candidate, deadline)
            except OSError as error:
                reasons.append(_reason(candidate, error))
                continue
            try:
                headers = self._headers(path, candidate)
                connection.request("POST", f"/v3/{path}", json.dumps(body), headers)
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise Unreachable([_reason(candidate, error)]) from error
        raise Unreachable(reasons)

    def _connect(self, endpoint: str, deadline: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        host, port = parts.hostname or "127.0.0.1", parts.port or 2379
        secure = parts.scheme == "https" or (not parts.scheme and self._has_tls())
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
        return connection

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
        if self.settings.user and path != "auth/authenticate":
            if endpoint not in self._tokens:
                body = {"name": self.settings.user, "password": self.settings.password}
                self._tokens[endpoint] = self.call("auth/authenticate", body, endpoint)["token"]
            headers["Authorization"] = self._tokens[endpoint]
        return headers


def _checked(status: int, answer: bytes) -> Any:
    try:
        body = json.loads(answer)
    except ValueError as error:
        text = answer[:200].decode(errors="replace").strip() or f"HTTP status {status}"
        raise CallError(text, status) from error
    if status != http.client.OK:
        raise CallError(body.get("message", f"HTTP status {status}"), status, body.get("code", 2))
    return body


def _reason(endpoint: str, error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return f"{endpoint}: no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"{endpoint}: {error.strerror}"
    return f"{endpoint}: {error or type(error).__name__}"
