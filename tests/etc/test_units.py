"""The units of etc/ for systemd: as its own program judges them, and what they start, without a systemd that runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.test_systemd import Systemd
from tests.harness import ROOT, Server, free_port, wait_until
from tests.rawsocket import RawSocket

pytestmark = pytest.mark.full

#: Where the service has its programs, and its configuration.
PROGRAMS, CONFIG = "/opt/pushserver/bin", "/etc/pushserver/pushserver.toml"
API_KEY = "the-key-of-this-test"


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, unedited but for where their programs are."""
    for program in ("twistd", "pushctl"):
        (tmp_path / program).symlink_to(Path(sys.executable).parent / program)
    found = [tmp_path / name for name in ("pushserver.service", "pushserver.socket")]
    for unit in found:
        unit.write_text((ROOT / "etc" / unit.name).read_text().replace(PROGRAMS, str(tmp_path)))
    return found


def test_systemd_has_nothing_to_say_against_them(units: list[Path]) -> None:
    judged = analyze("verify", *units)
    # Of a key that it does not know it only warns.
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")
    units[0].write_text(units[0].read_text().replace("WatchdogSec", "WatchdogSecs"))
    assert "WatchdogSecs" in analyze("verify", units[0]).stderr


def test_the_service_is_exposed_as_little_as_it_was_measured(units: list[Path]) -> None:
    judged = analyze("security", "--offline=true", "--threshold=16", units[0])
    assert judged.returncode == 0, judged.stdout + judged.stderr
    level = re.search(r"Overall exposure level for pushserver\.service: (\d+\.\d)", judged.stdout)
    assert level is not None, judged.stdout
    assert float(level[1]) <= 1.6


class Service:
    """What the unit says, done by hand: credentials, the check before the start, the start, the reload."""

    def __init__(self, place: Path) -> None:
        text = (ROOT / "etc" / "pushserver.service").read_text().replace("\\\n", " ")
        self._lines = [line.partition("=") for line in text.splitlines() if not line.startswith("#")]
        self._place = place
        self._credentials = place / "credentials" / "pushserver.service"
        self._variables = {"%d": str(self._credentials), PROGRAMS: str(Path(sys.executable).parent)}
        self._variables |= {CONFIG: str(place / "pushserver.toml"), "/var/lib/pushserver": str(place / "state")}

    def values(self, key: str) -> list[str]:
        found = [value.strip() for name, _, value in self._lines if name == key]
        for old, new in self._variables.items():
            found = [value.replace(old, new) for value in found]
        return found

    def load_credentials(self, kept: dict[str, bytes]) -> None:
        """Lay them out as systemd does: a folder of the service's own, read by its user alone."""
        self._credentials.mkdir(parents=True)
        for value in self.values("LoadCredential"):
            name, _, path = value.partition(":")
            (self._credentials / name).write_bytes(kept[path])
            (self._credentials / name).chmod(0o400)
        self._credentials.chmod(0o500)

    def environment(self, notify: Path) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSERVER_")}
        given = dict(shlex.split(value)[0].split("=", 1) for value in self.values("Environment"))
        # What stands in the file of root's, and what the service manager sets by itself.
        given |= {"PUSHSERVER_API__KEYS": json.dumps([API_KEY]), "PYTHONPATH": str(ROOT)}
        return clean | given | {"CREDENTIALS_DIRECTORY": str(self._credentials), "NOTIFY_SOCKET": str(notify)}

    def run(self, key: str, environment: dict[str, str]) -> None:
        for value in self.values(key):
            done = subprocess.run(shlex.split(value), env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def start(self, environment: dict[str, str], port: int, secret: str) -> Server:
        (command,) = self.values("ExecStart")
        with open(self._place / "log", "wb") as log:
            process = subprocess.Popen(
                shlex.split(command), cwd=self._place, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return Server(process, port, self._place, secret, API_KEY)


def test_the_service_reads_its_secret_where_systemd_puts_it(tmp_path: Path) -> None:
    secret, port = "the secret of this test, of over 32 bytes", free_port()
    (tmp_path / "pushserver.toml").write_text(f'[server]\nlisten = ["tcp:{port}:interface=127.0.0.1"]\n')
    service = Service(tmp_path)
    service.load_credentials({"/etc/pushserver/token_secret": f"{secret}\n".encode()})
    systemd = Systemd(tmp_path / "notify")
    environment = service.environment(systemd.path)
    service.run("ExecStartPre", environment)
    server = service.start(environment, port, secret)
    try:
        systemd.until("READY=1")
        with RawSocket(port) as client:
            client.upgrade()
            said = client.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
            assert said["type"] == "auth_success"
            service._variables["$MAINPID"] = str(server.pid)
            service.run("ExecReload", environment)
            wait_until(lambda: "the configuration was reloaded; changed: nothing" in server.log)
            assert client.ask({"type": "ping", "id": 2, "data": {}})["type"] == "pong"
        # As a shell says it: 143, which SuccessExitStatus names.
        assert service.values("SuccessExitStatus") == [str(128 - server.terminate())]
        systemd.until("STOPPING=1")
    finally:
        server.stop()
        systemd.close()
