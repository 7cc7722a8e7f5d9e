"""Nodes on a real Redis that can be hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_twisted

from .nodes import Cluster
from .proxy import Proxy
from .servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """``start_redis(**options)``: a server that ends with the test, whatever became of it."""
    servers: list[RedisServer] = []

    def start(kind: Callable[..., RedisServer] = RedisServer, *arguments: Any, **options: Any) -> RedisServer:
        server = kind(tmp_path / f"redis-{len(servers)}", *arguments, **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def redis(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """One server with the defaults."""
    return start_redis()


@pytest_twisted.async_yield_fixture
async def cluster(start_redis: Callable[..., RedisServer]) -> AsyncIterator[Cluster]:
    """Nodes that end with the test, while their Redis may be anything."""
    cluster = Cluster()
    yield cluster
    await cluster.close()


@pytest_twisted.async_yield_fixture
async def proxy(redis: RedisServer) -> AsyncIterator[Proxy]:
    """A way to ``redis`` that can be hurt."""
    proxy = await Proxy(redis.port).start()
    yield proxy
    await proxy.stop()
