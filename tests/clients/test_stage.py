"""The site of etc/nginx.conf, and how a client's fault is told."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pushserver.config.sections import ServerSection
from tests.certificates import certificates
from tests.clients.__main__ import _cell
from tests.clients.stage import NGINX, find, site
from tests.harness import ROOT

PORTS = {"nginx_ends": 8443, "tcp": 8080}


def test_the_sample_keeps_inside_what_is_for_inside() -> None:
    text = (ROOT / "etc" / "nginx.conf").read_text()
    for inside in ("location /api {", "location /metrics {", "location = /readyz {"):
        assert f"{inside} return 404; }}" in text
    for bound in ("limit_conn ", "limit_req ", "worker_connections", "$http_host"):
        assert bound in text


def test_nginx_takes_the_sample(tmp_path: Path) -> None:
    files = certificates(tmp_path / "pki")
    stream = NGINX.index("stream {{")
    conf = NGINX[:stream].format(place=tmp_path, user="", module="", site=site(PORTS, tmp_path, files))
    (tmp_path / "nginx.conf").write_text(conf)
    command = [str(find("nginx")), "-t", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_containers_have_nginx_hold_more_clients_than_its_image_does(tmp_path: Path) -> None:
    compose, main = ((ROOT / "etc" / name).read_text() for name in ("compose.yml", "nginx-main.conf"))
    assert "- ./nginx-main.conf:/etc/nginx/nginx.conf:ro\n" in compose
    assert "- ./nginx.conf:/etc/nginx/conf.d/default.conf:ro\n" in compose
    edits = {"user nginx;": "", "/etc/nginx/conf.d/*.conf": "site.conf", "/var/run/": "", "/var/log/nginx/": ""}
    for old, new in edits.items():
        assert old in main
        main = main.replace(old, new)
    (tmp_path / "nginx.conf").write_text(main)
    (tmp_path / "site.conf").write_text("server { listen 127.0.0.1:1; }")
    command = [str(find("nginx")), "-t", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = re.search(r"worker_connections (\d+);", main)
    assert wanted is not None
    # Each client takes two, and the sample's pushserver has two workers.
    assert int(wanted[1]) > 2 * ServerSection().max_connections


def test_what_a_table_says_of_a_client() -> None:
    assert _cell(["", ""]) == "yes"
    assert _cell(["", "refused"]) == "fails: refused"
