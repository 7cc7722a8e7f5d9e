"""The pages and the bells before axe-core: on a desk, on a phone and in the dark, in each state that they have."""

from __future__ import annotations

import base64
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Server, start
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
    # The phone comes last, and stays.
    for width, height in SIZES:
        stage("size", width=width, height=height)
        found = stage("axe")
        assert found["broken"] == [], (what, width)
        # A page that is not there breaks no rule.
        assert found["kept"] > 10, (what, width)
        assert stage("run", expression="document.documentElement.scrollWidth <= innerWidth"), (what, width)


def look(stage: Stage, browser: str, what: str) -> None:
    """As `judge`, also in the dark, where the browser can be told so while it runs."""
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
    server = start_server(dev=True, config='[heartbeat]\ninterval = "1h"\ntimeout = "1h"\n')
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


#: How many are connected to a large server, and what one look of its operators may take: bytes, in so many ms.
CROWD = 10_000
LOOK, EVERY = 50 * 1024, 2_000
#: How often the Tab key is pressed to come from one end of a view to the other.
TABS = 200


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with so many connections, of a user each."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    # Nobody here answers a ping, and those are spread over the hour: it is waited for as long.
    config = f'[server]\nmax_connections = {CROWD + 100}\npage = true\n[heartbeat]\ninterval = "1h"\ntimeout = "1h"\n'
    server = start(tmp_path_factory.mktemp("crowded"), config=config)
    with ExitStack() as stack:
        stack.callback(server.stop)
        for number in range(CROWD):
            client = stack.enter_context(RawSocket(server.port, source=f"127.0.1.{1 + number % 20}"))
            user = {"Authorization": f"Bearer {server.token(f'user-{number:05}')}"}
            assert client.upgrade(user).status == 101
        yield server


class Keyboard:
    """An operator without a mouse."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def press(self, *keys: str) -> None:
        for key in keys:
            self._stage("key", key=key)

    def reach(self, focused: str) -> None:
        """Go on with the Tab key until ``focused`` holds, an expression about the element ``f`` with the focus."""
        self._go("Tab", focused)

    def go_back_to(self, focused: str) -> None:
        """As `reach`, with Shift and Tab."""
        self._go("Shift+Tab", focused)

    def _go(self, key: str, focused: str) -> None:
        for _ in range(TABS):
            if self._stage("run", expression=f"(f => Boolean({focused}))(document.activeElement)"):
                return
            self.press(key)
            # Past its end the focus is in the browser's own bars, as Firefox has them. What drives a browser types into
            # the page all the same, and there a button without the focus does nothing.
            assert self._stage("run", expression="document.hasFocus()"), f"{focused} is not before the page's end"
        raise AssertionError(focused)


def bytes_of_a_look(stage: Stage) -> int:
    """Return what the open view takes within the time of one look, heads included: the most of three looks."""
    stage("run", expression="performance.clearResourceTimings()")
    entries = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/api/'))"
    # The ones of the overview are two each time.
    stage("until", expression=f"{entries}.length >= 6 || performance.now() - {entries}.at(0)?.startTime > {3 * EVERY}")
    seen = stage("run", expression=f"{entries}.map(({{ startTime, transferSize }}) => [startTime, transferSize])")
    # Timers are late and never early.
    return max(sum(size for at, size in seen if begin <= at < begin + EVERY) for begin, _ in seen)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_ten_thousand_connections_with_the_keyboard_alone(
    dark: bool, browser: str, stage: Stage, crowded: Server, tmp_path: Path
) -> None:
    # All ways have one server. Who is disconnected on one of them is on no page that another one looks at.
    user = f"user-09{['chromium', 'firefox'].index(browser)}{int(dark)}2"
    stage("browser", kind=browser, dark=dark)
    stage("open", url=f"{crowded.url}/operators")
    keyboard = Keyboard(stage)

    def go_to(view: str, there: str) -> None:
        keyboard.go_back_to("f.classList.contains('brand')")
        keyboard.reach(f"f.hash === '#{view}'")
        keyboard.press("Enter")
        stage("until", expression=there)

    assert stage("run", expression="matchMedia('(prefers-color-scheme: dark)').matches") is dark
    keyboard.reach("f.id === 'api-key'")
    keyboard.press(*crowded.api_key, "Enter")
    stage("until", expression="document.querySelector('#numbers dd')?.textContent === '10K'")
    looks = {"overview": bytes_of_a_look(stage)}
    judge(stage, "overview")

    rows = "document.querySelectorAll('#connections tbody tr').length"
    go_to("connections", f"{rows} === 50")
    keyboard.reach("f.textContent === 'User' && f.className === 'sort'")
    keyboard.press("Enter")
    stage("until", expression="document.querySelector('#connections tbody td').textContent === 'user-00000'")
    keyboard.reach("f.textContent === 'Next'")
    keyboard.press("Enter")
    stage("until", expression="document.querySelector('#connections tbody td').textContent === 'user-00050'")
    looks["connections"] = bytes_of_a_look(stage)
    judge(stage, "connections")
    (tmp_path / "connections.png").write_bytes(base64.b64decode(stage("screenshot")))
    keyboard.go_back_to("f.type === 'search'")
    keyboard.press(*user)
    stage("until", expression=f"{rows} === 1")

    keyboard.reach(f"f.hash === '#user={user}'")
    keyboard.press("Enter")
    stage("until", expression=f"document.querySelector('#user-connections td')?.textContent === '{user}'")
    looks["user"] = bytes_of_a_look(stage)
    judge(stage, "user")
    (tmp_path / "user.png").write_bytes(base64.b64decode(stage("screenshot")))
    keyboard.reach("f.getAttribute('aria-label')?.startsWith('Disconnect all of')")
    keyboard.press("Enter")
    stage("until", expression="document.activeElement.textContent === 'Really?'")
    keyboard.press("Enter")
    stage("until", expression="document.getElementById('said').textContent === '1 connection closed'")

    go_to("channels", "document.querySelectorAll('#channels tbody tr').length === 50")
    looks["channels"] = bytes_of_a_look(stage)
    judge(stage, "channels")
    go_to("events", "document.querySelector('#view-events [role=status]').textContent === 'none'")
    judge(stage, "events")
    assert looks == {view: size for view, size in looks.items() if 0 < size <= LOOK}


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
