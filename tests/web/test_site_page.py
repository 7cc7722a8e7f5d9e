"""What is served at ``/``: who gets a token with it, what it may do, and what does not come with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import jwt
import pytest

from pushserver.web.static_files import CONTENT_SECURITY_POLICY
from tests.harness import ROOT, Server, start

STATIC = ROOT / "pushserver" / "web" / "static"


def served(server: Server, path: str = "/") -> dict[str, str]:
    """What the page was told, by the name of the data attribute."""
    answer = server.api("GET", path, key="")
    assert answer.status == 200
    meta = re.search(r'<meta name="pushserver" ([^>]*)>', answer.body)
    assert meta is not None
    return {name: unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', meta[1])}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("dev"), dev=True)
    yield server
    server.stop()


def test_development_mode_serves_a_token_of_whoever_is_asked_for(dev: Server) -> None:
    for path, user in (("/", "demo"), ("/?user=bob", "bob"), ("/?user=%22%3E%3Cb%3E", '"><b>')):
        told = served(dev, path)
        assert (told["mode"], told["socket"]) == ("development", "/ws")
        assert jwt.decode(told["token"], dev.secret, ["HS256"])["sub"] == user


def test_a_token_of_the_page_administers_nothing(dev: Server) -> None:
    claims = jwt.decode(served(dev)["token"], dev.secret, ["HS256"])
    assert claims["permissions"] == ["subscribe:stats", "subscribe:task:*", "publish:user:*"]


def test_the_api_key_does_not_come_with_the_page(dev: Server) -> None:
    assert dev.api_key not in dev.api("GET", "/", key="").body


def test_nobody_can_be_a_user_that_cannot_be(dev: Server) -> None:
    answer = dev.api("GET", "/?user=a%20b", key="")
    assert (answer.status, answer.body["error"]["code"]) == (400, "INVALID_MESSAGE")


def test_the_page_is_kept_by_nobody_and_framed_by_nobody(dev: Server) -> None:
    headers = dev.api("GET", "/", key="").headers
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "access-control-allow-origin" not in headers
    assert dev.api("GET", "/", key="", headers={"Host": "evil.example"}).status == 403


def test_everything_that_the_page_loads_is_served(dev: Server) -> None:
    modules = sorted((STATIC / "page").iterdir())
    assert {path.name for path in modules} >= {"main.js", "page.css", "icon.svg"}
    for path in modules:
        answer = dev.api("GET", f"/page/{path.name}", key="")
        assert answer.status == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert dev.api("GET", "/page/", key="").status == 404


def test_outside_development_mode_the_page_has_no_token(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[server]\npage = true\nwebsocket_path = "/live"\n')
    assert served(server, "/?user=bob") == {"mode": "production", "socket": "/live", "token": ""}


def test_without_being_asked_for_there_is_no_page(server: Server) -> None:
    for path in ("/", "/page/main.js"):
        assert server.api("GET", path, key="").status == 404


@pytest.mark.parametrize("path", [STATIC / "index.html", *(STATIC / "page").glob("*.js")], ids=lambda path: path.name)
def test_no_markup_is_made_from_text(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\sstyle=|\son\w+=\"", text)
