"""The ingest stream: commands that other programs leave in Redis, carried out in order by one node at a time.

    lease -> XREAD from the beginning -> for each entry: begin (counted) -> execute, under the lease -> end (deleted)

The lease is checked in the script that carries out an entry's effect and in those that begin and end it, and the
entry's id is the key of the write: whoever takes over repeats nothing, and who lost the lease changes nothing any more.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core.rare import RareLine
from pushserver.engine.interfaces import Fence, IdempotencyKey, IIngest

from .connection import Part, RedisConnection, Refusal, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from pushserver.engine.interfaces import EngineClock

    from .commands import RedisCommands
    from .names import Names

    Execute = Callable[[str, msgspec.Raw, IdempotencyKey], Awaitable[Any]]

LEASE: Final = "ingest"
#: How long the lease holds, ms; it is renewed three times in that while.
_LEASE_TTL: Final = 9_000
#: How long one read waits for a new entry, ms, and how many it takes.
_BLOCK: Final = 2_000
_COUNT: Final = 100
#: How often an entry is tried, and the pauses between, s.
TRIES: Final = 3
_PAUSE: Final = 0.2
#: The pause while the engine cannot answer, s.
_AWAY: Final = 0.5


class IngestCommand(msgspec.Struct):
    """An entry's ``cmd``."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


_decode: Final = msgspec.json.Decoder(IngestCommand).decode


class LeaseLost(Exception):
    """Another node works on the stream now, or nobody does."""


@implementer(IIngest)
class RedisIngest:
    """The stream ``<prefix>:ingest``."""

    _log = Logger()

    def __init__(
        self,
        clock: EngineClock,
        commands: RedisCommands,
        connection: RedisConnection,
        names: Names,
        lease: int = _LEASE_TTL,
    ) -> None:
        self._clock = clock
        self._commands = commands
        self._connection = connection
        self._names = names
        self._lease = lease
        self._token = secrets.token_hex(12)
        self._keys = [names.lease(LEASE), names.tries]
        self._execute: Execute | None = None
        self._running: Deferred[None] | None = None
        self._waiting: Deferred[Any] | None = None
        self._renewal: IDelayedCall | None = None
        self._stopping = False
        #: when the lease ends as far as this node can know, s of the clock's
        self._held_until = 0.0
        self.handled = 0
        self.dead = 0
        self._given_up = RareLine()

    @property
    def holds(self) -> bool:
        """Whether this node works on the stream."""
        return bool(self._held_until > self._clock.seconds())

    def start(self, execute: Execute) -> None:
        self._execute = execute
        self._connection.start().addErrback(lambda failure: None)
        self._running = self._clock.detach(self._run(), self._log, "the ingest")

    async def stop(self) -> None:
        """Finish the entry that is under way, and give the lease back."""
        self._stopping = True
        if self._running is None:
            return
        if self._waiting is not None:
            self._waiting.cancel()
        await self._running
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self.holds:
            try:
                await self._commands.run("lease", self._keys[:1], self._token, 0)
            except errors.Unavailable:
                pass

    async def _run(self) -> None:
        while not self._stopping:
            try:
                if await self._acquire():
                    await self._work()
                else:
                    await self._rest(self._lease / 3000)
            except errors.Unavailable:
                await self._rest(_AWAY)
            except LeaseLost:
                self._held_until = 0
            except CancelledError:
                pass

    async def _rest(self, seconds: float) -> None:
        if self._stopping:
            return
        self._waiting = Deferred()
        call = self._clock.later(seconds, self._waiting.callback, None)
        try:
            await self._waiting
        except CancelledError:
            call.cancel()
        finally:
            self._waiting = None

    # -- lease --------------------------------------------------------------------------------------------------------

    async def _acquire(self) -> bool:
        asked = self._clock.seconds()
        (held,) = await self._commands.run("lease", self._keys[:1], self._token, self._lease)
        self._held_until = asked + self._lease / 1000 if held else 0
        if held and self._renewal is None:
            self._renewal = self._clock.later(self._lease / 3000, self._renew)
        return bool(held)

    def _renew(self) -> None:
        self._renewal = None
        if not self._stopping and self._held_until:
            # A failure means that the lease is lost in time, which `holds` and the scripts will say.
            Deferred.fromCoroutine(self._acquire()).addErrback(self._unrenewed)

    def _unrenewed(self, failure: Failure) -> None:
        failure.trap(errors.Unavailable)
        if not self._stopping and self.holds and self._renewal is None:
            self._renewal = self._clock.later(_AWAY, self._renew)

    # -- entries ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Carry out what there is, while the lease is held."""
        while self.holds and not self._stopping:
            for entry_id, fields in await self._read():
                if self._stopping:
                    return
                await self._handle(entry_id.decode(), dict(zip(fields[::2], fields[1::2], strict=False)))

    async def _read(self) -> list[Reply]:
        if self._connection.protocol is None:
            await self._rest(_AWAY)
            return []
        self._waiting = self._connection.call(
            "XREAD", "COUNT", _COUNT, "BLOCK", _BLOCK, "STREAMS", self._names.ingest, "0",
            timeout=self._connection.command_timeout + _BLOCK / 1000,
        )  # fmt: skip
        try:
            reply = await self._waiting
        except Refusal as error:
            self._log.warn("The ingest stream cannot be read: {reason}", reason=str(error))
            raise errors.Unavailable(str(error)) from None
        finally:
            self._waiting = None
        return reply[0][1] if reply else []

    async def _handle(self, entry_id: str, fields: dict[bytes, bytes]) -> None:
        """Carry out one entry, however long Redis is away, and delete it."""
        text = fields.get(b"cmd", b"")
        error = ""
        try:
            command = _decode(text)
        except (ValueError, RecursionError) as problem:
            error = f"INVALID_MESSAGE: {problem}"
        else:
            if (await self._patiently("ingest_begin", self._keys, entry_id))[0] > 2 * TRIES:
                error = "INTERNAL_ERROR: its nodes ended while they carried it out"
            else:
                error = await self._carry_out(entry_id, command)
        keys = [*self._keys, self._names.ingest, self._names.dead]
        await self._patiently("ingest_end", keys, entry_id, error, text)
        if error:
            self.dead += 1
            if times := self._given_up.times(self._clock.seconds()):
                line = "Ingested commands were given up, {times} of them, the last one: {reason}"
                self._log.warn(line, event="ingest_given_up", times=times, reason=error)
        else:
            self.handled += 1

    async def _patiently(self, script: str, keys: list[str], *arguments: Part) -> list[Reply]:
        """Run a script under the lease, again and again while Redis is away and the lease may be held."""
        while self.holds:
            try:
                reply = await self._commands.run(script, keys, self._token, *arguments)
            except errors.Unavailable:
                if self._stopping:
                    raise
                await self._rest(_AWAY)
            else:
                return reply
        raise LeaseLost

    async def _carry_out(self, entry_id: str, command: IngestCommand) -> str:
        """Return why it could not be carried out; empty where it was."""
        once = IdempotencyKey(entry_id, Fence(LEASE, self._token))
        assert self._execute is not None
        tries = 0
        while self.holds:
            try:
                await self._execute(command.method, command.params, once)
            except errors.Unavailable:
                # Nobody's fault: wait until the engine is back, or another node has the lease.
                if self._stopping:
                    raise
                await self._rest(_AWAY)
                continue
            except errors.PushError as problem:
                error = f"{problem.code}: {problem.message}"
            except Exception as problem:
                self._log.failure("An ingested command failed")
                error = f"INTERNAL_ERROR: {type(problem).__name__}"
            else:
                return ""
            tries += 1
            if tries >= TRIES:
                return error
            await self._rest(_PAUSE * tries)
        raise LeaseLost
