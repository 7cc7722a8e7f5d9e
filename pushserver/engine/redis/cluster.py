"""The nodes: who lives, what the dead left behind, and questions to all of them.

A node shows that it lives by a regular `beat`; one that has not for a whole lease is buried by whoever notices: its
users' presence is removed script by script, and what each script removed is announced by the node that ran it. A node
that was taken for dead, or finds that Redis' data is not what it was, comes to life again under a new incarnation and
enters all its users anew; in the first case it announces them, as their end was announced.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.engine.interfaces import Member, Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from pushserver.engine.interfaces import Listener

    from .names import Names
    from .server import Server
    from .subscriber import Subscriber

#: How long a node may be silent before it is taken for dead, ms.
LEASE: Final = 20_000
#: How many beats there are in a lease.
_BEATS: Final = 4
#: How long what belongs to a node stays in Redis where no node lives to remove it, ms.
PRESENCE_TTL: Final = 24 * 3600 * 1000
#: How long it is remembered when a user was last seen, ms.
SEEN_TTL: Final = 90 * 24 * 3600 * 1000
#: So many entries of a dead node are removed in one script.
_BURIAL: Final = 100


class _Survey:
    """A question on its way."""

    __slots__ = ("answers", "done", "open")

    def __init__(self) -> None:
        self.answers: list[tuple[str, bytes]] = []
        self.open: set[str] = set()
        self.done: Deferred[None] = Deferred()

    def close(self, incarnation: str) -> None:
        self.open.discard(incarnation)
        if not self.open:
            self.end()

    def end(self) -> None:
        if not self.done.called:
            self.done.callback(None)


class Cluster:
    """This node among the others."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        server: Server,
        subscriber: Subscriber,
        names: Names,
        node_name: str,
        now: Callable[[], int],
        lease: int,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._subscriber = subscriber
        self._names = names
        self._name = node_name
        self._lease = lease
        self._now = now
        self._started_at = 0
        self.listener: Listener
        self._id = secrets.token_hex(8)
        self.incarnation = ""
        self.control = names.control
        self.replies = names.answers(self._id)
        #: enters all that is present on this node under its new incarnation; called with whether others may have
        #: announced that it went
        self.enter: Callable[[bool], Any]
        #: how many connections are entered
        self.present: Callable[[], int]
        self._call: Any = None
        self._beating: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._again = False
        self._stale = True
        #: whether this node was taken for dead and has not come to life again yet
        self._buried = False
        self._stopping = False
        self._number = 0
        self._surveys: dict[str, _Survey] = {}
        #: why the last beat failed
        self.trouble: str | None = "has not shown that it lives yet"
        self.lag = 0
        self.buried = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._started_at = self._now()
        self._subscriber.add(self.control, self._hear)
        self._subscriber.add(self.replies, self._hear)

    def renew(self) -> None:
        """Redis' data may not be what it was: come to life anew."""
        self._stale = True
        self.hurry()

    def hurry(self) -> None:
        """Beats soon, or right after the beat that is under way."""
        if self._stopping:
            return
        if self._call is not None:
            self._call.cancel()
        self._call = self._reactor.callLater(0, self._tick)

    def _tick(self) -> None:
        self._call = None
        if self._beating is not None:
            self._again = True
            return
        self._again = False
        waiting, self._waiting = self._waiting, []
        self._beating = Deferred.fromCoroutine(self._one_beat())

        def done(result: Any) -> None:
            self._beating = None
            if result is not None:
                self.trouble = result.getErrorMessage()
                if not result.check(errors.Unavailable):
                    self._log.failure("A sign of life went wrong", result)
            for each in waiting:
                each.callback(None)
            if not self._stopping and self._call is None:
                self._call = self._reactor.callLater(0 if self._again else self._lease / 1000 / _BEATS, self._tick)

        self._beating.addBoth(done)

    def beat(self) -> Deferred[None]:
        """Answers after a sign of life that begins after this call; whether it came about, `trouble` tells."""
        beaten: Deferred[None] = Deferred()
        if self._stopping:
            beaten.callback(None)
        else:
            self._waiting.append(beaten)
            self.hurry()
        return beaten

    async def _one_beat(self) -> None:
        """One sign of life; buries who is found dead."""
        reply = await self._beat()
        self.trouble = None
        self.lag = int(reply[0])
        for dead in reply[1:]:
            await self.bury(dead.decode(), self._lease)

    async def _beat(self) -> list[Any]:
        if not self._stale:
            reply = await self._show("")
            if reply[0] != b"gone":
                return reply
            # Where all of Redis' data is gone, nobody has announced that anyone went.
            self._buried = self._buried or reply[1].decode() == self._server.generation
        old, self.incarnation = self.incarnation, secrets.token_hex(8)
        self._stale = False
        try:
            reply = await self._show("new")
            await self.enter(self._buried)
            self._buried = False
            if old:
                await self.bury(old, 0)
        except errors.Unavailable:
            self._stale = True
            raise
        return reply

    async def _show(self, new: str) -> list[Any]:
        keys = [self._names.nodes, self._names.node(self.incarnation), self._names.ingest, self._names.server]
        # Who is signed in is counted in Redis at every change; the others only here.
        anonymous = max(0, self.listener.connections() - self.present())
        return await self._server.run(
            "beat", keys, self.incarnation, self._lease, PRESENCE_TTL, self._name, self._started_at, new, anonymous
        )

    async def bury(self, incarnation: str, lease: int) -> None:
        """Removes what a dead node left, and tells the listener of it."""
        names = self._names
        keys = [names.nodes, names.node(incarnation), names.connections(incarnation), names.joins(incarnation)]
        state = b"more"
        while state == b"more":
            state, last, count, *rest = await self._server.run(
                "bury", keys, incarnation, lease, _BURIAL, names.prefix, SEEN_TTL
            )
            for user in rest[: int(count)]:
                self.listener.offline(user.decode(), int(last))
            left = rest[int(count) :]
            for channel, user, info in zip(left[::3], left[1::3], left[2::3], strict=True):
                self.listener.absent(channel.decode(), Member(user.decode(), 0, msgspec.Raw(info) if info else None))
            self.buried += int(count)

    async def stop(self) -> None:
        """Takes this node and all that is present on it out of Redis, where that can be reached."""
        self._stopping = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._beating is not None:
            await self._beating
        for survey in list(self._surveys.values()):
            survey.end()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)
        if self.incarnation:
            try:
                await self._bury_silently()
            except errors.Unavailable:
                pass

    async def _bury_silently(self) -> None:
        names = self._names
        own = self.incarnation
        keys = [names.nodes, names.node(own), names.connections(own), names.joins(own)]
        state = b"more"
        while state == b"more":
            reply = await self._server.run("bury", keys, own, 0, _BURIAL, names.prefix, SEEN_TTL)
            state = reply[0]

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[Node]:
        return [node for _, node in await self._living()]

    async def _living(self) -> list[tuple[str, Node]]:
        reply = await self._server.run("nodes", [self._names.nodes], self._lease, self._names.node(""))
        own = self.incarnation.encode()
        return [
            (
                incarnation.decode(),
                Node(
                    name.decode(),
                    int(started),
                    self.listener.connections() if incarnation == own else int(connections),
                ),
            )
            for incarnation, name, started, connections in zip(
                reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True
            )
        ]

    # -- questions ----------------------------------------------------------------------------------------------------

    async def survey(self, question: bytes, timeout: int) -> list[tuple[str, bytes]]:
        if not self._subscriber.hearing:
            raise errors.Unavailable("Redis is away: no answers are heard")
        self._number += 1
        number = str(self._number)
        survey = self._surveys[number] = _Survey()
        call = self._reactor.callLater(timeout / 1000, survey.end)
        try:
            survey.open = {incarnation for incarnation, _ in await self._living()} | {self.incarnation}
            alone = len(survey.open) == 1
            self._ask_oneself(survey, question)
            if not alone:
                head = f"q {number} {self.replies}\n".encode()
                await self._server.call("PUBLISH", self.control, head + question)
            await survey.done
        finally:
            del self._surveys[number]
            if call.active():
                call.cancel()
        return survey.answers

    def _ask_oneself(self, survey: _Survey, question: bytes) -> None:
        def done(result: Any) -> None:
            if isinstance(result, bytes):
                survey.answers.append((self._name, result))
            else:
                self._log.warn("This node did not answer a question: {reason}", reason=result.getErrorMessage())
            survey.close(self.incarnation)

        self.listener.answer(question).addBoth(done)

    def _hear(self, payload: bytes) -> None:
        """A question or an answer of another node."""
        head, _, body = payload.partition(b"\n")
        try:
            kind, number, *words = head.decode().split(" ", 3)
            self._heard(kind, number, words, body)
        except (ValueError, IndexError) as error:
            self._log.warn("What is no question and no answer was heard: {reason}", reason=str(error))

    def _heard(self, kind: str, number: str, words: list[str], body: bytes) -> None:
        if kind == "q" and words[0] != self.replies:
            self._answer(number, words[0], body)
        elif kind in ("a", "n") and number in self._surveys:
            survey = self._surveys[number]
            if kind == "a" and words[0] in survey.open:
                survey.answers.append((words[1], body))
            survey.close(words[0])

    def _answer(self, number: str, to: str, question: bytes) -> None:
        async def answer() -> None:
            try:
                body = await self.listener.answer(question)
            except Exception as error:
                self._log.warn("This node did not answer a question: {error!r}", error=error)
                await self._server.call("PUBLISH", to, f"n {number} {self.incarnation}\n")
            else:
                head = f"a {number} {self.incarnation} {self._name}\n".encode()
                await self._server.call("PUBLISH", to, head + body)

        def failed(failure: Any) -> None:
            if not failure.check(errors.Unavailable):
                self._log.failure("An answer went wrong", failure)

        Deferred.fromCoroutine(answer()).addErrback(failed)
