"""The inbox over every door of a real server: WebSocket, a stream with POST, the HTTP API."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness import Server, start
from tests.rawsocket import RawSocket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("inbox"))
    yield running
    running.stop()


class Stream:
    """A user's event stream, and the messages that are posted to it."""

    def __init__(self, server: Server, user: str) -> None:
        self._server = server
        self._headers = {"Authorization": f"Bearer {server.token(user)}"}
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._connection.request("GET", "/sse", headers=self._headers)
        self._response = self._connection.getresponse()
        self.first = self.message()

    def message(self) -> Any:
        while not (line := self._response.readline()).startswith(b"data:"):
            assert line, "the stream has ended"
        return json.loads(line.removeprefix(b"data:"))

    def ask(self, message: dict[str, Any]) -> Any:
        """Post a request and return the reply to it, which comes by the stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        path = f"/sse/{self.first['data']['connectionId']}"
        connection.request("POST", path, json.dumps(message), self._headers)
        assert connection.getresponse().status in (200, 202, 204)
        connection.close()
        while (said := self.message()).get("id") != message["id"]:
            pass
        return said

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def counts(notification: int) -> dict[str, int]:
    return {"notification": notification, "chat": 0, "task": 0}


def notify(server: Server, user: str, count: int) -> str:
    """Put messages into an inbox; return its epoch."""
    for n in range(count):
        answer = server.api("POST", "/api/notify", {"userId": user, "data": {"n": n}})
        assert answer.status == 200
    return str(answer.body["results"][0]["epoch"])


def changed(connection: Any) -> Any:
    """The next change of the inbox that a connection is told of."""
    while (said := connection.message())["type"] != "inbox_changed":
        pass
    return said["data"]


def test_every_device_knows_what_another_did(server: Server) -> None:
    epoch = notify(server, "ann", 3)
    with ExitStack() as stack:
        socket = stack.enter_context(RawSocket(server.port))
        socket.upgrade()
        auth = socket.ask({"type": "auth", "id": 1, "data": {"token": server.token("ann")}})
        assert auth["data"]["inbox"]["unread"] == counts(3)
        stream = Stream(server, "ann")
        stack.callback(stream.close)
        marked = stream.ask({"type": "inbox_read", "id": "r", "data": {"epoch": epoch, "offsets": [2]}})
        assert marked["data"] == {"unread": counts(2)}
        read_at = changed(socket)["readAt"]
        listed = socket.ask({"type": "inbox", "id": 2, "data": {"limit": 2}})["data"]
        assert [(each["offset"], each["readAt"]) for each in listed["messages"]] == [(3, None), (2, read_at)]
        gone = socket.ask({"type": "inbox_delete", "id": 3, "data": {"epoch": epoch, "upTo": 2}})["data"]
        assert gone == {"deleted": 2, "unread": counts(1)}
        assert changed(stream) == {"upTo": 2, "epoch": epoch, "deleted": True, "unread": counts(1)}
        body = {"userId": "ann", "epoch": epoch, "offsets": [3]}
        assert server.api("POST", "/api/inbox/read", body).body == {"unread": counts(0)}
        assert changed(socket)["unread"] == changed(stream)["unread"] == counts(0)
        assert server.api("DELETE", "/api/inbox?userId=ann").body == {"deleted": 1}
        assert changed(socket) == changed(stream) == {"upTo": 3, "epoch": epoch, "deleted": True, "unread": counts(0)}


def test_the_server_side_pages_through_an_inbox(server: Server) -> None:
    epoch = notify(server, "bob", 5)
    whole = server.api("GET", "/api/inbox?userId=bob").body
    assert [each["offset"] for each in whole["messages"]] == [1, 2, 3, 4, 5]
    assert (whole["unread"], whole["acked"], whole["epoch"]) == (counts(5), 0, epoch)
    page = server.api("GET", "/api/inbox?userId=bob&limit=2").body
    assert set(page) == {"messages", "more", "unread", "offset", "epoch"}
    assert ([each["offset"] for each in page["messages"]], page["more"]) == ([5, 4], True)
    page = server.api("GET", f"/api/inbox?userId=bob&limit=9&before=4&epoch={epoch}").body
    assert ([each["offset"] for each in page["messages"]], page["more"]) == ([3, 2, 1], False)
    body = {"userId": "bob", "epoch": epoch, "offsets": [5, 3]}
    assert server.api("POST", "/api/inbox/read", body).body == {"unread": counts(3)}
    page = server.api("GET", "/api/inbox?userId=bob&limit=9&unread=true").body
    assert [each["offset"] for each in page["messages"]] == [4, 2, 1]
    # Without a limit all, oldest first.
    page = server.api("GET", "/api/inbox?userId=bob&unread=true").body
    assert [each["offset"] for each in page["messages"]] == [1, 2, 4]
    assert set(page) == {"messages", "unread", "offset", "epoch", "acked"}
    page = server.api("GET", f"/api/inbox?userId=bob&before=4&epoch={epoch}").body
    assert [each["offset"] for each in page["messages"]] == [1, 2, 3]
    assert [type(each["readAt"]) for each in server.api("GET", "/api/inbox?userId=bob").body["messages"]] == [
        type(None), type(None), int, type(None), int
    ]  # fmt: skip
    body = {"userId": "bob", "epoch": epoch, "upTo": 5, "read": False}
    assert server.api("POST", "/api/inbox/read", body).body == {"unread": counts(5)}
    body = {"userId": "bob", "epoch": epoch, "upTo": 4}
    assert server.api("POST", "/api/inbox/delete", body).body == {"deleted": 4, "unread": counts(1)}


def test_a_batch_reads_and_deletes(server: Server) -> None:
    epoch = notify(server, "7", 3)
    commands = [
        {"method": "inbox.read", "params": {"userId": 7, "epoch": epoch, "offsets": [1]}},
        {"method": "inbox.delete", "params": {"userId": "7", "epoch": "another", "upTo": 3}},
        {"method": "inbox.delete", "params": {"userId": "7", "epoch": epoch, "upTo": 2}},
    ]
    replies = server.api("POST", "/api/batch", {"commands": commands}).body["replies"]
    assert replies[0] == {"result": {"unread": counts(2)}}
    assert replies[1]["error"]["code"] == "CONFLICT"
    assert replies[2] == {"result": {"deleted": 2, "unread": counts(1)}}


GET_INBOX = "/api/inbox?userId=carl"
WRONG: list[tuple[str, str, Any, int]] = [
    ("GET", f"{GET_INBOX}&limit=0", None, 400),
    ("GET", f"{GET_INBOX}&limit=201", None, 400),
    ("GET", f"{GET_INBOX}&limit=many", None, 400),
    ("GET", f"{GET_INBOX}&before=-1&epoch=E", None, 400),
    ("GET", f"{GET_INBOX}&before=2", None, 400),
    ("GET", f"{GET_INBOX}&before=2&epoch=another", None, 409),
    ("POST", "/api/inbox/read", {"epoch": "E", "offsets": [1]}, 400),
    ("POST", "/api/inbox/read", {"userId": "a b", "epoch": "E", "offsets": [1]}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "offsets": [1]}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "epoch": "E"}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "epoch": "E", "offsets": [1], "upTo": 1}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "epoch": "E", "offsets": []}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "epoch": "E", "offsets": [1] * 201}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "epoch": "E", "upTo": 10_000}, 400),
    ("POST", "/api/inbox/read", {"userId": "carl", "epoch": "another", "upTo": 1}, 409),
    ("POST", "/api/inbox/delete", {"userId": "carl", "epoch": "E", "offsets": [-1]}, 400),
    ("POST", "/api/inbox/delete", {"userId": "carl", "epoch": "another", "upTo": 1}, 409),
    ("POST", "/api/inbox/none", {"userId": "carl"}, 404),
    ("GET", "/api/inbox/read", None, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), WRONG)
def test_what_makes_no_sense_is_refused(server: Server, method: str, path: str, body: Any, status: int) -> None:
    epoch = notify(server, "carl", 1)
    if body is not None and body.get("epoch") == "E":
        body = {**body, "epoch": epoch}
    answer = server.api(method, path.replace("epoch=E", f"epoch={epoch}"), body)
    assert answer.status == status, answer
    code = {400: "INVALID_MESSAGE", 404: "NOT_FOUND", 405: "INVALID_MESSAGE", 409: "CONFLICT"}[status]
    assert answer.body["error"]["code"] == code
