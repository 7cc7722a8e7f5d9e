"""A key belongs to who publishes, and a repeat with another content is answered as the first, and said to differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pushserver.engine.interfaces import IdempotencyKey, Retention

from .nodes import contents, publication

if TYPE_CHECKING:
    from pushserver.engine.interfaces import PublishResult

    from .nodes import Nodes, RunningNode

KINDS = ["live", "kept", "inbox"]


async def send(
    node: RunningNode, nodes: Nodes, kind: str, data: str, publisher: str | None, *, type: str = "message"
) -> PublishResult:
    key = IdempotencyKey("order-1", publisher=publisher)
    if kind == "inbox":
        message = publication("user:7", data, type=type)
        return await node.inbox.append(message, "7", publisher is not None, None, None, key)
    retention = Retention(10, 100 * nodes.unit) if kind == "kept" else None
    return await node.broker.publish(publication("a", data, type=type), retention, key)


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_uses_up_anothers_key(nodes: Nodes, kind: str) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await node.broker.subscribe("user:7" if kind == "inbox" else "a")
    for publisher in ("mallory", None, "ann"):
        assert not (await send(other, nodes, kind, f"{publisher}", publisher)).duplicate
    for publisher in ("mallory", None, "ann"):
        again = await send(node, nodes, kind, f"{publisher}", publisher)
        assert (again.duplicate, again.conflict) == (True, False)
    assert contents(await node.received(3)) == ["mallory", "None", "ann"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_repeat_with_another_content_is_said(nodes: Nodes, kind: str) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = await send(node, nodes, kind, "first", None)
    assert (first.duplicate, first.conflict) == (False, False)
    for data, type, conflict in (
        ("first", "message", False),
        ("second", "message", True),
        ("first", "another", True),
        ("first", "message", False),
    ):
        again = await send(other, nodes, kind, data, None, type=type)
        assert (again.duplicate, again.conflict) == (True, conflict)
        assert (again.message_id, again.offset, again.epoch) == (first.message_id, first.offset, first.epoch)


async def test_within_one_turn_the_first_one_counts(nodes: Nodes) -> None:
    node = await nodes.start()
    first, second = send(node, nodes, "kept", "first", "ann"), send(node, nodes, "kept", "second", "ann")
    assert [(each.duplicate, each.conflict) for each in (await first, await second)] == [(False, False), (True, True)]
