"""Servers that end with their test or module, whatever became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.talk import Talks, talking
from tests.engine.redis.servers import RedisServer
from tests.harness import Server, start

SECRET, API_KEY = "s" * 40, "k" * 20

CONFIG = """
[server]
shutdown_drain = "1s"
[engine]
position_check = "1s"
[redis]
connect_timeout = "20s"
command_timeout = "20s"
[[namespaces]]
name = "news"
subscribe = "authenticated"
history_size = 50
[[namespaces]]
name = "room"
subscribe = "authenticated"
publish = "authenticated"
presence = true
join_leave = true
"""


class Deployment:
    """Where Redis and servers are started, and ended all at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._redis: list[RedisServer] = []
        self._servers: list[Server] = []
        #: servers that were started
        self.count = 0

    def redis(self, kind: Callable[..., RedisServer] = RedisServer, *arguments: Any, **options: Any) -> RedisServer:
        server = kind(self.path / f"redis-{len(self._redis)}", *arguments, **options)
        self._redis.append(server)
        return server.start()

    def server(self, *options: str, config: str = CONFIG, **settings: Any) -> Server:
        place = self.path / f"server-{self.count}"
        self.count += 1
        place.mkdir()
        server = start(place, *options, config=config, secret=SECRET, api_key=API_KEY, **settings)
        self._servers.append(server)
        return server

    def end_servers(self) -> None:
        for server in self._servers:
            server.stop()
        self._servers.clear()

    def end(self) -> None:
        # Servers stop without waiting for a Redis that a test has stopped.
        for redis in self._redis:
            if redis.stopped:
                redis.resume()
        self.end_servers()
        for redis in self._redis:
            redis.kill()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """For a whole module."""
    place = Deployment(tmp_path_factory.mktemp("cluster"))
    yield place
    place.end()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    """For one test."""
    place = Deployment(tmp_path)
    yield place
    place.end()


@pytest.fixture
def talk() -> Iterator[Talks]:
    """``talk(server, user, *channels)``: a connection that ends with the test."""
    with talking() as talks:
        yield talks
