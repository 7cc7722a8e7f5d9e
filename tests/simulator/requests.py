"""One HTTP request, on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from . import wire
from .network import Network
from .nodes import PORT
from .world import Process

#: Seconds that a request may take.
PATIENCE = 8.0

#: A request's end: the status, 0 where no answer came, and the body.
OnAnswer = Callable[[int, Any], None]


class Request(Protocol):
    """One request, on a connection of its own."""

    transport: Any

    def __init__(self, octets: bytes, on_answer: OnAnswer) -> None:
        self._octets = octets
        self._buffer = b""
        self.on_answer: OnAnswer | None = on_answer

    def connectionMade(self) -> None:
        self.transport.purpose = "api"
        self.transport.write(self._octets)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        try:
            status, body = wire.take_answer(self._buffer)
        except wire.Incomplete:
            return
        self.end(status, body)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end(0, None)

    def end(self, status: int, body: Any) -> None:
        on_answer, self.on_answer = self.on_answer, None
        if on_answer is None:
            return
        if self.transport is not None:
            self.transport.abortConnection()
        on_answer(status, body)


def send(network: Network, process: Process, host: str, octets: bytes, on_answer: OnAnswer) -> None:
    """Send a request to a node; ``on_answer`` is called once."""
    request = Request(octets, on_answer)

    def build(address: IPv4Address) -> Request | None:
        return request if request.on_answer is not None else None

    network.connect(process, (host, PORT), build, lambda failure: request.end(0, None))
    process.later(PATIENCE, request.end, 0, None)
