"""centrifuge-js, unmodified, in browsers, on a page of another origin: over each transport, where the ones before it
are blocked, and through a killed server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.harness import start
from tests.js_stage import Stage
from tests.sdks.programs import FOLDER
from tests.test_pushclient_js import browser as browser
from tests.test_pushclient_js import node_modules as node_modules
from tests.test_pushclient_js import stage as stage

pytestmark = pytest.mark.full

CONFIG = """
[server]
allowed_origins = ["http://127.0.0.1:{origin}"]
[centrifuge]
enabled = true
[[namespaces]]
name = "news"
publish = "authenticated"
history_size = 100
presence = true
"""
PAGE = '<!doctype html><title>SDK</title><script src="centrifuge.js"></script>'
#: What each run is offered, by the names of transports, and which one it comes to: the others' addresses are blocked.
WAYS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "websocket": ([("websocket", "websocket")], "websocket"),
    "http_stream": ([("http_stream", "http_stream")], "http_stream"),
    "sse": ([("sse", "sse")], "sse"),
    "no websocket": ([("websocket", "blocked"), ("http_stream", "http_stream"), ("sse", "sse")], "http_stream"),
    "sse alone": ([("websocket", "blocked"), ("http_stream", "blocked"), ("sse", "sse")], "sse"),
}
PROGRAM = """(() => {{
globalThis.said = [];
globalThis.client = new Centrifuge({offered}, {{
  token: {token}, emulationEndpoint: {emulation}, minReconnectDelay: 100, maxReconnectDelay: 1000 }});
client.on('connected', ({{ transport }}) => said.push(['connected', transport]));
client.on('publication', ({{ channel, data }}) => said.push([channel, data]));
globalThis.news = client.newSubscription('news:a');
news.on('publication', ({{ data, offset }}) => said.push([offset, data]));
news.on('subscribed', ({{ recovered }}) => said.push(['subscribed', recovered]));
news.subscribe();
client.connect();
}})()"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text(PAGE)
    shutil.copy(FOLDER / "node" / "node_modules" / "centrifuge" / "dist" / "centrifuge.js", folder)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_an_sdk_in_a_page_of_another_origin(stage: Stage, browser: str, page: Path, tmp_path: Path, way: str) -> None:
    offered, expected = WAYS[way]
    origin = stage("serve", folder=str(page))
    config = CONFIG.format(origin=origin)
    server = start(tmp_path, config=config)
    try:
        http, ws = server.url, server.ws_url.removesuffix("/ws")
        named = [
            {"transport": name, "endpoint": f"{ws if name == 'websocket' else http}/connection/{path}"}
            for name, path in offered
        ]
        stage("browser", kind=browser)
        stage("open", url=f"http://127.0.0.1:{origin}/")
        values = {"offered": named, "token": server.token("ann"), "emulation": f"{http}/emulation"}
        stage("run", expression=PROGRAM.format(**{name: json.dumps(value) for name, value in values.items()}))
        stage("until", expression="said.some(([what]) => what === 'subscribed')")
        stage("run", expression="(async () => { for (const n of [1, 2]) await news.publish({ n, text: 'é😀' }); })()")
        stage("until", expression="said.some(([offset]) => offset === 2)")
        assert stage("run", expression="news.presenceStats().then(({ numClients }) => numClients)") == 1
        assert server.api("POST", "/api/notify", {"userId": "ann", "data": "for you"}).status in (200, 201)
        stage("until", expression="said.some(([channel]) => channel === 'user:ann')")
        before = stage("run", expression="said.splice(0)")
        assert before[0] == ["connected", expected]
        assert ["subscribed", False] in before
        assert [one for one in before if one[0] in (1, 2)] == [[n, {"n": n, "text": "é😀"}] for n in (1, 2)]
        assert ["user:ann", "for you"] in before

        # What comes while the page finds its way back comes once, and in order.
        server.kill()
        server.wait()
        known: dict[str, Any] = {"port": server.port, "secret": server.secret, "api_key": server.api_key}
        server = start(tmp_path, config=config, **known)
        for n in (3, 4):
            assert server.api("POST", "/api/publish", {"channel": "news:a", "data": n}).status == 200
        stage("until", expression="said.some(([offset]) => offset === 4)")
        after = stage("run", expression="client.disconnect(), said")
        assert [one for one in after if one[0] == "connected"] == [["connected", expected]]
        assert ["subscribed", True] in after
        assert [one for one in after if isinstance(one[0], int)] == [[3, 3], [4, 4]]
    finally:
        server.stop()
