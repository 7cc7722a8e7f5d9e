"""The quick starts of docs/centrifuge.md, as they stand there, against a server that is configured as it says."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import ROOT, Server, wait_until
from tests.sdks.programs import FOLDER, build_go, go_version, java_libraries
from tests.sdks.test_visits import SDKS, version_of

pytestmark = pytest.mark.full

PAGE = (ROOT / "docs" / "centrifuge.md").read_text()
SECTION = PAGE.partition("## Quick starts\n")[2].partition("\n## ")[0]
#: s that a program may take to say something, on a machine that is busy with other tests
DEADLINE = 60.0


def block(language: str) -> str:
    """Return the page's one program, or configuration, in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return found  # type: ignore[no-any-return]


def javascript(place: Path, program: str) -> list[str | Path]:
    # Libraries are looked for where Node is started. From its version 22 on it has WebSockets without being asked.
    ways = ["--experimental-websocket", "--no-warnings", "--input-type=module"]
    return ["node", *ways, "-e", f"const token = process.env.PUSH_TOKEN;\n{program}"]


def python(place: Path, program: str) -> list[str | Path]:
    return [sys.executable, "-W", "error", "-c", program]


def go(place: Path, program: str) -> list[str | Path]:
    source = place / "go"
    source.mkdir()
    (source / "main.go").write_text(program)
    for name in ("go.mod", "go.sum"):
        shutil.copy(FOLDER / "go" / name, source)
    return [build_go(source, place / "news")]


def java(place: Path, program: str) -> list[str | Path]:
    (place / "News.java").write_text(program)
    subprocess.run(["javac", "-d", place, "-cp", java_libraries(), place / "News.java"], check=True)
    return ["java", "-Xmx256m", "-cp", f"{place}:{java_libraries()}", "News"]


#: How a program is started, and what it prints of a publication and of a message of the inbox.
LANGUAGES: dict[str, tuple[Callable[[Path, str], list[str | Path]], str, str]] = {
    "js": (javascript, "{ n: 1 }", r"inbox user:ann \{ n: 2 \} \{ type: 'user_notification', messageId: '.+' \}"),
    "python": (python, "{'n': 1}", r"inbox user:ann \{'n': 2\}"),
    "go": (go, '{"n":1}', r'inbox user:ann \{"n":2\} map\[messageId:\S+ type:user_notification\]'),
    "java": (java, '{"n":1}', r'inbox user:ann \{"n":2\}'),
}


def test_there_is_one_for_each_language() -> None:
    languages = re.findall(r"```(\w+)\n", SECTION)
    # Those that were read alone are marked so.
    assert sorted(languages) == sorted([*LANGUAGES, "toml", "dart", "swift"])
    assert SECTION.count("as read: no test runs this") == 2


def test_the_page_names_the_versions() -> None:
    for sdk in SDKS:
        assert f"{sdk} {version_of(sdk)}" in PAGE.replace("\n", " ")
    assert f"gocent {go_version('github.com/centrifugal/gocent')}" in PAGE


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_quick_start_runs(start_server: Callable[..., Server], tmp_path: Path, language: str) -> None:
    make, publication, inbox = LANGUAGES[language]
    server = start_server(config=block("toml"))
    program = block(language).replace("ws://127.0.0.1:8080", server.ws_url.removesuffix("/ws"))
    command = make(tmp_path, program)
    running = subprocess.Popen(
        command,
        cwd=FOLDER / "node",
        env=os.environ | {"PUSH_TOKEN": server.token("ann")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    assert running.stdout is not None
    reading = threading.Thread(target=lambda: [lines.put(line.rstrip("\n")) for line in running.stdout or ()])
    reading.start()
    try:
        # It says nothing before something comes: whether it follows is asked of the server.
        follows = "/api/channels?pattern=news:a"
        wait_until(lambda: running.poll() is not None or server.api("GET", follows).body["channels"], DEADLINE)
        assert running.poll() is None, list(lines.queue)
        assert server.api("POST", "/api/publish", {"channel": "news:a", "data": {"n": 1}}).status == 200
        assert lines.get(timeout=DEADLINE) == publication
        assert server.api("POST", "/api/notify", {"userId": "ann", "data": {"n": 2}}).status in (200, 201)
        assert re.fullmatch(inbox, lines.get(timeout=DEADLINE))
    finally:
        running.kill()
        running.wait()
        reading.join()
    assert list(lines.queue) == []
