"""WebSockets: the only carrier on which a duplex stream really is one.

One text frame per JSON message each way. A client without headers of its own, which is what
browsers are, shows its token as the subprotocol after `Bearer`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import WSMessage, WSMsgType, web

from node.api.carriers import Outbox
from node.api.errors import CANCELED, OK, MalformedMessage, Refusal
from node.api.methods import Credentials, Duplex, Stream

if TYPE_CHECKING:
    from node.api.door import Lobby

# Which subprotocols a client offers is its own affair.
logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)

_BEARER = "Bearer"
_CLOSE_SECONDS = 2.0


def is_websocket(request: web.BaseRequest) -> bool:
    return request.method == "GET" and request.headers.get("Upgrade", "").lower() == "websocket"


def _offered(request: web.BaseRequest) -> list[str]:
    header = request.headers.get("Sec-WebSocket-Protocol", "")
    return [word.strip() for word in header.split(",")]


def offered_token(request: web.BaseRequest) -> str:
    """The token among the subprotocols, if there is one."""
    offered = _offered(request)
    return offered[1] if offered[0] == _BEARER and len(offered) > 1 else ""


async def opened(request: web.BaseRequest, message_bytes_max: int) -> web.WebSocketResponse:
    """The handshake; HTTPBadRequest when it is none."""
    protocols = (_BEARER,) if _BEARER in _offered(request) else ()
    socket = web.WebSocketResponse(
        protocols=protocols,
        max_msg_size=message_bytes_max,
        compress=False,
        timeout=_CLOSE_SECONDS,
    )
    await socket.prepare(request)
    return socket


async def serve_duplex(
    socket: web.WebSocketResponse, method: Duplex, credentials: Credentials, lobby: Lobby
) -> None:
    """Until either side ends it."""
    outbox = Outbox(method, credentials, lobby.message_bytes_max)

    async def listen() -> None:
        async for frame in socket:
            if frame.type is WSMsgType.ERROR:
                break  # The client broke the protocol, and was told so.
            body = _body(frame)
            lobby.received_bytes += len(body)
            await outbox.hear(body)
        outbox.leave()
        outbox.close()

    async def speak() -> None:
        async for messages in outbox:
            for message in messages:
                await _say(socket, message, lobby)
        if outbox.refusal is not None:
            await _say(socket, outbox.refusal.body(), lobby)
        elif outbox.told is not None:
            await _say(socket, outbox.told.chunk(), lobby)

    try:
        await _until_one_ends(listen(), speak())
    finally:
        outbox.close()
    await socket.close()


async def serve_stream(
    socket: web.WebSocketResponse, method: Stream, credentials: Credentials, lobby: Lobby
) -> None:
    """A server stream: the first frame is the request."""
    told: Refusal | None = Refusal(CANCELED, "")

    async def speak(body: bytes) -> None:
        nonlocal told
        try:
            request = method.decode(body)
            asker = lobby.gate.admit(method.access, credentials)
            async for message in method.serve(request, asker):
                await _say(socket, method.encode(message), lobby)
            told = None
        except ConnectionResetError:
            raise
        except Exception as error:
            told = method.refusal(error)
            unread = isinstance(error, MalformedMessage)
            await _say(socket, told.body() if unread else told.chunk(), lobby)

    async def listen() -> None:
        async for _ in socket:
            pass

    try:
        frame = await socket.receive()
        if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            await _until_one_ends(speak(_body(frame)), listen())
    finally:
        code = told.code if told is not None else OK
        method.handled[code] = method.handled.get(code, 0) + 1
    await socket.close()


def _body(frame: WSMessage) -> bytes:
    return frame.data.encode() if frame.type == WSMsgType.TEXT else bytes(frame.data)


async def _say(socket: web.WebSocketResponse, message: bytes, lobby: Lobby) -> None:
    lobby.sent_bytes += len(message)
    await socket.send_str(message.decode().removesuffix("\n"))


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends, then end the others. A client that has left is no error."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, ConnectionResetError):
            raise result
