"""Live messages: what travels between nodes, and what other programs publish.

A message of a node is one line that says what it is, and then JSON:

    m <incarnation>.<number>      a publication without position
    c <incarnation>.<number>      the same, of one connection of a user who has others there; version 1 drops it
    p <offset> <epoch> <writes>   a publication with its position; how many writes Redis knew of (version 1: not said)
    t <incarnation>.<number>      a task's event
    i <incarnation>.<number>      what became of messages of an inbox; "i -" where nobody waits for its echo
    o <offset> <epoch> <writes> <before> <timestamp> <closes>
                                  what was appended to an output (`pushserver.core.output.literal`), or its end

Another program's message is ``{"type"?, "data"}``; it becomes a publication without a position here.
"""

from __future__ import annotations

import secrets
from collections import deque
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import errors, output, publication
from pushserver.core.inbox import INBOXES, InboxChange
from pushserver.core.output import NOTHING
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.engine.interfaces import TaskEvent

from .connection import SLICE
from .feeds import ChannelFeed
from .names import STATUS, TASK, Names

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from pushserver.core.output import OutputPublication
    from pushserver.engine.interfaces import EngineClock

    from .commands import RedisCommands
    from .feeds import ChannelFeeds
    from .subscriber import Subscriber

#: How many channels' positions are asked for in one command.
_BATCH: Final = 200

_event: Final = msgspec.json.Decoder(TaskEvent)
_change: Final = msgspec.json.Decoder(InboxChange)


#: The type of a message that names none; it may always be sent.
_MESSAGE: Final = "message"


class _External(msgspec.Struct):
    data: Any
    type: str = _MESSAGE


_external: Final = msgspec.json.Decoder(_External)


def _is_behind(position: Position | None, told: Position | None) -> bool:
    """Return whether a channel's newest position is below what was told of it, in the same epoch."""
    return position is not None and told is not None and position.epoch == told.epoch and position.offset < told.offset


def _appended(channel: str, words: list[str], content: bytes) -> OutputPublication:
    """Return what an output's line tells: the words of its head, and what is behind it. Raises ValueError."""
    offset, epoch, _, before, timestamp, closes = words
    closed = closes == "1"
    span = (int(before), int(offset) - closed)
    return output.appended(channel, epoch, span, None if content == NOTHING else content, int(timestamp), closes=closed)


def channel_ended(channel: str, position: Position | None, told: Position | None) -> bool:
    """Return whether the end of an output may be all that was told beyond its newest position."""
    if position is None or told is None or not channel.startswith(output.PREFIX):
        return False
    return told.offset == position.offset + 1


def _stands(failure: Failure) -> None:
    """What lies before a write cannot be read; it stands all the same."""
    failure.trap(errors.Unavailable)


class Live:
    """This node's subscriptions, and the way of each message to the listener."""

    _log = Logger()

    def __init__(
        self,
        clock: EngineClock,
        commands: RedisCommands,
        subscriber: Subscriber,
        names: Names,
        feeds: ChannelFeeds,
        accepts: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._commands = commands
        self._subscriber = subscriber
        self._names = names
        self._accepts = accepts
        self.feeds = feeds
        self._new: list[ChannelFeed] = []
        self._starting: IDelayedCall | None = None
        #: feeds that can begin, and where; they do for a while in each turn, since each lets somebody go on
        self._placed: deque[tuple[ChannelFeed, Position | None]] = deque()
        self._beginning: IDelayedCall | None = None
        self._origin = secrets.token_hex(4)
        # What other programs publish gets its identity here, on each node its own: random once, then counted.
        self._prefix = secrets.token_hex(8)
        self._numbers = count(1)
        self._number = 0
        self.dropped = 0
        self.received = 0

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def subscribe(self, channel: str) -> None:
        if not self._subscriber.receiving:
            raise errors.Unavailable("Redis is away: nothing is received")
        feed = self.feeds.channels.get(channel)
        new = feed is None
        if feed is None:
            feed = self.feeds.channels[channel] = ChannelFeed(self.feeds, channel)
        elif not feed.wanted:
            feed.wanted = True
            for confirmed in self._want(feed):
                # Where it fails the connection is lost, and the next one brings the name back.
                confirmed.addErrback(lambda failure: None)
        if feed.waiters is not None:
            answer: Deferred[None] = Deferred()
            feed.waiters.append(answer)
            if new:
                self._begin(feed)
            await answer

    def _want(self, feed: ChannelFeed) -> list[Deferred[None]]:
        live, pub = self._names.live(feed.channel), self._names.pub(feed.channel)
        foreign = self._refused if feed.channel.startswith((TASK, STATUS, output.PREFIX)) else self._external
        return [
            self._subscriber.want(live, partial(self._internal, feed)),
            self._subscriber.want(pub, partial(foreign, feed)),
        ]

    def _begin(self, feed: ChannelFeed) -> None:
        """Let a feed begin once both of its names are confirmed."""
        confirmed = self._want(feed)
        left = len(confirmed)

        def done(result: Failure | None) -> None:
            nonlocal left
            left -= 1
            if self.feeds.channels.get(feed.channel) is not feed:
                return
            if result is not None:
                self._give_up(feed, str(result.value))
            elif not left:
                self._new.append(feed)
                if self._starting is None:
                    self._starting = self._clock.later(0, self._start)

        for each in confirmed:
            each.addBoth(done)

    def _start(self) -> None:
        """Ask for the positions of all channels whose subscription was confirmed in this turn."""
        self._starting = None
        new, self._new = self._new, []
        self._detach(self._positions_of(new))

    async def _positions_of(self, feeds: list[ChannelFeed]) -> None:
        for start in range(0, len(feeds), _BATCH):
            batch = feeds[start : start + _BATCH]
            try:
                positions = await self.positions([feed.channel for feed in batch])
            except errors.Unavailable as error:
                for feed in batch:
                    self._give_up(feed, str(error))
                continue
            self._placed.extend(zip(batch, positions, strict=True))
            if self._beginning is None:
                self._begin_some()

    def _begin_some(self) -> None:
        self._beginning = None
        until = self._clock.seconds() + SLICE
        while self._placed:
            feed, position = self._placed.popleft()
            if self.feeds.channels.get(feed.channel) is feed:
                feed.begin(position)
            if self._placed and self._clock.seconds() >= until:
                self._beginning = self._clock.later(0, self._begin_some)
                return

    def _give_up(self, feed: ChannelFeed, reason: str) -> None:
        if self.feeds.channels.get(feed.channel) is feed:
            del self.feeds.channels[feed.channel]
            self._leave(feed.channel)
        feed.end(reason)

    def unsubscribe(self, channel: str) -> None:
        feed = self.feeds.channels.get(channel)
        if feed is None or not feed.wanted:
            return
        if feed.waiters is not None:
            self._give_up(feed, "the subscription was given up")
            return
        feed.wanted = False
        self._leave(channel)

    def _leave(self, channel: str) -> None:
        self._subscriber.leave(self._names.live(channel))
        self._subscriber.leave(self._names.pub(channel))

    def left(self, name: str) -> None:
        """No message of this name comes any more."""
        found = self._names.channel_of(name)
        feed = self.feeds.channels.get(found[0]) if found is not None else None
        if feed is not None and not feed.wanted:
            del self.feeds.channels[feed.channel]
            feed.end("the subscription is over")

    def interrupted(self) -> None:
        """The Pub/Sub connection was lost: what was about to begin or to end does not outlive that."""
        for feed in [feed for feed in self.feeds.channels.values() if feed.waiters is not None]:
            self._give_up(feed, "the Pub/Sub connection was lost")
        for feed in [feed for feed in self.feeds.channels.values() if not feed.wanted]:
            del self.feeds.channels[feed.channel]
            feed.end("the subscription is over")
        for feed in list(self.feeds.channels.values()):
            feed.release_echoes()

    # -- positions ----------------------------------------------------------------------------------------------------

    async def positions(self, channels: Sequence[str]) -> list[Position | None]:
        """Return the newest position of each channel; None where it keeps nothing."""
        kept = [channel for channel in channels if not channel.startswith((TASK, STATUS))]
        found: dict[str, Position | None] = {}
        if kept:
            reply = await self._commands.run_in_epoch("positions", [self._names.position(channel) for channel in kept])
            for at, channel in enumerate(kept):
                epoch, offset = reply[2 * at], reply[2 * at + 1]
                found[channel] = Position(int(offset), epoch.decode()) if epoch else None
        return [found.get(channel) for channel in channels]

    async def check(self, patient: bool) -> None:
        """Compare the position of every channel with what its feed has delivered. ``patient``: as in
        `ChannelFeed.compare`."""
        feeds = [feed for feed in self.feeds.channels.values() if feed.wanted and feed.waiters is None]
        for start in range(0, len(feeds), _BATCH):
            batch = feeds[start : start + _BATCH]
            told = [feed.sequencer.position if feed.sequencer is not None else None for feed in batch]
            positions = await self.positions([feed.channel for feed in batch])
            for feed, position, before in zip(batch, positions, told, strict=True):
                # The end of an output counts, but not where a node of an older version ended the task.
                if _is_behind(position, before) and not channel_ended(feed.channel, position, before):
                    # Less than had been told when it was asked: the data went back, and nothing else noticed.
                    await self._commands.move_epochs()
                    return
                if position is not None:
                    feed.compare(position, patient)
                elif feed.sequencer is not None and feed.sequencer.position.offset > 0:
                    # The channel's position is gone altogether: reading makes a new epoch, which the feed will see.
                    feed.compare(Position(0, "-"), patient)

    # -- what comes in ------------------------------------------------------------------------------------------------

    def _drop(self, feed: ChannelFeed, error: Exception) -> None:
        self.dropped += 1
        reason = type(error).__name__
        self._log.debug("Dropped a message on {channel}: {reason}", channel=feed.channel, reason=reason)

    def _internal(self, feed: ChannelFeed, payload: bytes) -> None:
        """A node's message."""
        self.received += 1
        try:
            self._read(feed, payload)
        except (ValueError, IndexError) as error:
            self._drop(feed, error)

    def _read(self, feed: ChannelFeed, payload: bytes) -> None:
        end = payload.index(b"\n")
        kind, *words = payload[:end].decode().split(" ")
        if kind in ("o", "p"):
            offset, epoch, *more = words
            if more:
                self._commands.learn(epoch, int(more[0]))
            if feed.passed(int(offset), epoch):
                return
        body = payload[end + 1 :]
        if kind == "o":
            feed.receive(_appended(feed.channel, words, body))
            return
        if kind == "p":
            feed.receive(publication.decode(body).positioned(int(words[0]), words[1]))
            return
        if kind == "i":
            feed.change(_change.decode(body))
            feed.echoed(words[0], feed.delivered)
            return
        own = words[0].startswith(self._origin + ".")
        if own and not self.feeds.claim(feed.channel, words[0]):
            return
        if kind in ("m", "c"):
            feed.plain(publication.decode(body))
        elif feed.live:
            self.feeds.listener.task_event(_event.decode(body), feed.channel.startswith(INBOXES))

    def _external(self, feed: ChannelFeed, payload: bytes) -> None:
        """Another program's message."""
        self.received += 1
        try:
            if publication.too_deep(payload):
                raise ValueError("nested too deep")
            message = _external.decode(payload)
            if message.type != _MESSAGE and not self._accepts(message.type):
                raise ValueError("not for the server side to send")
            taken = Publication(
                type=message.type,
                channel=feed.channel,
                data=publication.body(message.data),
                timestamp=self._clock.now(),
                message_id=f"{self._prefix}-{next(self._numbers):x}",
            )
        except (ValueError, RecursionError) as error:
            self._drop(feed, error)
        else:
            if feed.live:
                self.feeds.listener.deliver(taken)

    def _refused(self, feed: ChannelFeed, payload: bytes) -> None:
        """Another program's message where only the server itself publishes."""
        self.received += 1
        self._drop(feed, ValueError("not for the server side to send"))

    # -- what this node writes ----------------------------------------------------------------------------------------

    def tag(self, *channels: str) -> str:
        """A mark for something without a position that this node is about to publish on these channels."""
        self._number += 1
        tag = f"{self._origin}.{self._number}"
        for channel in channels:
            self.feeds.sent(channel, tag)
        return tag

    def published(self, publication: Publication, tag: str, happened: bool) -> None:
        """Redis answered a publication without a position; ``happened`` is false where it was a repeat."""
        if self.feeds.claim(publication.channel, tag) and happened:
            feed = self.feeds.channels.get(publication.channel)
            if feed is not None:
                feed.plain(publication)

    def changed(self, event: TaskEvent, tag: str, channels: Sequence[str], happened: bool) -> None:
        """Redis answered a task's change."""
        for channel in channels:
            if self.feeds.claim(channel, tag) and happened and self.feeds.live(channel):
                self.feeds.listener.task_event(event, channel.startswith(INBOXES))

    def expect(self, channel: str) -> tuple[str, Deferred[int] | None]:
        """Return a mark for a change of an inbox that this node is about to ask for, and what fires with it, as
        `ChannelFeed.expect`."""
        self._number += 1
        tag = f"{self._origin}.{self._number}"
        feed = self.feeds.channels.get(channel)
        echo = None if feed is None else feed.expect(tag)
        if not self._subscriber.receiving:
            # Nothing comes in yet, while Redis may answer already.
            self.unexpect(channel, tag)
        return tag, echo

    def unexpect(self, channel: str, tag: str) -> None:
        """The change was not made, or nobody will be told of it."""
        feed = self.feeds.channels.get(channel)
        if feed is not None:
            feed.echoed(tag, -1)

    async def spread(self, channel: str, tag: str, change: bytes) -> None:
        """Publish what became of messages of an inbox, where it waited for replicas."""
        try:
            await self._commands.call("PUBLISH", self._names.live(channel), f"i {tag}\n".encode() + change)
        except errors.Unavailable:
            # It stands; who was not told of it reads the inbox anew when Redis is back.
            self.unexpect(channel, tag)

    def delivered(self, channel: str) -> int:
        """Return of how much of a channel the listener was notified."""
        feed = self.feeds.channels.get(channel)
        return 0 if feed is None else feed.delivered

    async def kept(self, publication: Publication, body: bytes, position: Position) -> None:
        """Redis keeps a publication at its position: wait until the listener was notified, where it is subscribed, or
        until that cannot be done for now.

        Where replicas are waited for, they have it now, and only now it is published to the nodes.
        """
        if self._commands.waits:
            head = f"p {position.offset} {position.epoch}\n".encode()
            try:
                await self._commands.call("PUBLISH", self._names.live(publication.channel), head + body)
            except errors.Unavailable:
                # It is kept and safe; a look at the positions finds it on every node.
                pass
        await self._answered(publication.positioned(position.offset, position.epoch))

    async def appended(self, live: str, line: bytes) -> None:
        """Redis keeps what an output was appended, which nodes are told by this line under this name: wait as `kept`
        does, and publish it where replicas are waited for."""
        if self._commands.waits:
            try:
                await self._commands.call("PUBLISH", live, line)
            except errors.Unavailable:
                # As in `kept`.
                pass
        found = self._names.channel_of(live)
        assert found is not None
        if found[0] in self.feeds.channels:
            head, _, content = line.partition(b"\n")
            await self._answered(_appended(found[0], head.decode().split(" ")[1:], content))

    async def reached(self, channel: str, position: Position) -> None:
        """As `ChannelFeeds.reached`."""
        await self.feeds.reached(channel, position)

    def answered(self, publication: Publication) -> Deferred[None] | None:
        """Redis has answered that it keeps this: return what fires when the listener was notified of all up to it, or
        will be when the positions are compared; None where it was."""
        waiting = self.feeds.answered(publication)
        return None if waiting is None else waiting.addErrback(_stands)

    async def _answered(self, publication: Publication) -> None:
        waiting = self.answered(publication)
        if waiting is not None:
            await waiting

    # -- life ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        for call in (self._starting, self._beginning):
            if call is not None:
                call.cancel()
        self._starting = self._beginning = None
        self.feeds.stop()

    def _detach(
        self,
        work: Coroutine[Any, Any, None],  # Any: what a coroutine waits for is between it and Twisted
    ) -> None:
        self._clock.detach(work, self._log, "subscribing")
