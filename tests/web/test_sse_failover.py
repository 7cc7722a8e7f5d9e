"""Event streams over a Redis that another process answers for: a stream goes on from the id that its client has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import Answer, Server, start, wait_until
from tests.rawsocket import RawSocket
from tests.web.test_sse import NAMESPACES, Events, token

USER = "ann"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", appendonly="yes", appendfsync="always").start()
    yield server
    server.kill()


@pytest.fixture
def nodes(tmp_path: Path, redis: RedisServer) -> Iterator[list[Server]]:
    running: list[Server] = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            options = {"secret": "s" * 40, "api_key": "k" * 20}
            running.append(start(tmp_path / name, "--redis", redis.url, config=NAMESPACES, **options))
        yield running
    finally:
        for each in running:
            each.stop()


def call(node: Server, path: str, body: dict[str, object]) -> Any:
    """Call until it is answered, as a publisher does; the ``messageId`` lets it happen once."""
    answers: list[Answer] = []

    def answered() -> bool:
        answers.append(node.api("POST", path, body))
        return answers[-1].status == 200

    wait_until(answered, 30, path)
    return answers[-1].body


def publish(node: Server, data: int) -> None:
    call(node, "/api/publish", {"channel": "news:a", "data": data, "messageId": f"m{data}"})


def notify(node: Server, data: str) -> dict[str, object]:
    (result,) = call(node, "/api/notify", {"userId": USER, "data": data, "messageId": data})["results"]
    return {"offset": result["offset"], "epoch": result["epoch"]}


def await_ready(node: Server) -> None:
    """What is received comes over a connection of its own, which may be back later than the one for commands."""
    wait_until(lambda: node.api("GET", "/readyz").status == 200, 30, "the node is ready")


def test_a_stream_goes_on_at_another_node_after_redis_was_replaced(nodes: list[Server], redis: RedisServer) -> None:
    one, two = nodes
    with closing(Events(one, "?channels=news:a", Authorization=token(one, USER))) as events:
        events.next()
        publish(one, 1)
        notify(one, "a")
        seen = [events.next()["data"] for _ in range(2)]
        assert sorted(map(str, seen)) == ["1", "a"]
        last = events.last_id
    publish(one, 2)
    newest = notify(one, "b")
    # Another device has it all, and says so: that costs this one nothing.
    phone = RawSocket(one.port)
    phone.upgrade()
    phone.ask({"type": "auth", "id": "in", "data": {"token": one.token(USER)}})
    assert phone.ask({"type": "ack", "id": "all", "data": newest})["type"] == "ack_success"
    phone.close()
    redis.kill()
    redis.start()
    publish(two, 3)
    assert notify(two, "c")["epoch"] != newest["epoch"]
    await_ready(one)
    await_ready(two)
    with closing(Events(two, "?channels=news:a", Authorization=token(two, USER), Last_Event_ID=last)) as events:
        result = events.next()["data"]["results"]["news:a"]
        # That nothing is missing nobody can say; what is kept after the position follows.
        assert result["recovered"] is False
        assert [message["data"] for message in result["messages"]] == [2, 3]
        assert [events.next()["data"] for _ in range(2)] == ["b", "c"]
        again = events.last_id
    publish(two, 4)
    # The other node follows the same data again.
    publish(one, 5)
    with closing(Events(one, "?channels=news:a", Authorization=token(one, USER), Last_Event_ID=again)) as events:
        result = events.next()["data"]["results"]["news:a"]
        assert result["recovered"] is True
        assert [message["data"] for message in result["messages"]] == [4, 5]
