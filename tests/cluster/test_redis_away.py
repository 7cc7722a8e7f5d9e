"""A whole server whose Redis goes away and comes back: a pause, never a lie, and nobody has to restart anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.app.workers.test_supervisor import on_both
from tests.certificates import certificates
from tests.cluster.conftest import CONFIG, Deployment
from tests.cluster.talk import Talks, becomes
from tests.engine.redis.servers import RedisServer, Sentinel
from tests.engine.redis.test_connection import ACL
from tests.harness import Server, free_port, wait_until


def readiness(server: Server) -> int:
    return server.api("GET", "/readyz").status


def ready(server: Server, deadline: float = 60) -> None:
    wait_until(lambda: readiness(server) == 200, deadline)


def works(server: Server, talk: Talks, user: str) -> Any:
    """Publishing, notifying and signing in, from one end to the other."""
    client = talk(server, user, "news:x")
    assert server.api("POST", "/api/publish", {"channel": "news:x", "data": {"for": user}}).status == 200
    client.push("message", **{"for": user})
    assert server.api("POST", "/api/notify", {"userId": user, "data": {"kept": user}}).status == 200
    client.push("user_notification", kept=user)
    return client


def refuses(server: Server, talk: Talks, client: Any) -> None:
    """What a server without its Redis says; whoever is connected stays."""
    wait_until(lambda: readiness(server) == 503)
    assert server.api("GET", "/healthz").status == 200
    for path, body in [
        ("publish", {"channel": "news:x", "data": {}}),
        ("notify", {"userId": "42", "data": {}}),
        ("tasks", {"userId": "42"}),
        ("revoke", {"userId": "42"}),
    ]:
        said = server.api("POST", f"/api/{path}", body)
        assert (said.status, said.body["error"]["code"]) == (503, "UNAVAILABLE"), (path, said)
    newcomer = talk.guest(server)
    newcomer.send_message("auth", token=server.token("new"))
    assert newcomer.until(lambda m: m["type"] == "auth_failed")["data"]["code"] == "UNAVAILABLE"
    assert newcomer.closed() == 3004
    client.barrier()
    assert client.ask("subscribe", channels=["news:other"])["data"]["rejected"]["news:other"]["code"] == "UNAVAILABLE"


def test_redis_is_killed_and_comes_back(place: Deployment, talk: Talks) -> None:
    redis = place.redis(appendonly="yes", appendfsync="always")
    server = place.server("--redis", redis.url)
    client = works(server, talk, "42")
    before = client.received[-1]
    redis.kill()
    refuses(server, talk, client)
    redis.start()
    ready(server)
    # The client that stayed hears again what is published, and is told what it can no longer trust.
    client.until(lambda m: m["type"] == "resync" and m["data"]["channel"] == "news:x")
    assert server.api("POST", "/api/publish", {"channel": "news:x", "data": {"back": 1}}).status == 200
    client.push("message", back=1)
    assert server.api("POST", "/api/notify", {"userId": "42", "data": {"back": 2}}).status == 200
    client.push("user_notification", back=2)
    assert client.ask("subscribe", channels=["news:other"])["data"]["rejected"] == {}
    client.barrier()
    # What was kept is still there, and a second device gets it.
    second = talk(server, "42")
    second.push("user_notification", kept="42")
    assert before["messageId"] in [m.get("messageId") for m in second.received]
    works(server, talk, "43")


def test_redis_is_paused(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    config = CONFIG.replace('_timeout = "20s"', '_timeout = "2s"')
    server = place.server("--redis", redis.url, config=config)
    client = works(server, talk, "42")
    redis.pause()
    refuses(server, talk, client)
    redis.resume()
    ready(server)
    assert server.api("POST", "/api/publish", {"channel": "news:x", "data": {"back": 1}}).status == 200
    client.push("message", back=1)
    assert client.count(lambda m: m["type"] == "resync") == 0


def test_a_server_starts_before_its_redis(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    redis.kill()
    server = place.server("--redis", redis.url)
    assert readiness(server) == 503
    redis.start()
    ready(server)
    works(server, talk, "42")


def test_workers_and_their_redis(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    server = place.server("--redis", redis.url, "--workers", "2")
    wait_until(lambda: server.log.count(" is ready") == 2)
    clients = on_both(server, talk, "news:x")
    redis.kill()
    wait_until(lambda: readiness(server) == 503)
    for client in clients:
        client.barrier()
    becomes(lambda: "\npushserver_connections 4.0\n" in server.api("GET", "/metrics").body, True)
    redis.start()
    becomes(lambda: [readiness(server) for _ in range(6)], [200] * 6)
    # Six answers may all be of one worker, while the other one has no Redis yet.
    wait_until(lambda: len(server.api("GET", "/api/connections?userId=42").body.get("connections", ())) == len(clients))
    server.api("POST", "/api/publish", {"channel": "news:x", "data": {"back": 1}})
    for client in clients:
        client.push("message", back=1)
    # No worker took the loss of Redis for a reason to end.
    assert server.log.count(" is ready") == 2


@pytest.mark.full
def test_sentinel_leads_to_the_new_master(place: Deployment, talk: Talks) -> None:
    master = place.redis(**{"repl-diskless-sync-delay": 0})
    replica = place.redis(replicaof=f"127.0.0.1 {master.port}", **{"repl-diskless-sync-delay": 0})
    wait_until(lambda: "state=online" in master.command("INFO", "replication"))
    sentinels = [place.redis(lambda directory: Sentinel(directory, master, 2)) for _ in range(3)]
    wait_until(lambda: all("sentinels=3" in each.command("INFO", "sentinel") for each in sentinels))
    wait_until(lambda: all("slaves=1" in each.command("INFO", "sentinel") for each in sentinels))
    known = ", ".join(f'"127.0.0.1:{each.port}"' for each in sentinels)
    config = CONFIG.replace("[redis]", f'[redis]\nsentinels = [{known}]\nservice = "main"\nwait_replicas = 1')
    server = place.server("--redis", "redis://ignored/0", config=config)
    client = works(server, talk, "42")
    # From now on there is one Redis only: who waits for a replica would wait for ever.
    kept = server.api("POST", "/api/notify", {"userId": "42", "data": {"n": 1}}).body["results"][0]
    master.kill()
    wait_until(lambda: readiness(server) == 503)
    client.barrier()
    ready(server)
    client.barrier()
    assert "role:master" in replica.command("INFO", "replication")
    assert server.api("POST", "/api/publish", {"channel": "public:x", "data": {}}).status == 200
    back = RedisServer(master.directory, port=master.port, replicaof=f"127.0.0.1 {replica.port}")
    try:
        back.start()
        wait_until(lambda: "state=online" in replica.command("INFO", "replication"))
        wait_until(lambda: server.api("POST", "/api/notify", {"userId": "42", "data": {"n": 2}}).status == 200)
    finally:
        back.kill()
    client.push("user_notification", n=2)
    # Nothing that was answered is lost.
    assert kept["messageId"] in [m.get("messageId") for m in client.received]
    second = talk(server, "42")
    second.push("user_notification", n=1)


def test_tls_and_a_user_with_few_rights(place: Deployment, talk: Talks, tmp_path: Path) -> None:
    files = certificates(tmp_path)
    port = free_port()
    tls = {"tls-cert-file": files["cert"], "tls-key-file": files["key"], "tls-ca-cert-file": files["ca"]}
    redis = place.redis(**{"port": port, "tls-port": port, "tls-auth-clients": "no", **tls})
    redis.command("ACL", "SETUSER", "push", *ACL.split(" "))
    redis.command("ACL", "SETUSER", "default", "off")
    url = f"rediss://push:secret@127.0.0.1:{port}/0?ca={files['ca']}"
    server = place.server(env={"PUSHSERVER_REDIS__URL": url, "PUSHSERVER_ENGINE__KIND": "redis"})
    ready(server)
    client = works(server, talk, "42")
    redis.kill()
    refuses(server, talk, client)
    redis.start()
    assert readiness(server) == 503, "it lets nobody in before the user is there again"
    redis.command("ACL", "SETUSER", "push", *ACL.split(" "))
    ready(server)
    works(server, talk, "43")
    assert "push:secret" not in server.log
