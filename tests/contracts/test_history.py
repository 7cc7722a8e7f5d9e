"""`IHistory`: what channels keep, their positions, and what is said about what they no longer keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import errors
from pushserver.engine.interfaces import POSITION_TTL, IdempotencyKey, Retention

from .nodes import contents, publication

if TYPE_CHECKING:
    from pushserver.engine.interfaces import PublishResult

    from .nodes import Nodes, RunningNode


async def fill(node: RunningNode, retention: Retention, *values: int, channel: str = "a") -> list[PublishResult]:
    return await gatherResults(
        [node.broker.publish(publication(channel, value), retention, None) for value in values], consumeErrors=True
    )


async def test_an_empty_channel_has_an_epoch_that_the_first_message_keeps(nodes: Nodes) -> None:
    node = await nodes.start()
    page = await node.history.read("a", None, 10, False)
    assert (page.messages, page.newest.offset, page.floor) == ((), 0, 0)
    assert page.newest.epoch
    assert (await node.history.read("a", None, 10, False)).newest == page.newest
    (published,) = await fill(node, Retention(10, 10 * nodes.unit), 1)
    assert (published.offset, published.epoch) == (1, page.newest.epoch)
    assert (await node.history.read("b", None, 10, False)).newest.epoch != page.newest.epoch


async def test_a_channels_first_message_can_be_refused(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    retention = Retention(10, 10 * nodes.unit)
    before = nodes.backend.footprint()
    for once in (None, IdempotencyKey("k", publisher="7")):
        with pytest.raises(errors.NotFound):
            await node.broker.publish(publication("a", 1), retention, once, create=False)
    assert nodes.backend.footprint() == before
    await other.broker.publish(publication("a", 1), retention, None)
    for once in (None, IdempotencyKey("k", publisher="7")):
        assert (await node.broker.publish(publication("a", 2), retention, once, create=False)).offset is not None
    assert (await node.broker.publish(publication("live", 1), None, None, create=False)).offset is None


async def test_reading_forward_and_backward(nodes: Nodes) -> None:
    node = await nodes.start()
    await fill(node, Retention(10, 10 * nodes.unit), *range(1, 7))

    async def read(since: int | None, limit: int, reverse: bool) -> list[int]:
        page = await node.history.read("a", since, limit, reverse)
        assert (page.newest.offset, page.floor) == (6, 0)
        assert [each.offset for each in page.messages] == contents(page.messages)
        assert all(each.epoch == page.newest.epoch for each in page.messages)
        return contents(page.messages)

    assert await read(None, 10, False) == [1, 2, 3, 4, 5, 6]
    assert await read(None, 2, False) == [1, 2]
    assert await read(0, 10, False) == [1, 2, 3, 4, 5, 6]
    assert await read(4, 10, False) == [5, 6]
    assert await read(4, 1, False) == [5]
    assert await read(6, 10, False) == []
    assert await read(99, 10, False) == []
    assert await read(None, 0, False) == []
    assert await read(None, 2, True) == [6, 5]
    assert await read(3, 10, True) == [2, 1]
    assert await read(1, 10, True) == []


async def test_a_kept_message_comes_back_as_it_was_published(nodes: Nodes) -> None:
    node = await nodes.start()
    sent = publication(
        "a",
        {"n": [1, None, "é\u2028"]},
        "m",
        sender="7",
        type="x",
        exclude_user="8",
        exclude_connection="c9",
        tags={"colour": "blue\n"},
        sender_connection="c7",
        sender_info='{"name":"Ann\\n"}',
    )
    answer = await node.broker.publish(sent, Retention(10, 10 * nodes.unit), None)
    assert answer.offset is not None
    assert answer.epoch is not None
    page = await node.history.read("a", None, 10, False)
    assert page.messages == (sent.positioned(answer.offset, answer.epoch),)


async def test_what_is_cleared_is_gone_and_positions_go_on(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    retention = Retention(10, 10 * nodes.unit)
    before = nodes.backend.footprint()
    await node.history.clear("a")
    assert nodes.backend.footprint() == before
    published = await fill(node, retention, 1, 2)
    await fill(node, retention, 1, channel="b")
    await other.history.clear("a")
    page = await node.history.read("a", 0, 10, False)
    assert (page.messages, page.newest.offset, page.floor) == ((), 2, 2)
    assert page.newest.epoch == published[0].epoch
    assert (await node.history.read("b", 0, 10, False)).floor == 0
    (third,) = await fill(node, retention, 3)
    assert (third.offset, third.epoch) == (3, page.newest.epoch)
    page = await node.history.read("a", 2, 10, False)
    assert (contents(page.messages), page.floor) == ([3], 2)


async def test_the_floor_rises_with_what_size_removes(nodes: Nodes) -> None:
    node = await nodes.start()
    retention = Retention(3, 10 * nodes.unit)
    await fill(node, retention, 1, 2, 3)
    assert (await node.history.read("a", None, 10, False)).floor == 0
    await fill(node, retention, 4, 5)
    page = await node.history.read("a", 0, 10, False)
    assert (contents(page.messages), page.floor, page.newest.offset) == ([3, 4, 5], 2, 5)
    await fill(node, Retention(1, 10 * nodes.unit), 6)
    page = await node.history.read("a", None, 10, False)
    assert (contents(page.messages), page.floor, page.newest.offset) == ([6], 5, 6)


async def test_what_is_past_its_age_is_never_shown_and_the_position_stays(nodes: Nodes) -> None:
    node = await nodes.start()
    retention = Retention(10, 10 * nodes.unit)
    await fill(node, retention, 1, 2)
    await nodes.advance(6)
    await fill(node, retention, 3)
    before = await node.history.read("a", None, 10, False)
    assert (contents(before.messages), before.floor) == ([1, 2, 3], 0)
    await nodes.advance(5)
    page = await node.history.read("a", None, 10, False)
    assert (contents(page.messages), page.floor, page.newest) == ([3], 2, before.newest)
    await nodes.advance(6)
    page = await node.history.read("a", None, 10, True)
    assert (page.messages, page.floor, page.newest) == ((), 3, before.newest)
    (published,) = await fill(node, retention, 4)
    assert (published.offset, published.epoch) == (4, before.newest.epoch)
    page = await node.history.read("a", None, 10, False)
    assert (contents(page.messages), page.floor) == ([4], 3)


async def test_a_shorter_age_leaves_no_hole_before_what_is_kept(nodes: Nodes) -> None:
    """What goes before its elders takes them with it: what is kept is always everything after the floor."""
    node = await nodes.start()
    await fill(node, Retention(100, 50 * nodes.unit), *range(1, 11))
    await fill(node, Retention(100, 10 * nodes.unit), *range(11, 41))
    await nodes.advance(11)
    await fill(node, Retention(100, 50 * nodes.unit), *range(41, 71))
    page = await node.history.read("a", 5, 0, False)
    assert (page.floor, page.newest.offset) == (40, 70)
    page = await node.history.read("a", 5, 20, False)
    assert (contents(page.messages), page.floor) == (list(range(41, 61)), 40)
    page = await node.history.read("a", 60, 20, False)
    assert contents(page.messages) == list(range(61, 71))
    page = await node.history.read("a", None, 100, True)
    assert contents(page.messages) == list(range(70, 40, -1))


async def test_a_shorter_age_holds_once_its_own_messages_are_past_it(nodes: Nodes) -> None:
    node = await nodes.start()
    await fill(node, Retention(100, 50 * nodes.unit), 1, 2)
    await fill(node, Retention(100, 10 * nodes.unit), 3)
    assert contents((await node.history.read("a", None, 10, False)).messages) == [1, 2, 3]
    await nodes.advance(11)
    page = await node.history.read("a", None, 10, False)
    assert (page.messages, page.floor, page.newest.offset) == ((), 3, 3)
    await fill(node, Retention(100, 10 * nodes.unit), 4)
    page = await node.history.read("a", 3, 10, False)
    assert (contents(page.messages), page.floor) == ([4], 3)


async def test_history_and_its_positions_outlive_a_restart(nodes: Nodes) -> None:
    node = await nodes.start()
    retention = Retention(3, 10 * nodes.unit)
    await fill(node, retention, 1, 2, 3, 4)
    await node.broker.publish(publication("a", 5, "m5"), retention, IdempotencyKey("k"))
    before = await node.history.read("a", None, 10, False)
    await nodes.stop(node)
    node = await nodes.start()
    assert await node.history.read("a", None, 10, False) == before
    again = await node.broker.publish(publication("a", 6), retention, IdempotencyKey("k"))
    assert (again.duplicate, again.offset, again.message_id) == (True, 5, "m5")
    await nodes.advance(11)
    await nodes.stop(node)
    node = await nodes.start()
    page = await node.history.read("a", None, 10, False)
    assert (page.messages, page.newest, page.floor) == ((), before.newest, 5)
    (published,) = await fill(node, retention, 6)
    assert (published.offset, published.epoch) == (6, before.newest.epoch)


async def test_reading_and_publishing_at_once_leaves_no_hole(nodes: Nodes) -> None:
    """What a page holds and what is delivered after it was asked for are together everything, in order."""
    node = await nodes.start()
    writer = await nodes.second(node)
    retention = Retention(1000, 10 * nodes.unit)
    await node.broker.subscribe("a")
    answers = [writer.broker.publish(publication("a", n), retention, None) for n in range(1, 41)]
    asked = node.history.read("a", 0, 1000, False)
    answers += [writer.broker.publish(publication("a", n), retention, None) for n in range(41, 81)]
    page = await asked
    await gatherResults(answers, consumeErrors=True)
    received = await node.received(80)
    assert contents(page.messages) == list(range(1, page.newest.offset + 1))
    assert contents(received) == list(range(1, 81))
    assert [each.offset for each in received] == list(range(1, 81))


async def test_a_channel_without_news_loses_its_position_in_the_end(nodes: Nodes) -> None:
    if not nodes.backend.fake_time:
        return
    node = await nodes.start()
    (published,) = await fill(node, Retention(10, 10 * nodes.unit), 1)
    await nodes.backend.advance(POSITION_TTL - 60_000)
    assert (await node.history.read("a", None, 10, False)).newest.epoch == published.epoch
    for _ in range(50):
        await nodes.backend.advance(60_000)
        await node.history.read("other", None, 1, False)
    page = await node.history.read("a", None, 10, False)
    assert page.newest.epoch != published.epoch
    assert page.newest.offset == 0
