"""The metrics of one node in the Prometheus text format, made from its counts when they are asked for.

Nothing is kept here and nothing registers itself: counting costs an integer on the hot path, and a scrape reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pushserver import __version__
from pushserver.server.events.service import EventService
from pushserver.server.hub import Hub
from pushserver.server.stats import Counters

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine

#: Close codes that are counted by themselves; a client may choose others, and shall not choose how many series we have.
_CODES: Final = frozenset({*range(1000, 1015), *range(3000, 3020), *range(3500, 3520)})


class Measures:
    """Collects one node's figures."""

    def __init__(
        self,
        counters: Counters,
        hub: Hub,
        engine: IEngine,
        node: str,
        now: Callable[[], int],
        ready: Callable[[], bool],
        handshakes: Mapping[str, int],
    ) -> None:
        self._counters = counters
        self._hub = hub
        self._engine = engine
        self._node = node
        self._now = now
        self._ready = ready
        self._handshakes = handshakes

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counts()
        for name, value in sorted(self._engine.figures().items()):
            text = name.replace("_", " ").removesuffix(" total")
            if name.endswith("_total"):
                yield _counter(f"engine_{name}", f"The engine: {text}.", value)
            else:
                yield _gauge(f"engine_{name}", f"The engine: {text}.", value)

    def _gauges(self) -> Iterator[Metric]:
        counters, hub = self._counters, self._hub
        info = GaugeMetricFamily("pushserver_info", "The version and the node's name.", labels=["version", "node"])
        info.add_metric([__version__, self._node], 1)
        yield info
        yield _gauge("ready", "1 while the node takes connections and its engine answers.", float(self._ready()))
        yield _gauge("start_time_seconds", "When the node started, since the epoch.", counters.started_at / 1000)
        yield _gauge("uptime_seconds", "How long the node runs.", max(0, self._now() - counters.started_at) / 1000)
        yield _gauge("connections", "Open connections.", len(hub.connections))
        yield _gauge("connections_closing", "Sockets in a closing handshake.", counters.sockets - len(hub.connections))
        yield _gauge("connections_highest", "The most connections at one moment.", counters.connections_highest)
        yield _gauge("users", "Users with a connection.", len(hub.users))
        yield _gauge("channels", "Channels with a subscriber.", len(hub.channels))
        yield _gauge("subscriptions", "Subscriptions of all connections.", _subscriptions(hub))
        yield _gauge("queued_bytes", "Live messages that wait for sockets.", _queued(hub))

    def _counts(self) -> Iterator[Metric]:
        c = self._counters
        yield _counter("connections_total", "Connections that were opened.", c.connections_total)
        closes: dict[str, int] = {}
        for code, count in c.closes.items():
            name = str(code) if code in _CODES else "other"
            closes[name] = closes.get(name, 0) + count
        yield _by("connections_closed_total", "Connections that ended, by close code.", "code", closes)
        yield _by("connections_refused_total", "Upgrades that were refused, by HTTP status.", "status", c.refusals)
        yield _by("tls_handshakes_failed_total", "TLS handshakes that failed, by reason.", "reason", self._handshakes)
        yield _counter("messages_received_total", "Messages from clients.", c.messages_in)
        yield _counter("messages_sent_total", "Messages to clients.", c.messages_out)
        yield _counter("messages_left_out_total", "Live messages that did not fit a queue.", c.messages_left_out)
        yield _counter("received_bytes_total", "Messages from clients, in bytes.", c.bytes_in)
        yield _counter("sent_bytes_total", "Frames of messages to clients, in bytes.", c.bytes_out)
        yield _counter("publications_total", "Messages that were published here.", c.publications)
        yield _counter("slow_consumers_total", "Connections closed for not reading.", c.slow_consumers)
        yield _counter("authentications_total", "Authentications that succeeded.", c.auth_successes)
        yield _by("authentication_failures_total", "Authentications that failed, by code.", "code", c.auth_failures)
        yield _by("errors_total", "Errors that were answered, by code.", "code", c.errors)
        yield _counter("task_events_pushed_total", "Events of tasks that were shown.", c.tasks_pushed)
        yield _counter("task_events_throttled_total", "Events of tasks that were held back.", c.tasks_throttled)
        yield _counter("task_events_queued_total", "Final events of tasks put into inboxes.", c.tasks_queued)


class EventMeasures:
    """Collects what is known of events: the outbox on the node that works on it, attempts on all."""

    def __init__(self, service: EventService, counters: Counters, now: Callable[[], int]) -> None:
        self._service = service
        self._counters = counters
        self._now = now

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        figures, counters = self._service.figures, self._counters
        holds = self._service.holds
        oldest_at = figures.oldest_at
        age = max(0, self._now() - oldest_at) / 1000 if holds and oldest_at is not None else 0
        yield _gauge("events_kept", "Events in the outbox, on the node that works on it.", holds * figures.kept)
        yield _gauge("events_oldest_seconds", "How long the oldest event is in the outbox.", age)
        yield _counter("events_dropped_total", "Events that went before their time.", holds * figures.dropped)
        waiting = GaugeMetricFamily("pushserver_events_waiting", "Events that wait, by webhook.", labels=["webhook"])
        for webhook, count in sorted(self._service.waiting.items()):
            waiting.add_metric([webhook], count)
        yield waiting
        yield _by("webhook_delivered_total", "Events that were taken.", "webhook", counters.webhook_delivered)
        yield _by("webhook_failed_total", "Attempts that failed.", "webhook", counters.webhook_failed)


def _subscriptions(hub: Hub) -> int:
    return sum(len(channel.followers) + len(channel.catching_up or ()) for channel in hub.channels.values())


def _queued(hub: Hub) -> int:
    return sum(connection.outbox.counted for connection in hub.connections.values())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pushserver_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"pushserver_{name}", text, value=value)


def _by(name: str, text: str, label: str, counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"pushserver_{name}", text, labels=[label])
    for key in sorted(counts, key=str):
        family.add_metric([str(key)], counts[key])
    return family


def registry_of(*measures: Measures | EventMeasures) -> CollectorRegistry:
    """Return what a scrape asks: the node's figures and the process'."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    for each in measures:
        registry.register(each)  # type: ignore[arg-type]
    return registry
