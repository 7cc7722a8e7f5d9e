"""A real server in a process of its own, for tests.

Its port is opened here and handed over, so that nobody can take it between a question and its use.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import jwt

if TYPE_CHECKING:
    from pushserver.publisher import Publisher

#: Seconds until it must answer, and until it must be gone after it was asked to end.
_START: Final = 60.0
_STOP: Final = 30.0
#: As systemd hands a listening socket over (sd_listen_fds): descriptor 3, and the process that it is for.
_HAND_OVER: Final = (
    "import os, sys; os.dup2(int(sys.argv.pop(1)), 3); os.set_inheritable(3, True); "
    "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'api', 'LISTEN_PID': str(os.getpid())}; "
    "from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
)
#: Who is signed in may do everything in channels of this namespace, as with ``--dev``.
_DEMO: Final = """
[[namespaces]]
name = "demo"
subscribe = "authenticated"
publish = "authenticated"
history_size = 50
presence = true
join_leave = true
"""


class PushServer:
    """A server with the embedded engine, a key for its API and the namespace ``demo``; a context manager.

    `config`: more of its configuration file, TOML; sections ``auth`` and ``api`` are ours.
    """

    def __init__(self, config: str = "") -> None:
        self.api_key = secrets.token_hex(16)
        self.port = 0
        self._secret = secrets.token_hex(32)
        self._config = config
        self._place: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """For clients."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def log(self) -> str:
        """What it has written so far."""
        return "" if self._place is None else (self._place / "log").read_text(errors="replace")

    def token(self, user: Any, **claims: Any) -> str:
        """Return a token for a user, good for an hour; `claims`: as ``permissions=["subscribe:news:*"]``."""
        now = int(time.time())
        payload = {"sub": str(user), "iat": now, "exp": now + 3_600, "jti": secrets.token_hex(8), **claims}
        return jwt.encode(payload, self._secret, "HS256")

    def publisher(self, **options: Any) -> Publisher:
        """Return a publisher that publishes here; the options are those of `Publisher`."""
        from pushserver.publisher import Publisher

        return Publisher(self.url, api_key=self.api_key, **options)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the HTTP API, as ``api("GET", "/api/tasks?userId=42")``, and return its answer, an error's too."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        request = Request(self.url + path, content, headers, method=method)
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=_STOP) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            with error:
                return json.loads(error.read())

    def start(self) -> Self:
        """Start it and wait until it answers. Raises RuntimeError with its log where it does not."""
        place = self._place = Path(tempfile.mkdtemp(prefix="pushserver-"))
        (place / "pushserver.toml").write_text(self._config + _DEMO)
        with socket.create_server(("127.0.0.1", self.port)) as listener, (place / "log").open("wb") as log:
            self.port = listener.getsockname()[1]
            options = ["-n", "--pidfile=", "pushserver", "--config", str(place / "pushserver.toml")]
            options += ["--state-dir", str(place / "state"), "--listen", "systemd:domain=INET:index=0"]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _HAND_OVER, str(listener.fileno()), *options],
                cwd=place,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it and remove its files. May be called in any state."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._place is not None:
            shutil.rmtree(self._place)
            self._place = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHSERVER_", "LISTEN_"))}
        ours = {"PUSHSERVER_AUTH__SECRET": self._secret, "PUSHSERVER_API__KEYS": json.dumps([self.api_key])}
        # A place that only this process' path knows, as of a checkout, is known there too.
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), clean.get("PYTHONPATH")]))
        return {**clean, **ours, "PYTHONPATH": path}

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START
        opener = build_opener(ProxyHandler({}))
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the push server ended with status {process.returncode}:\n{self.log}")
            try:
                # The port is open from the beginning: this waits until somebody answers there.
                with opener.open(f"{self.url}/readyz", timeout=5):
                    return
            except (URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"the push server does not answer:\n{self.log}")
