"""The transcripts of the operations guide: each was run, and still says what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from pushserver.manhole.verbs import ConsoleVerbs
from pushserver.pushctl.verbs import pushctl
from tests.harness import ROOT
from tools.transcripts import DOCUMENT, pieces, scene


def shape(answer: str) -> str:
    """The first line of an answer, without what differs from run to run."""
    first = answer.split("\n", 1)[0]
    return re.sub(r"\s+", " ", re.sub(r"\S*\d\S*", "#", first)).strip()


# A process for each line of `pushctl` takes its time, and its own tests hold what it says too.
@pytest.mark.parametrize("program", ["console", pytest.param("pushctl", marks=pytest.mark.full)])
def test_every_transcript_is_still_what_is_said(program: str, tmp_path: Path) -> None:
    every = [(verb, old) for verb, old in pieces(DOCUMENT.read_text()) if verb is not None]
    shown = [(verb, old) for verb, old in every if verb.startswith("pushctl ") == (program == "pushctl")]
    assert len(shown) > 15
    with scene(tmp_path) as stage:
        for verb, old in shown:
            answer = stage.answer(verb)
            if verb.startswith("trace("):
                assert '"token":"<hidden>"' in answer
                assert '"token":"<hidden>"' in old
            else:
                assert shape(answer) == shape(old), verb


def test_every_verb_is_in_the_guide() -> None:
    text = DOCUMENT.read_text()
    verbs = [name for name in vars(ConsoleVerbs) if not name.startswith("_") and name not in ("end", "watching")]
    assert len(verbs) == 26
    assert [name for name in verbs if f"{name}(" not in text] == []


def test_taking_a_document_to_pieces_loses_nothing() -> None:
    text = DOCUMENT.read_text()
    assert "".join(piece for _, piece in pieces(text)) == text


#: A command as it stands in a text: ``pushctl``, words, options.
COMMAND = re.compile(r"`pushctl ([^`]+)`")


def unknown(words: list[str]) -> str:
    """Return which of the words of a command of ``pushctl`` is no command or option of it; "" where all are."""
    found: click.Command = pushctl
    for word in words:
        if isinstance(found, click.Group) and word in found.commands:
            found = found.commands[word]
    if found is pushctl:
        return words[0]
    # Where the server is may stand before a command.
    options = {option for parameter in found.get_params(click.Context(found)) for option in parameter.opts}
    return next((word for word in words if word.startswith("-") and word not in options), "")


def test_every_command_that_the_documents_name_is_known() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "README.zh-CN.md"]
    named = {command for page in pages for command in COMMAND.findall(page.read_text())}
    assert len(named) > 30
    assert {command: word for command in named if (word := unknown(command.split()))} == {}
    assert unknown(["explain", "42", "--over"]) == "--over"
    assert unknown(["explode"]) == "explode"


def test_every_verb_and_file_of_the_table_of_tasks_is_there() -> None:
    table = DOCUMENT.read_text().partition("## Every task")[2].partition("## The console")[0]
    verbs = re.findall(r"`(\w+)\([^`]*\)`", table)
    assert len(verbs) > 5
    assert [name for name in verbs if not hasattr(ConsoleVerbs, name)] == []
    files = re.findall(r"\]\(\.\./(etc/[^)#]+)\)", table)
    assert len(files) > 8
    assert [name for name in files if not (ROOT / name).is_file()] == []
