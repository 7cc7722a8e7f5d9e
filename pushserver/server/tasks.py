"""Tasks: changed by their publishers, shown to their owners and subscribers.

    publisher -> Tasks.report … -> rules (`core.task`) -> engine: the state, if nobody was quicker -> event
    event -> Tasks.event -> Feed (throttle) -> the owner's connections, or the subscribers of ``task:<id>``

A change is decided on the kept state and stored by comparing versions, so that the rules stand in one place and two
publishers cannot undo each other. Every accepted state is stored; what is shown of it is decided here, on the node
where it is delivered, so that a node that dies takes no value with it.

A connection gets each event once. The owner's connections get what is published on the owner's channel, and are never
among the followers of ``task:<id>``, whatever they subscribe to. A final event comes to the owner as an inbox message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from secrets import token_hex
from typing import TYPE_CHECKING, Final, overload

import msgspec
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import publication
from pushserver.core import task as progress
from pushserver.core.channels import is_id
from pushserver.core.errors import Conflict, NotFound, PushError, Unavailable
from pushserver.core.events import NewEvent
from pushserver.core.inbox import INBOXES
from pushserver.core.output import NewOutput, Producer
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.core.task import NewTask, Progress, RepeatedTask, StatusChanged, TaskState
from pushserver.core.throttle import Throttle, ThrottleRules
from pushserver.core.tokens import NOBODY
from pushserver.engine.interfaces import IdempotencyKey, OutputPage, OutputTaken, TaskEvent
from pushserver.engine.skew import SKEW
from pushserver.server.clock import Clock, Recurring
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.publishing import Publishing
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import IEngine

#: The user's unfinished tasks that are listed at sign-in.
LISTED: Final = 100
#: How often stale tasks are looked for, seconds (more often where they become so sooner), and how many are failed at a
#: time.
STALE_EVERY: Final = 60
STALE_BATCH: Final = 100
#: So often a change is tried anew when somebody else was quicker. Each failure is somebody's success.
ATTEMPTS: Final = 50

#: Seconds until the engine is asked again that could not answer.
AGAIN: Final = 1.0
#: So many tasks that ended are remembered for what comes of them too late.
REMEMBERED: Final = 1_000

#: Seconds that a change of a task may be on its way from another node: who hears nothing for so long is cut off.
LATEST: Final = 60.0

#: The kinds of event that end a task.
FINAL_TYPES: Final = frozenset({"task_completed", "task_failed", "task_status_changed"})


def user_channel(user_id: str) -> str:
    return INBOXES + user_id


def task_channel(task_id: str) -> str:
    return f"task:{task_id}"


def _id_of(key: str) -> str:
    """Return the id of a task that came without one, but with a key."""
    id = f"t-{key}"
    return id if is_id(id) else f"t-{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


@overload
def _answer(new: NewTask, wanted: TaskState, kept: TaskState) -> TaskState: ...
@overload
def _answer(new: NewTask, wanted: TaskState, kept: TaskState | None) -> TaskState | None: ...
def _answer(new: NewTask, wanted: TaskState, kept: TaskState | None) -> TaskState | None:
    """Return the answer to a creation: the state that was wanted, where it was kept; else, of a repeat, the first's."""
    if kept is None or kept is wanted:
        return kept
    same = (
        kept.user_id == wanted.user_id
        and kept.status == wanted.status
        and (kept.title == wanted.title or (new.restart and new.title is None))
        and (kept.details == wanted.details or (new.restart and new.details is UNSET))
    )
    return RepeatedTask.of(kept, conflict=not same)


def _data(event: TaskEvent) -> msgspec.Raw:
    if event.old_status is None:
        return publication.body(event.state)
    return publication.body(StatusChanged.of(event.state, event.old_status))


class _Final(msgspec.Struct):
    """What of a final event's data says which task it ends."""

    task_id: str = msgspec.field(name="taskId")
    created_at: int = msgspec.field(name="createdAt")


class Feed:
    """What one audience on this node has been shown of one task."""

    __slots__ = ("doubted", "floors", "held", "shown", "throttle", "timer", "timer_due")

    def __init__(self, rules: ThrottleRules) -> None:
        self.throttle = Throttle(rules)
        self.shown: TaskEvent | None = None
        #: what shows what waits, and the moment that it comes at, ms: that may be before it is due
        self.timer: IDelayedCall | None = None
        self.timer_due = 0
        #: whether the task may have ended unheard, and the newest that was told of it since
        self.doubted = False
        self.held: TaskEvent | None = None
        #: connections that were answered with a newer state than the last shown one: by connection, its version
        self.floors: dict[Connection, int] = {}


class AnsweredVersions:
    """The versions of tasks that connections were answered with, where this node was not told of the task yet: what it
    is told late may be older. They are kept over one `turn`."""

    __slots__ = ("_before", "_now")

    def __init__(self) -> None:
        self._now: dict[tuple[Connection, str], dict[str, int]] = {}
        self._before: dict[tuple[Connection, str], dict[str, int]] = {}

    def note(self, connection: Connection, channel: str, versions: dict[str, int]) -> None:
        self._now[connection, channel] = versions

    def floors(self, audience: Iterable[Connection], channel: str, task_id: str) -> dict[Connection, int]:
        """Return the version of this task that those of an audience know who know one."""
        if not self._now and not self._before:
            return {}
        floors = {}
        for connection in audience:
            key = connection, channel
            known = self._now.get(key) or self._before.get(key)
            if known is not None and task_id in known:
                floors[connection] = known[task_id]
        return floors

    def turn(self) -> None:
        self._before, self._now = self._now, {}


class Tasks:
    """Changes of tasks, and their delivery on this node."""

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        engine: IEngine,
        hub: Hub,
        publishing: Publishing,
        counters: Counters,
        *,
        throttle: ThrottleRules,
        stale_after: int,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._hub = hub
        self._publishing = publishing
        self._counters = counters
        self._throttle = throttle
        self._stale_after = stale_after
        #: by the channel that the audience is defined by (the owner's, or the task's), then by task
        self._feeds: dict[str, dict[str, Feed]] = {}
        #: the tasks whose end was told last, by channel and id, and when they began: what comes of these now is old
        self._recently_finished: dict[tuple[str, str], int] = {}
        self._answered = AnsweredVersions()
        #: when something of an inbox was last found lost, ms since the epoch
        self._lost_at: dict[str, int] = {}
        self._looking: Recurring | None = None
        self._turning: Recurring | None = None

    def adopt(self, throttle: ThrottleRules, stale_after: int) -> None:
        """Go by these rules from now on; a task that is shown already keeps its throttle until it ends."""
        self._throttle = throttle
        before, self._stale_after = self._stale_after, stale_after
        if self._looking is not None and stale_after != before:
            self._looking.stop()
            self._look()

    def start(self) -> None:
        """Look for stale tasks from now on, and forget what was answered long ago."""
        self._look()
        self._turning = self._clock.every(LATEST, self._answered.turn, self._log, "forgetting what was answered")

    def _look(self) -> None:
        seconds = min(STALE_EVERY, max(0.25, self._stale_after / 4000))
        self._looking = self._clock.every(seconds, self._fail_stale, self._log, "failing stale tasks")

    def stop(self) -> None:
        """Look no more, and forget what waits to be shown. May be called more than once."""
        for recurring in (self._looking, self._turning):
            if recurring is not None:
                recurring.stop()
        self._looking = self._turning = None
        for channel in tuple(self._feeds):
            self.forget(channel)

    # -- changes ------------------------------------------------------------------------------------------------------

    async def create(self, new: NewTask, once: IdempotencyKey | None = None) -> TaskState:
        """Begin a task, or with ``restart`` another attempt of it. A repeat of its ``message_id`` begins nothing, and
        returns what the first returned, as a `RepeatedTask`.

        Raises `errors.Invalid`, and `errors.Conflict` where its id exists and is not to be, or cannot be, restarted.
        """
        if new.message_id is not None:
            once = IdempotencyKey(new.message_id, None if once is None else once.fence)
        if new.task_id is None:
            # With a key, a repeat must find what the first made, so the id follows from it.
            new = msgspec.structs.replace(new, task_id=token_hex(10) if once is None else _id_of(once.key))
        store = self._engine.tasks
        if not new.restart:
            first = progress.at_least(progress.create(new, self._clock.now()), store.lowest_version())
            return _answer(new, first, await store.create(TaskEvent("task_created", first), once))
        for _ in range(ATTEMPTS):
            state = await self._begin_anew(new, once)
            if state is not None:
                return state
        raise Conflict("the task is being changed by too many at once")

    async def _begin_anew(self, new: NewTask, once: IdempotencyKey | None) -> TaskState | None:
        """Begin another attempt, or the first; None where somebody was quicker."""
        store, now = self._engine.tasks, self._clock.now()
        lowest = store.lowest_version()
        first = progress.at_least(progress.create(new, now), lowest)
        try:
            old = await store.get(first.task_id)
        except NotFound:
            try:
                return _answer(new, first, await store.create(TaskEvent("task_created", first), once))
            except Conflict:
                return None
        if once is not None and await store.done(first.task_id, once.key):
            # The rules do not hold for a repeat: what it began may have ended by now.
            return _answer(new, first, await store.restart(TaskEvent("task_created", first), once))
        try:
            begun = progress.at_least(progress.restart(old, new, now), lowest)
            return _answer(new, begun, await store.restart(TaskEvent("task_created", begun), once, old.version))
        except NotFound:
            return None

    async def report(self, task_id: str, report: Progress, once: IdempotencyKey | None = None) -> TaskState:
        """Progress. Raises `errors.NotFound`, `errors.Invalid`, `errors.Conflict` (the task is final)."""
        return await self._change(
            task_id, lambda state, now: progress.progress(state, report, now), once, report.attempt, reported=True
        )

    async def report_all(self, reports: Sequence[tuple[str, Progress]]) -> list[TaskState | PushError]:
        """Progress of several tasks, in this order: read at once, and kept at once. Return for each what `report`
        returns or raises. Raises `errors.Unavailable` where none was read."""
        store = self._engine.tasks
        newest = await store.get_all(list(dict.fromkeys(task_id for task_id, _ in reports)))
        now, lowest = self._clock.now(), store.lowest_version()
        outcomes: list[TaskState | PushError] = []
        changes: dict[int, tuple[TaskEvent, int]] = {}
        for place, (task_id, report) in enumerate(reports):
            try:
                old = newest.get(task_id) or NotFound("no such task")
                if isinstance(old, PushError):
                    raise old
                progress.check_attempt(old, report.attempt)
                new = progress.progress(old, report, now)
            except PushError as problem:
                outcomes.append(problem.with_traceback(None))
                continue
            if new is not old:
                new = newest[task_id] = progress.at_least(new, lowest)
                changes[place] = TaskEvent("task_progress", new), old.version
            outcomes.append(new)
        kept: list[bool | PushError]
        try:
            kept = await store.replace_all(list(changes.values())) if changes else []
        except PushError as problem:
            kept = [problem.with_traceback(None)] * len(changes)
        if any(answer is not True for answer in kept):
            await self._report_again(reports, outcomes, dict(zip(changes, kept, strict=True)))
        return outcomes

    async def _report_again(
        self,
        reports: Sequence[tuple[str, Progress]],
        outcomes: list[TaskState | PushError],
        kept: dict[int, bool | PushError],
    ) -> None:
        """Carry out one by one what somebody else was quicker than, and say of what could not be kept why; both with
        what of the same tasks came after it. ``kept``: by place, what came of a change."""
        others: dict[str, bool | PushError] = {}
        for place, (task_id, report) in enumerate(reports):
            if (answer := kept.get(place, True)) is not True:
                others.setdefault(task_id, answer)
            if isinstance(failed := others.get(task_id), PushError):
                outcomes[place] = failed
            elif task_id in others:
                try:
                    outcomes[place] = await self.report(task_id, report)
                except PushError as problem:
                    outcomes[place] = problem.with_traceback(None)

    async def set_status(
        self,
        task_id: str,
        status: str,
        message: str | None,
        once: IdempotencyKey | None = None,
        attempt: int | None = None,
        output: NewOutput | None = None,
    ) -> TaskState:
        return await self._change(
            task_id, lambda state, now: progress.set_status(state, status, message, now), once, attempt, output=output
        )

    async def complete(
        self,
        task_id: str,
        result: object,
        once: IdempotencyKey | None = None,
        attempt: int | None = None,
        truncated: bool = False,
        output: NewOutput | None = None,
    ) -> TaskState:
        return await self._change(
            task_id, lambda state, now: progress.complete(state, result, now, truncated), once, attempt, output=output
        )

    async def fail(
        self,
        task_id: str,
        error: str,
        once: IdempotencyKey | None = None,
        attempt: int | None = None,
        truncated: bool = False,
        output: NewOutput | None = None,
    ) -> TaskState:
        return await self._change(
            task_id, lambda state, now: progress.fail(state, error, now, truncated), once, attempt, output=output
        )

    async def cancel(
        self,
        task_id: str,
        message: str | None,
        once: IdempotencyKey | None = None,
        attempt: int | None = None,
        truncated: bool = False,
        output: NewOutput | None = None,
    ) -> TaskState:
        return await self._change(
            task_id, lambda state, now: progress.cancel(state, message, now, truncated), once, attempt, output=output
        )

    async def request_cancel(self, task_id: str) -> TaskState:
        """The owner asks for the end; whoever works on the task sees it in the next answer."""
        return await self._change(task_id, progress.request_cancel, None)

    def append_output(
        self,
        task_id: str,
        new: NewOutput,
        producer: Producer | None,
        attempt: int | None,
        once: IdempotencyKey | None,
    ) -> Deferred[OutputTaken]:
        """Append to an output. Fails with what `IOutputs.append` does. A producer's own numbers make it happen once;
        ``once`` does where there are none."""
        return self._engine.outputs.append(task_id, new, producer, attempt, None if producer else once)

    async def read_output(self, task_id: str, name: str, since: Position | None, max_bytes: int) -> OutputPage:
        """Return a page of an output. Raises what `IOutputs.read` fails with."""
        return await self._engine.outputs.read(task_id, name, since, max_bytes)

    async def get(self, task_id: str) -> TaskState:
        return await self._engine.tasks.get(task_id)

    async def get_visible(self, task_id: str, connection: Connection) -> TaskState:
        """The task, where the connection may see it; else nobody learns that it exists."""
        state = await self.get(task_id)
        # Who it is by now: a right may have ended meanwhile.
        identity = connection.identity_for(task_channel(task_id)) or NOBODY
        if state.user_id != identity.user_id and not identity.grants.subscribe(task_channel(task_id)):
            raise NotFound("no such task")
        return state

    async def of_user(self, user_id: str, unfinished: bool, limit: int) -> list[TaskState]:
        return await self._engine.tasks.of_user(user_id, unfinished, limit)

    async def _change(
        self,
        task_id: str,
        change: Callable[[TaskState, int], TaskState],
        once: IdempotencyKey | None,
        attempt: int | None = None,
        reported: bool = False,
        output: NewOutput | None = None,
    ) -> TaskState:
        """Change a task's state; ``output`` is appended in the same transaction."""
        store = self._engine.tasks
        if once is not None and await store.done(task_id, once.key):
            return await store.get(task_id)
        for _ in range(ATTEMPTS):
            old = await store.get(task_id)
            progress.check_attempt(old, attempt)
            new = change(old, self._clock.now())
            if new is old:
                if output is not None:
                    await self.append_output(task_id, output, None, attempt, once)
                return old
            new = progress.at_least(new, store.lowest_version())
            type, data = progress.event_of(old, new, reported=reported)
            event = TaskEvent(type, new, data.old_status if isinstance(data, StatusChanged) else None)
            if await store.replace(event, self._final(event), once, old.version, self._told(old, new), output):
                if new.final:
                    self._counters.tasks_queued += 1
                return new
        raise Conflict("the task is being changed by too many at once")

    def _told(self, old: TaskState, new: TaskState) -> tuple[NewEvent, ...]:
        """Return what the backend is told of a change."""
        if new.final:
            return self._publishing.events.make("task.finished", new)
        if new.cancel_requested is True and old.cancel_requested is not True:
            return self._publishing.events.make("task.cancel_requested", new)
        return ()

    def _final(self, event: TaskEvent) -> Publication | None:
        """The owner's inbox message of a final event."""
        if not event.state.final:
            return None
        return Publication(
            type=event.type,
            channel=user_channel(event.state.user_id),
            data=_data(event),
            timestamp=event.state.updated_at,
            message_id=self._publishing.message_id(),
        )

    # -- delivery -----------------------------------------------------------------------------------------------------

    def event(self, event: TaskEvent, to_owner: bool, *, read: bool = False) -> None:
        """A change, told by the engine: shown now, or once the throttle lets it. ``read``: it was read just now."""
        state = event.state
        channel = user_channel(state.user_id) if to_owner else task_channel(state.task_id)
        if channel not in self._hub.channels or state.created_at <= self._recently_finished.get(
            (channel, state.task_id), -1
        ):
            return
        feeds = self._feeds.setdefault(channel, {})
        feed = feeds.get(state.task_id)
        if feed is None:
            feed = feeds[state.task_id] = Feed(self._throttle)
            audience = self._audience(channel, state, to_owner)
            feed.floors = self._answered.floors(audience, channel, state.task_id)
            if not read and state.updated_at <= self._lost_at.get(channel, -SKEW) + SKEW:
                # Of before the loss: its end may have been among what was lost.
                self._doubt(channel, {state.task_id: feed})
        if feed.doubted:
            if feed.held is None or feed.held.state.version < state.version:
                feed.held = event
        elif feed.throttle.offer(state, self._clock.milliseconds()):
            self._show(channel, feed, event, to_owner)
        elif feed.throttle.due is not None:
            self._counters.tasks_throttled += 1
            self._arm(channel, feed, to_owner)

    def doubt(self, channel: str) -> None:
        """Something was lost of an inbox, perhaps ends of tasks, which may be kept no more. Whoever is told of that
        forgets the tasks it knew, and would take what waits to be shown for news, and what comes late: each is read
        again before."""
        self._lost_at[channel] = self._clock.now()
        self._doubt(channel, {id: feed for id, feed in self._feeds.get(channel, {}).items() if not feed.doubted})

    def _doubt(self, channel: str, feeds: dict[str, Feed]) -> None:
        for feed in feeds.values():
            self._disarm(feed)
            feed.doubted = True
        if feeds:
            self._clock.detach(self._go_on(channel, feeds), self._log, "reading the tasks of an inbox again")

    async def _go_on(self, channel: str, feeds: dict[str, Feed]) -> None:
        for task_id, feed in feeds.items():
            ended: int | None = None
            try:
                state = await self._kept(channel, task_id)
                if state is None:
                    ended = self._newest_attempt(channel, task_id)
                elif state.final:
                    ended = state.created_at
            except Exception:
                self._log.failure("reading a task of {channel} again failed", channel=channel)
            feed.doubted = False
            held, feed.held = feed.held, None
            if self._feeds.get(channel, {}).get(task_id) is not feed:
                continue
            if ended is not None:
                self._ended(channel, task_id, ended)
                continue
            if held is not None:
                self.event(held, to_owner=True)
            if feed.timer is None:
                self._arm(channel, feed, to_owner=True)

    async def _kept(self, channel: str, task_id: str) -> TaskState | None:
        """Return what is kept of a task; None where nothing is, or nobody follows the channel any more."""
        while channel in self._hub.channels:
            try:
                return await self.get(task_id)
            except NotFound:
                break
            except Unavailable:
                await self._clock.sleep(AGAIN)
        return None

    def finished(self, message: Publication) -> None:
        """The owner's inbox message of a final event is being delivered: nothing older may follow it."""
        if message.type in FINAL_TYPES:
            self._counters.task_pushed(message.channel.partition(":")[2])
            self.replayed(message)

    def replayed(self, message: Publication) -> None:
        """A message of the owner's inbox is being sent again: nothing of a task that it ends may follow, as above.

        It may be the first that this node learns of the end, where the live message was lost on the way.
        """
        if message.type in FINAL_TYPES:
            ended = msgspec.json.decode(message.data, type=_Final)
            self._ended(message.channel, ended.task_id, ended.created_at)

    def _ended(self, channel: str, task_id: str, created_at: int) -> None:
        """Nothing more is shown of a task on this channel: also not what was read before and comes now."""
        if created_at < self._newest_attempt(channel, task_id):
            return
        self._recently_finished[channel, task_id] = created_at
        if len(self._recently_finished) > REMEMBERED:
            del self._recently_finished[next(iter(self._recently_finished))]
        feeds = self._feeds.get(channel, {})
        feed = feeds.pop(task_id, None)
        if feed is not None:
            self._disarm(feed)
        if not feeds:
            self._feeds.pop(channel, None)

    def _newest_attempt(self, channel: str, task_id: str) -> int:
        """Return when the newest attempt began that was shown here or has ended; -1 where there was none."""
        ended = self._recently_finished.get((channel, task_id), -1)
        feed = self._feeds.get(channel, {}).get(task_id)
        return ended if feed is None or feed.shown is None else max(ended, feed.shown.state.created_at)

    def forget(self, channel: str) -> None:
        """Nobody here follows the channel any more."""
        self._lost_at.pop(channel, None)
        for feed in self._feeds.pop(channel, {}).values():
            self._disarm(feed)

    def _arm(self, channel: str, feed: Feed, to_owner: bool) -> None:
        due = feed.throttle.due
        if feed.timer is not None and due is not None and feed.timer_due <= due:
            return
        self._disarm(feed)
        if due is not None:
            feed.timer_due = due
            delay = max(0.0, (due - self._clock.milliseconds()) / 1000)
            feed.timer = self._clock.later(delay, self._flush, channel, feed, to_owner)

    def _disarm(self, feed: Feed) -> None:
        if feed.timer is not None:
            if feed.timer.active():
                feed.timer.cancel()
            feed.timer = None

    def _flush(self, channel: str, feed: Feed, to_owner: bool) -> None:
        feed.timer = None
        state = feed.throttle.flush(self._clock.milliseconds())
        if state is not None:
            self._show(channel, feed, TaskEvent("task_progress", state), to_owner)
        else:
            self._arm(channel, feed, to_owner)

    def _show(self, channel: str, feed: Feed, event: TaskEvent, to_owner: bool) -> None:
        self._disarm(feed)
        feed.shown = event
        state = event.state
        audience = self._audience(channel, state, to_owner)
        if feed.floors:
            audience = [c for c in audience if feed.floors.get(c, 0) < state.version]
            feed.floors = {c: floor for c, floor in feed.floors.items() if floor > state.version and c.open}
        self._push(event, audience)
        if audience:
            self._counters.task_pushed(state.user_id)
        if state.final:
            self._ended(channel, state.task_id, state.created_at)

    def _audience(self, channel: str, state: TaskState, to_owner: bool) -> list[Connection]:
        """Who is shown this now. The owner's connections need not have read their inbox for it."""
        if to_owner:
            return [c for c in self._hub.of_user(state.user_id) if c.greeted]
        known = self._hub.channels.get(channel)
        return [] if known is None else list(known.followers)

    def _push(self, event: TaskEvent, audience: Iterable[Connection]) -> None:
        state = event.state
        publication = Publication(
            type=event.type,
            channel=task_channel(state.task_id),
            data=_data(event),
            timestamp=self._clock.now(),
            message_id=self._publishing.message_id(),
        )
        followers: list[Connection] = []
        owners: list[Connection] = []
        for connection in audience:
            by_inbox = connection.user_id == state.user_id and publication.channel not in connection.channels
            (owners if by_inbox else followers).append(connection)
        self._hub.fan_out.send(publication, followers, subject=state.task_id)
        if owners:
            told = msgspec.structs.replace(publication, by_way_of=user_channel(state.user_id))
            self._hub.fan_out.send(told, owners, subject=state.task_id)

    def caught_up(self, connection: Connection, channel: str, known: dict[str, int]) -> None:
        """A connection was answered with states of these versions, by task, and follows the channel from now on.

        What was shown to others between the answer's reading and now is shown to it as well; what is shown later is
        shown to it only where it is newer than the answer. Where the data went back in between, what was shown before
        that is not what is kept.
        """
        lowest = self._engine.tasks.lowest_version()
        feeds = self._feeds.get(channel, {})
        for task_id, feed in feeds.items():
            version = known.get(task_id, 0)
            if feed.shown is not None and feed.shown.state.version > version:
                if feed.shown.state.version >= lowest:
                    self._push(feed.shown, (connection,))
            elif feed.throttle.due is not None or feed.shown is None or feed.shown.state.version < version:
                feed.floors[connection] = version
        unheard = {task_id: version for task_id, version in known.items() if task_id not in feeds}
        if unheard:
            self._answered.note(connection, channel, unheard)
        for task_id, version in known.items():
            # Its end was shown meanwhile, and nothing more will be.
            if (channel, task_id) in self._recently_finished:
                self._end_is_due(connection, task_id, version)

    def resend_latest(self, connection: Connection, task_id: str) -> None:
        """A slow connection has drained, and the newest that it was sent of the task was left out: shows it anew.

        The end of a task comes to its owner by the inbox.
        """
        for channel in (user_channel(connection.user_id or ""), task_channel(task_id)):
            feed = self._feeds.get(channel, {}).get(task_id)
            if feed is not None and feed.shown is not None and connection in self._audience_of(channel, feed):
                if feed.shown.state.version > feed.floors.get(connection, 0):
                    self._push(feed.shown, (connection,))
                return
        self._end_is_due(connection, task_id, 0)

    def _end_is_due(self, connection: Connection, task_id: str, known: int) -> None:
        """Show a follower the end of a task, where there is one that is newer than the version it knows."""
        if self._hub.live(connection, task_channel(task_id)):
            self._clock.detach(self._show_end(connection, task_id, known), self._log, "showing the end of a task")

    def _audience_of(self, channel: str, feed: Feed) -> list[Connection]:
        assert feed.shown is not None
        return self._audience(channel, feed.shown.state, to_owner=channel.startswith(INBOXES))

    async def _show_end(self, connection: Connection, task_id: str, known: int) -> None:
        while self._hub.live(connection, task_channel(task_id)):
            try:
                state = await self.get(task_id)
            except NotFound:
                return
            except Unavailable:
                await self._clock.sleep(AGAIN)
                continue
            if state.final and state.version > known and self._hub.live(connection, task_channel(task_id)):
                type, data = progress.event_of(msgspec.structs.replace(state, status=progress.Status.RUNNING), state)
                old_status = data.old_status if isinstance(data, StatusChanged) else None
                self._push(TaskEvent(type, state, old_status), (connection,))
            return

    async def refresh(self) -> None:
        """Events may have been lost on the way: shows the states of now, where they are newer, to everyone here."""
        for channel in tuple(self._hub.channels):
            kind, _, id = channel.partition(":")
            try:
                if kind == "user":
                    for state in await self.of_user(id, unfinished=True, limit=LISTED):
                        if not self._goes_back(channel, state):
                            self.event(TaskEvent("task_progress", state), to_owner=True, read=True)
                elif kind == "task":
                    self._show_state(await self.get(id))
            except NotFound:
                # It is kept no longer: there is nothing to show.
                continue
            except Unavailable:
                raise
            except Exception:
                self._log.failure("reading the tasks of {channel} again failed", channel=channel)

    def _goes_back(self, channel: str, state: TaskState) -> bool:
        """Return whether the data went back to this state. What was shown later, or waits to be, counts no more then:
        who saw it is shown the next state that there is."""
        feeds = self._feeds.get(channel, {})
        feed = feeds.get(state.task_id)
        newest = None if feed is None else feed.throttle.newest
        if feed is None or newest is None:
            return False
        if not state.version < newest.version < self._engine.tasks.lowest_version():
            return False
        self._disarm(feed)
        feed = feeds[state.task_id] = Feed(self._throttle)
        feed.throttle.offer(state, self._clock.milliseconds())
        feed.shown = TaskEvent("task_progress", state)
        return True

    def _show_state(self, state: TaskState) -> None:
        old = self._feeds.get(task_channel(state.task_id), {}).get(state.task_id)
        before = old.shown.state if old is not None and old.shown is not None else None
        type, data = progress.event_of(before or msgspec.structs.replace(state, status=progress.Status.RUNNING), state)
        self.event(TaskEvent(type, state, data.old_status if isinstance(data, StatusChanged) else None), False)

    # -- stale ones ---------------------------------------------------------------------------------------------------

    async def _fail_stale(self) -> None:
        now = self._clock.now()
        try:
            stale = await self._engine.tasks.stale(self._stale_after, STALE_BATCH)
        except Unavailable:
            return
        for state in stale:
            expired = progress.expire(state, now)
            if expired is state:
                continue
            expired = progress.at_least(expired, self._engine.tasks.lowest_version())
            event = TaskEvent("task_failed", expired)
            # Not tried again where somebody was quicker: then it is not stale.
            told = self._told(state, expired)
            try:
                await self._engine.tasks.replace(event, self._final(event), None, state.version, told)
            except NotFound:
                # It went meanwhile.
                continue
