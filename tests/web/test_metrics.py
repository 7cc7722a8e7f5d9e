from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import prometheus_client
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pushserver.server.stats import Counters
from pushserver.web.metrics import Measures, registry_of
from tests.harness import Server
from tests.rawsocket import RawSocket


class FakeHub:
    def __init__(self) -> None:
        self.connections: dict[str, Any] = {}
        self.users: dict[str, Any] = {}
        self.channels: dict[str, Any] = {}


class FakeEngine:
    def __init__(self, figures: dict[str, float]) -> None:
        self._figures = figures

    def figures(self) -> dict[str, float]:
        return self._figures

    def clock_skew(self) -> float:
        return -1.5


def scrape(counters: Counters, engine: dict[str, float] | None = None) -> str:
    measures = Measures(
        counters,
        FakeHub(),  # type: ignore[arg-type]
        FakeEngine(engine or {}),
        "n1",
        lambda: 61_000,
        lambda: True,
        {"not_tls": 2},
    )
    return generate_latest(registry_of(measures)).decode()


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_become_metrics() -> None:
    counters = Counters(1_000)
    counters.connection_opened(1)
    counters.connection_opened(2)
    counters.connection_closed(1000)
    counters.refused(503)
    counters.received(10)
    counters.sent(2, 60)
    counters.error("NOT_FOUND")
    counters.authenticated()
    counters.authentication_failed("INVALID_TOKEN")
    said = samples(scrape(counters))
    assert said["pushserver_connections_total"] == 2
    assert said["pushserver_connections_highest"] == 2
    assert said["pushserver_connections_closed_total{code=1000}"] == 1
    assert said["pushserver_connections_refused_total{status=503}"] == 1
    assert said["pushserver_messages_received_total"] == 1
    assert said["pushserver_received_bytes_total"] == 10
    assert said["pushserver_messages_sent_total"] == 2
    assert said["pushserver_sent_bytes_total"] == 60
    assert said["pushserver_errors_total{code=NOT_FOUND}"] == 1
    assert said["pushserver_authentications_total"] == 1
    assert said["pushserver_authentication_failures_total{code=INVALID_TOKEN}"] == 1
    assert said["pushserver_uptime_seconds"] == 60
    assert said["pushserver_start_time_seconds"] == 1
    assert said["pushserver_ready"] == 1


def test_the_engines_own_figures_are_there_under_its_name() -> None:
    text = scrape(Counters(0), {"ingest_lag": 3, "store_batches_total": 7})
    assert samples(text)["pushserver_engine_ingest_lag"] == 3
    assert samples(text)["pushserver_engine_store_batches_total"] == 7
    assert "# TYPE pushserver_engine_ingest_lag gauge" in text
    assert "# TYPE pushserver_engine_store_batches_total counter" in text


def test_clients_cannot_make_series_with_close_codes_of_their_own() -> None:
    counters = Counters(0)
    for code in range(3000, 5000):
        counters.connection_closed(code)
    series = [name for name in samples(scrape(counters)) if "connections_closed" in name]
    assert len(series) < 60
    assert samples(scrape(counters))["pushserver_connections_closed_total{code=other}"] > 1_900


def test_every_metric_of_ours_has_help_and_follows_the_conventions() -> None:
    for family in text_string_to_metric_families(scrape(Counters(0), {"ingest_lag": 3})):
        if family.name.startswith("pushserver"):
            assert family.documentation
            assert family.type in ("gauge", "counter")


def test_nothing_is_registered_in_the_process_wide_registry() -> None:
    scrape(Counters(0))
    registry = prometheus_client.REGISTRY
    assert not any(name.startswith("pushserver") for name in registry._names_to_collectors)


def test_a_running_server_shows_its_metrics_to_the_machine_that_it_runs_on(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with RawSocket(server.port) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
        answer = server.api("GET", "/metrics", key="")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        said = samples(answer.body)
        assert said["pushserver_connections"] == said["pushserver_users"] == 1
        assert said["pushserver_subscriptions"] == 2
        if sys.platform == "linux":
            assert said["process_resident_memory_bytes"] > 1_000_000
        assert server.api("GET", "/metrics", key="", headers={"X-Forwarded-For": "203.0.113.9"}).status == 401
