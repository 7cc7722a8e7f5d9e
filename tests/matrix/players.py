"""Who plays in the clients' half of the matrix: a page in a browser or a program, with all that it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tests.harness import ROOT, Server
from tests.js_stage import Stage
from tests.matrix.nodes import INSIDE, Nodes


class Shown(NamedTuple):
    """What one tab showed: the kind and number of a message, for whom it was, as whom and when (ms) it was shown."""

    kind: str
    to: str
    number: int
    user: str | None
    at: int


class Player(Protocol):
    """A client under a fault. `tabs` of it each show everything."""

    tabs: int

    def begin(self, nodes: Nodes, user: str, token: str) -> None:
        """Sign in, and show what comes."""

    def give(self, token: str) -> None:
        """The application's token function answers this from now on."""

    def become(self, token: str) -> None:
        """Another user signs in."""

    def is_ready(self) -> bool:
        """Every tab is connected and subscribed."""

    def shown(self) -> list[list[Shown]]:
        """What each tab showed so far."""

    def set_clock(self, at: float, by: float, *, slept: bool = False) -> None:
        """From `at` (seconds since 1970) on its wall clock is `by` seconds ahead; `slept`: of a sleep's length."""

    def pid(self) -> int:
        """Its process; what it started belongs to it."""

    def end(self) -> None:
        """End it, in any state."""


class Program:
    """A program of one client, in a process of its own that obeys a command a line."""

    tabs = 1

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def begin(self, nodes: Nodes | Server, user: str, token: str) -> None:
        self._do("begin", url=nodes.ws_url, user=user, token=token)

    def give(self, token: str) -> None:
        self._do("give", token=token)

    def become(self, token: str) -> None:
        self._do("become", token=token)

    def is_ready(self) -> bool:
        return bool(self._do("ready"))

    def shown(self) -> list[list[Shown]]:
        return [[Shown(*line) for line in self._do("shown")]]

    def gaps(self) -> list[str]:
        """Return the channels of which it was told that messages are missing."""
        return list(self._do("gaps"))

    def set_clock(self, at: float, by: float, *, slept: bool = False) -> None:
        self._do("clock", at=at * 1000, by=by * 1000, slept=slept)

    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _do(self, name: str, **options: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": name, **options}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def node_program(node: Path) -> Program:
    return Program([str(node), str(INSIDE / "program.mjs")])


def python_program(python: str, kind: str) -> Program:
    return Program([python, str(INSIDE / "program.py"), kind])


class Browser:
    """A browser, in which pages come and go."""

    def __init__(self, kind: str) -> None:
        self.stage = Stage()
        self.pid: int = self.stage("browser", kind=kind)


class Browsers:
    """Each kind of browser once, started when it is asked for."""

    def __init__(self) -> None:
        self._started: dict[str, Browser] = {}

    def __getitem__(self, kind: str) -> Browser:
        if kind not in self._started:
            self._started[kind] = Browser(kind)
        return self._started[kind]

    def stop(self) -> None:
        for browser in self._started.values():
            browser.stage.end()


class Pages:
    """Tabs of one user: one with a connection of its own, or two that share a worker."""

    def __init__(self, browser: Browser, *, shared: bool) -> None:
        self.tabs = 2 if shared else 1
        self._shared = shared
        self._browser = browser
        self._stage = browser.stage
        self._open: list[int] = []

    def begin(self, nodes: Nodes, user: str, token: str) -> None:
        # Each in a window of its own: behind each other all but one would be hidden.
        for _ in range(self.tabs):
            self._open.append(self._stage("open", url=nodes.site.url, window=True))
        options = {"url": nodes.ws_url, "user": user, "shared": self._shared}
        for tab in self._open:
            self._run(tab, f"sessionStorage.setItem('options', {json.dumps(json.dumps({**options, 'token': token}))})")
        self._load()

    def give(self, token: str) -> None:
        for tab in self._open:
            self._run(tab, f"globalThis.played?.give({json.dumps(token)})")

    def become(self, token: str) -> None:
        for tab in self._open:
            self._run(tab, f"played.become({json.dumps(token)})")

    def is_ready(self) -> bool:
        return all(self._run(tab, "globalThis.played?.isReady() ?? false") for tab in self._open)

    def shown(self) -> list[list[Shown]]:
        return [[Shown(*line) for line in self._run(tab, "globalThis.shown?.() ?? []")] for tab in self._open]

    def set_clock(self, at: float, by: float, *, slept: bool = False) -> None:
        self._run(self._open[0], f"setAllClocks({json.dumps({'at': at * 1000, 'by': by * 1000})})")

    def pid(self) -> int:
        return self._browser.pid

    def hide(self) -> None:
        """Another tab comes before each of them."""
        for tab in self._open:
            self._stage("cover", tab=tab)
            self._stage("until", tab=tab, expression="document.visibilityState === 'hidden'")

    def reload(self) -> None:
        """The first tab is loaded anew."""
        self._stage("reload", tab=self._open[0])
        self._stage("until", tab=self._open[0], expression="document.readyState === 'complete' && !globalThis.played")
        self._load(self._open[:1])

    def end(self) -> None:
        for tab in self._open:
            self._stage("close", tab=tab)

    def _load(self, tabs: list[int] | None = None) -> None:
        for tab in tabs or self._open:
            self._run(tab, "import('/page.js').then(() => 0)")

    def _run(self, tab: int, expression: str) -> Any:
        return self._stage("run", tab=tab, expression=expression)


@contextmanager
def asleep(players: Iterable[Player]) -> Any:
    """Their processes stand still as long as this lasts."""
    pids = {pid for player in players for pid in (player.pid(), *_descendants(player.pid()))}
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return children + [each for child in children for each in _descendants(child)]
