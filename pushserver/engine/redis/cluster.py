"""The nodes: who lives, what the dead left behind, and questions to all of them.

A node shows that it lives by a regular `heartbeat`; one that has not for a whole lease is expired by whoever notices:
its users' presence is removed script by script, and what each script removed is announced by the node that ran it. A
node that was taken for dead, or finds that Redis' data is not what it was, continues under a new incarnation and
registers all its users anew; in the first case it announces them, as their end was announced.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.engine.interfaces import Member, NodeInfo, Survey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from pushserver.engine.interfaces import EngineClock, Listener

    from .commands import RedisCommands
    from .connection import Reply
    from .names import Names
    from .shared_settings import SharedSettings
    from .subscriber import Subscriber

#: How long a node may be silent before it is taken for dead, ms.
LEASE: Final = 20_000
#: How many heartbeats there are in a lease.
_HEARTBEATS: Final = 4
#: How long what belongs to a node stays in Redis where no node lives to remove it, ms.
PRESENCE_TTL: Final = 24 * 3600 * 1000
#: How long it is remembered when a user was last seen, ms.
SEEN_TTL: Final = 90 * 24 * 3600 * 1000
#: So many entries of a dead node are removed in one script.
_STEP: Final = 100


class _Survey:
    """A question on its way."""

    __slots__ = ("answers", "done", "open")

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        #: the names of the nodes that have said nothing yet, by incarnation
        self.open: dict[str, str] = {}
        self.done: Deferred[None] = Deferred()

    def close(self, incarnation: str) -> None:
        self.open.pop(incarnation, None)
        if not self.open:
            self.end()

    def end(self) -> None:
        if not self.done.called:
            self.done.callback(None)


class _Living(NamedTuple):
    """A living node; ``replies``: where it receives what is for it alone, empty for one of an older version."""

    incarnation: str
    node: NodeInfo
    replies: str


class Residents(Protocol):
    """The users who are present on this node (`presence.RedisPresence`)."""

    @property
    def connections(self) -> int:
        """How many connections are registered."""

    @property
    def held(self) -> int:
        """How many connections and subscriptions are registered."""

    async def register(self, notify: bool) -> None:
        """Register them under the node's new incarnation; ``notify``: others may have said that they went."""

    def keeps(self, channel: str, user_id: str, connection_id: str) -> bool:
        """Return whether a subscription that is left of an earlier incarnation is still here."""

    def announce_returned(self) -> None:
        """Nothing is left of earlier incarnations: announce who is back beside those of `register`."""

    async def compare(self) -> None:
        """Compare some of them with what Redis keeps, and mend that."""


class RedisCluster:
    """This node among the others."""

    _log = Logger()

    def __init__(
        self,
        clock: EngineClock,
        commands: RedisCommands,
        subscriber: Subscriber,
        names: Names,
        settings: SharedSettings,
        member: tuple[str, int],
    ) -> None:
        """``member``: this node's name, and how long a node may be silent before it is taken for dead, ms."""
        self._clock = clock
        self._commands = commands
        self._subscriber = subscriber
        self._names = names
        self._settings = settings
        self._name, self._lease = member
        #: what the other nodes were told of this node's settings
        self._told = b""
        #: the generation in which others said theirs, and until when what they said in the one before counts, s
        self._generation = ""
        self._said_before_until = 0.0
        self._started_at = 0
        self._listener: Listener
        self._residents: Residents
        self._id = secrets.token_hex(8)
        self.incarnation = ""
        self.control = names.control
        self.replies = names.answers(self._id)
        self._call: IDelayedCall | None = None
        self._under_way: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._again = False
        self._stale = True
        #: whether this node was taken for dead and has not registered again yet
        self._expired = False
        self._stopping = False
        self._number = 0
        self._surveys: dict[str, _Survey] = {}
        #: why the last heartbeat failed
        self.trouble: str | None = "has not shown that it lives yet"
        self.lag = 0
        self.expired = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, listener: Listener, residents: Residents) -> None:
        """Notify ``listener`` and register ``residents`` from now on."""
        self._listener = listener
        self._residents = residents
        self._started_at = self._clock.now()
        self._subscriber.add(self.control, self._receive)
        self._subscriber.add(self.replies, self._receive)

    def renew(self) -> None:
        """Redis' data may not be what it was: register under a new incarnation."""
        self._stale = True
        self.hurry()

    def hurry(self) -> None:
        """Send a heartbeat soon, or right after the one that is under way."""
        if self._stopping:
            return
        if self._call is not None:
            self._call.cancel()
        self._call = self._clock.later(0, self._tick)

    def _tick(self) -> None:
        self._call = None
        if self._under_way is not None:
            self._again = True
            return
        self._again = False
        waiting, self._waiting = self._waiting, []
        self._under_way = self._clock.detach(self._attempt(), self._log, "the heartbeat")

        def done(_: None) -> None:
            self._under_way = None
            for each in waiting:
                each.callback(None)
            if not self._stopping and self._call is None:
                self._call = self._clock.later(0 if self._again else self._lease / 1000 / _HEARTBEATS, self._tick)

        self._under_way.addCallback(done)

    def heartbeat(self) -> Deferred[None]:
        """Fires after a heartbeat that begins after this call; whether it came about, `trouble` tells."""
        done: Deferred[None] = Deferred()
        if self._stopping:
            done.callback(None)
        else:
            self._waiting.append(done)
            self.hurry()
        return done

    async def _attempt(self) -> None:
        try:
            await self._heartbeat()
        except errors.Unavailable as error:
            self.trouble = str(error)
        except Exception as error:
            self.trouble = str(error) or type(error).__name__
            raise

    async def _heartbeat(self) -> None:
        """One heartbeat; expires the nodes that it finds dead."""
        known = self._commands.writes
        now, generation, writes, lag, *dead_nodes = await self._show_alive()
        self.trouble = None
        self._commands.note_time(now)
        self.lag = int(lag)
        await self._commands.compare(generation.decode(), int(writes), known)
        await self._share_settings()
        await self._residents.compare()
        for dead in dead_nodes:
            await self.expire(dead.decode(), self._lease)

    async def _show_alive(self) -> list[Reply]:
        if not self._stale:
            reply = await self._send("")
            if reply[0] != b"gone":
                return reply
            # Where all of Redis' data is gone, nobody has announced that anyone went.
            self._expired = self._expired or reply[1].decode() == self._commands.generation
        old, self.incarnation = self.incarnation, secrets.token_hex(8)
        self._stale = False
        try:
            reply = await self._send("new")
            await self._residents.register(self._expired)
            self._expired = False
            if old:
                await self.expire(old, 0)
            self._residents.announce_returned()
        except errors.Unavailable:
            self._stale = True
            raise
        return reply

    async def _share_settings(self) -> None:
        """Learn what other nodes are configured with, and let them ask where this node's settings are news."""
        reply = await self._commands.run("settings", [self._names.nodes], self._names.node(""))
        own = self.incarnation.encode()
        rows = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        before, self._generation = self._generation, self._commands.generation
        if before not in ("", self._generation):
            # What they said may have gone with the data: it counts until each had the time to say it again.
            self._said_before_until = self._clock.seconds() + self._lease / 1000
        self._settings.note(
            ((name.decode(), text) for incarnation, name, text in rows if incarnation != own),
            beside=self._clock.seconds() < self._said_before_until,
        )
        told = own + self._settings.encoded()
        if told != self._told:
            # A node of version 1 passes over this word.
            await self._commands.call("PUBLISH", self.control, f"c 0 {self.replies}\n")
            self._told = told

    async def _send(self, new: str) -> list[Reply]:
        keys = [self._names.nodes, self._names.node(self.incarnation), self._names.ingest, self._names.server]
        # Who is signed in is counted in Redis at every change; the others only here.
        anonymous = max(0, self._listener.connections() - self._residents.connections)
        return await self._commands.run(
            "heartbeat", keys, self.incarnation, self._lease, PRESENCE_TTL, self._name, self._started_at, new,
            anonymous, self.replies, self._settings.encoded(), self._residents.held,
        )  # fmt: skip

    async def expire(self, incarnation: str, lease: int) -> None:
        """Remove what a dead node left, and notify the listener of it. ``lease``: how long it must have been silent,
        ms. Fails with `errors.Unavailable`."""
        names = self._names
        state = b"more"
        while state == b"more":
            state, count, *rest = await self._commands.run(
                "expire", names.left_by(incarnation), incarnation, lease, _STEP, names.prefix, SEEN_TTL, PRESENCE_TTL
            )
            users, left = rest[: 2 * int(count)], rest[2 * int(count) :]
            for user, seen_at in zip(users[::2], users[1::2], strict=True):
                self._listener.offline(user.decode(), int(seen_at))
            for channel, user, connection, info, last in zip(*(left[at::5] for at in range(5)), strict=True):
                if not last and self._residents.keeps(channel.decode(), user.decode(), connection.decode()):
                    continue
                member = Member(user.decode(), 0, msgspec.Raw(info) if info else None)
                self._listener.absent(channel.decode(), member, connection.decode(), bool(last))
            self.expired += int(count)

    async def stop(self) -> None:
        """Remove this node and all that is present on it from Redis, where that can be reached."""
        self._stopping = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._under_way is not None:
            await self._under_way
        for survey in list(self._surveys.values()):
            survey.end()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)
        if self.incarnation:
            try:
                await self._expire_silently()
            except errors.Unavailable:
                pass

    async def _expire_silently(self) -> None:
        names = self._names
        own = self.incarnation
        state = b"more"
        while state == b"more":
            reply = await self._commands.run(
                "expire", names.left_by(own), own, 0, _STEP, names.prefix, SEEN_TTL, PRESENCE_TTL
            )
            state = reply[0]

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[NodeInfo]:
        return [living.node for living in await self._living()]

    async def _living(self) -> list[_Living]:
        """Return the living nodes, the one that showed itself last at the end."""
        reply = await self._commands.run("nodes", [self._names.nodes], self._lease, self._names.node(""))
        own = self.incarnation.encode()
        return [
            _Living(
                incarnation.decode(),
                NodeInfo(
                    name.decode(),
                    int(started),
                    self._listener.connections() if incarnation == own else int(connections),
                    int(heartbeat_at),
                ),
                replies.decode(),
            )
            for incarnation, name, started, connections, replies, heartbeat_at in zip(
                *(reply[at::6] for at in range(6)), strict=True
            )
        ]

    # -- questions ----------------------------------------------------------------------------------------------------

    async def survey(self, question: bytes, timeout: int) -> Survey:
        async def ask(number: str, survey: _Survey) -> None:
            survey.open = {living.incarnation: living.node.name for living in await self._living()}
            survey.open[self.incarnation] = self._name
            alone = len(survey.open) == 1
            self._ask_this_node(survey, question)
            if not alone:
                await self._send_question(number, self.control, question)

        return await self._collect(ask, timeout)

    async def request(self, node: str, question: bytes, timeout: int) -> bytes | None:
        found: list[_Living] = []

        async def ask(number: str, survey: _Survey) -> None:
            # A node of an older version says nowhere that it can be asked alone.
            found.extend(each for each in await self._living() if each.node.name == node and each.replies)
            if not found:
                survey.end()
                return
            survey.open = {found[-1].incarnation: node}
            if found[-1].incarnation == self.incarnation:
                self._ask_this_node(survey, question)
            else:
                await self._send_question(number, found[-1].replies, question)

        answers = (await self._collect(ask, timeout)).answers
        if found and not answers:
            raise errors.Unavailable("the node did not answer")
        return answers[node] if answers else None

    async def _collect(self, ask: Callable[[str, _Survey], Awaitable[None]], timeout: int) -> Survey:
        """Let ``ask`` send a question under a number, and return what is answered to it in time."""
        if not self._subscriber.receiving:
            raise errors.Unavailable("Redis is away: no answers come")
        self._number += 1
        number = str(self._number)
        survey = self._surveys[number] = _Survey()
        call = self._clock.later(timeout / 1000, survey.end)
        try:
            await ask(number, survey)
            await survey.done
        finally:
            del self._surveys[number]
            if call.active():
                call.cancel()
        return Survey(survey.answers, sorted(survey.open.values()))

    async def _send_question(self, number: str, to: str, question: bytes) -> None:
        await self._commands.call("PUBLISH", to, f"q {number} {self.replies}\n".encode() + question)

    async def notify_others(self, notice: bytes) -> None:
        await self._commands.call("PUBLISH", self.control, f"s 0 {self.replies}\n".encode() + notice)

    def _ask_this_node(self, survey: _Survey, question: bytes) -> None:
        def done(result: bytes | Failure) -> None:
            if isinstance(result, bytes):
                survey.answers[self._name] = result
            else:
                self._log.warn("This node did not answer a question: {reason}", reason=result.getErrorMessage())
            survey.close(self.incarnation)

        self._listener.answer(question).addBoth(done)

    def _receive(self, payload: bytes) -> None:
        """A question, an answer or a notice of another node."""
        head, _, body = payload.partition(b"\n")
        try:
            kind, number, *words = head.decode().split(" ", 3)
            self._read(kind, number, words, body)
        except (ValueError, IndexError) as error:
            self._log.warn("A message between nodes cannot be read: {reason}", reason=str(error))

    def _read(self, kind: str, number: str, words: list[str], body: bytes) -> None:
        if kind == "q" and words[0] != self.replies:
            self._answer(number, words[0], body)
        elif kind == "c" and words[0] != self.replies:
            # Another node is here, or is configured otherwise than before.
            self.hurry()
        elif kind in ("a", "n") and number in self._surveys:
            survey = self._surveys[number]
            if kind == "a" and words[0] in survey.open:
                survey.answers[words[1]] = body
            survey.close(words[0])
        elif kind == "s" and words[0] != self.replies:
            self._listener.notice(body)

    def _answer(self, number: str, to: str, question: bytes) -> None:
        async def answer() -> None:
            try:
                await self._send_answer(number, to, question)
            except errors.Unavailable:
                # Redis is away: who asked does not wait for ever.
                pass

        self._clock.detach(answer(), self._log, "answering a question")

    async def _send_answer(self, number: str, to: str, question: bytes) -> None:
        try:
            body = await self._listener.answer(question)
        except Exception as error:
            self._log.warn("This node did not answer a question: {error!r}", error=error)
            await self._commands.call("PUBLISH", to, f"n {number} {self.incarnation}\n")
        else:
            head = f"a {number} {self.incarnation} {self._name}\n".encode()
            await self._commands.call("PUBLISH", to, head + body)
