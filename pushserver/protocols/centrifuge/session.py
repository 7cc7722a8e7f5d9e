"""One connection's session in the Centrifuge protocol: frames in, effects out. Pure.

A frame is any number of commands, and each leads to its effects in order. `pushserver.core.operations` is what they are
mapped onto; the native protocol's requests come through as remote calls (`calls`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from pushserver import __version__
from pushserver.core import errors, operations
from pushserver.core.effects import Alive, ClientName, Disconnect, Effect, Introduce, Leave, Perform, ReadOn, Send
from pushserver.core.errors import Close, Code, Invalid, PushError, Refused
from pushserver.core.inbox import INBOXES
from pushserver.core.operations import Recovery, SubscribeItem
from pushserver.core.positions import BEGINNING, Position
from pushserver.core.publication import Messages, Publication, body
from pushserver.core.rate_limit import Hammering, Rates, TokenBucket
from pushserver.core.task import TaskState
from pushserver.core.tokens import NEVER
from pushserver.protocols.centrifuge import calls, history, messages, presence
from pushserver.protocols.centrifuge.messages import Codec, Reply
from pushserver.protocols.centrifuge.pushes import CODES, MAX_FRAME, TEMPORARY, ChannelNames, frame, told

#: Characters that are kept of a client's name, and of its version.
MAX_NAME: Final = 64
#: So many errors in a row end a connection; so many refusals for speed do.
MAX_ERRORS: Final = 10
MAX_RATE_LIMITED: Final = 100
#: So many effects of a frame are found at once. It may hold thousands of commands, and others want a turn meanwhile.
AT_ONCE: Final = 16
#: Pings that wait for an answer; an older one is lost.
MAX_PINGS: Final = 3
#: ms that a client has to close by itself once it was told that it may not connect.
FAREWELL: Final = 4_000
#: ms after the opening in which a client may subscribe to all its channels at any pace: it does so one by one.
RUSH: Final = 10_000
#: Octets of missed publications in one reply; more follow as pushes.
MAX_RECOVERED: Final = 262_144
#: Octets of the states of channels in the reply to a connect command, and in one to a subscription.
MAX_STATES: Final = 262_144
MAX_STATE: Final = 983_040
#: A subscription that is ended by such a code is over; by the other it is begun anew.
ENDED: Final = 2000
STALE: Final = 2500
EXPIRED: Final = 2501
#: Closes that are this protocol's alone.
INSUFFICIENT_STATE: Final = Close(3010, "insufficient state")
NO_MESSAGES: Final = Close(3508, "messages without a reply are not taken")
#: A flag of a subscription: a position that is lost is an error.
_STRICT: Final = 2

_NO_FILTER: Final = frozenset({b"", b"null"})
_CHAT: Final = "chat:"
_SYSTEM: Final = "system"
_OUTPUT: Final = "output:"


class Rules(Struct, frozen=True, kw_only=True):
    """What all sessions go by.

    Attributes:
        names: what channels are called.
        anonymous: whether who shows no token may stay.
        ping: s between two pings.
        pings: whether these are messages (else control frames, which a client need not be told of).
        acknowledges: whether the answer to a ping acknowledges what was sent of the inbox before it.
        subscribes: how many subscriptions at the beginning count as no messages.
    """

    names: ChannelNames
    anonymous: bool
    ping: int
    pings: bool = True
    acknowledges: bool = True
    subscribes: int = 128


class Emulation(Struct, frozen=True):
    """What a client's requests bring that are for a stream: which stream it is, and whose.

    Attributes:
        session: the stream's secret.
        node: the node that has it.
    """

    session: str
    node: str


def _told(kept: Messages) -> tuple[messages.Publication, ...]:
    return tuple(map(told, kept))


def _size_of_all(kept: Messages) -> int:
    return sum(len(msgspec.json.encode(each)) for each in kept.once(_told))


class _Beginnings:
    """What one reply may hold of what its channels begin with, and what follows it instead.

    Attributes:
        pushes: publications that found no room.
    """

    __slots__ = ("_publications", "_states", "pushes")

    def __init__(self, states: int) -> None:
        """``states``: octets of states."""
        self._publications = MAX_RECOVERED
        self._states = states
        self.pushes: list[Effect] = []

    def take(self, octets: int) -> bool:
        """Return whether there is room for publications of so many octets in JSON, and take it."""
        left = self._publications - octets
        if left >= 0:
            self._publications = left
        return left >= 0

    def take_state(self, state: Raw) -> bool:
        """Return whether there is room for a channel's state, and take it."""
        left = self._states - len(bytes(state))
        if left >= 0:
            self._states = left
        return left >= 0


class CentrifugeSession:
    """The Centrifuge protocol's side of one connection."""

    __slots__ = (
        "_acked",
        "_authentications",
        "_codec",
        "_connected",
        "_emulation",
        "_errors",
        "_explicit",
        "_id",
        "_messages",
        "_now",
        "_opened_at",
        "_pings",
        "_rate_limited",
        "_rules",
        "_rush",
        "_server",
        "_token",
    )

    def __init__(self, codec: Codec, rates: Rates, rules: Rules, emulation: Emulation | None = None) -> None:
        """``emulation``: how the client's commands find it, where they come in requests of their own."""
        self._codec = codec
        self._rules = rules
        self._emulation = emulation or _NO_EMULATION
        self._messages = TokenBucket(rates.messages)
        self._authentications = TokenBucket(rates.authentications)
        self._errors = 0
        self._rate_limited = 0
        self._id = ""
        self._token = ""
        #: a connect command has come
        self._connected = False
        self._now = 0
        #: what may still be subscribed beyond the rate, and since when
        self._rush = rules.subscribes
        self._opened_at: int | None = None
        #: channels that the server subscribed
        self._server: set[str] = set()
        #: the pings without an answer, the oldest first: what the answer to each acknowledges
        self._pings: tuple[Position | None, ...] = ()
        #: what was acknowledged last
        self._acked: Position | None = None
        self._explicit = not rules.acknowledges

    # -- in -----------------------------------------------------------------------------------------------------------

    def opened(self, connection_id: str, token: str | None) -> tuple[Effect, ...]:
        """Wait for the connect command; a token of the upgrade counts where that has none."""
        self._id = connection_id
        self._token = token or ""
        return ()

    def receive(self, payload: bytes, at: int, now: int) -> list[Effect]:
        """Return what follows from one frame (`core.protocol.Session`)."""
        self._now = now
        if self._opened_at is None:
            self._opened_at = at
        effects = self._read(payload, at)
        first = list(islice(effects, AT_ONCE))
        if len(first) == AT_ONCE:
            first.append(ReadOn(effects))
        return first

    def _read(self, payload: bytes, at: int) -> Iterator[Effect]:
        """Read a frame command by command. What stands behind one that ends the connection is not even read."""
        empty = True
        try:
            for command in self._codec.commands(payload):
                empty = False
                for effect in self._take(command, at):
                    yield effect
                    if isinstance(effect, Disconnect):
                        return
        except messages.Malformed:
            # What came before it was said all the same.
            empty = True
        if empty:
            yield _BAD

    def _take(self, command: messages.Command, at: int) -> Iterable[Effect]:
        request, id = command.request, command.id or 0
        if request is None:
            return (_BAD,) if id else self._pong(at)
        if isinstance(request, messages.SendRequest) and self._connected:
            return (Disconnect(NO_MESSAGES),)
        if not id or isinstance(request, messages.ConnectRequest) is self._connected:
            # Without an id; before the connect command; a second one.
            return (_BAD,)
        self._connected = True
        wait = 0 if self._costs_nothing(request, at) else self._messages.take(at)
        try:
            if wait and isinstance(request, messages.UnsubscribeRequest):
                # Carried out: clients break the connection at an error here, and come back.
                ended = self._beyond_rate()
                if ended:
                    return ended
            elif wait:
                raise Refused("too many messages", Code.RATE_LIMITED, retry_after=wait)
            if isinstance(request, messages.PingRequest):
                self._went_well()
                return (self._reply(Reply(id, ping=messages.PingResult())),)
            asked = Perform(self._operation(request, at), id, request)
            if isinstance(request, messages.ConnectRequest) and (request.name or request.version):
                name, version = (request.name or "")[:MAX_NAME], (request.version or "")[:MAX_NAME]
                return (Introduce(ClientName(name, version)), asked)
            return (asked,)
        except PushError as problem:
            return self._failed(id, request, problem)

    def _costs_nothing(self, request: messages.Request, at: int) -> bool:
        """Return whether a request counts as no message."""
        if not isinstance(request, messages.SubscribeRequest) or not self._rush:
            return False
        assert self._opened_at is not None
        if at - self._opened_at > RUSH:
            self._rush = 0
            return False
        self._rush -= 1
        return True

    def _pong(self, at: int) -> Iterable[Effect]:
        if not self._pings:
            return self._beyond_rate() if self._messages.take(at) else (Alive(),)
        return (Alive(), *self.answered())

    def pinged(self, reached: Position | None) -> None:
        """A ping goes out. Which one an answer is for it does not say: it counts for the oldest, so that one that is
        lost has later ones acknowledge less, and never more than was sent before their own ping."""
        self._pings = (*self._pings, reached)[-MAX_PINGS:]

    def answered(self) -> tuple[Effect, ...]:
        """Return the acknowledgement of what was sent before the ping that is answered."""
        reached, self._pings = (self._pings[0] if self._pings else None), self._pings[1:]
        if reached is None or self._explicit or reached == self._acked:
            return ()
        self._acked = reached
        return (Perform(operations.Acknowledge(reached)),)

    # -- what is asked for --------------------------------------------------------------------------------------------

    def _operation(self, request: messages.Request, at: int) -> operations.Operation:
        match request:
            case messages.SubscribeRequest():
                return operations.Subscribe((self._item(request.channel, request),), nobody=True)
            case messages.ConnectRequest():
                return self._connect(request, at)
            case messages.RefreshRequest(token=token):
                self._count_authentication(at)
                return operations.Authenticate(_given(token, Code.MISSING_TOKEN), {}, named=True, refresh=True)
            case messages.SubRefreshRequest(channel=channel, token=token, type=type):
                if type:
                    raise _missing("nothing is tracked here")
                name = self._rules.names.inward(channel) if channel else None
                return operations.RenewChannelToken(_given(token, Code.MISSING_TOKEN), name)
            case messages.UnsubscribeRequest(channel=channel):
                return operations.Unsubscribe((self._rules.names.inward(channel or ""),), any=True)
            case messages.PublishRequest():
                return self._publish(request)
            case messages.PresenceRequest(channel=channel) | messages.PresenceStatsRequest(channel=channel):
                return operations.ReadConnections(self._channel(channel))
            case messages.HistoryRequest():
                return self._history(request)
            case messages.RpcRequest(method=method, data=data):
                operation = calls.operation(method or "", data)
                if isinstance(operation, operations.Acknowledge):
                    self._explicit = True
                return operation
            case _:
                raise AssertionError(request)

    def _count_authentication(self, at: int) -> None:
        wait = self._authentications.take(at)
        if wait:
            raise Hammering(wait)

    def _connect(self, request: messages.ConnectRequest, at: int) -> operations.Operation:
        token = request.token or self._token or _bearer(request.headers or {})
        self._token = ""
        items: list[SubscribeItem] = []
        positions: dict[str, Position] = {}
        for name, asked in (request.subs or {}).items():
            try:
                item = self._item(name, asked or _PLAIN)
            except PushError:
                # As what may not be subscribed: it is left out of the answer.
                continue
            if item.channel.startswith(INBOXES) or item.channel == _SYSTEM:
                if item.since is not None:
                    positions[item.channel] = item.since
            elif len(items) < operations.MAX_NAMES:
                items.append(item)
        if token:
            self._count_authentication(at)
            return operations.Authenticate(token, positions, tuple(items), named=True)
        if not self._rules.anonymous:
            raise Refused("connect needs a token", Code.MISSING_TOKEN)
        return operations.Subscribe(tuple(items), nobody=True)

    def _channel(self, name: str | None) -> str:
        if not name:
            raise Invalid("a channel is needed")
        if name.startswith(_OUTPUT):
            raise _missing("outputs are read over HTTP")
        return self._rules.names.inward(name)

    def _item(self, name: str | None, request: messages.SubscribeRequest) -> SubscribeItem:
        channel = self._channel(name)
        if request.type:
            raise _missing("there are no maps here")
        if bytes(request.tf) not in _NO_FILTER:
            raise Invalid("there are no filters here")
        since: Position | None = None
        if request.recover and request.epoch:
            since = Position(request.offset or 0, request.epoch)
        elif request.recover and not request.offset:
            since = BEGINNING
        # Clients take what is in the reply only when it comes to who was there before.
        return SubscribeItem(channel, since, request.token or None, pending=channel.startswith(INBOXES))

    def _publish(self, request: messages.PublishRequest) -> operations.Operation:
        if request.type:
            raise _missing("there are no maps here")
        channel = self._channel(request.channel)
        data = messages.payload(request.data)
        if channel.startswith(_CHAT):
            return operations.SendChat(_content(data), "text", None, channel, None)
        return operations.Publish(channel, "message", data, None)

    def _history(self, request: messages.HistoryRequest) -> operations.Operation:
        return history.asked(self._channel(request.channel), request.limit, request.since, request.reverse)

    # -- out ----------------------------------------------------------------------------------------------------------

    def answer(self, asked: Perform, outcome: operations.Outcome) -> list[Effect]:
        """Return the reply to what was carried out."""
        request, id = asked.request, asked.id
        if request is None or not isinstance(id, int):
            # Nobody asked for the acknowledgement.
            return []
        if isinstance(request, messages.UnsubscribeRequest):
            # Answered at any rate: no sign that the client keeps to it.
            self._errors = 0
        else:
            self._went_well()
        reply = Reply(id)
        match request, outcome:
            case messages.SubscribeRequest(), operations.Subscribed():
                return self._answer_subscribe(id, request, outcome)
            case messages.ConnectRequest(), operations.Authenticated():
                return self._answer_connect(id, request, outcome)
            case messages.ConnectRequest(), operations.Subscribed():
                begun = _Beginnings(MAX_STATES)
                subs = self._subscriptions(outcome, request.subs or {}, begun)
                return [self._reply(Reply(id, connect=self._hello(subs, outcome.expires_at, None))), *begun.pushes]
            case messages.RefreshRequest(), operations.Authenticated() | operations.Subscribed():
                expires, ttl = self._expiry(outcome.expires_at)
                reply = Reply(id, refresh=messages.RefreshResult(self._id, __version__, expires, ttl))
            case messages.SubRefreshRequest(), operations.ChannelTokenRenewed():
                reply = Reply(id, sub_refresh=messages.SubRefreshResult(*self._expiry(outcome.expires_at)))
            case messages.UnsubscribeRequest(channel=channel), operations.Unsubscribed():
                self._server.discard(self._rules.names.inward(channel or ""))
                reply = Reply(id, unsubscribe=messages.UnsubscribeResult())
            case messages.PresenceRequest(), operations.ConnectionsRead(present):
                reply = Reply(id, presence=presence.clients(present))
            case messages.PresenceStatsRequest(), operations.ConnectionsRead(present):
                reply = Reply(id, presence_stats=presence.numbers(present))
            case messages.PublishRequest(), _:
                reply = Reply(id, publish=messages.PublishResult())
            case messages.HistoryRequest(), operations.HistoryRead():
                reply = Reply(id, history=history.page(outcome))
            case messages.RpcRequest(), _:
                reply = Reply(id, rpc=messages.RpcResult(calls.result(outcome)))
        sent = self._reply(reply)
        if len(sent.payload) > MAX_FRAME:
            # Clients would break the connection at it.
            return self._failed(id, request, Refused("too much for one reply", Code.LIMIT_EXCEEDED))
        return [sent]

    def _reply(self, reply: Reply, error: Code | None = None, reason: str = "") -> Send:
        return Send(self._codec.reply(reply), error, reason)

    def _expiry(self, expires_at: int | None) -> tuple[bool, int]:
        """Return whether something ends, and after how many s."""
        if expires_at is None or expires_at == NEVER:
            return False, 0
        return True, max(1, (expires_at - self._now) // 1000)

    def _hello(
        self, subs: Mapping[str, messages.SubscribeResult], expires_at: int | None, data: Raw | None
    ) -> messages.ConnectResult:
        rules = self._rules
        expires, ttl = self._expiry(expires_at)
        return messages.ConnectResult(
            client=self._id,
            version=__version__,
            expires=expires,
            ttl=ttl,
            data=data,
            subs=dict(subs),
            ping=rules.ping if rules.pings else 0,
            pong=rules.pings,
            session=self._emulation.session,
            node=self._emulation.node,
        )

    def _answer_connect(self, id: int, request: messages.ConnectRequest, who: operations.Authenticated) -> list[Effect]:
        own = f"{INBOXES}{who.user_id}"
        name = self._rules.names.outward(own)
        asked = (request.subs or {}).get(name)
        recovered = who.results.get(own)
        subs = {
            name: messages.SubscribeResult(
                recoverable=True,
                positioned=True,
                epoch=who.inbox.epoch,
                # Where delivery begins: what waits follows as pushes, since clients take it from here only when it
                # comes to who was there before.
                offset=who.inbox_after,
                recovered=isinstance(recovered, Recovery) and recovered.recovered,
                was_recovering=asked is not None and bool(asked.recover),
            )
        }
        begun = _Beginnings(MAX_STATES)
        self._server = {own, _SYSTEM}
        notices = who.results.get(_SYSTEM, who.notices)
        subs[_SYSTEM] = self._subscription(notices, (request.subs or {}).get(_SYSTEM), begun)
        if who.subscribed is not None:
            subs |= self._subscriptions(who.subscribed, request.subs or {}, begun)
        data = calls.result(who) if _wants_session(request.data) else None
        return [self._reply(Reply(id, connect=self._hello(subs, who.expires_at, data))), *begun.pushes]

    def _subscriptions(
        self, outcome: operations.Subscribed, asked: Mapping[str, messages.SubscribeRequest | None], begun: _Beginnings
    ) -> dict[str, messages.SubscribeResult]:
        """Return what the reply to a connect command says of the channels that were subscribed with it. Those that were
        rejected are left out: clients report them as unsubscribed."""
        found: dict[str, messages.SubscribeResult] = {}
        for channel, result in outcome.results.items():
            self._server.add(channel)
            name = self._rules.names.outward(channel)
            told = self._subscription(result, asked.get(name), begun, outcome.expiries.get(channel))
            found[name] = _with_data(told, outcome.data.get(channel))
        return found

    def _answer_subscribe(
        self, id: int, request: messages.SubscribeRequest, outcome: operations.Subscribed
    ) -> list[Effect]:
        channel = self._rules.names.inward(request.channel or "")
        rejection = outcome.rejected.get(channel)
        if rejection is not None:
            return self._failed(id, request, PushError(rejection.message, rejection.code))
        result = outcome.results[channel]
        lost = request.recover and isinstance(result, Recovery) and not result.recovered
        if lost and (request.flag or 0) & _STRICT:
            leave = Leave(channel)
            return [leave, *self._failed(id, request, Refused("the position is lost", Code.CONFLICT))]
        self._server.discard(channel)
        begun = _Beginnings(MAX_STATE)
        told = self._subscription(result, request, begun, outcome.expiries.get(channel))
        told = _with_data(told, outcome.data.get(channel))
        return [self._reply(Reply(id, subscribe=told)), *begun.pushes]

    def _subscription(
        self,
        result: operations.Result,
        request: messages.SubscribeRequest | None,
        begun: _Beginnings,
        expires_at: int | None = None,
    ) -> messages.SubscribeResult:
        """Return what a reply says of a subscription. ``request``: what was asked for, where it was the client that
        did; ``begun``: takes the pushes behind the reply."""
        expires, ttl = self._expiry(expires_at)
        if result is None:
            return messages.SubscribeResult(expires=expires, ttl=ttl)
        if not isinstance(result, Recovery):
            state = body(_state(result))
            # What finds no room, of many large tasks, is read by calls.
            return messages.SubscribeResult(expires=expires, ttl=ttl, data=state if begun.take_state(state) else UNSET)
        asked = request is not None and bool(request.recover)
        recovered = asked and result.recovered
        missed: tuple[messages.Publication, ...] = ()
        if recovered and begun.take(result.messages.once(_size_of_all)):
            missed = result.messages.once(_told)
        elif recovered:
            begun.pushes += map(self._push, result.messages)
        offset = result.offset
        if recovered and request is not None:
            # The client goes on from its own position, by each message that follows.
            offset = request.offset or 0
        return messages.SubscribeResult(
            expires=expires,
            ttl=ttl,
            recoverable=True,
            positioned=True,
            epoch=result.epoch,
            publications=missed,
            recovered=recovered,
            offset=offset,
            was_recovering=asked,
        )

    def _push(self, publication: Publication) -> Send:
        return Send(frame(publication, self._rules.names, self._codec), None, "")

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def fail(self, asked: Perform, problem: PushError, now: int) -> list[Effect]:
        """Return the reply to what could not be carried out; too many of them in a row end the connection."""
        if asked.request is None or not isinstance(asked.id, int):
            # The acknowledgement of a pong is nobody's request: what it did not reach comes again.
            return []
        return self._failed(asked.id, asked.request, problem)

    def refuse(self, asked: Perform, problem: PushError, close: Close) -> list[Effect]:
        """Return the reply to a failed authentication that ends the connection."""
        if close == errors.INVALID_TOKEN or not isinstance(asked.id, int):
            return [Disconnect(close)]
        return [self._error(asked.id, asked.request, problem), Disconnect(close, FAREWELL)]

    def _failed(self, id: int, request: object, problem: PushError) -> list[Effect]:
        effects: list[Effect] = [self._error(id, request, problem)]
        if isinstance(problem, Hammering):
            return [*effects, Disconnect(errors.TOO_MANY_REQUESTS)]
        if isinstance(request, messages.ConnectRequest):
            return [*effects, Disconnect(errors.CONNECTION_CLOSED, FAREWELL)]
        if problem.code is Code.RATE_LIMITED:
            return [*effects, *self._beyond_rate()]
        if problem.code in errors.SERVER_FAILURES:
            return effects
        self._rate_limited = 0
        if not isinstance(request, messages.SubscribeRequest):
            # Clients subscribe to all their channels one by one, also to those that they may not.
            self._errors += 1
            if self._errors >= MAX_ERRORS:
                effects.append(Disconnect(errors.TOO_MANY_ERRORS))
        return effects

    def _error(self, id: int, request: object, problem: PushError) -> Send:
        code = CODES[problem.code]
        temporary = problem.code in TEMPORARY
        if isinstance(request, messages.RpcRequest):
            code = _CALL_CODES.get(problem.code, code)
        elif problem.code is Code.NOT_FOUND and not isinstance(request, messages.SubscribeRequest):
            # Nothing is kept there.
            code = CODES[Code.UNKNOWN_MESSAGE_TYPE]
        elif problem.code is Code.TOKEN_EXPIRED:
            # Else clients would give up where a newer token is all that is wanted.
            temporary = isinstance(request, messages.RefreshRequest | messages.SubRefreshRequest)
        error = messages.ErrorResult(code, problem.message or "error", temporary)
        return self._reply(Reply(id, error=error), problem.code, problem.message)

    def _beyond_rate(self) -> tuple[Effect, ...]:
        """Count a message beyond the rate; too many in a row end the connection."""
        self._rate_limited += 1
        return (Disconnect(errors.TOO_MANY_REQUESTS),) if self._rate_limited >= MAX_RATE_LIMITED else ()

    def _went_well(self) -> None:
        self._errors = self._rate_limited = 0

    # -- what is told unasked -----------------------------------------------------------------------------------------

    def notify(self, notice: operations.Notice, now: int, message_id: str) -> tuple[Effect, ...]:
        """Return how the client is told what it did not ask for."""
        names = self._rules.names
        match notice:
            case operations.SubscriptionLost(channel, code, reason):
                self._server.discard(channel)
                ended = messages.Unsubscribe(EXPIRED if code is Code.TOKEN_EXPIRED else ENDED, reason)
                return (self._reply(Reply(push=messages.Push(names.outward(channel), unsubscribe=ended))),)
            case operations.SubscriptionGained(channel, newest, told_along):
                self._server.add(channel)
                along = messages.raw(told_along)
                begun = messages.Subscribe(data=along)
                if newest is not None:
                    begun = messages.Subscribe(True, newest.epoch, newest.offset, True, along)
                return (self._reply(Reply(push=messages.Push(names.outward(channel), subscribe=begun))),)
            case operations.InboxOverflow(channel, lost):
                data = body({"lost": lost})
                overflow = Publication(
                    type="inbox_overflow", channel=channel, data=data, timestamp=now, message_id=message_id
                )
                return (self._push(overflow),)
            case operations.Resync(channel):
                if channel in self._server:
                    # Clients begin such a subscription anew with their connection alone.
                    return (Disconnect(INSUFFICIENT_STATE),)
                stale = messages.Unsubscribe(STALE, "insufficient state")
                return (
                    self._reply(Reply(push=messages.Push(names.outward(channel), unsubscribe=stale))),
                    Leave(channel),
                )
            case operations.GoingAway():
                # The close says it.
                return ()


_NO_EMULATION: Final = Emulation("", "")
_BAD: Final = Disconnect(errors.BAD_REQUEST)
#: A subscription of which nothing is asked.
_PLAIN: Final = messages.SubscribeRequest()
#: Errors that a remote call knows by other codes.
_CALL_CODES: Final = {Code.NOT_FOUND: 404, Code.CONFLICT: 409}


def _with_data(begun: messages.SubscribeResult, data: bytes | None) -> messages.SubscribeResult:
    """Return the answer to a subscription with what a token has the client told; a state of its own comes first."""
    if data is None or begun.data is not UNSET:
        return begun
    return msgspec.structs.replace(begun, data=Raw(data))


def _state(result: operations.OutputStart | operations.UserStatus | TaskState) -> dict[str, object]:
    """Return the state that a channel begins with, by its name."""
    match result:
        case operations.OutputStart():
            return {"output": result.shown()}
        case operations.UserStatus():
            return {"status": result}
        case _:
            return {"task": result}


def _missing(what: str) -> Refused:
    return Refused(what, Code.UNKNOWN_MESSAGE_TYPE)


def _given(token: str | None, code: Code) -> str:
    if not token:
        raise Refused("a token is needed", code)
    return token


def _bearer(headers: Mapping[str, str | None]) -> str:
    """Return the token that a client put among the headers that its platform could not send."""
    for name, value in headers.items():
        if value is not None and name.lower() == "authorization":
            scheme, _, credentials = value.partition(" ")
            return credentials.strip() if scheme.lower() == "bearer" else ""
    return ""


class _Wish(Struct):
    session: bool = False


class _Content(Struct):
    content: str


def _wants_session(data: Raw) -> bool:
    try:
        return msgspec.json.decode(data, type=_Wish).session
    except (ValueError, RecursionError):
        return False


def _content(data: Raw) -> str:
    """Return what a chat message says: a text, or an object with ``content``."""
    try:
        found = msgspec.json.decode(data, type=str | _Content)
    except (ValueError, RecursionError):
        raise Invalid("a chat message is a text, or an object with content") from None
    return found if isinstance(found, str) else found.content
