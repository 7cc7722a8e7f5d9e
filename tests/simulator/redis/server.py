"""Redis as a process: connections, Pub/Sub, blocking reads, and what can become of its data."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from pushserver.engine.redis.scripts import _PARTS, load

from . import commands
from .lua import Scripts
from .values import OK, Database, RedisError, Reply, Status

VERSION = "7.0.15"


def encode(reply: Reply) -> bytes:
    """Return a reply in RESP 2."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Status):
        return b"+%s\r\n" % reply
    if isinstance(reply, RedisError):
        return b"-%s\r\n" % str(reply).replace("\r", " ").replace("\n", " ").encode()
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))


class ModelRedis(ServerFactory):
    """One Redis.

    Args:
        wall: its wall time, ms.
        later: calls after so many seconds.
    """

    noisy = False

    def __init__(
        self, wall: Callable[[], int], later: Callable[..., Any], chance: random.Random, policy: str = "noeviction"
    ) -> None:
        self.later = later
        self.chance = chance
        self.policy = policy
        self.database = Database(lambda: wall() * 1000, chance, self._publish)
        self.scripts = Scripts(self.database)
        self.subscribers: dict[bytes, dict[RedisSession, None]] = {}
        self.sessions: dict[RedisSession, None] = {}
        self.blocked: dict[RedisSession, None] = {}
        self.run_id = self._new_id()
        #: whether it takes writes, and whether a replica follows it
        self.master = self.followed = True
        #: called with each command
        self.see: Callable[[Sequence[bytes]], None] = lambda parts: None
        #: called where a script wrote under a lease that is not its token's
        self.stale_write: Callable[[bytes, bytes], None] = lambda lease, token: None
        #: called where a node begins an entry of the ingest
        self.entry_begun: Callable[[RedisSession], None] = lambda session: None
        #: asked before a script writes under a lease: whether that is under way (until `RedisSession.deliver_late`)
        self.is_late: Callable[[RedisSession, bytes], bool] = lambda session, lease: False
        #: called with each lease that was given, or given again
        self.leased: Callable[[bytes], None] = lambda lease: None

    def _new_id(self) -> str:
        return f"{self.chance.getrandbits(160):040x}"

    def buildProtocol(self, addr: object) -> RedisSession:
        return RedisSession(self)

    # -- faults -------------------------------------------------------------------------------------------------------

    def restart(self, saved: object | None = None) -> None:
        """Another process answers from now on, with the same data, or with what was saved. Connections are lost."""
        self.run_id = self._new_id()
        self.scripts.forget()
        self.database.load(self.database.save() if saved is None else saved)
        for session in list(self.sessions):
            session.transport.abortConnection()

    def evict(self, prefixes: Sequence[bytes], share: float) -> list[bytes]:
        """Remove some of the keys that begin so, as an evicting policy does; return them."""
        keys = sorted(key for key in self.database.all_keys() if key.startswith(tuple(prefixes)))
        gone = [key for key in keys if self.chance.random() < share]
        for key in gone:
            self.database.remove(key)
        return gone

    # -- commands -----------------------------------------------------------------------------------------------------

    def run(self, session: RedisSession, parts: Sequence[bytes]) -> Reply:
        """Return a command's reply, or `NOTHING` where it comes later, or in another form."""
        self.see(parts)
        name = parts[0].upper()
        special = _SPECIAL.get(name)
        try:
            return commands.run(self.database, parts) if special is None else special(self, session, parts[1:])
        except RedisError as problem:
            return problem

    def wake(self) -> None:
        """Answer who waits for an entry that is there now."""
        for session in list(self.blocked):
            session.retry()

    def _publish(self, channel: bytes, message: bytes) -> int:
        receivers = list(self.subscribers.get(channel, ()))
        for session in receivers:
            session.push([b"message", channel, message])
        return len(receivers)

    def info(self, section: bytes) -> bytes:
        if section == b"memory":
            return f"# Memory\r\nused_memory:1000000\r\nmaxmemory:0\r\nmaxmemory_policy:{self.policy}\r\n".encode()
        return f"# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\nrun_id:{self.run_id}\r\n".encode()


#: No reply now.
NOTHING = object()


class RedisSession(Protocol):
    """One connection."""

    transport: Any

    def __init__(self, redis: ModelRedis) -> None:
        self._redis = redis
        self._reader = hiredis.Reader()
        self._channels: dict[bytes, None] = {}
        self._wait: tuple[bytes, bytes, int] | None = None
        self._unread: list[bytes] = []
        #: a command that has not arrived yet
        self._late: list[bytes] | None = None
        #: whether what is carried out was late: it is not once more
        self.was_late = False

    def connectionMade(self) -> None:
        self._redis.sessions[self] = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._redis.sessions.pop(self, None)
        self._redis.blocked.pop(self, None)
        for channel in list(self._channels):
            self.unsubscribe(channel)

    def dataReceived(self, data: bytes) -> None:
        if self._wait is not None or self._late is not None:
            self._unread.append(data)
            return
        self._reader.feed(data)
        while self._wait is None and self._late is None and (parts := self._reader.gets()) is not False:
            reply = self._redis.run(self, parts)
            if reply is not NOTHING:
                self.transport.write(self._encoded(parts, reply))
        self._redis.wake()

    def _encoded(self, parts: Sequence[bytes], reply: Reply) -> bytes:
        if self._channels and parts[0].upper() == b"PING":
            return encode([b"pong", parts[1] if len(parts) > 1 else b""])
        return encode(reply)

    def push(self, reply: Reply) -> None:
        self.transport.write(encode(reply))

    # -- Pub/Sub ------------------------------------------------------------------------------------------------------

    def subscribe(self, channel: bytes) -> None:
        self._channels[channel] = None
        self._redis.subscribers.setdefault(channel, {})[self] = None
        self.push([b"subscribe", channel, len(self._channels)])

    def unsubscribe(self, channel: bytes) -> None:
        self._channels.pop(channel, None)
        others = self._redis.subscribers.get(channel, {})
        others.pop(self, None)
        if not others:
            self._redis.subscribers.pop(channel, None)

    # -- what is late -------------------------------------------------------------------------------------------------

    def delay(self, parts: list[bytes]) -> None:
        """This command, and what follows it here, has not arrived yet."""
        self._late = parts

    def deliver_late(self) -> None:
        """What was under way is here."""
        parts, self._late = self._late, None
        if parts is not None and self in self._redis.sessions:
            self.was_late = True
            reply = self._redis.run(self, parts)
            self.was_late = False
            self._answer(encode(reply))
            self._redis.wake()

    # -- blocking reads -----------------------------------------------------------------------------------------------

    def block(self, key: bytes, after: bytes, count: int, milliseconds: int) -> None:
        wait = self._wait = (key, after, count)
        self._redis.blocked[self] = None
        self._redis.later(milliseconds / 1000, self._give_up, wait)

    def retry(self) -> None:
        assert self._wait is not None
        found = commands.read_stream(self._redis.database, *self._wait)
        if found is not None:
            self._answer(encode(found))

    def _give_up(self, wait: object) -> None:
        if self._wait is wait:
            self._answer(b"*-1\r\n")

    def _answer(self, octets: bytes) -> None:
        self._wait = None
        self._redis.blocked.pop(self, None)
        self.transport.write(octets)
        unread, self._unread = self._unread, []
        for data in unread:
            self.dataReceived(data)


# -- commands of a connection -----------------------------------------------------------------------------------------


#: The scripts that write under a lease, where they are given one: its key is the third, its token the fourth argument.
_FENCED = frozenset(script.digest.encode() for name, script in load().items() if "write" in _PARTS[name])
_BEGIN, _LEASE = (load()[name].digest.encode() for name in ("ingest_begin", "lease"))


def _evaluate(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    count = commands.integer(a[1])
    keys, arguments = a[2 : 2 + count], a[2 + count :]
    if a[0] in _FENCED and arguments[3] and not session.was_late and redis.is_late(session, keys[2]):
        session.delay([b"EVALSHA", *a])
        return NOTHING
    reply = redis.scripts.run(a[0], keys, arguments)
    if a[0] == _BEGIN:
        redis.entry_begun(session)
    elif a[0] == _LEASE and reply[1]:
        redis.leased(keys[0])
    if a[0] in _FENCED and arguments[3] and reply[0].startswith(b"ok"):
        holder = redis.database.get(keys[2], bytes)
        if holder != arguments[3]:
            redis.stale_write(keys[2], arguments[3])
    return reply


def _evaluate_text(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    return _evaluate(redis, session, [redis.scripts.load(a[0]), *a[1:]])


def _script(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    if a[0].upper() != b"LOAD":
        raise RedisError("ERR the model knows SCRIPT LOAD alone")
    return redis.scripts.load(a[1])


def _subscribe(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    for channel in a:
        session.subscribe(channel)
    return NOTHING


def _unsubscribe(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    for channel in a:
        session.unsubscribe(channel)
        session.push([b"unsubscribe", channel, len(session._channels)])
    return NOTHING


def _scan(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    if len(a) != 5 or a[1].upper() != b"MATCH" or a[2][-1:] != b"*":
        raise RedisError("ERR the model knows SCAN cursor MATCH prefix* COUNT n alone")
    return [b"0", sorted(key for key in redis.database.all_keys() if key.startswith(a[2][:-1]))]


def _hscan(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    return [b"0", commands.run(redis.database, [b"HGETALL", a[0]])]


def _xread(redis: ModelRedis, session: RedisSession, a: Sequence[bytes]) -> Reply:
    options = [each.upper() for each in a[:5:2]]
    if options != [b"COUNT", b"BLOCK", b"STREAMS"] or len(a) != 7:
        raise RedisError("ERR the model knows XREAD COUNT n BLOCK ms STREAMS key id alone")
    count, milliseconds, key, after = commands.integer(a[1]), commands.integer(a[3]), a[5], a[6]
    found = commands.read_stream(redis.database, key, after, count)
    if found is not None:
        return found
    session.block(key, after, count, milliseconds)
    return NOTHING


_SPECIAL: dict[bytes, Callable[[ModelRedis, RedisSession, Sequence[bytes]], Reply]] = {
    b"EVALSHA": _evaluate,
    b"EVAL": _evaluate_text,
    b"SCRIPT": _script,
    b"SUBSCRIBE": _subscribe,
    b"UNSUBSCRIBE": _unsubscribe,
    b"XREAD": _xread,
    b"SCAN": _scan,
    b"HSCAN": _hscan,
    b"SELECT": lambda redis, session, a: OK,
    b"INFO": lambda redis, session, a: redis.info(a[0] if a else b"server"),
    b"ROLE": lambda redis, session, a: [b"master" if redis.master else b"slave"],
    b"WAIT": lambda redis, session, a: commands.integer(a[0]) if redis.followed else 0,
}
