"""Makes the transcripts of docs/operations.md again, by running what they show.

    python -m tools.transcripts          writes the document

A line ``$ ssh console '…'`` in a ``console`` block is run with the real SSH client on a server with a little life in
it, a line ``$ pushctl …`` by a shell beside it; what stands below it is replaced by what it answered.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import ROOT, Server, free_port, start
from tests.rawsocket import RawSocket

DOCUMENT = ROOT / "docs" / "operations.md"
_COMMAND = re.compile(r"\$ (?:ssh console '(.*)'|(pushctl .*))$")
_SECONDS = 30


class Scene:
    """A server with two users, a task and a message that waits."""

    def __init__(self, server: Server, ssh: list[str], client: RawSocket) -> None:
        self.server = server
        self._ssh = ssh
        self._client = client
        self._guests: list[RawSocket] = []

    def close(self) -> None:
        for guest in self._guests:
            guest.close()

    def answer(self, verb: str) -> str:
        """What the console answers; a trace is followed for as long as a few messages take."""
        if verb.startswith("trace("):
            return self._traced(verb)
        if verb.startswith("pushctl "):
            return self._shell(verb)
        done = subprocess.run(
            [*self._ssh, verb], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
        )
        return (done.stdout + done.stderr).rstrip("\n")

    def _shell(self, command: str) -> str:
        """What ``pushctl`` answers, in a shell that knows where the server is, with somebody connected to it."""
        if not self._guests:
            self._guests = [visit(self.server, user) for user in ("42", "7")]
        known = {
            "PUSHCTL_URL": self.server.url,
            "PUSHCTL_API_KEY": self.server.api_key,
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "110",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        call = f"pushctl() {{ {sys.executable} -c 'from pushserver.pushctl import main; main()' \"$@\"; }}\n{command}"
        done = subprocess.run(
            ["bash", "-c", call],
            env=os.environ | known,
            cwd=self.server.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        lines = (line.rstrip() for line in (done.stdout + done.stderr).rstrip("\n").split("\n"))
        return "\n".join(lines)

    def _traced(self, verb: str) -> str:
        trace = subprocess.Popen([*self._ssh, verb], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert trace.stdout is not None
        try:
            lines = [trace.stdout.readline()]
            self._client.ask({"type": "auth", "id": 8, "data": {"token": self.server.token("42")}})
            self._client.ask({"type": "ping", "id": 9, "data": {"n": 1}})
            self.server.api("POST", "/api/publish", {"channel": "chat:tea", "data": {"text": "It is ready"}})
            while '"chat:tea","data"' not in lines[-1]:
                lines.append(trace.stdout.readline())
        finally:
            trace.kill()
            trace.wait()
            trace.stdout.close()
        return "".join(lines).rstrip("\n")


def visit(server: Server, user: str) -> RawSocket:
    """A user's browser in the tea room."""
    client = RawSocket(server.port)
    client.upgrade({"User-Agent": "Mozilla/5.0"})
    client.ask({"type": "auth", "id": 1, "data": {"token": server.token(user)}})
    client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["chat:tea"]}})
    return client


@contextmanager
def scene(place: Path) -> Iterator[Scene]:
    key, port = place / "key", free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=_SECONDS)
    home = place / "server"
    home.mkdir()
    env = {
        "PUSHSERVER_MANHOLE__AUTHORIZED_KEYS": f"{key}.pub",
        "PUSHSERVER_SERVER__NODE_NAME": "push-1",
        # The clients of the scene answer no pings.
        "PUSHSERVER_HEARTBEAT__INTERVAL": "1h",
    }
    server = start(home, "--manhole", f"tcp:{port}:interface=127.0.0.1", env=env)
    clients: list[RawSocket] = []
    try:
        for user in ("42", "42", "7"):
            clients.append(visit(server, user))
        server.api("POST", "/api/tasks", {"taskId": "export-1", "userId": "42", "title": "Export"})
        server.api("POST", "/api/tasks/export-1/progress", {"percentage": 40, "message": "4 of 10 files"})
        server.api("POST", "/api/notify", {"userId": "42", "data": {"title": "Welcome"}})
        ssh = ["ssh", "-F", "none", "-p", str(port), "-i", str(key), "-o", "StrictHostKeyChecking=accept-new"]
        ssh += ["-o", f"UserKnownHostsFile={place / 'known'}", "-o", "LogLevel=ERROR", "admin@127.0.0.1"]
        stage = Scene(server, ssh, clients[0])
        try:
            yield stage
        finally:
            stage.close()
    finally:
        for client in clients:
            client.close()
        server.stop()


def pieces(text: str) -> Iterator[tuple[str | None, str]]:
    """The document in pieces: a command and its answer as (verb, answer), everything else as (None, text)."""
    verb: str | None = None
    held: list[str] = []
    for line in text.splitlines(keepends=True):
        command = _COMMAND.match(line)
        if command is None and not (verb is not None and line.startswith(("```", "$ "))):
            held.append(line)
            continue
        yield verb, "".join(held)
        held, verb = [], None
        if command is None:
            held.append(line)
        else:
            yield None, line
            verb = command.group(1) or command.group(2)
    yield verb, "".join(held)


def renew(text: str, scene: Scene) -> str:
    return "".join(old if verb is None else scene.answer(verb) + "\n" for verb, old in pieces(text))


def main() -> int:
    with tempfile.TemporaryDirectory() as place, scene(Path(place)) as stage:
        DOCUMENT.write_text(renew(DOCUMENT.read_text(), stage))
    return 0


if __name__ == "__main__":
    sys.exit(main())
