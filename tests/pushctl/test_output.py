"""``pushctl task output``: what was written, byte for byte into a file, and harmless on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pushserver.client.messages import Push
from pushserver.pushctl import live, output
from pushserver.pushctl.calls import Unreachable
from pushserver.pushctl.verbs import pushctl

HERE = ("--url", "http://127.0.0.1:1", "--api-key", "k")
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *arguments: CliRunner().invoke(pushctl, [*HERE, *arguments], catch_exceptions=False)


def page(more: bool = False, **fields: Any) -> dict[str, Any]:
    return {"epoch": "e", "start": 0, "closed": False, "more": more, **fields}


def test_what_is_kept_is_printed_page_by_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = iter([page(True, text="one\x1b[31m\r\n", offset=10), page(text="two", offset=13)])
    asked: list[Any] = []

    def call(place: Any, method: str, path: str, **query: str) -> Any:
        asked.append((method, path, query))
        return next(pages)

    monkeypatch.setattr(output, "call", call)
    done = run("task", "output", "a/b", "--name", "log")
    # A file gets what was written.
    assert done.stdout_bytes == b"one\x1b[31m\r\ntwo"
    assert asked == [
        ("GET", "tasks/a%2Fb/output", {"name": "log"}),
        ("GET", "tasks/a%2Fb/output", {"name": "log", "offset": "10", "epoch": "e"}),
    ]


def test_items_are_lines_and_what_is_gone_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = page(items=[{"n": 3}, "x"], offset=5, start=3, trimmed=True)
    monkeypatch.setattr(output, "call", lambda *_, **__: told)
    done = run("task", "output", "t")
    assert (done.stdout, done.stderr) == ('{"n":3}\n"x"\n', "warning: what lay before 3 is gone\n")
    assert json.loads(run("--json", "task", "output", "t").stdout)["items"] == [{"n": 3}, "x"]


def test_following_ends_with_the_end_and_repeats_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def push(text: str, offset: int, epoch: str = "e", **data: Any) -> bytes:
        told = {"text": text, **data}
        message = Push("output", "output:main/t", told, message_id=f"{epoch}:{offset}", offset=offset, epoch=epoch)
        return json.dumps({"messageId": message.message_id, "type": "output", "channel": message.channel,
                           "data": told, "offset": offset, "epoch": epoch}).encode()  # fmt: skip

    streams = iter(
        [
            [b'{"type": "connected", "data": {}}', push("a", 1, reset=True, start=0), push("b", 2)],
            # Opened again, it tells all from the beginning.
            [push("abc", 3, reset=True, start=0), push("new", 3, "e2", reset=True, start=0)],
            [push("new", 3, "e2", reset=True, start=0), push("!", 4, "e2", closed=True), push("?", 5, "e2")],
        ]
    )

    def stream(place: Any, channels: Any) -> Iterator[bytes]:
        assert channels == ("output:main/t",)
        yield from next(streams)
        raise Unreachable("it is gone")

    monkeypatch.setattr(live, "stream", stream)
    monkeypatch.setattr(live, "RETURN", 0)
    done = run("task", "output", "t", "--follow")
    assert (done.stdout, done.exit_code) == ("abcnew!", 0)
    again = "warning: it is gone; it goes on from there\n"
    assert done.stderr == f"{again}warning: the task began anew\n{again}"


def test_a_terminal_is_shown_no_control_characters() -> None:
    written = "50 %\r100 %\r\n\x1b[2J\tdone\x00\x9b"
    assert output.harmless(written) == "50 %\n100 %\n·[2J\tdone··"
