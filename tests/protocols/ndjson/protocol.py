"""The second protocol: session, dialect, and what a door asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pushserver.core import errors, operations
from pushserver.core.effects import Disconnect, Effect, Perform, Send
from pushserver.core.errors import Close, Invalid, PushError, Refused
from pushserver.core.operations import Notice, Outcome
from pushserver.core.positions import Position
from pushserver.core.publication import Publication, body

encode: Final = msgspec.json.encode
MAX_ERRORS: Final = 10


def operation(verb: str, arguments: list[Any]) -> operations.Operation:
    """Return what a command asks for. Raises `errors.Invalid`."""
    match [verb, *arguments]:
        case ["auth", str(token), dict(positions)]:
            return operations.Authenticate(token, {c: Position(*since) for c, since in positions.items()})
        case ["sub", str(channel)]:
            return operations.Subscribe((operations.SubscribeItem(channel),))
        case ["unsub", str(channel)]:
            return operations.Unsubscribe((channel,))
        case ["pub", str(channel), data]:
            return operations.Publish(channel, "message", body(data), None)
        case ["history", str(channel)]:
            return operations.ReadHistory(channel, 100, None, False)
        case ["ack", int(offset), str(epoch)]:
            return operations.Acknowledge(Position(offset, epoch))
        case _:
            raise Invalid("no such command")


class NdjsonSession:
    """One connection: any number of commands in a frame, each with its own reply."""

    def __init__(self) -> None:
        self._errors = 0

    def opened(self, connection_id: str, token: str | None) -> Sequence[Effect]:
        return ()

    def pinged(self, reached: Position | None) -> None:
        """Acknowledgements are commands."""

    def answered(self) -> Sequence[Effect]:
        return ()

    def receive(self, payload: bytes, at: int, now: int) -> Sequence[Effect]:
        effects: list[Effect] = []
        for line in payload.splitlines():
            try:
                verb, id, *arguments = msgspec.json.decode(line, type=list[Any])
                effects.append(Perform(operation(verb, arguments), id))
            except (ValueError, msgspec.ValidationError, PushError):
                effects += self._fail(None, Invalid("not a command"))
        return effects

    def answer(self, asked: Perform, outcome: Outcome) -> Sequence[Effect]:
        self._errors = 0
        match outcome:
            case operations.Authenticated():
                result: Any = [outcome.user_id, outcome.inbox.pending]
            case operations.Subscribed(channels, _, rejected):
                result = [channels, {channel: r.code for channel, r in rejected.items()}]
            case operations.HistoryRead(messages):
                result = [msgspec.json.decode(m.data) for m in messages]
            case operations.Acknowledged(offset):
                result = offset
            case _:
                result = None
        return (Send(encode(["ok", asked.id, result])),)

    def fail(self, asked: Perform, problem: PushError, now: int) -> Sequence[Effect]:
        return self._fail(asked.id, problem)

    def _fail(self, id: Any, problem: PushError) -> list[Effect]:
        if problem.code not in errors.SERVER_FAILURES:
            self._errors += 1
        effects: list[Effect] = [Send(encode(["no", id, problem.code]), problem.code)]
        return effects if self._errors < MAX_ERRORS else [*effects, Disconnect(errors.TOO_MANY_ERRORS)]

    def refuse(self, asked: Perform, problem: PushError, close: Close) -> Sequence[Effect]:
        return (Send(encode(["no", asked.id, problem.code]), problem.code), Disconnect(close))

    def notify(self, notice: Notice, now: int, message_id: str) -> Sequence[Effect]:
        return (Send(encode(["push", "", type(notice).__name__, notice, None])),)


class NdjsonDialect:
    """Netstrings; a ping is an empty one."""

    name = "ndjson"
    first_ping = 0.1
    takes_advice = True

    def publication(self, publication: Publication) -> bytes:
        push = ["push", publication.channel, publication.type, publication.data, publication.offset]
        return self.text(encode(push))

    def text(self, payload: bytes) -> bytes:
        return b"%d:%b," % (len(payload), payload)

    def ping(self) -> bytes:
        return self.text(b"")

    def close(self, close: Close) -> Close:
        # This protocol knows one number for "come back", and one for "do not".
        return Close(1 if close.reconnect else 0, close.reason)

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        return payload


class NdjsonProtocol:
    """What a door asks for (`core.protocol.ClientProtocol`)."""

    subprotocol = "ndjson"
    binary = False

    def __init__(self) -> None:
        self._dialect = NdjsonDialect()

    def session(self) -> NdjsonSession:
        return NdjsonSession()

    def dialect(self, window: int | None) -> NdjsonDialect:
        if window is not None:
            raise Refused("no compression here")
        return self._dialect
