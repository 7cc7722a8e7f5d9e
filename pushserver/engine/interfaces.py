"""What an engine is: the places where messages travel and rest. One contract, kept by every engine.

``tests/contracts/`` holds the suite that each engine passes. What holds for every method here:

- It returns a `Deferred`. A caller's mistake that only the engine can see fails it with `errors.Conflict` or
  `errors.NotFound`; where the engine cannot answer, it fails with `errors.Unavailable`, and nothing may be assumed
  about what happened. No other failure is expected.
- Times are ms since the Unix epoch, durations are ms.
- A write that carries an `IdempotencyKey` happens at most once: a repeat of its key within `ONCE_TTL` changes nothing
  and returns what the first returned, with ``duplicate`` true; a repeat while the first is under way waits for it. The
  key is written in the same transaction as what it protects.
- The node's `Listener` is notified of what has a position only when it is as durable as the engine makes it, in the
  order of its offsets, without gap or repeat; where that cannot be kept, `Listener.resync` says so instead. The call
  that published it fires after the node's own listener was notified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
from zope.interface import Attribute, Interface

from pushserver.core.errors import PushError
from pushserver.core.events import NewEvent
from pushserver.core.histogram import Histograms
from pushserver.core.inbox import InboxChange, Selection, Unread
from pushserver.core.output import NewOutput, OutputKind, Producer
from pushserver.core.positions import BEGINNING, Position
from pushserver.core.publication import Messages, Publication
from pushserver.core.task import TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IDelayedCall
    from twisted.logger import Logger

#: How long the key of a write is remembered, ms. Long enough for every retry of a publisher that gives up at some time.
ONCE_TTL: Final = 5 * 60 * 1000

#: How long a channel without news keeps its position, ms.
POSITION_TTL: Final = 30 * 24 * 3600 * 1000


#: How long a channel that was never written keeps its epoch, ms: shorter than any position is kept without news, so
#: that no epoch returns after its channel was forgotten.
EPOCH_PERIOD: Final = POSITION_TTL // 2

#: How long after such a period position 0 of its epoch still counts as 0, ms.
EPOCH_GRACE: Final = 3600 * 1000

#: What a page of messages holds at most, bytes, where a reply is made of it; one message always fits.
PAGE_BYTES: Final = 4 * 1024 * 1024


class Fence(msgspec.Struct, frozen=True):
    """A lease that must still be held for a write to happen, checked together with the write."""

    lease: str
    token: str


class IdempotencyKey(msgspec.Struct, frozen=True):
    """Makes a write happen at most once: ``key`` within the scope of the written thing (channel, user, or task), and of
    who wrote it: ``publisher`` is a user's id, or None for the server side."""

    key: str
    fence: Fence | None = None
    publisher: str | None = None


class Retention(msgspec.Struct, frozen=True):
    """How much a channel keeps: at most ``size`` messages, each for ``ttl`` ms, and at most ``max_bytes`` of them
    (or one message)."""

    size: int
    ttl: int

    @property
    def max_bytes(self) -> int:
        """16 MiB, or 1 KiB for each message where many are kept."""
        return max(16 * 1024 * 1024, 1024 * self.size)


class PublishResult(msgspec.Struct, frozen=True):
    """What became of a publication. ``conflict``: it repeats a key (``duplicate``), but with another type or data."""

    message_id: str
    offset: int | None = None
    epoch: str | None = None
    duplicate: bool = False
    conflict: bool = False


def _current(since: Position, previous_epoch: str | None, epoch: str) -> Position:
    first = since.offset == 0 and since.epoch in (previous_epoch, BEGINNING.epoch)
    return Position(0, epoch) if first else since


class HistoryPage(msgspec.Struct, frozen=True):
    """Some of a channel's kept messages.

    ``newest`` is the channel's position at the moment of reading; ``floor`` is the highest offset that was lost to size
    or age (0: none), so everything after a position is there exactly when that position is not below it. ``more``: the
    page was ended by its limit of bytes. ``previous_epoch``: position 0 of this epoch still counts as 0 here.
    """

    messages: Messages
    newest: Position
    floor: int
    more: bool = False
    previous_epoch: str | None = None

    def current(self, since: Position) -> Position:
        """Return a position as it counts now: 0 of the epoch before, and `BEGINNING`, is 0 of this one, every other one
        is itself."""
        return _current(since, self.previous_epoch, self.newest.epoch)


class InboxRules(msgspec.Struct):
    """The bounds of every inbox: ``size`` messages, of these ``chat_size`` direct chat, beside them ``task_size`` ends
    of tasks, each for ``ttl`` ms.

    One object for all who keep inboxes, read at each use: `adopt` changes it for all of them.
    """

    size: int
    chat_size: int
    ttl: int
    task_size: int = 50

    def adopt(self, other: InboxRules) -> None:
        """Hold for what comes from now on; what is kept is cut when the next message comes."""
        self.size, self.chat_size, self.ttl = other.size, other.chat_size, other.ttl
        self.task_size = other.task_size


class EventRules(msgspec.Struct):
    """The bounds of the outbox of events: each is kept for ``retention`` ms, and at most ``max_bytes`` of them.

    Read at each use, as `InboxRules`.
    """

    retention: int = 24 * 3600 * 1000
    max_bytes: int = 256 * 1024 * 1024

    def adopt(self, other: EventRules) -> None:
        """Hold for what comes from now on."""
        self.retention, self.max_bytes = other.retention, other.max_bytes


class TaskRules(msgspec.Struct):
    """How long every ended task stays known: ``ttl`` ms.

    Read at each use, as `InboxRules`.
    """

    ttl: int = 1_800_000

    def adopt(self, other: TaskRules) -> None:
        """Hold for what ends from now on."""
        self.ttl = other.ttl


class OutputRules(msgspec.Struct):
    """The bounds of every output: at most ``max_bytes`` of each are kept.

    Read at each use, as `InboxRules`.
    """

    max_bytes: int = 4 * 1024 * 1024

    def adopt(self, other: OutputRules) -> None:
        """Hold for what comes from now on."""
        self.max_bytes = other.max_bytes


class OutputTaken(msgspec.Struct, frozen=True):
    """What became of an append: the position after it. ``cancel_requested``: the task's owner wants it to end."""

    offset: int
    epoch: str
    duplicate: bool = False
    cancel_requested: bool = False


class OutputPage(msgspec.Struct, frozen=True):
    """Some of an output: ``body``, as `pushserver.core.output` says it rests, from the position ``after`` up to
    ``offset``.

    ``kind`` is None before the first append. ``start`` is the first position that is kept. ``closed``: nothing follows
    what is kept. ``more``: the page was ended by its limit. ``trimmed``: some of what followed the position asked for
    is gone; ``reset``: that position is of another life of the output, or beyond its end. In both cases the page
    begins at ``start``.
    """

    kind: OutputKind | None
    body: bytes
    after: int
    offset: int
    epoch: str
    start: int
    closed: bool
    more: bool = False
    trimmed: bool = False
    reset: bool = False


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event in the outbox; ``body`` is its JSON (`pushserver.core.events.decode`)."""

    id: str
    body: bytes


class EventPage(msgspec.Struct, frozen=True):
    """Events in the order in which they were kept. ``last`` is the id to read on from; ``lost``: some of what followed
    the id that was asked for is gone, or that id was never given here."""

    events: list[StoredEvent]
    last: str
    lost: bool


class OutboxFigures(msgspec.Struct, frozen=True):
    """The outbox in numbers: how many events there are and their bytes, the number of the newest, when the oldest was
    kept (ms; None: there is none), and how many went before their time since ``max_bytes`` was reached."""

    kept: int = 0
    bytes: int = 0
    newest: int = 0
    oldest_at: int | None = None
    dropped: int = 0


class HeldSubject(msgspec.Struct, frozen=True):
    """A subject whose oldest event failed so often, and when it is sent again, ms."""

    subject: str
    failures: int
    due: int


class DeliveryState(msgspec.Struct, frozen=True):
    """How far a webhook has come: all up to ``cursor`` was taken, is held or dead. ``held`` counts the held events.
    ``gone`` is the address whose receiver answered that it is gone; "": none."""

    cursor: str
    subjects: list[HeldSubject]
    held: int
    gone: str = ""


class DeadEvent(msgspec.Struct, frozen=True):
    """An event that a webhook did not take: why, and after how many attempts. ``died_at`` is ms."""

    webhook: str
    event: msgspec.Raw
    error: str
    attempts: int
    died_at: int = msgspec.field(name="diedAt")


#: How many dead events are kept, the newest, and for how long, ms.
MAX_DEAD: Final = 1_000
DEAD_TTL: Final = 7 * 24 * 3600 * 1000


class InboxNumbers(msgspec.Struct, frozen=True):
    """An inbox in numbers: its newest offset, its epoch, the cursor, how many messages wait after the cursor, and how
    many were not read."""

    offset: int
    epoch: str
    acked: int
    pending: int
    unread: Unread = Unread()


class InboxPage(msgspec.Struct, frozen=True):
    """Some of an inbox, oldest first, after a position.

    ``lost`` counts the messages after that position that went by the inbox' limits (not those whose own ``ttl`` ended,
    nor those replaced by a newer one with the same collapse key), and ``beyond`` those of them after the page's last
    message. ``pending`` counts the kept ones after the position, those beyond the page's limit included. ``more``: the
    page was ended by its limit of bytes. ``previous_epoch``: position 0 of this epoch still counts as 0 here.
    """

    messages: list[Publication]
    offset: int
    epoch: str
    acked: int
    lost: int
    beyond: int
    pending: int
    more: bool = False
    previous_epoch: str | None = None
    unread: Unread = Unread()

    def current(self, since: Position) -> Position:
        """As `HistoryPage.current`."""
        return _current(since, self.previous_epoch, self.epoch)


class InboxListing(msgspec.Struct, frozen=True):
    """Some of an inbox, newest first. ``more``: there are older ones of the kind that was asked for. ``offset``,
    ``epoch``, ``previous_epoch`` and ``unread`` are the inbox', as in `InboxPage`."""

    messages: list[Publication]
    more: bool
    offset: int
    epoch: str
    unread: Unread
    previous_epoch: str | None = None

    def current(self, since: Position) -> Position:
        """As `InboxPage.current`."""
        return _current(since, self.previous_epoch, self.epoch)


class InboxOutcome(msgspec.Struct, frozen=True):
    """How many messages a change of an inbox changed, and how many are unread then."""

    changed: int
    unread: Unread


class QuarantinedRow(msgspec.Struct, frozen=True):
    """A row that could not be read, and was taken out of use.

    ``kind``: inbox, history, task, presence, status or event (a dead one); ``name``: whose (a user, a channel, a task,
    a webhook); ``at``: when it was found, ms.
    """

    kind: str
    name: str
    offset: int | None
    body: bytes
    reason: str
    at: int


class TaskEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An accepted change of a task: the kind of event, the state after it, for a change of status the one before."""

    type: str
    state: TaskState
    old_status: str | None = None


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user who is present in a channel, with so many connections."""

    user_id: str
    connections: int
    info: msgspec.Raw | None = None


class Arrival(NamedTuple):
    """A connection of a user begins.

    Attributes:
        connections: how many the user has anywhere, this one included.
        new: whether it is the first, of a user of whom no other node is still to say that they went.
    """

    connections: int
    new: bool


class Online(msgspec.Struct, frozen=True):
    """Whether a user is connected anywhere, and when the last connection was seen (None: never)."""

    user_id: str
    online: bool
    last_seen_at: int | None


class Credential(msgspec.Struct, frozen=True):
    """What of a token can be revoked: its id, its user, and when it was issued (ms; None counts as long ago)."""

    user_id: str
    jti: str | None
    issued_at: int | None


class NodeInfo(msgspec.Struct, frozen=True):
    """A node as the others know it. ``connections``: all of them, also those that belong to no user; of these another
    node's number may be a few seconds old. ``last_heard_at``: when it showed last that it lives, ms of the engine's
    clock."""

    name: str
    started_at: int
    connections: int
    last_heard_at: int


class Survey(msgspec.Struct, frozen=True):
    """What the nodes say to a question: each one's answer by its name, and the names of those that said nothing."""

    answers: dict[str, bytes]
    unanswered: list[str]


class Stoppable(Protocol):
    """Something that recurs until it is stopped."""

    def stop(self) -> None: ...


class EngineClock(Protocol):
    """Time as an engine sees it (`pushserver.server.clock.Clock`): wall time for moments, monotonic for durations."""

    @property
    def now(self) -> Callable[[], int]:
        """What returns the wall time, ms since the Unix epoch."""

    def settled(self) -> int:
        """Return the wall time by which what is kept expires, ms: it follows a step only after ten minutes."""

    @property
    def step(self) -> int:
        """By how much the wall clock was ahead of `settled` when that was asked last, ms."""

    def seconds(self) -> float:
        """Return a monotonic time, s."""

    def milliseconds(self) -> int:
        """Return the same in whole ms."""

    def later(
        self,
        seconds: float,
        call: Callable[..., object],
        *args: Any,  # Any: whatever the call takes
    ) -> IDelayedCall:
        """Call once, ``seconds`` from now."""

    def every(self, seconds: float, call: Callable[[], Awaitable[None] | None], log: Logger, what: str) -> Stoppable:
        """Call every so many seconds, the first time after as many; a failure is logged as ``what`` failed."""

    def detach(
        self,
        work: Coroutine[Any, Any, None],  # Any: what a coroutine waits for is between it and Twisted
        log: Logger,
        what: str,
    ) -> Deferred[None]:
        """Let work go on by itself; a failure is logged as ``what`` failed."""


class Listener(Protocol):
    """What an engine notifies its node of. None of these raises, and none of them waits."""

    def deliver(self, publication: Publication) -> None:
        """A publication on a channel that this node subscribed to."""

    def inbox_changed(self, user_id: str, change: InboxChange) -> None:
        """Messages of a user's inbox were read or deleted, by whomever; in the order of the changes, and among the
        messages of ``user:<id>`` where it belongs. Only where this node subscribed to that channel."""

    def unread_lost(self, user_id: str) -> None:
        """Unread messages of a user went by the inbox' limits or their age; it falls to this node to have that told
        (`IInbox.announce_unread`)."""

    def task_event(self, event: TaskEvent, to_owner: bool) -> None:
        """A task changed. ``to_owner``: received on the owner's channel (final events are not sent there: they come as
        the owner's inbox message); otherwise received on the task's own channel."""

    def resync(self, channel: str, reached: Position | None) -> None:
        """Messages of this channel may have been lost or its epoch changed: who follows it must read anew.
        ``reached``: up to where this node was told of its messages; None where that is not known."""

    def refresh(self) -> None:
        """Messages of other nodes may have been lost: ask again about all that is held (tasks, revocations)."""

    def offline(self, user_id: str, last_seen_at: int) -> None:
        """A user's connections vanished with their node; it falls to this node to announce it."""

    def absent(self, channel: str, member: Member, connection_id: str, last: bool) -> None:
        """A connection's presence in a channel vanished with a node; it falls to this node to announce it. ``last``:
        its user is not there any more."""

    def connections(self) -> int:
        """How many connections this node has, whoever they belong to."""

    def online(self, user_id: str) -> None:
        """A user whose connections had vanished with this node is here after all; it falls to this node to announce
        it."""

    def present(self, channel: str, member: Member, connection_id: str, first: bool) -> None:
        """A connection whose presence in a channel had vanished with this node is here after all; it falls to this node
        to announce it. ``connection_id``: which; "": some of the user's. ``first``: its user is back with it."""

    def answer(self, question: bytes) -> Deferred[bytes]:
        """Another node's (or one's own) question, to every node or to this one."""

    def notice(self, notice: bytes) -> None:
        """What another node sent to every node (`IBroker.notify_others`)."""

    def unusable(self, reason: str) -> None:
        """The engine was away at the start, and what it finds now can never be used as configured: one line."""


class IEngine(Interface):
    """All of an engine. One object may provide every interface below; the attributes say which."""

    broker: IBroker = Attribute("live messages")
    history: IHistory = Attribute("what channels keep")
    inbox: IInbox = Attribute("what users have waiting")
    tasks: ITaskStore = Attribute("the states of tasks")
    outputs: IOutputs = Attribute("what tasks write while they work")
    presence: IPresence = Attribute("who is where")
    revocations: IRevocations = Attribute("which tokens no longer hold")
    events: IEvents = Attribute("what the backend is told")
    deliveries: IDeliveries = Attribute("how far webhooks have come")
    ingest: IIngest | None = Attribute("commands of other programs; None where the engine takes none")
    durations: Histograms = Attribute("how long its operations took, by the label ``operation``")

    def start(listener: Listener) -> Deferred[None]:
        """Open what the engine needs, and notify ``listener`` from then on. Fails with `errors.ConfigError` where the
        engine cannot be used as configured."""

    def stop() -> Deferred[None]:
        """Carry out what was accepted, then close everything. Later calls fail with `errors.Unavailable`.

        It may be called before `start` has fired, which fires soon then, also where the store does not answer."""

    def trouble() -> str | None:
        """Return why the engine cannot answer now, in a few words; None when it can. Never waits."""

    def move_epochs() -> Deferred[None]:
        """Move every epoch on, as where the data may have gone back, for what the engine cannot notice itself (the copy
        of a whole machine was put back). Listeners of every node are told to `Listener.resync`. Fails with
        `errors.Unavailable`."""

    def secret(purpose: str) -> Deferred[bytes]:
        """Return 32 random bytes for one purpose, the same on every node that shares the store, as long as the store's
        data lives. It comes from the store alone, never from the configuration. Fails with `errors.Unavailable`
        before `start`, and where the store was never reached."""

    def clock_skew() -> float:
        """Return by how much the time that nodes go by together is ahead of this node's wall clock, s."""

    def warnings() -> list[str]:
        """Return what an operator should know though the engine answers, a short line each."""

    def quarantine(limit: int) -> Deferred[list[QuarantinedRow]]:
        """Return the rows that could not be read, the newest first. Such a row was skipped and counted, and told like a
        loss: a message of an inbox counts as lost, and nobody resumes over one of a history."""

    def differences() -> dict[str, list[str]]:
        """Return which shared settings of other live nodes are not this node's, by the node's name: those that differ,
        and nothing of a node that has all alike. While they differ, the wider limits hold."""

    def figures() -> dict[str, float]:
        """Return the engine's own gauges and counters for the metrics, by snake_case name."""


class IBroker(Interface):
    """Live messages between nodes."""

    def subscribe(channel: str) -> Deferred[None]:
        """Deliver the channel's messages to this node. Fires when none that is published from now on can be missed
        (unannounced). A second call while subscribed fires at once. What is behind a channel's name (kept
        messages, an inbox, a task) makes no difference here."""

    def unsubscribe(channel: str) -> None:
        """Deliver them no longer. A `subscribe` soon after may find the subscription still standing."""

    def publish(
        publication: Publication,
        retention: Retention | None,
        once: IdempotencyKey | None,
        create: bool = True,
        events: Sequence[NewEvent] = (),
    ) -> Deferred[PublishResult]:
        """Deliver to every subscribed node; with ``retention`` the message is kept and gets its position first.
        Without ``create`` it fails with `errors.NotFound` where it would be the first of its channel to be kept.
        ``events`` are kept with it, as in `ITaskStore.replace`; without ``retention``, before it is delivered."""

    def survey(question: bytes, timeout: int) -> Deferred[Survey]:
        """Ask every live node, this one included. Return the answers after all have answered, or after ``timeout`` ms.
        A node that says that it cannot answer stands in neither list."""

    def request(node: str, question: bytes, timeout: int) -> Deferred[bytes | None]:
        """Ask one live node, by its name, and no other. Return its answer; None where there is no such node. Fails with
        `errors.Unavailable` where it has not answered within ``timeout`` ms, or could not."""

    def notify_others(notice: bytes) -> Deferred[None]:
        """Send something to every other live node (`Listener.notice`), at most once; nobody answers."""

    def nodes() -> Deferred[list[NodeInfo]]:
        """Return the live nodes, this one included."""


class IHistory(Interface):
    """What channels keep (inboxes apart)."""

    def read(
        channel: str, since: int | None, limit: int, reverse: bool, max_bytes: int | None = None
    ) -> Deferred[HistoryPage]:
        """Return at most ``limit`` kept messages: those after offset ``since``, ascending (None: from the oldest kept),
        or with ``reverse`` the newest first, before ``since`` (None: from the newest). None is past its age. With
        ``max_bytes`` at most so many bytes of them, or one message.

        Reading writes nothing. A channel that was never written has offset 0 and an epoch that a first write within
        the hour keeps, or in which position 0 still counts as 0 (`HistoryPage.current`)."""

    def locate(channel: str, since: Position) -> Deferred[Position | None]:
        """Return where a position of an earlier generation stands in the present epoch: at the same offset, where all
        that it covers is of the data that is kept on from. None where some of that may be lost, or it is of another
        life of the channel. A position of the present epoch stands where it is, unless it is beyond the newest."""

    def clear(channel: str) -> Deferred[None]:
        """Remove every message. Positions go on from where they were: who is at the newest has lost nothing, and
        everybody behind it has, as where messages went by age. Clearing what was never written writes nothing."""


class IInbox(Interface):
    """What users have waiting. The cursor is the offset up to which the user has acknowledged; each message has its own
    `Publication.read_at` beside. A change of these is notified (`Listener.inbox_changed`) before its call fires, where
    something changed at all. Ends of tasks (`ITaskStore.replace`) have a quota of their own: neither they nor the other
    messages evict the others."""

    def append(
        publication: Publication,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        once: IdempotencyKey | None,
        events: Sequence[NewEvent] = (),
        unread_after: int | None = None,
    ) -> Deferred[PublishResult]:
        """Keep a message and then deliver it live on its channel. ``chat``: counts against the chat quota and evicts
        only chat (perhaps itself), or, in a full inbox within the quota, the oldest message where that is acknowledged.
        ``collapse_key`` replaces the newest with the same key where it was not read, and that is notified like a
        deletion. ``ttl`` beyond the inbox' own is the inbox' own.
        ``events`` are kept with it. ``unread_after``: where it is kept and not read so many ms later,
        `IEvents.notify_unread` tells."""

    def read(user_id: str, after: int | None, limit: int, max_bytes: int | None = None) -> Deferred[InboxPage]:
        """Return at most ``limit`` messages after offset ``after`` (None: after the cursor), oldest first; with
        ``max_bytes`` at most so many bytes of them, or one message. Reading writes nothing, as in `IHistory.read`."""

    def locate(user_id: str, since: Position) -> Deferred[Position | None]:
        """As `IHistory.locate`, of the user's inbox."""

    def state(user_id: str) -> Deferred[InboxNumbers]:
        """Return the inbox in numbers. Reading writes nothing, as in `IHistory.read`."""

    def list(
        user_id: str, before: int | None, limit: int, unread: bool, max_bytes: int | None = None
    ) -> Deferred[InboxListing]:
        """Return at most ``limit`` messages before offset ``before`` (None: from the newest), newest first, with
        ``unread`` only those that were not read; with ``max_bytes`` at most so many bytes of them, or one message.
        Reading writes nothing, as in `IHistory.read`."""

    def mark(user_id: str, selection: Selection, read_at: int | None, exclude: str | None) -> Deferred[InboxOutcome]:
        """Note when messages were read, ms; one that was read before stays as it was. None: they count as unread again.
        Offsets that are not kept are passed over. ``exclude``: the connection that asked for it. Fails as `acknowledge`
        does; an offset beyond the newest is `errors.Invalid` as ``up_to`` alone."""

    def delete(user_id: str, selection: Selection, exclude: str | None) -> Deferred[InboxOutcome]:
        """Delete messages: they come in no page any more, and do not count as lost. Otherwise as `mark`."""

    def announce_unread(user_id: str) -> Deferred[None]:
        """Notify every node that follows the user's channel of how many messages are unread."""

    def acknowledge(user_id: str, offset: int, epoch: str) -> Deferred[int]:
        """Move the cursor up to ``offset`` (never back) and return the cursor. Another epoch fails with
        `errors.Conflict` (but position 0 of the one before, as in `InboxPage.current`), an offset beyond the newest
        with `errors.Invalid`."""

    def clear(user_id: str) -> Deferred[int]:
        """Delete every message and return how many there were. Positions go on from where they were; nothing counts as
        lost. It is notified as `delete`."""


class ITaskStore(Interface):
    """The states of tasks, changed by comparing versions."""

    rules: TaskRules = Attribute("how long ended ones stay known; `TaskRules.adopt` changes it")

    def create(event: TaskEvent, once: IdempotencyKey | None) -> Deferred[TaskState]:
        """Keep a new task's first state, return that very object, and notify who listens. For a repeat of ``once``
        return the state that the first returned, as another object. An id that exists fails with `errors.Conflict`, a
        version below `lowest_version` with `errors.Unavailable`: it rose meanwhile."""

    def lowest_version() -> int:
        """Return the version that a new state has at least, below 2^53: 1, or, where the data may have gone back, one
        above all that was given out before. Fails never, and never waits."""

    def replace(
        event: TaskEvent,
        final: Publication | None,
        once: IdempotencyKey | None,
        kept: int | None = None,
        events: Sequence[NewEvent] = (),
        output: NewOutput | None = None,
    ) -> Deferred[bool]:
        """Keep a state in the place of one whose version is ``kept`` (None: one below the state's), and notify who
        listens. Return False, with nothing changed, where the kept version is another (somebody was quicker: read and
        decide again), or the new one is below `lowest_version`, which rose meanwhile. ``final``: the owner's inbox
        message of a final state, appended together with it. ``events`` are kept in the same transaction, and not by a
        repeat of ``once``. ``output`` is appended in it, and fails all of it as in `IOutputs.append`; a final state
        closes the task's outputs."""

    def replace_all(changes: Sequence[tuple[TaskEvent, int]]) -> Deferred[list[bool | PushError]]:
        """As `replace` for each of these unfinished states, with the ``kept`` beside it; answered with what each
        returns or fails with. Those of one task follow upon each other in their order: after one that was not kept,
        none of this task is. A task that is not known is one that somebody else changed."""

    def restart(event: TaskEvent, once: IdempotencyKey | None, kept: int | None = None) -> Deferred[TaskState | None]:
        """Keep the first state of another attempt, in the place of one as in `replace`, and notify who listens: an
        ended task is unfinished again, and the message of its end leaves the owner's inbox (nothing counts as lost).
        Return the state as `create` does (a repeat of ``once``: the one that the first returned, as another object), or
        None, with nothing changed, as there. Fails with `errors.NotFound` where the task is not known."""

    def get(task_id: str) -> Deferred[TaskState]:
        """Return the newest state. Fails with `errors.NotFound` where the task is not known, or a final one is older
        than its ``ttl``."""

    def get_all(task_ids: Sequence[str]) -> Deferred[dict[str, TaskState | PushError]]:
        """Return the newest states of these tasks by id, without those that are not known, and why one could not be
        read."""

    def of_user(user_id: str, unfinished: bool, limit: int) -> Deferred[list[TaskState]]:
        """Return at most ``limit`` of the user's tasks, the newest (by creation) first."""

    def stale(age: int, limit: int) -> Deferred[list[TaskState]]:
        """Return unfinished tasks that did not change, nor write, for so long (ms), the oldest first: by the time that
        all nodes go by, and none while that has been set lately."""

    def idle(task_ids: Sequence[str]) -> Deferred[list[int]]:
        """Return for how long each of these unfinished tasks did not change, nor write, in ms: by the time that all
        nodes go by. Of one that has ended, or is not known, -1."""

    def done(task_id: str, key: str) -> Deferred[bool]:
        """Return whether a write with this `IdempotencyKey.key` was already carried out on this task."""


class IOutputs(Interface):
    """What tasks write while they work. An output belongs to one attempt of its task: with another attempt, or where
    the data may have gone back, it is another one, with another epoch. It goes with its task."""

    rules: OutputRules = Attribute("the bounds; `OutputRules.adopt` changes them")

    def append(
        task_id: str,
        new: NewOutput,
        producer: Producer | None,
        attempt: int | None,
        once: IdempotencyKey | None,
    ) -> Deferred[OutputTaken]:
        """Append, and notify who listens on the output's channel with an `pushserver.core.output.OutputPublication`.
        An append that its ``producer``, or ``once``, had before changes nothing, and is answered again: also after the
        end, and whatever it holds.

        Fails with `errors.NotFound` where the task is not known, with `errors.Conflict` where it has ended, the output
        is of another kind or ``attempt`` (None: whichever it is) is another, with `errors.Refused` for one output too
        many, and with what `pushserver.core.output.check_next` raises."""

    def read(task_id: str, name: str, since: Position | None, max_bytes: int) -> Deferred[OutputPage]:
        """Return what is kept after a position (None: from the first kept), at most ``max_bytes`` of it, or one item or
        character. Reading writes nothing. Fails with `errors.NotFound` where the task is not known, and with
        `errors.Invalid` for a position inside a character."""


class IPresence(Interface):
    """Who is where: users' connections and their subscriptions, counted over all nodes."""

    def connect(user_id: str, connection_id: str) -> Deferred[Arrival]:
        """Return how many connections the user has anywhere, and whether it falls to this node to say that the user
        came. Connections of a node that died count until it is taken for dead."""

    def disconnect(user_id: str, connection_id: str, now: int) -> Deferred[bool]:
        """Return true where it was the last. It falls to this node to say so (`going`, then `went`); where it dies
        before that, another node's listener is notified (`Listener.offline`)."""

    def going(user_id: str, last_seen_at: int) -> Deferred[bool]:
        """Return whether this node shall say now that the user went: nobody is here, and no other node is about to."""

    def went(user_id: str) -> Deferred[bool]:
        """It was said that the user went, or that is not so any more. Return false where another node took the user
        back since `disconnect` or `going`, and did not say so."""

    def lingers(user_id: str) -> Deferred[bool]:
        """Return whether the user's last connection has ended on a node that has not begun to say so."""

    def online(user_id: str) -> Deferred[Online]:
        """Return whether the user is connected anywhere."""

    def join(channel: str, user_id: str, connection_id: str, info: msgspec.Raw | None) -> Deferred[bool]:
        """Return true where this is the user's first subscription of the channel anywhere."""

    def describe(channel: str, user_id: str, connection_id: str, info: msgspec.Raw | None) -> Deferred[None]:
        """Replace what a subscription says of its user; nothing where it is not known."""

    def leave(channel: str, user_id: str, connection_id: str) -> Deferred[bool]:
        """Return true where it was the last."""

    def members(channel: str) -> Deferred[list[Member]]:
        """Return who is there, by user id, ascending."""


class IRevocations(Interface):
    """Which tokens no longer hold. Never guesses: where it cannot ask, it fails."""

    def revoke_token(jti: str, until: int) -> Deferred[None]:
        """Block the token of this id; forgotten at ``until``, ms."""

    def revoke_user(user_id: str, issued_until: int, until: int) -> Deferred[None]:
        """Block the user's tokens issued at or before ``issued_until`` (ms), and those that don't say; forgotten at
        ``until``, ms."""

    def revoked(credentials: Sequence[Credential]) -> Deferred[list[bool]]:
        """Return for each credential whether it is revoked now."""


class IEvents(Interface):
    """The outbox: what the backend is told, in order, kept within ``rules`` whether somebody took it or not."""

    rules: EventRules = Attribute("the bounds; `EventRules.adopt` changes them")

    def append(events: Sequence[NewEvent]) -> Deferred[None]:
        """Keep events that belong to no other write, in this order."""

    def read(after: str | None, limit: int, max_bytes: int) -> Deferred[EventPage]:
        """Return at most ``limit`` events, and ``max_bytes`` of them or one, after an id (None: from the oldest kept).
        Where something after it is gone, they begin with the oldest kept. Fails with `errors.Invalid` for what is no
        id."""

    def notify_unread(limit: int) -> Deferred[int]:
        """Keep an event ``inbox.unread`` for each message whose time to be read is over and that is kept and not read;
        once for each. Return how many messages were looked at, at most ``limit``."""

    def trim() -> Deferred[OutboxFigures]:
        """Remove some of what is past its time, and return the numbers afterwards."""


class IDeliveries(Interface):
    """How far each webhook has come. One node at a time works on this, under a lease: all else but `dead`, `retry`,
    `gone` and `forget_gone` is its alone, and fails with `errors.Unavailable` where the lease is lost."""

    def lease(ttl: int) -> Deferred[bool]:
        """Take or keep the lease for ``ttl`` ms, or with 0 give it back. Return whether it is this node's."""

    def begin(webhook: str, age: int) -> Deferred[DeliveryState]:
        """Return how far a webhook has come. One that was never heard of begins ``age`` ms ago."""

    def move_cursor(webhook: str, cursor: str) -> Deferred[None]:
        """All up to this id was taken, is held, or dead."""

    def mark_gone(webhook: str, address: str) -> Deferred[None]:
        """The receiver at this address (`Webhook.address`) answered that it is gone. The webhook has begun."""

    def gone(webhook: str) -> Deferred[str]:
        """Return the address that `mark_gone` was told of last; "": none, or it was forgotten."""

    def forget_gone(webhooks: Sequence[str]) -> Deferred[None]:
        """None of these is gone any more."""

    def keep(webhooks: Sequence[str], ttl: int) -> Deferred[None]:
        """The configuration names these webhooks: how far they have come is known for ``ttl`` ms more. Of others it is
        forgotten once nobody has named them for as long. To be called from time to time."""

    def hold(webhook: str, state: HeldSubject, ids: Sequence[str]) -> Deferred[None]:
        """Hold events of a subject back, behind those that are held of it, and keep its state."""

    def held(webhook: str, subject: str, limit: int) -> Deferred[list[StoredEvent]]:
        """Return the oldest of what is held of a subject. Where an event is gone from the outbox, ``body`` is empty."""

    def release(webhook: str, subject: str, id: str, dead: DeadEvent | None) -> Deferred[int]:
        """An event was taken, or is dead: it is held no more. Return how many still are of its subject; where that is
        none, its state is forgotten."""

    def add_dead(dead: Sequence[DeadEvent]) -> Deferred[None]:
        """Keep dead events that were not held, or that were tried once more."""

    def dead() -> Deferred[list[DeadEvent]]:
        """Return the dead events, the oldest first: the newest `MAX_DEAD`, none older than `DEAD_TTL`."""

    def retry(webhook: str, ids: Sequence[str] | None) -> Deferred[int]:
        """Have dead events of a webhook (None: all) tried once more; return how many. They stay among the dead until
        they are taken."""

    def retried(webhook: str) -> Deferred[list[DeadEvent]]:
        """Return what is to be tried once more, in the order of ids. Each stays until `add_dead` or `revive` says what
        came of it."""

    def revive(webhook: str, id: str) -> Deferred[None]:
        """A dead event was taken after all: forget it."""


class IIngest(Interface):
    """Commands that other programs leave: carried out in order, by one node at a time, at least once."""

    def start(execute: Callable[[str, msgspec.Raw, IdempotencyKey], Awaitable[object]]) -> None:
        """Take part: from now on this node may be the one. ``execute`` carries out a command (method, params) under an
        `IdempotencyKey` whose key is the command's own and whose fence is this node's lease. `errors.Unavailable` makes
        it wait and try again; whatever else it raises counts, and after three times the command is given up."""
