"""Who publishes: calls of the API over HTTP, each repeated until it is answered, and the ingest stream in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import hiredis
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from . import wire
from .history import History
from .network import Network
from .nodes import API_KEY, REDIS_PORT
from .requests import OnAnswer, send
from .world import Process, World

#: How often a call is tried.
TRIES = 40


class Publisher:
    """A program that publishes over the API.

    Args:
        choose: chooses a node: its name and host; None where there is none.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        history: History,
        name: str,
        choose: Callable[[], tuple[str, str] | None],
        number: int,
    ) -> None:
        self.world = world
        self.name = name
        self._network = network
        self._history = history
        self._choose = choose
        self.process = Process(world, name, f"10.0.3.{number}")

    def call(self, what: str, method: str, path: str, body: Any, then: OnAnswer | None = None) -> None:
        """Make a call, and again while it is not known to have happened, or not to."""
        self.process.later(0, self._attempt, what, method, path, body, then, 1)

    def _attempt(self, what: str, method: str, path: str, body: Any, then: OnAnswer | None, tries: int) -> None:
        def again() -> None:
            if tries < TRIES:
                pause = self.world.chance.uniform(0.1, 1.0)
                self.process.later(pause, self._attempt, what, method, path, body, then, tries + 1)

        chosen = self._choose()
        if chosen is None:
            again()
            return
        name, host = chosen
        number = self._history.call(self.name, name, what, body if body is not None else path)

        def on_answer(status: int, answer: Any) -> None:
            if status in (200, 201):
                failed = self._note_done(number, answer)
                if failed:
                    again()
                elif then is not None:
                    then(status, answer)
            elif status == 0:
                self._history.unknown(number, "lost")
                again()
            else:
                code = answer["error"]["code"] if answer and "error" in answer else str(status)
                self._history.refused(number, code)
                if status in (503, 429, 500):
                    again()
                elif then is not None:
                    then(status, answer)

        send(self._network, self.process, host, wire.request(method, path, body, API_KEY), on_answer)

    def _note_done(self, number: int, answer: Any) -> bool:
        """Write the answer down; return whether a part of it failed."""
        results = answer.get("results") if isinstance(answer, dict) else None
        failed = [each["error"]["code"] for each in results or () if "error" in each]
        if failed:
            self._history.refused(number, failed[0])
            return True
        self._history.done(number, answer)
        return False

    # -- calls --------------------------------------------------------------------------------------------------------

    def notify(self, user: str, key: str, **more: Any) -> None:
        body = {"userId": user, "messageId": key, "data": {"title": key, "message": user, "level": "info"}, **more}
        self.call("notify", "POST", "/api/notify", body)

    def publish(self, channel: str, key: str, without: str = "") -> None:
        body = {"channel": channel, "messageId": key, "data": {"key": key}} | (
            {"excludeUser": without} if without else {}
        )
        self.call("publish", "POST", "/api/publish", body)

    def read(self, what: str, path: str, **query: str) -> None:
        """Read something at the end; the answer is part of the history."""
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        self.call(what, "GET", f"{path}?{words}" if words else path, None)


class Worker:
    """A program with one task, from its creation to its end; without one it stops before."""

    def __init__(self, publisher: Publisher, task: str, user: str, steps: list[int], end: str) -> None:
        self._publisher = publisher
        self._task = task
        self._steps = list(steps)
        self._end = end
        publisher.call(
            "task.create", "POST", "/api/tasks", {"taskId": task, "userId": user, "title": task}, self._created
        )

    def _created(self, status: int, answer: Any) -> None:
        # A repeat of what happened is a conflict.
        self._next()

    def _next(self) -> None:
        world = self._publisher.world
        self._publisher.process.later(world.chance.uniform(0.05, 0.8), self._step)

    def _step(self) -> None:
        path = f"/api/tasks/{quote(self._task)}"
        if self._steps:
            body: dict[str, Any] = {"percentage": self._steps.pop(0), "message": self._task}
            self._publisher.call("task.progress", "POST", f"{path}/progress", body, lambda status, answer: self._next())
        elif self._end:
            body = {"complete": {"result": self._task}, "fail": {"error": self._task}, "cancel": {}}[self._end]
            self._publisher.call(f"task.{self._end}", "POST", f"{path}/{self._end}", body)


class Ingester(Protocol):
    """A program that leaves commands in Redis' stream, one after another; it waits for each entry's id."""

    transport: Any

    def __init__(
        self, world: World, network: Network, history: History, where: Callable[[], str], name: str, channel: str
    ) -> None:
        """``where``: returns the host of Redis."""
        self._network = network
        self._where = where
        self._history = history
        self._name = name
        self._channel = channel
        self.process = Process(world, name, "10.0.4.1")
        self._reader = hiredis.Reader()
        self._made = 0
        self._waiting: list[int] = []
        self._up = False
        self.transport = None

    def add(self, keyed: bool) -> None:
        """Leave one more command; ``keyed``: with a ``messageId`` of its own."""
        self.process.later(0, self._add, keyed)

    def _add(self, keyed: bool) -> None:
        if not self._up:
            self._network.connect(self.process, (self._where(), REDIS_PORT), lambda address: self, self._failed)
            self._up = True
        if self.transport is None:
            # Until the connection stands nothing can be left: what was meant for now is given up.
            self.process.later(0.05, self._write, keyed)
        else:
            self._write(keyed)

    def drop(self) -> None:
        """Leave this Redis: another one is the master."""
        if self.transport is not None:
            self.transport.cut()

    def _failed(self, failure: Failure) -> None:
        self._up = False

    def _write(self, keyed: bool) -> None:
        if self.transport is None:
            return
        self._made += 1
        params: dict[str, Any] = {"channel": self._channel, "data": {"n": self._made}}
        if keyed:
            params["messageId"] = f"{self._name}-{self._made}"
        number = self._history.call(self._name, "redis", "ingest", params)
        self._waiting.append(number)
        command = json.dumps({"method": "publish", "params": params})
        self.transport.write(hiredis.pack_command(("XADD", "push:ingest", "*", "cmd", command)))

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            number = self._waiting.pop(0)
            if isinstance(reply, bytes):
                self._history.done(number, {"entry": reply.decode()})
            else:
                self._history.refused(number, str(reply))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._up = False
        self.transport = None
        self._reader = hiredis.Reader()
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            self._history.unknown(number, "lost")
