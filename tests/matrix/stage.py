"""What stands around the workers: push servers, a Redis, an nginx, and a wire that can be slow or cut.

Nothing takes a port that it was not given by the system: Redis and nginx listen on unix sockets, the wire on port 0.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pushserver.testing.server import PushServer

#: What one direction of a slow wire takes, in seconds, and how long a server is away.
SLOW = 0.06
AWAY = 5.0
#: Of the Redis: one for the push server, one for each row's queue.
DATABASES = 1_024
#: Of the nginx before the server: below what the jobs' results take.
BODY_LIMIT = "16k"

_NGINX = """daemon off; pid {place}/pid; error_log {place}/nginx.log warn; events {{}} {user}
http {{
  access_log off;
  client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  server {{
    listen unix:{place}/http;
    client_max_body_size {limit};
    location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; proxy_set_header Host $host; }}
  }}
}}
"""


class Wire:
    """Carries bytes from a port of its own to a TCP port or a unix socket."""

    def __init__(self, target: int | str, *, delay: float = 0.0, away: float = 0.0) -> None:
        self._target = target
        self._delay = delay
        self._away = away
        self._back_at: float | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._back_at is None:
                # Away from when the first one asks.
                self._back_at = time.monotonic() + self._away
            try:
                if time.monotonic() < self._back_at:
                    raise OSError("away")
                far = self._connect()
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, int):
            return socket.create_connection(("127.0.0.1", self._target))
        far = socket.socket(socket.AF_UNIX)
        far.connect(self._target)
        return far

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                if self._delay:
                    time.sleep(self._delay)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Stage:
    """One server of the embedded engine and one of Redis, for all rows; a wire for each row."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.redis_socket = str(place / "redis")
        redis = shutil.which("redis-server")
        nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if redis is None or nginx is None:
            raise SystemExit("the matrix needs redis-server and nginx (Debian: redis-server, nginx-light)")
        self._children: list[subprocess.Popen[bytes]] = []
        listening = ["--port", "0", "--unixsocket", self.redis_socket]
        self._spawn([redis, *listening, "--save", "", "--dir", str(place), "--databases", str(DATABASES)])
        _wait_for(Path(self.redis_socket))
        self.http = PushServer().start()
        self.redis = PushServer(
            f'[engine]\nkind = "redis"\n[redis]\nurl = "unix://{self.redis_socket}"\nprefix = "matrix"\n'
        ).start()
        user = "user root;" if Path.home() == Path("/root") else ""
        (place / "nginx.conf").write_text(_NGINX.format(place=place, user=user, limit=BODY_LIMIT, port=self.http.port))
        self._spawn([nginx, "-c", str(place / "nginx.conf"), "-p", str(place), "-e", str(place / "nginx.log")])
        _wait_for(place / "http")
        self.broker = Wire(self.redis_socket)

    def wire(self, link: str, transport: str) -> Wire:
        target: int | str = self.redis_socket if transport == "Redis" else self.http.port
        match link:
            case "slow":
                return Wire(target, delay=SLOW)
            case "away":
                return Wire(target, away=AWAY)
            case "413":
                return Wire(str(self.place / "http"))
        return Wire(target)

    def server(self, transport: str) -> PushServer:
        return self.redis if transport == "Redis" else self.http

    def close(self) -> None:
        self.broker.close()
        self.http.stop()
        self.redis.stop()
        for child in reversed(self._children):
            child.terminate()
            child.wait(10)

    def _spawn(self, command: list[str]) -> None:
        self._children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL))


@contextmanager
def stage() -> Iterator[Stage]:
    # A short path: a unix socket's may have 107 characters.
    place = Path(tempfile.mkdtemp(prefix="matrix-"))
    place.chmod(0o755)
    built = Stage(place)
    try:
        yield built
    finally:
        built.close()
        shutil.rmtree(place, ignore_errors=True)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"{path.name} did not start")
        time.sleep(0.02)
