"""The model of Redis is proven: random sequences of commands and scripts give the same answers as the real one.

Both are given the same time: scripts ask a key for it, in place of ``TIME``. What runs out does so at once here, or not
at all; that a key ends after its time is shown apart.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hiredis
import pytest

import pushserver.engine.redis
from pushserver.engine.redis.scripts import Script, load
from tests.engine.redis.servers import RedisServer
from tests.simulator.redis import commands
from tests.simulator.redis.server import _SPECIAL, ModelRedis
from tests.simulator.redis.values import RedisError, Reply

NOW = 1_800_000_000_000
_CLOCK = "redis.call('TIME')"
#: How many sequences the ordinary suite runs, and `make full`.
SEQUENCES, ALL_SEQUENCES = 100, 10_000
PREFIX = "p"
USERS, CHANNELS, TASKS = ("u1", "u2"), ("c1", "c2"), ("t1", "t2")
NODES = ("i1", "i2", "i3")


class Real:
    """A connection to the real one."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(15)
        self._socket.connect(server.path)
        self._reader = hiredis.Reader()

    def send(self, sequence: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the replies of commands that are sent together."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(parts)) for parts in sequence))
        replies: list[Any] = []
        while len(replies) < len(sequence):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 16))
            else:
                replies.append(reply)
        return replies

    def close(self) -> None:
        self._socket.close()


class Model:
    """The model, asked in the same way."""

    def __init__(self) -> None:
        self.redis = ModelRedis(lambda: time.time_ns() // 1_000_000, lambda *_: None, random.Random(1))

    def send(self, sequence: Sequence[Sequence[Any]]) -> list[Any]:
        return [self.redis.run(None, [_octets(part) for part in parts]) for parts in sequence]  # type: ignore[arg-type]


def _octets(part: Any) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


def _scripts() -> dict[str, Script]:
    """Return the scripts, with a time that stands in a key."""
    return {
        name: Script(name, script.text.replace(_CLOCK, "redis.call('HMGET', 'now', 's', 'us')"))
        for name, script in load().items()
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


# -- random sequences -------------------------------------------------------------------------------------------------


class Sequences:
    """Makes commands, and calls of scripts, out of few keys, so that they meet."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._scripts = _scripts()
        self._number = 0
        self._now = NOW

    def make(self, length: int) -> list[list[Any]]:
        sequence: list[list[Any]] = [["FLUSHALL"], *self._time(0)]
        sequence += [["SCRIPT", "LOAD", script.text] for script in self._scripts.values()]
        sequence.append(self._attach("run1"))
        for _ in range(length):
            chosen = self._chance.random()
            if chosen < 0.08:
                sequence += self._time(self._chance.choice((1, 500, 5_000, 40_000)))
            elif chosen < 0.35:
                sequence.append(self._plain())
            else:
                sequence.append(self._script())
        return sequence

    def _time(self, later: int) -> list[list[Any]]:
        self._now += later
        return [["HSET", "now", "s", self._now // 1000, "us", self._now % 1000 * 1000]]

    def _plain(self) -> list[Any]:
        """A command of any kind on a key of any kind: also of the wrong one."""
        chance = self._chance
        key = chance.choice(("a", "b", "z", "h", "s", "x", f"{PREFIX}:online:u1", f"{PREFIX}:messages:c1"))
        member, other = chance.choice(("m", "n", "o")), chance.choice(("m", "n", "p"))
        number = chance.choice((-2, 0, 1, 3, 17, "1.5", "x", 10**16, "007"))
        bound = chance.choice(("-inf", "+inf", 0, "(1", 2, "(2", 17, "x"))
        upper = chance.choice(("-inf", "+inf", 0, "(3", 3, 20))
        stream = chance.choice(("-", "+", 1, "2-0", "(2-0", "(1-5", 3, "x-1"))
        index = chance.choice((0, 1, -1, -2, 5))
        return list(
            chance.choice(
                (
                    ("SET", key, number), ("SET", key, member, "PX", chance.choice((100_000, 0, "x"))), ("GET", key),
                    ("MGET", key, "a", "b"), ("INCR", key), ("DECR", key), ("DEL", key), ("DEL", key, "a"),
                    ("EXISTS", key, key, "b"), ("TYPE", key), ("PEXPIRE", key, chance.choice((100_000, 0, -5, "x"))),
                    ("PEXPIREAT", key, chance.choice((1, 10**15))), ("TTL", key),
                    ("HSET", key, member, number, other, 2), ("HSETNX", key, member, number), ("HGET", key, member),
                    ("HMGET", key, member, other), ("HEXISTS", key, member), ("HDEL", key, member, other),
                    ("HINCRBY", key, member, number), ("SADD", key, member, other), ("SREM", key, member, other),
                    ("SCARD", key), ("SISMEMBER", key, member), ("ZADD", key, number, member),
                    ("ZADD", key, "GT", number, member), ("ZADD", key, 1, member, 2, other),
                    ("ZREM", key, member, other),
                    ("ZSCORE", key, member), ("ZCARD", key), ("ZRANGE", key, bound, upper, "BYSCORE"),
                    ("ZRANGE", key, upper, bound, "BYSCORE", "REV", "LIMIT", 0, index),
                    ("ZRANGE", key, bound, upper, "BYSCORE", "LIMIT", 1, 1),
                    ("ZRANGE", key, index, -1, "REV", "WITHSCORES"),
                    ("ZRANGE", key, index, index, "WITHSCORES"), ("ZREMRANGEBYSCORE", key, bound, upper),
                    ("XADD", key, f"{number}-{index}", "f", member),
                    ("XADD", key, "MAXLEN", "=", number, "9-1", "f", member),
                    ("XADD", key, "MAXLEN", "=", 2, f"{self._next()}-5", "f", member), ("XLEN", key),
                    ("XDEL", key, "1-0", "9-1"),
                    ("XTRIM", key, "MINID", "=", number), ("XRANGE", key, stream, "+"), ("XRANGE", key, "-", stream),
                    ("XRANGE", key, stream, "+", "COUNT", index), ("XREVRANGE", key, "+", stream),
                    ("XREVRANGE", key, stream, "-", "COUNT", 1), ("PUBLISH", key, member), ("PING",), ("PING", member),
                    ("HGET", key), ("NONSENSE", key), ("ZRANGE", key, 0, 1, "LIMIT", 0, 1), ("HSET", key, member),
                )
            )
        )  # fmt: skip

    def _next(self) -> int:
        self._number += 1
        return 10 + self._number

    def _call(self, name: str, keys: list[str], *arguments: Any) -> list[Any]:
        return ["EVALSHA", self._scripts[name].digest, len(keys), *keys, *arguments]

    def _attach(self, run_id: str) -> list[Any]:
        return self._call("attach", [f"{PREFIX}:server"], run_id, "g1", b"s" * 32, "")

    def _script(self) -> list[Any]:
        """A call of a script as the engine makes it."""
        chance = self._chance
        name = chance.choice(sorted(self._scripts))
        user, channel, task = chance.choice(USERS), chance.choice(CHANNELS), chance.choice(TASKS)
        node, number = chance.choice(NODES), self._next()
        p, server = PREFIX, f"{PREFIX}:server"
        epoch = (chance.choice(("g1",) * 15 + ("g0",)), 15 * 24 * 3_600_000)
        once = chance.choice((("", ""), ("300000", ""), ("300000", "token"), ("", "other")))
        key = f"{p}:once:{chance.randint(1, 4)}"
        writes = [server, key, f"{p}:lease:ingest"]
        inbox, limits, ttls = (
            f"{p}:inbox:{user}",
            (chance.choice((3, 5)), chance.choice((1, 2)), 60_000),
            (3_600_000, 10**9, 10**10),
        )
        digest = chance.choice((b"", b"digest", b"other"))
        tasks = [
            f"{p}:task:{task}",
            f"{p}:tasks:open:{user}",
            f"{p}:tasks:final:{user}",
            f"{p}:tasks:until:{user}",
            f"{p}:stale",
        ]
        state = (
            task,
            f"state {number}",
            chance.choice((1, 2, 3)),
            self._now - number,
            self._now,
            10**9,
            "event",
            "tag",
            "live:t",
            "live:u",
        )
        presence = chance.choice(("connection", "subscription"))
        own = f"{p}:node:{node}:{'connections' if presence == 'connection' else 'joins'}"
        counts = (
            [f"{p}:online:{user}"] if presence == "connection" else [f"{p}:members:{channel}", f"{p}:infos:{channel}"]
        )
        entry = (
            f"{user} k{chance.randint(1, 3)}"
            if presence == "connection"
            else f"{channel} {user} k{chance.randint(1, 3)}"
        )
        match name:
            case "attach":
                return self._attach(chance.choice(("run1", "run1", "run1", "run2")))
            case "publish":
                size = chance.choice((0, 2, 5))
                return self._call(
                    name, [*writes, f"{p}:history:{channel}", f"{p}:messages:{channel}"], *epoch, *once,
                    chance.choice(("", "live")), "x" * chance.choice((1, 200)), f"m{number}", size,
                    chance.choice((30_000, 45_000, 60_000)), 10**9, "tag", chance.choice((150, 10**6)), digest,
                )  # fmt: skip
            case "history":
                return self._call(
                    name, [server, f"{p}:history:{channel}", f"{p}:messages:{channel}"], *epoch,
                    chance.choice(("", 0, 1, 3)), chance.choice((0, 1, 100)), chance.choice(("", "reverse")),
                    chance.choice((0, 150)),
                )  # fmt: skip
            case "positions":
                return self._call(name, [server, inbox, f"{p}:history:{channel}"], *epoch)
            case "append":
                return self._call(
                    name, [*writes, inbox], *epoch, *once, chance.choice(("", "live")), f"body {number}", f"m{number}",
                    chance.choice(("", "chat")), chance.choice(("", 500, 10**7)), chance.choice(("", "", "k1", "k2")),
                    *limits, *ttls, digest,
                )  # fmt: skip
            case "inbox_read":
                return self._call(
                    name, [server, inbox], *epoch, chance.choice(("", 0, 2)), chance.choice((0, 2, 50)), *ttls,
                    chance.choice((0, 12)),
                )  # fmt: skip
            case "acknowledge":
                return self._call(
                    name, [server, inbox], *epoch, chance.choice((0, 1, 4, 99)), chance.choice(("g1.x", "")), *ttls
                )
            case "clear":
                return self._call(name, [server, inbox], *epoch, *ttls)
            case "task_create":
                return self._call(name, [*writes, *tasks], *epoch, *once, *state, digest)
            case "task_replace":
                final = chance.choice(("", "final"))
                return self._call(
                    name, [*writes, *tasks, inbox], *epoch, *once, *state, final, chance.choice(("", "publication")),
                    *limits, *ttls, chance.choice(("", "live")), chance.choice((1, 2, 3)), digest,
                )  # fmt: skip
            case "task_restart":
                return self._call(
                    name, [*writes, *tasks, inbox], *epoch, *once, *state, *ttls, chance.choice((1, 2, 3)), digest
                )
            case "tasks_of":
                return self._call(
                    name,
                    [server, *tasks[1:3]],
                    *epoch,
                    chance.choice((1, 100)),
                    chance.choice(("", "unfinished")),
                    f"{p}:task:",
                )
            case "tasks_stale":
                return self._call(
                    name,
                    [server, f"{p}:stale"],
                    *epoch,
                    self._now - chance.choice((0, 1_000)),
                    chance.choice((1, 100)),
                    f"{p}:task:",
                )
            case "revoke_token":
                return self._call(name, [f"{p}:revoked:jti:j1"], 2 * NOW)
            case "revoke_user":
                return self._call(
                    name, [f"{p}:revoked:user:{user}"], self._now - number, self._now + chance.choice((-5, 10**9))
                )
            case "revoked":
                both = [f"{p}:revoked:jti:j1", f"{p}:revoked:user:{user}"]
                return self._call(name, both, chance.choice(("", self._now, self._now - 100)))
            case "heartbeat":
                return self._call(
                    name, [f"{p}:nodes", f"{p}:node:{node}", f"{p}:ingest", server], node, 20_000, 10**9,
                    f"name {node}", NOW, chance.choice(("", "new")), chance.choice((0, 3)),
                )  # fmt: skip
            case "expire":
                keys = [f"{p}:nodes", f"{p}:node:{node}", f"{p}:node:{node}:connections", f"{p}:node:{node}:joins"]
                return self._call(name, keys, node, chance.choice((0, 20_000)), 100, p, 10**9)
            case "nodes":
                return self._call(name, [f"{p}:nodes"], 20_000, f"{p}:node:")
            case "presence_begin":
                return self._call(
                    name,
                    [f"{p}:nodes", own, *counts],
                    node,
                    presence,
                    entry,
                    user,
                    10**9,
                    chance.choice((b"", b"info")),
                )
            case "presence_end":
                keys = [own, counts[0], counts[1] if len(counts) > 1 else f"{p}:seen:{user}"]
                return self._call(name, keys, presence, entry, user, self._now, 10**9, chance.choice(("", "again")))
            case "lease":
                return self._call(
                    name, [f"{p}:lease:ingest"], chance.choice(("token", "other")), chance.choice((0, 9_000_000))
                )
            case "ingest_begin":
                return self._call(name, [f"{p}:lease:ingest", f"{p}:tries"], "token", f"e{chance.randint(1, 2)}")
            case "ingest_end":
                keys = [f"{p}:lease:ingest", f"{p}:tries", f"{p}:ingest", f"{p}:ingest:dead"]
                return self._call(name, keys, "token", chance.choice(("5-1", "11-5")), "", "cmd")
        raise AssertionError(f"no call of {name} is made here: add one")


def _comparable(reply: Reply) -> Any:
    """Return a reply so that it can be compared: of errors their first word, which is what the engine looks at."""
    if isinstance(reply, RedisError | hiredis.ReplyError):
        words = str(reply).split()
        return f"error {words[0]}"
    if isinstance(reply, list):
        return [_comparable(each) for each in reply]
    return bytes(reply) if isinstance(reply, bytes) else reply


def _sorted_users(parts: Sequence[Any], reply: Any, digest: str) -> Any:
    """What a node left comes in any order: members are drawn by chance."""
    if parts[0] != "EVALSHA" or parts[1] != digest or not isinstance(reply, list):
        return reply
    count = reply[3]
    users, rest = reply[4 : 4 + count], reply[4 + count :]
    return [*reply[:4], sorted(users), sorted(zip(rest[::3], rest[1::3], rest[2::3], strict=True))]


#: How everything that a key holds is read, by its type.
_READS = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


def _contents(place: Real | Model, keys: Sequence[bytes]) -> dict[bytes, Any]:
    """Return what all keys hold, and whether they end."""
    kinds = place.send([["TYPE", key] for key in keys])
    found: dict[bytes, Any] = {}
    for key, kind in zip(keys, kinds, strict=True):
        read, *rest = _READS[bytes(kind)]
        value, left = place.send([[read, key, *rest], ["PTTL", key]])
        if kind == b"hash":
            value = sorted(zip(value[::2], value[1::2], strict=True))
        elif kind == b"set":
            value = sorted(value)
        # Redis gives no two commands the same time.
        found[key] = (kind, value, left if left < 0 else round(left / 30_000))
    return found


def _differences(seed: int, real: Real, length: int = 40) -> str:
    """Return the first difference that a sequence shows; empty where there is none."""
    made = Sequences(seed)
    sequence = made.make(length)
    expire = made._scripts["expire"].digest
    model = Model()
    answers = real.send(sequence)
    sequence = [parts for parts in sequence if parts[0] != "FLUSHALL"]
    for parts, expected, got in zip(sequence, answers[1:], model.send(sequence), strict=True):
        if parts[0] == "SCRIPT":
            continue
        wanted, given = (_sorted_users(parts, _comparable(each), expire) for each in (expected, got))
        if wanted != given:
            return f"seed {seed}: {parts}: Redis answers {wanted}, the model {given}"
    keys = sorted(real.send([["KEYS", "*"]])[0])
    if keys != sorted(model.redis.database.all_keys()):
        return f"seed {seed}: Redis has the keys {keys}, the model {sorted(model.redis.database.all_keys())}"
    wanted, given = _contents(real, keys), _contents(model, keys)
    different = [f"{key!r}: {wanted[key]}, the model {given[key]}" for key in keys if wanted[key] != given[key]]
    return f"seed {seed}: Redis keeps {different[0]}" if different else ""


def _compare(server: RedisServer, first: int, count: int) -> None:
    real = Real(server)
    try:
        for seed in range(first, first + count):
            different = _differences(seed, real)
            assert not different, different
    finally:
        real.close()


def test_random_sequences_get_the_same_answers(server: RedisServer) -> None:
    seed = int(os.environ.get("SEED", "1"))
    _compare(server, seed, SEQUENCES)


@pytest.mark.full
def test_ten_thousand_random_sequences_get_the_same_answers(server: RedisServer) -> None:
    seed = int(os.environ.get("SEED", "1"))
    _compare(server, seed, ALL_SEQUENCES)


# -- what the sequences do not show -----------------------------------------------------------------------------------


def test_a_key_ends_after_its_time(server: RedisServer) -> None:
    real, model = Real(server), Model()
    first = [
        ["FLUSHALL"],
        ["SET", "a", 1, "PX", 30],
        ["SADD", "s", 1],
        ["PEXPIRE", "s", 30],
        ["SET", "b", 1, "PX", 60_000],
    ]
    second = [
        ["GET", "a"],
        ["SCARD", "s"],
        ["EXISTS", "a", "s", "b"],
        ["PTTL", "a"],
        ["INCR", "a"],
        ["TTL", "a"],
        ["TTL", "b"],
    ]
    real.send(first)
    model.send(first[1:])
    time.sleep(0.06)
    assert real.send(second) == model.send(second)
    real.close()


def test_a_redis_without_memory_refuses_what_the_model_refuses(server: RedisServer) -> None:
    real, model = Real(server), Model()
    first = [
        ["SADD", "s", "a", "b"],
        ["SET", "n", 5],
        ["HSET", "h", "f", 1],
        ["ZADD", "z", 1, "m"],
        ["XADD", "x", "1-1", "f", 1],
    ]
    late = "redis.call('SREM', 's', 'a') return redis.call('DECR', 'n')"
    early = "local n = redis.call('DECR', 'n') redis.call('SREM', 's', 'b') return n"
    second = [
        ["SET", "n", 1], ["INCR", "n"], ["HSET", "h", "g", 1], ["HINCRBY", "h", "f", 1], ["HSETNX", "h", "g", 1],
        ["SADD", "s", "c"], ["ZADD", "z", 1, "n"], ["XADD", "x", "2-1", "f", 1], ["PUBLISH", "c", 1],
        ["PEXPIRE", "n", 10**9], ["EVAL", late, 0], ["EVAL", early, 0], ["GET", "n"], ["SMEMBERS", "s"],
        ["HDEL", "h", "f"], ["ZREM", "z", "m"], ["XDEL", "x", "1-1"], ["XTRIM", "x", "MINID", "=", 3],
        ["SREM", "s", "b"], ["DEL", "n"],
    ]  # fmt: skip
    real.send([["FLUSHALL"], *first, ["CONFIG", "SET", "maxmemory", 1]])
    model.send(first)
    model.redis.database.full = "OOM command not allowed when used memory > 'maxmemory'."
    try:
        expected = real.send(second)
    finally:
        real.send([["CONFIG", "SET", "maxmemory", 0]])
        real.close()
    assert _comparable(model.send(second)) == _comparable(expected)


@pytest.mark.parametrize(
    "text",
    [
        "return {1.9, 'a', {2, {}}, true, false, 3}",
        "return redis.call('PING')",
        "return redis.pcall('HGET', 'now')['err'] ~= nil",
        "return {redis.call('ZADD', 'z', 1e20, 'm', 0.1, 'n'), redis.call('ZRANGE', 'z', 0, -1, 'WITHSCORES')}",
        "return cmsgpack.pack({1, 2, {a = 'b'}, {}, 70000, -5, -300, 2^40, 0.5, string.rep('x', 300), true})",
        "return {cmsgpack.unpack(cmsgpack.pack({{5, 9, 2}, {300, 70000, 1}}))[2][2], redis.sha1hex('x')}",
        "return {struct.unpack('>I8BI8', struct.pack('>I8BI8', 2^50, 200, 7))}",
        "return redis.error_reply('MINE no')",
        "return redis.status_reply('FINE')",
        "return tostring(2^53) .. ' ' .. tostring(1e15) .. ' ' .. tostring(0.1)",
        "redis.call('SET', 'n', 2^53) return redis.call('GET', 'n')",
        "return redis.call('NONSENSE')",
        "return nothing.at_all",
    ],
)
def test_scripts_see_what_they_see_in_redis(server: RedisServer, text: str) -> None:
    real, model = Real(server), Model()
    sequence = [["DEL", "z", "n"], ["EVAL", text, 0]]
    assert _comparable(real.send(sequence)[1]) == _comparable(model.send(sequence)[1])
    real.close()


def test_a_blocked_reader_is_answered_when_something_comes() -> None:
    written: list[bytes] = []
    later: list[Any] = []

    class Transport:
        def write(self, octets: bytes) -> None:
            written.append(octets)

    redis = ModelRedis(lambda: NOW, lambda seconds, *call: later.append((seconds, *call)), random.Random(1))
    reader, writer = redis.buildProtocol(None), redis.buildProtocol(None)
    reader.makeConnection(Transport())  # type: ignore[arg-type]
    writer.makeConnection(Transport())  # type: ignore[arg-type]
    read = hiredis.pack_command(("XREAD", "COUNT", 100, "BLOCK", 2000, "STREAMS", "s", "0"))
    reader.dataReceived(read)
    assert written == []
    assert later[0][0] == 2.0
    writer.dataReceived(hiredis.pack_command(("XADD", "s", "1-1", "cmd", "x")))
    assert written == [
        b"$3\r\n1-1\r\n",
        b"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$3\r\ncmd\r\n$1\r\nx\r\n",
    ]


def test_every_command_that_the_engine_uses_is_known() -> None:
    place = Path(pushserver.engine.redis.__file__).parent
    called = {name for script in load().values() for name in re.findall(r"redis\.p?call\('([A-Z]+)'", script.text)}
    pattern = re.compile(r"\b(?:call|send|_ask|write)\(\s*(?:limit, |protocol, |_PATIENCE, )?\"([A-Z]{3,})\"")
    for module in place.glob("*.py"):
        called |= set(pattern.findall(module.read_text()))
    known = {name.decode() for name in (*commands.COMMANDS, *_SPECIAL)}
    # A Sentinel and a password are another server's business.
    assert called - known <= {"SENTINEL", "AUTH"}
    assert {"EVALSHA", "HMGET", "XADD", "XREAD", "SUBSCRIBE", "WAIT"} <= called


def test_every_script_is_called_by_the_sequences() -> None:
    made = Sequences(1)
    sequences = [made.make(60) for _ in range(20)]
    assert {parts[1] for sequence in sequences for parts in sequence if parts[0] == "EVALSHA"} == {
        script.digest for script in made._scripts.values()
    }
    model = Model()
    replies = [
        reply for sequence in sequences for reply in model.send(sequence[1:]) if isinstance(reply, list) and reply
    ]
    # They do what they are for, rather than to be refused.
    assert sum(reply[0] == b"ok" for reply in replies) > 4 * sum(
        reply[0] in (b"fence", b"generation") for reply in replies
    )
