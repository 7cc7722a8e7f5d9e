"""Watching live: the messages of a connection or a user, and the log. Tokens are never shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from pushserver.core import publication
from pushserver.core.errors import Invalid
from pushserver.core.publication import Publication
from pushserver.manhole.tables import printable
from pushserver.server.backend_commands import id_of
from pushserver.server.clock import wall_clock
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub

#: Characters of a message that are shown.
MAX_SHOWN: Final = 2_000

HIDDEN: Final = "<hidden>"

_SECRETS: Final = frozenset({"token", "ticket", "password", "secret", "authorization", "session"})
# Three segments, each taken whole and never given back; whether the first one is a token's header is asked afterwards.
_SEGMENTS: Final = re.compile(r"(?<![A-Za-z0-9_-])([A-Za-z0-9_-]++)\.[A-Za-z0-9_-]++\.[A-Za-z0-9_-]*+")


def without_tokens(text: str) -> str:
    """Return a text with every JWT in it hidden."""
    return _SEGMENTS.sub(lambda found: HIDDEN if "eyJ" in found[1] else found[0], text)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: HIDDEN if str(key).lower() in _SECRETS and isinstance(item, str) else _without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def shown(payload: bytes) -> str:
    """Return a message as it may be shown: without tokens, on one line, bounded."""
    try:
        text = msgspec.json.encode(_without_secrets(msgspec.json.decode(payload))).decode()
    except (ValueError, RecursionError):
        # A token could stand anywhere in what cannot be read.
        return f"({len(payload)} bytes that are not JSON)"
    text = printable(without_tokens(text))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(payload)} bytes)"


class MessageWatch:
    """Somebody watching: a `connection.Trace` that shows lines, until it is stopped.

    Watching a user includes the connections that the user makes later. What fails here ends the watch, and says so;
    it never reaches what is watched. ``done`` fires when the watch ends.
    """

    _log = Logger()

    def __init__(self, hub: Hub, show: Callable[[str], None], user_id: str | None) -> None:
        self._hub = hub
        self._show = show
        self._user_id = user_id
        self._watched: set[Connection] = set()
        self.done: Deferred[None] = Deferred()

    @property
    def count(self) -> int:
        """Return how many connections are watched now."""
        return len(self._watched)

    def begin(self, connections: Iterable[Connection]) -> None:
        """Watch these connections, and those that the user makes from now on."""
        if self._user_id is not None:
            self._hub.traced[self._user_id] = self
        for connection in connections:
            self.opened(connection)

    def opened(self, connection: Connection) -> None:
        self._hub.watch(connection, self)
        self._watched.add(connection)
        self._line(connection, "--", lambda: f"{connection.user_id or 'nobody'} from {connection.peer.address}")

    def closed(self, connection: Connection) -> None:
        self._watched.discard(connection)
        self._line(connection, "--", lambda: _closing(connection))
        if self._user_id is None:
            self.stop()

    def inbound(self, connection: Connection, payload: bytes) -> None:
        self._line(connection, "->", lambda: shown(connection.dialect.readable(payload, True)))

    def outbound(self, connection: Connection, payload: bytes) -> None:
        self._line(connection, "<-", lambda: shown(connection.dialect.readable(payload, False)))

    def pushed(self, connection: Connection, message: Publication) -> None:
        self._line(connection, "<-", lambda: shown(publication.encode(message)))

    def _line(self, connection: Connection, way: str, text: Callable[[], str]) -> None:
        if self.done.called:
            return
        try:
            now = wall_clock()
            clock = datetime.fromtimestamp(now / 1000).strftime("%H:%M:%S")
            self._show(f"{clock}.{now % 1000:03d} {connection.id[:8]} {way} {printable(text())}")
        except Exception as problem:
            self._log.failure("console: a watch failed and has ended")
            self.stop()
            _show_failure(self._show, problem)

    def stop(self) -> None:
        """Watch no longer. Stopping twice is no mistake."""
        if self.done.called:
            return
        for connection in self._watched:
            self._hub.watch(connection, None)
        self._watched.clear()
        if self._user_id is not None:
            self._hub.traced.pop(self._user_id, None)
        self.done.callback(None)


def _closing(connection: Connection) -> str:
    close = connection.closing
    return "closed" if close is None else f"closed ({close.code} {close.reason})"


def _show_failure(show: Callable[[str], None], problem: Exception) -> None:
    try:
        show(f"the watch has ended: {type(problem).__name__}")
    except Exception:
        # What it is shown by has failed: the log has it.
        pass


def trace(hub: Hub, name: str, show: Callable[[str], None]) -> MessageWatch:
    """Return a watch over a connection, or over a user's connections, now and later. Raises `errors.Invalid`."""
    one = hub.connections.get(name)
    if one is None and hub.traced.get(name) is not None:
        raise Invalid("another login is tracing this user")
    chosen = [one] if one is not None else list(hub.of_user(id_of(name, "user")))
    if any(connection.trace is not None for connection in chosen):
        raise Invalid("another login is tracing this connection")
    watch = MessageWatch(hub, show, None if one is not None else name)
    watch.begin(chosen)
    return watch


@implementer(ILogObserver)
class LogWatch:
    """The log of this process, live, from a level on. What fails here ends the watch, and says so."""

    def __init__(self, show: Callable[[str], None], level: LogLevel) -> None:
        self._show = show
        self._level = level
        self._showing = False
        self.done: Deferred[None] = Deferred()
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        # What showing it logs is not shown in turn.
        if level < self._level or self._showing or self.done.called:
            return
        self._showing = True
        try:
            clock = datetime.fromtimestamp(event["log_time"]).strftime("%H:%M:%S")
            text = printable(formatEvent(event))[:MAX_SHOWN]
            self._show(f"{clock} {level.name} {event.get('log_namespace', '')}: {text}")
        except Exception as problem:
            self.stop()
            _show_failure(self._show, problem)
        finally:
            self._showing = False

    def stop(self) -> None:
        """Watch no longer. Stopping twice is no mistake."""
        if not self.done.called:
            globalLogPublisher.removeObserver(self)
            self.done.callback(None)
