"""What is read here: channels with their positions, the inbox, tasks; resumed after every loss, and never a silent gap.

A room of the core: it decides what to ask and what to hand to whom, and asks by way of the narrow `Line`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from pushserver.client.effects import Effect, Readable
from pushserver.client.errors import ClientClosed, SubscriptionEnded
from pushserver.client.feeds import Channel, Feed
from pushserver.client.messages import Frame, Position, Push, TaskState, Welcome

if TYPE_CHECKING:
    from pushserver.client.core import Options

#: Refusals that pass.
PASSING: Final = frozenset({"RATE_LIMITED", "UNAVAILABLE", "INTERNAL_ERROR"})
#: Milliseconds until something refused in passing is tried again, where the server does not say.
RETRY: Final = 2_000
#: Channels in one subscribe message: at most 255 characters of name and about 80 of position each, so that the message
#: stays under the server's default limit of 64 KiB.
_CHUNK: Final = 100
_REMEMBERED_TASKS: Final = 1_000


class Line(Protocol):
    """What the core's rooms see of the connection."""

    options: Options

    @property
    def connected(self) -> bool: ...

    def check_open(self) -> None:
        """Raise ClientClosed where nothing can be asked any more."""

    def emit(self, effect: Effect) -> None: ...

    def ask(self, type: str, data: Any, now: int, done: Callable[[Frame, int], None]) -> int:
        """Send a request of the core's own; it dies with its link."""

    def jitter(self, most: int) -> int: ...

    def reconnect(self, now: int, reason: str) -> None:
        """Leave this link for a new one, soon."""


class Subscriptions:
    """All that one client reads."""

    def __init__(self, line: Line, positions: dict[str, Position]) -> None:
        self._line = line
        #: where an earlier process stopped, until it is used
        self._known = positions
        self._channels: dict[str, Channel] = {}
        self._inbox = Channel("")
        self._inbox_feed: Feed | None = None
        self._task_feeds: list[Feed] = []
        self.tasks: dict[str, TaskState] = {}

    # What the shells ask for

    def subscribe(self, name: str, now: int, since: Position | None = None) -> Feed:
        """Read a channel; several readers share one subscription. `since` is for the first of them."""
        self._line.check_open()
        channel = self._channels.get(name)
        if channel is None:
            channel = Channel(name, since or self._known.pop(name, None))
            self._channels[name] = channel
        elif since is not None:
            raise ValueError(f"{name} is read here already; since can only be given by its first reader")
        feed = Feed(name, channel)
        feed.confirmed = channel.confirmed
        channel.feeds.append(feed)
        if name.startswith("task:") and (state := self.tasks.get(name[5:])) is not None:
            feed.queue.append(as_push(state))
        if not channel.confirmed and channel.asked is None:
            self._subscribe([channel], now)
        return feed

    def open_inbox(self) -> Feed:
        """Read the user's inbox; one reader at a time, since reading acknowledges."""
        self._line.check_open()
        if self._inbox_feed is not None and self._inbox_feed.ended is None and self._inbox_feed in self._inbox.feeds:
            raise ValueError("the inbox is being read already")
        feed = Feed("inbox", self._inbox)
        feed.confirmed = bool(self._inbox.name)
        if self._inbox_feed is not None:
            feed.queue = self._inbox_feed.queue
        self._inbox_feed = feed
        self._inbox.feeds = [feed]
        return feed

    def open_tasks(self) -> Feed:
        """Read the states of all the user's tasks, beginning with those known here."""
        self._line.check_open()
        feed = Feed("tasks", None)
        feed.confirmed = True
        feed.queue.extend(as_push(state) for state in self.tasks.values())
        self._task_feeds.append(feed)
        return feed

    def take(self, feed: Feed, now: int) -> Push | None:
        """The next message of a feed, or None; `feed.ended` then says whether there is more to wait for."""
        if not feed.queue:
            return None
        push = feed.queue.popleft()
        channel = feed.channel
        if channel is not None and channel.behind and not any(other.queue for other in channel.feeds):
            self._catch_up(channel, now)
        return push

    def close_feed(self, feed: Feed, now: int) -> None:
        """Stop reading; the last reader's going ends the subscription."""
        if feed.ended is None:
            feed.ended = ClientClosed(f"{feed.key} is no longer read")
        if feed in self._task_feeds:
            self._task_feeds.remove(feed)
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
        """Where each channel with history stands, for `positions` of a later process.

        The inbox is not among them: its place is kept by the server, moved by `ack`.
        """
        return {name: c.position for name, c in self._channels.items() if c.position is not None}

    # The connection's life, as the core tells it

    def inbox_positions(self) -> dict[str, Position]:
        """For `auth`, which replays the inbox alone; what else is read is subscribed with its position right after."""
        positions = {name: at for name, at in self._known.items() if name.startswith("user:")}
        if self._inbox.position is not None:
            positions[self._inbox.name] = self._inbox.position
        return positions

    def welcomed(self, welcome: Welcome, now: int) -> None:
        inbox = self._inbox
        name = f"user:{welcome.user_id}"
        if inbox.name not in ("", name):
            self._forget_user()
        inbox.name = name
        inbox.position = self._known.pop(name, inbox.position)
        epoch = welcome.inbox.epoch if welcome.inbox is not None else None
        if inbox.position is not None and epoch not in (None, inbox.position.epoch):
            inbox.position = None
        for feed in inbox.feeds:
            feed.confirmed = True
            self._line.emit(Readable(feed))
        for state in welcome.tasks:
            self._task(state, as_push(state))
        self._deliver_all(inbox, (welcome.results.get(name) or {}).get("messages", ()), now)

    def resume(self, now: int) -> None:
        """Authenticated: subscribe to everything that is read."""
        self._subscribe(list(self._channels.values()), now)

    def lost(self) -> None:
        for channel in self._channels.values():
            channel.asked = channel.retry_at = None
            channel.confirmed = False
            channel.held.clear()

    def end(self, reason: Exception) -> None:
        """The client is closed: every reader hears why."""
        for feed in self._all_feeds():
            feed.ended = reason
            self._line.emit(Readable(feed))
        self._channels.clear()
        self._task_feeds.clear()

    def retries(self) -> list[int]:
        """When subscriptions that were refused in passing are to be tried again."""
        return [channel.retry_at for channel in self._channels.values() if channel.retry_at is not None]

    def retry(self, now: int) -> None:
        self._subscribe([c for c in self._channels.values() if c.retry_at is not None and now >= c.retry_at], now)

    def pushed(self, frame: Frame, now: int) -> None:
        """Anything that is no reply."""
        data = frame.data if isinstance(frame.data, dict) else {}
        match frame.type:
            case "resync":
                name = str(data.get("channel") or frame.channel)
                if (channel := self._channels.get(name)) is not None:
                    channel.position = None
                    self._lose(channel)
                    self._subscribe([channel], now)
                elif name == self._inbox.name:
                    self._inbox.position = None
                    self._lose(self._inbox)
                return
            case "unsubscribed":
                name = str(data.get("channel") or frame.channel)
                if (channel := self._channels.get(name)) is not None:
                    self._end_channel(channel, str(data.get("code")), str(data.get("reason")))
                return
            case "inbox_overflow":
                self._put(self._inbox, frame.push())
                return
        if frame.type.startswith("task_"):
            push = frame.push()
            if (state := push.task) is not None:
                self._task(state, push)
        if frame.channel == self._inbox.name:
            self._deliver(self._inbox, frame, now)
        channel = self._channels.get(frame.channel or "")
        if channel is not None and not channel.name.startswith("task:"):
            self._deliver(channel, frame, now)

    # The inside

    def _forget_user(self) -> None:
        """Another user's token: nothing of the first user's may leak into what follows."""
        self._inbox.position = None
        self.tasks.clear()
        for feed in (*self._inbox.feeds, *self._task_feeds):
            feed.queue.clear()

    def _all_feeds(self) -> Iterable[Feed]:
        for channel in (*self._channels.values(), self._inbox):
            yield from channel.feeds
        yield from self._task_feeds

    def _subscribe(self, channels: list[Channel], now: int) -> None:
        if not self._line.connected:
            return
        for start in range(0, len(channels), _CHUNK):
            asked = channels[start : start + _CHUNK]
            names: list[Any] = []
            for channel in asked:
                channel.retry_at = None
                at = channel.position
                names.append(channel.name if at is None else {"channel": channel.name, "since": at})
            since = {channel.name for channel in asked if channel.position is not None}

            def done(frame: Frame, now: int, asked: list[Channel] = asked, since: set[str] = since) -> None:
                self._subscriptions(asked, since, frame, now)

            number = self._line.ask("subscribe", {"channels": names}, now, done)
            for channel in asked:
                channel.asked = number

    def _subscriptions(self, asked: list[Channel], since: set[str], frame: Frame, now: int) -> None:
        data = frame.data or {}
        whole = data if frame.type == "error" else None
        results, rejected = data.get("results") or {}, data.get("rejected") or {}
        for channel in asked:
            channel.asked = None
            if self._channels.get(channel.name) is not channel:
                continue
            refusal = whole or rejected.get(channel.name)
            if refusal is None:
                self._subscribed(channel, results.get(channel.name) or {}, channel.name in since, now)
            elif refusal.get("code") in PASSING:
                retry_after = refusal.get("retryAfter") or RETRY
                channel.retry_at = now + retry_after + self._line.jitter(RETRY)
                # Live messages would jump over what the replay still owes; it brings them too.
                channel.confirmed = False
                channel.held.clear()
            else:
                self._end_channel(channel, str(refusal.get("code")), str(refusal.get("message")))

    def _subscribed(self, channel: Channel, result: dict[str, Any], had_since: bool, now: int) -> None:
        channel.confirmed = True
        for feed in channel.feeds:
            feed.confirmed = True
            feed.recovered = result.get("recovered")
            self._line.emit(Readable(feed))
        if "task" in result:
            state = msgspec.convert(result["task"], TaskState)
            self._task(state, as_push(state))
        elif "offset" in result:
            newest = Position(result["offset"], result["epoch"])
            if result.get("recovered"):
                self._deliver_all(channel, result.get("messages", ()), now)
                if not channel.behind:
                    channel.position = newest
            else:
                channel.position = newest
                if had_since:
                    self._lose(channel)
        self._release(channel, now)

    def _release(self, channel: Channel, now: int) -> None:
        held, channel.held = channel.held, []
        for frame in held:
            self._deliver(channel, frame, now)

    def _lose(self, channel: Channel) -> None:
        """Say to every reader that messages are gone: never a silent gap."""
        for feed in channel.feeds:
            feed.queue.append(Push("resync", channel.name, {"channel": channel.name}))
            self._line.emit(Readable(feed))

    def _end_channel(self, channel: Channel, code: str, reason: str) -> None:
        self._channels.pop(channel.name, None)
        for feed in channel.feeds:
            feed.ended = SubscriptionEnded(channel.name, code, reason)
            self._line.emit(Readable(feed))

    def _catch_up(self, channel: Channel, now: int) -> None:
        """A reader that was full has read everything: fetch what was left out meanwhile."""
        channel.behind = False
        if channel is self._inbox:
            if self._line.connected:
                self._line.reconnect(now, "fetching the inbox again")
        elif channel.position is None:
            self._lose(channel)
        elif self._line.connected and channel.asked is None:
            self._subscribe([channel], now)

    def _deliver_all(self, channel: Channel, messages: Iterable[Any], now: int) -> None:
        for message in messages:
            self._deliver(channel, msgspec.convert(message, Frame), now, replay=True)

    def _deliver(self, channel: Channel, frame: Frame, now: int, *, replay: bool = False) -> None:
        if channel is not self._inbox and channel.position is not None and not replay:
            if channel.asked is not None:
                channel.held.append(frame)
                return
            if not channel.confirmed:
                return
        if channel.is_repeat(frame) or channel.behind:
            return
        if any(len(feed.queue) >= self._line.options.max_pending for feed in channel.feeds):
            channel.behind = True
            return
        channel.remember(frame)
        self._put(channel, frame.push())

    def _put(self, channel: Channel, push: Push) -> None:
        if channel is self._inbox and not channel.feeds:
            # Kept for a reader that comes later, within the same bound as for one that is slow.
            self._keep_inbox()
        for feed in channel.feeds:
            feed.queue.append(push)
            self._line.emit(Readable(feed))

    def _keep_inbox(self) -> None:
        feed = Feed("inbox", self._inbox)
        feed.ended = ClientClosed("nobody reads the inbox yet")
        if self._inbox_feed is not None:
            feed.queue = self._inbox_feed.queue
        self._inbox_feed = feed
        self._inbox.feeds = [feed]

    def _task(self, state: TaskState, push: Push) -> None:
        """A state of a task, from wherever it came: only a newer one counts."""
        known = self.tasks.get(state.task_id)
        if known is not None and state.version <= known.version:
            return
        self.tasks.pop(state.task_id, None)
        self.tasks[state.task_id] = state
        if len(self.tasks) > _REMEMBERED_TASKS:
            del self.tasks[next(iter(self.tasks))]
        channel = self._channels.get(f"task:{state.task_id}")
        for feed in (*self._task_feeds, *(channel.feeds if channel is not None else ())):
            if len(feed.queue) >= self._line.options.max_pending:
                feed.conflate()
            feed.queue.append(push)
            self._line.emit(Readable(feed))


def as_push(state: TaskState) -> Push:
    """A state that came without an event of its own, in the shape of one."""
    type = {"pending": "task_created", "running": "task_progress"}.get(state.status, f"task_{state.status}")
    if state.status == "cancelled":
        type = "task_status_changed"
    return Push(type, f"task:{state.task_id}", msgspec.to_builtins(state), state.updated_at)


def _ignore(frame: Frame, now: int) -> None:
    """Leaving a channel that cannot be left changes nothing here."""
