"""Client SDKs of Centrifugo, unmodified, against a real server, in both codecs, through a killed server and a drain."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import Server, start
from tests.sdks.programs import go_version, go_visit, java_version, java_visit

pytestmark = pytest.mark.full

FOLDER = Path(__file__).parent
CONFIG = """
[centrifuge]
enabled = true
[heartbeat]
interval = "1s"
timeout = "20s"
[[namespaces]]
name = "news"
publish = "authenticated"
history_size = 100
presence = true
"""
#: s that a step may take, on a machine that is busy with other tests
DEADLINE = 60.0

#: What starts each SDK's program.
SDKS: dict[str, Callable[[], list[str | Path]]] = {
    "centrifuge-python": lambda: [sys.executable, FOLDER / "visit.py"],
    "centrifuge-js": lambda: ["node", FOLDER / "node" / "visit.mjs"],
    "centrifuge-go": lambda: [go_visit()],
    "centrifuge-java": java_visit,
}
#: What each SDK has. Left out: JavaScript's Protobuf over http_stream, which fails where a chunk cuts a message, and
#: over sse, which is text; Python, Go and Java know WebSockets alone, and Java Protobuf alone.
VISITS = [
    *((sdk, "websocket", "json") for sdk in SDKS if sdk != "centrifuge-java"),
    *((sdk, "websocket", "protobuf") for sdk in SDKS),
    ("centrifuge-js", "http_stream", "json"),
    ("centrifuge-js", "sse", "json"),
]


class Visitor:
    """One SDK in a process of its own: words in, and what it says."""

    def __init__(self, sdk: str, address: str, codec: str, token: str) -> None:
        self._process = subprocess.Popen(
            [*SDKS[sdk](), address, codec, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[Any] = queue.Queue()
        self.said: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        self.hear(lambda said: said["what"] == "ready")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def do(self, *word: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(word) + "\n")
        self._process.stdin.flush()

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
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
        found = self.hear(lambda said: said.get("word") == word[0])
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
            self.hear(lambda said: said["what"] == "publication")
        return came()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Stage:
    """A server that can be killed and started again where it was, and its visitors."""

    def __init__(self, place: Path, *options: str) -> None:
        self._place = place
        self.server = start(place, *options, config=CONFIG)
        self._visitors: list[Visitor] = []

    def visitor(self, sdk: str, transport: str, codec: str, user: str) -> Visitor:
        query = "?cf_protocol=protobuf" if codec == "protobuf" else ""
        scheme = "ws" if transport == "websocket" else "http"
        address = f"{scheme}://127.0.0.1:{self.server.port}/connection/{transport}{query}"
        visitor = Visitor(sdk, address, codec, self.server.token(user))
        self._visitors.append(visitor)
        return visitor

    def restart(self) -> None:
        before: Server = self.server
        before.kill()
        before.wait()
        self.server = start(self._place, config=CONFIG, port=before.port, secret=before.secret, api_key=before.api_key)

    def api(self, call: str, **body: Any) -> Any:
        answer = self.server.api("POST", f"/api/{call}", body)
        assert answer.status == 200, answer
        return answer.body

    def stop(self) -> None:
        for visitor in self._visitors:
            visitor.stop()
        self.server.stop()


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
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.stop()


@pytest.mark.parametrize(("sdk", "transport", "codec"), VISITS)
def test_a_visit(stage: Stage, sdk: str, transport: str, codec: str) -> None:
    print(f"\n{sdk} {version_of(sdk)}, {transport}, {codec}")
    for n in range(2):
        stage.api("notify", userId="ann", data=n)
    ann = stage.visitor(sdk, transport, codec, "ann")
    ann.do("connect")
    ann.hear(lambda said: said["what"] == "connected")
    assert [p["data"] for p in ann.publications("user:ann", 2)] == [0, 1]
    ann.do("subscribe", "news:a")
    assert ann.hear(lambda said: said["what"] == "subscribed" and not said["server"])["channel"] == "news:a"
    ann.ask("publish", "news:a", {"n": 1})
    (first,) = ann.publications("news:a", 1)
    assert (first["data"], first["offset"], first["tags"]["type"]) == ({"n": 1}, 1, "message")
    assert ann.ask("history", "news:a")["data"] == [{"n": 1}]
    assert ann.ask("presence", "news:a")["users"] == ["ann"]
    stats = ann.ask("presence_stats", "news:a")
    assert (stats["clients"], stats["users"]) == (1, 1)
    assert ann.ask("rpc", "session", {})["data"]["userId"] == "ann"

    # What is published while the client finds its way back to a server that was killed comes once, and in order.
    stage.restart()
    for n in range(2, 5):
        stage.api("publish", channel="news:a", data={"n": n})
    assert [p["data"]["n"] for p in ann.publications("news:a", 4)] == [1, 2, 3, 4]
    ann.ask("publish", "news:a", {"n": 5})
    assert [p["offset"] for p in ann.publications("news:a", 5)] == [1, 2, 3, 4, 5]
    stage.api("notify", userId="ann", data=2)
    assert ann.publications("user:ann", 3)[-1]["data"] == 2

    stage.api("unsubscribe", userId="ann", channels=["news:a"])
    assert ann.hear(lambda said: said["what"] == "unsubscribed")["code"] == 2000
    stage.api("disconnect", userId="ann")
    assert ann.hear(lambda said: said["what"] == "disconnected")["code"] == 3503


@pytest.mark.parametrize("transport", ["http_stream", "sse"])
def test_commands_reach_the_worker_that_has_the_stream(tmp_path: Path, transport: str) -> None:
    redis = RedisServer(tmp_path / "redis").start()
    stage: Stage | None = None
    try:
        stage = Stage(tmp_path, "--redis", redis.url, "--workers", "2")
        ann = stage.visitor("centrifuge-js", transport, "json", "ann")
        ann.do("connect")
        ann.hear(lambda said: said["what"] == "connected")
        ann.do("subscribe", "news:a")
        ann.hear(lambda said: said["what"] == "subscribed" and not said["server"])
        for n in range(20):
            ann.ask("publish", "news:a", n)
        assert [p["data"] for p in ann.publications("news:a", 20)] == list(range(20))
        (listed,) = stage.server.api("GET", "/api/connections?userId=ann").body["connections"]
        assert listed["protocol"] == {"http_stream": "centrifuge-stream-json", "sse": "centrifuge-sse"}[transport]
        assert listed["client"]["name"] == "js"
    finally:
        if stage is not None:
            stage.stop()
        redis.kill()
