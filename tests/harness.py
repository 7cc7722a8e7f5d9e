"""A real server in a process of its own: ``twistd -n pushserver`` on a free port, with a state directory of its own.

`start` waits until ``/healthz`` answers. Calls here block, which is right for tests that drive the server from
outside; a test that also runs Twisted code starts the server before it and ends it after.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from tools.ports import free_port as free_port

ROOT = Path(__file__).resolve().parent.parent

#: Seconds after which something has gone wrong that has not come: longer than a starved machine takes, since no test
#: is decided by how long something takes.
PATIENCE = 300.0
#: Seconds of a server that answers one request.
ANSWER_DEADLINE = 60.0


@contextmanager
def taken(port: int) -> Iterator[None]:
    """As long as this lasts, somebody else listens on that port of 127.0.0.1.

    Where several tests want that at once, one after the other has it: whoever finds it taken cannot tell for how long.
    """
    with socket.socket(socket.AF_UNIX) as lock, socket.socket() as other:
        # A name of the network's, as the port is, that goes with whoever holds it.
        wait_until(lambda: _bound(lock, f"\0pushserver-tests-{port}"), deadline=2 * PATIENCE)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", port))
            other.listen()
        except OSError:
            # Somebody does already.
            pass
        yield


def _bound(lock: socket.socket, name: str) -> bool:
    """Take a name, unless somebody has it."""
    try:
        lock.bind(name)
    except OSError:
        return False
    return True


def wait_until(what: Callable[[], Any], deadline: float = PATIENCE, describe: str = "") -> Any:
    """The first true answer of ``what``, asked every 20 ms; fails after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {describe or what}")
        time.sleep(0.02)


class Answer(NamedTuple):
    """What the HTTP API said; ``body`` is parsed where it is JSON, else text."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Server:
    """A running server. `stop` may be called in any state, and more than once."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, place: Path, secret: str, api_key: str) -> None:
        self.process = process
        self.port = port
        self.place = place
        self.secret = secret
        self.api_key = api_key
        self.url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}/ws"
        self.state_dir = place / "state"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything that the process wrote, standard error included."""
        return (self.place / "log").read_text(errors="replace")

    def token(self, user: str, **claims: Any) -> str:
        """An HS256 token for a user, good for an hour; a claim given as None is left out."""
        now = int(time.time())
        payload = {"sub": user, "iat": now, "exp": now + 3600, "jti": secrets.token_hex(8), **claims}
        return jwt.encode({name: value for name, value in payload.items() if value is not None}, self.secret, "HS256")

    def api(
        self,
        method: str,
        path: str,
        json_body: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = ANSWER_DEADLINE,
        source: str = "",
    ) -> Answer:
        """One request with the API key (``key=""``: without); ``json_body`` may be bytes, sent as they are. ``source``:
        the address that it comes from."""
        body = json_body if isinstance(json_body, bytes | None) else json.dumps(json_body).encode()
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if key != "":
            sent["Authorization"] = f"Bearer {key or self.api_key}"
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=timeout, source_address=(source, 0) if source else None
        )
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
            answered = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        parsed: Any = content.decode(errors="replace")
        if "json" in answered.get("content-type", ""):
            parsed = json.loads(content)
        return Answer(response.status, parsed, answered)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, deadline: float = PATIENCE) -> int:
        """The exit status, once the process has ended; negative where a signal ended it."""
        return self.process.wait(deadline)

    def terminate(self, deadline: float = PATIENCE) -> int:
        """SIGTERM, and the exit status: -15 where the server ended cleanly, as ``twistd`` does."""
        self.signal(signal.SIGTERM)
        return self.wait(deadline)

    def kill(self) -> None:
        """SIGKILL to the process and to its workers: nothing gets to say goodbye."""
        _kill_group(self.process)

    def stop(self) -> None:
        """End it in any way that works."""
        if self.process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                pass
        _kill_group(self.process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # The process leads a group of its own, so its workers go too, also where it is gone already.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(PATIENCE)


def start(
    place: Path,
    *options: str,
    config: str = "",
    env: Mapping[str, str] | None = None,
    dev: bool = False,
    port: int | None = None,
    secret: str | None = None,
    api_key: str | None = None,
    ready: bool = True,
    bin: Path | None = None,
) -> Server:
    """Start a server whose files lie in ``place``, and wait until it answers.

    ``config`` is the text of its configuration file. The token secret and the API key come by the environment; pass
    ``secret`` and ``api_key`` to choose them, or an empty value for theirs in ``env`` to leave them unset. ``port``: to
    start again where one was; else a port of its own. ``ready=False``: without waiting. ``bin``: the folder of another
    installation's programs, which sees nothing of this checkout.
    """
    secret = secret if secret is not None else secrets.token_hex(32)
    api_key = api_key if api_key is not None else secrets.token_hex(16)
    (place / "pushserver.toml").write_text(config)
    chosen = free_port() if port is None else port
    elsewhere = {} if bin is None else {"PYTHONPATH": ""}
    command = _command(place, bin or Path(sys.executable).parent, options, chosen, dev)
    process = _spawn(place, command, _environment({**elsewhere, **(env or {})}, secret, api_key))
    server = Server(process, chosen, place, secret, api_key)
    try:
        if ready:
            _wait_ready(server)
    except BaseException:
        server.stop()
        raise
    return server


def _command(place: Path, bin: Path, options: tuple[str, ...], port: int, dev: bool) -> list[str]:
    command = [str(bin / "twistd"), "-n", "--pidfile=", "pushserver"]
    command += ["--config", str(place / "pushserver.toml"), "--state-dir", str(place / "state")]
    if "--listen" not in options:
        command += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
    if dev:
        command.append("--dev")
        if "--manhole" not in options:
            command += ["--manhole", f"tcp:{free_port()}:interface=127.0.0.1"]
    return [*command, *options]


def _environment(env: Mapping[str, str], secret: str, api_key: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSERVER_")}
    paths = [str(ROOT), *filter(None, [clean.get("PYTHONPATH")])]
    ours = {"PUSHSERVER_AUTH__SECRET": secret, "PUSHSERVER_API__KEYS": json.dumps([api_key])}
    given = {**clean, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **ours, **env}
    return {name: value for name, value in given.items() if value or name not in ours}


def _spawn(place: Path, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(place / "log", "ab") as log:
        return subprocess.Popen(
            command, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _wait_ready(server: Server) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise AssertionError(f"ended with status {server.process.returncode}:\n{server.log}")
        try:
            if server.api("GET", "/healthz", key="").status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"no answer within {PATIENCE} s:\n{server.log}")
