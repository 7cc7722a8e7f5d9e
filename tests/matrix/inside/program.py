"""``python program.py asyncio|twisted``: a program with a client that obeys a command a line, as program.mjs does."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from pushserver.client import Client, ClientError, ClientService, Push, State, UserChanged
from pushserver.client.clock import steady

wall_clock = time.time


class Clock:
    """The clocks of this program, which the matrix can set: from the moment `at` on they are `by` seconds ahead."""

    def __init__(self) -> None:
        self._at = float("inf")
        self._by = 0.0
        #: also the clock that counts a sleep in
        self._slept = False

    def set(self, at: float, by: float, slept: bool) -> None:
        self._at, self._by, self._slept = at / 1000, by / 1000, slept

    def ahead(self) -> float:
        return self._by if wall_clock() >= self._at else 0.0

    def wall(self) -> float:
        return wall_clock() + self.ahead()

    def steady(self) -> float:
        return steady() + (self.ahead() if self._slept else 0.0)


class Player:
    """One client, and a record of what it showed; how it reads is what a subclass fills in."""

    client: Any

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.given = ""
        self.shown: list[list[Any]] = []
        #: the channels of which it was told that messages are missing
        self.gaps: list[str] = []
        self.subscribed = False

    def token(self) -> str:
        return self.given

    def note(self, push: Push) -> None:
        if push.type == "resync":
            self.gaps.append(push.channel)
            return
        data = push.data["result"] if push.type == "task_completed" else push.data
        kinds = {"user_notification": "notice", "task_completed": "end", "message": "news"}
        if push.type in kinds:
            line = [kinds[push.type], data["to"], data["n"], self.client.user_id, int(wall_clock() * 1000)]
            self.shown.append(line)

    def read(self, user: str) -> None:
        """Read what is this user's."""
        raise NotImplementedError

    def changed(self, change: UserChanged) -> None:
        self.read(change.to or "")

    def do(self, command: dict[str, Any]) -> Any:
        match command["do"]:
            case "begin":
                self.given = command["token"]
                self.begin(command["url"])
                self.read(command["user"])
            case "give":
                self.given = command["token"]
            case "become":
                self.given = command["token"]
                # Until the client has asked for its token and follows the other user's channel.
                self.subscribed = False
            case "clock":
                self.clock.set(command["at"], command["by"], command["slept"])
            case "ready":
                return self.subscribed and self.client.state is State.CONNECTED
            case "shown":
                return self.shown
            case "gaps":
                return self.gaps
        return None

    def begin(self, url: str) -> None:
        raise NotImplementedError


class AsyncioPlayer(Player):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._work: set[asyncio.Task[None]] = set()

    def begin(self, url: str) -> None:
        self.client = Client(url, token=self.token, clock=self.clock.steady, on_user_changed=self.changed)
        self._spawn(self._open())

    async def _open(self) -> None:
        await self.client.open()

    def read(self, user: str) -> None:
        self.subscribed = False
        self._spawn(self._follow(self.client.inbox()))
        self._spawn(self._follow(self.client.subscribe(f"news:{user}"), True))

    async def _follow(self, reader: Any, subscription: bool = False) -> None:
        try:
            if subscription:
                await reader.ready()
                self.subscribed = True
            async for push in reader:
                self.note(push)
        except ClientError:
            # What was another's has ended.
            return

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


class TwistedPlayer(Player):
    def begin(self, url: str) -> None:
        self.client = ClientService(url, token=self.token, clock=self.clock.steady, on_user_changed=self.changed)
        self.client.startService()

    def read(self, user: str) -> None:
        self.subscribed = False
        news = self.client.subscribe(f"news:{user}", self.note)
        news.ready().addCallbacks(lambda _: self._confirmed(), lambda failure: failure.trap(ClientError))
        for reading in (news, self.client.inbox(self.note)):
            # What was another's has ended.
            reading.done.addErrback(lambda failure: failure.trap(ClientError))

    def _confirmed(self) -> None:
        self.subscribed = True


def serve_asyncio(player: Player) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            answer(player, line)

    asyncio.run(serve())


def serve_twisted(player: Player) -> None:
    from twisted.internet import reactor, stdio
    from twisted.protocols.basic import LineReceiver

    class Lines(LineReceiver):
        delimiter = b"\n"

        def lineReceived(self, line: bytes) -> None:
            answer(player, line.decode())

        def connectionLost(self, reason: Any = None) -> None:
            if reactor.running:
                reactor.stop()

    stdio.StandardIO(Lines())
    reactor.run()


def answer(player: Player, line: str) -> None:
    sys.stdout.write(json.dumps(player.do(json.loads(line))) + "\n")
    sys.stdout.flush()


SERVE: dict[str, tuple[type[Player], Callable[[Player], None]]] = {
    "asyncio": (AsyncioPlayer, serve_asyncio),
    "twisted": (TwistedPlayer, serve_twisted),
}

if __name__ == "__main__":
    # That there is no connection is what is played here.
    logging.getLogger("pushserver.client").setLevel(logging.ERROR)
    clock = Clock()
    time.time = clock.wall
    make, serve = SERVE[sys.argv[1]]
    serve(make(clock))
