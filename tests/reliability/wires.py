"""The way of a node to Redis, of which single connections can be hurt; in an event loop of a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

#: The directions: what the node sends, and what Redis does.
TO_REDIS, FROM_REDIS = "to Redis", "from Redis"


class Wire:
    """One connection."""

    def __init__(self, outer: asyncio.StreamWriter, inner: asyncio.StreamWriter) -> None:
        self._ends = (outer, inner)
        #: whether the node subscribes on it
        self.subscribes = False
        #: the directions in which nothing arrives any more, though nobody is told so
        self.dead: set[str] = set()
        #: whether it ends in the midst of the next reply
        self.ends_in_reply = False
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def end(self) -> None:
        for each in self._ends:
            each.transport.abort()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                self.subscribes = self.subscribes or (direction == TO_REDIS and b"SUBSCRIBE" in data)
                await self._open.wait()
                if direction in self.dead:
                    continue
                if direction == FROM_REDIS and self.ends_in_reply and len(data) > 1:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        self.end()


class Wires:
    """Listens on a port of its own, and passes on to Redis'.

    Attributes:
        port: where it listens.
        hurt: how many connections were hurt so far.
    """

    def __init__(self, redis_port: int) -> None:
        self._redis_port = redis_port
        self._wires: set[Wire] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: asyncio.Server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.hurt = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _accept(self, reader: asyncio.StreamReader, outer: asyncio.StreamWriter) -> None:
        try:
            answers, inner = await asyncio.open_connection("127.0.0.1", self._redis_port)
        except OSError:
            outer.transport.abort()
            return
        wire = Wire(outer, inner)
        self._wires.add(wire)
        try:
            await asyncio.gather(
                wire.pass_on(reader, inner, TO_REDIS), wire.pass_on(answers, outer, FROM_REDIS), return_exceptions=True
            )
        finally:
            self._wires.discard(wire)

    def _chosen(self, subscribes: bool | None) -> list[Wire]:
        chosen = [each for each in self._wires if subscribes is None or each.subscribes == subscribes]
        self.hurt += len(chosen)
        return chosen

    def cut_one_way(self, direction: str, seconds: float, subscribes: bool | None = None) -> None:
        """Let nothing arrive in this direction for so long, of all connections or of those (not) for Pub/Sub; then they
        end."""

        async def cut() -> None:
            chosen = self._chosen(subscribes)
            for each in chosen:
                each.dead.add(direction)
            await asyncio.sleep(seconds)
            for each in chosen:
                each.end()

        asyncio.run_coroutine_threadsafe(cut(), self._loop).result(seconds + 30)

    def hold(self, seconds: float, subscribes: bool | None = None) -> None:
        """Let what is under way arrive late, all of it."""

        async def hold() -> None:
            chosen = self._chosen(subscribes)
            for each in chosen:
                each.hold()
            await asyncio.sleep(seconds)
            for each in chosen:
                each.go_on()

        asyncio.run_coroutine_threadsafe(hold(), self._loop).result(seconds + 30)

    def end_in_reply(self) -> None:
        """Let each connection end in the midst of the next thing that Redis says on it."""

        async def end() -> None:
            for each in self._chosen(None):
                each.ends_in_reply = True

        self._call(end())

    def stop(self) -> None:
        async def close() -> None:
            self._server.close()
            for each in list(self._wires):
                each.end()
            rest = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
            await asyncio.gather(*rest, return_exceptions=True)

        self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
