"""What one user may have and do holds for two nodes together; a stream's messages reach the node that has it."""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

import pytest

from tests.cluster.conftest import CONFIG, Deployment
from tests.cluster.talk import Talks
from tests.harness import Server, wait_until
from tests.web.test_sse import Events

LIMITS = """
[rate_limits]
new_channels_per_minute = 3
[[namespaces]]
name = "kept"
publish = "authenticated"
history_size = 5
"""


class Nodes(NamedTuple):
    a: Server
    b: Server


@pytest.fixture(scope="module")
def nodes(site: Deployment) -> Nodes:
    redis = site.redis()
    config = CONFIG.replace("[server]", "[server]\nmax_connections_per_user = 2") + LIMITS
    a, b = (site.server("--redis", redis.url, config=config) for _ in "ab")
    wait_until(lambda: len(a.api("GET", "/api/nodes").body["nodes"]) == 2)
    return Nodes(a, b)


def test_a_user_has_so_many_places_on_all_nodes(nodes: Nodes, talk: Talks) -> None:
    first = talk(nodes.a, "ann")
    talk(nodes.b, "ann")
    for server in nodes:
        late = talk.guest(server)
        late.send_message("auth", 1, token=server.token("ann"))
        assert late.closed() == 3504
    talk(nodes.a, "bob")
    first.leave()
    wait_until(lambda: len(nodes.b.api("GET", "/api/connections?userId=ann").body["connections"]) == 1)
    talk(nodes.b, "ann")


def test_what_a_dead_node_left_takes_no_place(place: Deployment, talk: Talks) -> None:
    redis = place.redis()
    config = CONFIG.replace("[server]", "[server]\nmax_connections_per_user = 1")
    dead, living = (place.server("--redis", redis.url, config=config) for _ in "ab")
    talk(dead, "ann")
    dead.kill()
    talk(living, "ann")


def test_a_users_new_channels_count_on_all_nodes(nodes: Nodes, talk: Talks) -> None:
    here, there = talk(nodes.a, "eve"), talk(nodes.b, "eve")

    def publish(connection: Any, name: str) -> Any:
        return connection.ask("publish", channel=f"kept:{name}", data=1)

    replies = [publish(connection, f"{n}{at}") for n in range(3) for at, connection in enumerate((here, there))]
    made = sum(reply["type"] == "published" for reply in replies)
    # Alone, a node that is out of them has the next one after 20 s: longer means that it knows of the other.
    wait_until(lambda: publish(here, "more")["data"].get("retryAfter", 0) > 25_000 or made == 3)
    assert made >= 3
    assert publish(here, "00")["type"] == "published"


def test_a_message_reaches_the_node_that_has_the_stream(nodes: Nodes) -> None:
    def post(to: str, user: str) -> int:
        headers = {"Authorization": f"Bearer {nodes.b.token(user)}"}
        body = {"type": "ping", "id": 7, "data": {"x": "y"}}
        return nodes.b.api("POST", f"/sse/{to}", body, key="", headers=headers).status

    with closing(Events(nodes.a, Authorization=f"Bearer {nodes.a.token('sue')}")) as events:
        stream = events.next()["data"]["connectionId"]
        # Nodes are listed once a second: this one may have been listed before the other came.
        wait_until(lambda: post(stream, "sue") == 202)
        assert events.until(lambda m: m.get("id") == 7)["data"]["x"] == "y"
        assert post(stream, "mallory") == 403
        assert post(stream[:-1] + "?", "sue") == 404
        assert post(("y" if stream[0] == "x" else "x") + stream[1:], "sue") == 404
    wait_until(lambda: post(stream, "sue") == 404)
