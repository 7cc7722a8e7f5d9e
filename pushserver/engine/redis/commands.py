"""Commands and scripts, the generation, and replicas: Redis as the rest of the engine sees it.

Two connections where replicas are waited for: ``WAIT`` holds up everything behind it, so the writes that need it have
a connection to themselves. Whatever goes wrong comes out as `Unavailable`.
"""

from __future__ import annotations

import hmac
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from pushserver.core.errors import Unavailable
from pushserver.core.histogram import Histograms
from pushserver.core.rare import RareLine
from pushserver.core.settling import SettledTime
from pushserver.engine.fill_level import FillLevel
from pushserver.engine.interfaces import EPOCH_PERIOD, ONCE_TTL

from .connection import Misconfigured, Part, RedisConnection, Refusal, Reply, parse_info
from .gathered import GatheredWrites
from .scripts import Script, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

    from pushserver.engine.interfaces import EngineClock, IdempotencyKey

    from .connection import CommandProtocol
    from .names import Names
    from .route import RedisRoute
    from .settings import RedisSettings

#: The format of what is kept in Redis. Version 1 says none, and reads this one.
FORMAT: Final = 2
#: A server that says so will not take our writes on this connection any more: look for another master.
_LEAVE: Final = ("READONLY", "MASTERDOWN", "NOAUTH")
_FENCED: Final = "the lease that this write was made under is lost"
#: So often a script is tried anew after the generation moved on under it.
_ATTEMPTS: Final = 3
#: The commands that are sent beside scripts, and measured.
COMMANDS: Final = (
    "EXISTS", "HDEL", "HGET", "HGETALL", "HSCAN", "INFO", "MGET", "PEXPIRE", "PING", "PUBLISH", "SCAN", "SMEMBERS",
    "SREM", "XRANGE", "XREVRANGE", "ZRANGE", "ZREM",
)  # fmt: skip


class RedisCommands:
    """The commands to one Redis."""

    _log = Logger()

    def __init__(self, clock: EngineClock, settings: RedisSettings, route: RedisRoute, names: Names) -> None:
        self._clock = clock
        self._names = names
        self._scripts = load()
        self._appends = GatheredWrites(clock, partial(self.run_in_epoch, "output_append", [], durable=True))
        self._replicas = settings.wait_replicas
        self._allow_eviction = settings.allow_eviction
        #: the policy by which Redis may evict what it keeps; empty where it does not
        self.evicts = ""
        self._replicated: list[Deferred[None]] = []
        self._waiting = False

        def connection(name: str) -> RedisConnection:
            return RedisConnection(
                clock,
                f"pushserver-{name}",
                route,
                settings,
                prepare=self._attach,
            )

        self.commands = connection("commands")
        self.durables = connection("durable") if self._replicas else self.commands
        self.connections = [self.commands, self.durables] if self._replicas else [self.commands]
        self.generation = ""
        #: Redis' time, by which nodes go together, and by how much it is ahead of this node's wall clock, ms
        self.time = SettledTime()
        self.skew = 0
        #: how many writes of this generation this node knows of
        self.writes = 0
        #: whether the data had a mark of the process when this node attached
        self._marked = False
        self._secret: bytes | None = None
        #: the version that a new state of a task has at least
        self.lowest_version = 1
        #: when the generation moved on, by Redis' time, ms; 1 where it never did
        self.moved_at = 1
        self.fill = FillLevel("redis.url")
        self._moved: Callable[[], None] | None = None
        self._unread_lost: Callable[[str], None] | None = None
        self.refused = 0
        self._refusals = RareLine()
        #: how long scripts (by their names) and commands (in capitals) took
        known = (*self._scripts, *COMMANDS)
        self.durations = Histograms(("operation",), ((name,) for name in known))

    @property
    def waits(self) -> bool:
        """Whether a durable write is answered only after replicas have it."""
        return self._replicas > 0

    @property
    def trouble(self) -> str | None:
        return next((f"Redis: {each.trouble}" for each in self.connections if each.trouble is not None), None)

    def start(
        self,
        ready: Callable[[], None],
        moved: Callable[[], None],
        unusable: Callable[[Exception], None],
        unread_lost: Callable[[str], None],
    ) -> list[Deferred[None]]:
        """Connect; return what `RedisConnection.start` does for each connection. ``ready`` is called for each
        connection that was made, ``moved`` when the generation moved on, ``unusable`` as there, ``unread_lost`` with
        the key of an inbox that a script has found to have lost unread messages."""
        self._moved = moved
        self._unread_lost = unread_lost
        return [each.start(ready=ready, unusable=unusable) for each in self.connections]

    # -- generation ---------------------------------------------------------------------------------------------------

    async def move_epochs(self) -> None:
        """Move the generation on. Fails with `Unavailable`."""
        protocol = self.commands.protocol
        if protocol is None:
            raise Unavailable(f"Redis is away: {self.commands.trouble}")
        await self._attach_again(protocol, "move")

    def note_time(self, now: int) -> None:
        """Redis' time was this, ms, a moment ago."""
        self.time.at(now, self._clock.milliseconds())
        self.skew = now - self._clock.now()

    async def compare(self, generation: str, writes: int, known: int) -> None:
        """Follow what Redis' data says of itself, where that is another generation, or fewer writes than this node knew
        of when it asked (``known``). Fails with `Unavailable`."""
        if generation == self.generation and writes >= known:
            self.writes = max(self.writes, writes)
        elif self.commands.protocol is not None:
            await self._attach_again(self.commands.protocol)

    def learn(self, epoch: str, writes: int) -> None:
        """Another node wrote in this epoch, and the data knew of so many writes then."""
        if epoch.startswith(f"{self.generation}."):
            self.writes = max(self.writes, writes)

    async def _attach_again(self, protocol: CommandProtocol, move: str = "") -> None:
        try:
            await self._attach(protocol, move)
        except Misconfigured as error:
            raise Unavailable(str(error)) from None

    async def _attach(self, protocol: CommandProtocol, move: str = "") -> None:
        limit = self.commands.command_timeout
        info = parse_info(await self._ask(protocol, "INFO", "server"))
        memory = parse_info(await self._ask(protocol, "INFO", "memory"))
        self._note_memory(memory)
        self.evicts = policy = _policy(memory)
        if self.evicts and not self._allow_eviction and not self.commands.proven:
            raise Misconfigured(
                f"Redis may evict what it keeps (maxmemory-policy {policy}): noeviction is needed there,"
                " or redis.allow_eviction = true"
            )
        if self.evicts:
            self._log.warn(
                "Redis may evict what it keeps (maxmemory-policy {policy}): messages can vanish", policy=policy
            )
        loads = [protocol.send(limit, "SCRIPT", "LOAD", script.text) for script in self._scripts.values()]
        for success, result in await DeferredList(loads, consumeErrors=True):
            if not success:
                raise Unavailable(str(result.value))
        attach = self._scripts["attach"]
        fresh = (_token(), secrets.token_bytes(32), self.generation, move, self.writes, "evicts" if self.evicts else "")
        known = (FORMAT, int(self._marked), self.lowest_version, self._clock.settled())
        reply = protocol.send(limit, "EVALSHA", attach.digest, 1, self._names.server, info["run_id"], *fresh, *known)
        try:
            found, *others = self._checked(attach, [self._names.server], await reply)
        except Refusal as error:
            raise Unavailable(str(error)) from None
        if found == b"format":
            said, reader = (each.decode("utf-8", "replace")[:40] for each in others)
            raise Misconfigured(
                f"the data under {self._names.prefix!r} is of format {said!r}, to be read by {reader!r} and later:"
                f" this version is {FORMAT}"
            )
        self._secret, lowest, writes, marked, moved = others
        self._marked = marked == 1
        generation, self.lowest_version, self.moved_at = found.decode(), int(lowest), int(moved)
        if generation == self.generation:
            self.writes = max(self.writes, writes)
        else:
            self.writes = writes
            before, self.generation = self.generation, generation
            if before:
                self._log.warn("Redis answers with a new history: every position moves on")
                if self._moved is not None:
                    self._moved()

    def secret(self, purpose: str) -> bytes:
        """Return a secret for one purpose, derived from the data's own. Raises `Unavailable` where Redis was never
        reached."""
        if self._secret is None:
            raise Unavailable("Redis was not reached yet")
        return hmac.digest(self._secret, f"purpose:{purpose}".encode(), "sha256")

    async def measure(self) -> None:
        """Note how much memory Redis takes, and whether it may evict by now. Fails with `Unavailable`."""
        memory = parse_info(await self.call("INFO", "memory"))
        self._note_memory(memory)
        if _policy(memory) != self.evicts and self.commands.protocol is not None:
            # The scripts of every node go by what the data says of it.
            await self._attach_again(self.commands.protocol)

    def _note_memory(self, memory: dict[str, str]) -> None:
        place = int(memory.get("maxmemory", "0"))
        self.fill.note(int(memory.get("used_memory", "0")), place or None)

    async def _ask(self, protocol: CommandProtocol, *parts: Part) -> Reply:
        try:
            return await protocol.send(self.commands.command_timeout, *parts)
        except Refusal as error:
            raise Unavailable(str(error)) from None

    # -- commands -----------------------------------------------------------------------------------------------------

    async def call(self, *parts: Part) -> Reply:
        """Return a command's reply."""
        began = self._clock.seconds()
        try:
            return await self._call(self.commands, *parts)
        finally:
            self.durations.of(str(parts[0])).observe(self._clock.seconds() - began)

    async def _call(self, connection: RedisConnection, *parts: Part) -> Reply:
        try:
            return await connection.call(*parts)
        except Refusal as error:
            raise self._refusal(connection, str(error)) from None

    def _refusal(self, connection: RedisConnection, text: str) -> Unavailable:
        self.refused += 1
        if text.startswith(_LEAVE):
            connection.drop(text)
        # Of a Redis that is full, or may not be written to, that is so of every command.
        if times := self._refusals.times(self._clock.seconds()):
            self._log.warn("Redis refused, {times} times: {reason}", event="redis_refused", times=times, reason=text)
        return Unavailable(f"Redis refused: {text}")

    async def run(
        self, name: str, keys: Sequence[str], *arguments: Part, durable: bool = False, waited: bool = True
    ) -> list[Reply]:
        """Return what a script answers, without the 'ok' before it where it is that. With ``durable`` it goes over the
        connection whose writes replicas are waited for; ``waited`` does that at once."""
        reply = await self._run(name, keys, *arguments, durable=durable, waited=waited)
        return reply[1:] if reply and reply[0] == b"ok" else reply

    async def _run(self, name: str, keys: Sequence[str], *arguments: Part, durable: bool, waited: bool) -> list[Reply]:
        # An append that was asked for before this comes before it.
        self._appends.send()
        connection = self.durables if durable else self.commands
        began = self._clock.seconds()
        try:
            script = self._scripts[name]
            try:
                answer = await connection.call("EVALSHA", script.digest, len(keys), *keys, *arguments)
            except Refusal as error:
                answer = await self._evaluate(connection, script, keys, arguments, str(error))
            reply = self._checked(script, keys, answer)
            if reply and reply[0] == b"fence":
                raise Unavailable(_FENCED)
            if durable and waited and self.waits:
                await self.replicated()
        finally:
            self.durations.of(name).observe(self._clock.seconds() - began)
        return reply

    async def _evaluate(
        self, connection: RedisConnection, script: Script, keys: Sequence[str], arguments: Sequence[Part], refusal: str
    ) -> Reply:
        """Return the reply of a script that Redis refused to run by its digest, where it only did not know it."""
        if not refusal.startswith("NOSCRIPT"):
            raise self._refusal(connection, refusal)
        return await self._call(connection, "EVAL", script.text, len(keys), *keys, *arguments)

    def _checked(self, script: Script, keys: Sequence[str], reply: Reply) -> list[Reply]:
        """Return a script's reply, where it is one of its own. What else comes is of a server, or of something before
        it, that does not do what it is told: nothing may be made of it."""
        if script.may_reply(reply):
            checked: list[Reply] = reply
            return checked
        raise self._misshapen(script, keys)

    def _misshapen(self, script: Script, keys: Sequence[str]) -> Unavailable:
        self.refused += 1
        key = next((each for each in keys if each != self._names.server), self._names.server)
        self._log.error(
            "Redis' reply to the script {name} for {key} has a shape that is not its own", name=script.name, key=key
        )
        return Unavailable(f"Redis' reply to the script {script.name} has a shape that is not its own")

    async def run_in_epoch(
        self, name: str, keys: Sequence[str], *arguments: Part, durable: bool = False, waited: bool = True
    ) -> list[Reply]:
        """`run` for a script that checks the generation, and that the data did not go back in it; where that moved on,
        this node follows."""
        keys = [self._names.server, *keys]
        for _ in range(_ATTEMPTS):
            known, writes = self.generation, self.writes
            reply = await self._run(name, keys, known, EPOCH_PERIOD, *arguments, writes, durable=durable, waited=waited)
            if reply[0].startswith(b"ok "):
                _, count, *noticed = reply[0].split()
                if self.generation == known:
                    self.writes = max(self.writes, int(count))
                for key in noticed:
                    if self._unread_lost is not None:
                        self._unread_lost(key.decode())
                return reply[1:]
            if reply[0] != b"generation":
                return reply
            protocol = self.commands.protocol
            if self.generation == known and protocol is not None:
                await self._attach_again(protocol)
        raise Unavailable("Redis' data was replaced")

    async def write(
        self,
        name: str,
        keys: Sequence[str],
        *arguments: Part,
        once: tuple[str, IdempotencyKey] | None,
        content: bytes = b"",
        told: bytes = b"",
        durable: bool = True,
        waited: bool = True,
    ) -> list[Reply]:
        """`run_in_epoch` for a script that checks a key and a fence; ``once`` holds the key's name
        beside it; ``content`` is a digest of what the key is used for; ``told`` is what the backend is told of it, as
        `pushserver.engine.redis.events.packed` makes it."""
        every, whole = self._written(keys, arguments, once, told, content)
        return await self.run_in_epoch(name, every, *whole, durable=durable, waited=waited)

    def _written(
        self,
        keys: Sequence[str],
        arguments: Sequence[Part],
        once: tuple[str, IdempotencyKey] | None,
        told: bytes,
        content: bytes,
    ) -> tuple[Sequence[str], Sequence[Part]]:
        """Return the keys and the arguments of a write, behind those by which the generation is checked."""
        server = self._names.server
        key, lease, ttl, token = server, server, "", ""
        if once is not None:
            key, ttl = once[0], str(ONCE_TTL)
            if once[1].fence is not None:
                lease, token = self._names.lease(once[1].fence.lease), once[1].fence.token
        return (
            [key, lease, *keys, self._names.events, self._names.outbox],
            [ttl, token, *arguments, told, content],
        )

    def append(self, keys: Sequence[str], *arguments: Part, once: tuple[str, IdempotencyKey] | None) -> Deferred[bytes]:
        """`write` for an append to an output, with those that are made in the same turn; its answer is for
        `appended`."""
        every, whole = self._written(keys, arguments, once, b"", b"")
        # The generation is checked once for all of them, so these places are empty here.
        return self._appends.add([self._names.server, *every], ["", "", *whole])

    def appended(self, packed: bytes, keys: Sequence[str]) -> list[int | str]:
        """Return what an append was answered with. Raises `errors.PushError`."""
        script = self._scripts["output_append"]
        answer = script.answer(packed)
        if answer is None:
            raise self._misshapen(script, keys)
        if answer[0] == "failed":
            raise self._refusal(self.durables, str(answer[1]))
        if answer[0] == "fence":
            raise Unavailable(_FENCED)
        return answer

    # -- replicas -----------------------------------------------------------------------------------------------------

    def replicated(self) -> Deferred[None]:
        """Fires when enough replicas have all that was written so far.

        One ``WAIT`` at a time, for all who asked before it: it holds up its connection while replicas are late.
        """
        waiting: Deferred[None] = Deferred()
        self._replicated.append(waiting)
        if len(self._replicated) == 1 and not self._waiting:
            self._waiting = True
            self._clock.later(0, self._wait)
        return waiting

    def _wait(self) -> None:
        waiting, self._replicated = self._replicated, []
        self._waiting = bool(waiting)
        if not waiting:
            return
        patience = max(1, int(self.durables.command_timeout * 500))

        async def wait() -> None:
            # With a write of its own it covers what other nodes wrote before, too: a repeat may answer for theirs.
            replies = [
                self.durables.call("SET", f"{self._names.prefix}:waited", 1, "PX", ONCE_TTL),
                self.durables.call("WAIT", self._replicas, patience),
            ]
            (_, _), (sent, count) = await DeferredList(replies, consumeErrors=True)
            if not sent or count < self._replicas:
                raise Unavailable(f"{count if sent else 0} of {self._replicas} replicas have it")

        def done(result: Failure | None) -> None:
            for each in waiting:
                each.callback(None) if result is None else each.errback(result)
            self._wait()

        Deferred.fromCoroutine(wait()).addBoth(done)


def _policy(memory: dict[str, str]) -> str:
    """Return the policy by which Redis may evict what it keeps; empty where it does not."""
    policy = memory.get("maxmemory_policy", "noeviction")
    return "" if policy == "noeviction" else policy


def _token() -> str:
    return secrets.token_hex(6)
