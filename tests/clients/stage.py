"""A server behind every way of TLS: by itself, and behind nginx and haproxy, which end TLS or pass it through.

    direct                                                           ssl:
    nginx, haproxy   TLS ends there, HTTP goes on                    tcp:
    nginx, haproxy   TLS passes through                              ssl:
    nginx, haproxy   TLS passes through behind a PROXY head (v1)     haproxy:ssl:
    haproxy          the same of version 2                           haproxy:ssl:
    haproxy          TLS ends there, octets go on behind one of v2   haproxy:tcp:

nginx has the site of etc/nginx.conf, with other addresses and files, and the API let through.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.certificates import certificates
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start, wait_until
from tools.ports import free_port

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"

CONFIG = """
[server]
page = true
trusted_proxies = ["127.0.0.1/32"]
shutdown_drain = "1s"
[[namespaces]]
name = "live"
subscribe = "authenticated"
publish = "authenticated"
"""

NGINX = """daemon off; pid {place}/nginx.pid; error_log {place}/nginx.log warn; {user}
{module}
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
  uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  {site}
}}
stream {{
  server {{ listen 127.0.0.1:{through}; proxy_pass 127.0.0.1:{ssl}; }}
  server {{ listen 127.0.0.1:{v1}; proxy_pass 127.0.0.1:{haproxy_ssl}; proxy_protocol on; }}
}}
"""

HAPROXY = """
global
  nbthread 1
defaults
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
listen ends
  mode http
  bind 127.0.0.1:{ends} ssl crt {pem} alpn h2,http/1.1
  option forwardfor
  server one 127.0.0.1:{tcp}
listen through
  mode tcp
  bind 127.0.0.1:{through}
  server one 127.0.0.1:{ssl}
listen v1
  mode tcp
  bind 127.0.0.1:{v1}
  server one 127.0.0.1:{haproxy_ssl} send-proxy
listen v2
  mode tcp
  bind 127.0.0.1:{v2}
  server one 127.0.0.1:{haproxy_ssl} send-proxy-v2
listen ends_v2
  mode tcp
  bind 127.0.0.1:{ends_v2} ssl crt {pem}
  server one 127.0.0.1:{haproxy_tcp} send-proxy-v2
"""


class Way(NamedTuple):
    """A way to the server: where its TLS ends, and how it goes on."""

    name: str
    port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"wss://127.0.0.1:{self.port}/ws"


class Stage(NamedTuple):
    """What the clients are given. ``ca``: the PEM file of whom to trust."""

    place: Path
    server: Server
    ways: tuple[Way, ...]
    ca: Path
    key: Path
    cert: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a client, where it takes its authorities from."""
        trust = {name: str(self.ca) for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE")}
        return {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.place), **trust}


def find(program: str) -> str | None:
    """Return where a program is, also one for administrators."""
    return shutil.which(program) or shutil.which(program, path=SBIN)


def site(ports: Mapping[str, int], place: Path, files: Mapping[str, Path]) -> str:
    """Return etc/nginx.conf with these addresses and files, and the API let through."""
    text = (ROOT / "etc" / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{ports['nginx_ends']} ssl;"),
        ("listen [::]:443 ssl;", ""),
        ("server 127.0.0.1:8080 max_fails=0;", f"server 127.0.0.1:{ports['tcp']};"),
        ("/etc/ssl/push.example.com.pem", str(files["cert"])),
        ("/etc/ssl/private/push.example.com.key", str(files["key"])),
        ("/var/log/nginx/pushserver.log", f"{place}/access.log"),
    ):
        assert old in text, f"etc/nginx.conf has no {old!r}"
        text = text.replace(old, new)
    text, count = re.subn(r"location (= )?/\w+ \{ return 404; \}", "", text)
    assert count == 3, "etc/nginx.conf keeps the API, the metrics and readiness inside"
    return text


def _spawn(stack: ExitStack, place: Path, name: str, *command: str) -> None:
    with open(place / f"{name}.out", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=place)

    def end() -> None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def staged(place: Path, workers: int) -> Iterator[Stage]:
    """A server with so many workers, and the proxies before it, for as long as this lasts."""
    names = ("tcp", "ssl", "haproxy_ssl", "haproxy_tcp", "nginx_ends", "nginx_through", "nginx_v1")
    names += ("ends", "through", "v1", "v2", "ends_v2")
    ports = {name: free_port() for name in names}
    files = certificates(place / "pki")
    pem = place / "pki" / "both.pem"
    pem.write_bytes(files["cert"].read_bytes() + files["key"].read_bytes())
    secure = f":privateKey={files['key']}:certKey={files['cert']}"
    listen = [
        f"tcp:{ports['tcp']}:interface=127.0.0.1",
        f"ssl:{ports['ssl']}:interface=127.0.0.1{secure}",
        f"haproxy:ssl:{ports['haproxy_ssl']}:interface=127.0.0.1{secure}",
        f"haproxy:tcp:{ports['haproxy_tcp']}:interface=127.0.0.1",
    ]
    options = [word for one in listen for word in ("--listen", one)]
    with ExitStack() as stack:
        if workers > 1:
            redis = RedisServer(place / "redis").start()
            stack.callback(redis.kill)
            options += ["--redis", redis.url, "--workers", str(workers)]
        server = start(place, *options, config=CONFIG, port=ports["tcp"])
        stack.callback(server.stop)
        ways = [Way("direct", ports["ssl"])]
        if (nginx := find("nginx")) is not None:
            ways += _nginx(stack, place, nginx, ports, files)
        if (haproxy := find("haproxy")) is not None:
            ways += _haproxy(stack, place, haproxy, ports, pem)
        for way in ways:
            wait_until(lambda way=way: _answers(way.port), describe=way.name)
        yield Stage(place, server, tuple(ways), files["ca"], files["key"], files["cert"])


def _nginx(
    stack: ExitStack, place: Path, program: str, ports: Mapping[str, int], files: Mapping[str, Path]
) -> list[Way]:
    module = next(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"), None)
    (place / "nginx.conf").write_text(
        NGINX.format(
            place=place,
            user="user root;" if os.getuid() == 0 else "",
            module=f"load_module {module};" if module is not None else "",
            site=site(ports, place, files),
            through=ports["nginx_through"],
            v1=ports["nginx_v1"],
            ssl=ports["ssl"],
            haproxy_ssl=ports["haproxy_ssl"],
        )
    )
    _spawn(
        stack, place, "nginx", program, "-c", str(place / "nginx.conf"), "-p", str(place), "-e", str(place / "e.log")
    )
    return [
        Way("nginx, TLS ends", ports["nginx_ends"]),
        Way("nginx, through", ports["nginx_through"]),
        Way("nginx, through, PROXY v1", ports["nginx_v1"]),
    ]


def _haproxy(stack: ExitStack, place: Path, program: str, ports: Mapping[str, int], pem: Path) -> list[Way]:
    (place / "haproxy.cfg").write_text(HAPROXY.format(pem=pem, **ports))
    _spawn(stack, place, "haproxy", program, "-db", "-f", str(place / "haproxy.cfg"))
    return [
        Way("haproxy, TLS ends", ports["ends"]),
        Way("haproxy, through", ports["through"]),
        Way("haproxy, through, send-proxy", ports["v1"]),
        Way("haproxy, through, send-proxy-v2", ports["v2"]),
        Way("haproxy, TLS ends, send-proxy-v2", ports["ends_v2"]),
    ]
