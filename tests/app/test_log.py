"""Lines of the log: as text and as JSON, from a level on, nothing raw in them; and a file that cannot be written."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from pushserver.app.log import Forwarder, Output, as_json, as_text, configure, output_of
from pushserver.config.sections import LogSection

EVIL = "x\r\nCRITICAL all is well \x1b]0;pwned\x07\x1b[2J\u2028\x9b"


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    configure(LogSection())
    yield
    configure(LogSection())


def event(format: str, level: LogLevel = LogLevel.info, **fields: Any) -> dict[str, Any]:
    """An event as Twisted's logger makes it."""
    made: list[dict[str, Any]] = []
    Logger("push.test", observer=made.append).emit(level, format, **fields)
    return made[0] | {"log_time": 1_700_000_000.25}


def test_a_line_of_text_has_its_fields_behind_it() -> None:
    line = as_text(event("signed in", event="sign_in", userId="42", code=None, connectionId="c1"))
    assert re.fullmatch(
        r"2023-11-1\S+ \[push\.test#info\] signed in \[event=sign_in connectionId=c1 userId=42\]\n", line
    )
    assert as_text(event("plain {n}", n=1)).endswith("] plain 1\n")


def test_a_line_of_json_is_one_object() -> None:
    line = as_json(event("signed {how}", LogLevel.warn, event="sign_in", how="in", userId="42", code=3500))
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warn",
        "logger": "push.test",
        "event": "sign_in",
        "userId": "42",
        "code": 3500,
        "message": "signed in",
    }
    assert json.loads(as_json(event("x")))["event"] == "log"


@pytest.mark.parametrize("write", [as_text, as_json])
def test_nothing_from_outside_is_raw(write: Any) -> None:
    class Named:
        def __str__(self) -> str:
            return EVIL

    line = write(event("{user} and {thing}", user=EVIL, thing=Named(), event="e", userId=EVIL, reason=Named()))
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "pwned" in line


@pytest.mark.parametrize("write", [as_text, as_json])
def test_a_traceback_has_lines_and_no_more(write: Any) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        failed = event("it failed", LogLevel.critical, log_failure=Failure())
    line = write(failed)
    assert "ValueError" in line
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", line)
    if write is as_text:
        assert all(one.startswith("\t") for one in line.splitlines()[1:])


def test_an_event_that_cannot_be_shown_is_a_line_all_the_same() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    assert as_text(event("{it}", it=Broken())).count("\n") == 1


def test_only_what_is_important_enough_is_written() -> None:
    file = io.StringIO()
    output = Output(file)
    output(event("one", LogLevel.debug))
    output(event("two"))
    configure(LogSection(level="error"))
    output(event("three", LogLevel.warn))
    configure(LogSection(level="debug", format="json"))
    output(event("four", LogLevel.debug))
    first, second = file.getvalue().splitlines()
    assert first.endswith("two")
    assert json.loads(second)["message"] == "four"


def test_a_full_disk_is_said_once_and_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    file = Full()
    output = Output(file)
    for _ in range(3):
        output(event("lost"))
    assert capfd.readouterr().err.count("No space left on device") == 1
    file.full = False
    output(event("kept"))
    first, second = file.getvalue().splitlines()
    assert "kept" in first
    assert "3 lines of the log were lost" in second


def test_a_reader_that_stops_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as writer:
        output = Output(writer)
        for number in range(2_000):
            output(event("{number} {filling}", number=number, filling="x" * 9_000))
        assert output.lost > 1_900
        os.set_blocking(reading, False)
        while reader.read(65_536):
            pass
        output(event("back"))
        lines = reader.read().decode().splitlines()
        assert [re.sub(r"^.*\] ", "", line)[:5] for line in lines if line] == ["back", *[lines[-1].split("] ")[1][:5]]]
        assert "lines of the log were lost" in lines[-1]


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    file = LogFile.fromFullPath(str(tmp_path / "push.log"))
    output = Output(file)
    output(event("before"))
    (tmp_path / "push.log").rename(tmp_path / "push.log.old")
    output.reopen()
    output(event("after"))
    file.close()
    assert "before" in (tmp_path / "push.log.old").read_text()
    assert "after" in (tmp_path / "push.log").read_text()


def test_a_worker_hands_its_lines_over_whole() -> None:
    sent: list[tuple[Any, ...]] = []
    forward = Forwarder(lambda *line: sent.append(line))
    forward(event("{who} left", LogLevel.warn, who="\x1b", event="left", userId="42"))
    forward(event("not this", LogLevel.debug))
    forward(event("again", event="left", repeats=True))
    assert sent == [
        ("warn", "push.test", "\\x1b left", "", {"event": "left", "userId": "42"}, False),
        ("info", "push.test", "again", "", {"event": "left"}, True),
    ]


def test_another_logger_of_twistd_stays(tmp_path: Path) -> None:
    assert output_of(None) is None
    assert output_of({"logger": "x.y"}) is None
    assert output_of({"syslog": True}) is None
    assert isinstance(output_of({"nodaemon": True, "logfile": "-"}), Output)
    assert isinstance(output_of({"logfile": str(tmp_path / "log")}), Output)
