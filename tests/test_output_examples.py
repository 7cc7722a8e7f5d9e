"""The programs of examples/output, each as it stands, with a real push server; and their pages in a real browser."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Server
from tests.js_stage import Stage
from tests.publisher.fake_api import child_environment
from tests.test_pushclient_js import node_modules as node_modules
from tests.test_pushclient_js import stage as stage

HERE = ROOT / "examples" / "output"
CONFIG = '[server]\nallowed_origins = ["*"]\n'
TEXT = "(document.getElementById('answer')?.textContent ?? '')"

pytestmark = pytest.mark.full


def environment(server: Server, **more: str) -> dict[str, str]:
    known = {"PUSH_URL": server.url, "PUSH_API_KEY": server.api_key, "PUSH_SECRET": server.secret}
    return child_environment(PYTHONPATH=str(ROOT), **known, **more)


def text_of(server: Server, task_id: str) -> str:
    page = server.api("GET", f"/api/tasks/{task_id}/output").body
    assert page["closed"]
    text: str = page["text"]
    return text


def test_the_importer_logs_what_it_does(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    file = tmp_path / "sums.csv"
    file.write_text("name,amount\nann,1.5\nbob,much\ncy,2\n")
    command = [sys.executable, HERE / "importer.py", "ann", file]
    done = subprocess.run(command, env=environment(server), capture_output=True, text=True, timeout=120, check=True)
    task_id = done.stdout.strip()
    assert text_of(server, task_id) == "line 3: 'much' is no amount\n2 of 3 rows imported\n"
    rows = server.api("GET", f"/api/tasks/{task_id}/output?name=rows").body["items"]
    assert rows == [{"line": 2, "amount": 1.5}, {"line": 4, "amount": 2.0}]
    state = server.api("GET", f"/api/tasks/{task_id}").body
    assert (state["status"], state["result"], state["title"]) == ("completed", {"imported": 2}, "Import of sums.csv")


@pytest.mark.browser
def test_make_is_watched_in_a_browser(stage: Stage, start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(config=CONFIG)
    (tmp_path / "Makefile").write_text(
        "all:\n\t@echo compiling\n\t@while [ ! -e go ]; do sleep 0.05; done\n\t@echo 'ü <b>'; exit 3\n"
    )
    command = [sys.executable, HERE / "build.py", "ann", "-s", "-C", str(tmp_path)]
    with chat(server, server.port) as page:
        with subprocess.Popen(command, env=environment(server), stdout=subprocess.PIPE, text=True) as make:
            assert make.stdout is not None
            task_id = make.stdout.readline().strip()
            stage("browser")
            tab = stage("open", url=f"{page.url}#{task_id}")
            stage("until", tab=tab, expression=f"{TEXT} === 'compiling\\n'")
            (tmp_path / "go").touch()
            stage("until", tab=tab, expression=f"{TEXT}.startsWith('compiling\\nü <b>\\n')")
            stage("until", tab=tab, expression="document.getElementById('status')?.textContent === 'failed'")
        assert make.returncode == 2
        assert text_of(server, task_id) == stage("run", tab=tab, expression=TEXT)


class ChatPage:
    """The chat's program, and what it says of its workers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{self.said()['port']}/"

    def said(self) -> Any:
        """The next line."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def chat(server: Server, public_port: int, words: int = 300) -> Iterator[ChatPage]:
    """``public_port``: where browsers find the push server."""
    known = environment(server, PUSH_PUBLIC_URL=f"http://127.0.0.1:{public_port}", CHAT_WORDS=str(words))
    process = subprocess.Popen(
        [sys.executable, HERE / "chat.py", "0"], env=known, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield ChatPage(process)
    finally:
        # Its workers belong to its group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def answer(question: str, words: int) -> str:
    """The text that is sent in the end."""
    asked = question.split()
    return "".join(f"{asked[number % len(asked)]}{number} " for number in range(words))


def ask(stage: Stage, tab: int, question: str) -> str:
    """Ask in a tab; return the task's id."""
    stage("until", tab=tab, expression="window.client?.getState().isConnected")
    expression = f"document.getElementById('question').value = {json.dumps(question)}, 0"
    stage("run", tab=tab, expression=expression)
    stage("run", tab=tab, expression="document.getElementById('ask').requestSubmit(), 0")
    stage("until", tab=tab, expression="location.hash.length > 1")
    task_id: str = stage("run", tab=tab, expression="location.hash.slice(1)")
    return task_id


def ends(stage: Stage, tab: int, status: str) -> None:
    stage("until", tab=tab, expression=f"document.getElementById('status')?.textContent === '{status}'", limit=240_000)


#: Counts frames, and how often the answer is drawn.
COUNTING = """
window.frames = 0; window.draws = 0;
(function frame() { window.frames += 1; requestAnimationFrame(frame); })();
addEventListener('DOMContentLoaded', () => new MutationObserver(() => window.draws += 1)
  .observe(document.getElementById('answer'), { childList: true }));
"""


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["chromium", "firefox"])
def test_an_answer_survives_cuts_reloads_and_a_second_tab(
    kind: str, stage: Stage, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(config=CONFIG)
    words = 1_200
    whole = answer("wie geht’s 漢字 😀", words)
    with chat(server, stage("proxy", target=server.port), words) as page:
        stage("browser", kind=kind)
        first = stage("open", url=page.url, before=COUNTING)
        task_id = ask(stage, first, "wie geht’s 漢字 😀")
        # In a window of its own: a tab that is hidden draws nothing.
        second = stage("open", url=f"{page.url}#{task_id}", before=COUNTING, window=True)
        stage("size", tab=second, width=375, height=740)
        seen = {first: "", second: ""}

        def look() -> None:
            for tab, before in seen.items():
                shown = stage("run", tab=tab, expression=TEXT)
                assert whole.startswith(shown), "what is shown is no beginning of what is sent"
                assert len(shown) >= len(before), "less is shown than before"
                seen[tab] = shown

        for cut in range(50):
            stage("turn", mode="cut")
            look()
            time.sleep(random.uniform(0, 0.1))
            stage("turn", mode="open")
            time.sleep(random.uniform(0, 0.4))
            look()
            if cut % 5 == 0:
                # Nothing is shown until it has asked again; then no less than before.
                tab = random.choice(list(seen))
                stage("reload", tab=tab)
                stage("until", tab=tab, expression=f"{TEXT}.length >= {len(seen[tab].encode('utf-16-le')) // 2}")
        for tab in seen:
            ends(stage, tab, "completed")
            assert stage("run", tab=tab, expression=TEXT) == whole
            frames, draws = stage("run", tab=tab, expression="[window.frames, window.draws]")
            assert 0 < draws <= frames + 1
            assert stage("run", tab=tab, expression="document.documentElement.scrollWidth <= innerWidth")
            (tmp_path / f"{kind}-{tab}.png").write_bytes(base64.b64decode(stage("screenshot", tab=tab)))
    assert text_of(server, task_id) == whole


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["chromium", "firefox"])
def test_a_killed_worker_is_followed_by_another_and_a_resumed_tab_stops_it(
    kind: str, stage: Stage, start_server: Callable[..., Server]
) -> None:
    server = start_server(config=CONFIG)
    with chat(server, server.port, 100) as page:
        stage("browser", kind=kind)
        tab = stage("open", url=page.url)
        task_id = ask(stage, tab, "why not")
        stage("until", tab=tab, expression=f"{TEXT}.length > 20")
        os.kill(page.said()["worker"], signal.SIGKILL)
        assert page.said()["status"] == -signal.SIGKILL
        ends(stage, tab, "completed")
        assert stage("run", tab=tab, expression=TEXT) == answer("why not", 100) == text_of(server, task_id)
        assert server.api("GET", f"/api/tasks/{task_id}").body["attempt"] == 3
        assert "worker" in page.said()
        assert page.said()["status"] == 0
    with chat(server, server.port, 100_000) as page:
        tab = stage("open", url=page.url)
        task_id = ask(stage, tab, "for ever")
        stage("until", tab=tab, expression=f"{TEXT}.length > 20")
        stage("reload", tab=tab)
        stage("until", tab=tab, expression=f"{TEXT}.length > 20")
        clicked = time.time() * 1000
        stage("run", tab=tab, expression="document.getElementById('stop').click(), 0")
        assert "worker" in page.said()
        assert page.said()["status"] == 1
        ends(stage, tab, "cancelled")
        state = server.api("GET", f"/api/tasks/{task_id}").body
        assert state["status"] == "cancelled"
        # The worker has seen it, and said so: that was taken at this moment.
        took = state["updatedAt"] - clicked
        print(f"{kind}: stopped within {took:.0f} ms")
        assert 0 < took < 1_000
