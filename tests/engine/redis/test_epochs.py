"""Epochs of names never written, and what nodes of an older version leave beside ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha1

import pytest

from pushserver.core.positions import Position
from pushserver.engine.interfaces import IdempotencyKey, Retention
from pushserver.engine.redis import commands
from pushserver.server.clock import Clock, wall_clock
from tests.contracts.nodes import RunningNode

from .nodes import KEPT, Cluster, contents, events, eventually, publication, until
from .servers import RedisServer

#: A period that ends while the test looks on, ms.
PERIOD = 1_500


async def next_period() -> None:
    number = wall_clock() // PERIOD
    await until(lambda: wall_clock() // PERIOD > number, "the next period")


async def test_over_the_end_of_a_period_position_0_counts(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "EPOCH_PERIOD", PERIOD)
    node = await cluster.start(redis.url)
    await next_period()
    old = (await node.history.read("a", None, 1, False)).newest
    old_inbox = await node.inbox.read("7", None, 1)
    await next_period()
    published = await node.broker.publish(publication("a", 1), KEPT, None)
    await node.inbox.append(publication("user:7", 1), "7", False, None, None, None)
    page, inbox = await node.history.read("a", 0, 10, False), await node.inbox.read("7", 0, 10)
    assert (page.newest.epoch, page.previous_epoch) == (published.epoch, old.epoch)
    assert page.current(old) == Position(0, page.newest.epoch)
    assert inbox.current(Position(0, old_inbox.epoch)) == Position(0, inbox.epoch)
    assert await node.inbox.acknowledge("7", 0, old_inbox.epoch) == 0


async def test_who_follows_a_quiet_channel_into_another_period_misses_nothing(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "EPOCH_PERIOD", PERIOD)
    node = await cluster.start(redis.url, position_check=200)
    await node.broker.subscribe("a")
    await next_period()
    old = (await node.history.read("a", None, 1, False)).newest
    await next_period()
    await node.broker.publish(publication("a", 1), KEPT, None)
    await node.broker.publish(publication("a", 2), KEPT, None)
    received = await node.received(2)
    assert contents(received) == [1, 2]
    assert received[0].epoch not in (None, old.epoch)
    assert events(node, "resync") == []


@pytest.mark.parametrize("writes", [False, True], ids=["reads", "writes"])
async def test_who_read_a_channel_is_told_where_an_older_node_gives_it_another_epoch(
    cluster: Cluster, redis: RedisServer, writes: bool
) -> None:
    node = await cluster.start(redis.url, position_check=200)
    await node.broker.subscribe("a")
    read = (await node.history.read("a", None, 1, False)).newest
    # Positions are looked at before the older node comes, and nothing is there.
    await node.engine._live.check(True)
    redis.command("HSET", "push:history:a", "epoch", "0123456789ab")
    if writes:
        body = '{"type":"message","channel":"a","data":1,"timestamp":1,"messageId":"m1"}'
        redis.command("HSET", "push:history:a", "offset", "1")
        redis.command("XADD", "push:messages:a", f"1-{wall_clock() + 60_000}", "d", body)
        generation = read.epoch.partition(".")[0]
        redis.command("PUBLISH", "push:live:a", f"p 1 {generation}.0123456789ab\n{body}")
    await until(lambda: events(node, "resync") == [("a",)], "the resync")


async def test_who_read_an_empty_channel_is_told_where_its_data_may_have_been_lost(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url, position_check=200)
    await node.broker.subscribe("a")
    await node.history.read("a", None, 1, False)
    redis.command("FLUSHALL")
    await node.broker.publish(publication("a", 1), KEPT, None)
    await until(lambda: events(node, "resync") == [("a",)], "the resync")


async def test_data_that_was_thrown_away_brings_a_new_secret_and_new_epochs(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url, position_check=200)
    before = (await node.history.read("a", None, 1, False)).newest.epoch
    secret = await node.engine.secret("tickets")
    redis.command("FLUSHALL")
    assert (await node.history.read("a", None, 1, False)).newest.epoch != before
    assert await node.engine.secret("tickets") != secret


async def test_all_nodes_have_the_secret_of_the_data_also_where_an_older_node_came_first(
    cluster: Cluster, redis: RedisServer
) -> None:
    # As a node of version 1 attaches: without a secret.
    info = redis.command("INFO", "server")
    run_id = next(line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("run_id:"))
    redis.command("HSET", "push:server", "run_id", run_id, "generation", "abc")
    first, second = [await cluster.start(redis.url, name) for name in "ab"]
    assert await first.engine.secret("x") == await second.engine.secret("x")
    assert (await first.history.read("a", None, 1, False)).newest.epoch.startswith("abc.")
    # An older node that attaches anew keeps the field.
    redis.command("HSET", "push:server", "run_id", run_id, "generation", "abc")
    assert (await second.history.read("a", None, 1, False)).newest.epoch.startswith("abc.")


async def test_a_key_of_an_older_node_is_known_and_shows_no_conflict(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    first = await node.broker.publish(publication("a", 1, "m1"), KEPT, IdempotencyKey("k"))
    key = redis.command("KEYS", "push:once:*:content").split()[-1]
    redis.command("DEL", key)
    assert redis.command("GET", key.removesuffix(":content")).splitlines()[1] == f"1 {first.epoch} m1"
    again = await node.broker.publish(publication("a", 2, "m2"), KEPT, IdempotencyKey("k"))
    assert (again.duplicate, again.conflict, again.message_id, again.offset) == (True, False, "m1", 1)


async def test_entries_of_an_older_node_are_read_and_kept(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    published = await node.broker.publish(publication("a", 1), KEPT, None)
    body = redis.command("XRANGE", "push:messages:a", "-", "+")
    assert '"channel":"a"' in body
    # As version 1 writes the second one: one field, and no count of bytes.
    redis.command("HSET", "push:history:a", "offset", "2")
    redis.command("HDEL", "push:history:a", "ends")
    redis.command(
        "XADD", "push:messages:a", f"2-{wall_clock() + 60_000}", "d",
        '{"type":"message","channel":"a","data":2,"timestamp":1,"messageId":"m2"}',
    )  # fmt: skip
    await node.broker.publish(publication("a", 3), KEPT, None)

    async def read() -> object:
        return contents((await node.history.read("a", None, 10, False)).messages)

    await eventually(read, [1, 2, 3])
    assert published.epoch == (await node.history.read("a", None, 0, False)).newest.epoch


async def test_what_an_older_node_wrote_is_not_counted_and_goes_with_what_has_to_go(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retention, "max_bytes", 2_000)
    node = await cluster.start(redis.url)
    retention = Retention(10, 60_000)

    async def old(offset: int) -> None:
        redis.command("HSET", "push:history:a", "offset", str(offset))
        body = f'{{"type":"message","channel":"a","data":{offset},"timestamp":1,"messageId":"m{offset}"}}'
        redis.command("XADD", "push:messages:a", "MAXLEN", "10", f"{offset}-{wall_clock() + 60_000}", "d", body)

    async def new(offset: int, text: str = "") -> list[int]:
        published = await node.broker.publish(publication("a", [offset, text], f"m{offset}"), retention, None)
        assert published.offset == offset
        page = await node.history.read("a", None, 100, False)
        offsets = [each.offset for each in page.messages]
        assert offsets == list(range(page.floor + 1, offset + 1))
        return offsets

    # Small messages of both: however much was written in all, the count alone decides.
    assert await new(1) == [1]
    for n in range(2, 121, 2):
        await old(n)
        assert len(await new(n + 1)) == min(n + 1, 10)
    # Large ones: those of the older version between them go with those that have to go.
    await old(122)
    assert len(await new(123, "x" * 900)) == 10
    assert await new(124, "x" * 1_500) == [124]


async def test_how_full_redis_is(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    assert "store_room_bytes" not in node.engine.figures()
    redis.command("CONFIG", "SET", "maxmemory", "50000000")
    await node.engine._commands.measure()
    figures = node.engine.figures()
    assert figures["store_bytes"] > 500_000
    assert figures["store_bytes"] + figures["store_room_bytes"] == 50_000_000


async def test_versions_of_tasks_go_on_above_all_that_older_data_does_not_know(
    cluster: Cluster, redis: RedisServer
) -> None:
    began = wall_clock()
    node = await cluster.start(redis.url, position_check=200)
    other = await cluster.start(redis.url, "b", position_check=200)
    assert node.tasks.lowest_version() == 1
    redis.command("FLUSHALL")
    await node.history.read("a", None, 1, False)
    assert began <= node.tasks.lowest_version() < 2**53
    await other.history.read("a", None, 1, False)
    assert other.tasks.lowest_version() == node.tasks.lowest_version()
    before = node.tasks.lowest_version()
    # Another process answers, as after a restart with whatever data. Whoever looks first notices.
    redis.command("HSET", "push:server", "run_id", "another")
    third = await cluster.start(redis.url, "c")
    assert third.tasks.lowest_version() > before
    before = third.tasks.lowest_version()
    # A node of an older version moves the generation alone. Whoever looks first notices.
    redis.command("HSET", "push:server", "generation", "abc")
    await node.history.read("a", None, 1, False)
    assert node.tasks.lowest_version() > before


async def test_new_data_that_a_new_node_began_goes_on_above_what_another_node_knows(
    cluster: Cluster, redis: RedisServer
) -> None:
    began = wall_clock()
    node = await cluster.start(redis.url, position_check=200)
    redis.command("FLUSHALL")
    # It cannot know that there were data before.
    new = await cluster.start(redis.url, "b", position_check=200)
    assert new.tasks.lowest_version() == 1
    for each in (node, new):
        await each.history.read("a", None, 1, False)
    assert began <= node.tasks.lowest_version() == new.tasks.lowest_version() < 2**53


async def test_versions_of_tasks_go_on_above_all_where_clocks_were_set_back(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, other = await cluster.start(redis.url), await cluster.start(redis.url, "b")

    async def loses(loser: RunningNode) -> int:
        """Redis' data goes back; return the lowest version that this node then gives."""
        await loser.broker.publish(publication("a", 1), KEPT, None)
        put_it_back(redis)
        await loser.history.read("a", None, 1, False)
        return loser.tasks.lowest_version()

    redis.command("FLUSHALL")
    await node.history.read("a", None, 1, False)
    keep_a_copy(redis)
    for each in (node, other):
        script = each.engine._commands._scripts["attach"]
        script.text = script.text.replace("local now = milliseconds()", "local now = milliseconds() - 3600000")
        script.digest = sha1(script.text.encode()).hexdigest()
    # Redis' clock is an hour behind. One node's go on; the other knows nothing of what that one gave.
    given = await loses(node)
    assert given < await loses(other) < wall_clock() + 10_000
    monkeypatch.setattr(Clock, "settled", lambda _: wall_clock() - 3_600_000)
    for _ in range(3):
        # All clocks are behind, and a task may have changed often since. What the node knows holds also where the data
        # knows of less.
        before = node.tasks.lowest_version()
        assert before + 50_000 < await loses(node) < 2**53


def keep_a_copy(redis: RedisServer) -> None:
    """Keep all data as it is now, in another database."""
    redis.command("EVAL", "for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', k, k, 'DB', 1) end", "0")


def put_it_back(redis: RedisServer) -> None:
    """Data goes back inside the same process, as by keys that are restored or a dump that is loaded anew."""
    redis.command("SWAPDB", "0", "1")


@pytest.mark.parametrize("by", ["write", "read", "heartbeat"])
async def test_data_that_goes_back_inside_a_running_redis_is_noticed_at_the_next_use(
    cluster: Cluster, redis: RedisServer, by: str
) -> None:
    node = await cluster.start(redis.url)
    other = await cluster.start(redis.url, "b")
    await other.broker.subscribe("a")
    for n in range(5):
        await node.broker.publish(publication("a", n), KEPT, None)
    keep_a_copy(redis)
    for n in range(5, 8):
        lost = await node.broker.publish(publication("a", n), KEPT, None)
    # It wrote nothing itself, but was told.
    await other.received(8)
    put_it_back(redis)
    if by == "heartbeat":
        await other.engine._cluster.heartbeat()
    elif by == "read":
        await other.history.read("a", None, 1, False)
    kept = await other.broker.publish(publication("a", "new"), KEPT, None)
    assert (kept.offset, kept.epoch == lost.epoch) == (6, False)
    assert lost.epoch is not None
    assert await node.history.locate("a", Position(6, lost.epoch)) is None
    assert await node.history.locate("a", Position(5, lost.epoch)) == Position(5, kept.epoch or "")
    await other.resynced("a")
    assert contents((await node.history.read("a", None, 10, False)).messages) == [0, 1, 2, 3, 4, "new"]


def save_a_dump(redis: RedisServer) -> None:
    assert redis.command("SAVE").startswith("+OK")


def load_the_dump(redis: RedisServer) -> None:
    assert redis.command("DEBUG", "RELOAD", "NOSAVE").startswith("+OK")


def copy_the_log(redis: RedisServer) -> None:
    shutil.copytree(redis.directory / "appendonlydir", redis.directory / "copy")


def load_the_copy(redis: RedisServer) -> None:
    shutil.rmtree(redis.directory / "appendonlydir")
    (redis.directory / "copy").rename(redis.directory / "appendonlydir")
    assert redis.command("DEBUG", "LOADAOF").startswith("+OK")


def dump_the_keys(redis: RedisServer) -> None:
    """Dump each key, as tools for backups do it; here the dumps lie in another database."""
    keep = "local dumped = redis.call('DUMP', k) redis.call('SELECT', 1) redis.call('HSET', 'dumps', k, dumped)"
    redis.command("EVAL", f"for _, k in ipairs(redis.call('KEYS', '*')) do {keep} redis.call('SELECT', 0) end", "0")


def restore_the_keys(redis: RedisServer) -> None:
    redis.command("FLUSHDB")
    take = "redis.call('SELECT', 1) local all = redis.call('HGETALL', 'dumps') redis.call('SELECT', 0)"
    redis.command("EVAL", f"{take} for n = 1, #all, 2 do redis.call('RESTORE', all[n], 0, all[n + 1]) end", "0")


Step = Callable[[RedisServer], None]


@pytest.mark.parametrize(
    ("keep", "put_back"),
    [(save_a_dump, load_the_dump), (copy_the_log, load_the_copy), (dump_the_keys, restore_the_keys)],
    ids=["dump", "log", "keys"],
)
async def test_who_knows_of_no_lost_write_gives_no_offset_out_again(
    cluster: Cluster, start_redis: Callable[..., RedisServer], keep: Step, put_back: Step
) -> None:
    redis = start_redis(appendonly="yes", appendfsync="always")
    node, other = [await cluster.start(redis.url, name) for name in "ab"]
    first = await node.broker.publish(publication("a", 1), KEPT, None)
    keep(redis)
    lost = await node.broker.publish(publication("a", 2), KEPT, None)
    noted = await node.inbox.append(publication("user:7", 2), "7", False, None, None, None)
    put_back(redis)
    # It has heard of neither, and writes before whoever did.
    again = await other.broker.publish(publication("a", 3), KEPT, None)
    renoted = await other.inbox.append(publication("user:7", 3), "7", False, None, None, None)
    assert (lost.offset, again.offset, noted.offset, renoted.offset) == (2, 2, 1, 1)
    assert again.epoch not in (first.epoch, lost.epoch)
    assert renoted.epoch != noted.epoch
    # All follow into the one generation, once.
    after = await node.broker.publish(publication("a", 4), KEPT, None)
    assert (after.offset, after.epoch) == (3, again.epoch)
    assert contents((await node.history.read("a", None, 10, False)).messages) == [1, 3, 4]


async def test_a_server_that_keeps_no_mark_of_its_process_is_used_without_one(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url)
    first = await node.broker.publish(publication("a", 1), KEPT, None)
    assert redis.command("HGET", "push:server", "marked").endswith("1\r\n")
    # As where numbers are kept as integers always; a node that attaches finds it so.
    script = node.engine._commands._scripts["attach"]
    script.text = script.text.replace("== 'embstr'", "== 'nothing'")
    script.digest = sha1(script.text.encode()).hexdigest()
    redis.command("SET", "push:server:process", "1")
    second = await node.broker.publish(publication("a", 2), KEPT, None)
    third = await node.broker.publish(publication("a", 3), KEPT, None)
    assert redis.command("HGET", "push:server", "marked") == "$-1\r\n"
    assert (second.offset, third.offset) == (2, 3)
    assert first.epoch != second.epoch == third.epoch


async def test_a_repeat_of_what_went_with_the_data_is_written_anew(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    kept, gone = IdempotencyKey("kept"), IdempotencyKey("gone")

    async def write(n: int, once: IdempotencyKey) -> tuple[bool, bool]:
        notice = await node.inbox.append(publication("user:7", n), "7", False, None, None, once)
        message = await node.broker.publish(publication("a", n), KEPT, once)
        return notice.duplicate, message.duplicate

    assert await write(1, kept) == (False, False)
    keep_a_copy(redis)
    assert await write(2, gone) == (False, False)
    assert await write(2, gone) == (True, True)
    put_it_back(redis)
    # The key stands and falls with what it was used for: they are written by one script.
    assert await write(2, gone) == (False, False)
    assert await write(1, kept) == (True, True)
    assert contents((await node.inbox.read("7", 0, 10)).messages) == [1, 2]
    assert contents((await node.history.read("a", None, 10, False)).messages) == [1, 2]


async def test_data_that_goes_back_before_a_generation_moves_on_again(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    first = await node.broker.publish(publication("a", 1), KEPT, None)
    keep_a_copy(redis)
    await node.engine.move_epochs()
    second = await node.broker.publish(publication("a", 2), KEPT, None)
    put_it_back(redis)
    third = await node.broker.publish(publication("a", 3), KEPT, None)
    assert (third.offset, len({first.epoch, second.epoch, third.epoch})) == (2, 3)


async def test_a_channel_that_is_behind_what_was_told_moves_every_epoch_on(
    cluster: Cluster, redis: RedisServer
) -> None:
    node = await cluster.start(redis.url, position_check=100)
    await node.broker.subscribe("a")
    for n in range(3):
        kept = await node.broker.publish(publication("a", n), KEPT, None)
    # One channel alone goes back: what counts writes does not show it.
    redis.command("HSET", "push:history:a", "offset", "1")
    redis.command("DEL", "push:messages:a")
    await node.resynced("a")
    again = await node.broker.publish(publication("a", "new"), KEPT, None)
    assert again.epoch != kept.epoch


async def test_where_redis_evicts_no_name_has_an_epoch_twice(cluster: Cluster, redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    node = await cluster.start(redis.url, allow_eviction=True)
    epochs = set()
    for n in range(2):
        kept = await node.broker.publish(publication("a", n), KEPT, None)
        noted = await node.inbox.append(publication("user:7", n), "7", False, None, None, None)
        epochs |= {kept.epoch, noted.epoch}
        assert (kept.offset, noted.offset) == (1, 1)
        redis.command("DEL", "push:history:a", "push:messages:a", "push:inbox:7")
    assert len(epochs) == 4
