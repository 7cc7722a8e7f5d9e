from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import Logger, LogLevel

from pushserver.core.errors import Close
from pushserver.manhole.tracing import MAX_SHOWN, LogWatch, MessageWatch, shown
from pushserver.server.connection import Peer
from tests.fakes import PLAIN

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"


class FakeHub:
    def __init__(self) -> None:
        self.traced: dict[str, Any] = {}
        self.watched: dict[str, Any] = {}

    def watch(self, connection: Any, trace: Any) -> None:
        connection.trace = trace
        self.watched[connection.id] = trace
        if trace is None:
            del self.watched[connection.id]


class FakeConnection:
    def __init__(self, id: str = "c1") -> None:
        self.id, self.user_id, self.peer = id, "42", Peer("192.0.2.1", "", "", 0)
        self.dialect = PLAIN
        self.trace: Any = None
        self.closing: Close | None = None


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"auth","data":{"token":"%s"}}' % TOKEN.encode(),
        b'{"type":"auth","data":{"TOKEN":"short"}}',
        b'{"type":"auth","data":{"\\u0074oken":"short"}}',
        b'{"type":"message","data":[{"password":"short"},{"ticket":"short"}]}',
        b'{"type":"message","data":"see %s here"}' % TOKEN.encode(),
        b'{"id":1,"connect":{"client":"c","session":"short"}}',
        b"auth short %s" % TOKEN.encode(),
        b"[" * 100_000 + b'"short"',
    ],
)
def test_tokens_are_hidden_wherever_they_stand(payload: bytes) -> None:
    text = shown(payload)
    assert "short" not in text
    assert TOKEN not in text


def test_what_is_shown_is_one_bounded_line_that_moves_no_cursor() -> None:
    text = shown('{"a":"\x7f\u009b2J\u202e"}'.encode())
    assert text.isprintable()
    assert len(shown(b'"' + b"x" * 10_000 + b'"')) < MAX_SHOWN + 100


def test_a_connection_is_watched_until_it_is_closed() -> None:
    said: list[str] = []
    hub, connection = FakeHub(), FakeConnection()
    watch = MessageWatch(hub, said.append, None)  # type: ignore[arg-type]
    watch.begin([connection])  # type: ignore[list-item]
    assert connection.trace is watch
    watch.inbound(connection, b'{"type":"ping"}')  # type: ignore[arg-type]
    connection.closing = Close(3503, "kicked")
    hub.watched.pop("c1")
    watch.closed(connection)  # type: ignore[arg-type]
    assert [line.split(" ", 1)[1] for line in said] == [
        "c1 -- 42 from 192.0.2.1",
        'c1 -> {"type":"ping"}',
        "c1 -- closed (3503 kicked)",
    ]
    assert watch.done.called
    assert hub.watched == {}


def test_a_user_is_watched_until_that_is_stopped() -> None:
    hub, first, second = FakeHub(), FakeConnection(), FakeConnection("c2")
    watch = MessageWatch(hub, lambda text: None, "42")  # type: ignore[arg-type]
    watch.begin([first])  # type: ignore[list-item]
    watch.closed(first)  # type: ignore[arg-type]
    assert not watch.done.called
    hub.traced["42"].opened(second)
    watch.stop()
    watch.stop()
    assert watch.done.called
    assert second.trace is None
    assert hub.traced == {}


def test_the_log_is_watched_from_a_level_on_and_not_its_own_echo() -> None:
    said: list[str] = []
    log = Logger(namespace="room")

    def show(text: str) -> None:
        said.append(text)
        log.error("showing this is logged too")

    watch = LogWatch(show, LogLevel.warn)
    log.info("quiet")
    log.warn("loud\x1b[2J {n}", n=1)
    watch.stop()
    watch.stop()
    log.error("late")
    assert len(said) == 1
    assert said[0].endswith("warn room: loud·[2J 1")
