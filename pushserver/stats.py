"""Counting: what this node did, as plain integers on the hot paths (L2).

Whoever wants figures (API, console, metrics, the ``stats`` channel) derives them here, when asked.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

#: Rates are over so many seconds.
WINDOW: Final = 10


class Counters:
    """The counts of one node since its start. Every method only adds."""

    __slots__ = (
        "auth_failures",
        "auth_successes",
        "bytes_in",
        "bytes_out",
        "closes",
        "connections_highest",
        "connections_total",
        "errors",
        "messages_in",
        "messages_left_out",
        "messages_out",
        "publications",
        "refusals",
        "samples",
        "slow_consumers",
        "sockets",
        "started_at",
        "task_pushes",
        "tasks_pushed",
        "tasks_queued",
        "tasks_throttled",
    )

    def __init__(self, now: int) -> None:
        self.started_at = now
        self.connections_total = 0
        self.connections_highest = 0
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.publications = 0
        self.messages_left_out = 0
        self.slow_consumers = 0
        self.auth_successes = 0
        self.auth_failures: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        #: open sockets, those that are being closed included
        self.sockets = 0
        self.tasks_pushed = 0
        self.tasks_throttled = 0
        self.tasks_queued = 0
        self.task_pushes: Counter[str] = Counter()
        #: (ms, messages in, messages out, connections total), one a second, for the rates
        self.samples: deque[tuple[int, int, int, int]] = deque(maxlen=WINDOW + 1)

    def connection_opened(self, open_now: int) -> None:
        self.connections_total += 1
        self.sockets += 1
        if open_now > self.connections_highest:
            self.connections_highest = open_now

    def connection_closed(self, code: int) -> None:
        self.sockets -= 1
        self.closes[code] += 1

    def refused(self, status: int) -> None:
        """A connection that was answered with an HTTP status instead of an upgrade."""
        self.refusals[status] += 1

    def received(self, octets: int) -> None:
        self.messages_in += 1
        self.bytes_in += octets

    def sent(self, messages: int, octets: int) -> None:
        self.messages_out += messages
        self.bytes_out += octets

    def error(self, code: str) -> None:
        self.errors[code] += 1

    def authenticated(self) -> None:
        self.auth_successes += 1

    def authentication_failed(self, code: str) -> None:
        self.auth_failures[code] += 1

    def published(self) -> None:
        self.publications += 1

    def left_out(self) -> None:
        self.messages_left_out += 1

    def slow_consumer(self) -> None:
        self.slow_consumers += 1

    def sample(self, now: int) -> None:
        """Remembers where the counts stand; called once a second."""
        self.samples.append((now, self.messages_in, self.messages_out, self.connections_total))
