"""How much of each channel this node has delivered to its listener, and how it notices what it missed.

    Pub/Sub, own answers --> ChannelFeed.receive --DELIVER--> listener
                                                 --GAP--> (Pub/Sub brings it, or after a moment) catch up: read, deliver
    position check --------> ChannelFeed.compare --EPOCH, or what lies between is gone--> resync
                             (where the data is the same, what is kept after the position follows)

A message with a position is delivered once, in order, whatever way it came. One without is delivered as it comes; what
this node published itself is delivered when Redis has answered or when Pub/Sub brings it back, whichever is first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.inbox import INBOXES
from pushserver.core.output import PREFIX, OutputPublication, cut
from pushserver.core.positions import Position, Sequencer, Verdict, base_of

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from pushserver.core.inbox import InboxChange
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import EngineClock, Listener

    from .between import Between

#: How long Pub/Sub has to bring what an answer or a look at the positions spoke of, s, before it is read instead.
_UNDER_WAY: Final = 0.25
#: So many messages are read at once to catch up.
_PAGE: Final = 200


#: Digits of an epoch that is derived from its channel's name (``epoch.lua``). A node of version 1 chooses 12 at random.
_DERIVED: Final = 16


def _differ_by_period(epoch: str, other: str) -> bool:
    """Return whether the end of a period may be all that lies between two epochs of a channel without messages.

    In another generation there may have been messages that are lost. An epoch of version 1 is news to whoever read the
    channel before, and its clients take it for a loss where nobody tells them.
    """
    (generation, _, name), (other_generation, _, other_name) = epoch.partition("."), other.partition(".")
    return generation == other_generation and len(name) == len(other_name) == _DERIVED


class MissedPages(Protocol):
    """Reads what a feed missed (`pages.Pages`)."""

    async def between(self, channel: str, after: int, limit: int) -> Between:
        """Return at most ``limit`` messages after an offset."""

    async def secure(self) -> None:
        """Wait until all that was read is as durable as it will be."""


class ChannelFeed:
    """One channel. ``wanted`` ends before the feed does: what comes meanwhile is not delivered, but followed."""

    __slots__ = (
        "_call",
        "_catching",
        "_echoes",
        "_held",
        "_reads",
        "_target",
        "_waiting",
        "channel",
        "delivered",
        "feeds",
        "sequencer",
        "waiters",
        "wanted",
    )

    def __init__(self, feeds: ChannelFeeds, channel: str) -> None:
        self.feeds = feeds
        self.channel = channel
        self.wanted = True
        #: who waits for the subscription to be confirmed and the position to be known; None once they are
        self.waiters: list[Deferred[None]] | None = []
        self.sequencer: Sequencer | None = None
        #: what came before the position was known
        self._held: list[Publication] | None = []
        self._target = 0
        self._catching = False
        self._call: IDelayedCall | None = None
        #: how many times what was missed has begun to be read
        self._reads = 0
        #: the positions that are waited for, and how many readings had begun by then
        self._waiting: list[tuple[Position, int, Deferred[None]]] = []
        #: how much the listener was notified of
        self.delivered = 0
        #: own changes of an inbox that the listener was not notified of yet
        self._echoes: dict[str, Deferred[int]] = {}

    # -- messages -----------------------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Return whether what has no position is delivered. Before the feed's own is known it is not: it may come late,
        from an earlier subscription, and what followed it is not told any more, such as the end of a task."""
        return self.wanted and self._held is None

    def plain(self, publication: Publication) -> None:
        """A message without a position."""
        if self.live:
            self.delivered += 1
            self.feeds.listener.deliver(publication)

    def change(self, change: InboxChange) -> None:
        """What became of messages of the inbox behind this channel."""
        if self.wanted:
            self.delivered += 1
            self.feeds.listener.inbox_changed(self.channel.removeprefix(INBOXES), change)

    def expect(self, tag: str) -> Deferred[int] | None:
        """Return what fires when the listener was notified of an own change of this mark, with `delivered` then, or
        with -1 where that cannot be known any more. None where nobody is notified."""
        if not self.live:
            return None
        echo: Deferred[int] = Deferred()
        self._echoes[tag] = echo
        return echo

    def echoed(self, tag: str, delivered: int) -> None:
        """The listener was notified of an own change, or will not be."""
        echo = self._echoes.pop(tag, None)
        if echo is not None:
            echo.callback(delivered)

    def release_echoes(self) -> None:
        """No own change that was expected comes any more."""
        for tag in list(self._echoes):
            self.echoed(tag, -1)

    def passed(self, offset: int, epoch: str) -> bool:
        """Return whether `receive` would take a message with this position for a repeat. A node's own messages are most
        of those that are: it has had Redis' answer by then."""
        return self._held is None and self.sequencer is not None and self.sequencer.passed(offset, epoch)

    def receive(self, publication: Publication, own: bool = False) -> None:
        """A message with a position, from Pub/Sub, or ``own``: this node wrote it, and Redis has answered."""
        if self._held is not None:
            if not own:
                self._held.append(publication)
            return
        offset, epoch = publication.offset, publication.epoch
        assert offset is not None
        assert epoch is not None
        if self.sequencer is None:
            # There was no history when the channel was subscribed to, so this should be its first message.
            self.sequencer = Sequencer(Position(0, epoch))
        before = publication.before if isinstance(publication, OutputPublication) else offset - 1
        if before == 0:
            self._follow_epoch(epoch)
        verdict = self.sequencer.receive(offset, epoch, before)
        if verdict is Verdict.DELIVER:
            self._deliver(publication)
            self._moved()
        elif verdict is Verdict.REPEAT:
            return
        elif not self.wanted:
            self._go_on_from(Position(offset, epoch))
        elif verdict is Verdict.GAP:
            # Pub/Sub brings what lies between, unless it is ordered and has passed it.
            self._want(offset, _UNDER_WAY if own or not self.feeds.ordered else 0)
        else:
            self._want(0, 0)

    def _follow_epoch(self, epoch: str) -> None:
        """Before its first message a channel may change its epoch with the period: nothing of it was missed. Any other
        change is told like a loss, and what comes in the new epoch follows it."""
        assert self.sequencer is not None
        position = self.sequencer.position
        if position.offset == 0 and position.epoch != epoch:
            if self.wanted and not _differ_by_period(position.epoch, epoch):
                self._lose(Position(0, epoch))
            else:
                self._go_on_from(Position(0, epoch))

    def _deliver(self, publication: Publication) -> None:
        if self.wanted:
            self.delivered += 1
            self.feeds.delivered += 1
            self.feeds.listener.deliver(publication)

    # -- positions ----------------------------------------------------------------------------------------------------

    def begin(self, position: Position | None) -> None:
        """The position at the moment of subscription; what came meanwhile follows."""
        if position is not None:
            self.sequencer = Sequencer(position)
        held, self._held = self._held or [], None
        waiters, self.waiters = self.waiters or [], None
        for publication in held:
            self.receive(publication)
        for each in waiters:
            each.callback(None)

    def end(self, reason: str) -> None:
        """The subscription did not come about, or is over."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._held = None
        self.wanted = False
        waiters, self.waiters = self.waiters or [], None
        for each in waiters:
            each.errback(errors.Unavailable(reason))
        self._release(None)
        self.release_echoes()

    def compare(self, newest: Position, patient: bool) -> None:
        """The engine's word on the newest position. ``patient``: what is missing may still be under way."""
        if self._held is not None or not self.wanted:
            return
        if self.sequencer is None:
            if newest.offset == 0:
                return
            self.sequencer = Sequencer(Position(0, newest.epoch))
        self._follow_epoch(newest.epoch)
        verdict = self.sequencer.compare(newest)
        if verdict is not Verdict.REPEAT:
            behind = verdict is Verdict.GAP
            self._want(newest.offset if behind else 0, _UNDER_WAY if patient and behind else 0)

    def reached(self, position: Position) -> Deferred[None] | None:
        """Return what fires when the listener was notified of all up to there; None where it was. It fails with
        `errors.Unavailable` where that could not be read: the position still lies ahead of what was delivered, and
        perhaps of what is secured."""
        if self._held is not None or not self.wanted:
            return None
        if self.sequencer is None:
            # Also where nothing was written yet: the reader now holds a position of this epoch.
            self.sequencer = Sequencer(Position(0, position.epoch))
        self._follow_epoch(position.epoch)
        verdict = self.sequencer.compare(position)
        if verdict is Verdict.REPEAT:
            return None
        waiting: Deferred[None] = Deferred()
        self._waiting.append((position, self._reads, waiting))
        self._want(position.offset if verdict is Verdict.GAP else 0, _UNDER_WAY if verdict is Verdict.GAP else 0)
        return waiting

    def _moved(self) -> None:
        if self._waiting:
            assert self.sequencer is not None
            self._release(self.sequencer.position)

    def _disappoint(self) -> None:
        """Fail those who wait."""
        waiting, self._waiting = self._waiting, []
        for *_, each in waiting:
            each.errback(errors.Unavailable("what was published before cannot be read now"))

    def _release(self, reached: Position | None) -> None:
        """Release those who wait for a position that is reached with this one, or all."""
        waiting, self._waiting = self._waiting, []
        for wanted, begun, each in waiting:
            if reached is not None and (wanted.epoch != reached.epoch or wanted.offset > reached.offset):
                self._waiting.append((wanted, begun, each))
            else:
                each.callback(None)

    def _release_read(self) -> None:
        """What was missed was read: release those for whom it was. A position that was told since that reading began
        may be newer than what it found, so it is read once more for that one."""
        assert self.sequencer is not None
        self._release(self.sequencer.position)
        waiting, self._waiting = self._waiting, []
        for wanted, begun, each in waiting:
            if begun < self._reads:
                # Of an epoch that is over.
                each.callback(None)
            else:
                self._waiting.append((wanted, begun, each))
        if self._waiting:
            self._want(0, 0)

    # -- catching up --------------------------------------------------------------------------------------------------

    def _want(self, offset: int, patience: float) -> None:
        """There is something up to ``offset`` (0: in another epoch) that has not come."""
        self._target = max(self._target, offset)
        if self._catching:
            return
        if self._call is not None:
            if patience:
                return
            self._call.cancel()
        self._call = self.feeds.clock.later(patience, self._read_missed)

    def _read_missed(self) -> None:
        self._call = None
        sequencer = self.sequencer
        assert sequencer is not None
        if self._target and sequencer.position.offset >= self._target:
            self._target = 0
            self._release_read()
            return
        self._catching = True
        self._reads += 1

        def done(failure: Failure | None) -> None:
            self._catching = False
            self._target = 0
            if failure is None:
                self._release_read()
                return
            # The next comparison of positions finds again what could not be read.
            if not failure.check(errors.Unavailable):
                self.feeds.log.failure("Catching up failed", failure)
            self._disappoint()

        Deferred.fromCoroutine(self._read()).addBoth(done)

    async def _read(self) -> None:
        sequencer = self.sequencer
        assert sequencer is not None
        self.feeds.gaps += 1
        while self.wanted:
            before, target = sequencer.position, self._target
            between = await self.feeds.pages.between(self.channel, before.offset, _PAGE)
            newest = between.newest
            if not self.wanted:
                return
            if sequencer.position.epoch != before.epoch:
                # It followed the channel into another epoch meanwhile: what was read says nothing of that one.
                continue
            if newest.epoch != before.epoch or not between.complete or newest.offset < target:
                goes_on = between.complete and self._goes_on(before, newest)
                self._lose(Position(before.offset, newest.epoch) if goes_on else newest)
                if goes_on:
                    continue
                return
            if between.messages:
                await self.feeds.pages.secure()
                if not self.wanted or sequencer.position.epoch != newest.epoch:
                    continue
            for publication in between.messages:
                reached = sequencer.position.offset
                if publication.offset is not None and sequencer.advance(publication.offset):
                    # Of an output, what came meanwhile may be a part of what was read.
                    new = cut(publication, reached) if isinstance(publication, OutputPublication) else publication
                    self._deliver(new)
            if between.last:
                # Offsets between may be gone without loss (replaced, or past their own time).
                sequencer.advance(newest.offset)
            self._moved()
            if sequencer.position.offset >= max(newest.offset, self._target):
                return

    def _goes_on(self, before: Position, newest: Position) -> bool:
        """Return whether what is kept after a position of an earlier epoch is told behind the loss: of the same data,
        and no inbox, which each connection is sent from its own position."""
        same = base_of(before.epoch) == base_of(newest.epoch) and before.offset <= newest.offset
        return same and before.epoch != newest.epoch and not self.channel.startswith((INBOXES, PREFIX))

    def _lose(self, position: Position) -> None:
        """Messages may be missing: say so, and go on from there."""
        assert self.sequencer is not None
        reached = self.sequencer.position
        self._go_on_from(position)
        self.feeds.resyncs += 1
        self.feeds.listener.resync(self.channel, reached)

    def _go_on_from(self, position: Position) -> None:
        """What was wanted of the epoch before is wanted no more."""
        assert self.sequencer is not None
        self.sequencer.reset(position)
        self._target = 0


class ChannelFeeds:
    """Every channel of this node.

    Args:
        pages: reads what was missed.
        ordered: whether Pub/Sub brings a channel's messages in the order of their offsets.
    """

    log = Logger()

    def __init__(self, clock: EngineClock, pages: MissedPages, ordered: bool) -> None:
        self.clock = clock
        self.pages = pages
        self.ordered = ordered
        self.listener: Listener
        self.channels: dict[str, ChannelFeed] = {}
        self.delivered = 0
        self.gaps = 0
        self.resyncs = 0
        #: what this node published without a position and has neither an answer nor an echo of yet, and since when
        self._own: dict[tuple[str, str], float] = {}

    def start(self, listener: Listener) -> None:
        """Notify this listener from now on."""
        self.listener = listener

    def live(self, channel: str) -> bool:
        feed = self.channels.get(channel)
        return feed is not None and feed.live

    def answered(self, publication: Publication) -> Deferred[None] | None:
        """A message with a position that this node wrote. Return what to wait for until the listener was notified, as
        `ChannelFeed.reached`."""
        feed = self.channels.get(publication.channel)
        if feed is None:
            return None
        feed.receive(publication, own=True)
        assert publication.offset is not None
        assert publication.epoch is not None
        return feed.reached(Position(publication.offset, publication.epoch))

    async def reached(self, channel: str, position: Position) -> None:
        """Wait until the listener was notified of all that the position covers, where the channel is subscribed to.
        Fails as `ChannelFeed.reached` does."""
        feed = self.channels.get(channel)
        waiting = feed.reached(position) if feed is not None else None
        if waiting is not None:
            await waiting

    # -- own messages -------------------------------------------------------------------------------------------------

    def sent(self, channel: str, tag: str) -> None:
        """This node is about to publish something without a position."""
        self._own[channel, tag] = self.clock.seconds()

    def claim(self, channel: str, tag: str) -> bool:
        """Return whether it falls to the caller to deliver an own message: true once."""
        return self._own.pop((channel, tag), None) is not None

    def forget(self, age: float) -> None:
        """Forget own messages that got neither an answer nor an echo for so long, s."""
        now = self.clock.seconds()
        while self._own:
            key = next(iter(self._own))
            if now - self._own[key] < age:
                break
            del self._own[key]

    def stop(self) -> None:
        for feed in self.channels.values():
            feed.end("the engine is stopped")
        self.channels.clear()
