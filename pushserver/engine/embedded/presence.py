"""`IPresence` of the only node there is: in memory, apart from when a user was last seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import Arrival, IPresence, Member, Online

from .operations import RowCall
from .rows import revocations as revocationrows

if TYPE_CHECKING:
    import msgspec

    from pushserver.engine.interfaces import EngineClock

    from .writer import Writer

T = TypeVar("T")


@implementer(IPresence)
class EmbeddedPresence:
    """When a user was last seen is saved a few seconds later (`save`), many users at once."""

    def __init__(self, writer: Writer, clock: EngineClock) -> None:
        self._writer = writer
        self._clock = clock
        self._connections: dict[str, set[str]] = {}
        self._members: dict[str, dict[str, dict[str, msgspec.Raw | None]]] = {}
        self._unsaved: dict[str, int] = {}

    @property
    def users(self) -> int:
        return len(self._connections)

    def clear(self) -> None:
        self._connections.clear()
        self._members.clear()

    def _answer(self, value: T) -> Deferred[T]:
        """Return a value that is known here, or a failure where the engine is stopped."""
        return succeed(value) if self._writer.accepting else fail(Unavailable("the engine is stopped"))

    def connect(self, user_id: str, connection_id: str) -> Deferred[Arrival]:
        if not self._writer.accepting:
            return self._answer(Arrival(0, False))
        connections = self._connections.setdefault(user_id, set())
        known = connection_id in connections
        connections.add(connection_id)
        count = len(connections)
        return succeed(Arrival(count, count == 1 and not known))

    def disconnect(self, user_id: str, connection_id: str, now: int) -> Deferred[bool]:
        if not self._writer.accepting:
            return self._answer(False)
        connections = self._connections.get(user_id)
        if connections is None or connection_id not in connections:
            return succeed(False)
        connections.discard(connection_id)
        if connections:
            return succeed(False)
        del self._connections[user_id]
        self._unsaved[user_id] = now
        return succeed(True)

    def going(self, user_id: str, last_seen_at: int) -> Deferred[bool]:
        # There is nobody else to say so.
        return self._answer(user_id not in self._connections)

    def went(self, user_id: str) -> Deferred[bool]:
        return self._answer(True)

    def lingers(self, user_id: str) -> Deferred[bool]:
        return self._answer(False)

    def online(self, user_id: str) -> Deferred[Online]:
        if user_id in self._connections:
            return self._answer(Online(user_id, True, self._clock.now()))
        if user_id in self._unsaved:
            return self._answer(Online(user_id, False, self._unsaved[user_id]))
        asked = self._writer.submit(RowCall(revocationrows.seen, user_id))
        return asked.addCallback(lambda seen_at: Online(user_id, False, seen_at))

    def join(self, channel: str, user_id: str, connection_id: str, info: msgspec.Raw | None) -> Deferred[bool]:
        if not self._writer.accepting:
            return self._answer(False)
        connections = self._members.setdefault(channel, {}).setdefault(user_id, {})
        first = not connections
        connections[connection_id] = info
        return succeed(first)

    def describe(self, channel: str, user_id: str, connection_id: str, info: msgspec.Raw | None) -> Deferred[None]:
        users = self._members.get(channel, {})
        if connection_id in users.get(user_id, {}):
            # The first one's is shown.
            users[user_id] = {connection_id: info} | {**users[user_id], connection_id: info}
        return self._answer(None)

    def leave(self, channel: str, user_id: str, connection_id: str) -> Deferred[bool]:
        if not self._writer.accepting:
            return self._answer(False)
        members = self._members.get(channel, {})
        connections = members.get(user_id, {})
        if connection_id not in connections:
            return succeed(False)
        del connections[connection_id]
        if connections:
            return succeed(False)
        del members[user_id]
        if not members:
            del self._members[channel]
        return succeed(True)

    def members(self, channel: str) -> Deferred[list[Member]]:
        members = self._members.get(channel, {})
        return self._answer(
            [
                Member(user_id, len(connections), next(iter(connections.values())))
                for user_id, connections in sorted(members.items())
            ]
        )

    async def save(self) -> None:
        """Write down when users were last seen. What could not be written is tried again the next time; fails with
        `errors.Unavailable` then."""
        unsaved = list(self._unsaved.items())
        if not unsaved:
            return
        await self._writer.submit(RowCall(revocationrows.save_seen, unsaved))
        for user_id, seen_at in unsaved:
            if self._unsaved.get(user_id) == seen_at:
                del self._unsaved[user_id]
