"""What is read here: channels with their positions, the inbox, tasks; resumed after every loss, and never a silent gap.

A room of the core: it decides what to ask and what to hand to whom, and asks by way of the narrow `CoreLine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from pushserver.client.channel_tokens import EXPIRED_TOKEN, KeptToken
from pushserver.client.effects import Readable
from pushserver.client.errors import ClientClosed, SubscriptionEnded
from pushserver.client.feeds import ReadChannel, ReaderFeed, newer
from pushserver.client.inbox import KeptInbox
from pushserver.client.line import PASSING, RETRY, CoreLine
from pushserver.client.messages import Frame, Position, Push, TaskState, Welcome
from pushserver.client.outputs import ReadOutputChannel, read_channel
from pushserver.client.tasks import KnownTasks, as_push
from pushserver.client.token_renewal import TokenRenewal

#: Channels in one subscribe message: at most 255 characters of name and about 80 of position each, so that the message
#: stays under the server's default limit of 64 KiB.
_CHUNK: Final = 100
#: Characters of tokens in one subscribe message, beside all that.
_TOKENS: Final = 20_000


class ClientSubscriptions:
    """All that one client reads."""

    def __init__(self, line: CoreLine, positions: dict[str, Position]) -> None:
        self._line = line
        #: where an earlier process stopped, until it is used
        self._known = positions
        self._channels: dict[str, ReadChannel] = {}
        self.inbox = KeptInbox(line)
        self.tasks = KnownTasks(line)
        self.tokens = TokenRenewal(line, self._channels, subscribe=self._subscribe, end=self._leave)
        #: what `positions` says once the client is closed
        self._last_positions: dict[str, Position] | None = None
        #: readers of the user before, until it is known who came
        self._left: list[ReaderFeed] = []

    # What the shells ask for

    def subscribe(
        self, name: str, now: int, since: Position | None = None, token: KeptToken | None = None
    ) -> ReaderFeed:
        """Read a channel; several readers share one subscription.

        `since` is for the first of them. A later one's `token` takes the place of the one before.
        """
        self._line.check_open()
        if token is not None and token.function is not None and self._line.connected and not self.tokens.any():
            self._line.ask_time()
        channel = self._channels.get(name)
        if channel is None:
            since = since or self._known.pop(name, None)
            channel = self._channels[name] = read_channel(name, since, token)
        elif since is not None and not isinstance(channel, ReadOutputChannel):
            raise ValueError(f"{name} is read here already; since can only be given by its first reader")
        elif token is not None:
            channel.token = token
        feed = channel.open(since) if isinstance(channel, ReadOutputChannel) else ReaderFeed(name, channel)
        feed.confirmed = channel.confirmed
        channel.feeds.append(feed)
        if name.startswith("task:") and (state := self.tasks.states.get(name[5:])) is not None:
            if state.final and not channel.confirmed:
                feed.awaits_state = True
            else:
                feed.queue.append(as_push(state))
        if token is not None or (channel.asked is None and (feed.catching_up or not channel.confirmed)):
            self._subscribe([channel], now)
        return feed

    def open_inbox(self) -> ReaderFeed:
        """Read the user's inbox; one reader at a time, since reading acknowledges."""
        self._line.check_open()
        return self.inbox.open()

    def is_inbox(self, feed: ReaderFeed) -> bool:
        """Return whether a feed is or was one of the present user's inbox."""
        return feed.channel is self.inbox.channel

    def open_tasks(self) -> ReaderFeed:
        """Read the states of all the user's tasks, beginning with those known here."""
        self._line.check_open()
        return self.tasks.open()

    def take(self, feed: ReaderFeed, now: int) -> Push | None:
        """Return the next message of a feed, or None; `feed.ended` then says whether there is more to wait for."""
        feed.read = True
        if not feed.queue:
            return None
        push = feed.queue.popleft()
        feed.taken = push.position or feed.taken
        if feed.behind and not feed.queue:
            self._fetch_missed(feed, now)
        return push

    def close_feed(self, feed: ReaderFeed, now: int) -> None:
        """Stop reading; the last reader's going ends the subscription."""
        if feed.ended is None:
            feed.ended = ClientClosed(f"{feed.key} is no longer read")
        self.inbox.close(feed)
        if feed in self._left:
            self._left.remove(feed)
        if feed in self.tasks.feeds:
            self.tasks.feeds.remove(feed)
        channel = feed.channel
        if channel is None or feed not in channel.feeds:
            return
        channel.feeds.remove(feed)
        if channel.feeds or self._channels.get(channel.name) is not channel:
            return
        del self._channels[channel.name]
        if self._line.connected:
            self._line.ask("unsubscribe", {"channels": [channel.name]}, now, _ignore)

    def positions(self) -> dict[str, Position]:
        """Return where each channel with history stands, for `positions` of a later process.

        That is what its slowest reader has taken, of those who read at all. The inbox is not among them: its place is
        kept by the server, moved by `ack`.
        """
        if self._last_positions is not None:
            return self._last_positions
        found: dict[str, Position] = {}
        for name, channel in self._channels.items():
            reading = [feed for feed in channel.feeds if feed.read] or channel.feeds
            places = [place for feed in reading if (place := feed.place()) is not None]
            if places:
                found[name] = min(places, key=lambda place: place.offset)
        return found

    # The connection's life, as the core tells it

    def inbox_positions(self) -> dict[str, Position]:
        """For `auth`, which replays the inbox alone; what else is read is subscribed with its position right after."""
        positions = {name: at for name, at in self._known.items() if name.startswith("user:")}
        if self.inbox.position is not None:
            positions[self.inbox.name] = self.inbox.position
        return positions

    def welcomed(self, welcome: Welcome, now: int) -> None:
        if self.inbox.is_another(welcome):
            # What the server knows of tasks may be older than what is remembered here.
            self.tasks.forget()
        for state in welcome.tasks:
            self._learn(state, as_push(state))
        self.inbox.welcomed(welcome, self._known.pop(f"user:{welcome.user_id}", None), now)

    def resume(self, now: int) -> None:
        """Authenticated: subscribe to everything that is read."""
        self._subscribe(list(self._channels.values()), now)

    def lost(self) -> None:
        for channel in self._channels.values():
            channel.asked = channel.retry_at = None
            channel.confirmed = False
            channel.held.clear()
            for feed in channel.feeds:
                feed.asked = feed.passed = None

    def leave_user(self) -> None:
        """Another user comes: nothing that waits for the readers of the one before is handed to anybody."""
        for feed in (*self._channel_feeds(), *self.inbox.leave_user(), *self.tasks.feeds):
            feed.queue.clear()
            feed.channel = None
            self._left.append(feed)
        self._channels.clear()
        self.tasks.feeds.clear()
        self.tasks.forget()
        self._known.clear()

    def end_left(self, reason: Exception) -> None:
        """It is known who came: the readers of the user before hear of it."""
        left, self._left = self._left, []
        for feed in left:
            self._end_feed(feed, reason)

    def end(self, reason: Exception) -> None:
        """The client is closed: every reader hears why."""
        self._last_positions = self.positions()
        for feed in (*self._channel_feeds(), self.inbox.feed, *self.tasks.feeds):
            self._end_feed(feed, reason)
        self.end_left(reason)
        self._channels.clear()
        self.tasks.feeds.clear()

    def retries(self) -> list[int]:
        """Return when what was refused in passing, feeds and counts, is asked again, and when tokens are due."""
        refused = [channel.retry_at for channel in self._channels.values() if channel.retry_at is not None]
        return refused + self.inbox.retries() + self.tokens.due()

    def retry(self, now: int) -> None:
        self._subscribe([c for c in self._channels.values() if c.retry_at is not None and now >= c.retry_at], now)
        self.inbox.retry(now)
        self.tokens.act(now)

    def pushed(self, frame: Frame, now: int) -> None:
        """Anything that is no reply."""
        data = frame.data if isinstance(frame.data, dict) else {}
        match frame.type:
            case "resync":
                self._resync(str(data.get("channel") or frame.channel), now)
                return
            case "unsubscribed":
                name = str(data.get("channel") or frame.channel)
                if (channel := self._channels.get(name)) is not None:
                    self._unsubscribed(channel, str(data.get("code")), str(data.get("reason")), now)
                return
            case "inbox_overflow":
                self.inbox.notify(frame)
                return
            case "inbox_changed":
                self.inbox.changed(frame)
                return
        if frame.type.startswith("task_"):
            push = frame.push()
            if (state := push.task) is not None:
                self._learn(state, push)
        if frame.channel and frame.channel == self.inbox.name:
            self.inbox.receive(frame, now)
        channel = self._channels.get(frame.channel or "")
        if channel is not None and not channel.name.startswith("task:"):
            self._receive(channel, frame)

    # Subscribing

    def _subscribe(self, channels: list[ReadChannel], now: int) -> None:
        if not self._line.connected:
            return
        for chunk in _chunks(self.tokens.ready(channels, now)):
            asked = {channel: channel.missing_since() for channel in chunk}
            names = [_item(channel, since) for channel, since in asked.items()]

            def done(frame: Frame, now: int, asked: dict[ReadChannel, Position | None] = asked) -> None:
                self._answered(asked, frame, now)

            number = self._line.ask("subscribe", {"channels": names}, now, done)
            for channel in asked:
                channel.retry_at = None
                channel.asked = number
                for feed in channel.feeds:
                    feed.asked = number if feed.catching_up or not channel.confirmed else None

    def _answered(self, asked: dict[ReadChannel, Position | None], frame: Frame, now: int) -> None:
        data = frame.data or {}
        whole = data if frame.type == "error" else None
        results, rejected = data.get("results") or {}, data.get("rejected") or {}
        for channel, since in asked.items():
            # It was asked for again meanwhile, with another token or from another place.
            overtaken = channel.asked not in (None, frame.id)
            if not overtaken:
                channel.asked = None
            if self._channels.get(channel.name) is not channel:
                continue
            refusal = whole or rejected.get(channel.name)
            token = channel.token
            if refusal is None:
                if token is not None and not overtaken:
                    token.accepted = True
                self._subscribed(channel, results.get(channel.name) or {}, since)
                if any(feed.catching_up for feed in channel.feeds):
                    self._subscribe([channel], now)
            elif overtaken:
                continue
            elif refusal.get("code") in PASSING:
                retry_after = refusal.get("retryAfter") or RETRY
                channel.retry_at = now + retry_after + self._line.jitter(RETRY)
                # Live messages would jump over what the replay still owes; it brings them too.
                channel.held.clear()
                for feed in channel.feeds:
                    feed.asked = feed.passed = None
            elif refusal.get("code") == EXPIRED_TOKEN and token is not None and token.spend(now):
                self._subscribe([channel], now)
            else:
                self._leave(channel, str(refusal.get("code")), str(refusal.get("message")), now)

    def _subscribed(self, channel: ReadChannel, result: dict[str, Any], since: Position | None) -> None:
        # A reader that came after the question was asked is none of those who wait for the answer.
        waiting = [feed for feed in channel.feeds if feed.asked is not None or not channel.confirmed]
        channel.confirmed = True
        for feed in channel.feeds:
            feed.confirmed = True
        for feed in waiting:
            feed.asked = None
            feed.recovered = result.get("recovered")
        if "task" in result:
            state = msgspec.convert(result["task"], TaskState)
            self._learn(state, as_push(state))
            self._give_known(channel.feeds, state.task_id)
        elif isinstance(channel, ReadOutputChannel):
            channel.joined(result["output"], since)
            waiting = []
        elif "offset" in result:
            self._recover(channel, result, waiting, since)
        for feed in waiting:
            if feed.catching_up:
                # The channel keeps no history any more.
                feed.lose(None)
            if feed.is_short() and not feed.behind:
                # The rest comes too, but some of it before this answer and some behind it: ask again from here.
                feed.catching_up = True
        early, channel.held = channel.held, []
        for frame in early:
            self._receive(channel, frame)
        for feed in channel.feeds:
            self._line.emit(Readable(feed))

    def _give_known(self, feeds: Iterable[ReaderFeed], task_id: str) -> None:
        """Give the state that is known to those who waited for a newer one, of which there is none."""
        known = self.tasks.states.get(task_id)
        for feed in feeds:
            if feed.awaits_state and known is not None:
                feed.queue.append(as_push(known))
            feed.awaits_state = False

    def _recover(
        self, channel: ReadChannel, result: dict[str, Any], waiting: list[ReaderFeed], since: Position | None
    ) -> None:
        """A channel with history answered: hand out what was missed, and say where it may not be all."""
        newest = Position(result["offset"], result["epoch"])
        lost = since is not None and not result.get("recovered")
        missed = [msgspec.convert(message, Frame) for message in result.get("messages", ())]
        for feed in waiting:
            if lost:
                feed.lose(None if missed else newest)
            if feed.catching_up or not feed.behind:
                feed.behind = feed.catching_up = False
                for frame in missed:
                    self._offer(feed, frame, seen=False)
                if not feed.behind:
                    # Offsets may skip: what is behind the last message was looked at too.
                    feed.position = newer(feed.position, newest)
        for feed in channel.feeds:
            at = feed.position
            if feed not in waiting and not feed.catching_up and at is not None and at.epoch == newest.epoch:
                # What another reader asked for may hold what was published meanwhile, and then it comes here alone.
                for frame in missed:
                    self._offer(feed, frame, seen=False)
            feed.position = feed.position or newest
            feed.taken = feed.taken or feed.position
        for frame in missed:
            channel.remember(frame)
        if waiting:
            # A token that was renewed brought nothing: what came before its answer may still be on its way.
            channel.position = newer(channel.position, newest)

    def _unsubscribed(self, channel: ReadChannel, code: str, reason: str, now: int) -> None:
        """The server ended a subscription; where only its token ran out, and another can be had, it goes on."""
        token = channel.token
        if code != EXPIRED_TOKEN or token is None or token.function is None:
            self._end_channel(channel, code, reason)
            return
        channel.confirmed = False
        if channel.asked is None:
            token.spend(now)
            self._subscribe([channel], now)

    def _leave(self, channel: ReadChannel, code: str, reason: str, now: int) -> None:
        """End what cannot go on, also at the server, where an earlier token may still count."""
        if channel.confirmed and self._line.connected:
            self._line.ask("unsubscribe", {"channels": [channel.name]}, now, _ignore)
        self._end_channel(channel, code, reason)

    def _end_channel(self, channel: ReadChannel, code: str, reason: str) -> None:
        self._channels.pop(channel.name, None)
        for feed in channel.feeds:
            self._end_feed(feed, SubscriptionEnded(channel.name, code, reason))

    # Messages

    def _receive(self, channel: ReadChannel, frame: Frame) -> None:
        if not channel.confirmed:
            if channel.asked is not None:
                channel.held.append(frame)
            return
        at = channel.position
        comparable = at is not None and frame.offset is not None and frame.epoch == at.epoch
        # In one epoch a later offset is a new message, whatever its id.
        seen = not comparable and channel.has_seen(frame)
        for feed in channel.feeds:
            if feed.receive(frame, seen, self._line.options.max_pending):
                self._line.emit(Readable(feed))
        if not seen:
            channel.remember(frame)

    def _offer(self, feed: ReaderFeed, frame: Frame, seen: bool) -> None:
        if feed.offer(frame, seen, self._line.options.max_pending):
            self._line.emit(Readable(feed))

    def _fetch_missed(self, feed: ReaderFeed, now: int) -> None:
        """A reader that was full has read everything: fetch what was left out meanwhile."""
        channel = feed.channel
        if channel is None:
            return
        if feed is self.inbox.feed:
            self.inbox.caught_up(now)
        elif not channel.can_catch_up(feed):
            feed.lose(channel.position)
            self._line.emit(Readable(feed))
        else:
            feed.catching_up = True
            if channel.asked is None and channel.confirmed:
                self._subscribe([channel], now)

    def _resync(self, name: str, now: int) -> None:
        """The server lost messages of a channel for good."""
        if name == self.inbox.name:
            # What it knows of tasks may be older than what is remembered here.
            self.tasks.forget()
            self.inbox.lose()
            self._subscribe([c for c in self._channels.values() if c.name.startswith("task:") and c.asked is None], now)
        elif (channel := self._channels.get(name)) is not None:
            channel.position = None
            for feed in channel.feeds:
                feed.lose(None)
                self._line.emit(Readable(feed))
            if channel.retry_at is None:
                self._subscribe([channel], now)

    # The inside

    def _channel_feeds(self) -> Iterable[ReaderFeed]:
        for channel in self._channels.values():
            yield from channel.feeds

    def _end_feed(self, feed: ReaderFeed, reason: Exception) -> None:
        if feed.awaits_state and isinstance(reason, SubscriptionEnded):
            # The server has forgotten the task since.
            self._give_known([feed], feed.key.removeprefix("task:"))
        feed.ended = reason
        self._line.emit(Readable(feed))

    def _learn(self, state: TaskState, push: Push) -> None:
        channel = self._channels.get(f"task:{state.task_id}")
        self.tasks.learn(state, push, channel.feeds if channel is not None else ())


def _chunks(channels: list[ReadChannel]) -> Iterator[list[ReadChannel]]:
    """Cut into what one message holds."""
    chunk: list[ReadChannel] = []
    left = _TOKENS
    for channel in channels:
        size = len(channel.token.text or "") if channel.token is not None else 0
        if chunk and (len(chunk) == _CHUNK or size > left):
            yield chunk
            chunk, left = [], _TOKENS
        chunk.append(channel)
        left -= size
    if chunk:
        yield chunk


def _item(channel: ReadChannel, since: Position | None) -> str | dict[str, Any]:
    """Return a channel as `subscribe` names it."""
    text = channel.token.text if channel.token is not None else None
    if since is None and text is None:
        return channel.name
    item: dict[str, Any] = {"channel": channel.name}
    if since is not None:
        item["since"] = since
    if text is not None:
        item["token"] = text
    return item


def _ignore(frame: Frame, now: int) -> None:
    """Leaving a channel that cannot be left changes nothing here."""
