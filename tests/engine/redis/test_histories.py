"""Pages of histories in Redis: nobody else is served while one is read, so no more is read than is given."""

from __future__ import annotations

import re
import socket

import pytest

from .nodes import KEPT, Cluster, contents, publication
from .servers import PATIENCE, RedisServer, encoded


class Watch:
    """What Redis is asked from now on, scripts included."""

    def __init__(self, redis: RedisServer) -> None:
        self._redis = redis
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(redis.path)
        self._socket.sendall(encoded("MONITOR"))
        self._received = b""
        self._until(b"+OK\r\n")

    def _until(self, mark: bytes) -> str:
        while mark not in self._received:
            self._received += self._socket.recv(1 << 16)
        said, _, self._received = self._received.partition(mark)
        return said.decode()

    def entries(self) -> list[int]:
        """How many entries of a stream each command asked for since this was asked last."""
        self._redis.command("ECHO", "that is all")
        said = self._until(b'"ECHO" "that is all"\r\n')
        return [int(count) for count in re.findall(r'"X(?:REV)?RANGE" .* "COUNT" "(\d+)"', said)]

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("reverse", [False, True])
async def test_no_more_of_a_history_is_read_than_is_given(redis: RedisServer, cluster: Cluster, reverse: bool) -> None:
    node = await cluster.start(redis.url)
    for n in range(1, 31):
        await node.engine.broker.publish(publication("long:a", "x" * 10_000, f"m{n}"), KEPT, None)
        await node.engine.broker.publish(publication("short:a", n), KEPT, None)
    watch = Watch(redis)
    try:
        read = node.engine.history.read
        # One to see what has ended, one to see how long they are, and then as many as there is room for.
        page = await read("long:a", None, 100, reverse, 45_000)
        assert (len(page.messages), page.more) == (4, True)
        assert watch.entries() == [1, 1, 3, 1]
        page = await read("short:a", None, 100, reverse, 45_000)
        assert (contents(page.messages), page.more) == ([*range(30, 0, -1)] if reverse else [*range(1, 31)], False)
        assert watch.entries() == [1, 1, 50]
        page = await read("long:a", None, 100, reverse)
        assert (len(page.messages), watch.entries()) == (30, [1, 100])
    finally:
        watch.close()
