"""Tasks that write, and readers of what they write: who joins late, is cut, and comes back with its position.

Each reader follows the documented protocol alone, and the history has all that it was told.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from . import wire
from .devices import token
from .history import History
from .network import Network
from .nodes import PORT
from .publishers import Publisher
from .world import Process, World

#: Who owns the tasks that write, and does nothing else.
OWNER = "dan"
#: What text is made of: characters of one to four bytes.
LETTERS = "ab \né漢😀"
#: Seconds until a reader that hears nothing asks whether anybody is there, and until it gives up.
PING, SILENCE = 8.0, 12.0
#: Seconds until what was refused for now is asked for again.
PATIENCE = 0.3


def texts(seed: int, task: str, count: int) -> list[str]:
    """Return what a task writes, one after another; the last comes with its end."""
    chance = random.Random(f"{seed} {task}")
    return ["".join(chance.choices(LETTERS, k=chance.randint(1, 40))) for _ in range(count)]


class Writer:
    """A worker whose task writes: each append with its producer's number, the next once it was answered."""

    def __init__(self, publisher: Publisher, task: str, texts: list[str]) -> None:
        self._publisher = publisher
        self._task = task
        self._texts = texts
        self._seq = 0
        body = {"taskId": task, "userId": OWNER, "title": task}
        publisher.call("task.create", "POST", "/api/tasks", body, lambda status, answer: self._next())

    def _next(self) -> None:
        world = self._publisher.world
        # Now and then one follows at once, so that some leave together.
        pause = world.chance.choice((0.0, 0.0, 0.02, world.chance.uniform(0.05, 0.6)))
        self._publisher.process.later(pause, self._write)

    def _write(self) -> None:
        path = f"/api/tasks/{quote(self._task)}"
        text, last = self._texts.pop(0), len(self._texts) == 0
        if last:
            end = {"taskId": self._task, "output": {"text": text}}
            self._publisher.call("task.complete", "POST", f"{path}/complete", end)
            return
        producer = {"id": "w", "epoch": 0, "seq": self._seq}
        self._seq += 1
        body = {"taskId": self._task, "text": text, "producer": producer}
        self._publisher.call("task.output", "POST", f"{path}/output", body, self._written)

    def _written(self, status: int, answer: Any) -> None:
        # Where the data went back, what was to come before is missing, or the task: whoever notices stops.
        if status == 200:
            self._next()


class _Line(Protocol):
    """A reader's connection."""

    transport: Any

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._buffer = b""
        self._open = False
        self.received_at = reader.world.now

    def connectionMade(self) -> None:
        self.transport.purpose = "device"
        self.transport.write(wire.upgrade())

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        self.received_at = self._reader.world.now
        try:
            if not self._open:
                status, _, self._buffer = wire.take_head(self._buffer)
                if status != 101:
                    self.transport.abortConnection()
                    return
                self._open = True
                self.send("auth", {"token": token(self._reader.world, OWNER)})
            while True:
                opcode, payload, self._buffer = wire.take_frame(self._buffer)
                if opcode == wire.TEXT:
                    self._reader.receive(self, json.loads(payload))
                elif opcode == wire.PING:
                    self.transport.write(wire.frame(wire.PONG, payload))
                elif opcode == wire.CLOSE:
                    self.transport.loseConnection()
        except wire.Incomplete:
            pass

    def send(self, type: str, data: Any) -> None:
        self.transport.write(wire.frame(wire.TEXT, json.dumps({"type": type, "data": data, "id": type}).encode()))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._reader.lost(self)


class Reader:
    """Who reads one output, over as many connections as it takes.

    Args:
        choose: chooses a node: its name and host; None where there is none.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        history: History,
        choose: Callable[[], tuple[str, str] | None],
        task: str,
        number: int,
    ) -> None:
        self.world = world
        self.name = f"reader-{number}"
        self.channel = f"output:main/{task}"
        self._network = network
        self._history = history
        self._choose = choose
        self._process = Process(world, self.name, f"10.0.5.{number}")
        self._line: _Line | None = None
        #: whether it is cut now and then
        self._restless = True
        self.subscribed = self.closed = False
        self.position: tuple[int, str] | None = None
        self._process.later(0, self._connect)

    def stay(self) -> None:
        """Stay, from now on."""
        self._restless = False

    def note(self) -> None:
        """Say in the history where it stands in the end."""
        self._history.note(
            "reader",
            reader=self.name,
            channel=self.channel,
            position=self.position,
            closed=self.closed,
            subscribed=self.subscribed,
        )

    def _connect(self) -> None:
        if self._line is not None:
            return
        chosen = self._choose()
        if chosen is None:
            self._again()
            return
        line = self._line = _Line(self)

        def build(address: IPv4Address) -> _Line:
            return line

        self._network.connect(self._process, (chosen[1], PORT), build, lambda failure: self.lost(line))
        self._process.later(1.0, self._watch, line)
        if self._restless:
            self._process.later(self.world.chance.uniform(0.1, 4.0), self._cut, line)

    def _cut(self, line: _Line) -> None:
        if self._line is line and self._restless and line.transport is not None:
            line.transport.cut()

    def _watch(self, line: _Line) -> None:
        if self._line is not line:
            return
        silence = self.world.now - line.received_at
        if silence >= SILENCE:
            if line.transport is None:
                self.lost(line)
            else:
                line.transport.abortConnection()
            return
        if silence >= PING and self.subscribed:
            line.send("ping", {})
        self._process.later(1.0, self._watch, line)

    def _again(self) -> None:
        self._process.later(self.world.chance.uniform(0.05, 1.0), self._connect)

    def lost(self, line: _Line) -> None:
        if self._line is line:
            self._line = None
            self.subscribed = False
            self._again()

    def _subscribe(self, line: _Line) -> None:
        if self._line is not line:
            return
        item: Any = self.channel
        if self.position is not None:
            offset, epoch = self.position
            item = {"channel": self.channel, "since": {"offset": offset, "epoch": epoch}}
        line.send("subscribe", {"channels": [item]})

    def receive(self, line: _Line, message: Any) -> None:
        if self._line is not line:
            return
        data = message.get("data")
        match message["type"]:
            case "auth_success":
                self._subscribe(line)
            case "subscription_success" if self.channel in data["results"]:
                self.subscribed = True
                told = data["results"][self.channel]["output"]
                self._take(told, told["offset"], told["epoch"], answer=True)
            case "subscription_success" | "error":
                # The task is not there yet, or nobody can say.
                self._process.later(PATIENCE, self._subscribe, line)
            case "output":
                self._take(data, message["offset"], message["epoch"], answer=False)
            case "unsubscribed":
                line.transport.abortConnection()

    def _take(self, told: Any, offset: int, epoch: str, answer: bool) -> None:
        self._history.note(
            "output",
            reader=self.name,
            channel=self.channel,
            answer=answer,
            text=told.get("text", ""),
            offset=offset,
            epoch=epoch,
            **{name: told[name] for name in ("start", "closed", "trimmed", "reset") if name in told},
        )
        self.position = (offset, epoch)
        self.closed = told.get("closed", False)
