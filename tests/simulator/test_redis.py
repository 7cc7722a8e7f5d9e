"""The model of Redis is proven: random sequences of commands and scripts give the same answers as the real one.

The calls are those of simulated runs, in their order and out of it, with arguments of one another; plain commands on
keys of any kind come between. Both places are given the same time: scripts ask a key for it, in place of ``TIME``. What
runs out does so at once here, or not at all; that a key ends after its time is shown apart.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
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
#: An id that both streams give, in place of one of the real time.
_NEXT_ID = "redis.call('HGET', 'now', 's') .. '-' .. redis.call('HINCRBY', 'now', 'n', 1)"
#: How many sequences the ordinary suite runs, and `make full`.
SEQUENCES, ALL_SEQUENCES = 100, 10_000
#: How many simulated runs give their calls.
RUNS = 3

Calls = list[list[str]]


class Real:
    """A connection to the real one."""

    def __init__(self, server: RedisServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
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
        name: Script(
            name, script.text.replace(_CLOCK, "redis.call('HMGET', 'now', 's', 'us')").replace("'*'", _NEXT_ID)
        )
        for name, script in load().items()
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.kill()


# -- random sequences -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Calls]:
    """The calls of some simulated runs."""
    file = tmp_path_factory.mktemp("calls") / "calls.json"
    seed = os.environ.get("SEED", "1")
    subprocess.run([sys.executable, "-m", "tests.simulator.calls", seed, str(RUNS), str(file)], check=True)
    found: list[Calls] = json.loads(file.read_text())
    return found


class Sequences:
    """Makes sequences of the calls of runs, and of plain commands on few keys, so that they meet."""

    def __init__(self, seed: int, runs: list[Calls]) -> None:
        self._chance = random.Random(seed)
        self._scripts = _scripts()
        self._number = 0
        self._now = NOW
        self._calls = self._chance.choice(runs)

    def make(self, length: int) -> list[list[Any]]:
        chance, calls = self._chance, self._calls
        sequence: list[list[Any]] = [["FLUSHALL"], *self._time(0)]
        sequence += [["SCRIPT", "LOAD", script.text] for script in self._scripts.values()]
        attach = next(call for call in calls if call[:2] == ["EVALSHA", "attach"])
        sequence.append(self._real(attach))
        if chance.random() < 0.8:
            # As many writes as any call knows of: else most scripts answer that the data went back.
            sequence.append(["HSET", "push:server", "writes", 10**6])
        at = chance.randrange(len(calls))
        for _ in range(length):
            chosen = chance.random()
            if chosen < 0.08:
                sequence += self._time(chance.choice((1, 500, 5_000, 40_000)))
            elif chosen < 0.2:
                sequence.append(self._plain())
            elif chosen < 0.35:
                sequence.append(self._real(chance.choice(calls)))
            elif chosen < 0.45:
                sequence.append(self._real(self._mixed(chance.choice(calls))))
            else:
                sequence.append(self._real(calls[at % len(calls)]))
                at += 1
        return sequence

    def _mixed(self, call: list[str]) -> list[str]:
        """Return a call with one of its arguments from another call of the same kind."""
        others = [each for each in self._calls if each[:2] == call[:2] and len(each) == len(call)]
        mixed = list(call)
        if call[0] == "EVALSHA" and len(call) > 3:
            place = self._chance.randrange(3, len(call))
            mixed[place] = self._chance.choice(others)[place]
        return mixed

    def _real(self, call: list[str]) -> list[Any]:
        parts = [part.encode("latin-1") for part in call]
        if call[0] == "EVALSHA":
            return ["EVALSHA", self._scripts[call[1]].digest, *parts[2:]]
        if call[0] == "XADD":
            # Not an id of the real time.
            self._number += 1
            parts = [f"{10**12}-{self._number}".encode() if part == b"*" else part for part in parts]
        return [call[0], *parts[1:]]

    def _time(self, later: int) -> list[list[Any]]:
        self._now += later
        return [["HSET", "now", "s", self._now // 1000, "us", self._now % 1000 * 1000]]

    def _plain(self) -> list[Any]:
        """A command of any kind on a key of any kind: also of the wrong one."""
        chance = self._chance
        key = chance.choice(("a", "b", "z", "h", "s", "x", "push:online:ann", "push:messages:news:a"))
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
                    ("MGET", key, "a", "b"), ("INCR", key), ("DECR", key), ("DEL", key),
                    ("SET", "count", chance.choice((7, "007", "m" * 45, 10**15))), ("INCR", "count"),
                    ("INCRBYFLOAT", "count", chance.choice((1, 0, -7, "x"))), ("OBJECT", "ENCODING", "count"),
                    ("DEL", key, "a"),
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
                    ("ZRANGE", key, "-", "+", "BYLEX", "LIMIT", 0, index), ("ZADD", "same", 0, member),
                    # Between texts Redis answers rightly where all scores are the same.
                    ("ZRANGE", "same", f"[{member}", "(z", "BYLEX"), ("ZLEXCOUNT", "same", f"({member}", "+"),
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
    if parts[0] != "EVALSHA" or parts[1] != digest or not isinstance(reply, list) or len(reply) < 4:
        # Of another script, or it found nobody.
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


def _differences(seed: int, runs: list[Calls], real: Real, length: int = 40) -> str:
    """Return the first difference that a sequence shows; empty where there is none."""
    made = Sequences(seed, runs)
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


def _compare(server: RedisServer, runs: list[Calls], first: int, count: int) -> None:
    real = Real(server)
    try:
        for seed in range(first, first + count):
            different = _differences(seed, runs, real)
            assert not different, different
    finally:
        real.close()


def test_random_sequences_get_the_same_answers(server: RedisServer, runs: list[Calls]) -> None:
    seed = int(os.environ.get("SEED", "1"))
    _compare(server, runs, seed, SEQUENCES)


@pytest.mark.full
def test_ten_thousand_random_sequences_get_the_same_answers(server: RedisServer, runs: list[Calls]) -> None:
    seed = int(os.environ.get("SEED", "1"))
    _compare(server, runs, seed, ALL_SEQUENCES)


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
    ]
    real.send(first)
    model.send(first[1:])
    time.sleep(0.06)
    assert real.send(second) == model.send(second)
    # Each by its own clock.
    for (left,) in (real.send([["TTL", "b"]]), model.send([["TTL", "b"]])):
        assert 30 < left <= 60
    real.close()


def test_a_number_that_was_computed_is_kept_as_text_until_it_is_loaded(server: RedisServer) -> None:
    real, model = Real(server), Model()
    first = [["SET", "n", 1], ["INCRBYFLOAT", "n", 1], ["OBJECT", "ENCODING", "n"], ["GET", "n"]]
    then = [["OBJECT", "ENCODING", "n"], ["GET", "n"], ["OBJECT", "ENCODING", "none"]]
    assert real.send(first) == model.send(first)
    real.send([["DEBUG", "RELOAD"]])
    model.redis.database.load(model.redis.database.save())
    assert real.send(then) == model.send(then) == [b"int", b"2", None]
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


def test_the_sequences_do_what_scripts_are_for(runs: list[Calls]) -> None:
    # Of each run: one alone may hold a single task.
    made = [Sequences(1, [run]) for run in runs]
    sequences = [each.make(60) for each in made for _ in range(20)]
    called = {parts[1] for sequence in sequences for parts in sequence if parts[0] == "EVALSHA"}
    names = {name for name, script in _scripts().items() if script.digest in called}
    usual = {"attach", "publish", "history", "append", "inbox_read", "acknowledge", "task_create", "task_replace"}
    assert usual | {"presence_begin", "heartbeat", "lease", "positions"} <= names
    model = Model()
    replies = [reply for sequence in sequences for reply in model.send(sequence[1:])]
    first = [bytes(reply[0]) for reply in replies if isinstance(reply, list) and reply and isinstance(reply[0], bytes)]
    # Rather than to be refused.
    done = sum(each.startswith(b"ok") for each in first)
    assert done > 2 * (first.count(b"fence") + first.count(b"generation"))
