"""`IInbox`: what users have waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import errors
from pushserver.core.inbox import InboxChange, Selection, Unread
from pushserver.core.task import NewTask, at_least, create, fail, restart
from pushserver.engine.interfaces import IdempotencyKey, InboxNumbers, InboxOutcome, TaskEvent

from .nodes import contents, publication

if TYPE_CHECKING:
    from pushserver.engine.interfaces import PublishResult

    from .nodes import Nodes, RunningNode


async def put(
    node: RunningNode,
    *values: Any,
    user: str = "7",
    chat: bool = False,
    ttl: int | None = None,
    collapse: str | None = None,
    once: str | None = None,
) -> list[PublishResult]:
    return await gatherResults(
        [
            node.inbox.append(
                publication(f"user:{user}", value), user, chat, ttl, collapse, IdempotencyKey(once) if once else None
            )
            for value in values
        ],
        consumeErrors=True,
    )


async def waiting(node: RunningNode, after: int | None = None, user: str = "7") -> tuple[list[Any], int]:
    page = await node.inbox.read(user, after, 100)
    return contents(page.messages), page.lost


async def test_an_untouched_inbox_has_an_epoch_that_stays(nodes: Nodes) -> None:
    node = await nodes.start()
    state = await node.inbox.state("7")
    assert state == InboxNumbers(0, state.epoch, 0, 0)
    assert state.epoch
    (published,) = await put(node, "x")
    assert (published.offset, published.epoch) == (1, state.epoch)
    assert await node.inbox.state("7") == InboxNumbers(1, state.epoch, 0, 1, Unread(1))
    assert (await node.inbox.state("8")).epoch != state.epoch


async def test_messages_wait_in_order_and_come_back_as_they_were(nodes: Nodes) -> None:
    node = await nodes.start()
    sent = publication("user:7", {"a": [1]}, "m1", sender="9", type="user_notification")
    published = await node.inbox.append(sent, "7", False, None, None, None)
    await put(node, "b", "c")
    page = await node.inbox.read("7", None, 100)
    assert page.messages[0] == sent.positioned(published.offset, published.epoch)
    assert [each.offset for each in page.messages] == [1, 2, 3]
    assert (page.offset, page.epoch, page.acked, page.lost, page.pending) == (3, published.epoch, 0, 0, 3)
    assert contents((await node.inbox.read("7", None, 2)).messages) == [{"a": [1]}, "b"]
    assert contents((await node.inbox.read("7", 2, 100)).messages) == ["c"]
    assert (await node.inbox.read("7", 3, 100)).messages == []
    assert (await node.inbox.read("7", 99, 100)).messages == []


async def test_it_is_delivered_live_after_it_is_kept(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await other.broker.subscribe("user:7")
    published = await put(node, *range(20))
    received = await other.received(20)
    assert [each.offset for each in received] == list(range(1, 21))
    assert {each.epoch for each in received} == {published[0].epoch}
    assert contents(received) == list(range(20))


async def test_users_do_not_share_anything(nodes: Nodes) -> None:
    node = await nodes.start()
    await put(node, "a", user="7")
    await put(node, "b", "c", user="77")
    assert await waiting(node, user="7") == (["a"], 0)
    assert await waiting(node, user="77") == (["b", "c"], 0)


async def test_acknowledging_moves_the_cursor_and_deletes_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    (published, *_) = await put(node, "a", "b", "c")
    epoch = published.epoch
    assert await node.inbox.acknowledge("7", 2, epoch) == 2
    assert await node.inbox.acknowledge("7", 1, epoch) == 2
    assert await node.inbox.state("7") == InboxNumbers(3, epoch, 2, 1, Unread(3))
    assert await waiting(node) == (["c"], 0)
    assert await waiting(node, after=0) == (["a", "b", "c"], 0)
    assert (await node.inbox.read("7", None, 0)).pending == 1
    assert await node.inbox.acknowledge("7", 3, epoch) == 3
    assert await waiting(node) == ([], 0)


async def test_a_wrong_acknowledgement_changes_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    (published,) = await put(node, "a")
    with pytest.raises(errors.Conflict):
        await node.inbox.acknowledge("7", 1, "another")
    with pytest.raises(errors.Invalid):
        await node.inbox.acknowledge("7", 2, published.epoch)
    with pytest.raises(errors.Invalid):
        await node.inbox.acknowledge("7", 2**70, published.epoch)
    assert (await node.inbox.state("7")).acked == 0
    for epoch in ("another", ""):
        for user in ("7", "unknown"):
            with pytest.raises(errors.Conflict):
                await node.inbox.acknowledge(user, 0, epoch)


async def test_two_devices_read_from_where_each_is(nodes: Nodes) -> None:
    node = await nodes.start()
    (published, *_) = await put(node, "a", "b", "c")
    await node.inbox.acknowledge("7", 3, published.epoch)
    assert await waiting(node, after=1) == (["b", "c"], 0)
    await put(node, "d")
    assert await waiting(node, after=1) == (["b", "c", "d"], 0)
    assert await waiting(node) == (["d"], 0)


async def test_the_oldest_goes_first_and_is_counted_as_lost(nodes: Nodes) -> None:
    node = await nodes.start(size=5)
    (published, *_) = await put(node, *range(1, 9))
    assert await waiting(node) == ([4, 5, 6, 7, 8], 3)
    assert await waiting(node, after=1) == ([4, 5, 6, 7, 8], 2)
    assert await waiting(node, after=3) == ([4, 5, 6, 7, 8], 0)
    assert await node.inbox.state("7") == InboxNumbers(8, published.epoch, 0, 5, Unread(5))
    await node.inbox.acknowledge("7", 3, published.epoch)
    assert await waiting(node) == ([4, 5, 6, 7, 8], 0)


async def test_what_was_lost_beyond_a_page_is_counted_apart(nodes: Nodes) -> None:
    node = await nodes.start(size=5, chat_size=2)

    async def lost(after: int | None, limit: int) -> tuple[int, int]:
        page = await node.inbox.read("7", after, limit)
        return page.lost, page.beyond

    await put(node, "n1", "n2", "n3")
    await put(node, "c4", "c5", "c6", "c7", chat=True)
    assert await waiting(node) == (["n1", "n2", "n3", "c6", "c7"], 2)
    assert await lost(None, 0) == (2, 2)
    assert await lost(None, 3) == (2, 2)
    assert await lost(3, 0) == (2, 2)
    assert await lost(3, 1) == (2, 0)
    assert await lost(4, 0) == (1, 1)
    assert await lost(None, 100) == (2, 0)
    await put(node, "n8", "n9", "n10")
    assert await waiting(node) == (["c6", "c7", "n8", "n9", "n10"], 5)
    assert await lost(0, 1) == (5, 0)
    await put(node, "n11", "n12")
    assert await lost(6, 1) == (1, 0)
    assert await lost(5, 0) == (2, 2)


async def test_chat_evicts_only_chat(nodes: Nodes) -> None:
    node = await nodes.start(size=5, chat_size=2)
    await put(node, "n1", "n2")
    await put(node, "c3", "c4", "c5", "c6", chat=True)
    assert await waiting(node) == (["n1", "n2", "c5", "c6"], 2)
    await put(node, "n7", "n8")
    assert await waiting(node) == (["n2", "c5", "c6", "n7", "n8"], 3)
    await put(node, "c9", chat=True)
    assert await waiting(node) == (["n2", "c6", "n7", "n8", "c9"], 4)
    assert await waiting(node, after=4) == (["c6", "n7", "n8", "c9"], 1)
    await put(node, "n10", "n11", "n12")
    assert await waiting(node) == (["n8", "c9", "n10", "n11", "n12"], 7)


async def test_chat_beside_a_full_inbox_evicts_only_itself(nodes: Nodes) -> None:
    node = await nodes.start(size=3, chat_size=2)
    await node.broker.subscribe("user:7")
    await put(node, "n1", "n2", "n3")
    await put(node, "c4", chat=True)
    assert await waiting(node) == (["n1", "n2", "n3"], 1)
    assert contents(await node.received(4)) == ["n1", "n2", "n3", "c4"]
    (published,) = await put(node, "n5")
    assert published.offset == 5
    assert await waiting(node) == (["n2", "n3", "n5"], 2)


async def test_chat_beside_a_full_inbox_takes_the_place_of_what_is_read(nodes: Nodes) -> None:
    node = await nodes.start(size=3, chat_size=2)
    (published, *_) = await put(node, "n1", "n2", "n3")
    await node.inbox.acknowledge("7", 1, published.epoch)
    await put(node, "c4", chat=True)
    assert await waiting(node, after=0) == (["n2", "n3", "c4"], 1)
    await put(node, "c5", chat=True)
    assert await waiting(node, after=0) == (["n2", "n3", "c5"], 2)
    await node.inbox.acknowledge("7", 5, published.epoch)
    await put(node, "c6", "c7", chat=True)
    assert await waiting(node, after=0) == (["n3", "c6", "c7"], 4)


async def test_age_removes_and_counts_as_lost(nodes: Nodes) -> None:
    node = await nodes.start(ttl=10)
    await put(node, "a", "b")
    await nodes.advance(6)
    (published,) = await put(node, "c")
    await nodes.advance(5)
    assert await waiting(node) == (["c"], 2)
    assert await node.inbox.state("7") == InboxNumbers(3, published.epoch, 0, 1, Unread(1))
    await nodes.advance(6)
    assert await waiting(node) == ([], 3)
    (published,) = await put(node, "d")
    assert published.offset == 4
    assert await waiting(node) == (["d"], 3)


async def test_a_message_of_its_own_ttl_goes_without_being_lost(nodes: Nodes) -> None:
    node = await nodes.start(ttl=20)
    await put(node, "a")
    await put(node, "short", ttl=5 * nodes.unit)
    await put(node, "b")
    assert await waiting(node) == (["a", "short", "b"], 0)
    await nodes.advance(6)
    assert await waiting(node) == (["a", "b"], 0)
    assert (await node.inbox.state("7")).pending == 2
    await nodes.advance(15)
    assert await waiting(node) == ([], 2)


async def test_a_ttl_beyond_the_inboxs_own_is_the_inboxs(nodes: Nodes) -> None:
    node = await nodes.start(ttl=10)
    await put(node, "a", ttl=100 * nodes.unit)
    await nodes.advance(11)
    assert await waiting(node) == ([], 1)


async def test_what_is_past_its_own_ttl_takes_no_place(nodes: Nodes) -> None:
    node = await nodes.start(size=3)
    await put(node, "a")
    await put(node, "short1", "short2", ttl=2 * nodes.unit)
    await nodes.advance(3)
    await put(node, "b", "c")
    assert await waiting(node) == (["a", "b", "c"], 0)
    await put(node, "d")
    assert await waiting(node) == (["b", "c", "d"], 1)


async def test_a_collapse_key_replaces_what_is_unread(nodes: Nodes) -> None:
    node = await nodes.start(size=5)
    (first, *_) = await put(node, "a1", collapse="k")
    await put(node, "b")
    await put(node, "a2", collapse="k")
    await put(node, "other", collapse="k2")
    assert await waiting(node) == (["b", "a2", "other"], 0)
    await put(node, "elsewhere", user="8", collapse="k")
    assert await waiting(node) == (["b", "a2", "other"], 0)
    await node.inbox.acknowledge("7", 4, first.epoch)
    await node.inbox.mark("7", Selection(first.epoch, (), 4), 50, None)
    await put(node, "a3", collapse="k")
    assert await waiting(node) == (["a3"], 0)
    assert await waiting(node, after=0) == (["b", "a2", "other", "a3"], 0)


async def test_collapsing_in_a_burst_leaves_the_last(nodes: Nodes) -> None:
    node = await nodes.start(size=3)
    published = await put(node, *range(10), collapse="k")
    assert [each.offset for each in published] == list(range(1, 11))
    assert await waiting(node) == ([9], 0)
    await put(node, "x", "y", "z")
    assert await waiting(node) == (["x", "y", "z"], 1)


async def test_a_repeat_appends_nothing(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await node.broker.subscribe("user:7")
    answers = await gatherResults(
        [
            each.inbox.append(publication("user:7", n, f"m{n}"), "7", False, None, None, IdempotencyKey("k"))
            for n, each in enumerate([node, other, node])
        ],
        consumeErrors=True,
    )
    assert sorted(each.duplicate for each in answers) == [False, True, True]
    assert {(each.message_id, each.offset) for each in answers} == {(answers[0].message_id, 1)}
    (elsewhere,) = await put(node, "e", user="8", once="k")
    assert not elsewhere.duplicate
    await put(node, "last")
    assert [each.offset for each in await node.received(2)] == [1, 2]
    again = await node.inbox.append(publication("user:7", "z"), "7", False, None, None, IdempotencyKey("k"))
    assert (again.duplicate, again.offset, again.epoch) == (True, 1, answers[0].epoch)
    assert (await node.inbox.state("7")).offset == 2


async def test_clearing_keeps_the_position_and_loses_nothing(nodes: Nodes) -> None:
    node = await nodes.start(size=5)
    (published, *_) = await put(node, *range(1, 8))
    await node.inbox.acknowledge("7", 4, published.epoch)
    assert await node.inbox.clear("7") == 5
    assert await node.inbox.clear("7") == 0
    assert await node.inbox.clear("unknown") == 0
    assert await node.inbox.state("7") == InboxNumbers(7, published.epoch, 4, 0)
    assert await waiting(node) == ([], 0)
    assert await waiting(node, after=0) == ([], 0)
    (published,) = await put(node, "x")
    assert published.offset == 8
    assert await waiting(node) == (["x"], 0)


async def test_everything_outlives_a_restart(nodes: Nodes) -> None:
    node = await nodes.start(size=5)
    (published, *_) = await put(node, *range(1, 8))
    await node.inbox.acknowledge("7", 5, published.epoch)
    await put(node, "chat", chat=True, once="k")
    await put(node, "collapsing", collapse="c")
    before = [await node.inbox.read("7", after, 100) for after in (None, 0, 3)]
    state = await node.inbox.state("7")
    await nodes.stop(node)
    node = await nodes.start(size=5)
    assert [await node.inbox.read("7", after, 100) for after in (None, 0, 3)] == before
    assert await node.inbox.state("7") == state
    (again,) = await put(node, "chat", chat=True, once="k")
    assert (again.duplicate, again.offset) == (True, 8)
    await put(node, "collapsed", collapse="c")
    assert contents((await node.inbox.read("7", 7, 100)).messages) == ["chat", "collapsed"]


async def test_positions_of_an_emptied_inbox_outlive_a_restart(nodes: Nodes) -> None:
    node = await nodes.start(ttl=5)
    (published, *_) = await put(node, "a", "b")
    await nodes.advance(6)
    await nodes.stop(node)
    node = await nodes.start(ttl=5)
    assert await node.inbox.state("7") == InboxNumbers(2, published.epoch, 0, 0)
    assert await waiting(node) == ([], 2)
    await node.inbox.clear("7")
    await nodes.stop(node)
    node = await nodes.start(ttl=5)
    assert await node.inbox.state("7") == InboxNumbers(2, published.epoch, 0, 0)
    assert await waiting(node) == ([], 0)


async def test_reading_and_appending_at_once_leaves_no_hole(nodes: Nodes) -> None:
    node = await nodes.start(size=1000)
    writer = await nodes.start("b", size=1000) if nodes.backend.shared else node
    await node.broker.subscribe("user:7")
    first = put(writer, *range(1, 31))
    asked = node.inbox.read("7", 0, 1000)
    answers = [writer.inbox.append(publication("user:7", n), "7", False, None, None, None) for n in range(31, 61)]
    page = await asked
    await first
    await gatherResults(answers, consumeErrors=True)
    received = await node.received(60)
    assert contents(page.messages) == contents(received)[: page.offset]
    assert [each.offset for each in received] == list(range(1, 61))


async def listed(node: RunningNode, before: int | None = None, limit: int = 100, unread: bool = False) -> list[Any]:
    return contents((await node.inbox.list("7", before, limit, unread)).messages)


async def end_task(node: RunningNode, number: int, user: str = "7") -> None:
    """A task begins and ends, so that its end is in its owner's inbox."""
    begun = at_least(create(NewTask(task_id=f"t{user}-{number}", user_id=user), 1_000), node.tasks.lowest_version())
    await node.tasks.create(TaskEvent("task_created", begun), None)
    ended = fail(begun, "why", 2_000)
    final = publication(f"user:{user}", number, type="task_failed")
    assert await node.tasks.replace(TaskEvent("task_failed", ended), final, None)


async def test_messages_are_listed_from_the_newest(nodes: Nodes) -> None:
    node = await nodes.start(size=10)
    published = await put(node, *range(1, 8))
    epoch = published[0].epoch
    assert await listed(node) == [7, 6, 5, 4, 3, 2, 1]
    listing = await node.inbox.list("7", None, 3, False)
    assert (contents(listing.messages), listing.more) == ([7, 6, 5], True)
    assert (listing.offset, listing.epoch, listing.unread) == (7, epoch, Unread(7))
    assert [(each.offset, each.epoch, each.read_at) for each in listing.messages] == [
        (n, epoch, None) for n in (7, 6, 5)
    ]
    listing = await node.inbox.list("7", 5, 4, False)
    assert (contents(listing.messages), listing.more) == ([4, 3, 2, 1], False)
    assert await listed(node, before=1) == []
    assert await listed(node, before=0) == []
    assert await listed(node, before=2**53) == [7, 6, 5, 4, 3, 2, 1]
    await node.inbox.mark("7", Selection(epoch, (2, 6, 7)), 50, None)
    assert await listed(node, unread=True) == [5, 4, 3, 1]
    listing = await node.inbox.list("7", 5, 2, True)
    assert (contents(listing.messages), listing.more, listing.unread) == ([4, 3], True, Unread(4))
    assert (await node.inbox.list("7", 3, 2, True)).more is False
    whole = await node.inbox.list("7", None, 10, False, max_bytes=1)
    assert (contents(whole.messages), whole.more) == ([7], True)


async def test_an_inbox_that_was_never_written_is_listed_and_left_alone(nodes: Nodes) -> None:
    node = await nodes.start()
    before = nodes.backend.footprint()
    listing = await node.inbox.list("7", None, 50, False)
    assert (listing.messages, listing.more, listing.offset, listing.unread) == ([], False, 0, Unread())
    assert await node.inbox.mark("7", Selection(listing.epoch, (1, 2)), 50, None) == InboxOutcome(0, Unread())
    assert await node.inbox.mark("7", Selection(listing.epoch, (), 0), 50, None) == InboxOutcome(0, Unread())
    assert await node.inbox.delete("7", Selection(listing.epoch, (1,)), None) == InboxOutcome(0, Unread())
    assert nodes.backend.footprint() == before
    (published,) = await put(node, "x")
    assert published.epoch == listing.epoch


async def test_reading_is_noted_once_and_moves_no_cursor(nodes: Nodes) -> None:
    node = await nodes.start()
    (published, *_) = await put(node, "a", "b", "c", "d")
    epoch = published.epoch
    assert await node.inbox.mark("7", Selection(epoch, (3, 1, 3, 99, 2**62)), 50, None) == InboxOutcome(2, Unread(2))
    assert await node.inbox.mark("7", Selection(epoch, (1, 2)), 60, None) == InboxOutcome(1, Unread(1))
    assert await node.inbox.mark("7", Selection(epoch, (1, 2)), 70, None) == InboxOutcome(0, Unread(1))
    for page in (await node.inbox.read("7", 0, 100), await node.inbox.list("7", None, 100, False)):
        assert {each.offset: each.read_at for each in page.messages} == {1: 50, 2: 60, 3: 50, 4: None}
        assert page.unread == Unread(1)
    state = await node.inbox.state("7")
    assert (state.acked, state.pending, state.unread) == (0, 4, Unread(1))
    assert await node.inbox.mark("7", Selection(epoch, (3,)), None, None) == InboxOutcome(1, Unread(2))
    assert await node.inbox.mark("7", Selection(epoch, (), 3), 80, None) == InboxOutcome(1, Unread(1))
    assert await node.inbox.mark("7", Selection(epoch, (), 4), None, None) == InboxOutcome(3, Unread(4))
    assert await node.inbox.mark("7", Selection(epoch, (), 0), 90, None) == InboxOutcome(0, Unread(4))
    assert {each.read_at for each in (await node.inbox.read("7", 0, 100)).messages} == {None}
    await node.inbox.acknowledge("7", 4, epoch)
    assert (await node.inbox.state("7")).unread == Unread(4)


async def test_what_is_deleted_is_gone_and_no_loss(nodes: Nodes) -> None:
    node = await nodes.start(size=6)
    (published, *_) = await put(node, *range(1, 7))
    epoch = published.epoch
    await node.inbox.mark("7", Selection(epoch, (1, 2)), 50, None)
    assert await node.inbox.delete("7", Selection(epoch, (2, 4, 4, 77)), None) == InboxOutcome(2, Unread(3))
    assert await node.inbox.delete("7", Selection(epoch, (2, 4)), None) == InboxOutcome(0, Unread(3))
    assert await waiting(node) == ([1, 3, 5, 6], 0)
    assert await listed(node) == [6, 5, 3, 1]
    assert await node.inbox.delete("7", Selection(epoch, (), 5), None) == InboxOutcome(3, Unread(1))
    assert await waiting(node) == ([6], 0)
    await put(node, 7)
    assert await waiting(node, after=0) == ([6, 7], 0)
    await put(node, *range(8, 13))
    assert await waiting(node) == ([7, 8, 9, 10, 11, 12], 1)


@pytest.mark.parametrize("call", ["mark", "delete"])
async def test_a_wrong_choice_changes_nothing(nodes: Nodes, call: str) -> None:
    node = await nodes.start()
    (published, *_) = await put(node, "a", "b")

    async def choose(selection: Selection, user: str = "7") -> Any:
        if call == "mark":
            return await node.inbox.mark(user, selection, 50, None)
        return await node.inbox.delete(user, selection, None)

    with pytest.raises(errors.Conflict):
        await choose(Selection("another", (1,)))
    for epoch in ("another", ""):
        for user in ("7", "unknown"):
            with pytest.raises(errors.Conflict):
                await choose(Selection(epoch, (), 0), user)
            with pytest.raises(errors.Conflict):
                await choose(Selection(epoch, (1,)), user)
    for beyond in (3, 2**53, 2**63 - 1):
        with pytest.raises(errors.Invalid):
            await choose(Selection(published.epoch, (), beyond))
    with pytest.raises(errors.Invalid):
        await choose(Selection((await node.inbox.state("unknown")).epoch, (), 1), "unknown")
    assert await waiting(node) == (["a", "b"], 0)
    assert (await node.inbox.state("7")).unread == Unread(2)


async def test_each_kind_of_message_is_counted_by_itself(nodes: Nodes) -> None:
    node = await nodes.start(size=6, chat_size=3)
    await put(node, "n1", "n2")
    await put(node, "c3", chat=True)
    await end_task(node, 4)
    await end_task(node, 5)
    assert (await node.inbox.state("7")).unread == Unread(2, 1, 2)
    epoch = (await node.inbox.state("7")).epoch
    assert await node.inbox.mark("7", Selection(epoch, (1, 3, 4)), 50, None) == InboxOutcome(3, Unread(1, 0, 1))
    assert await node.inbox.delete("7", Selection(epoch, (3, 5)), None) == InboxOutcome(2, Unread(1, 0, 0))
    await nodes.stop(node)
    node = await nodes.start(size=6, chat_size=3)
    assert (await node.inbox.state("7")).unread == Unread(1, 0, 0)
    assert {each.offset: each.read_at for each in (await node.inbox.read("7", 0, 9)).messages} == {
        1: 50,
        2: None,
        4: 50,
    }
    assert await node.inbox.clear("7") == 3
    assert (await node.inbox.state("7")).unread == Unread()


async def test_ends_of_tasks_and_other_messages_evict_only_their_own_kind(nodes: Nodes) -> None:
    node = await nodes.start(size=3, chat_size=1, task_size=2)
    await end_task(node, 1)
    await put(node, "n2", "n3")
    await end_task(node, 4)
    await put(node, "n5")
    await end_task(node, 6)
    assert await waiting(node) == (["n2", "n3", 4, "n5", 6], 1)
    await put(node, "c7", chat=True)
    assert await waiting(node) == (["n2", "n3", 4, "n5", 6], 2)
    await put(node, "n8", "n9", "n10")
    assert await waiting(node) == ([4, 6, "n8", "n9", "n10"], 5)
    assert (await node.inbox.state("7")).unread == Unread(3, 0, 2)
    await end_task(node, 11)
    await end_task(node, 12)
    assert await waiting(node) == (["n8", "n9", "n10", 11, 12], 7)
    assert (await node.inbox.state("7")).unread == Unread(3, 0, 2)


async def test_a_collapse_key_replaces_what_is_acknowledged_but_not_what_was_read(nodes: Nodes) -> None:
    node = await nodes.start()
    await node.broker.subscribe("user:7")
    (first,) = await put(node, "a1", collapse="k")
    await node.inbox.acknowledge("7", 1, first.epoch)
    await put(node, "a2", collapse="k")
    assert await listed(node) == ["a2"]
    assert await node.changes(1) == [InboxChange(Unread(1), first.epoch, (1,), deleted=True)]
    assert [event[0] for event in node.listener.events] == ["deliver", "deliver", "inbox_changed"]
    await node.inbox.mark("7", Selection(first.epoch, (2,)), 50, None)
    await put(node, "a3", collapse="k")
    assert await listed(node) == ["a3", "a2"]
    await node.inbox.mark("7", Selection(first.epoch, (3,)), 60, None)
    await node.inbox.mark("7", Selection(first.epoch, (3,)), None, None)
    await put(node, "a4", collapse="k")
    assert await listed(node) == ["a4", "a2"]
    assert (await node.inbox.state("7")).unread == Unread(1)


async def test_changes_are_told_to_every_node_in_their_order(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await node.broker.subscribe("user:7")
    await other.broker.subscribe("user:7")
    (first, *_) = await put(node, "a", "b", "c", "d")
    epoch = first.epoch
    await node.inbox.mark("7", Selection(epoch, (2, 1, 9)), 50, "c1")
    assert node.listener.inbox_changes[-1] == InboxChange(Unread(2), epoch, (1, 2), read_at=50, exclude="c1")
    await other.inbox.mark("7", Selection(epoch, (1,)), 60, None)
    await other.inbox.mark("7", Selection(epoch, (), 3), 70, None)
    await put(other, "e")
    await node.inbox.mark("7", Selection(epoch, (3,)), None, 'a "quoted" one')
    await other.inbox.delete("7", Selection(epoch, (1, 5)), None)
    await node.inbox.delete("7", Selection(epoch, (), 2), None)
    await node.inbox.announce_unread("7")
    await node.inbox.clear("7")
    expected = [
        InboxChange(Unread(2), epoch, (1, 2), read_at=50, exclude="c1"),
        InboxChange(Unread(1), epoch, up_to=3, read_at=70),
        InboxChange(Unread(3), epoch, (3,), exclude='a "quoted" one'),
        InboxChange(Unread(2), epoch, (1, 5), deleted=True),
        InboxChange(Unread(2), epoch, up_to=2, deleted=True),
        InboxChange(Unread(2)),
        InboxChange(Unread(), epoch, up_to=5, deleted=True),
    ]
    for each in (node, other):
        assert await each.changes(7) == expected
        kinds = [event[0] for event in each.listener.events]
        assert kinds == ["deliver"] * 4 + ["inbox_changed"] * 2 + ["deliver"] + ["inbox_changed"] * 5


async def test_the_end_that_another_attempt_takes_back_is_told(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=1_000)
    await node.broker.subscribe("user:7")
    await end_task(node, 1)
    state = await node.tasks.get("t7-1")
    epoch = (await node.inbox.state("7")).epoch
    begun = restart(state, NewTask(task_id="t7-1", user_id="7", restart=True), 3_000)
    assert await node.tasks.restart(TaskEvent("task_created", begun), None, state.version)
    assert await node.changes(1) == [InboxChange(Unread(), epoch, (1,), deleted=True)]
    assert await waiting(node) == ([], 0)


async def test_unread_messages_that_go_by_the_limits_or_by_age_are_noticed(nodes: Nodes) -> None:
    node = await nodes.start(size=2)
    await node.broker.subscribe("user:7")

    def noticed() -> list[str]:
        return [event[1] for event in node.listener.events if event[0] == "unread_lost"]

    (first, *_) = await put(node, "a", "b")
    await node.inbox.mark("7", Selection(first.epoch, (1,)), 50, None)
    await put(node, "c")
    assert noticed() == []
    await put(node, "d")
    assert noticed() == ["7"]
    await put(node, "short", ttl=5 * nodes.unit)
    assert noticed() == ["7", "7"]
    await nodes.advance(6)
    assert (await node.inbox.state("7")).unread == Unread(1)
    assert noticed() == ["7", "7", "7"]
    assert await listed(node) == ["d"]
    assert noticed() == ["7", "7", "7"]


async def test_marks_go_with_their_messages(nodes: Nodes) -> None:
    node = await nodes.start(size=2)
    (first, *_) = await put(node, "a", "b")
    await node.inbox.mark("7", Selection(first.epoch, (), 2), 50, None)
    await put(node, "c", "d", "e")
    assert (await node.inbox.state("7")).unread == Unread(2)
    await put(node, "short", ttl=5 * nodes.unit)
    await node.inbox.mark("7", Selection(first.epoch, (6,)), 50, None)
    await nodes.advance(6)
    assert (await node.inbox.state("7")).unread == Unread(1)
    await put(node, "f")
    assert (await node.inbox.state("7")).unread == Unread(2)


async def test_two_devices_read_and_delete_at_once(nodes: Nodes) -> None:
    node = await nodes.start(size=50)
    other = await nodes.second(node)
    (first, *_) = await put(node, *range(1, 41))
    epoch = first.epoch
    reads = [node.inbox.mark("7", Selection(epoch, tuple(range(n, n + 10))), 50, None) for n in range(1, 40, 3)]
    deletions = [other.inbox.delete("7", Selection(epoch, (n, n + 1)), None) for n in range(5, 40, 7)]
    results = await gatherResults([*reads, *deletions], consumeErrors=True)
    gone = {n + step for n in range(5, 40, 7) for step in (0, 1)}
    assert sum(each.changed for each in results[len(reads) :]) == len(gone)
    page = await node.inbox.read("7", 0, 100)
    assert [each.offset for each in page.messages] == [n for n in range(1, 41) if n not in gone]
    assert {each.read_at for each in page.messages} == {50}
    assert page.unread == Unread()
