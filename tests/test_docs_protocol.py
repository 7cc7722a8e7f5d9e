"""Every example in docs/protocol.md happens as it is written there: the transcripts are replayed over real sockets.

A line ``who > …`` is sent and a line ``who < …`` must come next, with exactly these fields. What is made up anew each
time (times, ids, epochs, names of nodes) need only be of the same type; where the document repeats such a text, what
came in its place before is what is meant. ``{"type": "…", …}`` leaves the rest open.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.answers import check, check_message
from tests.harness import ROOT, Server, start
from tests.rawsocket import Closed, RawSocket

TEXT = (ROOT / "docs" / "protocol.md").read_text()
CONTROL_FD = re.compile(r"^(\w+) ([<>]) (.+)$")
#: Fields whose values are made up anew each time, and those of them that the document tells apart by name.
CHANGING = re.compile(r"timestamp|node|connectionId|messageId|epoch|\w+At")
NAMED = ("epoch", "messageId")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def lines(block: str) -> Iterator[tuple[str, str, str]]:
    """Who, which way, what; a line that begins with a space goes on with the one before."""
    joined = re.sub(r"\n\s+", " ", block)
    for line in joined.strip().splitlines():
        match = CONTROL_FD.match(line)
        assert match is not None, line
        who, way, what = match.groups()
        yield who, way, what


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    (config,) = blocks("toml")
    process = start(tmp_path_factory.mktemp("docs"), config=config)
    yield process
    process.stop()


class Replay:
    """One transcript, as it goes."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._clients: dict[str, RawSocket] = {}
        self._actual: dict[str, Any] = {}
        self._answer: tuple[int, Any] | None = None

    def step(self, who: str, way: str, what: str) -> None:
        if who == "api":
            self._api(way, what)
        elif way == ">":
            message = json.loads(re.sub(r'"<(expired )?token of (\w+)>"', self._token, what))
            self._client(who).send_message(self._with_actual(message))
        elif what.startswith("close "):
            with pytest.raises(Closed) as caught:
                self._client(who).message()
            assert caught.value.code == int(what.removeprefix("close "))
        else:
            message = self._client(who).message()
            check_message(message)
            self._compare(message, what)

    def _api(self, way: str, what: str) -> None:
        if way == ">":
            method, path, *body = what.split(" ", 2)
            given = self._with_actual(json.loads(body[0])) if body else None
            answer = self._server.api(method, path, given)
            self._answer = answer.status, answer.body
            check(method, path, answer.status, answer.body)
        else:
            status, _, body_text = what.partition(" ")
            assert self._answer is not None
            assert self._answer[0] == int(status), self._answer
            self._compare(self._answer[1], body_text)

    def _client(self, who: str) -> RawSocket:
        if who not in self._clients:
            client = self._clients[who] = self._stack.enter_context(RawSocket(self._server.port))
            assert client.upgrade({"Sec-WebSocket-Protocol": "pushserver.v1.json"}).status == 101
        return self._clients[who]

    def _token(self, match: re.Match[str]) -> str:
        claims: dict[str, Any] = {"exp": int(time.time()) - 60} if match.group(1) else {}
        return json.dumps(self._server.token(match.group(2), permissions=["publish:news:*"], **claims))

    def _with_actual(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: self._actual.get(v, v) if k == "epoch" else self._with_actual(v) for k, v in value.items()}
        return [self._with_actual(one) for one in value] if isinstance(value, list) else value

    def _compare(self, said: Any, what: str) -> None:
        if what.endswith(", …}"):
            expected = json.loads(what.removesuffix(", …}") + "}")
            assert {**said, **expected} == said
        else:
            self._same(said, json.loads(what), "", said)

    def _same(self, said: Any, expected: Any, name: str, whole: Any) -> None:
        assert type(said) is type(expected), (name, whole)
        if isinstance(expected, dict):
            assert sorted(said) == sorted(expected), (name, whole)
            for key in expected:
                self._same(said[key], expected[key], key, whole)
        elif isinstance(expected, list):
            assert len(said) == len(expected), (name, whole)
            for one, other in zip(said, expected, strict=True):
                self._same(one, other, name, whole)
        elif CHANGING.fullmatch(name):
            if name in NAMED and expected != "…":
                assert self._actual.setdefault(expected, said) == said, (name, whole)
        else:
            assert said == expected, (name, whole)


@pytest.mark.parametrize("number", range(len(blocks("transcript"))))
def test_transcript(server: Server, number: int) -> None:
    with ExitStack() as stack:
        replay = Replay(server, stack)
        for who, way, what in lines(blocks("transcript")[number]):
            replay.step(who, way, what)


def test_every_message_type_is_in_an_example_or_a_table() -> None:
    from pushserver.core.message_types import NOTICES, REPLIES, REQUESTS, SERVER_PUSHES

    for type in REQUESTS | REPLIES | SERVER_PUSHES | NOTICES:
        assert f"`{type}`" in TEXT or f'"type": "{type}"' in TEXT, type


def test_every_code_is_explained() -> None:
    from pushserver.core import errors

    for code in errors.Code:
        assert f"`{code}`" in TEXT, code
    for close in vars(errors).values():
        if isinstance(close, errors.Close) and close.code >= 3000:
            assert f"| {close.code} |" in TEXT, close


def test_every_local_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([\w./-]+)\)", TEXT):
        assert (Path(ROOT) / "docs" / target).exists(), target
