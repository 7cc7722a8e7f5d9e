"""The alert rules and the dashboard: they ask for what a scrape has, and real Prometheus takes them."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest

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
def test_real_prometheus_scrapes_and_answers_each_query_of_the_dashboard(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(config="[server]\nmetrics_public = true\n")
    port = free_port()
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{ALERTS}]\n"
        f"scrape_configs: [{{job_name: pushserver, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}]\n"
    )
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def query(expression: str) -> list[object]:
        url = f"http://127.0.0.1:{port}/api/v1/query?query={quote(expression)}"
        with urlopen(url, timeout=60) as answer:
            found: list[object] = json.load(answer)["data"]["result"]
            return found

    def ready() -> bool:
        # It listens before it answers, with 503 until then.
        try:
            with urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=60):
                return True
        except OSError:
            return False

    try:
        with RawSocket(server.port) as client:
            client.upgrade()
            client.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
            wait_until(ready, 60)
            done = threading.Event()

            def work() -> None:
                while not done.wait(0.2):
                    server.api("POST", "/api/notify", {"userId": "42", "data": 1})

            worker = threading.Thread(target=work)
            worker.start()
            wait_until(lambda: query("count_over_time(pushserver_ready[5m]) > 5"), 60)
            done.set()
            worker.join()
        unanswered = []
        for expression in dashboard_queries():
            asked = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
            if not names_in(asked) & ELSEWHERE and not query(asked):
                unanswered.append(asked)
        assert unanswered == []
        assert query('ALERTS{alertstate="firing"}') == []
    finally:
        prometheus.terminate()
        prometheus.wait(20)
