"""`IEvents`: the outbox of events, and what is kept in it together with other writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import errors, events
from pushserver.core.events import NewEvent
from pushserver.core.publication import body
from pushserver.core.task import Status
from pushserver.engine.interfaces import EventRules, IdempotencyKey, Retention, TaskEvent

from .nodes import publication
from .test_tasks import created, state

if TYPE_CHECKING:
    from .nodes import Nodes, RunningNode

DAY = 24 * 3600 * 1000
MANY = 1 << 30


def event(n: Any, type: str = "channel.occupied") -> NewEvent:
    return NewEvent(type, 1_000, body({"channel": f"news:{n}", "n": n}))


async def told(node: RunningNode, after: str | None = None) -> list[Any]:
    """What ``data.n`` says of all events that are kept."""
    page = await node.events.read(after, 10_000, MANY)
    return [msgspec.json.decode(events.decode(each.body).data)["n"] for each in page.events]


async def test_events_are_read_in_the_order_in_which_they_were_kept(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = await node.events.read(None, 10, MANY)
    assert (first.events, first.lost) == ([], False)
    await node.events.append([event(1), event(2)])
    await other.events.append([event(3)])
    page = await other.events.read(first.last, 10, MANY)
    assert await told(other, events.BEGINNING) == await told(node) == [1, 2, 3]
    ids = [each.id for each in page.events]
    assert page.last == ids[-1]
    assert not page.lost
    assert [events.decode(each.body).id for each in page.events] == ids
    assert sorted(map(events.number_of, ids)) == list(map(events.number_of, ids))
    assert len(set(ids)) == 3
    assert await told(node, ids[0]) == [2, 3]
    nothing = await node.events.read(ids[-1], 10, MANY)
    assert (nothing.events, nothing.last, nothing.lost) == ([], ids[-1], False)


async def test_a_page_is_ended_by_its_number_and_by_its_bytes(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.events.append([event(n) for n in range(120)])
    page = await node.events.read(None, 70, MANY)
    assert len(page.events) == 70
    size = len(page.events[0].body)
    assert len((await node.events.read(None, 70, 3 * size)).events) == 3
    assert len((await node.events.read(page.last, 70, 1)).events) == 1


async def test_what_is_no_id_is_refused_and_one_that_was_never_given_is_a_loss(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.events.append([event(1), event(2)])
    for text in ("", "x", "1", "1-2-3-4", "-", "1-2-" + "f" * 99):
        with pytest.raises(errors.Invalid):
            await node.events.read(text, 10, MANY)
    for text in ("5-1", "5-77", "999999999999999-77", "5-2-3", "5-2-ab"):
        page = await node.events.read(text, 10, MANY)
        assert page.lost
        assert len(page.events) == 2


async def test_the_oldest_goes_where_there_are_too_many_bytes_and_is_told_as_lost(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.events.append([event(n) for n in range(10)])
    before = (await node.events.read(None, 3, MANY)).last
    size = (await node.events.trim()).bytes // 10
    node.events.rules.adopt(EventRules(DAY, 5 * size))
    await node.events.append([event(n) for n in (10, 11)])
    figures = await node.events.trim()
    assert figures.bytes <= 5 * size + 4
    assert figures.dropped == 12 - figures.kept
    assert figures.newest == 12
    kept = await told(node)
    assert kept == list(range(12 - figures.kept, 12))
    page = await node.events.read(before, 100, MANY)
    assert page.lost
    assert len(page.events) == figures.kept
    assert (await node.events.read(events.BEGINNING, 1, MANY)).lost
    assert not (await node.events.read(None, 1, MANY)).lost


async def test_an_event_is_kept_for_its_retention(nodes: Nodes) -> None:
    node = await nodes.start()
    node.events.rules.adopt(EventRules(5 * nodes.unit, MANY))
    await node.events.append([event(1)])
    await nodes.advance(3)
    await node.events.append([event(2)])
    figures = await node.events.trim()
    assert figures.kept == 2
    assert figures.oldest_at is not None
    await nodes.advance(3)
    figures = await node.events.trim()
    assert (figures.kept, figures.dropped) == (1, 0)
    last = (await node.events.read(None, 10, MANY)).last
    await nodes.advance(6)
    assert await node.events.trim() == msgspec.structs.replace(figures, kept=0, bytes=0, oldest_at=None)
    # Whoever had taken all has lost nothing.
    assert not (await node.events.read(last, 10, MANY)).lost
    await node.events.append([event(3)])
    assert await told(node, last) == [3]


async def test_a_kept_message_and_its_event_go_together_and_once(nodes: Nodes) -> None:
    node = await nodes.start()
    for retention in (Retention(5, DAY), None):
        key = IdempotencyKey(f"k{retention is None}")
        for _ in range(2):
            await node.broker.publish(publication("news:1", 1), retention, key, events=[event(1)])
        await node.broker.publish(publication("news:1", 2), retention, None, events=[event(2)])
        await node.broker.publish(publication("news:1", 3), retention, None)
    assert await told(node) == [1, 2, 1, 2]


async def test_a_message_of_an_inbox_and_its_event_go_together(nodes: Nodes) -> None:
    node = await nodes.start()
    for _ in range(2):
        await node.inbox.append(
            publication("user:7", 1), "7", True, None, None, IdempotencyKey("k"), [event(1, "message.published")]
        )
    assert await told(node) == [1]


async def test_a_tasks_change_and_its_event_go_together_and_once(nodes: Nodes) -> None:
    node = await nodes.start()
    first = state(nodes)
    await node.tasks.create(created(first), None)
    final = msgspec.structs.replace(first, status=Status.COMPLETED, percentage=100.0, version=2)
    done = TaskEvent("task_completed", final)
    wrong = TaskEvent("task_completed", msgspec.structs.replace(final, version=5))
    assert not await node.tasks.replace(wrong, None, None, events=[event(0)])
    for _ in range(2):
        assert await node.tasks.replace(done, publication("user:7", "end"), IdempotencyKey("k"), events=[event(1)])
    assert await told(node) == [1]


async def test_a_message_that_was_not_read_in_time_is_told_once(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    wait = 3 * nodes.unit
    taken = await node.inbox.append(publication("user:7", "a"), "7", False, None, None, None, (), wait)
    kept = await node.inbox.append(publication("user:7", "b"), "7", False, None, None, None, (), wait)
    await node.inbox.append(publication("user:7", "c"), "7", False, None, None, None)
    await node.inbox.append(publication("user:8", "d"), "8", False, None, "key", None, (), wait)
    await node.inbox.append(publication("user:8", "e"), "8", False, None, "key", None, (), 9 * wait)
    await node.inbox.append(publication("user:9", "f"), "9", False, None, None, None, (), wait)
    await node.inbox.clear("9")
    await node.inbox.acknowledge("7", taken.offset, taken.epoch)
    assert await node.events.notify_unread(10) == 0
    await nodes.advance(4)
    counts = await gatherResults([node.events.notify_unread(10), other.events.notify_unread(10)])
    assert 4 in counts
    assert await node.events.notify_unread(10) == 0
    page = await node.events.read(None, 10, MANY)
    found = [events.decode(each.body) for each in page.events]
    assert [each.type for each in found] == ["inbox.unread"] * 2
    assert [each.subject for each in found] == ["user:7"] * 2
    assert [msgspec.json.decode(each.data) for each in found] == [
        {
            "userId": "7", "offset": place.offset, "epoch": place.epoch, "messageId": f"user:7/{data}",
            "type": "message", "data": data, "acked": acked,
        }
        for place, data, acked in ((taken, "a", True), (kept, "b", False))
    ]  # fmt: skip


async def test_reading_events_keeps_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    before = nodes.backend.footprint()
    await node.events.read(None, 10, MANY)
    await node.events.notify_unread(10)
    await node.events.trim()
    await node.deliveries.dead()
    assert nodes.backend.footprint() == before
