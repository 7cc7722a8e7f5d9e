"""Events through a receiver that fails a third of the time, while nodes are killed.

Each arrives at least once, in order for its subject, none is lost, and none is sent by two nodes at a time.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, start, wait_until
from tests.webhooks import HttpReceiver, receiving

SECRET = "the secret of two nodes, long enough for a token"
CHANNELS = 100
BATCH = 50
CONFIG = """
[rate_limits]
messages_per_second = 0
publications_per_second = 0
publication_bytes_per_second = 0
new_channels_per_minute = 0
[[namespaces]]
name = "room"
publish = "authenticated"
history_size = 5
"""


class Pair:
    """Two nodes on one Redis, of which either may be dead."""

    def __init__(self, place: Path, redis: RedisServer, config: str) -> None:
        self._redis = redis
        self._config = config
        self._places = [place / name for name in "ab"]
        for each in self._places:
            each.mkdir()
        self.servers = [self._start(each, None) for each in self._places]

    def _start(self, place: Path, port: int | None) -> Server:
        return start(
            place,
            "--redis",
            self._redis.url,
            config=self._config,
            secret=SECRET,
            api_key="an-api-key-of-two",
            port=port,
        )

    def replace(self, which: int) -> None:
        """Kill a node, and start another one in its place."""
        dead = self.servers[which]
        dead.kill()
        for attempt in range(3):
            try:
                self.servers[which] = self._start(self._places[which], dead.port)
            except AssertionError:
                # A machine with much else to do.
                if attempt == 2:
                    raise
            else:
                return

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    redis = RedisServer(tmp_path / "redis").start()
    yield redis
    redis.kill()


async def publish(pair: Pair, count: int, chance: random.Random) -> None:
    """Publish messages 0, 1, … to channels in turn; what has no answer is sent again, with the same id."""
    for start_at in range(0, count, BATCH):
        numbers = range(start_at, min(count, start_at + BATCH))
        while True:
            server = chance.choice(pair.servers)
            try:
                async with asyncio.timeout(10):
                    await _publish(server, numbers)
                break
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(0.2)


async def _publish(server: Server, numbers: range) -> None:
    async with connect(server.ws_url) as socket:
        await socket.send(json.dumps({"type": "auth", "data": {"token": server.token("7")}}))
        for n in numbers:
            data = {"channel": f"room:{n % CHANNELS}", "data": n, "messageId": f"m{n}"}
            await socket.send(json.dumps({"type": "publish", "id": n, "data": data}))
        waiting = set(numbers)
        while waiting:
            reply = json.loads(await socket.recv())
            if reply.get("id") in waiting:
                if reply["type"] != "published":
                    raise OSError(reply)
                waiting.discard(reply["id"])


@pytest.mark.full
@pytest.mark.parametrize("count", [500, 10_000])
def test_every_event_arrives_while_nodes_are_killed(
    tmp_path: Path, redis: RedisServer, receiver: HttpReceiver, count: int
) -> None:
    chance = random.Random(count)
    failed: set[str] = set()
    lock = threading.Lock()

    def answer(event: Any) -> int:
        """A third of the events fail the first time: by a status, without a word, or too late."""
        with lock:
            again = event["id"] in failed
            kind = chance.randrange(9)
            if again or kind > 2:
                return 200
            failed.add(event["id"])
        if kind == 0:
            return 503
        if kind == 1:
            return 0
        time.sleep(2.5)
        return 200

    receiver.answer = answer
    pair = Pair(tmp_path, redis, CONFIG + receiver.configuration('["message.published"]'))
    done = threading.Event()

    def kill() -> None:
        which = 0
        while not done.wait(3):
            pair.replace(which)
            which = 1 - which

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        asyncio.run(publish(pair, count, chance))
    finally:
        done.set()
        killer.join()
    try:

        def taken() -> list[int]:
            return [event["data"]["data"] for event in receiver.taken]

        wait_until(lambda: len(set(taken())) == count, deadline=60 + count / 20)
        order: dict[int, list[int]] = {}
        for n in dict.fromkeys(taken()):
            order.setdefault(n % CHANNELS, []).append(n)
        assert all(numbers == sorted(numbers) for numbers in order.values())
        assert len({event["id"] for event in receiver.taken}) == count
        assert pair.servers[0].api("GET", "/api/events/dead").body == {"events": []}
        assert receiver.faults == []
        page = pair.servers[1].api("GET", "/api/events?limit=1000").body
        assert len(page["events"]) == min(count, 1_000)
    finally:
        pair.stop()
