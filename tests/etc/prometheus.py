"""A real Prometheus with the rules of etc/, and what it scrapes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from urllib.request import urlopen

from tests.clients.stage import find
from tests.harness import free_port, wait_until


class Target(NamedTuple):
    """A server that is scraped; over TLS where it says whom to trust."""

    port: int
    key: str
    ca: Path | None = None


class Prometheus:
    """It scrapes every two seconds and evaluates each second. An instance is called as its target."""

    def __init__(self, directory: Path, targets: Mapping[str, Target], rules: Path) -> None:
        self._port = free_port()
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "2s", "evaluation_interval": "1s"},
                    "rule_files": [str(rules)],
                    "scrape_configs": [
                        {
                            "job_name": name,
                            "scheme": "https" if target.ca else "http",
                            "authorization": {"credentials": target.key},
                            "tls_config": {"ca_file": str(target.ca or "")},
                            "static_configs": [
                                {
                                    "targets": [f"127.0.0.1:{target.port}"],
                                    "labels": {"job": "pushserver", "instance": name},
                                }
                            ],
                        }
                        for name, target in targets.items()
                    ],
                }
            )
        )
        program = find("prometheus")
        assert program is not None, "tools/packages.sh prometheus:prometheus"
        self._log = directory / "prometheus.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, 60, self._log.read_text())

    def _ready(self) -> bool:
        # It listens before it answers, with 503 until then.
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=60):
                return True
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now, each with its labels (`metric`) and its `value`."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?query={quote(expression)}"
        with urlopen(url, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def fired(self) -> set[tuple[str, str]]:
        """Return each alert that has fired until now, and its instance; "" where it is about all of them."""
        series = self.query('max_over_time(ALERTS{alertstate="firing"}[1h])')
        return {(each["metric"]["alertname"], each["metric"].get("instance", "")) for each in series}

    def end(self) -> None:
        """End it; nobody wants what it would write."""
        self._process.kill()
        self._process.wait()
