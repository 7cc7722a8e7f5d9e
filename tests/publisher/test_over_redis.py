"""Publishing through Redis alone, with a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)

from pushserver.publisher import AsyncPublisher, Publisher, PublishError, PublishRefused, PublishUnavailable
from pushserver.publisher.errors import is_final
from pushserver.publisher.over_redis import RedisTransport
from pushserver.publisher.transport import RedisEndpoint
from tests.certificates import certificates
from tests.engine.redis.servers import RedisServer
from tests.harness import wait_until
from tests.publisher.fake_api import KEY, PATIENT, FakeApi
from tools.ports import free_port


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


def ingest(client: Any, prefix: str = "push") -> list[dict[str, Any]]:
    return [json.loads(fields[b"cmd"]) for _, fields in client.xrange(f"{prefix}:ingest")]


def test_what_is_durable_goes_into_the_stream(client: Any, redis_url: str) -> None:
    with Publisher(redis_url, **PATIENT) as publisher:
        receipt = publisher.publish("news", {"n": 1})
        (notified,) = publisher.notify(42, message="m")
        both = publisher.broadcast(["a", "b"], 1)
        publisher.batch([("disconnect", {"userId": "42"}), ("publish", {"channel": "c", "data": 2})])
    entries = ingest(client)
    assert [entry["method"] for entry in entries] == ["publish", "notify", "broadcast", "disconnect", "publish"]
    assert entries[0] == {
        "method": "publish",
        "params": {"channel": "news", "data": {"n": 1}, "messageId": receipt.message_id},
    }
    assert entries[1]["params"]["messageId"] == notified.message_id
    assert len(both) == 2
    assert entries[4]["params"]["messageId"]
    assert all(set(entry) == {"method", "params"} for entry in entries)


def test_live_goes_by_publish(client: Any, redis_url: str) -> None:
    listener = client.pubsub()
    listener.subscribe("other:pub:news")
    assert listener.get_message(timeout=30)["type"] == "subscribe"
    with Publisher(redis_url, prefix="other", **PATIENT) as publisher:
        publisher.publish("news", [1], type="headline", live=True)
        publisher.publish("news", None, live=True)
        assert json.loads(listener.get_message(timeout=30)["data"]) == {"type": "headline", "data": [1]}
        assert json.loads(listener.get_message(timeout=30)["data"]) == {"data": None}
    assert ingest(client, "other") == []
    listener.close()


def test_a_task_goes_in_order(client: Any, redis_url: str) -> None:
    with Publisher(redis_url, prefix="p", **PATIENT) as publisher:
        with publisher.task(42, "Render") as task:
            for n in range(1, 101):
                task.progress(n, of=100)
        assert not task.cancelled
    entries = ingest(client, "p")
    methods = [entry["method"] for entry in entries]
    assert (methods[0], methods[-1]) == ("task.create", "task.complete")
    assert entries[-2]["params"]["percentage"] == 100.0
    assert {entry["params"]["taskId"] for entry in entries} == {task.task_id}


def test_over_redis_the_wish_to_cancel_is_asked_over_http(client: Any, redis_url: str, api: FakeApi) -> None:
    with Publisher(redis_url, http_url=api.url, api_key=KEY, min_interval=0.01, **PATIENT) as publisher:
        with publisher.task(42) as task:
            api.tasks[task.task_id] = {"taskId": task.task_id, "status": "running", "cancelRequested": True}
            task.progress(1)
            api.until(lambda: task.cancelled)


def test_a_redis_that_is_away_and_one_that_refuses(client: Any, redis_url: str) -> None:
    with Publisher("unix:///nowhere/at/all", timeout=0.2, exit_timeout=0) as publisher:
        with pytest.raises(PublishUnavailable, match="Redis"):
            publisher.publish("news", 1)
        with pytest.raises(PublishUnavailable):
            publisher.publish("news", 1, live=True)
    client.set("push:ingest", "not a stream")
    with Publisher(redis_url, **PATIENT) as publisher:
        with pytest.raises(PublishRefused, match="WRONGTYPE"):
            publisher.publish("news", 1)


MENDED: dict[str, tuple[list[str], list[str]]] = {
    "good replicas": (["CONFIG SET min-replicas-to-write 1"], ["CONFIG SET min-replicas-to-write 0"]),
    "maxmemory": (["CONFIG SET maxmemory 1"], ["CONFIG SET maxmemory 0"]),
    "the right to write push:ingest": (["ACL SETUSER writer -xadd"], ["ACL SETUSER writer +xadd"]),
    "move it away": (["SET push:ingest text"], ["DEL push:ingest"]),
}


@pytest.mark.parametrize("words", MENDED)
def test_a_task_outlasts_a_redis_that_takes_nothing_until_it_is_mended(
    client: Any, redis_url: str, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    broken, mended = MENDED[words]
    client.execute_command("ACL SETUSER writer on >secret ~* &* +@all")
    try:
        for command in broken:
            client.execute_command(command)
        url = redis_url.replace("unix://", "unix://writer:secret@")
        with Publisher(url, **PATIENT | {"end_timeout": 0.0}) as publisher:
            with publisher.task(42):
                pass
            publisher.notify(42, message="m", background=True)
            wait_until(lambda: words in caplog.text)
            for command in mended:
                client.execute_command(command)
            assert publisher.flush(30)
        assert sorted(entry["method"] for entry in ingest(client)) == ["notify", "task.complete", "task.create"]
    finally:
        for command in mended:
            client.execute_command(command)
        client.execute_command("ACL DELUSER writer")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "UNAVAILABLE"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "UNAVAILABLE"),
        (ResponseError("BUSY Redis is busy running a script."), "UNAVAILABLE"),
        (ClusterDownError("The cluster is down"), "UNAVAILABLE"),
        (MasterDownError("Link with MASTER is down"), "UNAVAILABLE"),
        (ReadOnlyError("You can't write against a read only replica."), "UNAVAILABLE"),
        (BusyLoadingError("Redis is loading the dataset in memory"), "UNAVAILABLE"),
        (AuthenticationError("WRONGPASS"), "UNAVAILABLE"),
        (NoPermissionError("this user has no permissions"), "REDIS_ERROR"),
        (ResponseError("ERR what nobody has seen yet"), "REDIS_ERROR"),
    ],
)
def test_nothing_that_redis_says_is_the_last_word(monkeypatch: pytest.MonkeyPatch, error: Exception, code: str) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(redis.Redis, "publish", refuse)
    transport = RedisTransport(RedisEndpoint(host="127.0.0.1"), "push", 1.0, None)
    with pytest.raises(PublishError) as refused:
        transport.publish_live("news", 1, None)
    assert refused.value.code == code
    assert not is_final(refused.value)


def test_asyncio_does_the_same(client: Any, redis_url: str) -> None:
    async def main() -> None:
        async with AsyncPublisher(redis_url, **PATIENT) as publisher:
            await publisher.publish("news", 1)
            await publisher.publish("news", 1, live=True)
            await publisher.notify([1, 2], message="m")
            async with publisher.task(42):
                pass

    asyncio.run(main())
    assert [entry["method"] for entry in ingest(client)] == ["publish", "notify", "task.create", "task.complete"]


def test_a_redis_that_asks_for_certificates(tmp_path: Path) -> None:
    files, strangers = certificates(tmp_path / "pki"), certificates(tmp_path / "strangers")
    port = free_port()
    tls = {"tls-cert-file": files["cert"], "tls-key-file": files["key"], "tls-ca-cert-file": files["ca"]}
    # Asking is what Redis does where nobody says otherwise.
    server = RedisServer(tmp_path / "redis", port=port, **{"tls-port": port, **tls}).start()
    try:
        url = f"rediss://127.0.0.1:{port}/0?ca={files['ca']}"
        with Publisher(f"{url}&cert={files['cert']}&key={files['key']}", **PATIENT) as publisher:
            publisher.notify(42, title="t")
        with Publisher(url, cert=files["cert"], key=files["key"], **PATIENT) as publisher:
            publisher.notify(42, title="t")
        with Publisher(url, timeout=1) as without, pytest.raises(PublishUnavailable):
            without.notify(42, title="t")
        stranger = f"rediss://127.0.0.1:{port}/0?ca={strangers['ca']}&cert={files['cert']}&key={files['key']}"
        with Publisher(stranger, **PATIENT) as publisher, pytest.raises(PublishUnavailable, match="certificate"):
            publisher.notify(42, title="t")
    finally:
        server.kill()


def test_a_redis_that_is_away_for_a_while_gets_all_in_order(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    with Publisher(
        f"redis://127.0.0.1:{server.port}/0", min_interval=0.01, **PATIENT | {"end_timeout": 0.1}
    ) as publisher:
        with publisher.task(42) as task:
            task.progress(1, of=2)
        assert not task.answered
        server.start()
        try:
            assert publisher.flush(30)
            assert task.answered
            client = redis.Redis(port=server.port)
            methods = [entry["method"] for entry in ingest(client)]
            client.close()
        finally:
            server.kill()
    assert methods == ["task.create", "task.progress", "task.complete"]
