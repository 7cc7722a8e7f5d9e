"""`IEvents` and `IDeliveries`: the stream ``<prefix>:events``, and how far webhooks have come."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core import events as core_events
from pushserver.core import publication as publications
from pushserver.engine import dead_events
from pushserver.engine.interfaces import (
    DEAD_TTL,
    MAX_DEAD,
    DeadEvent,
    DeliveryState,
    EventPage,
    HeldSubject,
    IDeliveries,
    IEvents,
    OutboxFigures,
    StoredEvent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent
    from pushserver.engine.interfaces import EngineClock, EventRules

    from .commands import RedisCommands
    from .connection import Part, Reply
    from .names import Names
    from .quarantine import Quarantine

#: The name of the lease under which one node sends to webhooks.
LEASE: Final = "events"


def packed(events: Sequence[NewEvent], rules: EventRules) -> bytes:
    """Return events as the scripts take them (``lua/events.lua``); empty where there are none."""
    if not events:
        return b""
    told = (rules.retention, rules.max_bytes, [event.rest.decode() for event in events])
    return msgspec.msgpack.encode(told)


@implementer(IEvents)
class RedisEvents:
    """The outbox in a stream."""

    def __init__(self, clock: EngineClock, commands: RedisCommands, names: Names, rules: EventRules) -> None:
        self._clock = clock
        self._commands = commands
        self._names = names
        self.rules = rules
        self._keys = [names.events, names.outbox]

    def append(self, made: Sequence[NewEvent]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._append(made))

    async def _append(self, made: Sequence[NewEvent]) -> None:
        await self._commands.run("events_append", self._keys, packed(made, self.rules), durable=True)

    def read(self, after: str | None, limit: int, max_bytes: int) -> Deferred[EventPage]:
        return Deferred.fromCoroutine(self._read(after, limit, max_bytes))

    async def _read(self, after: str | None, limit: int, max_bytes: int) -> EventPage:
        if after is not None:
            core_events.number_of(after)
        lost, floor, *rest = await self._commands.run(
            "events_read", self._keys, "" if after is None else after, limit, max_bytes
        )
        found = [StoredEvent(id.decode(), body) for id, body in zip(rest[::2], rest[1::2], strict=True)]
        last = found[-1].id if found else floor.decode() if after is None or lost else after
        return EventPage(found, last, bool(lost))

    def notify_unread(self, limit: int) -> Deferred[int]:
        return Deferred.fromCoroutine(self._notify_unread(limit))

    async def _notify_unread(self, limit: int) -> int:
        names, inbox = self._names, self._names.inbox("")
        count, *due = await self._commands.run_in_epoch("unread_due", [names.unread], limit, inbox)
        told: list[Part] = []
        for timer, acked, epoch, body in zip(due[::4], due[1::4], due[2::4], due[3::4], strict=True):
            offset, _, user_id = timer.decode().split(" ", 2)
            try:
                message = publications.read_kept(body).positioned(int(offset), epoch.decode())
            except ValueError:
                # It is kept aside where it is read; here it only stops being waited for.
                told += [timer, packed([], self.rules)]
                continue
            event = core_events.unread(user_id, message, bool(acked), self._clock.now())
            told += [timer, packed([event], self.rules)]
        if told:
            await self._commands.run_in_epoch("unread_notify", [names.unread, *self._keys], inbox, *told, durable=True)
        return int(count)

    def trim(self) -> Deferred[OutboxFigures]:
        return Deferred.fromCoroutine(self._trim())

    async def _trim(self) -> OutboxFigures:
        kept, octets, newest, oldest_at, dropped = await self._commands.run(
            "events_trim", self._keys, self.rules.retention, self.rules.max_bytes
        )
        return OutboxFigures(kept, octets, newest, int(oldest_at) if oldest_at else None, dropped)


@implementer(IDeliveries)
class RedisDeliveries:
    """How far webhooks have come: for each a hash with its cursor, one with the subjects that wait, and a sorted set of
    what is held, ``<subject> NUL <number> <id>``, in the order of these texts."""

    def __init__(self, clock: EngineClock, commands: RedisCommands, names: Names, quarantine: Quarantine) -> None:
        self._clock = clock
        self._commands = commands
        self._names = names
        self._quarantine = quarantine
        self._token = secrets.token_hex(12)
        self._lease = names.lease(LEASE)
        #: by webhook, of which generation the data were by which its sender began
        self._begun: dict[str, str] = {}

    def lease(self, ttl: int) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._take(ttl))

    async def _take(self, ttl: int) -> bool:
        (held,) = await self._commands.run("lease", [self._lease], self._token, ttl)
        return bool(held) and ttl > 0

    async def _write(self, script: str, keys: Sequence[str], *arguments: Part) -> list[Reply]:
        return await self._commands.run(script, [self._lease, *keys], self._token, *arguments)

    def begin(self, webhook: str, age: int) -> Deferred[DeliveryState]:
        return Deferred.fromCoroutine(self._begin(webhook, age))

    async def _begin(self, webhook: str, age: int) -> DeliveryState:
        keys = [*self._names.webhook(webhook), self._names.events, self._names.outbox]
        self._begun[webhook] = self._commands.generation
        cursor, gone, held, *rest = await self._write("webhook_begin", keys, age, self._commands.moved_at)
        subjects = [
            HeldSubject(subject.decode(), *map(int, state.split()))
            for subject, state in zip(rest[::2], rest[1::2], strict=True)
        ]
        return DeliveryState(cursor.decode(), subjects, int(held), gone.decode())

    def move_cursor(self, webhook: str, cursor: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._move_cursor(webhook, cursor))

    def _check(self, webhook: str) -> None:
        """Raise `errors.Unavailable` where the data went back since its sender began: what it has held may be held no
        more, and the cursor that it would move lies beyond that."""
        generation = self._commands.generation
        if self._begun.get(webhook, generation) != generation:
            raise errors.Unavailable("the data went back: events are sent from where they stand now")

    async def _move_cursor(self, webhook: str, cursor: str) -> None:
        self._check(webhook)
        await self._write("webhook_cursor", self._names.webhook(webhook)[:1], cursor)

    def mark_gone(self, webhook: str, address: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._mark_gone(webhook, address))

    async def _mark_gone(self, webhook: str, address: str) -> None:
        await self._write("webhook_gone", self._names.webhook(webhook)[:1], address)

    def gone(self, webhook: str) -> Deferred[str]:
        return Deferred.fromCoroutine(self._gone(webhook))

    async def _gone(self, webhook: str) -> str:
        found = await self._commands.call("HGET", self._names.webhook(webhook)[0], "gone")
        return "" if found is None else found.decode()

    def forget_gone(self, webhooks: Sequence[str]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._forget_gone(webhooks))

    async def _forget_gone(self, webhooks: Sequence[str]) -> None:
        for webhook in webhooks:
            await self._commands.call("HDEL", self._names.webhook(webhook)[0], "gone")

    def keep(self, webhooks: Sequence[str], ttl: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self._keep(webhooks, ttl))

    async def _keep(self, webhooks: Sequence[str], ttl: int) -> None:
        keys = [key for webhook in webhooks for key in self._names.webhook(webhook)]
        await self._write("webhook_keep", keys, ttl)

    def hold(self, webhook: str, state: HeldSubject, ids: Sequence[str]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._hold(webhook, state, ids))

    async def _hold(self, webhook: str, state: HeldSubject, ids: Sequence[str]) -> None:
        self._check(webhook)
        members = [_member(state.subject, id) for id in ids]
        kept = f"{state.failures} {state.due}"
        await self._write("webhook_hold", self._names.webhook(webhook), state.subject, kept, *members)

    def held(self, webhook: str, subject: str, limit: int) -> Deferred[list[StoredEvent]]:
        return Deferred.fromCoroutine(self._held(webhook, subject, limit))

    async def _held(self, webhook: str, subject: str, limit: int) -> list[StoredEvent]:
        self._check(webhook)
        members = await self._commands.call(
            "ZRANGE", self._names.webhook(webhook)[2], *_bounds(subject), "BYLEX", "LIMIT", 0, limit
        )
        found: list[StoredEvent] = []
        for member in members:
            id = member.decode().rpartition(" ")[2]
            entries = await self._commands.call("XRANGE", self._names.events, id, id)
            found.append(StoredEvent(id, entries[0][1][1] if entries else b""))
        return found

    def release(self, webhook: str, subject: str, id: str, dead: DeadEvent | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._release(webhook, subject, id, dead))

    async def _release(self, webhook: str, subject: str, id: str, dead: DeadEvent | None) -> int:
        self._check(webhook)
        keys = [*self._names.webhook(webhook)[1:], *self._names.dead_events]
        last: list[Part] = [] if dead is None else _dead_parts(dead)
        (left,) = await self._write(
            "webhook_release", keys, subject, _member(subject, id), *_bounds(subject), MAX_DEAD, self._oldest(), *last
        )
        return int(left)

    def add_dead(self, dead: Sequence[DeadEvent]) -> Deferred[None]:
        return Deferred.fromCoroutine(self._add_dead(dead))

    async def _add_dead(self, dead: Sequence[DeadEvent]) -> None:
        parts = [part for each in dead for part in _dead_parts(each)]
        await self._write("webhook_dead", self._names.dead_events, MAX_DEAD, self._oldest(), *parts)

    def dead(self) -> Deferred[list[DeadEvent]]:
        return Deferred.fromCoroutine(self._dead())

    async def _dead(self) -> list[DeadEvent]:
        return await self._whole(await self._commands.run("dead", self._names.dead_events[:2], self._oldest()))

    async def _whole(self, reply: Sequence[Reply]) -> list[DeadEvent]:
        """Return the events of a reply of fields and events; one that cannot be read is kept aside."""
        found: list[DeadEvent] = []
        for field, event in zip(reply[::2], reply[1::2], strict=True):
            place = field.decode()
            webhook, _, id = place.partition(" ")
            try:
                found.append(dead_events.read_kept(event, id))
            except (ValueError, TypeError) as error:
                await self._quarantine.put("event", webhook, self._names.dead_events[0], event, str(error), place)
        return found

    def retry(self, webhook: str, ids: Sequence[str] | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._retry(webhook, ids))

    async def _retry(self, webhook: str, ids: Sequence[str] | None) -> int:
        if ids is not None and not ids:
            return 0
        dead, _, again = self._names.dead_events
        (count,) = await self._commands.run("dead_retry", [dead, again], f"{webhook} ", *dict.fromkeys(ids or ()))
        return int(count)

    def retried(self, webhook: str) -> Deferred[list[DeadEvent]]:
        return Deferred.fromCoroutine(self._retried(webhook))

    async def _retried(self, webhook: str) -> list[DeadEvent]:
        dead, _, again = self._names.dead_events
        found = await self._whole(await self._write("webhook_retried", [dead, again], f"{webhook} "))
        return sorted(found, key=lambda each: core_events.number_of(_id(each)))

    def revive(self, webhook: str, id: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._revive(webhook, id))

    async def _revive(self, webhook: str, id: str) -> None:
        await self._write("webhook_revive", self._names.dead_events, f"{webhook} {id}")

    def _oldest(self) -> int:
        # A wall clock that was set makes no event older.
        return min(self._clock.now(), self._clock.settled()) - DEAD_TTL


def _member(subject: str, id: str) -> str:
    """Return what an event is held as: in the order of texts those of one subject stand in the order of numbers."""
    return f"{subject}\0{core_events.number_of(id):016d} {id}"


def _bounds(subject: str) -> tuple[str, str]:
    return f"[{subject}\0", f"({subject}\1"


def _id(dead: DeadEvent) -> str:
    return core_events.decode(bytes(dead.event)).id


def _dead_parts(dead: DeadEvent) -> list[Part]:
    return [f"{dead.webhook} {_id(dead)}", dead_events.encode(dead), dead.died_at]
