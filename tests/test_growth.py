"""No step grows faster than its text: what takes text from outside apart is registered, and measured at its worst."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pushserver
from pushserver.core.publication import too_deep
from pushserver.manhole.tracing import without_tokens
from tests.growth import PARSERS, Parser, acts, excess, registered_in_vain, repeat, unregistered

ROOT = Path(pushserver.__file__).parent


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_twice_the_text_takes_about_twice_as_long(name: str) -> None:
    parser = PARSERS[name]
    found = [seen for text in parser.texts if (seen := excess(parser, text)) is not None]
    assert found == []


def test_what_takes_text_apart_is_registered() -> None:
    assert unregistered(ROOT) == set()


def test_nothing_is_registered_that_is_gone() -> None:
    assert registered_in_vain(ROOT) == set()


def test_a_pattern_and_a_parser_of_the_doors_are_noticed() -> None:
    source = "import re\n_WORD = re.compile(r'a+')\ndef head(text: str) -> str:\n    return text.split(',')[0]\n"
    assert set(acts("web.new", source)) == {"web.new._WORD", "web.new.head"}
    # Away from the doors only patterns count.
    assert set(acts("server.new", source)) == {"server.new._WORD"}


@pytest.mark.parametrize("pattern", [rb'"(?:[^"\\]|\\.)*"', rb"eyJ[\w-]+\.[\w-]+\.[\w-]*"])
def test_what_grows_too_fast_is_found(pattern: bytes) -> None:
    slow = re.compile(pattern)
    text = repeat(b'\\"') if pattern.startswith(b'"') else repeat(b"eyJ")
    assert excess(Parser((), slow.findall, (text,)), text, (1024, 2048, 4096, 8192, 16384, 32768)) is not None


def test_a_message_whose_string_never_ends_is_read_once() -> None:
    assert not too_deep(b'{"type":"ping","data":' + b"[]" * 513 + b'"' + b'\\"' * 20_000)
    assert too_deep(b'["\\"",' * 513)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a eyJh.eyJz.sig b", "a <hidden> b"),
        ("xeyJh.eyJz.sig", "<hidden>"),
        ('"token":"eyJh.eyJz."', '"token":"<hidden>"'),
        ("www.example.com and eyJ alone", "www.example.com and eyJ alone"),
    ],
)
def test_tokens_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert without_tokens(text) == shown
