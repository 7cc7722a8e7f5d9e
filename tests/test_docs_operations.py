"""The transcripts of the operations guide: each was run, and still says what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pushserver.manhole.verbs import ConsoleVerbs
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
