"""The door for clients of Centrifugo's server API, over HTTP: keys, forms, statuses."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from pushserver.config.checks import ApiKey, ApiSection, CentrifugeSection, ServerSection, load
from pushserver.core.channels import Namespace
from pushserver.core.errors import ConfigError, Unavailable
from tests.harness import ROOT, free_port
from tests.inside import Inside, running

KEY, READER = "a-key-for-everything", "a-key-that-only-reads"
KEYS = (ApiKey(KEY), ApiKey(READER, ("read",)), ApiKey("a-key-of-few-rooms", ("publish", "read"), "", ("room:a",)))
PATH = "/centrifugo/api"


class Answer(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]

    @property
    def value(self) -> Any:
        return json.loads(self.body)


@pytest_twisted.async_yield_fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    async with running(
        tmp_path,
        api=ApiSection(keys=KEYS),
        centrifuge=CentrifugeSection(enabled=True, api_path=PATH),
        namespaces=(Namespace("room", history_size=5, presence=True),),
        server=ServerSection(max_body_size=100_000),
    ) as inside:
        yield inside


def request(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.read().decode(), told)
    finally:
        connection.close()


async def ask(inside: Inside, call: str, body: Any = None, *, method: str = "POST", **headers: str) -> Answer:
    """Send a request below the API's path; a body that is no octets goes as JSON."""
    octets = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()} or {"X-API-Key": KEY}
    return await deferToThread(request, inside.port, method, f"{PATH}{call}", octets, named)


async def test_a_method_is_a_path_and_its_answer_a_result(inside: Inside) -> None:
    answer = await ask(inside, "/publish", {"channel": "room:a", "data": {"n": 1}})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.value["result"]["offset"] == 1
    answer = await ask(inside, "/history", {"channel": "room:a", "limit": 10})
    assert [one["data"] for one in answer.value["result"]["publications"]] == [{"n": 1}]
    answer = await ask(inside, "/info", b"")
    assert answer.value["result"]["nodes"][0]["num_clients"] == 0
    answer = await ask(inside, "/batch", {"commands": [{"publish": {"channel": "room:a", "data": 2}}]})
    assert answer.value["replies"][0]["publish"]["offset"] == 2


async def test_lines_of_commands_are_answered_by_lines(inside: Inside) -> None:
    lines = [
        {"method": "publish", "params": {"channel": "room:a", "data": 1}},
        {"method": "publish", "params": {"channel": "nowhere:a", "data": 1}},
        {"method": "info"},
        {"method": "nonsense", "params": {}},
        {"params": {}},
    ]
    octets = b"\n".join(json.dumps(line).encode() for line in lines) + b"\n\n"
    for call in ("", "/"):
        answer = await ask(inside, call, octets)
        told = [json.loads(line) for line in answer.body.split("\n")]
        assert [list(one) for one in told] == [["result"], ["error"], ["result"], ["error"], ["error"]]
        assert [one["error"]["code"] for one in told if "error" in one] == [102, 104, 104]
    # Nothing is done where one cannot be read.
    answer = await ask(inside, "", octets + b"[")
    assert (answer.status, answer.value["error"]["code"]) == (400, 107)
    assert (await ask(inside, "/history", {"channel": "room:a"})).value["result"]["offset"] == 2
    answer = await ask(inside, "", b"{}\n" * 1_001)
    assert (answer.status, answer.value["error"]["code"]) == (200, 107)


async def test_keys_come_in_three_ways_and_never_in_the_address(inside: Inside) -> None:
    for headers in (
        {"X_API_Key": KEY},
        {"Authorization": f"apikey {KEY}"},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"ApiKey {KEY}"},
    ):
        assert (await ask(inside, "/info", **headers)).status == 200
    for call, headers in (
        ("/info", {"Accept": "*/*"}),
        (f"/info?api_key={KEY}", {"Accept": "*/*"}),
        ("/info", {"X_API_Key": "wrong-key-of-the-tests"}),
        ("/info", {"Authorization": f"Basic {KEY}"}),
    ):
        answer = await ask(inside, call, **headers)
        assert (answer.status, answer.value["error"]["code"]) == (401, "NOT_AUTHENTICATED")


#: What is asked, by method, body and key, and the status of its answer.
STATUSES: list[tuple[str, str, bytes | None, str, int]] = [
    ("/info", "POST", b"{", KEY, 400),
    ("/info", "POST", b"\xff", KEY, 400),
    ("/publish", "POST", b"[1]", KEY, 200),
    ("/publish", "POST", b"{}", READER, 403),
    ("", "POST", b"nonsense", KEY, 400),
    ("", "POST", b"\xff", KEY, 400),
    ("/nonsense", "POST", b"{}", KEY, 404),
    ("/info/more", "POST", b"{}", KEY, 404),
    ("/info", "GET", None, KEY, 405),
    ("/info", "PUT", b"{}", KEY, 405),
    ("/rpc", "POST", b"{}", READER, 200),
]


async def test_another_status_is_for_what_was_not_looked_at(inside: Inside) -> None:
    for call, method, body, key, status in STATUSES:
        answer = await deferToThread(request, inside.port, method, f"{PATH}{call}", body, {"X-API-Key": key})
        assert (answer.status, "error" in answer.value) == (status, True), (call, method, body, answer)
        assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    # Refused by its head: the body is not waited for.
    headers = {"X-API-Key": KEY, "Content-Length": "100001"}
    answer = await deferToThread(request, inside.port, "POST", f"{PATH}/publish", None, headers)
    assert answer.status == 413
    answer = await deferToThread(request, inside.port, "OPTIONS", f"{PATH}/info", None, {})
    assert (answer.status, answer.headers["allow"]) == (204, "OPTIONS, POST")


async def test_a_key_of_some_channels_is_held_to_them(inside: Inside) -> None:
    few = {"X_API_Key": "a-key-of-few-rooms"}
    assert "result" in (await ask(inside, "/publish", {"channel": "room:a", "data": 1}, **few)).value
    for call, params in (
        ("/publish", {"channel": "room:b", "data": 1}),
        ("/history", {"channel": "room:b"}),
        ("/channels", {}),
    ):
        answer = await ask(inside, call, params, **few)
        assert (answer.status, answer.value["error"]["code"]) == (200, 103)
    line = json.dumps({"method": "publish", "params": {"channel": "room:b", "data": 1}}).encode()
    assert (await ask(inside, "", line, **few)).value["error"]["code"] == 103


#: A call as the docs show it, and its answer.
DOCUMENTED = re.compile(
    r"```sh\ncurl -H \"(.*?): (.*?)\" -d '(.*?)' \\\n  http://127\.0\.0\.1:8080(\S+)\n```\n\n```json\n(.*?)```",
    re.DOTALL,
)


def resembles(shown: Any, told: Any) -> bool:
    """Return whether an answer is as the docs show it: texts of chance, and times, apart."""
    if isinstance(shown, dict):
        return set(shown) == set(told) and all(resembles(shown[name], told[name]) for name in shown)
    if isinstance(shown, list):
        return len(shown) == len(told) and all(map(resembles, shown, told))
    return shown == told or (shown in ("…", 1_790_000_000_000) and bool(told))


async def test_the_documented_calls_are_true(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "centrifuge.md").read_text()
    calls = DOCUMENTED.findall(text)
    assert len(calls) == text.count("```sh\ncurl") == 4
    async with running(
        tmp_path,
        api=ApiSection(keys=(ApiKey("a-long-random-key"),)),
        centrifuge=CentrifugeSection(enabled=True, api_path=PATH),
        namespaces=(Namespace("news", history_size=5, presence=True),),
    ) as inside:
        for name, value, body, path, answer in calls:
            told = await deferToThread(request, inside.port, "POST", path, body.encode(), {name: value})
            assert told.status == 200
            assert resembles(json.loads(answer), told.value), told.body


async def test_an_engine_that_is_away_is_a_status(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("the engine cannot answer now")

    monkeypatch.setattr(inside.service.node.commands, "execute", away)
    answer = await ask(inside, "/publish", {"channel": "room:a", "data": 1})
    assert (answer.status, answer.value["error"]["code"]) == (503, 100)
    line = json.dumps({"method": "publish", "params": {"channel": "room:a", "data": 1}}).encode()
    answer = await ask(inside, "", line)
    assert (answer.status, answer.value["error"]["code"]) == (200, 100)


async def test_it_follows_the_api_to_its_own_listener_and_counts_in_the_metrics(tmp_path: Path) -> None:
    inner = free_port()
    async with running(
        tmp_path,
        api=ApiSection(keys=KEYS),
        centrifuge=CentrifugeSection(enabled=True, api_path=PATH),
        server=ServerSection(api_listen=(f"tcp:{inner}:interface=127.0.0.1",)),
    ) as inside:
        headers = {"X-API-Key": KEY}
        public = await deferToThread(request, inside.port, "POST", f"{PATH}/info", b"{}", headers)
        private = await deferToThread(request, inner, "POST", f"{PATH}/info", b"{}", headers)
        assert (public.status, private.status) == (404, 200)
        metrics = (await deferToThread(request, inner, "GET", "/metrics", None, headers)).body
        assert 'pushserver_api_request_seconds_count{call="centrifuge/info",status="200"} 1' in metrics


def test_a_path_that_is_taken_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "pushserver.toml"
    for path in ("/api", "/api/centrifugo", "/connection/api", "/ws", "centrifugo", "/"):
        file.write_text(f'[centrifuge]\nenabled = true\napi_path = "{path}"\n')
        with pytest.raises(ConfigError, match=r"centrifuge\.api_path"):
            load(str(file), {"PUSHSERVER_AUTH__SECRET": "a secret of at least thirty-two bytes"})
