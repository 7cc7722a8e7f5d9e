"""The operators' calls and their page, on a real server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec

from pushserver.engine.interfaces import DeadEvent
from pushserver.web.operators import _row
from pushserver.web.results import DeadRow
from tests.harness import Server
from tests.rawsocket import RawSocket


def follow(server: Server, user: str, *channels: str) -> RawSocket:
    client = RawSocket(server.port)
    client.upgrade()
    client.ask({"type": "auth", "id": 1, "data": {"token": server.token(user)}})
    client.ask({"type": "subscribe", "id": 2, "data": {"channels": list(channels)}})
    return client


def page(server: Server, path: str) -> Any:
    answer = server.api("GET", f"/api/operators/{path}")
    assert answer.status == 200, answer
    return answer.body


def test_pages_of_connections_channels_and_a_user(server: Server) -> None:
    clients = [follow(server, user, "chat:a") for user in ("<script>", "ann", "bob")]
    try:
        shown = page(server, "connections?limit=2&sort=user")
        assert ([row["userId"] for row in shown["connections"]], shown["total"]) == (["<script>", "ann"], 3)
        assert shown["connections"][0]["channelCount"] == 3
        assert "channels" not in shown["connections"][0]
        last = page(server, "connections?limit=2&sort=user&order=desc&skip=2")
        assert [row["userId"] for row in last["connections"]] == ["<script>"]
        assert page(server, "connections?match=ANN")["total"] == 1
        assert page(server, "channels?match=chat%3A") == {
            "channels": [{"channel": "chat:a", "connections": 3, "users": 3}],
            "total": 1,
        }
        user = page(server, "user?userId=%3Cscript%3E")
        assert (user["connectionCount"], user["findings"], user["tasks"]) == (1, [], [])
        assert page(server, "dead") == {"events": [], "total": 0}
    finally:
        for client in clients:
            client.close()


def test_a_dead_event_is_told_without_its_data() -> None:
    event = msgspec.Raw(b'{"id":"1-1","type":"inbox.unread","timestamp":5,"data":{"userId":"42"}}')
    row = _row(DeadEvent("mail", event, "410 Gone", 3, 9))
    assert row == DeadRow("mail", "1-1", "inbox.unread", 5, 3, "410 Gone", 9)


def test_what_cannot_be_asked(server: Server) -> None:
    for path in (
        "connections?limit=0",
        "connections?limit=201",
        "connections?limit=x",
        "connections?skip=10001",
        "connections?sort=token",
        "connections?order=up",
        "connections?userId=a%20b",
        f"connections?match={'x' * 201}",
        "channels?sort=user",
        "user",
        "user?userId=",
        "dead?skip=-1",
    ):
        answer = server.api("GET", f"/api/operators/{path}")
        assert (path, answer.status, answer.body["error"]["code"]) == (path, 400, "INVALID_MESSAGE")


class Listener:
    """A stream of the server side, opened with an API key."""

    def __init__(self, server: Server, channels: str, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._connection.request("GET", f"/sse?channels={channels}", headers={"X-API-Key": key})
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def next(self) -> Any:
        for line in self._answer:
            if line.startswith(b"data: "):
                return json.loads(line.removeprefix(b"data: "))
        raise AssertionError("the stream has ended")

    def refusal(self) -> str:
        code: str = json.loads(self._answer.read())["error"]["code"]
        return code

    def close(self) -> None:
        self._connection.close()


READ, PUBLISH, SOME = "key-that-reads----", "key-that-publishes", "key-of-some-------"
KEYS = [
    {"key": READ, "scopes": ["read", "publish"]},
    {"key": PUBLISH, "scopes": ["publish"]},
    {"key": SOME, "scopes": ["read"], "channels": ["chat:a*"]},
]


def test_a_key_opens_a_stream_of_channels_for_nobody(start_server: Callable[..., Server]) -> None:
    env = {"PUSHSERVER_API__KEYS": json.dumps(KEYS)}
    server = start_server(env=env)
    for channels, key, status, code in (
        ("chat:a", "no-key-of-anybody-", 401, "NOT_AUTHENTICATED"),
        ("chat:a", PUBLISH, 403, "PERMISSION_DENIED"),
        ("user:42", READ, 403, "PERMISSION_DENIED"),
        ("nope:a", READ, 404, "UNKNOWN_CHANNEL"),
        ("chat:b", SOME, 403, "PERMISSION_DENIED"),
    ):
        refused = Listener(server, channels, key)
        assert (refused.status, refused.refusal()) == (status, code)
        refused.close()
    listener = Listener(server, "chat:a", READ)
    with closing(listener), closing(follow(server, "ann", "chat:a")):
        first = listener.next()
        assert (first["type"], first["data"]["channels"]) == ("subscription_success", ["chat:a"])
        assert listener.next()["data"] == {"userId": "ann"}
        present = server.api("GET", "/api/presence?channel=chat:a", key=READ).body["users"]
        assert [user["userId"] for user in present] == ["ann"]
        # Nobody makes it a user's.
        posted = server.api(
            "POST",
            f"/sse/{first['data']['connectionId']}",
            {"type": "auth", "id": 1, "data": {"token": server.token("42")}},
            key=server.token("42"),
        )
        assert posted.status == 404
        server.api("POST", "/api/publish", {"channel": "chat:a", "data": 1}, key=READ)
        assert listener.next()["data"] == 1


def test_the_page_stands_where_the_api_is(start_server: Callable[..., Server]) -> None:
    server = start_server(config="[server]\npage = true\n")
    answer = server.api("GET", "/operators", key="")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    for script in ("operators.js", "operator_tables.js"):
        assert server.api("GET", f"/page/{script}", key="").status == 200


def test_without_a_page_there_is_none_for_operators(server: Server) -> None:
    assert server.api("GET", "/operators", key="").status == 404
