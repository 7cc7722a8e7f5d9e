"""Many clients in one process, each with a room that has a history: they come back as they are told to, and note what
they missed and how often they had to move."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.loopback import source

#: Clients that connect at a time, at the beginning.
AT_ONCE = 50
#: Seconds that one waits for an answer, and until it tries to connect once more.
PATIENCE, AGAIN = 60.0, 0.2
#: The close code of a server that sends its clients elsewhere.
SHUTDOWN = 3001

NAMESPACE = """
[[namespaces]]
name = "room"
history_size = 5000
history_ttl = "1h"
"""


class Crowd:
    """The clients, in an event loop of a thread of its own, from `start` to the end of the block.

    Args:
        url: where they connect, as it is at that moment.
        secret: what their tokens are signed with.
    """

    def __init__(
        self, url: Callable[[], str], secret: str, clients: int, rooms: int, tls: ssl.SSLContext | None = None
    ) -> None:
        self._url = url
        self._secret = secret
        self._clients = clients
        self._rooms = rooms
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        #: by client: how often it was sent elsewhere
        self.moves: Counter[int] = Counter()
        #: by client that is connected: its node
        self.nodes: dict[int, str] = {}
        self.received = 0
        #: connections that failed or ended in another way than by being sent elsewhere
        self.failed: list[str] = []
        #: what came out of turn, or was said to be lost
        self.missing: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def all_here(self) -> bool:
        return len(self.nodes) == self._clients

    def _begin(self) -> None:
        self._tasks = [self._loop.create_task(self._live(number)) for number in range(self._clients)]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _live(self, number: int) -> None:
        position: dict[str, Any] = {}
        while True:
            pause = AGAIN
            try:
                async with self._slots:
                    socket = await self._connect(number)
                async with socket:
                    pause = await self._follow(number, socket, position)
            except (OSError, WebSocketException, TimeoutError) as problem:
                self.failed.append(f"client {number}: {problem!r}")
            finally:
                self.nodes.pop(number, None)
            await asyncio.sleep(pause)

    async def _connect(self, number: int) -> Any:
        return await connect(
            self._url(), ssl=self._tls, local_addr=(source(number), 0), open_timeout=PATIENCE, ping_interval=None,
            compression=None, max_size=None, close_timeout=5,
        )  # fmt: skip

    async def _follow(self, number: int, socket: Any, position: dict[str, Any]) -> float:
        """Sign in and follow the room until the connection is closed; return how long to stay away, s."""
        room = f"room:{number % self._rooms}"
        wanted = {"channel": room} | ({"since": dict(position)} if position else {})
        now = int(time.time())
        token = jwt.encode({"sub": f"u{number}", "iat": now, "exp": now + 7200}, self._secret, "HS256")
        away = 0.0
        await socket.send(json.dumps({"type": "auth", "id": 1, "data": {"token": token}}))
        await socket.send(json.dumps({"type": "subscribe", "id": 2, "data": {"channels": [wanted]}}))
        node = ""
        try:
            while True:
                # An idle client waits for as long as it takes.
                message = json.loads(await socket.recv())
                match message["type"]:
                    case "auth_success":
                        node = message["data"]["node"]
                    case "subscription_success":
                        self._begun(number, room, message["data"]["results"][room], position)
                        self.nodes[number] = node
                    case "going_away":
                        away = message["data"]["reconnectAfter"] / 1000
                    case "message" if message["channel"] == room:
                        self._take(number, message, position)
                    case "auth_failed" | "error" | "resync" | "unsubscribed":
                        self.missing.append(f"client {number}: {message}")
        except ConnectionClosed as closed:
            code = None if closed.rcvd is None else closed.rcvd.code
            if code != SHUTDOWN:
                raise
        self.moves[number] += 1
        return away

    def _begun(self, number: int, room: str, result: dict[str, Any], position: dict[str, Any]) -> None:
        if position and not result["recovered"]:
            self.missing.append(f"client {number}: {room} is not recovered from {position}")
            position.clear()
        for message in result["messages"]:
            self._take(number, message, position)
        position.update(offset=result["offset"], epoch=result["epoch"])

    def _take(self, number: int, message: dict[str, Any], position: dict[str, Any]) -> None:
        self.received += 1
        if position and message["offset"] != position["offset"] + 1:
            self.missing.append(f"client {number}: {message['offset']} after {position['offset']}")
        position.update(offset=message["offset"], epoch=message["epoch"])
