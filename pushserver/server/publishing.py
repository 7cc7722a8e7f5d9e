"""Publishing: one way in for every door, to the place where a channel keeps its messages."""

from __future__ import annotations

from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING, Final

import msgspec

from pushserver.core.channels import Kind, Namespace, Namespaces
from pushserver.core.errors import NotFound, Refused
from pushserver.core.publication import Author, Publication
from pushserver.engine.interfaces import ONCE_TTL, IdempotencyKey, PublishResult, Retention
from pushserver.server.clock import Clock
from pushserver.server.events.maker import EventMaker
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from pushserver.engine.interfaces import Fence, IEngine

#: Of how many keyed messages it is remembered whom they reached; beyond it the oldest goes.
MAX_REMEMBERED: Final = 100_000


class Publishing:
    """Takes a message in, gives it its identity, and lets the engine keep and spread it.

    ``names_authors``: what a client publishes also says from which connection, and what the user's token says of the
    user, and so does word of who comes and goes; that costs room in each message, and a message for each connection.
    """

    def __init__(
        self,
        engine: IEngine,
        namespaces: Namespaces,
        counters: Counters,
        clock: Clock,
        events: EventMaker,
        names_authors: bool = True,
    ) -> None:
        self._engine = engine
        self.events = events
        self._namespaces = namespaces
        self._counters = counters
        self._clock = clock
        self._names_authors = names_authors
        # Unique without asking anyone, and cheap: who made it, and its number there.
        self._prefix = token_hex(6)
        self._numbers = count(1)
        #: by channel, key and publisher, in the order of their age: when it may be forgotten, and how many connections
        #: here it was handed to
        self._delivered: dict[tuple[str, str, str | None], tuple[int, int]] = {}

    def now(self) -> int:
        """Return the wall time, ms since the epoch."""
        return self._clock.now()

    def message_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    def namespace(self, channel: str) -> Namespace:
        """Return a channel's namespace. Raises `errors.Refused`: INVALID_CHANNEL, UNKNOWN_CHANNEL."""
        return self._namespaces.of(channel)

    def keeps_presence(self, channel: str) -> bool:
        """Return whether it is known who follows a channel."""
        namespace = self._namespaces.find(channel)
        return namespace is not None and namespace.tracks_presence

    def retention(self, namespace: Namespace) -> Retention | None:
        if namespace.history_size > 0:
            return Retention(namespace.history_size, namespace.history_ttl)
        return None

    async def publish(
        self,
        channel: str,
        type: str,
        data: msgspec.Raw,
        *,
        message_id: str | None = None,
        sender: Author | None = None,
        exclude_user: str | None = None,
        exclude_connection: str | None = None,
        chat: bool = False,
        ttl: int | None = None,
        collapse_key: str | None = None,
        unread_after: int | None = None,
        fence: Fence | None = None,
        create: bool = True,
        tags: dict[str, str] | None = None,
        live: bool = False,
    ) -> PublishResult:
        """Publish to a channel; on a user's it goes to the inbox first.

        ``message_id``: given by the publisher, it makes the publication happen once; each user has keys of their own,
        and the server side (no ``sender``) has its own. ``live``: nothing is kept, whatever the channel keeps.
        ``unread_after``: ms until a notification should be read (None: as configured; 0: whenever). ``create``: whether
        this may be the first message that a channel keeps; else such a channel fails with `errors.NotFound`. Raises
        `errors.Refused` for a channel that cannot be published to (``task:``, ``status:``, ``stats``: the server's
        own), and what the engine raises.
        """
        namespace = self.namespace(channel)
        if namespace.kind in (Kind.TASK, Kind.OUTPUT, Kind.STATUS, Kind.STATS):
            raise Refused("only the server itself publishes here")
        named = sender if self._names_authors else None
        publication = Publication(
            type=type,
            channel=channel,
            data=data,
            timestamp=self._clock.now(),
            message_id=message_id or self.message_id(),
            sender=None if sender is None else sender.user_id,
            sender_connection=None if named is None else named.connection_id,
            sender_info=None if named is None else named.info,
            tags=tags,
            exclude_user=exclude_user,
            exclude_connection=exclude_connection,
        )
        once = (
            IdempotencyKey(publication.message_id, fence, publication.sender)
            if message_id is not None or fence is not None
            else None
        )
        if namespace.kind is Kind.USER and not live:
            published = await self._engine.inbox.append(
                publication,
                channel.partition(":")[2],
                chat,
                ttl,
                collapse_key,
                once,
                self.events.published(publication),
                self.events.unread_after(unread_after) if sender is None else None,
            )
        else:
            published = await self._engine.broker.publish(
                publication,
                None if live else self.retention(namespace),
                once,
                create,
                self.events.published(publication),
            )
        if not published.duplicate:
            self._counters.published()
        return published

    def delivered(
        self,
        channel: str,
        message_id: str | None,
        published: PublishResult,
        followers: int,
        publisher: str | None = None,
    ) -> int:
        """How many connections of this node a message was handed to: ``followers``, or for a repeat what the first
        answer said. That is known where this node gave it and for as long as the key holds; else it is 0.

        ``message_id``: the publisher's own, as `publish` got it; without one there is no repeat to remember it for.
        """
        if message_id is None:
            return followers
        now, known, key = self._clock.milliseconds(), self._delivered, (channel, message_id, publisher)
        if published.duplicate:
            until, count = known.get(key, (0, 0))
            return count if until > now else 0
        known.pop(key, None)
        while known and (len(known) >= MAX_REMEMBERED or next(iter(known.values()))[0] <= now):
            del known[next(iter(known))]
        known[key] = (now + ONCE_TTL, followers)
        return followers

    async def clear(self, channel: str) -> None:
        """Remove what a channel keeps, or a user's inbox; positions stay, and nothing of an inbox counts as lost.

        Raises `errors.NotFound` where nothing is kept, and what the engine raises.
        """
        namespace = self.namespace(channel)
        if namespace.kind is Kind.USER:
            await self._engine.inbox.clear(channel.partition(":")[2])
        elif namespace.history_size > 0:
            await self._engine.history.clear(channel)
        else:
            raise NotFound("this channel keeps no messages")

    async def announce(
        self, channel: str, type: str, data: msgspec.Raw, who: Author | None = None, by_connection: bool = False
    ) -> None:
        """Say something live on a channel that keeps nothing of it: who came, who left, how things stand.

        ``who``: the client that came or left; ``by_connection``: its user has other connections there, so it is said
        only for protocols that count these.
        """
        if not self._names_authors:
            if by_connection:
                return
            who = None
        await self._engine.broker.publish(
            Publication(
                type=type,
                channel=channel,
                data=data,
                timestamp=self._clock.now(),
                message_id=self.message_id(),
                sender_connection=None if who is None else who.connection_id,
                sender_info=None if who is None else who.info,
                by_connection=by_connection,
            ),
            None,
            None,
        )
