"""Positions over a move of every epoch: what was kept before it still counts, and nothing else."""

from __future__ import annotations

from pushserver.core.positions import Position, base_of
from pushserver.engine.interfaces import Retention

from .nodes import Nodes, RunningNode, publication

KEEP = Retention(size=20, ttl=3_600_000)
CHANNEL, USER = "news:a", "ann"


async def write(node: RunningNode, count: int) -> tuple[Position, Position]:
    """Write to a history and an inbox; return the newest positions."""
    for n in range(count):
        kept = await node.broker.publish(publication(CHANNEL, n), KEEP, None)
        noted = await node.inbox.append(publication(f"user:{USER}", n), USER, False, None, None, None)
    return Position(kept.offset, kept.epoch), Position(noted.offset, noted.epoch)


async def located(node: RunningNode, history: Position, inbox: Position) -> tuple[Position | None, Position | None]:
    return await node.history.locate(CHANNEL, history), await node.inbox.locate(USER, inbox)


async def test_a_position_of_the_same_data_stands_after_the_move(nodes: Nodes) -> None:
    node = await nodes.start()
    before = await write(node, 3)
    await node.engine.move_epochs()
    after = await write(node, 1)
    for old, new in zip(before, after, strict=True):
        assert (old.epoch == new.epoch, base_of(old.epoch), new.offset) == (False, base_of(new.epoch), 4)
    assert await located(node, *before) == tuple(Position(3, new.epoch) for new in after)
    # 4 of the epoch before would be of data that were lost: what stands there now is another message.
    assert await located(node, *(Position(4, old.epoch) for old in before)) == (None, None)
    assert await located(node, *after) == after
    assert await located(node, *(Position(5, new.epoch) for new in after)) == (None, None)


async def test_a_position_stands_over_many_moves_as_far_as_it_was_given_out_by_then(nodes: Nodes) -> None:
    node = await nodes.start()
    known = [await write(node, 2)]
    for _ in range(4):
        await node.engine.move_epochs()
        known.append(await write(node, 2))
    newest = known[-1]
    for each in known:
        assert await located(node, *each) == tuple(
            Position(old.offset, new.epoch) for old, new in zip(each, newest, strict=True)
        )
        beyond = [Position(old.offset + 1, old.epoch) for old in each]
        assert await located(node, *beyond) == (None, None)
    # Nothing is written between two moves: positions of both count.
    await node.engine.move_epochs()
    await node.engine.move_epochs()
    last = await write(node, 1)
    for each in (known[0], newest):
        assert await located(node, *each) == tuple(
            Position(old.offset, new.epoch) for old, new in zip(each, last, strict=True)
        )


async def test_of_many_moves_the_last_ones_are_known(nodes: Nodes) -> None:
    node = await nodes.start()
    known = []
    for _ in range(10):
        known.append(await write(node, 1))
        await node.engine.move_epochs()
    newest = await write(node, 1)
    stands = [await located(node, *each) != (None, None) for each in known]
    assert (stands[0], stands[3:]) == (False, [True] * 7)
    # What is not known is of no use to anybody, and harms nobody.
    assert await located(node, *newest) == newest


async def test_a_position_of_another_life_stands_nowhere(nodes: Nodes) -> None:
    node = await nodes.start()
    newest = await write(node, 3)
    for epoch in ("other", f"{newest[0].epoch}x", f"abc.{base_of(newest[0].epoch)}", "abc."):
        assert await located(node, Position(1, epoch), Position(1, epoch)) == (None, None)
    # One of a channel that was never written, too.
    assert await node.history.locate("news:b", newest[0]) is None


async def test_a_move_is_told_with_what_was_told_before(nodes: Nodes) -> None:
    node = await nodes.start()
    for channel in (CHANNEL, f"user:{USER}"):
        await node.broker.subscribe(channel)
    history, inbox = await write(node, 2)
    await node.engine.move_epochs()
    await node.resynced(CHANNEL, f"user:{USER}")
    assert node.listener.reached == {CHANNEL: history, f"user:{USER}": inbox}
    assert ("refresh",) in node.listener.events


async def test_other_nodes_follow_the_move(nodes: Nodes) -> None:
    if not nodes.backend.shared:
        return
    one, two = await nodes.start("one"), await nodes.start("two")
    history, inbox = await write(one, 2)
    await two.broker.subscribe(CHANNEL)
    await one.engine.move_epochs()
    moved = await write(two, 1)
    assert [each.offset for each in moved] == [3, 3]
    assert await located(one, history, inbox) == tuple(Position(2, each.epoch) for each in moved)
    await two.resynced(CHANNEL)
