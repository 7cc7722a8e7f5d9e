"""`IPresence`: who is where, counted over all nodes; what this node holds is remembered here as well.

Redis may lose it (restarted empty, or this node was taken for dead), so that it has to be registered again; and what
ends while Redis is away is removed, and announced, when it is back. Some of it may be gone although nothing happened,
where Redis evicts: so a part is compared with each heartbeat. What a node holds may be evicted before the node dies, so
that nobody knows whom to remove: where Redis evicts, the counts are gone through as well, for those whom no node holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core import errors
from pushserver.engine.coroutines import started
from pushserver.engine.interfaces import Arrival, IPresence, Member, Online

from .cluster import PRESENCE_TTL, SEEN_TTL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable

    from pushserver.engine.interfaces import EngineClock, Listener

    from .cluster import RedisCluster
    from .commands import RedisCommands
    from .names import Names
    from .quarantine import Quarantine

#: So many entries are sent at once, and then their answers awaited.
_BATCH: Final = 200
#: So many entries are compared with each heartbeat.
_COMPARED: Final = 200
#: About so many keys of Redis are gone through at once, where it evicts, and so often with each heartbeat, until there
#: are as many entries as are compared.
_SCANNED: Final = 1000
_SCANS: Final = 10
#: So many of whom no node seems to hold are remembered until it is known.
_REMEMBERED: Final = 1000
#: How often the keys of what is still present are given their whole time again, s.
_TOUCH: Final = PRESENCE_TTL / 1000 / 4

T = TypeVar("T")

#: A connection of a user (``channel`` None), or a subscription of a channel.
Entry = tuple[str | None, str, str]
#: Channels, or an empty text for a user's connections, each with a user.
Entries = list[tuple[str, str]]


@implementer(IPresence)
class RedisPresence:
    """Connections and subscriptions."""

    _log = Logger()

    def __init__(
        self, commands: RedisCommands, cluster: RedisCluster, names: Names, quarantine: Quarantine, clock: EngineClock
    ) -> None:
        self._commands = commands
        self._quarantine = quarantine
        self._cluster = cluster
        self._names = names
        self._clock = clock
        #: when the keys were given their whole time, s, monotonic
        self._touched_at = clock.seconds()
        self._listener: Listener
        self._held: dict[Entry, bytes] = {}
        #: what is being registered, and whether another registration of it was the user's first
        self._beginning: dict[Entry, bool] = {}
        #: what may have been the first when it was registered anew, but Redis' answer did not come
        self._doubtful: set[Entry] = set()
        #: subscriptions that are back beside their users' first, and were not announced yet
        self._returned: set[Entry] = set()
        #: what ended while Redis did not say that it knows: when, with what info, and whether to announce it
        self._ended: dict[Entry, tuple[int, bytes, bool]] = {}
        #: what is compared next, the last first
        self._to_compare: list[Entry] = []
        #: the counts of Redis that are still to be gone through in this round
        self._counts: AsyncIterator[Entries] | None = None
        #: who was counted and held by no node: by channel and user, at which heartbeat that was seen first
        self._unheld: dict[tuple[str, str], int] = {}
        self._heartbeats = 0
        #: how many counts were found wrong in Redis
        self.mended = 0

    def start(self, listener: Listener) -> None:
        """Notify this listener from now on."""
        self._listener = listener

    @property
    def connections(self) -> int:
        return sum(1 for channel, _, _ in self._held if channel is None)

    @property
    def held(self) -> int:
        return len(self._held)

    # -- beginning ----------------------------------------------------------------------------------------------------

    def connect(self, user_id: str, connection_id: str) -> Deferred[Arrival]:
        return started(self._begin((None, user_id, connection_id), b""))

    def join(self, channel: str, user_id: str, connection_id: str, info: msgspec.Raw | None) -> Deferred[bool]:
        return started(self._join((channel, user_id, connection_id), bytes(info) if info else b""))

    async def _join(self, entry: Entry, info: bytes) -> bool:
        return (await self._begin(entry, info)).new

    async def _begin(self, entry: Entry, info: bytes) -> Arrival:
        """Register an entry; return how many the user has of its kind now, and whether that is to be said."""
        self._held[entry] = info
        self._ended.pop(entry, None)
        self._beginning[entry] = False
        try:
            arrival = await self._register(entry, info)
            if arrival is None:
                # This node was taken for dead. It comes to life with all that it holds, this entry too.
                await self._cluster.heartbeat()
                arrival = await self._register(entry, info)
                if arrival is not None and self._beginning.get(entry, False):
                    arrival = arrival._replace(new=True)
        except errors.Unavailable:
            if self._held.pop(entry, None) is not None:
                self._ended[entry] = (self._clock.now(), b"", False)
            raise
        finally:
            self._beginning.pop(entry, None)
        if arrival is None:
            raise errors.Unavailable("this node is not known to Redis")
        return arrival

    async def _register(self, entry: Entry, info: bytes) -> Arrival | None:
        """Return as `_begin`; None where this node is taken for dead. Of what was registered before, none is new."""
        channel, user_id, _ = entry
        own = self._cluster.incarnation
        names = self._names
        if channel is None:
            keys = [names.nodes, names.connections(own), names.online(user_id), names.leaving(own)]
        else:
            keys = [names.nodes, names.joins(own), names.members(channel), names.infos(channel)]
        kind = "connection" if channel is None else "subscription"
        reply = await self._commands.run(
            "presence_begin", keys, own, kind, _member(entry), user_id, PRESENCE_TTL, info, names.prefix
        )
        return None if reply[0] == b"gone" else Arrival(int(reply[1]), bool(reply[0]))

    def describe(self, channel: str, user_id: str, connection_id: str, info: msgspec.Raw | None) -> Deferred[None]:
        return started(self._describe((channel, user_id, connection_id), bytes(info) if info else b""))

    async def _describe(self, entry: Entry, info: bytes) -> None:
        channel, user_id, _ = entry
        if channel is None or self._held.get(entry, info) == info:
            return
        keys = [self._names.joins(self._cluster.incarnation), self._names.infos(channel)]
        await self._commands.run("presence_describe", keys, _member(entry), user_id, PRESENCE_TTL, info)
        if entry in self._held:
            self._held[entry] = info

    # -- ending -------------------------------------------------------------------------------------------------------

    def disconnect(self, user_id: str, connection_id: str, now: int) -> Deferred[bool]:
        return started(self._end((None, user_id, connection_id), now))

    def leave(self, channel: str, user_id: str, connection_id: str) -> Deferred[bool]:
        return started(self._end((channel, user_id, connection_id), self._clock.now()))

    async def _end(self, entry: Entry, now: int) -> bool:
        held = self._held.pop(entry, None)
        try:
            return await self._remove(entry, now, "")
        except errors.Unavailable:
            if held is not None:
                self._ended[entry] = (now, held, True)
            raise

    async def _remove(self, entry: Entry, now: int, again: str) -> bool:
        channel, user_id, _ = entry
        own = self._cluster.incarnation
        names = self._names
        if channel is None:
            keys = [names.connections(own), names.online(user_id), names.seen(user_id), names.leaving(own)]
        else:
            keys = [names.joins(own), names.members(channel), names.infos(channel)]
        kind = "connection" if channel is None else "subscription"
        evicts = "evicts" if self._commands.evicts else ""
        reply = await self._commands.run(
            "presence_end", keys, kind, _member(entry), user_id, now, SEEN_TTL, again, PRESENCE_TTL, names.prefix,
            evicts, channel or "",
        )  # fmt: skip
        return bool(reply[0])

    def going(self, user_id: str, last_seen_at: int) -> Deferred[bool]:
        return started(self._going(user_id, last_seen_at))

    async def _going(self, user_id: str, last_seen_at: int) -> bool:
        own, names = self._cluster.incarnation, self._names
        keys = [names.nodes, names.online(user_id), names.leaving(own)]
        reply = await self._commands.run("presence_going", keys, own, user_id, last_seen_at, PRESENCE_TTL, names.prefix)
        return bool(reply[0])

    def went(self, user_id: str) -> Deferred[bool]:
        return started(self._went(user_id))

    async def _went(self, user_id: str) -> bool:
        return bool(await self._commands.call("ZREM", self._names.leaving(self._cluster.incarnation), user_id))

    def lingers(self, user_id: str) -> Deferred[bool]:
        return started(self._lingers(user_id))

    async def _lingers(self, user_id: str) -> bool:
        reply = await self._commands.run("presence_lingers", [self._names.nodes], user_id, self._names.prefix)
        return bool(reply[0])

    # -- after Redis was away -----------------------------------------------------------------------------------------

    async def register(self, notify: bool) -> None:
        """Register all that this node holds under its incarnation. ``notify``: others may have said that it went,
        so the listener is notified of each user who is back; `announce_returned` does so for their other subscriptions.
        Fails with `errors.Unavailable`."""

        async def register(entry: Entry) -> None:
            info = self._held[entry]
            try:
                arrival = await self._register(entry, info)
            except errors.Unavailable:
                self._doubtful.add(entry)
                raise
            first = arrival is not None and arrival.new
            if entry in self._beginning:
                self._beginning[entry] = self._beginning[entry] or first
            elif notify and (first or entry in self._doubtful):
                self._notify_back(entry, info, True)
            elif notify and entry[0] is not None:
                self._returned.add(entry)

        await self._in_batches(self._held, register)
        self._doubtful.clear()

    def keeps(self, channel: str, user_id: str, connection_id: str) -> bool:
        """Return whether a subscription is left of an earlier incarnation of this node, and still here: then nobody has
        said that it went."""
        entry: Entry = (channel, user_id, connection_id)
        self._returned.discard(entry)
        return entry in self._held

    def announce_returned(self) -> None:
        """Nothing is left of earlier incarnations: notify the listener of what others have said went, and is here."""
        returned, self._returned = self._returned, set()
        for entry in self._held:
            if entry in returned:
                self._notify_back(entry, self._held[entry], False)

    def _notify_back(self, entry: Entry, info: bytes, first: bool) -> None:
        channel, user_id, connection_id = entry
        if channel is None:
            self._listener.online(user_id)
        else:
            self._listener.present(channel, _seen(user_id, info), connection_id, first)

    async def remove_ended(self) -> None:
        """Remove what ended while Redis was away, and announce it. Fails with `errors.Unavailable`."""
        # What several ends left behind does not tell which of them was the last, where their answers were lost.
        notified: set[tuple[str | None, str]] = set()

        async def remove(entry: Entry) -> None:
            at, info, announces = self._ended.pop(entry)
            try:
                last = await self._remove(entry, at, "again")
            except errors.Unavailable:
                self._ended[entry] = (at, info, announces)
                raise
            if announces:
                self._notify_gone(entry, info, at, last and entry[:2] not in notified)
            if last and announces:
                notified.add(entry[:2])

        await self._in_batches(self._ended, remove)

    async def compare(self) -> None:
        """Compare the next of what this node holds with what Redis keeps of it, and mend that. Who was not there at all
        is announced: others may have said that they went. Fails with `errors.Unavailable`.

        A Redis that evicts may count too few without missing anybody: there each is counted anew.
        """
        if not self._to_compare:
            self._to_compare = list(self._held)
        chosen, self._to_compare = self._to_compare[-_COMPARED:], self._to_compare[:-_COMPARED]
        # What is being registered, or has ended since, is compared another time, or not at all.
        batch = [entry for entry in chosen if entry in self._held and entry not in self._beginning]
        parts = [part for entry in batch for part in (entry[0] or "", *entry[1:], self._held[entry])]
        own, names = self._cluster.incarnation, self._names
        connections = self.connections
        most = (connections + len(self._ended), len(self._held) - connections + len(self._ended))
        sets = (names.connections(own), names.joins(own))
        reply = await self._commands.run(
            "presence_compare", [names.nodes, names.node(own), *sets], own, names.prefix, PRESENCE_TTL,
            "all" if self._commands.evicts else "", *parts,
        )  # fmt: skip
        if reply[0] == b"gone":
            # The next heartbeat registers all of it.
            return
        self.mended += int(reply[0])
        for channel, user, info in zip(reply[3::3], reply[4::3], reply[5::3], strict=True):
            self._notify_back((channel.decode() or None, user.decode(), ""), info, True)
        for kept, size, limit in zip(sets, reply[1:3], most, strict=True):
            if int(size) > limit:
                await self._remove_strangers(kept)
        if self._commands.evicts:
            await self._sweep()

    async def _sweep(self) -> None:
        """Look at some of the counts for who is held by no node, and remove who was not for long enough: a node that
        lost its set has compared all that it holds by then. Fails with `errors.Unavailable`."""
        self._heartbeats += 1
        found = await self._next_counts()
        most, unheld = await self._find_unheld(found, None)
        room = _REMEMBERED - len(self._unheld)
        for channel, user, _ in unheld[:room]:
            self._unheld.setdefault((channel, user), self._heartbeats)
        patience = 2 + most // _COMPARED
        due = [each for each, since in self._unheld.items() if self._heartbeats - since > patience][:_COMPARED]
        for each in due:
            del self._unheld[each]
        now = self._clock.now()
        _, removed = await self._find_unheld(due, now)
        for channel, user, info in removed:
            self.mended += 1
            self._notify_gone((channel or None, user, ""), info, now, True)

    async def _next_counts(self) -> Entries:
        """Return the next of the counts; fewer than are compared at once where the walk ends, or little is found. Fails
        with `errors.Unavailable`, and then it begins anew."""
        counts, found = self._counts or self._walk(), Entries()
        self._counts = None
        for _ in range(_SCANS):
            page = await anext(counts, None)
            if page is None:
                return found
            found += page
            if len(found) >= _COMPARED:
                break
        self._counts = counts
        return found

    async def _find_unheld(self, entries: Entries, at: int | None) -> tuple[int, list[tuple[str, str, bytes]]]:
        """Return how much a node holds at most, and which of these no node holds, with their info. ``at``: they are
        removed, and said to have gone then."""
        own = {(channel or "", user) for channel, user, _ in (*self._held, *self._beginning)} if entries else set()
        asked = [part for each in entries if each not in own for part in each]
        if not asked:
            return 0, []
        reply = await self._commands.run(
            "presence_sweep", [self._names.nodes], self._names.prefix, "" if at is None else at, SEEN_TTL, *asked
        )
        parts = zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
        return int(reply[0]), [(channel.decode(), user.decode(), info) for channel, user, info in parts]

    async def _walk(self) -> AsyncIterator[Entries]:
        """Go through all counts, some at a time: a channel, or an empty text for connections, and a user."""
        call, names = self._commands.call, self._names
        online, members = names.online(""), names.members("")
        async for keys in _scan(lambda at: call("SCAN", at, "MATCH", online + "*", "COUNT", _SCANNED)):
            yield [("", key.decode("utf-8", "replace").removeprefix(online)) for key in keys]
        async for keys in _scan(lambda at: call("SCAN", at, "MATCH", members + "*", "COUNT", _SCANNED)):
            yield []
            for key in keys:
                channel = key.decode("utf-8", "replace").removeprefix(members)
                async for pairs in _scan(lambda at, key=key: call("HSCAN", key, at, "COUNT", _COMPARED)):  # type: ignore[misc]
                    yield [(channel, user.decode("utf-8", "replace")) for user in pairs[::2]]

    async def _remove_strangers(self, key: str) -> None:
        """Remove from a set of this node what it does not hold: a registration may have arrived after its end."""
        for member in await self._commands.call("SMEMBERS", key):
            channel, user_id, connection_id = ["", "", *member.decode("utf-8", "replace").split(" ")][-3:]
            entry: Entry = (channel or None, user_id, connection_id)
            if entry in self._held or entry in self._ended:
                continue
            if _member(entry).encode() != member:
                # Not a member that a node wrote.
                await self._commands.call("SREM", key, member)
                continue
            now = self._clock.now()
            if await self._remove(entry, now, ""):
                self._notify_gone(entry, b"", now, True)

    def _notify_gone(self, entry: Entry, info: bytes, at: int, last: bool) -> None:
        channel, user_id, connection_id = entry
        if channel is not None:
            self._listener.absent(channel, _seen(user_id, info), connection_id, last)
        elif last:
            self._listener.offline(user_id, at)

    async def touch(self) -> None:
        """Give the keys of all that is present their whole time again, now and then."""
        now = self._clock.seconds()
        if now - self._touched_at < _TOUCH:
            return
        self._touched_at = now
        own = self._cluster.incarnation
        keys = {self._names.connections(own), self._names.joins(own)}
        for channel, user_id, _ in self._held:
            keys |= (
                {self._names.online(user_id)}
                if channel is None
                else {self._names.members(channel), self._names.infos(channel)}
            )
        await self._in_batches(keys, lambda key: self._commands.call("PEXPIRE", key, PRESENCE_TTL))

    async def _in_batches(
        self,
        entries: Collection[T],
        work: Callable[[T], Coroutine[Any, Any, object]],  # Any: what a coroutine waits for is its own
    ) -> None:
        every = list(entries)
        for start in range(0, len(every), _BATCH):
            # What ended meanwhile is not registered again.
            batch = [started(work(entry)) for entry in every[start : start + _BATCH] if entry in entries]
            results: list[tuple[bool, Any]] = await DeferredList(batch, consumeErrors=True)
            for success, result in results:
                if not success:
                    raise result.value

    # -- questions ----------------------------------------------------------------------------------------------------

    def online(self, user_id: str) -> Deferred[Online]:
        return started(self._online(user_id))

    async def _online(self, user_id: str) -> Online:
        count, seen = await self._commands.call("MGET", self._names.online(user_id), self._names.seen(user_id))
        at = _number(seen)
        if seen is not None and at is None:
            await self._quarantine.put("status", user_id, self._names.seen(user_id), seen, "not a time")
        return Online(user_id, count is not None, at)

    def members(self, channel: str) -> Deferred[list[Member]]:
        return started(self._members(channel))

    async def _members(self, channel: str) -> list[Member]:
        counted, infos = self._names.members(channel), self._names.infos(channel)
        known = dict(_pairs(await self._commands.call("HGETALL", infos)))
        members: list[Member] = []
        for user, count in _pairs(await self._commands.call("HGETALL", counted)):
            user_id = user.decode("utf-8", "replace")
            info = known.get(user)
            if info is not None and not _is_json(info):
                await self._quarantine.put("presence", channel, infos, info, "not JSON", user_id)
                info = None
            connections = _number(count)
            if connections is None:
                await self._quarantine.put("presence", channel, counted, count, "not a number", user_id)
                continue
            members.append(Member(user_id, connections, None if info is None else msgspec.Raw(info)))
        return sorted(members, key=lambda member: member.user_id)


async def _scan(ask: Callable[[bytes], Awaitable[list[Any]]]) -> AsyncIterator[list[bytes]]:  # Any: Redis' answer
    """Yield what each part of a scan finds. ``ask``: asks for the part at a cursor."""
    cursor = b"0"
    while True:
        cursor, found = await ask(cursor)
        yield found
        if cursor == b"0":
            return


def _number(text: bytes | None) -> int | None:
    """Return a whole number; None for what is none."""
    return int(text) if text is not None and text.lstrip(b"-").isdigit() else None


def _is_json(octets: bytes) -> bool:
    try:
        msgspec.json.decode(octets)
    except ValueError:
        return False
    return True


def _seen(user_id: str, info: bytes) -> Member:
    """Return a user as announced."""
    return Member(user_id, 0, msgspec.Raw(info) if info else None)


def _member(entry: Entry) -> str:
    """Return an entry as a member of its node's set; no part of it holds a space."""
    return " ".join(part for part in entry if part is not None)


def _pairs(reply: list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(reply[::2], reply[1::2], strict=True)
