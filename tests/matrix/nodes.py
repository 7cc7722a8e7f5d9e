"""What stands around the clients: two nodes on one Redis, the line to them, and the application's own site."""

from __future__ import annotations

import http.server
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Answer, Server, start
from tests.matrix.line import Line

INSIDE = Path(__file__).resolve().parent / "inside"
STATIC = ROOT / "pushserver" / "web" / "static"
#: Seconds for a call that is repeated until somebody answers it.
_PATIENCE = 30.0

_CONFIG = """
[server]
allowed_origins = ["*"]
[auth]
leeway = "0s"
refresh_grace = "0s"
[heartbeat]
interval = "2s"
timeout = "2s"
[engine]
kind = "redis"
[redis]
url = "{url}"
[[namespaces]]
name = "news"
history_size = 1000
"""

_PAGE = b'<!doctype html><title>a page</title><script src="/clock.js"></script>'


class Site:
    """The application's own server: the page, what the page runs, and the client as the sources have it."""

    def __init__(self) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def translate_path(self, path: str) -> str:
                name = urlsplit(path).path.lstrip("/")
                return str((STATIC if name.startswith("pushclient") else INSIDE) / name)

            def do_GET(self) -> None:
                if urlsplit(self.path).path != "/":
                    return super().do_GET()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(_PAGE)
                return None

            def log_message(self, *words: Any) -> None:
                """No word on the terminal."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Nodes:
    """Two nodes, of which the line leads to the first; a call goes to whichever answers."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._secret, self._key = secrets.token_hex(32), secrets.token_hex(16)
        self._redis = RedisServer(place / "redis", appendonly="yes", appendfsync="always")
        self._nodes: list[Server] = []
        self.site = Site()
        self.line = Line(0)

    def start(self) -> None:
        self._redis.start()
        for number in range(2):
            (self._place / f"node-{number}").mkdir()
            self._nodes.append(self._start(number))
        self.restore()

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.line.port}/ws"

    def token(self, user: str, seconds: float) -> str:
        """A token that lets a user read their own channel, for so many seconds."""
        claims = {"exp": time.time() + seconds, "permissions": [f"subscribe:news:{user}"]}
        return self._nodes[0].token(user, **claims)

    def kill_first(self) -> None:
        """The node that the line leads to is killed, and the line leads to the other."""
        self.line.target = self._nodes[1].port
        self._nodes[0].kill()

    def restore(self) -> None:
        """Everything is there again, and the line leads to the first node."""
        if self._nodes[0].process.poll() is not None:
            self._nodes[0] = self._start(0)
        self.line.target = self._nodes[0].port
        self.line.mend()

    def kill_redis(self) -> None:
        self._redis.kill()

    def revive_redis(self) -> None:
        self._redis.start()

    def api(self, method: str, path: str, body: Any) -> Answer:
        """One call, repeated until it is answered."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            for node in reversed(self._nodes):
                try:
                    answer = node.api(method, path, body)
                except OSError:
                    continue
                if answer.status != 503:
                    return answer
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody answers {method} {path}")
            time.sleep(0.05)

    def tracebacks(self) -> int:
        return sum(node.log.count("Traceback") for node in self._nodes)

    def stop(self) -> None:
        self.site.stop()
        self.line.close()
        for node in self._nodes:
            node.stop()
        self._redis.kill()

    def _start(self, number: int) -> Server:
        config = _CONFIG.format(url=self._redis.url)
        return start(self._place / f"node-{number}", config=config, secret=self._secret, api_key=self._key)


@contextmanager
def nodes() -> Iterator[Nodes]:
    place = Path(tempfile.mkdtemp(prefix="matrix-"))
    opened = Nodes(place)
    try:
        opened.start()
        yield opened
    finally:
        opened.stop()
        shutil.rmtree(place, ignore_errors=True)
