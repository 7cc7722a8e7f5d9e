"""A whole server on the test's own reactor and a real port, so that a test can look into its rooms."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import msgspec
from twisted.internet.task import deferLater

from pushserver.app.service import PushService
from pushserver.config.checks import ApiKey, ApiSection, AuthSection, Config, ServerSection
from pushserver.server.connection import Connection
from pushserver.server.inbound import Inbound
from pushserver.web.port import PortProtocol
from pushserver.web.websocket import WebSocketDoor
from tests.harness import free_port

SECRET = "a secret of the tests, long enough for any HS algorithm that there is"
API_KEY = "an-api-key-of-the-tests"


def token(user: Any = "42", secret: str | bytes = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token; a claim given as None is left out."""
    now = int(time.time())
    payload = {"sub": user, "iat": now, "exp": now + 3600, **claims}
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, algorithm)


def _objects() -> list[Any]:
    kinds = (Connection, Inbound, PortProtocol, WebSocketDoor)
    return [one for one in gc.get_objects() if issubclass(type(one), kinds)]


class Inside:
    """A running server, and what it remembers."""

    def __init__(self, service: PushService, port: int) -> None:
        # A failed test before this one may hold some in its traceback.
        self._known = {id(one) for one in _objects()}
        self.service = service
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/ws"

    def remembered(self) -> dict[str, Any]:
        """What the rooms hold of connections; empty where none is there."""
        node, doors = self.service.node, self.service._doors
        held = {
            "connections": dict(node.hub.connections),
            "users": dict(node.hub.users),
            "channels": dict(node.hub.channels),
            "unfinished heads": doors.waiting,
            "alarms": len(node.heartbeat.wheel),
            "sockets": node.counters.sockets,
            "streams": dict(doors.posts._takes),
            "places": len(doors.context.limits.places),
            "bodies": doors.context.limits.bodies.held,
            "feeds": dict(node.tasks._feeds),
        }
        return {name: what for name, what in held.items() if what}

    def objects(self) -> list[Any]:
        """The objects of connections that are still alive, anywhere in the process."""
        gc.collect()
        return [one for one in _objects() if id(one) not in self._known]

    async def until(self, what: Callable[[], Any], instead: Callable[[], Any] = str, deadline: float = 30.0) -> Any:
        """The first true answer; fails after ``deadline`` seconds, and shows what there is ``instead``."""
        from twisted.internet import reactor

        end = time.monotonic() + deadline
        while True:
            answer = what()
            if answer:
                return answer
            assert time.monotonic() < end, instead()
            await deferLater(reactor, 0.005)

    async def turn(self) -> None:
        """Some turns of the reactor."""
        from twisted.internet import reactor

        await deferLater(reactor, 0.01)

    async def empty(self) -> None:
        """Fails unless soon nothing is left of any connection."""
        await self.until(lambda: not self.remembered(), self.remembered)
        await self.until(lambda: not self.objects(), self.objects)


@asynccontextmanager
async def running(
    place: Path, port: int | None = None, also: Sequence[str] = (), **sections: Any
) -> AsyncIterator[Inside]:
    """A server with these sections in its configuration, beside a secret and an API key of the tests. ``also``: other
    endpoints that it listens on."""
    from twisted.internet import reactor

    port = free_port() if port is None else port
    server = msgspec.structs.replace(
        sections.pop("server", ServerSection()),
        listen=(f"tcp:{port}:interface=127.0.0.1", *also),
        state_dir=str(place / "state"),
    )
    auth = sections.pop("auth", AuthSection())
    if not auth.verifies:
        auth = msgspec.structs.replace(auth, secret=SECRET)
    api = sections.pop("api", ApiSection(keys=(ApiKey(API_KEY),)))
    service = PushService(reactor, Config(server=server, auth=auth, api=api, **sections))
    service.startService()
    try:
        await service._starting
        yield Inside(service, port)
    finally:
        await service.stopService()
