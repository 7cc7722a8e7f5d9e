"""Each symptom of docs/troubleshooting.md: a server that is made to have the fault, and the commands that show it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest

from tests.harness import ROOT, Server, free_port, start, wait_until
from tests.rawsocket import RawSocket

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
SECTIONS = {
    title: re.findall(r"```console\n(.*?)```", body, re.DOTALL)
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
}
CONFIG = """
[server]
max_connections = 1
node_name = "push-1"
[auth]
timeout = "300ms"
[[namespaces]]
name = "demo"
subscribe = "authenticated"
"""
#: Long enough for a client to sign in where that is not the fault.
PATIENT = CONFIG.replace("300ms", "30s").replace("max_connections = 1", "max_connections = 10")


class Sick:
    """A server, and what an operator types beside it."""

    def __init__(self, server: Server, port: int, key: Path) -> None:
        self.server = server
        options = "-F none -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR"
        known = f"-o UserKnownHostsFile={key.parent / 'known'}"
        self._shell = (
            f"pushctl() {{ {sys.executable} -c 'from pushserver.pushctl import main; main()' \"$@\"; }}\n"
            f'ssh() {{ command ssh {options} {known} -p {port} -i {key} admin@127.0.0.1 "${{@:2}}" </dev/null; }}\n'
        )
        self._guests: list[RawSocket] = []

    def guest(self, user: str | None = None, secret: str | None = None, **headers: str) -> RawSocket:
        guest = RawSocket(self.server.port)
        self._guests.append(guest)
        guest.upgrade(headers)
        if user is not None:
            token = self.server.token(user)
            if secret is not None:
                claims = jwt.decode(token, self.server.secret, algorithms=["HS256"])
                token = jwt.encode(claims, secret, "HS256")
            guest.ask({"type": "auth", "id": 1, "data": {"token": token}})
        return guest

    def run(self, command: str) -> str:
        known = {
            "PUSHCTL_URL": self.server.url,
            "PUSHCTL_API_KEY": self.server.api_key,
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "160",
        }
        done = subprocess.run(
            ["bash", "-c", self._shell + command],
            env=os.environ | known,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stdout + done.stderr

    def close(self) -> None:
        for guest in self._guests:
            guest.close()
        self.server.stop()


@pytest.fixture
def sick(tmp_path: Path) -> Iterator[Callable[[str], Sick]]:
    made: list[Sick] = []
    key, port = tmp_path / "key", free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=60)

    def make(config: str) -> Sick:
        home = tmp_path / "server"
        home.mkdir()
        env = {"PUSHSERVER_MANHOLE__AUTHORIZED_KEYS": f"{key}.pub"}
        server = start(home, "--manhole", f"tcp:{port}:interface=127.0.0.1", config=config, env=env)
        made.append(Sick(server, port, key))
        return made[-1]

    yield make
    for each in made:
        each.close()


def foreign_origin(make: Callable[[str], Sick]) -> Sick:
    server = make(PATIENT)
    server.guest(Origin="https://evil.example")
    return server


def full(make: Callable[[str], Sick]) -> Sick:
    server = make(CONFIG.replace("300ms", "30s"))
    server.guest("42")
    server.guest()
    return server


def wrong_key(make: Callable[[str], Sick]) -> Sick:
    server = make(PATIENT)
    server.guest("42", secret="x" * 40)
    return server


def silent(make: Callable[[str], Sick]) -> Sick:
    server = make(CONFIG)
    server.guest()
    wait_until(lambda: "3502" in server.server.api("GET", "/api/stats").body["total"]["closes"])
    return server


def not_reading(make: Callable[[str], Sick]) -> Sick:
    server = make(PATIENT)
    guest = server.guest("42")
    guest.ask({"type": "subscribe", "id": 2, "data": {"channels": ["demo:news"]}})

    def queued() -> bool:
        server.server.api("POST", "/api/publish", {"channel": "demo:news", "data": "x" * 100_000})
        (connection,) = server.server.api("GET", "/api/connections").body["connections"]
        return bool(connection["queued"])

    wait_until(queued)
    return server


def away(make: Callable[[str], Sick]) -> Sick:
    server = make(PATIENT)
    server.server.api("POST", "/api/notify", {"userId": "42", "data": {"title": "Hello"}})
    return server


def not_following(make: Callable[[str], Sick]) -> Sick:
    server = make(PATIENT)
    server.guest("42")
    return server


def refused_publisher(make: Callable[[str], Sick]) -> Sick:
    server = make(PATIENT)
    server.server.api("POST", "/api/publish", {"channel": "nowhere:1", "data": 1})
    return server


FAULTS: dict[str, Callable[[Callable[[str], Sick]], Sick]] = {
    "Cannot connect: the page's origin is not allowed": foreign_origin,
    "Cannot connect: the server is full": full,
    "Authentication fails: wrong key": wrong_key,
    "Authentication fails: it never comes": silent,
    "Messages late: the client does not read": not_reading,
    "Messages missing: the user is not connected": away,
    "Messages missing: the client does not follow the channel": not_following,
    "Messages missing: the publisher was refused": refused_publisher,
}


def said(lines: str) -> list[str]:
    return [" ".join(line.split()) for line in lines.splitlines() if line.strip()]


def like(wanted: str, line: str) -> bool:
    """Whether a line says what the document does; ``#`` stands for whatever differs from run to run."""
    return re.fullmatch(re.escape(wanted).replace(r"\#", r"\S.*?"), line) is not None


def test_there_is_a_fault_for_each_section() -> None:
    assert list(FAULTS) == list(SECTIONS)


@pytest.mark.parametrize("title", FAULTS)
def test_the_commands_show_the_cause(title: str, sick: Callable[[str], Sick]) -> None:
    server = FAULTS[title](sick)
    blocks = SECTIONS[title]
    assert blocks
    for command, wanted in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE):
        answered = said(server.run(command))
        for line in said(wanted):
            assert any(like(line, each) for each in answered), f"{command}\nwanted {line}\nsaid " + "\n".join(answered)
