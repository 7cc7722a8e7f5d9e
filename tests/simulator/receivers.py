"""Who takes events: a webhook's receiver, which fails a third of them once, and notes what it sees."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from . import wire
from .history import History
from .network import Network
from .world import Process, World

HOST, PORT = "10.0.6.1", 9000
#: Seconds that the sender waits, and more than that.
PATIENCE = 2
TOO_LATE = 3.0

#: What a run with events adds to the nodes' configuration.
SETTINGS: dict[str, Any] = {
    "types": ["message.published", "task.finished"],
    "webhooks": [
        {
            "name": "backend",
            "url": f"http://{HOST}:{PORT}/",
            "secret": "whsec_" + "c2ltdWxhdG9y" * 3,
            "timeout": f"{PATIENCE}s",
        }
    ],
}


class EventReceiver(Factory):
    """A program that listens for events. ``well``: it fails none any more."""

    noisy = False

    def __init__(self, world: World, network: Network, history: History) -> None:
        self.world = world
        self.history = history
        self.process = Process(world, "receiver", HOST)
        self.well = False
        self.attempts = 0
        #: events that were failed
        self.failed: set[str] = set()
        network.listen(self.process, PORT, self)

    def buildProtocol(self, addr: object) -> _Session:
        return _Session(self)

    def answer(self, event_id: str) -> str:
        """Return what an attempt is answered."""
        if self.well or event_id in self.failed or self.world.chance.random() > 1 / 3:
            return "taken"
        self.failed.add(event_id)
        return self.world.chance.choice(("503", "nothing", "late"))


class _Session(Protocol):
    """A connection; one request after another."""

    transport: Any

    def __init__(self, receiver: EventReceiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        #: the number of the attempt that is not answered yet
        self._attempt = 0

    def connectionMade(self) -> None:
        self.transport.purpose = "events"

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        try:
            event, self._buffer = wire.take_request(self._buffer)
        except wire.Incomplete:
            return
        self._begin(event)

    def _begin(self, event: Any) -> None:
        receiver, chance = self._receiver, self._receiver.world.chance
        receiver.attempts += 1
        self._attempt = receiver.attempts
        data = event["data"]
        subject = data["taskId"] if event["type"] == "task.finished" else data["channel"]
        receiver.history.note(
            "attempt", attempt=self._attempt, id=event["id"], type=event["type"], subject=subject, data=data
        )
        answer = receiver.answer(event["id"])
        seconds = TOO_LATE if answer == "late" else chance.uniform(0, 0.3)
        receiver.process.later(seconds, self._end, self._attempt, answer)

    def _end(self, attempt: int, answer: str) -> None:
        if self._attempt != attempt:
            # The sender has hung up.
            return
        self._attempt = 0
        self._receiver.history.note("attempt_over", attempt=attempt, answer=answer)
        if answer == "nothing":
            self.transport.abortConnection()
            return
        status = b"503 Service Unavailable" if answer == "503" else b"200 OK"
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        attempt, self._attempt = self._attempt, 0
        if attempt:
            self._receiver.history.note("attempt_over", attempt=attempt, answer="hung up")
