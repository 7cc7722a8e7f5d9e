"""A client that says what a test tells it to, and waits for what it expects, with deadlines."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.harness import Server

PATIENCE = 30.0

Message = dict[str, Any]


class Talk:
    """One connection. Everything that came is in `received`, in its order."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(
            connect(url, open_timeout=patience, close_timeout=2, max_size=None, compression=None)
        )
        self._patience = patience
        self._ids = itertools.count(1)
        self.received: list[Message] = []
        self.welcome: Message = {}

    def send_message(self, type: str, id: int | None = None, **data: Any) -> None:
        self._socket.send(json.dumps({"type": type, "data": data} | ({} if id is None else {"id": id})))

    def _next(self, end: float) -> Message:
        message: Message = json.loads(self._socket.recv(timeout=max(0.01, end - time.monotonic())))
        self.received.append(message)
        return message

    def until(self, what: Callable[[Message], Any]) -> Message:
        """The first message that fits, of those that came already and those that come."""
        end = time.monotonic() + self._patience
        for message in self.received:
            if what(message):
                return message
        while True:
            try:
                message = self._next(end)
            except TimeoutError:
                raise AssertionError(f"it did not come; what came: {self.received[-10:]}") from None
            if what(message):
                return message

    def push(self, type: str, **data: Any) -> Message:
        """A push of this type whose data has these values."""
        return self.until(
            lambda m: m["type"] == type and all(m.get("data", {}).get(name) == value for name, value in data.items())
        )

    def ask(self, type: str, **data: Any) -> Message:
        """A request and its reply."""
        number = next(self._ids)
        self.send_message(type, number, **data)
        return self.until(lambda m: m.get("id") == number)

    def barrier(self) -> None:
        """Whatever was sent to this connection before has come once this returns."""
        self.ask("ping")

    def count(self, what: Callable[[Message], Any]) -> int:
        self.barrier()
        return sum(1 for message in self.received if what(message))

    def closed(self) -> int:
        """Waits for the close; its code."""
        end = time.monotonic() + self._patience
        with pytest.raises(ConnectionClosed) as caught:
            self._drain(end)
        assert caught.value.rcvd is not None, "the connection broke"
        return caught.value.rcvd.code

    def _drain(self, end: float) -> None:
        while True:
            self._next(end)

    def leave(self) -> None:
        self._stack.close()

    def abort(self) -> None:
        """Ends without a word."""
        self._socket.socket.close()


class Talks:
    """The connections of one test; all end with it."""

    def __init__(self) -> None:
        self._open: list[Talk] = []

    def __call__(self, server: Server, user: str, *channels: str, **claims: Any) -> Talk:
        """A user's connection, signed in and subscribed."""
        talk = self.guest(server)
        talk.welcome = talk.ask("auth", token=server.token(user, **claims))
        assert talk.welcome["type"] == "auth_success", talk.welcome
        if channels:
            said = talk.ask("subscribe", channels=list(channels))["data"]
            assert not said["rejected"], said
        return talk

    def guest(self, server: Server) -> Talk:
        talk = Talk(server.ws_url)
        self._open.append(talk)
        return talk

    def end(self) -> None:
        for talk in self._open:
            talk.leave()


@contextmanager
def talking() -> Iterator[Talks]:
    talks = Talks()
    try:
        yield talks
    finally:
        talks.end()


def becomes(what: Callable[[], Any], expected: Any, deadline: float = 30.0) -> None:
    """Asks until the answer is the expected one."""
    end = time.monotonic() + deadline
    answer = what()
    while answer != expected:
        if time.monotonic() > end:
            pytest.fail(f"still {answer!r}, not {expected!r}")
        time.sleep(0.03)
        answer = what()
