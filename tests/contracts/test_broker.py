"""`IBroker`: live messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from twisted.internet.defer import Deferred, fail, gatherResults, succeed

from pushserver.core import errors
from pushserver.engine.interfaces import ONCE_TTL, IdempotencyKey, Retention, Survey

from .nodes import contents, publication

if TYPE_CHECKING:
    from collections.abc import Callable

    from .nodes import Nodes


async def test_a_subscribed_node_hears_in_order_with_every_field(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await other.broker.subscribe("public:a")
    first = publication(
        "public:a", {"n": 0, "text": "grüße"}, "m0", sender="7", exclude_user="8", exclude_connection="c", type="x.y"
    )
    answers = [node.broker.publish(first, None, None)]
    answers += [node.broker.publish(publication("public:a", n, f"m{n}"), None, None) for n in range(1, 50)]
    published = await gatherResults(answers, consumeErrors=True)
    assert [each.message_id for each in published] == [f"m{n}" for n in range(50)]
    assert all(each.offset is None and each.epoch is None and not each.duplicate for each in published)
    received = await other.received(50)
    assert received[0] == first
    assert [each.message_id for each in received] == [f"m{n}" for n in range(50)]


async def test_the_publishers_own_node_heard_it_before_the_answer(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.broker.subscribe("a")
    for retention in (None, Retention(10, 10 * nodes.unit)):
        before = len(node.listener.delivered)
        await node.broker.publish(publication("a", 1), retention, None)
        assert len(node.listener.delivered) == before + 1


async def test_a_node_hears_only_what_it_subscribed_to(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.broker.subscribe("a")
    await node.broker.subscribe("a")
    await node.broker.publish(publication("b", 1), None, None)
    await node.broker.publish(publication("a", 2), None, None)
    assert contents(await node.received(1)) == [2]
    node.broker.unsubscribe("a")
    node.broker.unsubscribe("never-subscribed")
    await node.broker.subscribe("b")
    await node.broker.subscribe("a")
    await node.broker.publish(publication("a", 3), None, None)
    assert contents(await node.received(2)) == [2, 3]


async def test_every_node_hears_kept_messages_with_their_positions(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await other.broker.subscribe("a")
    retention = Retention(10, 10 * nodes.unit)
    published = await gatherResults(
        [node.broker.publish(publication("a", n), retention, None) for n in range(20)], consumeErrors=True
    )
    assert [each.offset for each in published] == list(range(1, 21))
    assert len({each.epoch for each in published}) == 1
    received = await other.received(20)
    assert [(each.offset, each.epoch) for each in received] == [(each.offset, each.epoch) for each in published]
    assert contents(received) == list(range(20))


@pytest.mark.parametrize("kept", [False, True])
async def test_a_repeat_within_the_once_ttl_changes_nothing(nodes: Nodes, kept: bool) -> None:
    node = await nodes.start()
    await node.broker.subscribe("a")
    await node.broker.subscribe("b")
    retention = Retention(10, 10 * nodes.unit) if kept else None
    first = await node.broker.publish(publication("a", 1, "first"), retention, IdempotencyKey("k"))
    again = await node.broker.publish(publication("a", "another body", "second"), retention, IdempotencyKey("k"))
    assert not first.duplicate
    assert again.duplicate
    assert (again.message_id, again.offset, again.epoch) == ("first", first.offset, first.epoch)
    elsewhere = await node.broker.publish(publication("b", 2), retention, IdempotencyKey("k"))
    assert not elsewhere.duplicate
    assert contents(node.listener.delivered) == [1, 2]


@pytest.mark.parametrize("kept", [False, True])
async def test_concurrent_repeats_happen_once(nodes: Nodes, kept: bool) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await node.broker.subscribe("a")
    retention = Retention(10, 10 * nodes.unit) if kept else None
    answers = [
        each.broker.publish(publication("a", n, f"m{n}"), retention, IdempotencyKey("k"))
        for n, each in enumerate([node, other, node, other, node])
    ]
    published = await gatherResults(answers, consumeErrors=True)
    assert sorted(each.duplicate for each in published) == [False, True, True, True, True]
    assert len({(each.message_id, each.offset) for each in published}) == 1
    received = await node.received(1)
    assert [each.message_id for each in received] == [published[0].message_id]


async def test_a_key_is_forgotten_after_its_ttl(nodes: Nodes) -> None:
    if not nodes.backend.fake_time:
        return
    node = await nodes.start()
    await node.broker.subscribe("a")
    for retention in (None, Retention(10, ONCE_TTL * 2)):
        first = await node.broker.publish(publication("a", 1, "m1"), retention, IdempotencyKey("k"))
        await nodes.backend.advance(ONCE_TTL - 1)
        assert (await node.broker.publish(publication("a", 2, "m2"), retention, IdempotencyKey("k"))).duplicate
        await nodes.backend.advance(1)
        assert first.message_id == "m1"
        third = await node.broker.publish(publication("a", 3, "m3"), retention, IdempotencyKey("k"))
        assert not third.duplicate
        assert third.message_id == "m3"
        await nodes.backend.advance(ONCE_TTL)


async def test_a_survey_asks_every_node(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    answers = await node.broker.survey(b"how many?", 10_000)
    assert answers == Survey({each.name: b"re:how many?" for each in (node, other)}, [])


async def test_a_survey_ends_without_those_that_fail(nodes: Nodes) -> None:
    node = await nodes.start()
    node.listener.reply = lambda _: fail(ValueError("cannot answer"))
    assert await node.broker.survey(b"?", 100) == Survey({}, [])


async def test_a_survey_ends_without_those_that_are_late(nodes: Nodes) -> None:
    node = await nodes.start()
    late: Deferred[bytes] = Deferred()
    node.listener.reply = lambda _: late
    asked = node.broker.survey(b"?", nodes.unit)
    await nodes.advance(2)
    assert await asked == Survey({}, [node.name])


async def test_one_node_is_asked_and_no_other(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    asked: list[str] = []

    def answering(name: str) -> Callable[[bytes], Deferred[bytes]]:
        def answer(question: bytes) -> Deferred[bytes]:
            asked.append(name)
            return succeed(b"here: " + question)

        return answer

    for each in (node, other):
        each.listener.reply = answering(each.name)
    assert await node.broker.request(other.name, b"who?", 10_000) == b"here: who?"
    assert await other.broker.request(other.name, b"who?", 10_000) == b"here: who?"
    assert asked == [other.name] * 2
    assert await node.broker.request("nobody", b"who?", 10_000) is None


async def test_a_node_that_does_not_answer_is_unavailable(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    other.listener.reply = lambda _: fail(ValueError("cannot answer"))
    with pytest.raises(errors.Unavailable):
        await node.broker.request(other.name, b"?", 10_000)
    late: Deferred[bytes] = Deferred()
    other.listener.reply = lambda _: late
    asked = node.broker.request(other.name, b"?", nodes.unit)
    await nodes.advance(2)
    with pytest.raises(errors.Unavailable):
        await asked


async def test_a_notice_reaches_every_other_node(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await node.broker.notify_others(b"one\ntwo")
    if other is not node:
        await other.listener.until(lambda: ("notice", b"one\ntwo") in other.listener.events)
    await node.broker.survey(b"?", 10_000)
    assert ("notice", b"one\ntwo") not in node.listener.events


async def test_nodes_know_each_other(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    known = {each.name: each for each in await node.broker.nodes()}
    assert set(known) == {node.name, other.name}
    assert all(each.started_at <= nodes.now() for each in known.values())
    assert all(each.last_heard_at <= nodes.now() for each in known.values())


async def test_after_stop_calls_fail_as_unavailable(nodes: Nodes) -> None:
    node = await nodes.start()
    assert node.engine.trouble() is None
    assert all(isinstance(value, int | float) for value in node.engine.figures().values())
    await nodes.stop(node)
    assert node.engine.trouble() is not None
    for call in (
        lambda: node.broker.publish(publication("a", 1), None, None),
        lambda: node.broker.publish(publication("a", 1), Retention(1, 1000), None),
        lambda: node.broker.subscribe("a"),
        lambda: node.history.read("a", None, 1, False),
        lambda: node.inbox.state("7"),
        lambda: node.tasks.get("t"),
        lambda: node.presence.online("7"),
        lambda: node.revocations.revoked([]),
    ):
        with pytest.raises(errors.Unavailable):
            await call()
