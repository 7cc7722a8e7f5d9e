"""The pages and the bells before axe-core: on a desk, on a phone and in the dark, in each state that they have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Server
from tests.js_stage import Stage
from tests.rawsocket import RawSocket
from tests.test_bell import bells as bells
from tests.test_pushclient_js import browser as browser
from tests.test_pushclient_js import node_modules as node_modules
from tests.test_pushclient_js import stage as stage
from tests.test_pushclient_js import unpacked as unpacked

pytestmark = [pytest.mark.full, pytest.mark.browser]

SIZES = ((1280, 900), (375, 812))


def judge(stage: Stage, what: str) -> None:
    """Fail where axe-core has an objection, or where something is wider than the window."""
    for width, height in SIZES:
        stage("size", width=width, height=height)
        found = stage("axe")
        assert found["broken"] == [], (what, width)
        # A page that is not there breaks no rule.
        assert found["kept"] > 10, (what, width)
        assert stage("run", expression="document.documentElement.scrollWidth <= innerWidth"), (what, width)


def look(stage: Stage, browser: str, what: str) -> None:
    """As `judge`, also in the dark, where the browser can be told so."""
    judge(stage, what)
    if browser == "chromium":
        stage("dark")
        judge(stage, f"{what}, dark")


def test_the_page(browser: str, stage: Stage, start_server: Callable[..., Server]) -> None:
    server = start_server(dev=True)
    stage("browser", kind=browser)
    stage("open", url=f"{server.url}/")
    stage("until", expression="document.getElementById('state').dataset.state === 'connected'")
    server.api("POST", "/api/tasks", {"taskId": "t1", "userId": "demo", "title": "Import"})
    server.api("POST", "/api/tasks/t1/progress", {"percentage": 40})
    server.api("POST", "/api/notify", {"userId": "demo", "data": {"level": "error", "title": "Broken", "message": "m"}})
    server.api("POST", "/api/publish", {"channel": "demo:news", "data": {"headline": "one"}})
    stage("until", expression="document.querySelector('#traffic li') && document.querySelector('[role=progressbar]')")
    look(stage, browser, "the page")


def test_the_page_that_asks_for_a_token(browser: str, stage: Stage, start_server: Callable[..., Server]) -> None:
    server = start_server(config="[server]\npage = true\n")
    stage("browser", kind=browser)
    stage("open", url=f"{server.url}/")
    stage("until", expression="document.getElementById('signin-form').checkVisibility()")
    look(stage, browser, "sign in")


#: What tells that a view shows what there is.
VIEWS = {
    "overview": "#nodes td",
    "connections": "#connections tbody td",
    "channels": "#channels tbody td",
    "user=ann": "#user-connections tbody td",
    "events": "#view-events .pages",
}


def test_the_operators_page(browser: str, stage: Stage, start_server: Callable[..., Server]) -> None:
    # Who is shown answers no ping for as long as a browser takes.
    server = start_server(dev=True, config='[heartbeat]\ninterval = "1h"\n')
    stage("browser", kind=browser)
    with RawSocket(server.port) as ann, RawSocket(server.port) as nobody:
        ann.upgrade()
        ann.ask({"type": "auth", "id": 1, "data": {"token": server.token("ann")}})
        ann.ask({"type": "nothing of the kind", "id": 2})
        nobody.upgrade()
        nobody.send_message({"type": "auth", "id": 1, "data": {"token": "no token"}})
        assert nobody.close_code() == 3500
        stage("open", url=f"{server.url}/operators")
        stage("until", expression="!document.getElementById('key-card').hidden")
        judge(stage, "the key")
        for view, there in VIEWS.items():
            stage("open", url=f"{server.url}/operators#key={server.api_key}")
            stage("until", expression="document.querySelector('#nodes td') !== null")
            stage("run", expression=f"location.hash = {json.dumps(view)}")
            stage("until", expression=f"document.querySelector({json.dumps(there)})?.checkVisibility()")
            look(stage, browser, view)
            stage("close")


@pytest.mark.parametrize("kind", ["react", "plain"])
def test_the_bells(kind: str, browser: str, stage: Stage, bells: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(config='[server]\nallowed_origins = ["*"]\n')
    for number in range(3):
        server.api("POST", "/api/notify", {"userId": "42", "data": {"title": f"m{number}"}})
    page = stage("serve", folder=str(bells))
    stage("browser", kind=browser)
    token = f"window.token = {json.dumps(server.token('42'))}"
    stage("open", url=f"http://127.0.0.1:{page}/?url={server.ws_url}&bell={kind}", before=token)
    stage("until", expression="document.querySelector('.badge:not([hidden])')?.textContent === '3'")
    look(stage, browser, "closed")
    stage("run", expression="document.querySelector('#bell button').click(), 0")
    stage("until", expression="document.querySelectorAll('#bell li').length === 3")
    look(stage, browser, "open")
