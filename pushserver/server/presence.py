"""Who is here: users' comings and goings, in channels that keep presence and on ``status:`` channels.

A user counts once, however many connections; the engine says which of them was the first and the last, over all nodes.
The last one's going is announced only after a while, so that a page that is reloaded does not blink.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.core import publication
from pushserver.core.channels import Namespace
from pushserver.core.errors import Unavailable
from pushserver.core.operations import UserStatus
from pushserver.core.publication import Author
from pushserver.core.rare import RareLine
from pushserver.core.tokens import Identity
from pushserver.engine.interfaces import Member
from pushserver.server.clock import Clock
from pushserver.server.concurrency import begin
from pushserver.server.connection import Connection
from pushserver.server.events.occupancy import MARK, Occupancy
from pushserver.server.events.recorder import EventRecorder
from pushserver.server.publishing import Publishing
from pushserver.server.user_turns import UserTurns

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from pushserver.engine.interfaces import IEngine

#: ms between a user's last connection's end and the announcement that the user is offline.
OFFLINE_GRACE: Final = 5_000
#: Departures of one user that the engine is told of at a time: a hundred connections of a hundred channels each may end
#: in one turn, and what waits for the engine is bounded for all.
DEPARTING: Final = 32


#: Seconds until the engine is told again what it could not be told.
AGAIN: Final = 1.0
#: Users of whom it is said at a time that they went, where this node is the last.
BATCH: Final = 500

#: What is announced: of who has gone, and of who has come.
_TYPES: Final = ("presence_leave", "presence_join")


class _Joined(msgspec.Struct, frozen=True, omit_defaults=True):
    user_id: str = msgspec.field(name="userId")
    info: msgspec.Raw | None = None


class _Moved(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """The data of the events ``presence.join`` and ``presence.leave``."""

    channel: str
    user_id: str
    info: msgspec.Raw | None = None


def _info(identity: Identity) -> msgspec.Raw | None:
    return None if identity.info is None else msgspec.Raw(identity.info)


class Presence:
    """Keeps the engine's presence true for this node's connections, and announces what changed."""

    _log = Logger()

    def __init__(
        self, clock: Clock, engine: IEngine, publishing: Publishing, recorder: EventRecorder, occupancy: Occupancy
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._publishing = publishing
        self._recorder = recorder
        self._occupancy = occupancy
        #: users who have gone a while ago, the announcement to come, and when they were seen
        self._leaving: dict[str, tuple[IDelayedCall, int]] = {}
        #: those of them whom the others may have been told of: no answer came
        self._doubtful: set[str] = set()
        #: users of whom this node is saying that they went
        self._announcing: set[str] = set()
        #: what the engine is being notified of
        self._notifying: set[Deferred[Any]] = set()
        self._departures = UserTurns(clock, DEPARTING)
        self._untold = RareLine()
        #: whether this node is about to stop, and whether it has
        self._stopping = False
        self._stopped = False
        #: subscriptions whose presence does not follow the rules yet, and the call that sees to them
        self._rules_due: list[tuple[Connection, str]] = []
        self._rules_call: IDelayedCall | None = None

    # -- users --------------------------------------------------------------------------------------------------------

    async def connect(self, connection: Connection, user_id: str) -> int:
        """A user's connection is authenticated. Called once for each connection, and undone by `disconnect`. Return
        how many connections the user has on all nodes, as far as the engine knows."""
        arrival = await self._engine.presence.connect(user_id, connection.id)
        waiting = self._leaving.pop(user_id, None)
        if waiting is not None:
            waiting[0].cancel()
        self._announcing.discard(user_id)
        # Who came back before anybody was notified that they had gone need not be announced.
        if arrival.new and (waiting is None or user_id in self._doubtful):
            self._detach(self._announce_status(user_id, "online", self._clock.now()))
        self._doubtful.discard(user_id)
        return arrival.connections

    def disconnect(self, connection: Connection, user_id: str) -> None:
        self._depart(user_id, partial(self._disconnect, user_id, connection.id, self._clock.now()))

    async def _disconnect(self, user_id: str, connection_id: str, now: int) -> None:
        if await self._engine.presence.disconnect(user_id, connection_id, now):
            self._leave_later(user_id, now)

    def _left(self, user_id: str, last_seen_at: int) -> None:
        del self._leaving[user_id]
        self._detach(self._confirm_left(user_id, last_seen_at))

    async def _confirm_left(self, user_id: str, last_seen_at: int) -> None:
        presence = self._engine.presence
        self._announcing.add(user_id)
        try:
            going = await presence.going(user_id, last_seen_at)
            if going:
                await self._announce_status(user_id, "offline", last_seen_at)
            alone = await presence.went(user_id)
            # Another node may have taken them back meanwhile, without a word.
            unsaid = not alone if going else user_id in self._doubtful
            if unsaid and user_id in self._announcing and (await presence.online(user_id)).online:
                await self._announce_status(user_id, "online", self._clock.now())
        except Unavailable:
            # Nobody else will say it: it is tried again after a while.
            self._doubtful.add(user_id)
            self._leave_later(user_id, last_seen_at)
            raise
        self._doubtful.discard(user_id)
        self._announcing.discard(user_id)

    async def flush(self) -> dict[str, int]:
        """Wait until the engine knows who has gone. Return the users who have not been announced as offline yet, and
        when they were last seen: this node is about to stop, and another one says so when their time has come."""
        while self._notifying:
            await DeferredList([*self._notifying])
        gone = {user_id: last_seen_at for user_id, (_, last_seen_at) in self._leaving.items()}
        left = await self._occupancy.flush()
        now = self._clock.now()
        return gone | {MARK + channel: now for channel in left}

    def begin_stop(self) -> None:
        """This node is about to stop: from now on it takes nothing over."""
        self._stopping = True

    async def end_alone(self, gone: dict[str, int]) -> None:
        """No other node took these over of what `flush` returned: it is said now. Raises `errors.Unavailable`."""
        await self._occupancy.vacate([name.removeprefix(MARK) for name in gone if name.startswith(MARK)])
        users = [user_id for user_id in gone if not user_id.startswith(MARK)]
        for start in range(0, len(users), BATCH):
            batch = users[start : start + BATCH]
            problems: list[Unavailable] = []
            await DeferredList([Deferred.fromCoroutine(self._end_alone(user_id, problems)) for user_id in batch])
            if problems:
                raise problems[0]

    async def _end_alone(self, user_id: str, problems: list[Unavailable]) -> None:
        waiting = self._leaving.pop(user_id, None)
        if waiting is None:
            # The others took long to say no: it is being said, or the user is back.
            return
        call, last_seen_at = waiting
        call.cancel()
        try:
            await self._confirm_left(user_id, last_seen_at)
        except Unavailable as problem:
            problems.append(problem)

    def take_over(self, gone: dict[str, int]) -> bool:
        """What `flush` returned on a node that stops: falls to this one now. Return False where it is about to stop
        too."""
        if self._stopping:
            return False
        self._occupancy.take_over([name.removeprefix(MARK) for name in gone if name.startswith(MARK)])
        for user_id, last_seen_at in gone.items():
            if not user_id.startswith(MARK):
                self._leave_later(user_id, last_seen_at)
        return True

    def _leave_later(self, user_id: str, last_seen_at: int) -> None:
        """Announce a user as offline after a while, unless they come back."""
        earlier = self._leaving.pop(user_id, None)
        if earlier is not None:
            earlier[0].cancel()
        if not self._stopped:
            call = self._clock.later(OFFLINE_GRACE / 1000, self._left, user_id, last_seen_at)
            self._leaving[user_id] = (call, last_seen_at)

    def offline(self, user_id: str, last_seen_at: int) -> None:
        """A user's connections went with their node; it falls to this one to say so."""
        if user_id in self._leaving:
            # It is about to be said here.
            self._leave_later(user_id, last_seen_at)
        else:
            self._detach(self._confirm_left(user_id, last_seen_at))

    async def is_online(self, user_id: str) -> bool | None:
        """Return whether a user has a connection on any node; None where that cannot be told now."""
        try:
            return (await self._engine.presence.online(user_id)).online
        except Unavailable:
            return None

    def online(self, user_id: str) -> None:
        """A user's connections, which others said had gone, are still here; it falls to this node to say so."""
        self._detach(self._announce_status(user_id, "online", self._clock.now()))

    async def _announce_status(self, user_id: str, status: str, last_seen_at: int) -> None:
        data = publication.body(UserStatus(user_id, status, last_seen_at))
        await self._publishing.announce(f"status:{user_id}", "user_status", data)
        self._recorder.record(f"user.{status}", {"userId": user_id, "lastSeenAt": last_seen_at})

    async def status(self, user_id: str) -> UserStatus:
        """How it stands with a user: what a subscription of ``status:<id>`` is answered with."""
        online = await self._engine.presence.online(user_id)
        # Within the grace the user has not been announced as gone yet.
        present = online.online or user_id in self._leaving or await self._engine.presence.lingers(user_id)
        return UserStatus(user_id, "online" if present else "offline", online.last_seen_at)

    # -- channels -----------------------------------------------------------------------------------------------------

    async def join(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        """A connection follows a channel. An anonymous one is nobody: it is present for protocols that count
        connections alone."""
        if connection.identity is None:
            await self._nobody_moved(connection, namespace, channel, True)
            return
        identity = connection.identity_for(channel)
        if not namespace.tracks_presence or identity is None:
            return
        problems: list[BaseException] = []

        def failed(failure: Failure) -> None:
            if failure.value is not None:
                problems.append(failure.value)

        # Once begun it is finished, also where the connection ends meanwhile: a leave only counts after its join.
        joining = begin(self._join(connection, namespace, channel, identity), failed)
        if joining is not None:
            done: Deferred[None] = Deferred()
            joining.addBoth(lambda _: None if done.called else done.callback(None))
            await done
        if problems:
            # Taken out, so that this frame, which its traceback holds, does not hold it.
            raise problems.pop()

    async def turn(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        """Who followed a channel as nobody has signed in."""
        await self._nobody_moved(connection, namespace, channel, False)
        await self.join(connection, namespace, channel)

    async def _join(self, connection: Connection, namespace: Namespace, channel: str, identity: Identity) -> None:
        first = await self._engine.presence.join(channel, identity.user_id, connection.id, _info(identity))
        await self._moved(connection, namespace, channel, True, identity, first)
        if connection.gone or channel not in connection.channels:
            # It left while the engine was asked.
            await self._leave(connection, namespace, channel)

    async def describe(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        """A connection that follows a channel goes by another token there, which may say something else of its user."""
        identity = connection.identity_for(channel)
        if namespace.tracks_presence and identity is not None and connection.identity is not None:
            await self._engine.presence.describe(channel, identity.user_id, connection.id, _info(identity))

    def describe_soon(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        """As `describe`, beside all else."""
        self._detach(self.describe(connection, namespace, channel))

    def follow_rules(self, subscriptions: Sequence[tuple[Connection, str]]) -> None:
        """Begin or end the presence of these, as the rules are by now. Nothing is announced: nobody has moved."""
        self._detach(self._follow_rules(subscriptions))

    async def _follow_rules(self, subscriptions: Sequence[tuple[Connection, str]]) -> None:
        for at, (connection, channel) in enumerate(subscriptions):
            try:
                await self._follow_rule(connection, channel)
            except Unavailable:
                # The engine itself says that it is away.
                self._rules_due += subscriptions[at:]
                if self._rules_call is None and not self._stopped:
                    self._rules_call = self._clock.later(AGAIN, self._rules_again)
                return

    def _rules_again(self) -> None:
        self._rules_call = None
        due, self._rules_due = self._rules_due, []
        self.follow_rules(due)

    async def _follow_rule(self, connection: Connection, channel: str) -> None:
        presence = self._engine.presence
        identity = connection.identity_for(channel)
        if connection.identity is None or identity is None:
            return
        # The rules may have changed again.
        if self._publishing.keeps_presence(channel) and channel in connection.channels:
            await presence.join(channel, identity.user_id, connection.id, _info(identity))
        if connection.gone or channel not in connection.channels or not self._publishing.keeps_presence(channel):
            await presence.leave(channel, identity.user_id, connection.id)

    def leave(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        if connection.identity is None:
            self._detach(self._nobody_moved(connection, namespace, channel, False))
        elif namespace.tracks_presence:
            self._detach(self._leave(connection, namespace, channel))

    def depart(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        """As `leave`, of a connection that has ended, or is about to: it comes back to nothing."""
        if connection.identity is None:
            if namespace.announces_presence:
                self._depart("", partial(self._nobody_moved, connection, namespace, channel, False))
        elif namespace.tracks_presence:
            self._depart(connection.identity.user_id, partial(self._leave, connection, namespace, channel))

    def _depart(self, user_id: str, work: Callable[[], Coroutine[Deferred[object], object, None]]) -> None:
        """Do this now, or when enough of what this user did before is done."""
        departures = self._departures

        def go() -> None:
            notifying = self._detach(work())
            if notifying is not None:
                departures.begin(user_id)
                notifying.addBoth(lambda _: departures.end(user_id))

        if user_id not in departures.crowded:
            go()
            return
        waiting: Deferred[None] = Deferred()
        self._notifying.add(waiting)

        def go_later() -> None:
            go()
            self._notifying.discard(waiting)
            waiting.callback(None)

        departures.ask(user_id, go_later)

    async def _nobody_moved(self, connection: Connection, namespace: Namespace, channel: str, here: bool) -> None:
        """An anonymous connection has come, or has gone. All of them are one user, who is never the first or last."""
        if namespace.announces_presence:
            info = connection.info_in(channel)
            data = publication.body(_Joined("", None if info is None else msgspec.Raw(info)))
            who = Author("", connection.id, connection.info)
            await self._publishing.announce(channel, _TYPES[here], data, who, by_connection=True)

    async def _leave(self, connection: Connection, namespace: Namespace, channel: str) -> None:
        identity = connection.identity_for(channel)
        assert identity is not None
        last = await self._engine.presence.leave(channel, identity.user_id, connection.id)
        await self._moved(connection, namespace, channel, False, identity, last)

    async def _moved(
        self, connection: Connection, namespace: Namespace, channel: str, here: bool, identity: Identity, counts: bool
    ) -> None:
        """A connection has come, or has gone. ``counts``: its user with it, as the first or the last one."""
        who = Author(identity.user_id, connection.id, connection.info)
        if counts:
            await self._changed(namespace, channel, here, identity.user_id, _info(identity), who)
        elif namespace.announces_presence:
            data = publication.body(_Joined(identity.user_id, _info(identity)))
            await self._publishing.announce(channel, _TYPES[here], data, who, by_connection=True)

    def absent(self, channel: str, member: Member, connection_id: str, last: bool, namespace: Namespace | None) -> None:
        """A connection's presence went with a node, with ``last`` its user's; it falls to this one to say so."""
        if channel.startswith(MARK):
            if last:
                self._occupancy.absent(channel.removeprefix(MARK))
        elif namespace is not None:
            self._detach(self._announce(namespace, channel, False, member, connection_id, last))

    def present(
        self, channel: str, member: Member, connection_id: str, first: bool, namespace: Namespace | None
    ) -> None:
        """A connection's presence, which others said had gone, is still here, with ``first`` its user's; it falls to
        this node to say so."""
        if channel.startswith(MARK):
            if first:
                self._occupancy.present(channel.removeprefix(MARK))
        elif namespace is not None:
            self._detach(self._announce(namespace, channel, True, member, connection_id, first))

    async def _announce(
        self, namespace: Namespace, channel: str, here: bool, member: Member, connection_id: str, counts: bool
    ) -> None:
        """Say what the engine found. What it keeps of a user stands for what the user's token says."""
        told = None if member.info is None else bytes(member.info).decode()
        who = Author(member.user_id, connection_id, told) if connection_id else None
        if counts:
            await self._changed(namespace, channel, here, member.user_id, member.info, who)
        elif namespace.announces_presence:
            data = publication.body(_Joined(member.user_id, member.info))
            await self._publishing.announce(channel, _TYPES[here], data, who, by_connection=True)

    async def _changed(
        self,
        namespace: Namespace,
        channel: str,
        here: bool,
        user_id: str,
        info: msgspec.Raw | None,
        who: Author | None = None,
    ) -> None:
        """Say that a user has come, or has gone. ``who``: with which connection, where that is known."""
        if namespace.announces_presence:
            await self._publishing.announce(channel, _TYPES[here], publication.body(_Joined(user_id, info)), who)
        if namespace.tracks_presence:
            self._recorder.record("presence.join" if here else "presence.leave", _Moved(channel, user_id, info))

    async def members(self, channel: str) -> list[Member]:
        return await self._engine.presence.members(channel)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _detach(self, work: Coroutine[Deferred[object], object, None]) -> Deferred[None] | None:
        """Let the engine know; return what fires when it does, None where it does already."""

        def failed(failure: Failure) -> None:
            if failure.check(Unavailable):
                self.could_not_notify()
            else:
                self._log.failure("telling presence failed", failure)

        notifying = begin(work, failed)
        if notifying is not None:
            self._notifying.add(notifying)
            notifying.addBoth(lambda _: self._notifying.discard(notifying))
        return notifying

    def could_not_notify(self) -> None:
        """Write down that the engine did not take something of presence. Where it is away that is so of everybody."""
        if times := self._untold.times(self._clock.seconds()):
            self._log.warn(
                "presence could not be told, {times} times: the engine cannot answer now",
                event="presence_untold",
                times=times,
            )

    def stop(self) -> None:
        self._stopping = self._stopped = True
        if self._rules_call is not None:
            self._rules_call.cancel()
            self._rules_call = None
        for waiting, _ in self._leaving.values():
            waiting.cancel()
        self._leaving.clear()
        self._doubtful.clear()
        self._announcing.clear()
        self._occupancy.stop()
