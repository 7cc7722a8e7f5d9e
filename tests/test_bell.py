"""The bells of examples/bell in a real browser, against a real server: tabs and profiles agree, whatever one does."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.app.workers.test_supervisor import children
from tests.engine.redis.servers import RedisServer
from tests.harness import PATIENCE, ROOT, Server, start
from tests.js_stage import Stage
from tests.test_pushclient_js import NODE, TESTS, program, run
from tests.test_pushclient_js import browser as browser
from tests.test_pushclient_js import node_modules as node_modules
from tests.test_pushclient_js import stage as stage
from tests.test_pushclient_js import unpacked as unpacked

pytestmark = [pytest.mark.full, pytest.mark.browser]

CONFIG = '[server]\nallowed_origins = ["*"]\n'


@pytest.fixture
def bells(unpacked: Path, node_modules: Path) -> Path:
    """tests/js/bell with both bells, built by Vite with the packed package."""
    for name in ("react-dom", "scheduler"):
        link = unpacked / "node_modules" / name
        if not link.exists():
            link.symlink_to(node_modules / name)
    for path in [*(TESTS / "bell").iterdir(), *(ROOT / "examples" / "bell").iterdir()]:
        shutil.copy(path, unpacked / path.name)
    vite = str(NODE / "node_modules" / "vite" / "bin" / "vite.js")
    done = run(program("node"), vite, "build", "--base", "./", "--outDir", "bells", cwd=unpacked)
    assert done.returncode == 0, done.stdout + done.stderr
    return unpacked / "bells"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture(params=["embedded", "workers"])
def options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """One process with its own store, or two workers, among which the system spreads the connections."""
    if request.param == "embedded":
        return ()
    redis: RedisServer = request.getfixturevalue("redis")
    return ("--redis", redis.url, "--workers", "2")


#: What a tab shows: the badge, and the messages, those not read with a star.
SHOWN = """[document.querySelector('.badge:not([hidden])')?.textContent ?? 0,
 ...[...document.querySelectorAll('#bell li')]
   .map((li) => (li.className === 'unread' ? '*' : '') + li.firstChild.textContent)
].join(' ')"""


def test_tabs_and_profiles_agree(
    browser: str,
    stage: Stage,
    bells: Path,
    start_server: Callable[..., Server],
    options: tuple[str, ...],
    tmp_path: Path,
) -> None:
    server = start_server(*options, config=CONFIG)

    def notify(*titles: str) -> None:
        for title in titles:
            server.api("POST", "/api/notify", {"userId": "42", "data": {"title": title}})

    notify(*(f"m{n}" for n in range(1, 53)))
    page = stage("serve", folder=str(bells))
    stage("browser", kind=browser)
    before = f"window.token = {json.dumps(server.token('42'))}"
    url = f"http://127.0.0.1:{page}/?url={server.ws_url}&bell="
    tabs = [
        stage("open", url=f"{url}react", before=before),
        stage("open", url=f"{url}react", before=before),
        stage("open", url=f"{url}plain", before=before, apart=True),
    ]

    def click(tab: int, button: str) -> None:
        found = f"[...document.querySelectorAll('#bell button')].find((each) => {button})"
        stage("until", tab=tab, expression=f"{found} && !{found}.disabled")
        stage("run", tab=tab, expression=f"{found}.click(), 0")

    def agree(count: int, first: str, items: int) -> None:
        for tab in tabs:
            expression = (
                f"((shown) => shown.startsWith('{count} {first}') && shown.split(' ').length === {items + 1})({SHOWN})"
            )
            stage("until", tab=tab, expression=expression)

    for tab in tabs:
        click(tab, "each.ariaExpanded !== null")
    agree(52, "*m52 *m51", 50)
    click(tabs[0], "each.textContent === 'm52'")
    agree(51, "m52 *m51", 50)
    click(tabs[2], "each.ariaLabel === 'Remove: m51'")
    agree(50, "m52 *m50", 49)
    notify("news")
    agree(51, "*news m52 *m50", 50)
    # The first two share a connection, and so the list.
    for tab in (tabs[0], tabs[2]):
        click(tab, "each.textContent === 'Load older'")
    agree(51, "*news m52 *m50", 52)
    for tab in (tabs[0], tabs[2]):
        for width, height in ((360, 740), (1280, 800)):
            stage("size", tab=tab, width=width, height=height)
            picture = base64.b64decode(stage("screenshot", tab=tab))
            (tmp_path / f"bell-{tab}-{width}.png").write_bytes(picture)
            assert stage("run", tab=tab, expression="document.documentElement.scrollWidth <= innerWidth"), width
    stage("run", tab=tabs[1], expression="client.reconnect(), 0")
    click(tabs[1], "each.textContent === 'Mark all read'")
    agree(0, "news m52 m50", 52)
    stage("reload", tab=tabs[0])
    stage("until", tab=tabs[0], expression="window.client?.getState().isConnected")
    notify("last")
    click(tabs[0], "each.ariaExpanded === 'false'")
    stage("until", tab=tabs[0], expression=f"{SHOWN}.startsWith('1 *last news m52')")
    counted = stage("run", tab=tabs[2], expression="client.inbox({ unread: true }).then(({ unread }) => unread)")
    assert counted == {"notification": 1, "chat": 0, "task": 0}


class AsyncioBell:
    """tests/clients/inbox_asyncio.py, which has no list and its own counts."""

    def __init__(self, server: Server) -> None:
        command = [sys.executable, "-m", "tests.clients.inbox_asyncio", server.ws_url, server.token("42")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)

    def ask(self, **command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


class Bells:
    """Tabs with a bell each and a client for asyncio, on one inbox, and the server that they are held against."""

    def __init__(
        self, stage: Stage, server: Server, tabs: list[int], asyncio_bell: AsyncioBell, chance: Random
    ) -> None:
        self.stage = stage
        self.server = server
        self.tabs = tabs
        self.asyncio = asyncio_bell
        self.chance = chance
        self.titles = 0
        self.longest = 0.0
        self.done: list[str] = []
        #: what the last action comes to, of the title that it was for
        self.expected: Callable[[dict[str, Any]], bool] = lambda kept: True

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the API, once more where the worker that took the call was killed."""
        while True:
            try:
                answer = self.server.api(method, path, body)
            except (OSError, http.client.HTTPException):
                continue
            assert answer.status == 200, answer
            return answer.body

    def kept(self) -> Any:
        return self.call("GET", "/api/inbox?userId=42&limit=200")

    def click(self, tab: int, button: str) -> bool:
        """Click on a button, where the tab shows it; return whether it does."""
        found = f"[...document.querySelectorAll('#bell button')].find((each) => {button})"
        clicked: bool = self.stage("run", tab=tab, expression=f"((found) => (found?.click(), Boolean(found)))({found})")
        return clicked

    def open(self, tab: int) -> None:
        closed = "document.querySelector('#bell [aria-expanded=false]')"
        self.stage(
            "until", tab=tab, expression=f"document.querySelector('#bell [aria-expanded]') && ({closed}?.click(), true)"
        )

    def act(self) -> None:
        """Do something that one of the user's devices, or a backend, does."""
        kept = self.kept()
        tab = self.chance.choice(self.tabs)
        self.expected = lambda kept: True
        if not kept["messages"] or self.chance.random() < 0.3:
            self.titles += 1
            self.note(f"notify m{self.titles}")
            title = f"m{self.titles}"
            self.call("POST", "/api/notify", {"userId": "42", "data": {"title": title}, "messageId": title})
            return
        message = self.chance.choice(kept["messages"])
        title, offset = message["data"]["title"], message["offset"]
        named = {"userId": "42", "epoch": kept["epoch"], "offsets": [offset]}
        what = self.chance.choice(
            ["read", "read", "remove", "all", "offline", "cut", "reload", "asyncio", "asyncio", "api"]
        )
        self.note(f"{what} {title} in tab {tab}")
        clicked = False
        match what:
            case "read":
                clicked = self.click(tab, f"each.textContent === '{title}'")
            case "remove":
                clicked = self.click(tab, f"each.ariaLabel === 'Remove: {title}'")
            case "all":
                clicked = self.click(tab, "each.textContent === 'Mark all read' && !each.disabled")
            case "offline":
                self.stage("run", tab=tab, expression="client.reconnect(), 0")
                clicked = self.click(tab, f"each.textContent === '{title}'")
            case "cut":
                self.stage("run", tab=tab, expression="client.reconnect(), 0")
            case "reload":
                self.stage("reload", tab=tab)
                self.open(tab)
            case "asyncio" if self.chance.random() < 0.3:
                self.asyncio.ask(do="delete", offsets=[offset])
            case "asyncio":
                self.asyncio.ask(do="mark", offsets=[offset], read=message["readAt"] is None)
            case "api":
                self.call("POST", self.chance.choice(["/api/inbox/read", "/api/inbox/delete"]), named)
        if clicked:
            self.expected = partial(_came_of, what, title)

    def note(self, what: str) -> None:
        self.done.append(what)

    def agree(self) -> None:
        """Until every tab shows what the server has, from the newest on, and every count is the server's."""
        began, deadline = time.monotonic(), time.monotonic() + PATIENCE
        while (differ := self.compare()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.longest = max(self.longest, time.monotonic() - began)
        assert not differ, "\n".join([*self.done[-40:], *differ, self.server.log[-20_000:]])

    def compare(self) -> list[str]:
        kept = self.kept()
        newest = [("*" if each["readAt"] is None else "") + each["data"]["title"] for each in kept["messages"]]
        count = str(kept["unread"]["notification"])
        differ = [] if self.expected(kept) else [f"{self.done[-1]} has come to nothing"]
        for tab in self.tabs:
            badge, *titles = self.stage("run", tab=tab, expression=SHOWN).split(" ")
            least = min(len(newest), LEAST_SHOWN)
            if badge != count or titles != newest[: len(titles)] or len(titles) < least:
                differ.append(f"tab {tab} shows {badge} {titles}, and the server has {count} {newest}")
        told = self.asyncio.ask(do="show")
        if told["connected"] and told["unread"] != kept["unread"]:
            differ.append(f"asyncio has {told}, and the server {kept['unread']}")
        return differ


def _came_of(what: str, title: str, kept: dict[str, Any]) -> bool:
    """Return whether a click has come to what it was for."""
    shown = [each for each in kept["messages"] if what == "all" or each["data"]["title"] == title]
    return not shown if what == "remove" else all(each["readAt"] is not None for each in shown)


#: Messages that a bell shows at least, where there are so many.
LEAST_SHOWN = 10
ACTIONS = int(os.environ.get("BELL_ACTIONS", "200"))


def test_bells_and_the_asyncio_client_agree_over_two_hundred_actions(
    browser: str, stage: Stage, bells: Path, start_server: Callable[..., Server], options: tuple[str, ...]
) -> None:
    """Half-way the node that they are on is killed: a worker, or the server, which comes back."""
    seed = os.environ.get("SOAK_SEED", str(random.randrange(10**6)))
    server = start_server(*options, config=QUICK)
    page = stage("serve", folder=str(bells))
    stage("browser", kind=browser)
    before = f"window.token = {json.dumps(server.token('42'))}"
    url = f"http://127.0.0.1:{page}/?url={server.ws_url}&bell="
    tabs = [
        stage("open", url=f"{url}react", before=before),
        stage("open", url=f"{url}react", before=before),
        stage("open", url=f"{url}plain", before=before, apart=True),
    ]
    stage("size", tab=tabs[2], width=360, height=740)
    asyncio_bell = AsyncioBell(server)
    restarted: list[Server] = []
    try:
        playing = Bells(stage, server, tabs, asyncio_bell, Random(seed))
        playing.note(f"seed {seed}")
        for tab in tabs:
            playing.open(tab)
        for n in range(ACTIONS):
            if n == ACTIONS // 2:
                playing.note("killed")
                if options:
                    os.kill(playing.chance.choice(children(server.pid)), signal.SIGKILL)
                else:
                    server.kill()
                    again = {"port": server.port, "secret": server.secret, "api_key": server.api_key}
                    restarted.append(start(server.place, config=QUICK, **again))
            playing.act()
            playing.agree()
        print(f"seed {seed}: {ACTIONS} actions, and all agreed after {playing.longest:.2f} s at most")
    finally:
        asyncio_bell.end()
        for each in restarted:
            each.stop()


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_the_inbox_and_a_token_for_a_channel(
    transport: str, node_modules: Path, start_server: Callable[..., Server]
) -> None:
    """tests/js/inbox_walk.mjs: what it did with two clients, and what both saw in the end."""
    server = start_server(config=CONFIG + '[[namespaces]]\nname = "doc"\nsubscribe = "permission"\nhistory_size = 10\n')
    for title in ("a", "b", "c"):
        server.api("POST", "/api/notify", {"userId": "42", "data": title})
    tokens = [server.token("42"), server.token("42", channel="doc:17"), server.token("42", channel="doc:18")]
    done = run(program("node"), str(TESTS / "inbox_walk.mjs"), server.ws_url, transport, *tokens)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "unread": [1, 1],
        "shown": ["(c) a", "(c) a"],
        "doc": "subscribed",
        "wrong": "INVALID_TOKEN",
        "without": "PERMISSION_DENIED",
    }


QUICK = CONFIG + "[rate_limits]\nmessages_per_second = 0\n"


def soak(
    server: Server, *urls: str, half_way: Callable[[], object] = int, meanwhile: Callable[[], object] = int
) -> None:
    """tests/js/inbox_soak.mjs, with a seed that a failure tells; what is done half-way, and while it goes on then."""
    seed = os.environ.get("SOAK_SEED", str(random.randrange(10**6)))
    command = [str(TESTS / "inbox_soak.mjs"), seed, ",".join(urls), server.url, server.api_key, server.token("42")]
    command.append(sys.executable)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([program("node"), *command], text=True, **pipes) as playing:
        try:
            assert playing.stdin is not None
            assert playing.stdout is not None
            if playing.stdout.readline() != "half-way\n":
                pytest.fail(playing.communicate(timeout=PATIENCE)[1])
            half_way()
            playing.stdin.write("\n")
            playing.stdin.flush()
            meanwhile()
            said, wrong = playing.communicate(timeout=2 * PATIENCE)
            if playing.returncode != 0:
                pytest.fail(f"{wrong}\n{server.log[-20_000:]}")
            print(said)
        finally:
            playing.kill()


def test_clients_agree_after_each_of_two_hundred_actions(
    node_modules: Path, start_server: Callable[..., Server], options: tuple[str, ...]
) -> None:
    server = start_server(*options, config=QUICK)
    soak(server, server.ws_url)


def test_clients_of_two_nodes_agree(
    node_modules: Path, redis: RedisServer, start_server: Callable[..., Server]
) -> None:
    """One of the nodes is killed half-way, and comes back."""
    first = start_server("--redis", redis.url, config=QUICK)
    second = start_server("--redis", redis.url, config=QUICK, secret=first.secret)

    def again() -> None:
        start_server("--redis", redis.url, config=QUICK, secret=first.secret, port=second.port)

    soak(first, first.ws_url, second.ws_url, half_way=second.kill, meanwhile=again)


@pytest.mark.parametrize("kind", ["react", "plain"])
def test_with_the_keyboard_alone(kind: str, stage: Stage, bells: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(config=CONFIG)
    server.api("POST", "/api/notify", {"userId": "42", "data": {"title": "first"}})
    server.api("POST", "/api/notify", {"userId": "42", "data": {"title": "second"}})
    page = stage("serve", folder=str(bells))
    stage("browser")
    before = f"window.token = {json.dumps(server.token('42'))}"
    stage("open", url=f"http://127.0.0.1:{page}/?url={server.ws_url}&bell={kind}", before=before)
    label = "document.activeElement.ariaLabel"
    stage("until", expression="document.querySelector('#bell button')?.ariaLabel === 'Notifications, 2 not read'")

    def press(key: str) -> None:
        stage("key", key=key)

    def reach(expression: str) -> None:
        """Go on with the Tab key to what is wanted."""
        for _ in range(8):
            if stage("run", expression=expression):
                return
            press("Tab")
        raise AssertionError(expression)

    reach(f"{label} === 'Notifications, 2 not read'")
    press("Enter")
    stage("until", expression="document.querySelectorAll('#bell li').length === 2")
    reach("document.activeElement.textContent === 'second'")
    press("Enter")
    stage("until", expression="document.querySelector('#bell button').ariaLabel === 'Notifications, 1 not read'")
    reach(f"{label} === 'Remove: second'")
    press("Enter")
    stage("until", expression="document.querySelectorAll('#bell li').length === 1")
    assert stage("run", expression="document.activeElement.className") == "panel"
    press("Escape")
    stage(
        "until",
        expression=f"{label} === 'Notifications, 1 not read' && document.activeElement.ariaExpanded === 'false'",
    )


def test_one_desktop_notification_of_three_tabs(stage: Stage, bells: Path, start_server: Callable[..., Server]) -> None:
    """The recipe of docs/browser.md as it stands there."""
    guide = (ROOT / "docs" / "browser.md").read_text()
    (recipe,) = re.findall(r"```js\n(let isChosen.*?)```", guide, re.DOTALL)
    server = start_server(config=CONFIG)
    page = stage("serve", folder=str(bells))
    stage("browser")
    before = f"""window.token = {json.dumps(server.token("42"))};
      window.received = 0;
      window.shown = [];
      window.Notification = class {{
        static permission = 'granted';
        constructor(title) {{ shown.push(title); }}
      }};"""
    tabs = []
    for _ in range(3):
        tabs.append(stage("open", url=f"http://127.0.0.1:{page}/?url={server.ws_url}&bell=plain", before=before))
        stage("until", expression="window.client?.getState().isConnected")
        script = f"Object.assign(document.createElement('script'), {{textContent: {json.dumps(recipe)}}})"
        stage("run", expression=f"document.head.append({script})")
        stage("run", expression="void client.on('user_notification', () => (received += 1))")
        if len(tabs) == 1:
            # The lock is the first one's before the others ask for it.
            stage("until", expression="isChosen")

    def shown(title: str, received: int, by: list[int]) -> list[list[str]]:
        """Send a message, and return what each tab has shown since it is there."""
        server.api("POST", "/api/notify", {"userId": "42", "data": {"title": title}})
        for tab in by:
            stage("until", tab=tab, expression=f"received === {received}")
        return [stage("run", tab=tab, expression="shown") for tab in by]

    assert shown("one", 1, tabs) == [["one"], [], []]
    stage("close", tab=tabs[0])
    stage("until", tab=tabs[1], expression="isChosen")
    assert shown("two", 2, tabs[1:]) == [["two"], []]
