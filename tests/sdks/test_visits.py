"""Client SDKs of Centrifugo, unmodified, against a real server: what each of them has, over each way that it knows, on
both engines and on two workers; through a killed server, tokens that end, and a drain."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, start, wait_until
from tests.rawsocket import RawSocket
from tests.sdks.programs import go_crowd, go_version, go_visit, java_crowd, java_version, java_visit

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parent
CONFIG = """
[server]
max_connections_per_user = 2000
[auth]
refresh_grace = "60s"
[centrifuge]
enabled = true
[heartbeat]
interval = "{interval}"
timeout = "20s"
[[namespaces]]
name = "news"
publish = "authenticated"
history_size = 100
presence = true
join_leave = true
[[namespaces]]
name = "$docs"
"""
ENGINES = ("embedded", "redis", "workers")
#: Clients that are drained, and how long that may take, s.
CROWD, WINDOW = 1_000, 20
#: s that a step may take, on a machine that is busy with other tests
DEADLINE = 60.0

#: What starts each SDK's program.
SDKS: dict[str, Callable[[], list[str | Path]]] = {
    "centrifuge-python": lambda: [sys.executable, FOLDER / "visit.py"],
    "centrifuge-js": lambda: ["node", FOLDER / "node" / "visit.mjs"],
    "centrifuge-go": lambda: [go_visit()],
    "centrifuge-java": java_visit,
}
#: What starts many clients of an SDK in one process.
CROWDS: dict[str, Callable[[], list[str | Path]]] = {
    "centrifuge-python": lambda: [sys.executable, FOLDER / "crowd.py"],
    "centrifuge-js": lambda: ["node", FOLDER / "node" / "crowd.mjs"],
    "centrifuge-go": lambda: [go_crowd()],
    "centrifuge-java": java_crowd,
}
#: What each SDK has. Left out: Protobuf over sse, which is text; Python, Go and Java know WebSockets alone, and Java
#: Protobuf alone.
VISITS = [
    *((sdk, "websocket", "json") for sdk in SDKS if sdk != "centrifuge-java"),
    *((sdk, "websocket", "protobuf") for sdk in SDKS),
    ("centrifuge-js", "http_stream", "json"),
    ("centrifuge-js", "http_stream", "protobuf"),
    ("centrifuge-js", "sse", "json"),
]


class Visitor:
    """One SDK in a process of its own: words in, and what it says."""

    def __init__(self, sdk: str, address: str, codec: str, *tokens: str) -> None:
        self._process = subprocess.Popen(
            [*SDKS[sdk](), address, codec, *tokens], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[Any] = queue.Queue()
        self.said: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.next_like(lambda said: said["what"] == "ready")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def do(self, *word: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(word) + "\n")
        self._process.stdin.flush()

    def next_like(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the next thing that is like this."""
        while True:
            try:
                said = self._lines.get(timeout=DEADLINE)
            except queue.Empty:
                raise AssertionError(self.said[-5:]) from None
            self.said.append(said)
            if wanted(said):
                return said  # type: ignore[no-any-return]

    def ask(self, *word: Any) -> dict[str, Any]:
        self.do(*word)
        found = self.next_like(lambda said: said.get("word") == word[0])
        assert found["what"] == "done", found
        return found

    def publications(self, channel: str, count: int) -> list[dict[str, Any]]:
        """Wait until so many messages came on a channel, and return all."""

        def came() -> list[dict[str, Any]]:
            return [
                said
                for said in self.said
                if said["what"] == "publication" and said["channel"] == channel and said.get("offset")
            ]

        while len(came()) < count:
            self.next_like(lambda said: said["what"] == "publication")
        return came()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Stage:
    """A server that can be killed and started again where it was, its Redis, and its visitors."""

    def __init__(self, place: Path, engine: str, interval: str) -> None:
        """``interval``: between two pings."""
        self._place = place
        self._config = CONFIG.format(interval=interval)
        self._redis = None if engine == "embedded" else RedisServer(place / "redis").start()
        self._options = () if self._redis is None else ("--redis", self._redis.url)
        if engine == "workers":
            self._options += ("--workers", "2")
        self._visitors: list[Visitor] = []
        self.server = start(place, *self._options, config=self._config)

    def address(self, transport: str, codec: str) -> str:
        query = "?cf_protocol=protobuf" if codec == "protobuf" and transport == "websocket" else ""
        scheme = "ws" if transport == "websocket" else "http"
        return f"{scheme}://127.0.0.1:{self.server.port}/connection/{transport}{query}"

    def visitor(self, sdk: str, transport: str, codec: str, *tokens: str) -> Visitor:
        visitor = Visitor(sdk, self.address(transport, codec), codec, *tokens)
        self._visitors.append(visitor)
        return visitor

    def restart(self) -> None:
        before: Server = self.server
        before.kill()
        before.wait()
        self.server = start(
            self._place,
            *self._options,
            config=self._config,
            port=before.port,
            secret=before.secret,
            api_key=before.api_key,
        )

    def api(self, call: str, **body: Any) -> Any:
        answer = self.server.api("POST", f"/api/{call}", body)
        assert answer.status in (200, 201), answer
        return answer.body

    def stop(self) -> None:
        for visitor in self._visitors:
            visitor.stop()
        self.server.stop()
        if self._redis is not None:
            self._redis.kill()


def version_of(sdk: str) -> str:
    if sdk == "centrifuge-python":
        return version(sdk)
    if sdk == "centrifuge-go":
        return go_version(sdk)
    if sdk == "centrifuge-java":
        return java_version()
    package = FOLDER / "node" / "node_modules" / "centrifuge" / "package.json"
    found: str = json.loads(package.read_text())["version"]
    return found


@pytest.fixture
def engine() -> str:
    return "embedded"


@pytest.fixture
def interval() -> str:
    return "1s"


@pytest.fixture
def stage(tmp_path: Path, engine: str, interval: str) -> Iterator[Stage]:
    stage = Stage(tmp_path, engine, interval)
    try:
        yield stage
    finally:
        stage.stop()


def is_of_task(said: dict[str, Any], type: str) -> bool:
    return said["what"] == "publication" and said["tags"]["type"] == type


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("sdk", "transport", "codec"), VISITS)
def test_a_visit(stage: Stage, engine: str, sdk: str, transport: str, codec: str) -> None:
    print(f"\n{sdk} {version_of(sdk)}, {transport}, {codec}, {engine}")
    for n in range(2):
        stage.api("notify", userId="ann", data=n)
    ann = stage.visitor(sdk, transport, codec, stage.server.token("ann"))
    ann.do("connect")
    ann.next_like(lambda said: said["what"] == "connected")
    assert [p["data"] for p in ann.publications("user:ann", 2)] == [0, 1]
    ann.do("subscribe", "news:a")
    assert ann.next_like(lambda said: said["what"] == "subscribed" and not said["server"])["channel"] == "news:a"
    ann.ask("publish", "news:a", {"n": 1})
    (first,) = ann.publications("news:a", 1)
    assert (first["data"], first["offset"], first["tags"]["type"]) == ({"n": 1}, 1, "message")
    kept = ann.ask("history", "news:a")
    assert (kept["offset"], kept["data"]) == (1, [{"n": 1}])
    assert ann.ask("history", "news:a", {"offset": 0, "epoch": kept["epoch"]})["data"] == [{"n": 1}]
    assert ann.ask("history", "news:a", {"offset": 1, "epoch": kept["epoch"]})["data"] == []
    assert ann.ask("presence", "news:a")["users"] == ["ann"]
    stats = ann.ask("presence_stats", "news:a")
    assert (stats["clients"], stats["users"]) == (1, 1)
    session = ann.ask("rpc", "session", {})["data"]
    assert session["userId"] == "ann"
    acknowledged = ann.ask("rpc", "ack", {"offset": 2, "epoch": session["inbox"]["epoch"]})
    assert acknowledged["data"] == {"offset": 2}
    with RawSocket(stage.server.port) as bob:
        bob.upgrade()
        bob.ask({"type": "auth", "id": 1, "data": {"token": stage.server.token("bob")}})
        bob.ask({"type": "subscribe", "id": 2, "data": {"channels": ["news:a"]}})
        ann.next_like(lambda said: said["what"] == "join" and said["user"] == "bob")
    ann.next_like(lambda said: said["what"] == "leave" and said["user"] == "bob")

    # Its tasks come to it without being asked for, and their ends to the inbox.
    stage.api("tasks", taskId="t", userId="ann")
    stage.api("tasks/t/progress", percentage=50, force=True)
    ann.next_like(lambda said: is_of_task(said, "task_progress") and said["data"]["percentage"] == 50)
    stage.api("tasks/t/complete", result={"pages": 3})
    ended = ann.next_like(lambda said: is_of_task(said, "task_completed"))
    assert (ended["channel"], ended["data"]["result"]) == ("user:ann", {"pages": 3})

    # What is published while the client finds its way back to a server that was killed comes once, and in order.
    stage.restart()
    for n in range(2, 5):
        stage.api("publish", channel="news:a", data={"n": n})
    assert [p["data"]["n"] for p in ann.publications("news:a", 4)] == [1, 2, 3, 4]
    ann.ask("publish", "news:a", {"n": 5})
    assert [p["offset"] for p in ann.publications("news:a", 5)] == [1, 2, 3, 4, 5]
    stage.api("notify", userId="ann", data=2)
    assert ann.publications("user:ann", 4)[-1]["data"] == 2

    ann.do("subscribe", "news:b")
    ann.next_like(lambda said: said["what"] == "subscribed" and said["channel"] == "news:b")
    ann.do("unsubscribe", "news:b")
    ann.next_like(lambda said: said["what"] == "unsubscribed" and said["channel"] == "news:b")
    # Every SDK tells its app before the server.
    wait_until(lambda: stage.server.api("GET", "/api/presence?channel=news:b").body["total"] == 0, DEADLINE)

    stage.api("unsubscribe", userId="ann", channels=["news:a"])
    assert ann.next_like(lambda said: said["what"] == "unsubscribed")["code"] == 2000
    stage.api("disconnect", userId="ann")
    assert ann.next_like(lambda said: said["what"] == "disconnected")["code"] == 3503


@pytest.mark.slow  # `make full` has no room for it: `make sdks` runs it
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("sdk", "transport", "codec"), VISITS)
def test_tokens_are_renewed_until_there_are_none(stage: Stage, sdk: str, transport: str, codec: str) -> None:
    def ending(seconds: int, **claims: Any) -> str:
        return stage.server.token("ann", exp=int(time.time()) + seconds, **claims)

    # Compiled before its tokens begin to end.
    SDKS[sdk]()
    ann = stage.visitor(sdk, transport, codec, ending(10), ending(35))
    ann.do("connect")
    ann.next_like(lambda said: said["what"] == "connected")
    ann.do("subscribe", "news:a", ending(60, channel="news:b"))
    assert ann.next_like(lambda said: said["what"] == "unsubscribed")["code"] == 103
    ann.do("subscribe", "$docs:1", ending(8, channel="$docs:1"), ending(14, channel="$docs:1"))
    ann.next_like(lambda said: said["what"] == "subscribed" and said["channel"] == "$docs:1")
    stage.api("publish", channel="$docs:1", data=1)
    ann.next_like(lambda said: said["what"] == "publication" and said["channel"] == "$docs:1")
    # The SDK ends both by itself, as it is given no token more.
    assert ann.next_like(lambda said: said["what"] == "unsubscribed" and said["channel"] == "$docs:1")["code"] == 1
    assert ann.next_like(lambda said: said["what"] == "disconnected")["code"] == 1
    asked = {(said["of"], said["left"]) for said in ann.said if said["what"] == "token"}
    assert asked == {("", 0), ("", 1), ("$docs:1", 0), ("$docs:1", 1)}


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
@pytest.mark.parametrize("engine", ["workers"])
def test_commands_reach_the_worker_that_has_the_stream(stage: Stage, transport: str) -> None:
    ann = stage.visitor("centrifuge-js", transport, "json", stage.server.token("ann"))
    ann.do("connect")
    ann.next_like(lambda said: said["what"] == "connected")
    ann.do("subscribe", "news:a")
    ann.next_like(lambda said: said["what"] == "subscribed" and not said["server"])
    for n in range(20):
        ann.ask("publish", "news:a", n)
    assert [p["data"] for p in ann.publications("news:a", 20)] == list(range(20))
    (listed,) = stage.server.api("GET", "/api/connections?userId=ann").body["connections"]
    assert listed["protocol"] == {"http_stream": "centrifuge-stream-json", "sse": "centrifuge-sse"}[transport]
    assert listed["client"]["name"] == "js"


# No pings: a machine that is busy with other tests may not answer a thousand in time.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sdk", "engine"),
    [
        *(("centrifuge-js", engine) for engine in ENGINES),
        *((sdk, "workers") for sdk in CROWDS if sdk != "centrifuge-js"),
    ],
)
@pytest.mark.parametrize("interval", ["1h"])
def test_a_thousand_clients_are_drained_within_the_window(stage: Stage, sdk: str) -> None:
    codec = "protobuf" if sdk == "centrifuge-java" else "json"
    command = [*CROWDS[sdk](), stage.address("websocket", codec), stage.server.token("ann"), str(CROWD)]
    crowd = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert crowd.stdout is not None
        lines = map(json.loads, crowd.stdout)
        assert next(lines)["what"] == "all"
        stage.api("drain", over=f"{WINDOW}s")
        gone = [next(lines) for _ in range(CROWD)]
        assert Counter((said["what"], said["code"]) for said in gone) == {("gone", 3001): CROWD}
        # Spread over the window: who comes back elsewhere does not come all at once.
        assert WINDOW / 2 < (gone[-1]["at"] - gone[0]["at"]) / 1000 < WINDOW * 2
        assert stage.server.api("DELETE", "/api/drain").status == 200
        assert next(lines)["what"] == "all"
    finally:
        crowd.kill()
        crowd.wait()
