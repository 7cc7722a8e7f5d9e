"""The inbox script against the embedded engine's inbox: the same calls, the same answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import publication as publications
from pushserver.core.inbox import Selection, Unread
from pushserver.core.task import NewTask, create, fail
from pushserver.engine.embedded import EmbeddedEngine
from pushserver.engine.interfaces import InboxOutcome, InboxRules, TaskEvent
from pushserver.engine.redis import RedisEngine
from pushserver.engine.registry import EngineOptions
from pushserver.server.clock import Clock
from tests.contracts.nodes import Recorder, contents, publication
from tests.engine.clocks import FakeTime

from .nodes import Cluster, settings
from .servers import RedisServer

RULES = InboxRules(size=6, chat_size=3, ttl=3_600_000, task_size=2)


async def end_task(engine: Any, number: int) -> None:
    begun = create(NewTask(task_id=f"t{number}", user_id="7"), 1_000)
    await engine.tasks.create(TaskEvent("task_created", begun), None)
    final = publication("user:7", number, type="task_failed")
    assert await engine.tasks.replace(TaskEvent("task_failed", fail(begun, "why", 2_000)), final, None)


async def answers(engine: Any, seed: int) -> list[Any]:
    """What an engine answers to a sequence of calls that follows from the seed."""
    chance = random.Random(seed)
    inbox = engine.inbox
    told: list[Any] = []
    newest = 0
    for number in range(120):
        calls = ["append"] * 6 + ["read"] * 3 + ["mark", "mark", "delete", "end", "end"]
        match chance.choice([*calls, "list", "list", "acknowledge", "acknowledge", "state", "clear"]):
            case "append":
                collapse = chance.choice([None, None, "k1", "k2", f"k{number}"])
                chat = chance.random() < 0.4
                published = await inbox.append(publication("user:7", number), "7", chat, None, collapse, None)
                newest = published.offset
                told.append(newest)
            case "read":
                after = chance.choice([None, 0, newest // 2, max(0, newest - 3), newest])
                page = await inbox.read("7", after, chance.choice([2, 100]))
                offsets = [each.offset for each in page.messages]
                told.append(
                    (contents(page.messages), offsets, page.offset, page.acked, page.lost, page.beyond, page.pending)
                )
                told.append(([each.read_at for each in page.messages], page.unread))
            case "mark" | "delete" as call:
                epoch = (await inbox.state("7")).epoch
                offsets = tuple(chance.randint(0, newest + 1) for _ in range(3))
                selection = Selection(epoch, offsets) if chance.random() < 0.7 else Selection(epoch, (), newest // 2)
                if call == "delete":
                    told.append(await inbox.delete("7", selection, None))
                else:
                    told.append(await inbox.mark("7", selection, chance.choice([number, number, None]), None))
            case "list":
                before, unread = chance.choice([None, newest, newest // 2]), chance.random() < 0.5
                listing = await inbox.list("7", before, chance.choice([2, 100]), unread)
                told.append(([each.offset for each in listing.messages], listing.more, listing.unread))
            case "end":
                newest += 1
                await end_task(engine, number)
                told.append(newest)
            case "acknowledge":
                state = await inbox.state("7")
                told.append(await inbox.acknowledge("7", chance.randint(0, newest), state.epoch))
            case "state":
                state = await inbox.state("7")
                told.append((state.offset, state.acked, state.pending, state.unread))
            case "clear" if chance.random() < 0.2:
                told.append(await inbox.clear("7"))
    return told


@pytest.mark.parametrize("seed", range(8))
async def test_both_engines_answer_the_same(redis: RedisServer, tmp_path: Path, seed: int) -> None:
    from twisted.internet import reactor

    embedded = EmbeddedEngine(reactor, FakeTime().clock, tmp_path / "state", RULES, 1_000, "a")
    shared = RedisEngine(
        reactor,
        Clock(reactor),
        settings(redis.url, connect_timeout=20_000, command_timeout=20_000),
        EngineOptions(
            node_name="a",
            state_dir=tmp_path,
            inbox=RULES,
            task_ttl=1_000,
            position_check=10_000,
            accepts=lambda type: True,
        ),
    )
    told = []
    for engine in (embedded, shared):
        await engine.start(Recorder())
        try:
            told.append(await answers(engine, seed))
        finally:
            await engine.stop()
    assert len(told[0]) > 80
    assert told[0] == told[1]


#: What a node of version 1 does: it appends a message (ARGV[1]) and takes the oldest out, knowing of nothing else.
VERSION_1 = """
local known = redis.call('HMGET', KEYS[1], 'offset', 'index')
local offset = known[1] + 1
local oldest = struct.unpack('>I8', known[2])
redis.call('HDEL', KEYS[1], oldest)
redis.call('HSET', KEYS[1], 'offset', offset, offset, ARGV[1],
  'index', string.sub(known[2], 18) .. struct.pack('>I8BI8', offset, 0, 4000000000000))
return {oldest, offset}
"""


async def test_what_a_node_of_version_1_does_is_counted_anew(redis: RedisServer, cluster: Cluster) -> None:
    node = await cluster.start(redis.url, connect_timeout=20_000, command_timeout=20_000)
    inbox, key = node.engine.inbox, "push:inbox:7"
    published = [await inbox.append(publication("user:7", n), "7", False, None, None, None) for n in range(1, 6)]
    epoch = published[0].epoch
    await inbox.mark("7", Selection(epoch, (1, 3)), 50, None)
    ended = publications.encode(publication("user:7", 6, type="task_completed")).decode()
    redis.command("EVAL", VERSION_1, "1", key, ended)
    redis.command("EVAL", VERSION_1, "1", key, publications.encode(publication("user:7", 7)).decode())
    listing = await inbox.list("7", None, 10, False)
    assert [(each.offset, each.read_at) for each in listing.messages] == [
        (7, None), (6, None), (5, None), (4, None), (3, 50)
    ]  # fmt: skip
    assert listing.unread == Unread(3, 0, 1)
    assert "r1" not in redis.command("HKEYS", key).split()
    assert await inbox.mark("7", Selection(epoch, (), 6), 60, None) == InboxOutcome(3, Unread(1))


async def test_an_inbox_of_version_1_is_counted_when_it_is_first_used(redis: RedisServer, cluster: Cluster) -> None:
    node = await cluster.start(redis.url, connect_timeout=20_000, command_timeout=20_000)
    inbox, key = node.engine.inbox, "push:inbox:7"
    await inbox.append(publication("user:7", 1), "7", False, None, None, None)
    await inbox.append(publication("user:7", 2), "7", True, None, None, None)
    await end_task(node.engine, 3)
    redis.command("HDEL", key, "unread", "counted", "tasks")
    assert (await inbox.state("7")).unread == Unread(1, 1, 1)
    assert redis.command("HGET", key, "unread").split("\r\n")[1] == "1 1 1"


def asked(redis: RedisServer) -> int:
    """How many commands read or wrote a hash since the last call, those of scripts included."""
    stats = redis.command("INFO", "commandstats")
    redis.command("CONFIG", "RESETSTAT")
    calls = [line.partition("calls=")[2].partition(",")[0] for line in stats.split("\r\n") if "cmdstat_h" in line]
    return sum(int(each) for each in calls if each)


async def test_a_page_asks_for_many_messages_at_once(redis: RedisServer, cluster: Cluster) -> None:
    rules = InboxRules(size=1_000, chat_size=3, ttl=3_600_000, task_size=2)
    node = await cluster.start(redis.url, connect_timeout=20_000, command_timeout=20_000, inbox=rules)
    inbox = node.engine.inbox
    for n in range(1, 301):
        last = await inbox.append(publication("user:7", n), "7", False, None, None, None)
    await inbox.mark("7", Selection(last.epoch, tuple(range(101, 300))), 50, None)
    asked(redis)
    page = await inbox.read("7", 40, 200)
    assert (contents(page.messages), page.more) == ([*range(41, 241)], False)
    assert [each.offset for each in page.messages if each.read_at == 50] == [*range(101, 241)]
    # Eight times 25 messages, and what is known of the inbox and the server.
    assert asked(redis) <= 12
    listing = await inbox.list("7", None, 200, False)
    assert (contents(listing.messages), listing.more) == ([*range(300, 100, -1)], True)
    assert asked(redis) <= 14
    listing = await inbox.list("7", None, 60, True)
    assert (contents(listing.messages), listing.more) == ([300, *range(100, 41, -1)], True)
    assert asked(redis) <= 9
    listing = await inbox.list("7", 31, 30, False)
    assert (contents(listing.messages), listing.more) == ([*range(30, 0, -1)], False)
    # The bytes end a page in the midst of what was asked for at once.
    size = len(publications.encode(publication("user:7", 100)))
    page = await inbox.read("7", 99, 50, 30 * size)
    assert (contents(page.messages), page.more) == ([*range(100, 130)], True)
    listing = await inbox.list("7", 130, 50, False, 30 * size)
    assert (contents(listing.messages), listing.more) == ([*range(129, 99, -1)], True)


async def test_a_page_of_what_is_unread_passes_over_what_was_read(redis: RedisServer, cluster: Cluster) -> None:
    rules = InboxRules(size=1_200, chat_size=3, ttl=3_600_000, task_size=2)
    node = await cluster.start(redis.url, connect_timeout=20_000, command_timeout=20_000, inbox=rules)
    inbox = node.engine.inbox
    appended = [inbox.append(publication("user:7", n), "7", False, None, None, None) for n in range(1, 1_201)]
    last = (await gatherResults(appended))[-1]
    await inbox.mark("7", Selection(last.epoch, (), 1_200), 50, None)
    await inbox.mark("7", Selection(last.epoch, (1, 500)), None, None)
    asked(redis)
    listing = await inbox.list("7", None, 50, True)
    assert ([each.offset for each in listing.messages], listing.more, listing.unread) == ([500, 1], False, Unread(2))
    # What is known of the inbox and the server, and both messages.
    assert asked(redis) <= 4
    listing = await inbox.list("7", 500, 1, True)
    assert ([each.offset for each in listing.messages], listing.more) == ([1], False)
    assert asked(redis) <= 4


async def test_an_inbox_of_before_its_bytes_of_what_was_read_is_read_anew(redis: RedisServer, cluster: Cluster) -> None:
    node = await cluster.start(redis.url, connect_timeout=20_000, command_timeout=20_000)
    inbox, key = node.engine.inbox, "push:inbox:7"
    for n in range(1, 5):
        last = await inbox.append(publication("user:7", n), "7", False, None, None, None)
    await inbox.mark("7", Selection(last.epoch, (2, 4)), 50, None)
    redis.command("HDEL", key, "read")
    redis.command("HSET", key, "counted", "4 68")
    listing = await inbox.list("7", None, 50, True)
    assert ([each.offset for each in listing.messages], listing.unread) == ([3, 1], Unread(2))
    assert redis.command("HGET", key, "read").split("\r\n")[1] == "0101"
