"""Server-sent events over real HTTP: the first message, resumption, tickets, the other way, CORS, closes."""

from __future__ import annotations

import gc
import http.client
import itertools
import json
import shutil
import subprocess
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.test.requesthelper import DummyRequest

from pushserver.app.workers.messages import DrainAll
from pushserver.config.sections import DeliverySection, RateLimitsSection, ServerSection
from pushserver.core import errors
from pushserver.core.positions import Position
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.server import clock, outbox
from pushserver.server.cluster import PostOutcome
from pushserver.server.connection import Connection
from pushserver.server.outbox import Policy
from pushserver.server.reply_room import LONG_REPLIES
from pushserver.server.user_turns import UNDER_WAY
from pushserver.web.admission import Admission
from pushserver.web.context import Context, Sections
from pushserver.web.event_ids import EventIds, positions_of
from pushserver.web.sse import EventStreams, Posted
from pushserver.web.stream_posts import StreamPosts
from pushserver.web.tickets import Tickets
from tests import inside
from tests.fakes import Rig
from tests.harness import ROOT, Server, start, wait_until
from tests.rawsocket import RawSocket, Response

NAMESPACES = """
[heartbeat]
interval = "1s"
[auth]
anonymous = true
[server]
allowed_origins = ["https://app.example"]
max_connections_per_user = 3
[[namespaces]]
name = "doc"
subscribe = "permission"
publish = "permission"
presence = true
history_size = 10
[[namespaces]]
name = "long"
subscribe = "authenticated"
history_size = 200
[[namespaces]]
name = "news"
subscribe = "authenticated"
publish = "authenticated"
history_size = 10
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("sse"), config=NAMESPACES)
    yield running
    running.stop()


class Events:
    """A stream as a client reads it: lines, nothing else."""

    def __init__(self, server: Server, query: str = "", **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self._connection.request("GET", f"/sse{query}", headers={k.replace("_", "-"): v for k, v in headers.items()})
        self.response = self._connection.getresponse()
        self.status = self.response.status
        self.last_id = ""
        self.comments = 0

    def next(self) -> dict[str, Any]:
        """The next message; comments are counted on the way."""
        data: str | None = None
        while True:
            line = self.response.readline().decode()
            assert line, "the stream has ended"
            name, _, value = line.rstrip("\n").partition(":")
            assert name in ("", "id", "data"), line
            if name == "data":
                data = value.strip()
            elif name == "id":
                self.last_id = value.strip()
            elif line.startswith(":"):
                self.comments += 1
            elif data is not None:
                message: dict[str, Any] = json.loads(data)
                return message

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not wanted(message := self.next()):
            pass
        return message

    def close(self) -> None:
        self.response.close()
        self._connection.close()


def token(server: Server, user: str = "42", **claims: Any) -> str:
    return f"Bearer {server.token(user, **claims)}"


def publish(server: Server, channel: str, data: Any) -> None:
    assert server.api("POST", "/api/publish", {"channel": channel, "data": data}).status == 200


def error(events: Events) -> str:
    code: str = json.loads(events.response.read())["error"]["code"]
    return code


def test_the_first_message_says_where_one_stands(server: Server) -> None:
    with closing(Events(server, "?channels=news:a,nope:b", Authorization=token(server))) as events:
        assert events.response.getheader("content-type") == "text/event-stream"
        assert events.response.getheader("x-accel-buffering") == "no"
        first = events.next()
        assert first["type"] == "subscription_success"
        assert first["data"]["channels"] == ["news:a", "system", "user:42"]
        assert first["data"]["rejected"]["nope:b"]["code"] == "UNKNOWN_CHANNEL"
        assert first["data"]["results"]["news:a"]["recovered"] is False
        assert first["data"]["userId"] == "42"
        publish(server, "news:a", {"n": 1})
        push = events.next()
        assert (push["type"], push["channel"], push["data"]) == ("message", "news:a", {"n": 1})
        assert push["offset"] == 1


@pytest.mark.parametrize("way", ["header", "query"])
def test_it_resumes_where_it_stopped(server: Server, way: str) -> None:
    channel, user = f"news:{way}", f"resume-{way}"
    with closing(Events(server, f"?channels={channel}", Authorization=token(server, user))) as events:
        events.next()
        publish(server, channel, 1)
        server.api("POST", "/api/notify", {"userId": user, "data": "a"})
        seen = [events.next()["data"], events.next()["data"]]
        assert sorted(map(str, seen)) == ["1", "a"]
        last = events.last_id
    publish(server, channel, 2)
    server.api("POST", "/api/notify", {"userId": user, "data": "b"})
    headers = {"Last_Event_ID": last} if way == "header" else {}
    query = f"?channels={channel}" + ("" if way == "header" else f"&lastEventId={last}")
    with closing(Events(server, query, Authorization=token(server, user), **headers)) as events:
        result = events.next()["data"]["results"][channel]
        assert result["recovered"] is True
        assert [m["data"] for m in result["messages"]] == [2]
        push = events.next()
        assert (push["channel"], push["data"]) == (f"user:{user}", "b")
        publish(server, channel, 3)
        assert events.next()["data"] == 3


@pytest.mark.full
def test_an_output_is_followed_live_and_resumed_where_the_stream_broke(server: Server) -> None:
    def write(text: str) -> None:
        assert server.api("POST", "/api/tasks/writes/output", {"text": text}).status == 200

    def follow(last: str = "") -> Events:
        headers = {"Last_Event_ID": last} if last else {}
        return Events(server, "?channels=output:main/writes", Authorization=token(server), **headers)

    def begun(events: Events) -> Any:
        return events.next()["data"]["results"]["output:main/writes"]["output"]

    def pushed(events: Events) -> Any:
        push = events.until(lambda message: message["type"] == "output")
        assert push["channel"] == "output:main/writes"
        return push["data"]

    server.api("POST", "/api/tasks", {"taskId": "writes", "userId": "42"})
    write("one ")
    with closing(follow()) as events:
        assert (begun(events)["text"], events.last_id != "") == ("one ", True)
        write("zwölf ")
        assert pushed(events) == {"text": "zwölf "}
        last = events.last_id
    write("drei ")
    with closing(follow(last)) as events:
        start = begun(events)
        assert (start["text"], start["offset"], start["closed"]) == ("drei ", 16, False)
        assert not {"reset", "trimmed"} & set(start)
        write("vier ")
        assert pushed(events) == {"text": "vier "}
        last = events.last_id
    # It ends while nobody is there.
    server.api("POST", "/api/tasks/writes/complete", {"output": {"text": "end"}})
    with closing(follow(last)) as events:
        start = begun(events)
        assert (start["text"], start["offset"], start["closed"]) == ("end", 24, True)


def test_a_long_past_goes_on_behind_the_first_event(server: Server) -> None:
    with closing(Events(server, "?channels=long:a", Authorization=token(server, "long"))) as events:
        events.next()
        publish(server, "long:a", 0)
        events.next()
        last = events.last_id
    text = "x" * 60_000
    for _ in range(8):
        server.api("POST", "/api/broadcast", {"channels": ["long:a"] * 10, "data": text})
    with closing(Events(server, "?channels=long:a", Authorization=token(server, "long"), Last_Event_ID=last)) as events:
        told = events.next()["data"]["results"]["long:a"]
        publish(server, "long:a", "live")
        assert told["recovered"] is True
        assert told["offset"] == told["messages"][-1]["offset"]
        assert 60 < len(told["messages"]) < 70
        rest = [events.next() for _ in range(told["offset"], 82)]
        assert [m["offset"] for m in told["messages"] + rest] == list(range(2, 83))
        assert rest[-1]["data"] == "live"


def test_an_early_event_resumes_every_channel(server: Server) -> None:
    user = "early"
    with closing(Events(server, "?channels=news:early", Authorization=token(server, user))) as events:
        events.next()
        publish(server, "news:early", 1)
        events.next()
        last = events.last_id
    server.api("POST", "/api/notify", {"userId": user, "data": "waiting"})
    with closing(
        Events(server, "?channels=news:early", Authorization=token(server, user), Last_Event_ID=last)
    ) as events:
        events.next()
        events.next()
        held = positions_of(events.last_id, ["news:early", f"user:{user}"])
    assert held["news:early"].offset == 1
    assert held[f"user:{user}"].offset == 1


def test_messages_go_the_other_way_by_post(server: Server) -> None:
    own = {"Authorization": token(server, "poster")}
    with closing(Events(server, **own)) as events:
        to = f"/sse/{events.next()['data']['connectionId']}"

        def post(type: str, id: int, **data: Any) -> dict[str, Any]:
            answer = server.api("POST", to, {"type": type, "id": id, "data": data}, key="", headers=own)
            assert answer.status == 202
            return events.until(lambda m: m.get("id") == id)

        assert post("ping", 1, x="y")["data"]["x"] == "y"
        assert "news:post" in post("subscribe", 2, channels=["news:post"])["data"]["results"]
        published = post("publish", 3, channel="news:post", data="hello")
        assert published["type"] == "published"
        assert post("history", 4, channel="news:post")["data"]["messages"][0]["data"] == "hello"
        assert positions_of(events.last_id, ["news:post"])["news:post"].offset == 1
        assert post("nonsense", 5)["data"]["code"] == "UNKNOWN_MESSAGE_TYPE"
        assert server.api("POST", to, b"x" * 70_000, key="", headers=own).status == 413
        assert server.api("POST", to, b"\xff", key="", headers=own).status == 400
    for path in ("/sse/nobody", "/sse", "/sse/nobody/x"):
        assert server.api("POST", path, {"type": "ping"}, key="", headers=own).status == 404


def test_a_token_for_one_channel_counts_on_a_stream_until_it_is_revoked(server: Server) -> None:
    own = {"Authorization": token(server, "reader")}
    numbers = itertools.count(1)
    with closing(Events(server, "?channels=doc:17", **own)) as events:
        first = events.next()["data"]
        assert first["rejected"]["doc:17"]["code"] == "PERMISSION_DENIED"

        def post(type: str, **data: Any) -> Any:
            message = {"type": type, "id": next(numbers), "data": data}
            assert server.api("POST", f"/sse/{first['connectionId']}", message, key="", headers=own).status == 202
            return events.until(lambda m: m.get("id") == message["id"])["data"]

        def subscribe(text: str) -> Any:
            return post("subscribe", channels=[{"channel": "doc:17", "token": text}])

        bad = {
            "INVALID_TOKEN": server.token("reader", channel="doc:18"),
            "TOKEN_EXPIRED": server.token("reader", channel="doc:17", iat=1_000, exp=2_000),
        }
        for code, text in bad.items():
            assert subscribe(text)["rejected"]["doc:17"]["code"] == code
        assert subscribe(server.token("other", channel="doc:17"))["rejected"]["doc:17"]["code"] == "INVALID_TOKEN"
        good = server.token("reader", channel="doc:17", publish=True, info={"role": "editor"}, jti="j-sse")
        assert "doc:17" in subscribe(good)["results"]
        assert post("presence", channel="doc:17")["users"][0]["info"] == {"role": "editor"}
        assert post("publish", channel="doc:17", data="hello")["offset"] == 1
        publish(server, "doc:17", "and more")
        events.until(lambda m: m.get("data") == "and more")
        assert positions_of(events.last_id, ["doc:17"])["doc:17"].offset == 2
        server.api("POST", "/api/revoke", {"jti": "j-sse", "expiresAt": int((time.time() + 3600) * 1000)})
        ended = events.until(lambda m: m["type"] == "unsubscribed")
        assert (ended["data"]["channel"], ended["data"]["code"]) == ("doc:17", "TOKEN_BLACKLISTED")
        assert post("publish", channel="doc:17", data="too late")["code"] == "PERMISSION_DENIED"


def test_a_stream_takes_messages_from_its_user_alone(server: Server) -> None:
    message = {"type": "ping", "id": 1}

    def post(to: str, credential: str | None, query: str = "") -> int:
        headers = {} if credential is None else {"Authorization": credential}
        return server.api("POST", f"/sse/{to}{query}", message, key="", headers=headers).status

    now = int(time.time())
    expired = "Bearer " + server.token("owner", iat=now - 7200, exp=now - 3600)
    with closing(Events(server, Authorization=token(server, "owner"))) as events:
        stream = events.next()["data"]["connectionId"]
        for bad in ("Bearer rubbish", expired, f"Bearer {server.api_key}"):
            assert (post(stream, bad), post("nobody", bad)) == (401, 401)
        assert post(stream, None, "?ticket=rubbish") == 401
        assert post(stream, None) == 401
        assert post(stream, token(server, "mallory")) == 403
        assert post("nobody", token(server, "owner")) == 404
        assert post(stream, token(server, "owner")) == 202
        ticket = server.api("POST", "/api/tickets", {"userId": "owner", "channels": []}).body["ticket"]
        assert post(stream, None, f"?ticket={ticket}") == 202
    wait_until(lambda: post(stream, token(server, "owner")) == 404)
    with closing(Events(server, "?channels=public:x")) as events:
        assert post(events.next()["data"]["connectionId"], None) == 202


def test_a_streams_own_token_speaks_for_it_within_its_grace(server: Server) -> None:
    now = int(time.time())
    # Leeway is 5 s: it is over soon after the test has begun, but for the stream.
    short = "Bearer " + server.token("brief", iat=now - 60, exp=now - 1)
    with closing(Events(server, Authorization=short)) as events:
        stream = events.next()["data"]["connectionId"]
        other = "Bearer " + server.token("brief", iat=now - 61, exp=now - 1)

        def post(credential: str) -> int:
            answer = server.api(
                "POST", f"/sse/{stream}", {"type": "ping"}, key="", headers={"Authorization": credential}
            )
            return answer.status

        wait_until(lambda: post(other) == 401)
        assert post(short) == 202


def test_a_ticket_opens_a_stream_until_its_user_is_revoked(server: Server) -> None:
    made = server.api("POST", "/api/tickets", {"userId": 7, "channels": ["news:*"], "ttl": "5m"})
    assert made.status == 200
    ticket = made.body["ticket"]
    for _ in range(2):
        with closing(Events(server, f"?channels=news:t&ticket={ticket}")) as events:
            data = events.next()["data"]
            assert (data["userId"], "news:t" in data["channels"]) == ("7", True)
    with closing(Events(server, f"?ticket={ticket}")) as events:
        events.next()
        assert server.api("POST", "/api/revoke", {"userId": "7"}).body["closed"] == 1
        assert events.next()["data"]["code"] == 3503
        assert events.response.read() == b""
    with closing(Events(server, f"?ticket={ticket}")) as events:
        assert (events.status, error(events)) == (401, "TOKEN_BLACKLISTED")
    assert ticket not in server.log


def test_a_ticket_is_no_token_and_a_token_no_ticket(server: Server) -> None:
    ticket = server.api("POST", "/api/tickets", {"userId": "8", "channels": []}).body["ticket"]
    with closing(Events(server, Authorization=f"Bearer {ticket}")) as events:
        assert (events.status, error(events)) == (401, "INVALID_TOKEN")
    with closing(Events(server, f"?ticket={server.token('8')}")) as events:
        assert (events.status, error(events)) == (401, "INVALID_TOKEN")
    for body in ({"userId": "8"}, {"userId": "", "channels": []}, {"userId": "8", "channels": [], "ttl": "soon"}):
        assert server.api("POST", "/api/tickets", body).status == 400


@pytest.mark.parametrize(
    ("claims", "code"),
    [({"exp": 1}, "TOKEN_EXPIRED"), ({"permissions": "x:y"}, "INVALID_TOKEN"), ({"exp": None}, "INVALID_TOKEN")],
)
def test_a_bad_token_is_answered_with_a_status(server: Server, claims: dict[str, Any], code: str) -> None:
    with closing(Events(server, Authorization=token(server, **claims))) as events:
        assert (events.status, error(events)) == (401, code)


def test_without_a_token_there_is_what_anyone_may_hear(server: Server) -> None:
    with closing(Events(server, "?channels=public:a,news:a")) as events:
        data = events.next()["data"]
        assert data["channels"] == ["public:a"]
        assert data["rejected"]["news:a"]["code"] == "NOT_AUTHENTICATED"
        publish(server, "public:a", "all")
        assert events.next()["data"] == "all"


def test_other_origins_need_leave(server: Server) -> None:
    preflight = server.api("OPTIONS", "/sse", key="", headers={"Origin": "https://app.example"})
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "Last-Event-ID" in preflight.headers["access-control-allow-headers"]
    assert server.api("OPTIONS", "/sse", key="", headers={"Origin": "https://evil.example"}).status == 403
    assert server.api("GET", "/sse", key="", headers={"Origin": "null"}).status == 403
    assert server.api("PUT", "/sse", key="").status == 405
    assert server.api("GET", "/sse/x", key="").status == 404


def test_heartbeats_are_comments(server: Server) -> None:
    with closing(Events(server, Authorization=token(server, "beat"))) as events:
        events.next()
        line = events.response.readline()
        assert line.startswith(b":")


def test_a_user_with_too_many_streams_is_told(server: Server) -> None:
    open_ = [Events(server, Authorization=token(server, "many")) for _ in range(3)]
    try:
        for events in open_:
            events.next()
        with closing(Events(server, Authorization=token(server, "many"))) as one_more:
            assert (one_more.status, error(one_more)) == (429, "LIMIT_EXCEEDED")
            assert one_more.response.getheader("content-type") == "application/json"
    finally:
        for events in open_:
            events.close()
    wait_until(lambda: not server.api("GET", "/api/connections?userId=many").body["connections"])


def test_nothing_of_a_stream_stays(server: Server) -> None:
    with closing(Events(server, "?channels=news:stay", Authorization=token(server, "stay"))) as events:
        events.next()
        (listed,) = server.api("GET", "/api/connections?userId=stay").body["connections"]
        assert (listed["protocol"], "news:stay" in listed["channels"]) == ("sse", True)
    wait_until(lambda: not server.api("GET", "/api/connections?userId=stay").body["connections"])
    wait_until(lambda: not server.api("GET", "/api/channels?pattern=news:stay").body["channels"])


def test_going_away_is_said_and_the_server_ends(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with closing(Events(server, Authorization=token(server))) as events:
        events.next()
        assert server.terminate() == -15
        assert events.next()["type"] == "going_away"
        assert events.next()["data"]["code"] == 3001


def test_the_browser_client_falls_back_to_it(start_server: Callable[..., Server]) -> None:
    server = start_server(dev=True)
    node = shutil.which("node") or "node"
    walk = subprocess.Popen(
        [node, str(ROOT / "tests/js/sse_walk.mjs"), server.ws_url, server.token("9")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert walk.stdout is not None
        assert walk.stdout.readline() == "ready\n"
        for n in range(3):
            publish(server, "demo:sse", n)
        server.api("POST", "/api/notify", {"userId": "9", "data": {"n": 1}})
        wait_until(lambda: server.api("GET", "/api/inbox?userId=9").body["acked"] == 1)
        server.api("POST", "/api/disconnect", {"userId": "9"})
        said = json.loads(walk.stdout.readline())
        assert said == {"seen": ["own", 0, 1, 2], "inbox": [1], "pong": 1, "transport": "sse", "code": 3503}
    finally:
        walk.kill()
        walk.wait()


@pytest.mark.parametrize(
    ("close", "status", "code"),
    [
        (errors.CONNECTION_LIMIT, 429, "LIMIT_EXCEEDED"),
        (errors.EXPIRED, 401, "TOKEN_EXPIRED"),
        (errors.SHUTDOWN, 503, "UNAVAILABLE"),
        (errors.SLOW, 503, "UNAVAILABLE"),
        (errors.DISCONNECTED, 403, "PERMISSION_DENIED"),
        (errors.Close(4321, "because"), 403, "PERMISSION_DENIED"),
    ],
)
async def test_a_stream_that_is_closed_before_it_begins_is_answered_with_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close: errors.Close, status: int, code: str
) -> None:
    async with inside.running(tmp_path) as running:
        node = running.service.node
        sign_in = node.requests.sign_in

        async def closed_meanwhile(connection: Connection, *arguments: Any) -> None:
            await sign_in(connection, *arguments)
            connection.close(close)

        monkeypatch.setattr(node.requests, "sign_in", closed_meanwhile)
        answer = await deferToThread(open_stream, running.port, ("Authorization", f"Bearer {inside.token('7')}"))
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
        assert node.counters.closes[close.code] == 1
        await running.until(lambda: not node.hub.connections)


@pytest.mark.parametrize(("step", "header"), [("sign_in", "Authorization"), ("follow", "X-API-Key")])
async def test_a_stream_that_is_closed_while_it_opens_is_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, header: str
) -> None:
    async with inside.running(tmp_path) as running:
        node = running.service.node
        waiting: list[Deferred[None]] = []

        async def never(*arguments: Any) -> None:
            waiting.append(Deferred())
            await waiting[-1]

        monkeypatch.setattr(node.requests, step, never)
        credential = inside.API_KEY if header == "X-API-Key" else f"Bearer {inside.token('7')}"
        answered = deferToThread(open_stream, running.port, (header, credential))
        await running.until(lambda: waiting)
        for connection in list(node.hub.connections.values()):
            connection.close(errors.DISCONNECTED)
        answer = await answered
        assert (answer.status, answer.json["error"]["code"]) == (403, "PERMISSION_DENIED")
        await running.until(lambda: not running.remembered(), running.remembered)


async def test_a_stream_that_was_let_in_before_a_drain_does_not_begin_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside.running(tmp_path) as running:
        node = running.service.node
        waiting: list[Deferred[None]] = []

        async def wait(*arguments: Any) -> None:
            waiting.append(Deferred())
            await waiting[-1]

        monkeypatch.setattr(node.authenticator, "check", wait)
        answered = deferToThread(open_stream, running.port, ("Authorization", f"Bearer {inside.token('7')}"))
        await running.until(lambda: waiting)
        assert await running.service.carry_out(DrainAll(None)) == 0
        monkeypatch.undo()
        waiting[0].callback(None)
        answer = await answered
        assert (answer.status, answer.json["error"]["code"]) == (503, "UNAVAILABLE")
        assert not node.hub.connections


async def test_what_the_server_gives_up_by_itself_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with inside.running(tmp_path) as running:

        async def cancelled(*arguments: Any) -> None:
            raise CancelledError

        monkeypatch.setattr(running.service.node.authenticator, "check", cancelled)
        answer = await deferToThread(open_stream, running.port, ("Authorization", f"Bearer {inside.token('7')}"))
        assert (answer.status, answer.json["error"]["code"]) == (503, "UNAVAILABLE")


async def test_who_leaves_while_a_stream_opens_is_gone_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside.running(tmp_path) as running:
        node = running.service.node
        waiting: list[Deferred[None]] = []

        async def never(*arguments: Any) -> None:
            waiting.append(Deferred())
            await waiting[-1]

        monkeypatch.setattr(node.requests, "sign_in", never)
        raw = await deferToThread(ask_for_stream, running.port, inside.token("7"))
        await running.until(lambda: waiting)
        raw.close()
        await running.until(lambda: waiting[0].called)
        assert not node.hub.connections


def ask_for_stream(port: int, token: str) -> RawSocket:
    raw = RawSocket(port)
    raw.request("GET", "/sse?channels=public:a", headers=[("Authorization", f"Bearer {token}")])
    return raw


def open_stream(port: int, credential: tuple[str, str]) -> Response:
    with RawSocket(port) as raw:
        raw.request("GET", "/sse?channels=public:a", headers=[credential])
        return raw.response()


class PaperRequest(DummyRequest):  # type: ignore[misc]
    """A request for a stream whose socket can be blocked, so that what is sent waits."""

    def __init__(self, token: str, channels: str, last_id: str = "") -> None:
        super().__init__([])
        self.requestHeaders.addRawHeader("authorization", f"Bearer {token}")
        if last_id:
            self.requestHeaders.addRawHeader("last-event-id", last_id)
        self.args = {b"channels": [channels.encode()]}
        self.transport = SimpleNamespace(getPeer=lambda: IPv4Address("TCP", "192.0.2.1", 1))
        self.blocked = self.aborted = False
        self.producer: Any = None
        self.channel = self

    def forceAbortClient(self) -> None:
        self.aborted = True
        self.processingFailed(Failure(ConnectionLost()))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, octets: bytes) -> None:
        super().write(octets)
        if self.blocked:
            self.producer.pauseProducing()

    def unblock(self) -> None:
        self.blocked = False
        self.producer.resumeProducing()

    @property
    def events(self) -> list[tuple[str, Any]]:
        """The ids and the messages so far; an id holds until there is another."""
        found, id = [], ""
        for event in b"".join(self.written).decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
            id = fields.get("id", id)
            if "data" in fields:
                found.append((id, json.loads(fields["data"])))
        return found

    @property
    def data(self) -> list[Any]:
        """What was pushed to the stream."""
        return [message["data"] for _, message in self.events if "channel" in message]


async def _tickets() -> Tickets:
    return Tickets(bytes(32), 3_600_000)


class Streams:
    """The door, under a clock of its own, on a node without sockets."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.clock = Clock()
        self.node = rig.node

    async def open(self, policy: Policy, channels: str, last_id: str = "", blocked: bool = False) -> PaperRequest:
        request, opened = await self.begin(policy, channels, last_id, blocked)
        await opened
        return request

    async def begin(
        self, policy: Policy, channels: str, last_id: str = "", blocked: bool = False
    ) -> tuple[PaperRequest, Deferred[None]]:
        """Open a stream; return with it what fires when it has begun."""
        rig, node = self.rig, self.node
        admission = Admission(
            allowed_origins=(),
            trusted_proxies=(),
            loopback_only=False,
            max_connections=100,
            open_now=lambda: 0,
            connects=KeyedTokenBuckets(0),
            now=rig.now,
        )
        context = Context(
            reactor=self.clock,
            clock=clock.Clock(self.clock, rig.now),
            rooms=rig.rooms,
            counters=node.counters,
            admission=admission,
            sections=Sections(
                server=ServerSection(max_message_size=1_000),
                delivery=DeliverySection(max_queue_size=1_500, slow_consumer=policy.value),
                rate_limits=RateLimitsSection(messages_per_second=0),
            ),
        )
        self.posts = StreamPosts(context)
        door = EventStreams(context, _tickets, self.posts)
        self.door = door
        request = PaperRequest(rig.token("ann"), channels, last_id)
        request.blocked = blocked
        opened = Deferred.fromCoroutine(door._open(request))
        await rig.until_idle()
        return request, opened

    async def publish(self, channel: str, *values: Any) -> None:
        for value in values:
            await self.rig.execute("publish", channel=channel, data=value)
            await self.rig.until_idle()


@pytest_twisted.async_yield_fixture
async def streams(tmp_path: Path) -> AsyncIterator[Streams]:
    rig = await Rig(tmp_path, '[[namespaces]]\nname = "kept"\nhistory_size = 100').start()
    yield Streams(rig)
    await rig.stop()


@pytest.mark.parametrize("policy", [Policy.DROP_OLDEST, Policy.LATEST])
async def test_a_stream_ends_where_a_message_with_a_position_is_left_out(streams: Streams, policy: Policy) -> None:
    request = await streams.open(policy, "kept:a,kept:b")
    request.blocked = True
    for n in range(20):
        await streams.publish("kept:a", f"a{n}")
        await streams.publish("kept:b", f"b{n}")
    # The socket drains before the stream is ended: what waits by then tells of what was left out.
    request.unblock()
    assert request.data == ["a0"]
    streams.clock.advance(0)
    last_id, goodbye = request.events[-1]
    assert (goodbye["type"], goodbye["data"]["code"]) == ("closed", 3008)
    assert request.finished
    assert streams.node.counters.slow_consumers == 1
    assert streams.node.counters.messages_left_out > 0
    again = await streams.open(policy, "kept:a,kept:b", last_id)
    results = again.events[0][1]["data"]["results"]
    missed = [message["data"] for name in ("kept:a", "kept:b") for message in results[name]["messages"]]
    assert missed == [f"a{n}" for n in range(1, 20)] + [f"b{n}" for n in range(20)]
    again.finish()


async def test_a_user_has_a_few_streams_whose_long_first_event_is_unread(streams: Streams) -> None:
    request = await streams.open(Policy.DISCONNECT, "kept:a")
    last_id = request.events[-1][0]
    request.finish()
    await streams.publish("kept:a", *["x" * 50_000] * 10)

    async def told(blocked: bool) -> tuple[PaperRequest, int]:
        request = await streams.open(Policy.DISCONNECT, "kept:a", last_id, blocked)
        return request, len(request.events[0][1]["data"]["results"]["kept:a"]["messages"])

    unread = [await told(blocked=True) for _ in range(LONG_REPLIES + 1)]
    assert [count for _, count in unread] == [10] * LONG_REPLIES + [5]
    # One that is read, and one that ends, leave their places to others.
    unread[0][0].unblock()
    unread[1][0].finish()
    unread += [await told(blocked=True) for _ in range(3)]
    assert [count for _, count in unread[LONG_REPLIES + 1 :]] == [10, 10, 5]
    for request, _ in unread:
        if not request.finished:
            request.finish()


async def test_a_stream_that_is_closed_while_it_waits_for_its_turn_takes_no_place_of_its_user(streams: Streams) -> None:
    hub = streams.node.hub
    for _ in range(UNDER_WAY):
        hub.turns.begin("ann")
    _, opened = await streams.begin(Policy.DISCONNECT, "public:a")
    assert hub.close(list(hub.connections.values()), errors.SHUTDOWN) == 1
    for _ in range(UNDER_WAY):
        hub.turns.end("ann")
    await streams.rig.until_idle()
    await opened.addErrback(lambda _: None)
    assert not hub.of_user("ann")


async def test_a_stream_that_waits_for_its_turn_for_long_is_not_taken_for_one_without_a_token(streams: Streams) -> None:
    hub = streams.node.hub
    for _ in range(UNDER_WAY):
        hub.turns.begin("ann")
    request, opened = await streams.begin(Policy.DISCONNECT, "public:a")
    (connection,) = hub.connections.values()
    await streams.rig.advance(11)
    assert connection.closing == errors.INTERNAL
    request.finish()
    for _ in range(UNDER_WAY):
        hub.turns.end("ann")
    await streams.rig.until_idle()
    await opened.addErrback(lambda _: None)


async def test_a_stream_goes_on_where_what_is_left_out_has_no_position(streams: Streams) -> None:
    request = await streams.open(Policy.DROP_OLDEST, "public:a,kept:a")
    request.blocked = True
    await streams.publish("kept:a", "kept")
    await streams.publish("public:a", *range(30))
    request.unblock()
    streams.clock.advance(0)
    await streams.publish("kept:a", "on")
    assert (request.data[0], request.data[-2:]) == ("kept", [29, "on"])
    assert len(request.data) < 30
    assert not request.finished
    request.finish()


async def test_the_first_id_does_not_tell_of_what_waits_behind_it(streams: Streams) -> None:
    for n in range(3):
        await streams.rig.execute("notify", userId="ann", data=n)
    request = await streams.open(Policy.DISCONNECT, "kept:a")
    await streams.rig.until_idle()
    assert request.data == [0, 1, 2]
    offsets = [positions_of(id, ["user:ann"])["user:ann"].offset for id, message in request.events]
    assert offsets == [0, 1, 2, 3]
    request.finish()


async def test_what_waits_behind_the_first_event_resumes_every_channel(streams: Streams) -> None:
    await streams.rig.execute("notify", userId="ann", data="waiting")
    request = await streams.open(Policy.DISCONNECT, "kept:a,kept:b")
    await streams.rig.until_idle()
    assert request.data == ["waiting"]
    last_id, _ = request.events[-1]
    request.finish()
    await streams.publish("kept:a", "missed")
    again = await streams.open(Policy.DISCONNECT, "kept:a,kept:b", last_id)
    results = again.events[0][1]["data"]["results"]
    assert [message["data"] for message in results["kept:a"]["messages"]] == ["missed"]
    assert [results[name]["recovered"] for name in ("kept:a", "kept:b")] == [True, True]
    assert again.data == []
    again.finish()


def test_an_id_that_is_none_holds_nothing() -> None:
    for text in (None, "", "x", "!!!", "eyJhIjoxfQ", "W10", "é"):
        assert positions_of(text, ["a"]) == {}
    ids = EventIds()
    ids.set("news:a", 3, "e")
    assert positions_of(ids.id().decode(), ["news:a", "news:b"]) == {"news:a": Position(3, "e")}


async def test_a_stream_that_takes_nothing_ends_and_one_that_takes_something_stays(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, sleeps = [await streams.open(Policy.DISCONNECT, "public:a") for _ in range(2)]
    taken = iter(range(1_000_000))
    monkeypatch.setattr(outbox, "progress", lambda body: (next(taken) if body._request is reads else 0, 1_000))
    reads.blocked = sleeps.blocked = True
    await streams.publish("public:a", "waits")
    for _ in range(60):
        streams.rig.clock.advance(1)
    await streams.rig.until_idle()
    assert (sleeps.aborted, reads.aborted) == (True, False)
    assert streams.node.counters.closes[3012] == 1
    monkeypatch.setattr(outbox, "progress", lambda body: (next(taken), 0))
    reads.unblock()
    # It is asked again, as ever, from when nothing waits.
    reads.written.clear()
    for _ in range(30):
        streams.rig.clock.advance(1)
    assert b":" in b"".join(reads.written)
    assert reads.events == []
    reads.finish()


async def test_a_stream_whose_network_is_gone_ends_though_nothing_waits_for_it_here(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, slow, full, quick = every = [await streams.open(Policy.DISCONNECT, "public:a") for _ in range(4)]
    taken = iter(range(1_000_000))

    def progress(body: Any) -> tuple[int, int]:
        return {gone: (7, 100), slow: (next(taken), 100), full: (8, 100), quick: (9, 0)}[body._request]

    monkeypatch.setattr(outbox, "progress", progress)
    # Who has no room for more has acknowledged all that was sent.
    monkeypatch.setattr(outbox, "in_flight", lambda body: body._request is not full)
    for request in every:
        request.written.clear()
    for _ in range(60):
        streams.rig.clock.advance(1)
    await streams.rig.until_idle()
    assert [request.finished for request in every] == [True, False, False, False]
    assert streams.node.counters.closes[3012] == 1
    # The others have their signs of life as ever.
    assert all(len(request.written) >= 2 for request in every[1:])
    for request in every[1:]:
        request.finish()


async def test_who_does_not_read_its_answers_is_not_asked_for_more(streams: Streams) -> None:
    request = await streams.open(Policy.DISCONNECT, "public:a")
    (stream_id,) = streams.node.hub.connections
    request.blocked = True

    def post() -> PostOutcome:
        return streams.posts.receive(stream_id, msgspec.json.encode(Posted('{"type": "ping"}', "ann", "")).decode())

    assert [post() for _ in range(18)] == [PostOutcome.TAKEN] * 17 + [PostOutcome.UNREAD]
    request.unblock()
    await streams.rig.until_idle()
    assert post() is PostOutcome.TAKEN
    assert sum(message["type"] == "pong" for _, message in request.events) == 18
    request.finish()


@pytest.mark.parametrize("cut", [True, False])
async def test_nothing_keeps_a_stream_that_has_ended(streams: Streams, cut: bool) -> None:
    gc.disable()
    try:
        request = await streams.open(Policy.DISCONNECT, "public:a")
        (connection,) = streams.node.hub.connections.values()
        of_it = [weakref.ref(each) for each in (connection, connection.line)]
        if cut:
            request.processingFailed(Failure(ConnectionLost()))
        else:
            connection.close(errors.DISCONNECTED)
        del request, connection
        await streams.rig.until_idle()
        # None waits for a round over all that is kept, which may be hours away.
        assert [each() for each in of_it] == [None, None]
    finally:
        gc.enable()
