"""The bells of examples/bell in a real browser, against a real server: tabs and profiles agree, whatever one does."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server
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


@pytest.mark.parametrize("transport", ["websocket", "sse"])
def test_the_inbox_and_a_token_for_a_channel(
    transport: str, node_modules: Path, start_server: Callable[..., Server]
) -> None:
    """tests/js/inbox_walk.mjs: what it did with two clients, and what both saw in the end."""
    server = start_server(config=CONFIG + '[[namespaces]]\nname = "doc"\nsubscribe = "permission"\nhistory_size = 10\n')
    for title in ("a", "b", "c"):
        server.api("POST", "/api/notify", {"userId": "42", "data": title})
    tokens = [server.token("42"), server.token("42", channel="doc:17"), server.token("42", channel="doc:18")]
    done = run(program("node"), str(TESTS / "inbox_walk.mjs"), server.ws_url, transport, *tokens, timeout=60)
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
    seed = str(random.randrange(10**6))
    command = [str(TESTS / "inbox_soak.mjs"), seed, ",".join(urls), server.url, server.api_key, server.token("42")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([program("node"), *command], text=True, **pipes) as playing:
        try:
            assert playing.stdin is not None
            assert playing.stdout is not None
            assert playing.stdout.readline() == "half-way\n", playing.communicate()
            half_way()
            playing.stdin.write("\n")
            playing.stdin.flush()
            meanwhile()
            said, wrong = playing.communicate(timeout=600)
            assert playing.returncode == 0, wrong
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
      window.Notification = class {{
        static permission = 'granted';
        constructor(title) {{ localStorage.shown = `${{localStorage.shown ?? ''}} ${{title}}`; }}
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

    def told(title: str, received: int, by: list[int]) -> None:
        server.api("POST", "/api/notify", {"userId": "42", "data": {"title": title}})
        for tab in by:
            stage("until", tab=tab, expression=f"received === {received}")

    told("one", 1, tabs)
    assert stage("run", expression="localStorage.shown") == " one"
    stage("close", tab=tabs[0])
    stage("until", tab=tabs[1], expression="isChosen")
    told("two", 2, tabs[1:])
    assert stage("run", expression="localStorage.shown") == " one two"
