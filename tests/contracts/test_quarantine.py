"""A row that cannot be read costs that row: it is skipped, kept aside, and told like a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pushserver.core import errors
from pushserver.core.positions import recovered
from pushserver.core.publication import encode
from pushserver.core.task import NewTask, create
from pushserver.engine import dead_events
from pushserver.engine.interfaces import Retention, TaskEvent

from .nodes import contents, publication
from .test_deliveries import dead

if TYPE_CHECKING:
    from .nodes import Nodes, RunningNode

KEEP = Retention(size=20, ttl=3_600_000)


async def aside(node: RunningNode) -> list[tuple[str, str, int | None, bytes]]:
    rows = await node.engine.quarantine(10)
    assert all(row.reason and row.at > 0 for row in rows)
    assert node.engine.figures()["quarantined_total"] == len(rows)
    return [(row.kind, row.name, row.offset, row.body) for row in rows]


def no_utf8() -> bytes:
    """A message whose text no client can be sent: a bit of it was turned."""
    return encode(publication("user:7", "hello")).replace(b"hello", b"he\xffllo")


@pytest.mark.parametrize("body", [b"\xff\x00", b"", b'{"type":"x"', no_utf8()], ids=["octets", "empty", "cut", "utf-8"])
async def test_a_message_of_an_inbox(nodes: Nodes, body: bytes) -> None:
    node = await nodes.start(size=20)
    for n in range(1, 6):
        await node.inbox.append(publication("user:7", n), "7", False, None, None, None)
        await node.inbox.append(publication("user:8", n), "8", False, None, None, None)
    nodes.backend.spoil("inbox", "7", 3, body)
    page = await node.inbox.read("7", None, 10)
    assert (contents(page.messages), page.lost, page.pending, page.offset) == ([1, 2, 4, 5], 1, 4, 5)
    assert await aside(node) == [("inbox", "7", 3, body)]
    again = await node.inbox.read("7", 3, 10)
    assert (contents(again.messages), again.lost) == ([4, 5], 0)
    await node.inbox.append(publication("user:7", 6), "7", False, None, None, None)
    assert contents((await node.inbox.read("7", 0, 2)).messages) == [1, 2]
    assert (await node.inbox.read("8", None, 10)).lost == 0
    assert len(await aside(node)) == 1


async def test_all_messages_of_an_inbox(nodes: Nodes) -> None:
    node = await nodes.start()
    for n in range(3):
        await node.inbox.append(publication("user:7", n), "7", False, None, None, None)
        nodes.backend.spoil("inbox", "7", n + 1)
    page = await node.inbox.read("7", None, 10)
    assert (page.messages, page.lost, page.pending, page.offset) == ([], 3, 0, 3)
    assert (await node.inbox.append(publication("user:7", 4), "7", False, None, None, None)).offset == 4


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("offset", [1, 3, 5])
async def test_a_message_of_a_history(nodes: Nodes, offset: int, reverse: bool) -> None:
    node = await nodes.start()
    for n in range(1, 6):
        await node.broker.publish(publication("news:a", n), KEEP, None)
    nodes.backend.spoil("history", "news:a", offset)
    page = await node.history.read("news:a", None, 10, reverse)
    whole = [n for n in range(1, 6) if n != offset]
    assert contents(page.messages) == (whole[::-1] if reverse else whole)
    assert page.newest.offset == 5
    epoch = page.newest.epoch
    # Nobody resumes over it, and whoever is behind it may.
    for since in range(6):
        page = await node.history.read("news:a", since, 10, False)
        position = page.newest.__class__(since, epoch)
        assert recovered(position, page.newest, page.floor) is (since >= offset)
    assert await aside(node) == [("history", "news:a", offset, b"\xff\x00")]
    assert (await node.broker.publish(publication("news:a", 6), KEEP, None)).offset == 6


async def test_the_state_of_a_task(nodes: Nodes) -> None:
    node = await nodes.start()
    for task_id in ("bad", "good"):
        state = create(NewTask(user_id="7", task_id=task_id), nodes.now())
        await node.tasks.create(TaskEvent("task_created", state), None)
        await nodes.advance(1)
    nodes.backend.spoil("task", "bad")
    assert [state.task_id for state in await node.tasks.of_user("7", False, 10)] == ["good"]
    assert [state.task_id for state in await node.tasks.stale(0, 10)] == ["good"]
    with pytest.raises(errors.NotFound):
        await node.tasks.get("bad")
    assert await aside(node) == [("task", "bad", None, b"\xff\x00")]
    nodes.backend.spoil("task", "good")
    with pytest.raises(errors.NotFound):
        await node.tasks.get("good")
    assert len(await aside(node)) == 2


def dead_of(id: str, data: str) -> bytes:
    """A dead event that is JSON from end to end."""
    event = f'{{"id":"{id}","type":"user.online","timestamp":1,"data":{data}}}'
    return f'{{"webhook":"mail","event":{event},"error":"no","attempts":1,"diedAt":1}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\x00",
        b'{"webhook":"mail"',
        b'{"webhook":"mail","event":{"id":1}}',
        dead_of("1-2", "{}"),
        dead_of("1-2", "1"),
        dead_of("x", '{"userId":"7"}'),
        None,
    ],
)
async def test_a_dead_event(nodes: Nodes, body: bytes | None) -> None:
    node = await nodes.start()
    assert await node.deliveries.lease(60_000)
    whole, damaged, later = dead(nodes, "1-1", age=2), dead(nodes, "1-2", age=1), dead(nodes, "1-3")
    await node.deliveries.add_dead([whole, damaged, later])
    if body is None:
        # Its text is no UTF-8.
        body = dead_events.encode(damaged).replace(b'"7"', b'"\xff"')
    assert await node.deliveries.retry("mail", ["1-1", "1-2"]) == 2
    nodes.backend.spoil("event", "1-2", body=body)
    # Whoever reads it first keeps it aside.
    assert await node.deliveries.retried("mail") == [whole]
    assert await node.deliveries.dead() == [whole, later]
    assert await node.deliveries.retried("mail") == [whole]
    assert await aside(node) == [("event", "mail", None, body)]
    nodes.backend.spoil("event", "1-3")
    assert await node.deliveries.dead() == [whole]
    assert len(await aside(node)) == 2
    assert await node.deliveries.retry("mail", None) == 1


async def test_when_a_user_was_last_seen(nodes: Nodes) -> None:
    node = await nodes.start()
    nodes.backend.spoil("status", "7")
    online = await node.presence.online("7")
    assert (online.online, online.last_seen_at) == (False, None)
