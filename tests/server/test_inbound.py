"""One connection's messages: in order, bounded, and forgotten with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from pushserver.server.inbound import MAX_WAITING, MAX_WAITING_BYTES
from tests.conftest import LoggedErrors
from tests.fakes import Rig


@pytest_twisted.async_yield_fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig(tmp_path).start()
    yield rig
    await rig.stop()


async def test_reading_pauses_while_the_engine_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await rig.client("ann")
    answer: Deferred[None] = Deferred()
    monkeypatch.setattr(rig.node.reading, "presence", lambda *_: answer)
    client.send("presence", "slow", channel="chat:a")
    for n in range(MAX_WAITING):
        assert client.reading
        client.send("ping", n)
    assert not client.reading
    assert client.new() == []
    monkeypatch.undo()
    answer.errback(ZeroDivisionError())
    await rig.until_idle()
    assert client.reading
    assert [m["id"] for m in client.new()] == ["slow", *range(MAX_WAITING)]


async def test_reading_pauses_for_a_few_large_messages_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await rig.client("ann")
    answer: Deferred[None] = Deferred()
    monkeypatch.setattr(rig.node.reading, "presence", lambda *_: answer)
    client.send("presence", "slow", channel="chat:a")
    sent = 0
    while client.reading:
        client.send("ping", sent, pad="x" * (MAX_WAITING_BYTES // 3))
        sent += 1
    assert sent == 3
    monkeypatch.undo()
    answer.errback(ZeroDivisionError())
    await rig.until_idle()
    assert client.reading
    assert [m["id"] for m in client.new()] == ["slow", 0, 1, 2]
    # What was handled is counted no longer.
    client.send("ping", "last")
    assert client.reading


@pytest.fixture(autouse=True)
def _expected(flush_errors: LoggedErrors) -> object:
    yield
    flush_errors(ZeroDivisionError)


async def test_a_client_that_does_not_read_is_answered_no_further(rig: Rig) -> None:
    client = await rig.client("ann")
    client.socket.blocked = True
    for n in range(5):
        client.send("ping", n)
    assert len(client.new()) == 1
    for _ in range(20):
        client.socket.unblock()
    assert [m["id"] for m in client.new()] == [1, 2, 3, 4]


async def test_what_waits_is_forgotten_with_the_connection(rig: Rig) -> None:
    client = await rig.client("ann")
    client.send("history", 1, channel="chat:a")
    client.send("chat_message", 2, content="never said")
    client.vanish()
    client.send("ping", 3)
    await rig.until_idle()
    assert client.new() == []
    assert rig.node.counters.publications == 0


async def test_a_socket_that_ends_while_it_does_not_read_ends_the_queue(rig: Rig) -> None:
    client = await rig.client("ann")
    client.socket.blocked = True
    for n in range(5):
        client.send("ping", n)
    client.vanish()
    await rig.until_idle()
    assert len(client.new()) == 1
