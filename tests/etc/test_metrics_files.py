"""The alert rules and the dashboard: they ask for what a scrape has, and real Prometheus takes them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import certificates
from tests.cluster.conftest import API_KEY, Deployment
from tests.etc.prometheus import Prometheus, Target
from tests.harness import ROOT, Server, free_port, wait_until
from tests.rawsocket import RawSocket

ALERTS = ROOT / "etc" / "prometheus-alerts.yml"
DASHBOARD = ROOT / "etc" / "grafana-dashboard.json"
_NAME = re.compile(r"\b(?:pushserver|process)_[a-z_]+")
#: What only a server on Redis, one with workers, or one with a certificate shows.
ELSEWHERE = {
    "pushserver_engine_ingest_lag",
    "pushserver_worker_restarts_total",
    "pushserver_certificate_expiry_seconds",
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.end()


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def names_in(text: str) -> set[str]:
    return set(_NAME.findall(text))


def scraped(server: Server) -> set[str]:
    text = server.api("GET", "/metrics").body
    samples = {match[1] for match in re.finditer(r"^([a-z_]+)(?:\{| )", text, re.MULTILINE)}
    # A text may speak of a histogram by its name alone.
    return samples | set(re.findall(r"^# TYPE ([a-z_]+) histogram", text, re.MULTILINE))


def test_every_metric_that_is_asked_for_is_in_a_scrape(server: Server) -> None:
    asked = names_in(ALERTS.read_text()) | names_in(" ".join(dashboard_queries()))
    known = scraped(server)
    assert len(asked) > 30
    assert asked - ELSEWHERE - known == set()
    assert asked >= ELSEWHERE


def test_the_dashboard_has_no_two_panels_alike_and_none_beside_the_grid() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.full
def test_prometheus_takes_the_rules_and_each_alert_fires_by_its_fault_alone() -> None:
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(ROOT / "tests" / "etc" / "alerts.yml")]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    tested = re.findall(r'alertname="(\w+)"', (ROOT / "tests" / "etc" / "alerts.yml").read_text())
    assert sorted(tested) == sorted(re.findall(r"alert: (\w+)", ALERTS.read_text()))


@pytest.mark.full
def test_real_prometheus_scrapes_all_nodes_and_answers_each_query_of_the_dashboard(
    place: Deployment, tmp_path: Path
) -> None:
    # How much room is left is told where there is a bound.
    redis = place.redis(maxmemory="100mb", maxmemory_policy="noeviction")
    files = certificates(tmp_path / "pki")
    secured, certificate = free_port(), f"privateKey={files['key']}:certKey={files['cert']}"
    plain = place.server("--redis", redis.url, "--workers", "2")
    tls = place.server(
        *("--redis", redis.url, "--listen", f"ssl:{secured}:interface=127.0.0.1:{certificate}"), ready=False
    )
    wait_until(lambda: plain.log.count(" is ready") == 2 and " listens on " in tls.log, 60, tls.log)
    targets = {"plain": Target(plain.port, API_KEY), "tls": Target(secured, API_KEY, files["ca"])}
    prometheus = Prometheus(tmp_path, targets, ALERTS)
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.2):
            plain.api("POST", "/api/notify", {"userId": "42", "data": 1})

    worker = threading.Thread(target=work)
    try:
        with RawSocket(plain.port) as client:
            client.upgrade()
            client.ask({"type": "auth", "id": 1, "data": {"token": plain.token("42")}})
            worker.start()
            each = [f'count_over_time(pushserver_ready{{instance="{name}"}}[5m]) > 5' for name in targets]
            wait_until(lambda: all(prometheus.query(expression) for expression in each), 60)
            assert {sample["value"][1] for sample in prometheus.query("pushserver_nodes")} == {"3"}
            queries = [
                query.replace("$instance", ".*").replace("$__rate_interval", "1m") for query in dashboard_queries()
            ]
            assert [query for query in queries if not prometheus.query(query)] == []
            asked = names_in(ALERTS.read_text()) | names_in(" ".join(queries))
            # A text may speak of a histogram by its name alone.
            missing = [name for name in asked if not prometheus.query(f'{{__name__=~"{name}(_bucket)?"}}')]
            assert missing == []
            assert asked >= ELSEWHERE
            # That the certificate is of a day is told only after an hour.
            assert prometheus.fired() == set()
    finally:
        done.set()
        if worker.is_alive():
            worker.join()
        prometheus.end()
