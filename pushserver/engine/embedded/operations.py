"""The reads and writes of the embedded engine, one class each.

An instance is made on the reactor, carried out once on the writer thread (twice where a batch is taken back), and
handed back with its answer to notify the node.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from pushserver.core import errors, publication
from pushserver.core import output as outputs
from pushserver.core.events import unread
from pushserver.core.inbox import InboxChange, Unread
from pushserver.core.task import TaskState
from pushserver.engine.identity import CHANNEL, INBOX, OUTPUT, TASK, content_digest, key_digest
from pushserver.engine.interfaces import OutputPage, OutputTaken, PublishResult

from .database import spare_pages
from .rows import deliveries as deliveryrows
from .rows import revocations as revocationrows
from .rows.tasks import TaskBrief, TaskRows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pushserver.core.events import NewEvent
    from pushserver.core.output import NewOutput, OutputPublication, Producer
    from pushserver.core.positions import Position
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import IdempotencyKey, Retention, TaskEvent

    from .store import Store

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_published = msgspec.json.Decoder(PublishResult)
_task = msgspec.json.Decoder(TaskState)
_output_taken = msgspec.json.Decoder(OutputTaken)


class KeptListener(Protocol):
    """Who is notified of what was kept."""

    def deliver(self, publication: Publication, offset: int | None = None, epoch: str | None = None) -> None:
        """A publication, with its position."""

    def inbox_changed(self, user_id: str, change: InboxChange) -> None:
        """Messages of an inbox were read or deleted."""

    def unread_lost(self, user_id: str) -> None:
        """Unread messages of a user went by the limits or by age."""

    def append(self, publication: OutputPublication) -> None:
        """What was appended to an output."""

    def task_event(self, event: TaskEvent) -> None:
        """A change of a task."""

    def epochs_moved(self) -> None:
        """Every epoch is another one now."""


class Operation(Generic[T]):
    """One read or write, whose answer is a ``T``. None in an attribute: it does not ask for such a thing."""

    __slots__ = ()
    #: what the metrics call it
    name: str = "other"
    #: the key that must be new
    digest: bytes | None = None
    #: whose inbox
    user_id: str | None = None
    #: which history
    channel: str | None = None
    #: which task, or several
    task_id: str | None = None
    task_ids: Sequence[str] = ()
    #: whose tasks
    owner: str | None = None
    #: which output: its task, and its name
    output: tuple[str, str] | None = None

    def carry_out(self, store: Store) -> T:
        """Do it, and return its answer. A `PushError` means that nothing was changed."""
        raise NotImplementedError

    def notify(self, delivery: KeptListener, answer: T) -> None:
        """After the commit, on the reactor: notify the node of what was kept, if there is something."""


@cache
def _name(
    rows: str,
    method: Callable[..., Any],  # Any: whatever the rows answer
) -> str:
    return f"{rows}{method.__name__}"


class _Call(Operation[T]):
    """A call of a method or function of the rows."""

    __slots__ = ("_arguments", "_method")
    #: what the names of such calls begin with
    rows: ClassVar[str] = ""

    def __init__(self, method: Callable[..., T], *arguments: object) -> None:
        self._method = method
        self._arguments = arguments

    @property
    def name(self) -> str:  # type: ignore[override]
        return _name(self.rows, self._method)


class HistoryCall(_Call[T]):
    """``method(histories, connection, now, channel, …)``"""

    __slots__ = ("channel",)
    rows = "history_"

    def __init__(self, method: Callable[..., T], channel: str, *arguments: object) -> None:
        super().__init__(method, channel, *arguments)
        self.channel = channel

    def carry_out(self, store: Store) -> T:
        return self._method(store.histories, store.connection, store.now, *self._arguments)


class InboxCall(_Call[T]):
    """``method(inboxes, connection, now, user_id, …)``"""

    __slots__ = ("user_id",)
    rows = "inbox_"

    def __init__(self, method: Callable[..., T], user_id: str, *arguments: object) -> None:
        super().__init__(method, user_id, *arguments)
        self.user_id = user_id

    def carry_out(self, store: Store) -> T:
        return self._method(store.inboxes, store.connection, store.now, *self._arguments)


class InboxWrite(InboxCall[T]):
    """``method(inboxes, connection, now, user_id, …)``, which returns its answer, and what is told of it."""

    __slots__ = ("_change",)

    def __init__(self, method: Callable[..., tuple[T, InboxChange | None]], user_id: str, *arguments: object) -> None:
        super().__init__(method, user_id, *arguments)  # type: ignore[arg-type]
        self._change: InboxChange | None = None

    def carry_out(self, store: Store) -> T:
        answer: tuple[T, InboxChange | None] = super().carry_out(store)  # type: ignore[assignment]
        self._change = answer[1]
        return answer[0]

    def notify(self, delivery: KeptListener, answer: T) -> None:
        if self._change is not None and self.user_id is not None:
            delivery.inbox_changed(self.user_id, self._change)


class TaskCall(_Call[T]):
    """``method(tasks, connection, now, …)``"""

    __slots__ = ()
    rows = "task_"

    def carry_out(self, store: Store) -> T:
        return self._method(store.tasks, store.connection, store.now, *self._arguments)


class ListTasks(TaskCall[T]):
    """``method(tasks, connection, now, user_id, …)``"""

    __slots__ = ("owner",)

    def __init__(self, method: Callable[..., T], user_id: str, *arguments: object) -> None:
        super().__init__(method, user_id, *arguments)
        self.owner = user_id


class RowCall(_Call[T]):
    """``function(connection, …)``: rows that nothing of is held in memory on the writer thread."""

    __slots__ = ()

    def carry_out(self, store: Store) -> T:
        return self._method(store.connection, *self._arguments)


class DeadEventCall(_Call[T]):
    """``function(connection, quarantine, now, …)``"""

    __slots__ = ()

    def carry_out(self, store: Store) -> T:
        return self._method(store.connection, store.quarantine, store.now, *self._arguments)


class EventRowCall(_Call[T]):
    """``method(events, connection, …)``"""

    __slots__ = ()

    def carry_out(self, store: Store) -> T:
        return self._method(store.events, store.connection, *self._arguments)


class EventCall(_Call[T]):
    """``function(connection, events, …)``"""

    __slots__ = ()

    def carry_out(self, store: Store) -> T:
        return self._method(store.connection, store.events, *self._arguments)


def _earlier(store: Store, digest: bytes, message: Publication) -> PublishResult | None:
    """Return what a repeat is answered; None where this is the first."""
    answer = store.keys.answer(digest)
    if answer is None:
        return None
    conflict = store.keys.differs(digest, content_digest(message))
    return msgspec.structs.replace(_published.decode(answer), duplicate=True, conflict=conflict)


def _first(store: Store, digest: bytes, message: Publication, published: PublishResult) -> PublishResult:
    """Return what the first is answered, after writing it down for repeats."""
    store.keys.remember(digest, _encode(published), content_digest(message), store.now)
    return published


class KeepPublication(Operation[PublishResult]):
    """A publication on a channel with history."""

    __slots__ = ("_body", "_create", "_events", "_publication", "_retention", "channel", "digest")
    name = "publish"

    def __init__(
        self,
        message: Publication,
        retention: Retention,
        key: IdempotencyKey | None,
        create: bool = True,
        events: Sequence[NewEvent] = (),
    ) -> None:
        self._events = events
        self.channel = message.channel
        self.digest = key_digest(CHANNEL, message.channel, key) if key is not None else None
        self._publication = message
        self._body = publication.encode(message)
        self._retention = retention
        self._create = create

    def carry_out(self, store: Store) -> PublishResult:
        message, digest = self._publication, self.digest
        if digest is not None and (earlier := _earlier(store, digest, message)) is not None:
            return earlier
        if not self._create and not store.histories.knows(store.connection, store.now, message.channel):
            raise errors.NotFound("the channel keeps nothing yet")
        offset, epoch = store.histories.append(
            store.connection, store.now, message.channel, self._retention, self._body
        )
        if self._events:
            store.events.append(store.connection, store.now, self._events)
        published = PublishResult(message.message_id, offset, epoch)
        return published if digest is None else _first(store, digest, message, published)

    def notify(self, delivery: KeptListener, answer: PublishResult) -> None:
        if not answer.duplicate:
            delivery.deliver(self._publication, answer.offset, answer.epoch)


class AppendToInbox(Operation[PublishResult]):
    """A publication to one user's inbox."""

    __slots__ = (
        "_body",
        "_change",
        "_chat",
        "_collapse_key",
        "_events",
        "_publication",
        "_ttl",
        "_unread_after",
        "digest",
        "user_id",
    )
    name = "inbox_append"

    def __init__(
        self,
        message: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        key: IdempotencyKey | None,
        told: tuple[Sequence[NewEvent], int | None] = ((), None),
    ) -> None:
        """``told``: the events that are kept with it, and ms until it should be read."""
        self._events, self._unread_after = told
        self.user_id = user_id
        self.digest = key_digest(INBOX, user_id, key) if key is not None else None
        self._publication = message
        self._body = publication.encode(message)
        self._chat = chat
        self._ttl = ttl
        self._collapse_key = collapse_key
        self._change: InboxChange | None = None

    def carry_out(self, store: Store) -> PublishResult:
        user_id, digest = self.user_id, self.digest
        assert user_id is not None
        if digest is not None and (earlier := _earlier(store, digest, self._publication)) is not None:
            return earlier
        offset, epoch, self._change = store.inboxes.append(
            store.connection, store.now, user_id, self._chat, self._ttl, self._collapse_key, self._body
        )
        if self._events:
            store.events.append(store.connection, store.now, self._events)
        if self._unread_after is not None:
            store.events.remind(store.now + self._unread_after, user_id, offset, epoch)
        published = PublishResult(self._publication.message_id, offset, epoch)
        return published if digest is None else _first(store, digest, self._publication, published)

    def notify(self, delivery: KeptListener, answer: PublishResult) -> None:
        if not answer.duplicate:
            delivery.deliver(self._publication, answer.offset, answer.epoch)
            if self._change is not None and self.user_id is not None:
                delivery.inbox_changed(self.user_id, self._change)


class CreateTask(Operation[TaskState]):
    """A new task's first state."""

    __slots__ = ("_changed", "_event", "digest", "task_id")
    name = "task_create"

    def __init__(self, event: TaskEvent, key: IdempotencyKey | None) -> None:
        self.task_id = event.state.task_id
        self.digest = key_digest(TASK, event.state.task_id, key) if key is not None else None
        self._event = event
        self._changed = False

    def carry_out(self, store: Store) -> TaskState:
        state = self._event.state
        if self.digest is not None and (earlier := store.keys.answer(self.digest)) is not None:
            return _task.decode(earlier)
        if store.tasks.version(state.task_id) is not None:
            raise errors.Conflict("a task of this id exists")
        if state.version < store.lowest_version:
            raise errors.Unavailable("the data was replaced")
        store.tasks.put(state, store.now)
        if self.digest is not None:
            store.keys.remember(self.digest, _encode(state), None, store.now)
        self._changed = True
        return state

    def notify(self, delivery: KeptListener, answer: TaskState) -> None:
        if self._changed:
            delivery.task_event(self._event)


class ReplaceTask(Operation[bool]):
    """A task's next state, and the owner's message of a final one."""

    __slots__ = (
        "_body",
        "_changed",
        "_event",
        "_events",
        "_final",
        "_kept",
        "_output",
        "_position",
        "_told",
        "digest",
        "output",
        "task_id",
        "user_id",
    )
    name = "task_replace"

    def __init__(
        self,
        event: TaskEvent,
        final: Publication | None,
        key: IdempotencyKey | None,
        kept: int | None = None,
        events: Sequence[NewEvent] = (),
        output: NewOutput | None = None,
    ) -> None:
        self._events = events
        self._output = output
        self.output = None if output is None else (event.state.task_id, output.name)
        self._told: list[OutputPublication] = []
        self._kept = event.state.version - 1 if kept is None else kept
        self.task_id = event.state.task_id
        self.user_id = event.state.user_id if final is not None else None
        self.digest = key_digest(TASK, event.state.task_id, key) if key is not None else None
        self._event = event
        self._final = final
        self._body = publication.encode(final) if final is not None else b""
        self._position: tuple[int, str] | None = None
        self._changed = False

    def carry_out(self, store: Store) -> bool:
        state = self._event.state
        if self.digest is not None and store.keys.answer(self.digest) is not None:
            return True
        version = store.tasks.version(state.task_id)
        if version is None:
            raise errors.NotFound("no such task")
        if version != self._kept or state.version < store.lowest_version:
            return False
        self._told = self._append(store)
        if self._final is not None:
            offset, epoch, _ = store.inboxes.append(
                store.connection, store.now, state.user_id, False, None, None, self._body, task=True
            )
            self._position = offset, epoch
        store.tasks.put(state, store.now, self._position)
        if self._events:
            store.events.append(store.connection, store.now, self._events)
        if self.digest is not None:
            store.keys.remember(self.digest, b"true", None, store.now)
        self._changed = True
        return True

    def _append(self, store: Store) -> list[OutputPublication]:
        """Append what comes with the change, and return what is told of that, and of outputs that it closes."""
        state, new = self._event.state, self._output
        told: list[OutputPublication] = []
        task = TaskBrief.of(state)
        if new is not None:
            taken, before = store.outputs.append(store.connection, store.now, task, new)
            told.append(_appended(state.task_id, new, taken, before, closes=state.final))
        if state.final and _has_outputs(store, state.task_id):
            told += store.outputs.closings(store.connection, task, told[0] if told else None, state.updated_at)
        return told

    def notify(self, delivery: KeptListener, answer: bool) -> None:
        if self._changed:
            for each in self._told:
                delivery.append(each)
            if self._final is not None and self._position is not None:
                delivery.deliver(self._final, *self._position)
            delivery.task_event(self._event)


class ReplaceTasks(Operation[list[bool | errors.PushError]]):
    """The next states of tasks that go on. Only the last one of a task is written."""

    __slots__ = ("_changes", "_kept", "task_ids")
    name = "task_replace"

    def __init__(self, changes: Sequence[tuple[TaskEvent, int]]) -> None:
        self.task_ids = [event.state.task_id for event, _ in changes]
        self._changes = changes
        self._kept: list[TaskEvent] = []

    def carry_out(self, store: Store) -> list[bool | errors.PushError]:
        self._kept = []
        answers: list[bool | errors.PushError] = []
        refused: set[str] = set()
        for event, kept in self._changes:
            state = event.state
            if (
                store.tasks.version(state.task_id) != kept
                or state.version < store.lowest_version
                or state.task_id in refused
            ):
                refused.add(state.task_id)
                answers.append(False)
            else:
                store.tasks.put(state, store.now)
                self._kept.append(event)
                answers.append(True)
        return answers

    def notify(self, delivery: KeptListener, answer: list[bool | errors.PushError]) -> None:
        for event in self._kept:
            delivery.task_event(event)


class ReadTasks(Operation[dict[str, TaskState | errors.PushError]]):
    """The newest states of tasks."""

    __slots__ = ("_task_ids",)
    name = _name(TaskCall.rows, TaskRows.get)

    def __init__(self, task_ids: Sequence[str]) -> None:
        self._task_ids = task_ids

    def carry_out(self, store: Store) -> dict[str, TaskState | errors.PushError]:
        return {**store.tasks.get_all(store.connection, store.now, self._task_ids)}


def _has_outputs(store: Store, task_id: str) -> bool:
    """Return whether any attempt of a task has written."""
    return store.tasks.wrote(task_id) or store.outputs.wrote(task_id)


class RestartTask(Operation[TaskState | None]):
    """The first state of another attempt; the earlier one's end leaves the owner's inbox."""

    __slots__ = ("_changed", "_event", "_kept", "_withdrawn", "digest", "task_id", "user_id")
    name = "task_restart"

    def __init__(self, event: TaskEvent, key: IdempotencyKey | None, kept: int | None = None) -> None:
        self._kept = event.state.version - 1 if kept is None else kept
        self.task_id = event.state.task_id
        self.user_id = event.state.user_id
        self.digest = key_digest(TASK, event.state.task_id, key) if key is not None else None
        self._event = event
        self._changed = False
        self._withdrawn: InboxChange | None = None

    def carry_out(self, store: Store) -> TaskState | None:
        state = self._event.state
        if self.digest is not None and (earlier := store.keys.answer(self.digest)) is not None:
            return _task.decode(earlier)
        version = store.tasks.version(state.task_id)
        if version is None:
            raise errors.NotFound("no such task")
        if version != self._kept or state.version < store.lowest_version:
            return None
        end = store.tasks.end(store.connection, state.task_id)
        if end is not None:
            self._withdrawn = store.inboxes.withdraw(store.connection, store.now, state.user_id, *end)
        if _has_outputs(store, state.task_id):
            store.outputs.abandon(store.connection, state.task_id)
        store.tasks.put(state, store.now)
        if self.digest is not None:
            store.keys.remember(self.digest, _encode(state), None, store.now)
        self._changed = True
        return state

    def notify(self, delivery: KeptListener, answer: TaskState | None) -> None:
        if self._changed:
            if self._withdrawn is not None:
                delivery.inbox_changed(self._event.state.user_id, self._withdrawn)
            delivery.task_event(self._event)


def _appended(task_id: str, new: NewOutput, taken: OutputTaken, before: int, closes: bool = False) -> OutputPublication:
    return outputs.appended(
        outputs.channel_of(new.name, task_id),
        taken.epoch,
        (before, taken.offset),
        outputs.literal(new.kind, new.body),
        new.timestamp,
        closes=closes,
    )


class AppendOutput(Operation[OutputTaken]):
    """What a task wrote."""

    __slots__ = ("_attempt", "_before", "_new", "_producer", "digest", "output")
    name = "output_append"

    def __init__(
        self, task_id: str, new: NewOutput, producer: Producer | None, attempt: int | None, key: IdempotencyKey | None
    ) -> None:
        self.output = (task_id, new.name)
        self.digest = key_digest(OUTPUT, task_id, key) if key is not None else None
        self._new = new
        self._producer = producer
        self._attempt = attempt
        self._before: int | None = None

    def carry_out(self, store: Store) -> OutputTaken:
        assert self.output is not None
        if self.digest is not None and (earlier := store.keys.answer(self.digest)) is not None:
            return msgspec.structs.replace(_output_taken.decode(earlier), duplicate=True)
        task = store.tasks.brief(store.connection, store.now, self.output[0])
        if self._attempt is not None and self._attempt != task.attempt:
            raise errors.Conflict(f"the task is in attempt {task.attempt}")
        # What was taken is answered again, also after the end.
        if (repeat := store.outputs.repeat(store.connection, task, self.output[1], self._producer)) is not None:
            return msgspec.structs.replace(repeat, cancel_requested=task.cancel_requested)
        if task.final:
            raise errors.Conflict("the task has ended")
        taken, self._before = store.outputs.append(store.connection, store.now, task, self._new, self._producer)
        if self.digest is not None:
            store.keys.remember(self.digest, _encode(taken), None, store.now)
        return msgspec.structs.replace(taken, cancel_requested=task.cancel_requested)

    def notify(self, delivery: KeptListener, answer: OutputTaken) -> None:
        if self._before is not None and self.output is not None:
            delivery.append(_appended(self.output[0], self._new, answer, self._before))


class ReadOutput(Operation[OutputPage]):
    """Some of what a task wrote."""

    __slots__ = ("_max_bytes", "_since", "output")
    name = "output_read"

    def __init__(self, task_id: str, name: str, since: Position | None, max_bytes: int) -> None:
        self.output = (task_id, name)
        self._since = since
        self._max_bytes = max_bytes

    def carry_out(self, store: Store) -> OutputPage:
        assert self.output is not None
        task_id, name = self.output
        task = store.tasks.brief(store.connection, store.now, task_id)
        return store.outputs.read(store.connection, task, name, self._since, self._max_bytes)


class TaskDone(Operation[bool]):
    """Whether a key was used on a task."""

    __slots__ = ("digest",)
    name = "task_done"

    def __init__(self, task_id: str, key: IdempotencyKey) -> None:
        self.digest = key_digest(TASK, task_id, key)

    def carry_out(self, store: Store) -> bool:
        return self.digest is not None and store.keys.answer(self.digest) is not None


class AnnounceUnread(Operation[None]):
    """How many messages of a user are unread is told."""

    __slots__ = ("_unread", "user_id")
    name = "inbox_announce_unread"

    def __init__(self, user_id: str) -> None:
        self.user_id: str = user_id
        self._unread = Unread()

    def carry_out(self, store: Store) -> None:
        self._unread = store.inboxes.count_unread(store.connection, store.now, self.user_id)

    def notify(self, delivery: KeptListener, answer: None) -> None:
        delivery.inbox_changed(self.user_id, InboxChange(self._unread))


class AppendEvents(Operation[None]):
    """Events that belong to no other write."""

    __slots__ = ("_events",)

    def __init__(self, events: Sequence[NewEvent]) -> None:
        self._events = events

    def carry_out(self, store: Store) -> None:
        store.events.append(store.connection, store.now, self._events)


class NotifyUnread(Operation[int]):
    """Events for messages that were not read in time; how many messages were looked at."""

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def carry_out(self, store: Store) -> int:
        due = store.events.take_due(store.connection, store.now, self._limit)
        for user_id, offset, epoch in due:
            found = store.inboxes.unread(store.connection, store.now, user_id, offset, epoch)
            if found is not None:
                told = unread(user_id, *found, store.now)
                store.events.append(store.connection, store.now, [told])
        return len(due)


class TrimEvents(Operation[None]):
    """Remove some of the events that are past their time."""

    __slots__ = ()

    def carry_out(self, store: Store) -> None:
        store.events.sweep(store.connection, store.now, 10_000)


class MoveEpochs(Operation[None]):
    """Every epoch moves on."""

    __slots__ = ()

    def carry_out(self, store: Store) -> None:
        store.move_epochs()

    def notify(self, delivery: KeptListener, answer: None) -> None:
        delivery.epochs_moved()


class Sweep(Operation[bool]):
    """One small step of removing what is past its age, and of giving the disk its room back; true where there may be
    more."""

    __slots__ = ("_limit",)
    name = "sweep"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def carry_out(self, store: Store) -> bool:
        limit = self._limit
        removed = [part.sweep(store.connection, store.now, limit) for part in (store.keys, store.tasks)]
        removed += [part.sweep(store.connection, store.now, limit) for part in (store.inboxes, store.histories)]
        removed.append(store.outputs.sweep(store.connection, limit))
        removed.append(revocationrows.sweep(store.connection, store.now, limit))
        removed.append(store.events.sweep(store.connection, store.now, limit))
        removed.append(deliveryrows.sweep(store.connection, store.now, limit))
        store.spare_pages = spare_pages(store.connection)
        return max(removed) >= limit or store.spare_pages > 0


class MeasureStore(Operation[tuple[int, int]]):
    """How many bytes the store's files have, and how many are free beside them."""

    __slots__ = ()
    name = "measure"

    def carry_out(self, store: Store) -> tuple[int, int]:
        store.outputs.measure(store.connection)
        return store.measure()


class NoteChanges(Operation[None]):
    """Renew the mark of a store that was written to (`pushserver.engine.embedded.marks`)."""

    __slots__ = ()

    def carry_out(self, store: Store) -> None:
        store.note_changes()


class Probe(Operation[None]):
    """A write that changes nothing that matters."""

    __slots__ = ()
    name = "probe"

    def carry_out(self, store: Store) -> None:
        store.connection.execute("INSERT OR REPLACE INTO probe (probe, written_at) VALUES (1, ?)", (store.now,))


#: What the metrics know from the start.
NAMES: Final = (
    "publish",
    "history_read",
    "history_clear",
    *(
        f"inbox_{name}"
        for name in ("append", "read", "list", "mark", "delete", "announce_unread", "state", "acknowledge", "clear")
    ),
    *(f"task_{name}" for name in ("create", "replace", "restart", "get", "of_user", "stale", "idle", "done")),
    "output_append",
    "output_read",
    "revoke",
    "seen",
    "save_seen",
    "sweep",
    "measure",
    "probe",
    "other",
)
