"""A duplex method whose sessions write down what happens to them."""

from __future__ import annotations

import json
from typing import Any

from node.api.errors import MalformedMessage
from node.api.methods import Credentials, Duplex, Sink


class Echo:
    """Answers each message with itself; one with a "raise" is an error, "finish" ends."""

    def __init__(self, sink: Sink, credentials: Credentials) -> None:
        self.sink = sink
        self.credentials = credentials
        self.happened: list[Any] = []

    def receive(self, message: Any) -> None:
        self.happened.append(message)
        if "raise" in message:
            raise message["raise"]
        if "finish" in message:
            self.sink.finish(message["finish"])
        else:
            self.sink.send([b'{"result":%b}\n' % json.dumps(message).encode()])

    def end_of_input(self) -> None:
        self.happened.append("end")

    def resume(self) -> None:
        self.happened.append("resume")

    def close(self) -> None:
        self.happened.append("close")


class EchoMethod(Duplex):
    """`sessions` are all that were opened; `refuses` is raised instead, `raises` by a message."""

    def __init__(self) -> None:
        super().__init__("Echo/Echo", self._read, self._open)
        self.sessions: list[Echo] = []
        self.refuses: Exception | None = None
        self.raises: Exception | None = None

    def _read(self, body: bytes) -> Any:
        try:
            message = json.loads(body)
        except ValueError as error:
            raise MalformedMessage(str(error)) from None
        if not isinstance(message, dict):
            raise MalformedMessage("no object")
        if message.get("n") == "raise":
            return {"raise": self.raises}
        return {"finish": None} if message.get("n") == "finish" else message

    def _open(self, sink: Sink, credentials: Credentials) -> Echo:
        if self.refuses is not None:
            raise self.refuses
        self.sessions.append(Echo(sink, credentials))
        return self.sessions[-1]

    @property
    def happened(self) -> list[Any]:
        (session,) = self.sessions
        return session.happened
