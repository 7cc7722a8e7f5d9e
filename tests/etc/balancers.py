"""The samples of etc/ for balancers, unedited but for addresses and files, before two nodes on one Redis."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from abc import ABC, abstractmethod
from contextlib import ExitStack, closing
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

from tests.certificates import certificates
from tests.clients.stage import find
from tests.cluster.conftest import API_KEY, Deployment
from tests.harness import ROOT, Server, free_port, wait_until
from tests.rawsocket import RawSocket

NODES = ("push-1", "push-2")


def edited(sample: str, changes: dict[str, str]) -> str:
    """Return a file of etc/ with other addresses and files, all of which it has."""
    text = (ROOT / "etc" / sample).read_text()
    for old, new in changes.items():
        assert old in text, f"etc/{sample} has no {old!r}"
        text = text.replace(old, new)
    return text


class TwoNodes(ABC):
    """Two nodes, and the balancer before them.

    Attributes:
        tls: of a client that trusts its certificate, which stands in `ca`.
    """

    #: what the sample says of the server's side
    CONFIG: ClassVar[str]
    #: of the package and its program
    PROGRAM: ClassVar[str]
    #: whether the sample passes on the API, for callers from inside
    API: ClassVar[bool] = False
    #: seconds between two calls of one address, so that it stays within the sample's limits
    PAUSE: ClassVar[float] = 0.0

    def __init__(self, place: Deployment, directory: Path, config: str = "") -> None:
        self._place = place
        # No limit of one address is met.
        self._addresses = cycle(range(1, 251))
        self._config = self.CONFIG + config
        self._redis = place.redis()
        self.ports = {name: free_port() for name in NODES}
        self.api_ports = {name: free_port() for name in NODES}
        self.nodes = {name: self.start(name) for name in NODES}
        files = certificates(directory / "pki")
        self.ca = files["ca"]
        self.tls = ssl.create_default_context(cafile=str(self.ca))
        self.port = free_port()
        program = find(self.PROGRAM)
        assert program is not None, f"tools/packages.sh {self.PROGRAM}:{self.PROGRAM}"
        with open(directory / "balancer.out", "wb") as log:
            command = [program, *self.arguments(directory, files)]
            self._balancer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
        wait_until(self._answers, 30, (directory / "balancer.out").read_text())

    @abstractmethod
    def arguments(self, directory: Path, files: dict[str, Path]) -> list[str]:
        """Write the configuration; return the program's arguments."""

    @abstractmethod
    def listen(self, name: str) -> str:
        """Return what a node listens on."""

    def environment(self, name: str) -> dict[str, str]:
        return {"PUSHSERVER_SERVER__NODE_NAME": name}

    def start(self, name: str) -> Server:
        server = self._place.server(
            *("--redis", self._redis.url, "--listen", self.listen(name)),
            config=self._config,
            env=self.environment(name),
            port=self.api_ports[name],
            ready=False,
        )
        wait_until(lambda: f"node {name} listens on" in server.log, 60, server.log)
        return server

    def _answers(self) -> bool:
        try:
            return self.call("GET", "/healthz")[0] == 200
        except OSError:
            return False

    def open(
        self, method: str, path: str, body: Any = None, source: str = "127.0.0.1", **headers: str
    ) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=30, context=self.tls, source_address=(source, 0)
        )
        octets = None if body is None else json.dumps(body).encode()
        connection.request(method, path, octets, headers or {"X-API-Key": API_KEY, "Connection": "close"})
        return connection

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        with closing(self.open(method, path, body)) as connection:
            answer = connection.getresponse()
            said = answer.read()
        return answer.status, said

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API, from where it may be called; return what it answers."""
        status, said = self.call(method, path, body)
        assert status == 200, said
        return json.loads(said)

    @property
    def ws_url(self) -> str:
        return f"wss://127.0.0.1:{self.port}/ws"

    def client(self, stack: ExitStack, token: str) -> str:
        """A signed-in client that stays until the stack is closed; its node's name."""
        socket = self.socket(stack, f"127.0.2.{next(self._addresses)}")
        assert socket.upgrade().status == 101
        return str(socket.ask({"type": "auth", "id": 1, "data": {"token": token}})["data"]["node"])

    def socket(self, stack: ExitStack, source: str) -> RawSocket:
        """Return a connection from an address, which is closed with the stack."""
        return stack.enter_context(RawSocket(self.port, source=source, tls=self.tls))

    def replace(self, name: str, token: str) -> None:
        """Stop a node as systemd does, start it again, and wait until the balancer sends clients there."""
        assert self.nodes[name].terminate() == -15
        self.nodes[name] = self.start(name)

        def is_back() -> bool:
            with ExitStack() as short:
                return self.client(short, token) == name

        wait_until(is_back, 60)

    def end(self) -> None:
        self._balancer.terminate()
        self._balancer.wait(20)


class Haproxy(TwoNodes):
    """etc/haproxy.cfg: who connects is said by the PROXY protocol; the balancer looks every second, and gives up after
    two looks."""

    PROGRAM = "haproxy"
    API = True
    CONFIG = """
[server]
trusted_proxies = ["127.0.0.1/32"]
shutdown_delay = "3s"
shutdown_drain = "5s"
"""

    def listen(self, name: str) -> str:
        return f"haproxy:tcp:{self.ports[name]}:interface=127.0.0.1"

    def arguments(self, directory: Path, files: dict[str, Path]) -> list[str]:
        pem = directory / "pki" / "both.pem"
        pem.write_bytes(files["cert"].read_bytes() + files["key"].read_bytes())
        changes = {
            # As many descriptors as that needs are not everybody's.
            "maxconn 50000": "maxconn 4000",
            "bind :443 ": f"bind 127.0.0.1:{self.port} ",
            "/etc/haproxy/push.example.com.pem": str(pem),
            "10.0.0.11:8080": f"127.0.0.1:{self.ports['push-1']}",
            "10.0.0.12:8080": f"127.0.0.1:{self.ports['push-2']}",
        }
        (directory / "haproxy.cfg").write_text(edited("haproxy.cfg", changes))
        return ["-db", "-f", str(directory / "haproxy.cfg")]


class Nginx(TwoNodes):
    """etc/nginx.conf inside of etc/nginx-main.conf; the API stands at ports of its own, inside."""

    PROGRAM = "nginx"
    PAUSE = 0.15
    CONFIG = """
[server]
trusted_proxies = ["127.0.0.1/32"]
shutdown_drain = "5s"
"""

    def listen(self, name: str) -> str:
        return f"tcp:{self.ports[name]}:interface=127.0.0.1"

    def environment(self, name: str) -> dict[str, str]:
        api = f"tcp:{self.api_ports[name]}:interface=127.0.0.1"
        return super().environment(name) | {"PUSHSERVER_SERVER__API_LISTEN": json.dumps([api])}

    def api(self, method: str, path: str, body: Any = None) -> Any:
        said = self.nodes[NODES[0]].api(method, path, body)
        assert said.status == 200, said
        return said.body

    def arguments(self, directory: Path, files: dict[str, Path]) -> list[str]:
        changes = {
            "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            "listen [::]:443 ssl;": "",
            "server 127.0.0.1:8080 max_fails=0;": " ".join(
                f"server 127.0.0.1:{port} max_fails=0;" for port in self.ports.values()
            ),
            "/etc/ssl/push.example.com.pem": str(files["cert"]),
            "/etc/ssl/private/push.example.com.key": str(files["key"]),
            "/var/log/nginx/": f"{directory}/",
        }
        paths = "".join(
            f"{name}_temp_path {directory}/{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.getuid() == 0 else ""
        (directory / "site.conf").write_text(edited("nginx.conf", changes))
        main = {
            "user nginx;": f"daemon off; {user}",
            "/var/run/": f"{directory}/",
            "/var/log/nginx/": f"{directory}/",
            "include /etc/nginx/conf.d/*.conf;": f"{paths} include {directory}/site.conf;",
        }
        (directory / "nginx.conf").write_text(edited("nginx-main.conf", main))
        return ["-c", str(directory / "nginx.conf"), "-p", str(directory), "-e", str(directory / "e.log")]
