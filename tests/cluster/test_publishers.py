"""Programs that know Redis and nothing else reach a client of a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from pushserver.publisher import Publisher
from tests.cluster.conftest import Deployment
from tests.cluster.talk import Talks
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, wait_until
from tests.test_pushclient_js import node_modules

__all__ = ["node_modules"]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, timeout=90, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is needed"
    return found


@pytest.fixture(scope="module")
def redis(site: Deployment) -> RedisServer:
    return site.redis()


@pytest.fixture(scope="module")
def server(site: Deployment, redis: RedisServer) -> Server:
    return site.server("--redis", redis.url)


def cli(redis: RedisServer, *arguments: str) -> str:
    return run(program("redis-cli"), "-u", redis.url, *arguments)


def test_publish_by_redis_cli(server: Server, redis: RedisServer, talk: Talks) -> None:
    client = talk(server, "42", "news:x")
    assert cli(redis, "PUBLISH", "push:pub:news:x", '{"data": {"by": "redis-cli"}}') == "1"
    push = client.push("message", by="redis-cli")
    assert push["channel"] == "news:x"
    assert not {"offset", "epoch"} & set(push)
    assert client.ask("history", channel="news:x")["data"]["messages"] == []


def test_what_may_not_be_published_is_dropped(server: Server, redis: RedisServer, talk: Talks) -> None:
    client = talk(server, "42", "news:x", "status:42")
    for name, body in [
        ("news:x", "no JSON"),
        ("news:x", '{"type": "auth_success", "data": {}}'),
        ("news:x", "[]"),
        ("status:42", '{"data": {"status": "offline"}}'),
    ]:
        cli(redis, "PUBLISH", f"push:pub:{name}", body)
    cli(redis, "PUBLISH", "push:pub:news:x", '{"data": {"last": 1}}')
    client.push("message", last=1)
    assert client.count(lambda m: m.get("channel") in ("news:x", "status:42") and m["type"] != "user_status") == 1


def test_the_stream_by_redis_cli(server: Server, redis: RedisServer, talk: Talks) -> None:
    command = {"method": "notify", "params": {"userId": "43", "data": {"title": "kept"}, "messageId": "cli-1"}}
    # Twice: the message id makes one of it.
    for _ in range(2):
        cli(redis, "XADD", "push:ingest", "*", "cmd", json.dumps(command))
    wait_until(lambda: cli(redis, "XLEN", "push:ingest") == "0")
    # Nobody was there: it waits in the inbox.
    client = talk(server, "43")
    push = client.push("user_notification", title="kept")
    assert push["messageId"] == "cli-1"
    assert push["offset"] == 1
    assert client.count(lambda m: m["type"] == "user_notification") == 1


def test_a_poisoned_entry_is_put_aside_and_the_next_goes_on(server: Server, redis: RedisServer, talk: Talks) -> None:
    client = talk(server, "44")
    cli(redis, "XADD", "push:ingest", "*", "cmd", '{"method": "no.such", "params": {}}')
    cli(redis, "XADD", "push:ingest", "*", "cmd", '{"method": "notify", "params": {"userId": "44", "data": {"n": 1}}}')
    client.push("user_notification", n=1)
    assert "error" in cli(redis, "XRANGE", "push:ingest:dead", "-", "+")


def test_a_token_blocked_by_redis_cli(server: Server, redis: RedisServer, talk: Talks) -> None:
    token = server.token("45", jti="stolen")
    assert cli(redis, "SET", "push:revoked:jti:stolen", "1", "EX", "60") == "OK"
    client = talk.guest(server)
    client.send_message("auth", token=token)
    assert client.until(lambda m: m["type"] == "auth_failed")["data"]["code"] == "TOKEN_BLACKLISTED"
    assert client.closed() == 3500


def test_ioredis(server: Server, redis: RedisServer, talk: Talks, node_modules: Path) -> None:
    client = talk(server, "42", "news:x")
    run(program("node"), str(ROOT / "tests" / "cluster" / "publish.mjs"), redis.url)
    client.push("message", **{"from": "ioredis"})
    client.push("price_changed", cents=1250)
    client.push("user_notification", title="Grüße aus node")
    client.push("task_created", taskId="node-task")
    assert client.push("task_completed", taskId="node-task")["data"]["result"] == {"rows": 3}


def test_the_python_publisher_over_redis(server: Server, redis: RedisServer, talk: Talks) -> None:
    client = talk(server, "46", "news:x")
    with Publisher(redis.url, min_interval=0.0) as publisher:
        publisher.publish("news:x", {"n": 1})
        publisher.publish("news:x", {"n": 2}, live=True)
        (receipt,) = publisher.notify(46, title="done")
        for _ in publisher.track(range(3), user_id=46, title="Rows"):
            pass
        with pytest.raises(ValueError, match="broken"), publisher.task(46, "Fails"):
            raise ValueError("broken")
    assert client.push("message", n=1)["offset"] >= 1
    assert "offset" not in client.push("message", n=2)
    assert client.push("user_notification", title="done")["messageId"] == receipt.message_id
    assert client.push("task_completed", title="Rows")["data"]["percentage"] == 100
    assert "broken" in client.push("task_failed", title="Fails")["data"]["error"]


def test_what_is_published_while_every_server_is_away_is_kept_in_order(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    first = place.server("--redis", redis.url)
    first.terminate()
    for n in range(20):
        command = {"method": "notify", "params": {"userId": "47", "data": {"n": n}}}
        redis.command("XADD", "push:ingest", "*", "cmd", json.dumps(command))
    client = talk(place.server("--redis", redis.url), "47")
    client.push("user_notification", n=19)
    assert [m["data"]["n"] for m in client.received if m["type"] == "user_notification"] == list(range(20))


@pytest.mark.full
def test_what_a_task_writes_is_kept_once_where_its_entry_is_delivered_twice(place: Deployment) -> None:
    redis = place.redis()
    with (
        closing(Redis.from_url(redis.url)) as client,
        Publisher(redis.url) as publisher,
        publisher.task(48, "Writes") as task,
    ):
        task.write("one ")
        assert publisher.flush(60)
        ((_, created), (number, written)) = client.xrange("push:ingest")
        assert [json.loads(each[b"cmd"])["method"] for each in (created, written)] == ["task.create", "task.output"]
        server = place.server("--redis", redis.url)
        wait_until(lambda: client.xlen("push:ingest") == 0)
        # As where its node has ended between carrying it out and removing it: the stream takes an id once.
        client.delete("push:ingest")
        client.xadd("push:ingest", written, id=number)
        # And as where the answer to the publisher was lost, so that it sends it once more.
        client.xadd("push:ingest", written)
        task.write("two")
        assert publisher.flush(60)
        wait_until(lambda: client.xlen("push:ingest") == 0)
        said = server.api("GET", f"/api/tasks/{task.task_id}/output").body
        assert (said["text"], said["offset"]) == ("one two", 7)
        assert client.xlen("push:ingest:dead") == 0


@pytest.mark.browser
def test_the_page_in_a_browser(place: Deployment, node_modules: Path) -> None:
    redis = place.redis()
    server = place.server("--redis", redis.url, "--workers", "2", dev=True, config="")
    script = str(ROOT / "tests" / "cluster" / "publish_to_page.mjs")
    run(program("node"), script, PAGE_URL=server.url, PAGE_KEY=server.api_key, REDIS_URL=redis.url)
