"""The console with the real SSH client."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.conch.error import ConchError
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.common import NS

from pushserver.core.errors import ConfigError
from pushserver.manhole.keys import HOST_KEY, authorized_keys, host_key
from pushserver.manhole.login import Checker
from pushserver.manhole.places import MAX_STRANGERS
from pushserver.manhole.session import ConsoleSession
from pushserver.manhole.ssh import Realm
from tests.harness import Server, free_port, wait_until
from tests.rawsocket import RawSocket

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.")


def make_key(path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True, timeout=60
    )
    return path


class Operator:
    """Somebody with an SSH client and a key."""

    def __init__(self, server: Server, port: int, key: Path) -> None:
        self.server = server
        self.port = port
        self.key = key

    def command(self, *arguments: str, key: Path | None = None, options: tuple[str, ...] = ()) -> list[str]:
        place = self.server.place
        given = ["-F", "none", "-p", str(self.port), "-i", str(key or self.key), "-o", "IdentitiesOnly=yes"]
        given += ["-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={place / 'known_hosts'}"]
        given += ["-o", "IdentityAgent=none", "-o", "LogLevel=ERROR", *options]
        if "-o" not in options:
            given += ["-o", "PreferredAuthentications=publickey"]
        return ["ssh", *given, "admin@127.0.0.1", *arguments]

    def run_command(self, text: str, **named: Any) -> subprocess.CompletedProcess[str]:
        """One command without a terminal."""
        return subprocess.run(
            self.command(text, **named), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )


class Screen:
    """A terminal of 80 columns with the client in it."""

    def __init__(self, operator: Operator) -> None:
        self.seen = ""
        pid, self._fd = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execvp("ssh", operator.command("-tt"))
        self.pid = pid
        self._status: int | None = None

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, text: str, deadline: float = 60.0) -> str:
        """Read until ``text`` is there; return all that came, and forget it."""
        end = time.monotonic() + deadline
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come: {self.seen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    more = os.read(self._fd, 65536)
                except OSError:
                    more = b""
                assert more, f"the end came instead of {text!r}: {self.seen!r}"
                self.seen += _ESCAPES.sub("", more.decode(errors="replace"))
        at = self.seen.index(text) + len(text)
        said, self.seen = self.seen[:at], self.seen[at:]
        return said

    def status(self) -> int:
        """The client's exit status, once it has ended."""
        end = time.monotonic() + 60
        while self._status is None:
            if select.select([self._fd], [], [], 0.05)[0]:
                try:
                    os.read(self._fd, 65536)
                except OSError:
                    pass
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._status = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, "the client does not end"
        return self._status

    def close(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._status = -9
        os.close(self._fd)


@pytest.fixture
def operator(start_server: Callable[..., Server], tmp_path: Path) -> Operator:
    key, port = make_key(tmp_path / "key"), free_port()
    server = start_server(
        "--manhole",
        f"tcp:{port}:interface=127.0.0.1",
        env={
            "PUSHSERVER_MANHOLE__AUTHORIZED_KEYS": f"{key}.pub",
            "PUSHSERVER_MANHOLE__PASSWORD_FILE": str(_password(tmp_path)),
        },
    )
    return Operator(server, port, key)


def _password(place: Path) -> Path:
    path = place / "password"
    path.write_text("open sesame, please\n")
    return path


@pytest.fixture
def screen(operator: Operator) -> Iterator[Screen]:
    screen = Screen(operator)
    yield screen
    screen.close()


@pytest.fixture
def client(operator: Operator) -> Iterator[RawSocket]:
    """User 42, connected and signed in."""
    with RawSocket(operator.server.port) as client:
        client.upgrade({"User-Agent": "the test"})
        client.ask({"type": "auth", "id": 1, "data": {"token": operator.server.token("42")}})
        yield client


def test_an_operator_finds_traces_and_disconnects_a_connection(
    operator: Operator, screen: Screen, client: RawSocket
) -> None:
    screen.until("push> ")
    screen.type("connections('42')\r")
    listed = screen.until("127.0.0.1")
    screen.until("push> ")
    id = operator.server.api("GET", "/api/connections?userId=42").body["connections"][0]["connectionId"]
    assert id in listed.replace("\r\n", "")

    screen.type(f"trace('{id}')\r")
    screen.until("42 from 127.0.0.1")
    token = operator.server.token("42", permissions=["subscribe:stats"])
    client.ask({"type": "auth", "id": 2, "data": {"token": token}})
    client.ask({"type": "ping", "id": 3, "data": {"hello": "there"}})
    seen = screen.until('"type":"pong"')
    assert '-> {"type":"auth","id":2,"data":{"token":"<hidden>"}}' in seen
    assert '"hello":"there"' in seen
    assert token not in seen
    assert token.split(".")[1][:20] not in operator.server.log

    screen.type("\x03")
    screen.until("lines were shown")
    screen.type(f"disconnect('{id}')\r")
    screen.until("1 closed")
    assert client.close_code() == 3503
    screen.type("\x04")
    assert screen.status() == 0
    log = operator.server.log
    assert "console: admin logged in from 127.0.0.1 by publickey" in log
    assert f"console: admin from 127.0.0.1 says disconnect({id})" in log
    wait_until(lambda: "admin from 127.0.0.1 is gone" in operator.server.log)


def test_a_traced_user_may_come_and_go(operator: Operator, screen: Screen) -> None:
    screen.until("push> ")
    screen.type("trace(7)\r")
    screen.until("7 is not connected here; waiting")
    for _ in range(2):
        with RawSocket(operator.server.port) as client:
            client.upgrade()
            client.ask({"type": "auth", "id": 1, "data": {"token": operator.server.token("7")}})
            screen.until("7 from 127.0.0.1")
            operator.server.api("POST", "/api/publish", {"channel": "user:7", "data": {"n": 1}})
            assert client.message()["data"] == {"n": 1}
            screen.until('"data":{"n":1}')
        screen.until("closed")
    screen.type("untrace()\r")
    screen.until("1 stopped")


def test_the_terminal_completes_remembers_and_survives_mistakes(operator: Operator, screen: Screen) -> None:
    screen.until("push> ")
    screen.type("nod\t)\r")
    screen.until("connections")
    screen.until("push> ")
    screen.type("1/0\r")
    screen.until("ZeroDivisionError")
    screen.until("push> ")
    screen.type("x = 40\rx + 2\r")
    screen.until("\r\n42\r\n")
    screen.until("push> ")
    screen.type("\x1b[A\x1b[D\x1b[D\x1b[D\x1b[D9\r")
    screen.until("\r\n")
    screen.type("connections\r")
    screen.until("add the parentheses")
    screen.until("push> ")
    screen.type("for i in range(2):\rprint(\x03")
    screen.until("KeyboardInterrupt")
    screen.type("raise SystemExit(3)\r")
    assert screen.status() == 3
    assert operator.server.api("GET", "/healthz", key="").status == 200
    assert operator.run_command("x").returncode == 1  # a name of another login


def test_a_command_answers_and_ends_with_a_meaningful_status(operator: Operator, client: RawSocket) -> None:
    said = operator.run_command("stats()")
    assert (said.returncode, said.stderr) == (0, "")
    assert "current=1" in said.stdout
    assert operator.run_command("'4' * 2").stdout == "'44'\n"
    failed = operator.run_command("task('no such task')")
    assert (failed.returncode, failed.stdout) == (1, "NOT_FOUND: no such task\n")
    assert operator.run_command("1/0").returncode == 1
    assert operator.run_command("not python at all").returncode == 1
    assert operator.run_command("exit(7)").returncode == 7
    assert operator.run_command("publish('chat:lobby', {'a': 1}); users()").stdout.count("\n42 ") == 1


def test_what_is_published_at_the_console_arrives_and_is_not_in_the_log(operator: Operator, client: RawSocket) -> None:
    said = operator.run_command("notify(42, {'title': 'a most private matter'})")
    assert said.returncode == 0
    assert client.message()["data"] == {"title": "a most private matter"}
    assert "most private" in operator.run_command("inbox(42)").stdout
    log = operator.server.log
    assert "says notify(42)" in log
    assert "most private" not in log


def test_a_text_on_standard_input_is_carried_out(operator: Operator) -> None:
    def pipe(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(operator.command("-T"), input=text, capture_output=True, text=True, timeout=60)

    said = pipe("1 + 1\nfor n in range(2):\n  print('a' * 3)\n")
    assert (said.returncode, said.stdout, said.stderr) == (0, "2\naaa\naaa\n", "")
    assert pipe("1/0").returncode == 1
    assert pipe("exit(4)").returncode == 4
    assert pipe("#" * 70_000).stderr == "the command is too long\n"


def test_no_mistake_stops_the_server(operator: Operator, client: RawSocket) -> None:
    mistakes = (
        ("while True: print('again' * 1000)", "stopped: more than"),
        ("while True: pass", "stopped: it ran for more than"),
        ("while True:\n  try:\n    print('x' * 1000)\n  except Exception: pass", "stopped: more than"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import threading; raise KeyboardInterrupt", "KeyboardInterrupt"),
    )
    for number, (text, why) in enumerate(mistakes):
        said = operator.run_command(text)
        assert said.returncode == 1, text
        assert why in said.stdout, text
        assert len(said.stdout) < 300_000
        assert client.ask({"type": "ping", "id": number, "data": {}})["type"] == "pong"
    assert operator.run_command("nodes()").returncode == 0


def test_a_wrong_key_is_refused_and_the_log_says_which(operator: Operator, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    for _ in range(6):
        refused = operator.run_command("stats()", key=wrong)
        assert refused.returncode == 255
        assert "Permission denied" in refused.stderr
    listed = subprocess.run(["ssh-keygen", "-lf", f"{wrong}.pub"], capture_output=True, text=True, check=True)
    fingerprint = listed.stdout.split()[1]
    assert f"by publickey: ssh-ed25519 {fingerprint}: not in the file" in operator.server.log
    # A key is not guessed: whoever has the right one comes in, whatever others at that address have tried.
    assert operator.run_command("1 + 1").stdout == "2\n"


def test_keys_of_every_modern_kind_open_it(operator: Operator, tmp_path: Path) -> None:
    for kind, bits in (("rsa", "3072"), ("ecdsa", "256"), ("ecdsa", "521")):
        key = tmp_path / f"{kind}-{bits}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", bits, "-N", "", "-f", str(key)], check=True, timeout=60)
        with open(f"{operator.key}.pub", "a") as file:
            file.write(Path(f"{key}.pub").read_text())
        said = operator.run_command("1 + 1", key=key)
        assert (said.returncode, said.stdout) == (0, "2\n"), said.stderr
    key = tmp_path / "rsa-3072"
    for algorithm in ("rsa-sha2-256", "rsa-sha2-512"):
        options = ("-o", f"PubkeyAcceptedAlgorithms={algorithm}")
        assert operator.run_command("1 + 1", key=key, options=options).stdout == "2\n"
    assert operator.run_command("1 + 1", key=key, options=("-o", "PubkeyAcceptedAlgorithms=ssh-rsa")).returncode == 255


def test_outdated_algorithms_are_refused_and_the_log_says_which(operator: Operator) -> None:
    for option, name in (
        ("Ciphers=aes128-cbc", "cipher"),
        ("MACs=hmac-sha1", "MAC"),
        ("KexAlgorithms=diffie-hellman-group14-sha1", "key"),
    ):
        refused = operator.run_command("1 + 1", options=("-o", option))
        assert refused.returncode == 255
        line = f"127.0.0.1 has no algorithm in common with this server: {name}"
        wait_until(lambda line=line: line in operator.server.log)
        assert option.partition("=")[2] in operator.server.log


def test_passwords_open_it_where_there_is_one_and_guesses_are_slowed(operator: Operator, tmp_path: Path) -> None:
    def guess(password: str) -> subprocess.CompletedProcess[str]:
        ask = tmp_path / "ask"
        ask.write_text(f"#!/bin/sh\necho '{password}'\n")
        ask.chmod(0o700)
        options = ("-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=2")
        return subprocess.run(
            operator.command("1 + 1", options=options),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":9"},
        )

    assert guess("open sesame, please").stdout == "2\n"
    began = time.monotonic()
    assert guess("open sesame").returncode == 255
    assert time.monotonic() - began > 4
    assert "open sesame" not in operator.server.log


@pytest.mark.parametrize(
    "kind", [b"direct-tcpip", b"direct-streamlocal@openssh.com", b"x11", b"auth-agent@openssh.com"]
)
def test_who_is_logged_in_gets_sessions_and_nothing_else(kind: bytes) -> None:
    _, avatar, _ = Realm().requestAvatar("admin", None, IConchUser)
    assert isinstance(avatar.lookupChannel(b"session", 1, 1, b""), ConsoleSession)
    with pytest.raises(ConchError, match="unknown channel"):
        avatar.lookupChannel(kind, 1, 1, b"")
    for asked in (b"tcpip-forward", b"streamlocal-forward@openssh.com"):
        assert not avatar.gotGlobalRequest(asked, b"")
    # "sftp" and every other subsystem, another environment, the agent.
    session = ConsoleSession()
    for request in (b"subsystem", b"env", b"auth-agent-req@openssh.com", b"x11-req"):
        assert not session.requestReceived(request, NS(b"sftp"))


def test_strangers_at_other_addresses_are_in_nobodys_way(operator: Operator) -> None:
    strangers: list[socket.socket] = []
    try:
        for _ in range(2 * MAX_STRANGERS):
            stranger = socket.create_connection(("127.0.0.1", operator.port), 10, ("127.0.0.7", 0))
            strangers.append(stranger)
            assert stranger.recv(4) == b"SSH-"
        assert operator.run_command("1 + 1").stdout == "2\n"
        assert operator.server.log.count("127.0.0.7 made way for another") >= MAX_STRANGERS
    finally:
        for stranger in strangers:
            stranger.close()


def test_a_neighbours_guesses_lock_passwords_out_and_no_key(operator: Operator, tmp_path: Path) -> None:
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho wrong\n")
    ask.chmod(0o700)
    options = ("-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1")
    environment = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":9"}
    guesses = [
        subprocess.Popen(
            operator.command("1", options=options), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        for _ in range(6)
    ]
    for guess in guesses:
        guess.communicate(timeout=60)
    assert "passwords from 127.0.0.1 are locked out for 300 s" in operator.server.log
    assert operator.run_command("1 + 1").stdout == "2\n"


def test_draining_sends_clients_away_and_takes_no_new_ones_until_it_ends(operator: Operator, client: RawSocket) -> None:
    assert "draining 1 connections" in operator.run_command("drain(0.1)").stdout
    assert client.message()["type"] == "going_away"
    assert client.close_code() == 3001
    assert operator.server.api("GET", "/readyz", key="").status == 503
    with RawSocket(operator.server.port) as late:
        assert late.upgrade().status == 503
    assert operator.run_command("undrain()").returncode == 0
    assert operator.server.api("GET", "/readyz", key="").status == 200
    with RawSocket(operator.server.port) as back:
        assert back.upgrade().status == 101


def test_stopping_the_server_ends_the_logins(operator: Operator, screen: Screen) -> None:
    screen.until("push> ")
    operator.server.terminate()
    assert screen.status() == 255


def test_the_host_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    first = host_key(tmp_path / "state")
    assert (tmp_path / "state" / HOST_KEY).stat().st_mode & 0o777 == 0o600
    assert first.sshType() == b"ssh-ed25519"
    (tmp_path / "state" / HOST_KEY).chmod(0o644)
    assert host_key(tmp_path / "state") == first
    assert (tmp_path / "state" / HOST_KEY).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "state").iterdir()] == [HOST_KEY]


def test_a_host_key_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / HOST_KEY).write_text("nonsense")
    with pytest.raises(ConfigError, match=HOST_KEY):
        host_key(tmp_path)


def test_lines_that_are_no_keys_are_left_out(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    public = Path(f"{key}.pub").read_text()
    (tmp_path / "keys").write_text(f"# mine\n\nssh-ed25519 nonsense\n{public}")
    assert len(authorized_keys(tmp_path / "keys")) == 1


def test_files_that_are_not_there_or_empty_end_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="manhole"):
        Checker("admin", str(tmp_path / "none"), "")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        Checker("admin", "", str(tmp_path / "empty"))
