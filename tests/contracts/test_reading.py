"""Reading creates nothing, and pages are bounded by bytes."""

from __future__ import annotations

import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import errors
from pushserver.core.positions import Position
from pushserver.engine.interfaces import EPOCH_GRACE, EPOCH_PERIOD, POSITION_TTL, InboxRules, Retention

from .nodes import Nodes, contents, publication

KIB = 1024


async def test_reading_a_name_never_written_leaves_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.broker.subscribe("sub")
    before = nodes.backend.footprint()
    for n in range(20):
        page = await node.history.read(f"a{n}", None, 10, False)
        assert (page.messages, page.newest.offset, page.floor, page.more) == ((), 0, 0, False)
        await node.history.read(f"a{n}", 5, 10, True)
        inbox = await node.inbox.read(f"u{n}", None, 10)
        assert (inbox.messages, inbox.offset, inbox.acked, inbox.lost, inbox.pending) == ([], 0, 0, 0, 0)
        state = await node.inbox.state(f"u{n}")
        assert state.epoch == inbox.epoch
        assert await node.inbox.acknowledge(f"u{n}", 0, inbox.epoch) == 0
        with pytest.raises(errors.Conflict):
            await node.inbox.acknowledge(f"u{n}", 0, "another")
        with pytest.raises(errors.Invalid):
            await node.inbox.acknowledge(f"u{n}", 1, inbox.epoch)
        assert await node.inbox.clear(f"u{n}") == 0
        assert await node.presence.members(f"a{n}") == []
        assert not (await node.presence.online(f"u{n}")).online
        await node.tasks.of_user(f"u{n}", False, 10)
    assert nodes.backend.footprint() == before


async def test_each_name_has_an_epoch_of_its_own_that_every_node_knows(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    epochs = [(await each.history.read(name, None, 1, False)).newest.epoch for name in "ab" for each in (node, other)]
    epochs += [(await each.inbox.state(name)).epoch for name in "ab" for each in (node, other)]
    assert epochs[::2] == epochs[1::2]
    assert len(set(epochs)) == 4


async def test_a_first_write_keeps_the_epoch_that_was_read(nodes: Nodes) -> None:
    node = await nodes.start()
    read = (await node.history.read("a", None, 1, False)).newest
    published = await node.broker.publish(publication("a", 1), Retention(5, 10 * nodes.unit), None)
    assert (published.offset, published.epoch) == (1, read.epoch)
    state = await node.inbox.state("7")
    appended = await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)
    assert (appended.offset, appended.epoch) == (1, state.epoch)


async def test_the_epochs_outlive_a_restart(nodes: Nodes) -> None:
    node = await nodes.start()
    before = (await node.history.read("a", None, 1, False)).newest, await node.inbox.state("7")
    await nodes.stop(node)
    node = await nodes.start()
    assert ((await node.history.read("a", None, 1, False)).newest, await node.inbox.state("7")) == before


async def test_over_the_end_of_a_period_position_0_counts_for_an_hour(nodes: Nodes) -> None:
    if not nodes.backend.fake_time:
        return
    node = await nodes.start()
    await nodes.backend.advance(EPOCH_PERIOD - nodes.now() % EPOCH_PERIOD - 1000)
    old = (await node.history.read("a", None, 1, False)).newest
    old_inbox = await node.inbox.state("7")
    await nodes.backend.advance(2000)
    virtual = await node.history.read("a", 0, 10, False)
    assert virtual.newest.epoch != old.epoch
    assert virtual.current(old) == virtual.newest
    published = await node.broker.publish(publication("a", 1), Retention(5, EPOCH_PERIOD), None)
    await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)
    assert published.epoch == virtual.newest.epoch
    page = await node.history.read("a", 0, 10, False)
    assert page.current(old) == Position(0, page.newest.epoch)
    beyond = Position(1, old.epoch)
    assert page.current(beyond) == beyond
    inbox = await node.inbox.read("7", 0, 10)
    assert inbox.current(Position(0, old_inbox.epoch)) == Position(0, inbox.epoch)
    assert await node.inbox.acknowledge("7", 0, old_inbox.epoch) == 0
    with pytest.raises(errors.Conflict):
        await node.inbox.acknowledge("7", 1, old_inbox.epoch)
    await nodes.backend.advance(EPOCH_GRACE)
    page = await node.history.read("a", 0, 10, False)
    assert page.newest.epoch == published.epoch
    assert page.current(old) == old
    with pytest.raises(errors.Conflict):
        await node.inbox.acknowledge("7", 0, old_inbox.epoch)


async def test_no_epoch_returns_after_its_channel_was_forgotten(nodes: Nodes) -> None:
    if not nodes.backend.fake_time:
        return
    node = await nodes.start()
    seen: set[str] = set()
    for _ in range(4):
        published = await node.broker.publish(publication("a", 1), Retention(5, 1000), None)
        assert published.offset == 1
        assert published.epoch is not None
        assert published.epoch not in seen
        seen.add(published.epoch)
        page = await node.history.read("a", 0, 1, False)
        assert all(page.current(Position(0, epoch)) == Position(0, epoch) for epoch in seen)
        await nodes.backend.advance(POSITION_TTL + 1000)
        while (await node.history.read("a", None, 1, False)).newest.offset:
            await nodes.backend.advance(5_000)


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_page_of_history_ends_with_its_bytes(nodes: Nodes, reverse: bool) -> None:
    node = await nodes.start()
    retention = Retention(200, 100 * nodes.unit)
    text = "x" * KIB
    await gatherResults([node.broker.publish(publication("a", [n, text]), retention, None) for n in range(1, 121)])
    got: list[int] = []
    since = None
    pages = 0
    while True:
        page = await node.history.read("a", since, 1000, reverse, 20 * KIB)
        assert 1 <= len(page.messages) <= 20
        assert page.more == (len(got) + len(page.messages) < 120)
        got += [n for n, _ in contents(page.messages)]
        pages += 1
        if not page.more:
            break
        since = page.messages[-1].offset
    assert got == (list(range(120, 0, -1)) if reverse else list(range(1, 121)))
    assert pages >= 6
    one = await node.history.read("a", None, 10, reverse, 1)
    assert (len(one.messages), one.more) == (1, True)
    page = await node.history.read("a", 119, 10, False, 1)
    assert (len(page.messages), page.more) == (1, False)
    few = await node.history.read("a", None, 3, reverse, 20 * KIB)
    assert (len(few.messages), few.more) == (3, False)


async def test_a_page_of_an_inbox_ends_with_its_bytes(nodes: Nodes) -> None:
    node = await nodes.start(size=50, ttl=100)
    text = "x" * KIB
    for n in range(1, 31):
        await node.inbox.append(publication("user:7", [n, text]), "7", False, None, None, None)
    got: list[int] = []
    after = 0
    while True:
        page = await node.inbox.read("7", after, 100, 7 * KIB)
        assert 1 <= len(page.messages) <= 7
        assert page.pending == 30 - len(got)
        got += [n for n, _ in contents(page.messages)]
        if not page.more:
            break
        assert page.messages[-1].offset is not None
        after = page.messages[-1].offset
    assert got == list(range(1, 31))
    one = await node.inbox.read("7", None, 10, 1)
    assert (len(one.messages), one.more) == (1, True)


async def test_a_channel_is_bounded_by_bytes_too(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retention, "max_bytes", 64 * KIB)
    node = await nodes.start()
    retention = Retention(1000, 1000 * nodes.unit)
    text = "x" * KIB
    for begin in range(1, 301, 25):
        await gatherResults(
            [
                node.broker.publish(publication("a", [n, text], f"m{n}"), retention, None)
                for n in range(begin, begin + 25)
            ]
        )
        page = await node.history.read("a", None, 1000, False)
        offsets = [each.offset for each in page.messages]
        assert offsets == list(range(page.floor + 1, page.newest.offset + 1))
        assert len(offsets) <= 60
        assert len(offsets) >= min(begin + 24, 48)
    await nodes.stop(node)
    node = await nodes.start()
    await node.broker.publish(publication("a", "y" * 100 * KIB), retention, None)
    page = await node.history.read("a", None, 1000, False)
    assert (len(page.messages), page.floor, page.newest.offset) == (1, 300, 301)
    await node.broker.publish(publication("a", "small"), retention, None)
    page = await node.history.read("a", None, 1000, False)
    assert (contents(page.messages), page.floor) == (["small"], 301)


def test_the_bound_by_bytes_grows_with_the_count() -> None:
    assert Retention(100, 1).max_bytes == 16 * KIB * KIB
    assert Retention(1_000_000, 1).max_bytes == 1_000_000 * KIB


async def test_a_secret_belongs_to_the_store_and_to_a_purpose(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    secret = await node.engine.secret("tickets")
    assert len(secret) == 32
    assert await other.engine.secret("tickets") == secret
    assert await node.engine.secret("another") != secret
    if other is not node:
        await nodes.stop(other)
    await nodes.stop(node)
    with pytest.raises(errors.Unavailable):
        await nodes.backend.engine("c", node_rules(), 1000).secret("tickets")
    node = await nodes.start()
    assert await node.engine.secret("tickets") == secret


def node_rules() -> InboxRules:
    return InboxRules(5, 2, 1000)


async def test_how_full_the_store_is(nodes: Nodes) -> None:
    node = await nodes.start()
    figures = node.engine.figures()
    assert figures["store_bytes"] > 0
