"""`IDeliveries`: how far webhooks have come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pushserver.core import errors
from pushserver.engine.interfaces import DEAD_TTL, MAX_DEAD, DeadEvent, HeldSubject

from .test_events import MANY, event, told

if TYPE_CHECKING:
    from .nodes import Nodes, RunningNode


async def ids(node: RunningNode, count: int) -> list[str]:
    """Keep so many events; return their ids."""
    await node.events.append([event(n) for n in range(count)])
    return [each.id for each in (await node.events.read(None, 10_000, MANY)).events][-count:]


def dead(nodes: Nodes, id: str, webhook: str = "mail", age: int = 0) -> DeadEvent:
    body = msgspec.Raw(b'{"id":"%s","type":"user.online","timestamp":1,"data":{"userId":"7"}}' % id.encode())
    return DeadEvent(webhook, body, "answered 500", 3, nodes.now() - age)


async def start(nodes: Nodes) -> RunningNode:
    node = await nodes.start()
    assert await node.deliveries.lease(60_000)
    return node


async def test_a_new_webhook_begins_some_time_ago_and_goes_on_where_it_was(nodes: Nodes) -> None:
    node = await start(nodes)
    first = await node.deliveries.begin("early", 0)
    assert (first.subjects, first.held) == ([], 0)
    old = await ids(node, 2)
    await nodes.advance(4)
    new = await ids(node, 2)
    await nodes.advance(1)
    assert (await node.deliveries.begin("mail", 3 * nodes.unit)).cursor == old[-1]
    assert (await node.deliveries.begin("late", 0)).cursor == new[-1]
    assert await told(node, first.cursor) == [0, 1, 0, 1]
    assert (await node.deliveries.begin("early", 0)).cursor == first.cursor
    await node.deliveries.move_cursor("early", old[0])
    assert (await node.deliveries.begin("early", 0)).cursor == old[0]


async def test_a_receiver_that_is_gone_is_kept_until_that_is_forgotten(nodes: Nodes) -> None:
    node = await start(nodes)
    other = await nodes.second(node)
    assert (await node.deliveries.begin("mail", 0)).gone == ""
    (id,) = await ids(node, 1)
    await node.deliveries.mark_gone("mail", "there")
    await node.deliveries.move_cursor("mail", id)
    known = await node.deliveries.begin("mail", 0)
    assert (known.gone, known.cursor) == ("there", id)
    assert await other.deliveries.gone("mail") == "there"
    assert await other.deliveries.gone("other") == ""
    await other.deliveries.forget_gone(["other", "mail"])
    assert await node.deliveries.gone("mail") == ""
    known = await node.deliveries.begin("mail", 0)
    assert (known.gone, known.cursor) == ("", id)


async def test_what_is_known_of_a_webhook_goes_once_nobody_names_it_any_more(nodes: Nodes) -> None:
    node = await start(nodes)
    (old, new) = await ids(node, 2)
    for name in ("mail", "removed"):
        await node.deliveries.begin(name, 0)
        await node.deliveries.move_cursor(name, old)
    await node.deliveries.keep(["mail", "removed"], 9 * nodes.unit)
    for name in ("mail", "removed"):
        await node.deliveries.hold(name, HeldSubject("user:7", 1, 5), [new])
    footprint = nodes.backend.footprint()
    for _ in range(2):
        await nodes.advance(4)
        await node.deliveries.keep(["mail", "never-begun"], 9 * nodes.unit)
    # It is put back in time, and removed again.
    known = await node.deliveries.begin("removed", 0)
    assert (known.cursor, known.held) == (old, 1)
    assert nodes.backend.footprint() == footprint
    await node.deliveries.keep(["mail", "removed"], 9 * nodes.unit)
    for _ in range(3):
        await nodes.advance(4)
        assert await node.deliveries.lease(60_000)
        await node.deliveries.keep(["mail"], 9 * nodes.unit)
    assert nodes.backend.footprint() != footprint
    known = await node.deliveries.begin("mail", 0)
    assert (known.cursor, known.held) == (old, 1)
    # By now it is a new one.
    known = await node.deliveries.begin("removed", 0)
    assert (known.cursor, known.subjects, known.held) == (new, [], 0)


async def test_what_is_held_of_a_subject_comes_back_in_its_order(nodes: Nodes) -> None:
    node = await start(nodes)
    await node.deliveries.begin("mail", 0)
    one, two, three, four = await ids(node, 4)
    state = HeldSubject("user:7", 2, 99)
    await node.deliveries.hold("mail", state, [three])
    await node.deliveries.hold("mail", state, [one, four])
    await node.deliveries.hold("mail", HeldSubject("user:70", 1, 5), [two])
    await node.deliveries.hold("other", HeldSubject("user:7", 1, 5), [two])
    known = await node.deliveries.begin("mail", 0)
    assert sorted(known.subjects, key=lambda each: each.subject) == [state, HeldSubject("user:70", 1, 5)]
    assert known.held == 4
    assert [each.id for each in await node.deliveries.held("mail", "user:7", 10)] == [one, three, four]
    (first,) = await node.deliveries.held("mail", "user:7", 1)
    assert first in (await node.events.read(None, 10, MANY)).events
    assert await node.deliveries.release("mail", "user:7", one, None) == 2
    gone = dead(nodes, three)
    assert await node.deliveries.release("mail", "user:7", three, gone) == 1
    assert await node.deliveries.release("mail", "user:7", four, None) == 0
    assert (await node.deliveries.begin("mail", 0)).subjects == [HeldSubject("user:70", 1, 5)]
    assert await node.deliveries.dead() == [gone]


async def test_what_is_held_and_gone_from_the_outbox_has_no_body(nodes: Nodes) -> None:
    node = await start(nodes)
    (id,) = await ids(node, 1)
    await node.deliveries.hold("mail", HeldSubject("user:7", 1, 5), [id])
    rules = node.events.rules
    rules.adopt(msgspec.structs.replace(rules, retention=1))
    await nodes.advance(1)
    await node.events.trim()
    (gone,) = await node.deliveries.held("mail", "user:7", 10)
    assert (gone.id, gone.body) == (id, b"")


async def test_the_dead_are_tried_once_more_when_that_is_asked(nodes: Nodes) -> None:
    node = await start(nodes)
    one, two = dead(nodes, "1-10", age=5), dead(nodes, "1-9")
    other = dead(nodes, "1-10", "other", age=3)
    await node.deliveries.add_dead([one, two, other])
    assert await node.deliveries.dead() == [one, other, two]
    assert await node.deliveries.retried("mail") == []
    assert await node.deliveries.retry("mail", ["1-9", "1-9", "7-7"]) == 1
    assert await node.deliveries.retried("other") == []
    # Until it is known what came of it, also where another node goes on.
    assert await node.deliveries.retried("mail") == [two]
    assert await node.deliveries.retried("mail") == [two]
    await node.deliveries.add_dead([two])
    assert await node.deliveries.retried("mail") == []
    assert await node.deliveries.retry("mail", []) == 0
    assert await node.deliveries.retry("mail", None) == 2
    assert await node.deliveries.retried("mail") == [two, one]
    assert await node.deliveries.dead() == [one, other, two]
    await node.deliveries.revive("mail", "1-10")
    assert await node.deliveries.retried("mail") == [two]
    again = msgspec.structs.replace(two, attempts=4)
    await node.deliveries.add_dead([again])
    assert await node.deliveries.retried("mail") == []
    assert await node.deliveries.dead() == [other, again]


async def test_only_the_newest_dead_are_kept_and_none_for_too_long(nodes: Nodes) -> None:
    node = await start(nodes)
    await node.deliveries.add_dead([dead(nodes, "1-1", age=DEAD_TTL + 1)])
    assert await node.deliveries.dead() == []
    await node.deliveries.add_dead([dead(nodes, f"1-{n}", age=MAX_DEAD - n) for n in range(MAX_DEAD)])
    await node.deliveries.add_dead([dead(nodes, "2-1"), dead(nodes, "2-2")])
    kept = await node.deliveries.dead()
    assert len(kept) == MAX_DEAD
    assert bytes(kept[0].event) == bytes(dead(nodes, "1-2").event)


async def test_one_node_works_on_webhooks_at_a_time(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    assert await node.deliveries.lease(60_000)
    assert await node.deliveries.lease(60_000)
    await node.deliveries.begin("mail", 0)
    if other is not node:
        assert not await other.deliveries.lease(60_000)
        with pytest.raises(errors.Unavailable):
            await other.deliveries.move_cursor("mail", "0")
        assert not await node.deliveries.lease(0)
        assert await other.deliveries.lease(60_000)
        with pytest.raises(errors.Unavailable):
            await node.deliveries.begin("mail", 0)
